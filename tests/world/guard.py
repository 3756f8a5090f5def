#!/usr/bin/env python3
"""The response guard, judged by the world's mirror: a published server that gives back the credential it was sent, in every
disguise it knows. What curl gets is searched. Part of run.py, and a program of its own:

    tests/world/guard.py [--bin PATH] [--keep] [--long]

`--long` cuts every body at every place, and takes minutes. Before anything is believed, the same disguises go past a guard
that is off, and each must be seen there: otherwise the search is blind.
"""

import base64
import hashlib
import html
import itertools
import random
import re
import secrets
import shutil
import socket
import ssl
import threading
import urllib.parse
from dataclasses import dataclass

import configuration
from canaries import Search, forms, of_token
from stage import CURL, HOSTS, Agent, Proxy, World, alone, fail_unless, free_port, through

MIRROR = "mirror.world.test"
MIB = 1 << 20
FORMS = ("raw", "base64", "base64url", "hex", "percent", "json", "html")
PLACES = ("body", "header", "trailer", "sse", "location", "cookie")
CODINGS = ("identity", "gzip", "deflate", "br", "zstd", "gzip,br", "zstd,gzip", "br,deflate,gzip")
VERSIONS = ("--http1.1", "--http2")
FILLER = b"The quick brown fox jumps over the lazy dog. "
KINDS = ("jwt", "hex", "base64", "uuid", "key", "near", "prose")
# What the page on the guard says is not found. Each is asked for and counted, so that nobody takes it for covered.
OUT_OF_REACH = {
    "a token cut over several events": ("mirror", "of=api-key&where=sse&events=3"),
    "a proof in base64": ("items", "of=dpop&form=base64"),
    "a proof in base64url": ("items", "of=dpop&form=base64url"),
    "a proof in hex": ("items", "of=dpop&form=hex"),
}


@dataclass
class Answer:
    asked: str  # the query
    http: str
    exit: int  # curl's
    status: int
    head: str  # with trailers, if there were any
    body: bytes

    def __str__(self):
        return f"{self.asked} {self.http}: curl {self.exit}, {self.status}, {len(self.body)} bytes"


class Judge:
    """Finds a credential in what came, whatever it is written in: escapes are taken back, then `canaries.forms` are looked for."""

    def __init__(self, *values):
        # And pieces of its end: a guard that missed the beginning of a value must not let go the rest.
        wanted = {value.encode() for value in values}
        wanted |= {value[-40:][at:at + 16] for value in wanted if len(value) >= 40 for at in range(0, 25, 4)}
        self.forms = [form for value in wanted for form in forms(value) if len(form) >= 16]

    def hit(self, data):
        for _ in range(3):
            if any(form in data for form in self.forms):
                return True
            if not any(mark in data for mark in (b"%", b"\\u", b"&")):
                return False
            text = data.decode("latin-1")
            bare = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), html.unescape(urllib.parse.unquote(text, "latin-1")))
            plain = bare.encode("latin-1", "replace")
            if plain == data:
                return False
            data = plain
        return any(form in data for form in self.forms)

    def seen(self, answer):
        return self.hit(answer.head.encode("latin-1")) or self.hit(answer.body)


