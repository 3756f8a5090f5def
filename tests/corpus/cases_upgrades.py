"""Class L, upgrades: a 101 is taken only where it was asked for and answers what was asked; every other protocol is declined.

Behind a 101 nobody polices what is said. So whoever gets one through that we did not ask for has a tunnel with our
credential at its head.
"""

import base64
import hashlib
import os
import time

from agent import Closed
from annex import Annex
from cases import case, expect
from cases_framing import H11, MAL, PATH, RW, Watch, hosts, raw, says, sent, then_next
from house import fail_unless

WS = "ws.test"
BROKEN = (502, "upstream-protocol-error")
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SWITCH = "HTTP/1.1 101 Switching Protocols"


def handshake(*more, line="GET /socket HTTP/1.1", key=None, leave=()):
    """A WebSocket handshake and its key."""
    key = key or base64.b64encode(os.urandom(16)).decode()
    fields = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
    return raw(*[f for f in fields if f.split(":")[0] not in leave], *more, line=line), key


def accept(key):
    return base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()


def speaks(*fields, line=SWITCH, right=("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: <ACCEPT>"), said=b"\x81\x05hello"):
    """An origin that answers a handshake with these fields; then it speaks, and echoes what it hears, unmasked as servers do."""
    heard = bytearray()

    def behave(record, conversation):
        key = (record.values("sec-websocket-key") or [""])[0]
        text = "\r\n".join([line, *right, *fields, "", ""]).replace("<ACCEPT>", accept(key))
        conversation.send(text.encode("latin-1") + said)
        conversation.stream.settimeout(5)
        while data := conversation.stream.recv(65536):
            heard.extend(data)
            conversation.send(data.replace(b"\x81\x82\0\0\0\0", b"\x81\x02"))
        raise ConnectionError
    behave.heard = heard
    return behave


# --- L02

@case("L02", "a 101 to a plain request")
def run(house, mark):
    answers_ = [[], ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="], ["Upgrade: tcp", "Connection: upgrade"],
                ["Upgrade: TLS/1.0", "Connection: Upgrade"], ["Content-Length: 0"]]
    for host in (MAL, H11):
        for method in ("GET", "HEAD", "POST", "OPTIONS"):
            for fields in answers_:
                # Where a tunnel opened, this is what the agent could say to the upstream with our credential behind it.
                house.origins[host].behave = says("\r\n".join([SWITCH, *fields, "", ""]) + "tunnel")
                watch = Watch(house, host)
                first, _, records = then_next(house, host, method)
                fail_unless(first.status == 502 and (method == "HEAD" or first.code == BROKEN[1]), host, method, fields, first.status, first.body)
                fail_unless(101 not in first.informational and b"tunnel" not in first.body, first)
                fail_unless(records[0].connection != records[-1].connection, host, method, fields, "left its connection in use")
                fail_unless(len(watch.settled(2)) == 2, watch.records)


