"""Class J, and what of class K the guard of answers decides: nothing that went out with a request comes back to the agent.

The oracle I1 looks for every secret in all that the agents heard, in every case; here the origins try to make it fail. The
outcomes are those of docs/guard.md.
"""

import base64
import gzip
import json
import random
import secrets
import threading
import time
import zlib

from agent import Answer, Closed, Refused
from annex import Annex
from cases import case, expect, head
from house import MIB, fail_unless

from canaries import forms  # house.py knows where it is

ECHO, RO, MAL = "echo.test", "api.ro.test", "mal.test"


def token(record):
    """What came, without its scheme."""
    return record.values("authorization")[0].split(" ", 1)[1]


def said(make, *fields, status=200):
    """An origin that answers with `make(record)`."""
    return lambda record, conversation: (status, list(fields), make(record))


def chunked(pieces, fields="", trailers=""):
    """An origin that writes these pieces one by one, each as a chunk of its own: functions of the record."""
    def behave(record, conversation):
        conversation.send(f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{fields.format(token(record))}\r\n".encode())
        for piece in pieces(record):
            if piece:
                conversation.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        conversation.send(f"0\r\n{trailers.format(token(record))}\r\n".encode())
    return behave


def absent(house, *texts):
    """The token of echo.test is in none of them, in no form."""
    for text in texts:
        text = text if isinstance(text, bytes) else str(text).encode("latin-1")
        found = [form for form in forms(house.secrets["ECHO_TOKEN"].encode()) if form in text]
        fail_unless(not found, "the token came back in", text[:200])


def whole(house, answer, length=None):
    expect(answer, 200)
    fail_unless(answer.complete, "the answer was cut")
    fail_unless(length in (None, len(answer.body)), len(answer.body), "bytes instead of", length)
    absent(house, answer.body, answer.fields, answer.trailers)
    return answer


@case("J01", "an API that tells what it was sent, in JSON")
def run(house, mark):
    house.origins[ECHO].behave = said(lambda r: json.dumps({"headers": dict(r.fields)}), ("content-type", "application/json"))
    for _ in range(2):
        heard = json.loads(whole(house, house.A.get(ECHO, "/x")).body)["headers"]
        fail_unless(heard["authorization"].startswith("Bearer ph-echo-"), "instead of the placeholder:", heard["authorization"])
    with house.A.h2(ECHO) as h2:
        heard = json.loads(whole(house, h2.get(ECHO, "/x")).body)["headers"]
        fail_unless(heard["authorization"].startswith("Bearer ph-echo-"), "instead of the placeholder:", heard["authorization"])
    events = [e for e in mark.events() if e["event"] == "credential.reflected"]
    fail_unless(len(events) == 3, len(events), "events for three answers")


@case("J02", "in fields, Location, cookies, challenges, trailers, the reason and an interim answer")
def run(house, mark):
    origin = house.origins[ECHO]
    for name in ("x-debug", "location", "set-cookie", "www-authenticate", "link", "etag", "server", "content-disposition", "warning"):
        for form in ("{}", "https://echo.test/?t={}", 'x="{}"; Path=/'):
            origin.behave = lambda r, c, name=name, form=form: (200, [(name, form.format(token(r)))], "text")
            answer = whole(house, house.A.get(ECHO, "/x"))
            kept = name not in ("set-cookie", "www-authenticate")
            fail_unless(bool(answer.values(name)) == kept, name, "became", answer.values(name))
    for status in (302, 403, 500):
        origin.behave = lambda r, c, status=status: (status, [("location", "/x?" + token(r)), ("www-authenticate", "Bearer realm=" + token(r))], token(r))
        answer = expect(house.A.get(ECHO, "/x"), status)
        absent(house, answer.fields, answer.body)
    origin.behave = lambda r, c: (401, [("www-authenticate", "Bearer realm=" + token(r))], token(r))
    absent(house, expect(house.A.get(ECHO, "/x"), (502, "upstream-unauthorized")).body)
    origin.behave = chunked(lambda r: [b"text"], "Trailer: x-debug\r\n", "x-debug: {}\r\n")
    answer = whole(house, house.A.get(ECHO, "/x", "TE: trailers\r\nConnection: te\r\n"))
    with house.A.h2(ECHO) as h2:
        answer = whole(house, h2.get(ECHO, "/x", [("te", "trailers")]))
        fail_unless("x-debug" in dict(answer.trailers), "the trailer is gone:", answer.trailers)

    def reason(record, conversation):
        conversation.send(f"HTTP/1.1 103 {token(record)}\r\nLink: <{token(record)}>\r\n\r\n"
                          f"HTTP/1.1 200 {token(record)}\r\nContent-Length: 2\r\n\r\nok".encode())
    origin.behave = reason
    whole(house, house.A.get(ECHO, "/x"), 2)


def stored_brotli(text):
    """RFC 7932 §9: a meta-block that is not compressed, and an empty last one."""
    return (((len(text) - 1) << 4) | 1 << 20).to_bytes(3, "little") + text + b"\x03"


def stored_zstd(text):
    """RFC 8878 §3.1: one frame with its size, one raw block that is the last."""
    return b"\x28\xb5\x2f\xfd\x60" + (len(text) - 256).to_bytes(2, "little") + (len(text) << 3 | 1).to_bytes(3, "little") + text


CODINGS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress, "br": stored_brotli, "zstd": stored_zstd,
           "gzip, gzip": lambda text: gzip.compress(gzip.compress(text)), "deflate, br": lambda text: stored_brotli(zlib.compress(text))}