def filler(length, begin=0):
    """What the mirror puts around a value: at the front and behind it the text begins anew."""
    return (FILLER * (length // len(FILLER) + 2))[begin:begin + length]


def dressed(form, text):
    """As the mirror writes it, said once more here: lengths and places are judged by it."""
    data = text.encode()
    return {
        "raw": data, "base64": base64.b64encode(data), "base64url": base64.urlsafe_b64encode(data).rstrip(b"="),
        "hex": data.hex().encode(), "percent": b"".join(b"%%%02x" % byte for byte in data),
        "json": b"".join(b"\\u%04x" % byte for byte in data), "html": b"".join(b"&#%d;" % byte for byte in data),
    }[form]


class House:
    """One proxy and three agents: one whose answers are searched (a key at the mirror, a DPoP token at the API), one that
    shows the mirror a DPoP token, and one whose key comes back unsearched."""

    def __init__(self, world, binary, dir):
        self.world, self.dir = world, dir
        self.key = "mk/" + secrets.token_urlsafe(12) + "+" + secrets.token_urlsafe(18) + "=="
        given = {"MIRROR_KEY": self.key, "CLIENT_SECRET": world.clients["svc-basic"]["client_secret"],
                 **{f"{name}_TOKEN": secrets.token_urlsafe(24) for name in ("CODER", "BOUND", "OPEN")}}
        oauth = (f"{{oauth: {{issuer: world, client_id: svc-basic, client_auth: {{secret_basic: {{env: CLIENT_SECRET}}}}, "
                 f"grant: client_credentials, resource: \"{world.dpop_api}\"}}}}")
        key = "{header: {name: x-api-key, value: {env: MIRROR_KEY}}}"
        bearer = "{bearer: {env: MIRROR_KEY}}"
        anything = [("* /v1/**", "")]

        def service(name, host, part, credential, variable, rules=anything, more=""):
            made = configuration.service(name, host, world.port(part), world.ca, credential, variable, "{random:40}", rules)
            return made.rstrip() + more + "\n"

        scoped = [("GET /v1/**", "items:read")]
        file = dir / "tokenward.yaml"
        file.write_text(f"""# Made by tests/world.
listen: {{proxy: 127.0.0.1:{free_port()}}}
health: 127.0.0.1:{free_port()}
limits: {{per_agent: {{requests_per_second: 100000, streams: 4096}}}}
runtime_dir: public
ca: {{dir: ca}}
audit: {{file: audit.jsonl}}
agents:
  coder: {{auth: {{token: {{env: CODER_TOKEN}}}}, services: [keyed, items]}}
  bound: {{auth: {{token: {{env: BOUND_TOKEN}}}}, services: [bound, plain]}}
  open: {{auth: {{token: {{env: OPEN_TOKEN}}}}, services: [unguarded]}}
issuers:{configuration.issuer("world", world.issuer, world.ca)}
services:{service("keyed", MIRROR, "mirror", key, "MIRROR_TOKEN")}
{service("items", HOSTS["DPOP"], "dpop_api", oauth, "ITEMS_TOKEN", scoped)}
{service("bound", MIRROR, "mirror", oauth, "MIRROR_TOKEN", scoped)}
{service("plain", HOSTS["PLAIN"], "plain_api", bearer, "PLAIN_TOKEN")}
{service("unguarded", MIRROR, "mirror", key, "MIRROR_TOKEN", more=chr(10) + "    response_guard: off")}
""")
        self.proxy = Proxy(binary, file, given, dir, log="info")
        (dir / "got").mkdir()
        self.agents = {name: Agent(name, self.proxy.agent_environment(name), None, dir / "got") for name in ("coder", "bound", "open")}
        self.judge = Judge(self.key)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proxy.stop()

    def ask(self, queries, http, agent="coder", origin=None, page="mirror", limit=None, keep=False):
        """All of them side by side by one curl process, over as few connections as it likes: the answers, in that order."""
        queries = list(queries)
        origin = origin or self.world.mirror
        for begin in range(0, len(queries), 1000):
            yield from self.batch(queries[begin:begin + 1000], http, self.agents[agent], origin, page, limit, keep)

    def batch(self, queries, http, agent, origin, page, limit, keep):
        dir = self.dir / "got" / secrets.token_hex(6)
        dir.mkdir()
        lines = []
        for number, query in enumerate(queries):
            lines += [f'url = "{origin}/v1/{page}{"?" if query else ""}{query}"', f'output = "{dir}/{number}"']
        (dir / "list").write_text("\n".join(lines))
        # The one root alone: curl reads the file of roots anew for each connection.
        trust = ["--cacert", str(self.dir / "public" / "ca.pem")]
        done = agent.run(CURL, "-sSi", "-N", *trust, "--suppress-connect-headers", "--no-progress-meter", "--max-time", "120", http, "-H", "TE: trailers", "--parallel",
                         "--parallel-max", "16", "--config", str(dir / "list"), "-w", "%{stderr}@%{urlnum} %{exitcode} %{http_code}\\n",
                         kept=False, timeout=550)
        agent.sent(len(queries))
        told = {int(m[1]): (int(m[2]), int(m[3])) for m in re.finditer(r"^@(\d+) (\d+) (\d+)$", done.stderr.decode(), re.M)}
        fail_unless(len(told) == len(queries), "curl told of", len(told), "of", len(queries), done.stderr[-300:])
        for number, query in enumerate(queries):
            file = dir / str(number)
            data = file.read_bytes() if file.exists() else b""
            if not keep:
                file.unlink(missing_ok=True)
            yield Answer(f"{page}?{query}", http, *told[number], *parted(data))
        shutil.rmtree(dir) if not keep else None


def parted(data):
    """Head and body of what `curl -i` wrote: interim answers and trailers stand among the heads."""
    head = b""
    while True:
        begin, mark, rest = data.partition(b"\r\n\r\n")
        if not mark:
            return (head + data).decode("latin-1"), b""
        head, data = head + begin + mark, rest
        if not re.match(rb"HTTP/\S+ 1\d\d", begin):
            return head.decode("latin-1"), data


def searched(house, answers, judge=None):
    """None of them holds the credential; how many there were."""
    count = 0
    for answer in answers:
        count += 1
        fail_unless(not (judge or house.judge).seen(answer), "the credential came back:", answer)
        fail_unless(answer.exit == 0, answer)
    return count


def overwritten(answer, form, key, offset, size):
    """The body is the mirror's, but for the value: as long, the filler untouched."""
    text = dressed(form, key)
    body, end = answer.body, offset + len(text)
    fail_unless(answer.status == 200 and "content-encoding" not in answer.head.lower(), answer)
    fail_unless(len(body) == max(size, end), answer, "instead of", max(size, end))
    fail_unless(body[:offset] == filler(offset) and body[end:] == filler(len(body) - end), answer, "lost something beside the value")
    # The first three bytes may have gone before anybody knew.
    fail_unless(body[offset + 4:end] != text[4:], answer, "has the value")


ALL = []


def check(function):
    ALL.append(function)
    return function


@check
def the_search_sees(house, long):
    "past a guard that is off, the search sees every disguise"
    blind = []
    for http in VERSIONS:
        queries = [f"form={form}&where={where}" for form in FORMS for where in PLACES if where != "cookie"]
        blind += [str(a) for a in house.ask(queries, http, agent="open") if not house.judge.seen(a)]
    fail_unless(not blind, len(blind), "were not seen:", blind[:3])
    return f"{2 * len(queries)} seen"


@check
def every_disguise(house, long):
    "every form, place and content coding of the key: 0 hits"
    count = 0
    for http in VERSIONS:
        cases = list(itertools.product(FORMS, PLACES, CODINGS))
        answers = house.ask([f"form={f}&where={w}&encode={c}&offset=100&size=4096" for f, w, c in cases], http)
        for (form, where, _), answer in zip(cases, answers, strict=True):
            count += searched(house, [answer])
            if where == "body":
                overwritten(answer, form, house.key, 100, 4096)
        more = [f"form={f}&status={status}&length&type={type}" for f in FORMS for status in (201, 404, 500)
                for type in ("application/json", "text/html", "application/octet-stream")]
        count += searched(house, house.ask(more, http))
    return f"{count} answers, {len(CODINGS)} codings"


@check
def tokens_and_proofs(house, long):
    "a DPoP token in every disguise, its proof in escapes: 0 hits"
    mark, kept = house.world.collect(), []
    numbers = itertools.count()
    for http in VERSIONS:
        cases = [(of, f, w, c) for of in ("token", "authorization") for f in FORMS for w in PLACES for c in CODINGS[:4]]
        cases += [("dpop", f, w, c) for f in ("raw", "percent", "json", "html") for w in PLACES for c in CODINGS[:4]]
        queries = [f"of={of}&form={f}&where={w}&encode={c}&offset=9&n={next(numbers)}" for of, f, w, c in cases]
        kept += house.ask(queries, http, agent="bound")
    seen = {e["url"]: e for e in house.world.since(mark, "mirror")}
    tokens = {e["authorization"][0].split(" ")[1] for e in seen.values()}
    judge = Judge(*(value for token in tokens for value in of_token(token)))
    for answer in kept:
        proof = seen["/v1/" + answer.asked]["dpop"][0]
        searched(house, [answer], judge)
        if "of=dpop" in answer.asked:
            own = answer.head.encode("latin-1") + answer.body
            fail_unless(not Judge(proof, proof.rsplit(".", 1)[1]).hit(own), "the proof came back:", answer)
    return f"{len(kept)} answers, {len(tokens)} tokens"


@check
def every_cut(house, long):
    "cut at every place of a body on its way: 0 hits"
    count, size, offset = 0, 4096, 2000
    for http in VERSIONS:
        for form in FORMS:
            width = len(dressed(form, house.key))
            around = range(1, size) if long else range(offset - 2, offset + width + 3, 1 if form == "raw" else 7)
            answers = house.ask([f"form={form}&offset={offset}&size={size}&split={at}&pause=2" for at in around], http)
            for answer in answers:
                count += searched(house, [answer])
                overwritten(answer, form, house.key, offset, size)
            # A coded body is a few hundred bytes; cuts behind its end do nothing.
            codings = CODINGS[1:] if long else CODINGS[1:5]
            cuts = range(1, 500 if long else 240, 1 if long else 29)
            answers = house.ask([f"form={form}&offset={offset}&size={size}&encode={c}&split={at}&pause=2" for c in codings for at in cuts], http)
            for answer in answers:
                count += searched(house, [answer])
                overwritten(answer, form, house.key, offset, size)
            queries = [f"form={form}&where=sse&split={at}&pause=2" for at in (range(1, width + 8) if long else range(1, width + 8, 11))]
            queries += [f"form={form}&size=64&offset=8&chunk={n}&pause=0&encode={c}" for n in ((1, 2, 3, 7) if long else (1, 7)) for c in CODINGS[:5]]
            count += searched(house, house.ask(queries, http))
    return f"{count} answers"


class Highest:
    """The most memory that a proxy has, looked at all the time."""

    def __init__(self, proxy):
        self.proxy, self.before, self.most, self.over = proxy, proxy.memory(), 0, threading.Event()
        self.running = threading.Thread(target=self.look, daemon=True)

    def look(self):
        while True:
            self.most = max(self.most, self.proxy.memory())
            if self.over.wait(0.01):
                return

    def __enter__(self):
        self.running.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.running.join()

    def stayed(self, within):
        fail_unless(self.most <= self.before + within, "memory grew from", self.before, "to", self.most, "MiB")
        return f"{self.before} to {self.most} MiB"


@check
def long_bodies(house, long):
    "64 MB with the key at its edges and in between: 0 hits"
    size, rng, count = 64 * MIB, random.Random(7), 0
    with Highest(house.proxy) as highest:
        for http in VERSIONS:
            for form in ("raw", "base64", "json") if long else ("raw",):
                last = size - len(dressed(form, house.key))
                for offset in [0, last, *(rng.randrange(last) for _ in range(20 if long else 2))]:
                    for answer in house.ask([f"form={form}&offset={offset}&size={size}"], http):  # one at a time: the mirror makes them in memory
                        overwritten(answer, form, house.key, offset, size)
                        # All else is the filler.
                        near = answer.body[max(0, offset - 100):offset + 2000]
                        count += searched(house, [Answer(answer.asked, http, answer.exit, answer.status, answer.head, near)])
    return f"{count} bodies, {highest.stayed(64)}"


@check
def long_coded_bodies(house, long):
    "and in content codings, as far as what comes out of one goes"
    # The mirror's filler repeats, so in a coding it is a bomb beyond the first MiB.
    size, rng, count, broken = MIB, random.Random(8), 0, 0
    for http in VERSIONS:
        for coding in CODINGS[1:]:
            last = size - len(house.key)
            offsets = [0, last, *(rng.randrange(last) for _ in range(20 if long else 2))]
            for offset, answer in zip(offsets, house.ask([f"encode={coding}&offset={at}&size={size}" for at in offsets], http), strict=True):
                count += searched(house, [answer])
                overwritten(answer, "raw", house.key, offset, size)
        for answer in house.ask([f"encode=gzip&offset={at}&size={64 * MIB}" for at in (0, 64 * MIB - 99)][:2 if long else 1], http):
            fail_unless(answer.exit != 0 and not house.judge.seen(answer), answer)
            broken += 1
    return f"{count} bodies of 1 MiB, {broken} of 64 MiB broken off as bombs"


@check
def bombs(house, long):
    "small bodies that become huge are broken off, memory stays"
    size, got, count = (1024 if long else 192) * MIB, 0, 0
    with Highest(house.proxy) as highest:
        for http in VERSIONS:
            # zstd is a frame for each MiB here; that is one window and many ends.
            for coding in ("gzip", "br", "zstd", "gzip,gzip", "deflate,br") if long or http == "--http2" else ("gzip", "zstd"):
                for answer in house.ask([f"encode={coding}&size={size}"], http, page="bomb"):
                    fail_unless(answer.exit != 0 or answer.status == 502, "it ended well:", answer)
                    fail_unless(not answer.body.strip(b"\0") or answer.status == 502, "other bytes came:", answer)
                    got, count = max(got, len(answer.body)), count + 1
    fail_unless(got < size // 8, got, "of", size, "bytes came")
    return f"{count} of {size // MIB} MiB, at most {got / MIB:.1f} MiB came, {highest.stayed(48)}"


@check
def harmless(house, long):
    "100 bodies that only look like credentials keep every byte"
    cases = [(kind, size, coding) for kind in KINDS for size in (200, 4096, 70_000) for coding in CODINGS[:5]][:100]
    count = 0
    for http in VERSIONS:
        queries = [f"kind={kind}&size={size}&encode={coding}&chunk={777 if size < 5000 else 20_000}&pause=1" for kind, size, coding in cases]
        for answer in house.ask(queries, http, page="benign"):
            wanted = re.search(r"x-sha256: (\w+)", answer.head, re.I)
            fail_unless(answer.exit == 0 and answer.status == 200 and wanted, answer)
            fail_unless(hashlib.sha256(answer.body).hexdigest() == wanted[1], "other bytes came:", answer)
            count += 1
    return f"{count} bodies"


@check
def echoes(house, long):
    "/v1/echo, and an API that repeats its Authorization everywhere"
    mark, kept = house.world.collect(), []
    house.world.set(echoToken=True, nonceMode="rotating", accessTokenTtl=900, clockSkew=0)
    try:
        for http in VERSIONS:
            for path in ("items", "echo", "echo?gzip", "whoami", "stream?n=4&ms=20", "slow?ms=1", "nowhere"):
                page, _, query = path.partition("?")
                kept += house.ask([query], http, origin=house.world.dpop_api, page=page)
                kept += house.ask([query], http, agent="bound", origin=house.world.plain_api, page=page)
                kept += house.ask([query], http, page=page)
    finally:
        house.world.set(echoToken=False)
    entries = [e for e in house.world.since(mark, "dpop-api")]
    tokens = {e["authorization"][0].split(" ")[1] for e in entries}
    proofs = [e["dpop"][0] for e in entries]
    fail_unless(tokens, "the API saw no token")
    judge = Judge(house.key, *(v for token in tokens for v in of_token(token)), *proofs, *(p.rsplit(".", 1)[1] for p in proofs))
    searched(house, kept, judge)
    repeated = sum("x-received-authorization" in a.head.lower() for a in kept)
    fail_unless(repeated, "nothing was repeated")
    return f"{len(kept)} answers, {repeated} with the field, {len(proofs)} proofs"


@check
def websocket(house, long):
    "the messages of a WebSocket that repeats what it is told"
    with Socket(house) as socket:
        for number, form in enumerate(FORMS):
            text = dressed(form, house.key)
            for size, kind in ((0, 1), (100, 2), (70_000, 1), (MIB, 2)):
                message = filler(size) + text + filler(size)
                cuts = 1 if size == 0 else 5
                back = socket.say(message, kind, cuts)
                fail_unless(not house.judge.hit(back), form, size, "came back")
                fail_unless(len(back) == len(message) and back[:size] == filler(size), form, size, "lost something")
        back = socket.say(b"a message with nothing in it", 1, 1)
        fail_unless(back == b"a message with nothing in it", back)
    return f"{4 * len(FORMS) + 1} messages"


class Socket:
    """A WebSocket to the mirror by hand (RFC 6455): what curl and a browser would not let us see."""

    def __init__(self, house):
        agent = house.agents["coder"]
        proxy = urllib.parse.urlsplit(agent.environment["https_proxy"])
        basic = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        where = f"{MIRROR}:{house.world.port('mirror')}"
        self.stream = socket.create_connection((proxy.hostname, proxy.port), 30)
        self.stream.sendall(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\nProxy-Authorization: Basic {basic}\r\n\r\n".encode())
        self.left = b""
        fail_unless(b" 200" in self.head().split(b"\r\n")[0], "CONNECT was refused")
        context = ssl.create_default_context(cafile=agent.environment["SSL_CERT_FILE"])
        context.set_alpn_protocols(["http/1.1"])
        self.stream = context.wrap_socket(self.stream, server_hostname=MIRROR)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self.stream.sendall(f"GET /v1/ws HTTP/1.1\r\nHost: {where}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        head = self.head()
        agent.sent(1)
        fail_unless(b" 101" in head.split(b"\r\n")[0], head[:200])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()

    def head(self):
        while b"\r\n\r\n" not in self.left:
            self.more()
        head, _, self.left = self.left.partition(b"\r\n\r\n")
        return head

    def more(self):
        piece = self.stream.recv(1 << 16)
        fail_unless(piece, "the stream ended")
        self.left += piece

    def take(self, length):
        while len(self.left) < length:
            self.more()
        taken, self.left = self.left[:length], self.left[length:]
        return taken

    def say(self, message, kind, cuts):
        """Sends a message in so many frames, and gives what comes back; the mirror says nothing before it has all."""
        frames, length = b"", len(message) // cuts + 1
        for begin in range(0, len(message), length):
            part = message[begin:begin + length]
            last = begin + length >= len(message)
            frames += bytes([(0x80 if last else 0) | (0 if begin else kind), 0xff]) + len(part).to_bytes(8, "big") + bytes(4) + part
        self.stream.sendall(frames)
        whole = b""
        while True:
            first, second = self.take(2)
            length = second & 0x7f
            if length > 125:
                length = int.from_bytes(self.take(2 if length == 126 else 8), "big")
            whole += self.take(length)
            fail_unless(first & 0x0f in (0, 1, 2), "a frame", hex(first), whole[:20])
            if first & 0x80:
                return whole


@check
def out_of_reach(house, long):
    "what the documentation says is not found, counted"
    told = []
    for what, (service, query) in OUT_OF_REACH.items():
        mark, passed, total = house.world.collect(), 0, 0
        for http in VERSIONS:
            for answer in house.ask([query], http, agent="bound" if service == "items" else "coder"):
                if service == "items":
                    entry = house.world.since(mark, "mirror")[-1]
                    passed += Judge(entry["dpop"][0]).seen(answer)
                else:
                    # A reader who joins the events has it.
                    joined = b"".join(re.findall(rb"data: (.*)", answer.body))
                    passed += house.judge.hit(joined)
                total += 1
        told.append(f"{what}: {passed} of {total} came back")
    return "NOT FOUND BY DESIGN: " + "; ".join(told)


@check
def what_was_told(house, long):
    "finds are counted and written down, without what was found"
    lines = (house.dir / "audit.jsonl").read_text().splitlines()
    events = sum('"event":"credential.reflected"' in line for line in lines)
    fail_unless(events, "no event was written")
    search = Search()
    search.plant("the key", house.key)
    hits = search.hits(house.dir / "audit.jsonl", house.proxy.log, house.proxy.out)
    fail_unless(not hits, *hits)
    return f"{events} events"


def play(binary, source, dir, started, modules=None, long=False):
    """All checks, in a world of their own. How many failed."""
    dir.mkdir()
    world = World(source, dir, hosts=HOSTS | {"MIRROR": MIRROR}, modules=modules)
    started.append(world)
    with House(world, binary, dir) as house:
        return through(ALL, dir, house, long)


if __name__ == "__main__":
    alone("guard", __doc__, ALL, play, [("long", "cut at every place")])