@case("L02", "a 101 to a plain request over HTTP/2")
def run(house, mark):
    house.origins[H11].behave = says(SWITCH + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\ntunnel")
    with house.A.h2(H11) as connection:
        expect(connection.get(H11, f"{PATH}/odd"), BROKEN)
        expect(connection.get(H11, f"{PATH}/next"), 200)


@case("L02", "a 101 in place of an interim answer, and behind one")
def run(house, mark):
    for host in (MAL, H11):
        for before in ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"):
            house.origins[host].behave = says(before + SWITCH + "\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ntunnel")
            first, _, _ = then_next(house, host)
            expect(first, BROKEN)


# --- L03

@case("L03", "a handshake that is answered as it should be")
def run(house, mark):
    # The other side of the rule.
    for fields, more in [([], []), (["Sec-WebSocket-Protocol: chat"], ["Sec-WebSocket-Protocol: chat, superchat"]), (["sec-websocket-protocol: superchat"], ["Sec-WebSocket-Protocol: chat, superchat"])]:
        house.origins[WS].behave = speaks(*fields)
        watch = Watch(house, WS)
        request, key = handshake(*more)
        with house.A.tunnel(WS) as stream:
            sent(stream, WS, request)
            answer = expect(stream.answer(), 101)
            fail_unless(answer.values("sec-websocket-accept") == [accept(key)] and answer.values("upgrade") == ["websocket"], answer.fields)
            fail_unless(stream.exactly(7) == (b"\x81\x05hello", True), "the first bytes")
            stream.send(b"\x81\x82\0\0\0\0hi")
            fail_unless(stream.exactly(4) == (b"\x81\x02hi", True), "the echo")
        (record,) = watch.settled(1)
        fail_unless(record.values("sec-websocket-key") == [key] and not record.values("sec-websocket-extensions"), record.fields)


def wrong_answers():
    """`(what the agent offers, what the upstream answers with, in place of which right fields)`."""
    up, conn, right = "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Accept: <ACCEPT>"
    other = "Sec-WebSocket-Accept: " + accept("dGhlIHNhbXBsZSBub25jZQ==")
    offer = "Sec-WebSocket-Protocol: chat"
    return [
        ([], (up, conn, other)), ([], (up, conn)), ([], (up, conn, "Sec-WebSocket-Accept:")), ([], (up, conn, right, other)), ([], (up, conn, other, right)),
        ([], (up, conn, right, right)), ([], (up, conn, right + ", x")), ([], (up, conn, right + "=")), ([], (up, conn, right[:-1] + "\xad>")),
        ([], (conn, right)), (["X: y"], ("Upgrade: foo", conn, right)), ([], ("Upgrade: websocket, foo", conn, right)), ([], ("Upgrade: h2c", conn, right)),
        ([], (up, conn, right, "Sec-WebSocket-Protocol: chat")), ([offer], (up, conn, right, "Sec-WebSocket-Protocol: superchat")),
        ([offer], (up, conn, right, "Sec-WebSocket-Protocol: chat, superchat")), ([offer], (up, conn, right, offer, offer)),
        ([offer], (up, conn, right, offer, "Sec-WebSocket-Protocol: other")),
        ([], (up, conn, right, "Sec-WebSocket-Extensions: permessage-deflate")),
        # We offer none, whatever the agent offers: nobody on the way reads frames.
        (["Sec-WebSocket-Extensions: permessage-deflate"], (up, conn, right, "Sec-WebSocket-Extensions: permessage-deflate")),
        (["Sec-WebSocket-Extensions: permessage-deflate"], (up, conn, right, "Sec-WebSocket-Extensions: x-tunnel")),
    ]


@case("L03", "a 101 that does not answer what was asked")
def run(house, mark):
    for more, right in wrong_answers():
        behave = house.origins[WS].behave = speaks(right=right, said=b"")
        request, _ = handshake(*more)
        with house.A.tunnel(WS) as stream:
            sent(stream, WS, request)
            answer = stream.answer()
            fail_unless((answer.status, answer.code) == BROKEN, right, "got", answer.status, answer.code)
            # What the agent believes to be a tunnel leads nowhere.
            sent(stream, WS, "\x81\x82\0\0\0\0hi")
            rest, closed = stream.rest(seconds=3)
            fail_unless(all(a.status in (400, 403) for a in rest), right, rest)
        fail_unless(not behave.heard, right, "heard", bytes(behave.heard))


@case("L03", "another status is an ordinary answer, and opens nothing")
def run(house, mark):
    for line in ("HTTP/1.1 200 OK", "HTTP/1.1 426 Upgrade Required", "HTTP/1.1 400 No"):
        text = "\r\n".join([line, "Upgrade: websocket", "Connection: Upgrade", "Content-Length: 5", "", ""]) + "hello"
        house.origins[WS].behave = says(text)
        request, _ = handshake()
        with house.A.tunnel(WS) as stream:
            sent(stream, WS, request)
            answer = expect(stream.answer(), int(line.split(" ")[1]))
            fail_unless(answer.body == b"hello", answer)
            # A request that policy denies is read as one: this is no tunnel.
            sent(stream, WS, raw("Connection: close", line="GET /denied HTTP/1.1"))
            rest, closed = stream.rest()
            fail_unless(closed and [a.status for a in rest] in ([403], []), line, rest)
    fail_unless([r.target for r in mark.at(WS)] == ["/socket"] * 3, mark.at(WS))


@case("L03", "handshakes that are none")
def run(house, mark):
    for request in (handshake(line="POST /socket HTTP/1.1")[0], handshake("Content-Length: 2")[0] + "hi", handshake("Transfer-Encoding: chunked")[0] + "0\r\n\r\n",
                    handshake("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")[0], handshake(leave=["Sec-WebSocket-Key"])[0]):
        behave = house.origins[WS].behave = speaks()
        with house.A.tunnel(WS) as stream:
            sent(stream, WS, request)
            expect(stream.answer(), 400, 403)
        fail_unless(not mark.at(WS) and not behave.heard, mark.at(WS))
    # No policy for the path, no handshake.
    with house.A.tunnel(WS) as stream:
        sent(stream, WS, handshake(line="GET /other HTTP/1.1")[0])
        expect(stream.answer(), (403, "policy-denied"))
    fail_unless(not mark.at(WS), mark.at(WS))


# --- L04

WISHES = ["Upgrade: foo", "Upgrade: TLS/1.0", "Upgrade: tcp", "Upgrade: HTTP/2.0", "Upgrade: h2c", "Upgrade: SPDY/3.1", "Upgrade: connect-udp", "Upgrade: websockets",
          "Upgrade: IRC/6.9, RTA/x11", "Upgrade: web socket", "Upgrade:", "UPGRADE: foo/1"]


@case("L04", "other upgrades are not asked for")
def run(house, mark):
    for host in hosts(house):
        for wish in WISHES:
            for connection in ("Connection: Upgrade", "Connection: keep-alive, upgrade", None):
                watch = Watch(house, host)
                request = raw(wish, *([connection] if connection else []), line=f"GET {PATH} HTTP/1.1")
                answer = expect(house.A.ask(host, request.replace("<HOST>", host)), 200, 501)
                fail_unless(not answer.values("upgrade"), answer.fields)
                for record in watch.settled(1) if answer.status == 200 else []:
                    named = [w.strip().lower() for v in record.values("connection") for w in v.split(",")]
                    fail_unless(not record.values("upgrade") and "upgrade" not in named, host, wish, record.fields)


@case("L04", "half a wish for a WebSocket is none")
def run(house, mark):
    # Without `Connection: upgrade`, on HTTP/1.0, in HTTP/2: the field is not for us, and not for whoever comes next.
    def ask(fields, line="GET /socket HTTP/1.1"):
        return raw(*fields, line=line)
    key = ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    for request in (ask(["Upgrade: websocket", *key]), ask(["Connection: Upgrade", *key]), ask(["Connection: close", "Upgrade: websocket", *key]),
                    ask(["Upgrade: websocket", "Connection: Upgrade", *key], "GET /socket HTTP/1.0")):
        answer = house.A.ask(WS, request.replace("<HOST>", WS))
        expect(answer, 200, 400)
    for record in mark.at(WS):
        named = ",".join(record.values("connection")).lower()
        fail_unless(not record.values("upgrade") and "upgrade" not in named, record.fields)


@case("L04", "an upstream that switches to what was not asked for")
def run(house, mark):
    for host in (MAL, H11):
        for wish, switch in [("foo", "foo"), ("h2c", "h2c"), ("TLS/1.0", "TLS/1.0"), ("tcp", "websocket"), ("foo", "")]:
            house.origins[host].behave = says("\r\n".join([SWITCH, f"Upgrade: {switch}", "Connection: Upgrade", "", ""]) + "tunnel")
            watch = Watch(house, host)
            with house.A.tunnel(host) as stream:
                sent(stream, host, raw(f"Upgrade: {wish}", "Connection: Upgrade", line=f"GET {PATH}/odd HTTP/1.1"))
                expect(stream.answer(), BROKEN, 501)
                sent(stream, host, raw(line=f"GET {PATH}/next HTTP/1.1"))
                try:
                    fail_unless(stream.answer().body == b"next", "the next answer")
                except Closed:
                    pass
            fail_unless(all(r.target.endswith(("/odd", "/next")) for r in watch.records), watch.records)


@case("L04", "an upgrade with a body, and a second request behind it")
def run(house, mark):
    # Whoever switches here reads the smuggled request as the new protocol's, and whoever does not as a request.
    for host in hosts(house):
        watch = Watch(house, host)
        with house.A.tunnel(host) as stream:
            sent(stream, host, raw("Upgrade: foo", "Connection: Upgrade", "Content-Length: 2", body="hi"),
                 raw("Connection: close", line="GET /v1/admin HTTP/1.1"))
            answers, closed = stream.rest()
        fail_unless(closed and [a.status for a in answers] in ([200, 403], [501]), host, answers, closed)
        fail_unless(all(r.body == b"hi" and not r.values("upgrade") for r in watch.records), watch.records)


# --- L08

@case("L08", "a WebSocket whose agent is revoked", private=True, lines_wanted=None)
def run(house, mark):
    host, secret = "l08.wild.test", "canary-l08-" + base64.urlsafe_b64encode(os.urandom(18)).decode()
    house.credentialed.add(host)
    house.open_origin(host, behave=speaks(said=b"\x81\x02hi"))
    service = f"{{hosts: [{host}], upstream: {{<CA>}}, credential: {{bearer: {{env: L08}}}}, rules: [{{allow: \"* /**\"}}]}}"
    annex = Annex(house, {"ws": service}, who=("A", "B"), environment={"L08": secret}, owners=[(secret, host)], log="error")
    text, _ = handshake()
    with annex.agents["A"].tunnel(host) as ours, annex.agents["B"].tunnel(host) as others:
        for one in (ours, others):
            sent(one, host, text)
            fail_unless(b" 101 " in one.line(), "no WebSocket")
            one.fields()
            fail_unless(one.exactly(4)[0] == b"\x81\x02hi", "the origin is not heard")
        start = time.monotonic()
        done = house.verb("revoke", "--agent", "A", config=annex.config, environment={"HOME": str(annex.dir), "PATH": os.environ["PATH"]})
        fail_unless(done.returncode == 0, done.stderr)
        fail_unless(ours.exactly(4)[0] == b"\x88\x02\x03\xf0", "not closed with 1008")
        fail_unless(ours.closed(1), "it stays open")
        fail_unless(time.monotonic() - start < 1.5, "closed after", time.monotonic() - start)
        expect(annex.agents["A"].get(host, "/socket"), (403, "service-revoked"))
        others.send(b"\x81\x82\0\0\0\0yo")
        fail_unless(others.exactly(4)[0] == b"\x81\x02yo", "the other agent's WebSocket is cut")