@case("J03", "in every content coding, in layers, and in pieces")
def run(house, mark):
    for coding, pack in CODINGS.items():
        plain = lambda r: (b"filler " * 50 + token(r).encode() + b" filler" * 50)
        body = lambda r: pack(plain(r))
        house.origins[ECHO].behave = said(body, ("content-encoding", coding), ("etag", '"strong"'))
        length = 700 + len(house.secrets["ECHO_TOKEN"])
        answer = whole(house, house.A.get(ECHO, "/x", "Accept-Encoding: gzip, deflate, br, zstd\r\n"), length)
        fail_unless(not answer.values("content-encoding") and answer.values("etag") == ['W/"strong"'], answer.fields)
        fail_unless(answer.body.startswith(b"filler " * 50) and answer.body.endswith(b" filler" * 50), "other bytes came")
        house.origins[ECHO].behave = chunked(lambda r: [bytes([b]) for b in body(r)], f"Content-Encoding: {coding}\r\n")
        whole(house, house.A.get(ECHO, "/x"), length)
    asked = {value for record in mark.at(ECHO) for value in record.values("accept-encoding")}
    fail_unless(not any("zstd" in value for value in asked), "zstd was asked for:", asked)


@case("J04", "cut at every offset: chunks, segments, events")
def run(house, mark):
    length = len(house.secrets["ECHO_TOKEN"])
    with house.A.tunnel(ECHO) as stream, house.A.h2(ECHO) as h2:
        for at in range(length + 1):
            def cut(record):
                text = b"begin " + token(record).encode() + b" end"
                return [text[:6 + at], text[6 + at:]]
            house.origins[ECHO].behave = chunked(cut)
            stream.send(head(ECHO, f"GET /cut/{at} HTTP/1.1"))
            answer = whole(house, stream.answer(), length + 10)
            # The first three bytes of what may become a token go at once, for what they are worth.
            fail_unless(answer.body.startswith(b"begin ") and answer.body.endswith(b" end"), answer.body)
            fail_unless(house.secrets["ECHO_TOKEN"][-16:].encode() not in answer.body, "its end came back:", answer.body)
            whole(house, h2.get(ECHO, f"/cut/{at}"), length + 10)
        # Every byte by itself, and as segments of a body that has a length.
        house.origins[ECHO].behave = chunked(lambda r: [bytes([b]) for b in b"begin " + token(r).encode() + b" end"])
        stream.send(head(ECHO, "GET /bytes HTTP/1.1"))
        whole(house, stream.answer(), length + 10)

        def segments(record, conversation):
            conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (length + 10))
            for byte in b"begin " + token(record).encode() + b" end":
                conversation.send(bytes([byte]))
        house.origins[ECHO].behave = segments
        stream.send(head(ECHO, "GET /segments HTTP/1.1"))
        whole(house, stream.answer(), length + 10)


@case("J04", "cut at every offset: DATA frames of an API that speaks HTTP/2", private=True)
def run(house, mark):
    key, name = "frames-" + secrets.token_urlsafe(24), "frames.wild.test"
    house.open_origin(name, context=house.ca.server(house.dir, [name], alpn=("h2",)))
    annex = Annex(house, {"frames": f"{{hosts: [{name}], upstream: {{<CA>}}, credential: {{bearer: {{env: FRAMES}}}}, rules: [{{allow: \"* /**\"}}]}}"},
                  environment={"FRAMES": key}, owners=[(key, name)])
    house.credentialed.add(name)
    with annex.agents["A"].h2(name) as h2:
        for at in range(len(key) + 1):
            house.origins[name].behave = lambda r, c: (200, [], [b"begin " + token(r).encode()[:at], token(r).encode()[at:] + b" end"])
            answer = expect(h2.get(name, f"/cut/{at}"), 200)
            fail_unless(answer.complete and len(answer.body) == len(key) + 10 and key[-16:].encode() not in answer.body, answer.body)


@case("J05", "written in every way that the documentation names")
def run(house, mark):
    b64 = lambda data: base64.b64encode(data).decode()
    url = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    each = lambda form: lambda t: "".join(form.format(ord(c)) for c in t)
    ways = {"base64": lambda t: b64(t.encode()), "base64url": lambda t: url(t.encode()), "hex": lambda t: t.encode().hex(),
            "HEX": lambda t: t.encode().hex().upper(), "percent": each("%{:02X}"), "small percent": each("%{:02x}"), "json": each("\\u{:04x}"),
            "html": each("&#{};"), "html in hex": each("&#x{:x};"), "json of base64": lambda t: each("\\u{:04x}")(b64(t.encode())),
            "percent of percent": lambda t: each("%25{:02X}")(t), "base64 of hex": lambda t: b64(t.encode().hex().encode()),
            "hex of base64": lambda t: b64(t.encode()).encode().hex(),
            **{f"base64 behind {n}": lambda t, n=n: b64(b"x" * n + b"Bearer " + t.encode()) for n in range(3)},
            **{f"base64url behind {n}": lambda t, n=n: url(b"x" * n + b"Bearer " + t.encode()) for n in range(3)}}
    with house.A.tunnel(ECHO) as stream, house.A.h2(ECHO) as h2:
        for name, way in ways.items():
            house.origins[ECHO].behave = lambda r, c, way=way: (200, [("x-debug", way(token(r)))], f"it is {way(token(r))}, is it")
            text = way(house.secrets["ECHO_TOKEN"]).encode()
            stream.send(head(ECHO, "GET /way HTTP/1.1"))
            for answer in (stream.answer(), h2.get(ECHO, "/way")):
                whole(house, answer, len(text) + 13)
                fail_unless(text not in answer.body and text not in str(answer.fields).encode(), name, "came back")


@case("J06", "64 MB with the token after 6 MB and after 63.9 MB", grows=16 * MIB)
def run(house, mark):
    size, places = 64 * MIB, (6_000_000, 63_900_000)

    def behave(record, conversation):
        text = token(record).encode()
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        at = 0
        for place in places:
            for begin in range(at, place, MIB):
                conversation.send(bytes(min(MIB, place - begin)))
            conversation.send(text)
            at = place + len(text)
        conversation.send(bytes(size - at))
    house.origins[ECHO].behave = behave
    with house.A.tunnel(ECHO) as stream:
        stream.send(head(ECHO, "GET /long HTTP/1.1"))
        fail_unless(stream.line().startswith(b"HTTP/1.1 200"), "it was refused")
        fields = stream.fields()
        # Not through `Stream.more`, which keeps all that was ever heard.
        body = bytearray(stream.buffer)
        while len(body) < size and (piece := stream.stream.recv(1 << 20)):
            body += piece
        stream.answers.append(Answer(200, fields))
    fail_unless(len(body) == size, len(body), "bytes came")
    for place in places:
        absent(house, bytes(body[place - 200:place + 200]))
        fail_unless(body[place:place + 8] == b"ph-echo-", "instead of the placeholder:", bytes(body[place:place + 40]))
    fail_unless(house.secrets["ECHO_TOKEN"].encode() not in body, "the token came back")


def broken_off(house):
    """What came of an answer that was broken off: nothing, if that was at its first piece."""
    try:
        answer = house.A.get(ECHO, "/x")
    except Closed:
        return b""
    fail_unless(not answer.complete or answer.code == "response-unscannable", "it ended well with", len(answer.body), "bytes")
    return answer.body


@case("J07", "what cannot be searched is refused", lines_wanted=None)
def run(house, mark):
    unscannable = (502, "response-unscannable")
    for coding in ("x-foo", "aes128gcm", "compress", "gzip, x-foo", "dcb", "gzip, gzip, gzip, gzip"):
        house.origins[ECHO].behave = said(lambda r: "bytes", ("content-encoding", coding))
        expect(house.A.get(ECHO, "/x"), unscannable)
    for status, field in ((206, ("content-range", "bytes 0-4/9")), (206, ("content-type", "multipart/byteranges; boundary=x")),
                          (200, ("content-type", "multipart/byteranges; boundary=x")), (226, ("im", "feed")), (200, ("grpc-encoding", "gzip"))):
        house.origins[ECHO].behave = said(lambda r: "bytes", field, status=status)
        expect(house.A.get(ECHO, "/x", "Range: bytes=0-4\r\n"), unscannable)
    fail_unless(not any(r.values("range") for r in mark.at(ECHO)), "a part was asked for")
    # Not what it says to be.
    house.origins[ECHO].behave = said(lambda r: b"\x1f\x8b\x08\0" + token(r).encode(), ("content-encoding", "gzip"))
    absent(house, broken_off(house))


@case("J08", "a proof that comes back, and one that is used again")
def run(house, mark):
    proofs = []

    def behave(record, conversation):
        refused = house.ro.judge(record)
        if refused:
            return 401, [], ""
        proof = record.values("dpop")[0]
        proofs.append(record)
        return 200, [("x-proof", proof), ("dpop", proof)], json.dumps({"dpop": proof, "authorization": record.values("authorization")})
    house.origins[RO].behave = behave
    with house.A.h2(RO) as h2:
        for answer in (house.A.get(RO, "/v1/items/1"), h2.get(RO, "/v1/items/1")):
            expect(answer, 200)
            record = proofs[-1]
            text = str(answer.fields).encode() + answer.body
            for value in (record.values("dpop")[0], token(record)):
                fail_unless(value.encode() not in text, "it came back:", text[:300])
            # Whoever had one all the same could do nothing with it.
            fail_unless(house.ro.judge(record), "the API takes a proof twice")


@case("J09", "100 bodies that only look like credentials, events, bytes and parts keep every byte")
def run(house, mark):
    rng = random.Random(9)
    real = house.secrets["ECHO_TOKEN"]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    word = lambda n: "".join(rng.choice(letters) for _ in range(n))
    kinds = [lambda: f"eyJhbGciOiJFUzI1NiJ9.{word(200)}.{word(86)}", lambda: f"sk-{word(40)}", lambda: rng.randbytes(64).hex(),
             lambda: base64.b64encode(rng.randbytes(99)).decode(), lambda: real[:-1] + ("y" if real[-1] == "x" else "x"), lambda: real[:-1],
             lambda: base64.b64encode(real[:-6].encode()).decode(), lambda: "".join(f"\\u{ord(c):04x}%2F&amp;" for c in word(20)),
             lambda: f"data: {json.dumps({'delta': word(9)})}\n\n", lambda: rng.randbytes(300)]
    with house.A.tunnel(ECHO) as stream:
        for number in range(100):
            kind = kinds[number % len(kinds)]
            pieces = [p if isinstance(p, bytes) else p.encode() for p in (kind() for _ in range(1 + number // 10))]
            body = b" ".join(pieces)
            fail_unless(real.encode() not in body, "a benign body holds the token")
            cut = rng.randrange(len(body))
            plain = (200, [("content-type", "text/event-stream"), ("etag", '"x"')], body)
            house.origins[ECHO].behave = [lambda r, c: plain, chunked(lambda r: [body[:cut], body[cut:]]),
                                          lambda r, c: (200, [("content-encoding", "gzip")], gzip.compress(body))][number % 3]
            stream.send(head(ECHO, f"GET /benign/{number} HTTP/1.1"))
            answer = expect(stream.answer(), 200)
            fail_unless(answer.body == body and answer.complete, number, "became", answer.body[:100], "instead of", body[:100])
            fail_unless(number % 3 or answer.values("etag") == ['"x"'], "fields changed:", answer.fields)
    # Where no credential goes out, parts and codings are the agent's own business.
    packed = gzip.compress(b"a part")
    house.origins[MAL].behave = lambda r, c: (206, [("content-range", "bytes 0-9/99"), ("content-encoding", "x-foo")], packed)
    answer = expect(house.A.get(MAL, "/x", "Range: bytes=0-9\r\n"), 206)
    fail_unless(answer.body == packed and answer.values("content-encoding") == ["x-foo"], answer.fields)
    fail_unless(mark.at(MAL)[0].values("range") == ["bytes=0-9"], "the part was not asked for")
    fail_unless(not [e for e in mark.events() if e["event"] == "credential.reflected"], "something was found")


@case("J10", "an event leaves before the next one comes, also where it ends like a credential begins")
def run(house, mark):
    heard = threading.Event()

    def behave(record, conversation):
        begin = token(record)[:-1].encode()
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b"data: one\n\n", b"data: " + begin, b"!\n\n"):
            heard.clear()
            conversation.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            # Nothing more before the agent has it.
            if not heard.wait(10):
                return
        conversation.send(b"0\r\n\r\n")
    house.origins[ECHO].behave = behave
    with house.A.tunnel(ECHO) as stream:
        began = time.monotonic()
        stream.send(head(ECHO, "GET /events HTTP/1.1"))
        fail_unless(b" 200 " in stream.line(), "it was refused")
        answer = Answer(200, stream.fields())
        stream.answers.append(answer)

        def read(until):
            while not answer.body.startswith(until):
                size = int(stream.line(), 16)
                fail_unless(size, "the stream ended")
                answer.body += stream.exactly(size + 2)[0][:-2]
            heard.set()
        read(b"data: one\n\n")
        # Of the second event, what cannot be the token has left; the rest waits.
        read(b"data: one\n\ndata: ")
        read(b"data: one\n\ndata: " + house.secrets["ECHO_TOKEN"][:-1].encode() + b"!\n\n")
        fail_unless(stream.line() == b"0" and not stream.fields(), "no end")
    fail_unless(answer.body == b"data: one\n\ndata: " + house.secrets["ECHO_TOKEN"][:-1].encode() + b"!\n\n", answer.body)
    fail_unless(time.monotonic() - began < 10, "an event was held back")


@case("R05", "a small body that becomes 256 MiB is broken off, and memory stays", lines_wanted=None, grows=8 * MIB)
def run(house, mark):
    for coding, layers in (("gzip", 1), ("deflate", 1), ("gzip, gzip", 2)):
        packer = zlib.compressobj(9, wbits=15 if coding == "deflate" else 31)
        packed = b"".join([*(packer.compress(bytes(MIB)) for _ in range(256)), packer.flush()])
        packed = gzip.compress(packed) if layers == 2 else packed
        house.origins[ECHO].behave = said(lambda r: packed, ("content-encoding", coding))
        came = len(broken_off(house))
        fail_unless(came < 16 * MIB, came, "bytes came")


@case("K03", "cookies of a service with a credential stay away from the agent, and with us")
def run(house, mark):
    def sent_next():
        house.origins[ECHO].behave = said(lambda r: "ok")
        expect(house.A.get(ECHO, "/x"), 200)
        return mark.at(ECHO)[-1].values("cookie")
    for cookie in ("session=abc; Path=/; HttpOnly", "a=b", "__Host-s=x; Secure; Path=/"):
        for host, kept in ((ECHO, False), (MAL, True)):
            house.origins[host].behave = lambda r, c, cookie=cookie: (200, [("set-cookie", cookie), ("set-cookie", "second=1"), ("set-cookie2", cookie)], "ok")
            answer = expect(house.A.get(host, "/x"), 200)
            wanted = [cookie, "second=1"] if kept else []
            fail_unless(answer.values("set-cookie") == wanted, host, answer.values("set-cookie"))
    fail_unless(sent_next() == ["session=abc; second=1; a=b; __Host-s=x"], mark.at(ECHO)[-1].values("cookie"))
    # Nor in trailers, where a reader might take it for a field.
    house.origins[ECHO].behave = chunked(lambda r: [b"text"], "Trailer: set-cookie\r\n", "set-cookie: session=abc\r\n")
    with house.A.h2(ECHO) as h2:
        answer = expect(h2.get(ECHO, "/x", [("te", "trailers")]), 200)
        fail_unless(not answer.trailers, answer.trailers)
    # What the host may not say is not kept, and what it takes back is gone.
    strange = ["b=1; Domain=test", "c=1; Domain=mal.test", "d=1; Domain=x.echo.test", "__Host-e=1; Path=/", "f=1; Path=/other"]
    away = [f"{name}=; Max-Age=0; Path=/; Secure" for name in ("session", "second", "a", "__Host-s")]
    for lines in (strange, away):
        house.origins[ECHO].behave = lambda r, c, lines=lines: (200, [("set-cookie", line) for line in lines], "ok")
        fail_unless(not expect(house.A.get(ECHO, "/x"), 200).values("set-cookie"), "a cookie came")
    fail_unless(sent_next() == [], mark.at(ECHO)[-1].values("cookie"))


@case("I07", "a live secret goes nowhere where requests are searched", unheard=True)
def run(house, mark):
    host = "dlp.wild.test"
    expect(house.A.get(RO, "/v1/items/1"), 200)
    bound = token(mark.at(RO)[-1])
    refused = (403, "secret-in-request")
    for secret in (bound, house.secrets["ECHO_TOKEN"], house.secrets["GQL_TOKEN"]):
        raw = secret.encode()
        written = [secret, base64.b64encode(raw).decode(), base64.b64encode(b"user:" + raw).decode(), base64.urlsafe_b64encode(b"ab" + raw).decode(), "".join(f"%{b:02x}" for b in raw)]
        for text in written:
            small, large = json.dumps({"note": text}), "x" * 200000 + text + "y" * 1000
            for body in (small, large):
                expect(house.A.ask(host, head(host, "POST /x HTTP/1.1", f"Content-Length: {len(body)}", body=body), "POST"), refused)
            expect(house.A.get(host, "/x", f"X-Note: {text}\r\n"), refused)
            expect(house.A.get(host, f"/x?q={text}"), refused)
            expect(house.A.get(host, f"/x/{text.replace('/', '_')}/y"), refused)
        with house.A.h2(host) as h2:
            expect(h2.get(host, f"/x?q={secret}"), refused)
            expect(h2.get(host, "/x", [("x-note", secret)]), refused)
    places = {e["place"] for e in mark.events() if e.get("event") == "secret.in_request"}
    fail_unless(places <= {"body", "header", "path", "query"} and "body" in places, places)
    # What is no secret passes: a placeholder, and the token with another last letter.
    prompt = f"{house.placeholders['A']['ECHO_PH']} {bound[:-1]}! {base64.b64encode(bound[:-1].encode()).decode()}" * 100
    expect(house.A.ask(host, head(host, "POST /x HTTP/1.1", f"Content-Length: {len(prompt)}", body=prompt), "POST"), 200)
    fail_unless(mark.at("wild.test")[-1].body == prompt.encode(), "another body came")


@case("K04", "cookies of the agent stay away from a service with a credential")
def run(house, mark):
    with house.A.h2(ECHO) as h2:
        for host in (ECHO, MAL):
            expect(house.A.get(host, "/x", "Cookie: session=abc\r\nCookie: a=b\r\n"), 200)
        expect(h2.get(ECHO, "/x", [("cookie", "session=abc"), ("cookie", "a=b")]), 200)
    fail_unless(not any(r.values("cookie") for r in mark.at(ECHO)), "a cookie went out")
    fail_unless(any("session=abc" in value for value in mark.at(MAL)[0].values("cookie")), "no cookie where none is ours")


@case("K10", "answers of token endpoints are for nobody")
def run(house, mark):
    withheld, kind = (502, "token-response-withheld"), ("content-type", "application/json")
    given = [{"access_token": "eyJ-x", "token_type": "Bearer"}, {"refresh_token": "r" * 40}, {"id_token": "eyJ-i", "expires_in": 1},
             {"access_token": "a", "refresh_token": "r", "token_type": "DPoP", "expires_in": 300},
             {"device_code": "d", "user_code": "u", "verification_uri": "https://as.test/"}]
    for number, document in enumerate(given):
        text = json.dumps(document, indent=number % 2 or None).encode()
        for coding, pack in ((None, bytes), ("gzip", gzip.compress), ("deflate", zlib.compress)):
            fields = [kind, ("content-encoding", coding)] if coding else [("content-type", "application/json; charset=utf-8")]
            house.origins[ECHO].behave = said(lambda r: pack(text), *fields)
            answer = house.A.ask(ECHO, head(ECHO, "POST /oauth/token HTTP/1.1", "Content-Length: 2", body="a="), "POST")
            expect(answer, withheld)
            fail_unless(text not in answer.body, "it came")
    # Texts about tokens, and what no credential was sent for, pass.
    for document in ({"error": "invalid_grant"}, {"docs": {"access_token": "a", "token_type": "b"}}, {"access_token": "see the manual"}):
        house.origins[ECHO].behave = said(lambda r: json.dumps(document), kind)
        fail_unless(json.loads(expect(house.A.get(ECHO, "/x"), 200).body) == document, "other bytes came")
    house.origins[MAL].behave = said(lambda r: json.dumps(given[0]), kind)
    expect(house.A.get(MAL, "/x"), 200)
    try:
        house.A.tunnel("as.test")
        fail_unless(False, "an agent reached the issuer")
    except Refused as refused:
        expect(refused.answer, (403, "destination-denied"))
