"""Class O: who calls, and what one agent can do to another."""

import base64
import hashlib
import json
import secrets
import threading
import time

from agent import Agent, Closed, Refused
from annex import Annex, oauth, realm
from cases import case, expect, head, waits
from house import fail_unless, wait_until
from origins import ordinary

RO, RW, ECHO = "api.ro.test", "api.rw.test", "echo.test"
ANYTHING = 'rules: [{allow: "* /**"}]'

waits("O08", "agents that are known by their client certificate")


def basic(name, token):
    pair = name + b":" + token if isinstance(name, bytes) else f"{name}:{token}".encode()
    return "Proxy-Authorization: Basic " + base64.b64encode(pair).decode()


def pair_of(house, **how):
    """An annex with two agents; `B` may not use `wild`."""
    services = {"wild": f'{{hosts: ["*.wild.test"], upstream: {{<CA>}}, {ANYTHING}}}',
                "plain": f"{{hosts: [plain.test], port: 80, {ANYTHING}}}"}
    return Annex(house, services, who=("A", "B"), allowed={"B": ["plain"]}, **how)


def connect(agent, lines, source=None, authority="x.wild.test:443"):
    """A CONNECT with these fields and no others."""
    agent.source, kept = source, agent.source
    try:
        stream = agent.plain()
    finally:
        agent.source = kept
    with stream:
        stream.send(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{''.join(line + chr(13) + chr(10) for line in lines)}\r\n")
        return stream.answer("CONNECT")


@case("O01", "credentials that are none", private=True, silent=True)
def run(house, mark):
    annex = pair_of(house)
    a, b = annex.tokens["A"], annex.tokens["B"]
    agent = annex.agents["A"]
    rows = [
        [], ["Proxy-Authorization:"], ["Proxy-Authorization: Basic"], ["Proxy-Authorization: Basic "],
        ["Proxy-Authorization: Basic ====="],
        ["Proxy-Authorization: Basic !!!"], ["Proxy-Authorization: " + basic("A", a).split()[2]],
        ["Proxy-Authorization: Negotiate abc"],
        ["Proxy-Authorization: Digest username=\"A\""], ["Proxy-Authorization: Bearer"], ["Proxy-Authorization: Bearer x"],
        [basic("A", "wrong")], [basic("A", "")], [basic("A", a[:-1])], [basic("A", a + "x")], [basic("A", a.upper())],
        [basic("A", " " + a)],
        [basic("A", b)], [basic("B", a)], [basic("Z", a)], [basic("", a)], [basic("a", a)], [basic("A ", a)],
        [basic("A", f"A:{a}")],
        [basic(b"A\0", a.encode())], [basic(b"\xff\xfe", b"\xff\x00")], [basic(b"A", a.encode() + b"\0")],
        ["Proxy-Authorization: Basic " + base64.b64encode(a.encode()).decode()],
        # What an operator stores of it opens nothing.
        [basic("A", hashlib.sha256(a.encode()).hexdigest())],
        ["Proxy-Authorization: Bearer " + hashlib.sha256(a.encode()).hexdigest()],
        # The right one in another place.
        [basic("A", a).replace("Proxy-", "")], [basic("A", a).replace("Proxy-", "X-Proxy-")], [f"Cookie: proxy=A:{a}"],
        [basic("A", a).replace("Proxy-Authorization", "Proxy_Authorization")],
    ]
    for number, lines in enumerate(rows):
        answer = connect(agent, lines, f"127.0.7.{number + 1}")
        fail_unless(answer.status == 407 and answer.code == "agent-unauthenticated", "row", number, lines[:1], answer.status,
                    answer.code)
        fail_unless(answer.values("proxy-authenticate"), "no challenge in row", number)
    # Two of them, a good one among them: nobody says which counts.
    for number, lines in enumerate(([basic("A", a), basic("A", "x")], [basic("A", "x"), basic("A", a)],
                                    [basic("A", a), basic("B", b)])):
        expect(connect(agent, lines, f"127.0.8.{number + 1}"), 407, 400)
    # Bytes that are no text, and too many of them.
    expect(connect(agent, ["Proxy-Authorization: Basic \xff\xfe\xe9"], "127.0.8.10"), 407, 400)
    expect(connect(agent, ["Proxy-Authorization: Basic " + "A" * 60000], "127.0.8.11"), 407, 431)
    with agent.plain() as stream:
        stream.send(f"CONNECT x.wild.test:443 HTTP/1.1\r\nHost: x.wild.test:443\r\nProxy-Authorization: Basic {'A' * 1_000_000}\r\n\r\n")
        try:
            expect(stream.answer("CONNECT"), 431, 407, 400)
        except Closed:
            pass
    # In absolute-form the same.
    with agent.plain() as stream:
        stream.send(f"GET http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\n{basic('A', b)}\r\n\r\n")
        expect(stream.answer(), (407, "agent-unauthenticated"))


@case("O01", "guesses: five in a second from one place", private=True, silent=True, lines_wanted=None)
def run(house, mark):
    annex = pair_of(house)
    agent, start, statuses = annex.agents["A"], time.monotonic(), []

    def guess():
        for _ in range(5):
            statuses.append(connect(agent, [basic("A", secrets.token_hex(8))], "127.0.9.1").status)
    threads = [threading.Thread(target=guess, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    # Who has the right one is not locked out by who has not, from the same place and from others.
    for source in ("127.0.9.1", "127.0.9.2"):
        began = time.monotonic()
        expect(connect(agent, [basic("A", annex.tokens["A"])], source), 200)
        fail_unless(time.monotonic() - began < 1, "the right one waited")
    expect(connect(agent, [basic("A", "wrong")], "127.0.9.3"), 407)
    for thread in threads:
        thread.join(15)
    spent = time.monotonic() - start
    fail_unless(len(statuses) == 30 and set(statuses) <= {407, 429}, statuses)
    fail_unless(statuses.count(407) <= 6 + 5 * spent, statuses.count(407), "guesses were judged in", round(spent, 1), "s")
    fail_unless(429 in statuses, "nobody was told to wait")


@case("O02", "B at a service of A's", silent=True)
def run(house, mark):
    for host in (ECHO, "gql.test", "ws.test", "x.wild.test", "mal.test"):
        stream, answer = house.B.connect(f"{host}:443")
        stream.close()
        expect(answer, (403, "destination-denied"))
    # Whom it may call is not told by the difference to a host that nobody may.
    stream, other = house.B.connect("nobody.example:443")
    stream.close()
    for field in ("status", "code"):
        fail_unless(getattr(answer, field) == getattr(other, field), field, "differs")


@case("O02", "B with a placeholder of A's", lines_wanted=0)
def run(house, mark):
    def value(who, variable):
        document = house.placeholders[who]
        return document.get(variable) or next(v for d in document.values() if isinstance(d, dict) for k,
                                              v in d.items() if k == variable)
    theirs = [value("A", "RW_TOKEN"), value("A", "RO_TOKEN"), value("A", "ECHO_PH")]
    own_other = value("B", "RO_TOKEN")
    for placeholder in [*theirs, own_other]:
        for line in (f"Authorization: Bearer {placeholder}", f"Authorization: DPoP {placeholder}",
                     f"authorization: token {placeholder}",
                     f"Authorization: Basic {base64.b64encode(f'x:{placeholder}'.encode()).decode()}"):
            expect(house.B.ask(RW, head(RW, "GET /v1/items HTTP/1.1", line)), (403, "placeholder-mismatch"))
    fail_unless(not mark.at(RW), "it went out")
    expect(house.B.ask(RW, head(RW, "GET /v1/items HTTP/1.1", f"Authorization: Bearer {value('B', 'RW_TOKEN')}")), 200)


FORGED = ["X-Forwarded-For: 10.0.0.1", "X-Real-IP: 10.0.0.1", "Forwarded: for=10.0.0.1", "Via: 1.1 A", "X-Tokenward-Agent: A",
          "X-Agent: A",
          "X-Remote-User: A", "Remote-User: A", "X-Client-Cert: A", "X-Forwarded-Client-Cert: By=spiffe://x/A",
          "X-Forwarded-User: A", "From: A"]


@case("O03", "fields that claim to be A", lines_wanted=0)
def run(house, mark):
    more = "".join(line + "\r\n" for line in FORGED)
    stream, answer = house.B.connect(f"{ECHO}:443", more)
    stream.close()
    expect(answer, (403, "destination-denied"))
    # Inside the tunnel: B's own request stays B's, A's proxy credential (which B may have stolen) included.
    expect(house.B.ask(RO, head(RO, "GET /v1/items/1 HTTP/1.1", *FORGED,
                                f"Proxy-Authorization: Basic {base64.b64encode(b'A:x').decode()}")), 200)
    for line in mark.lines():
        fail_unless(line["agent"] == "B", "a line names", line["agent"])
    fields = [n for r in mark.at(RO) for n, _ in r.fields]
    fail_unless(not any(n in fields for n in ("x-tokenward-agent", "proxy-authorization", "x-forwarded-for", "forwarded",
                                              "x-real-ip")), fields)
    # Via is for who comes after us: what was there stays, and ours is the last.
    fail_unless(all("tokenward" in r.values("via")[-1] for r in mark.at(RO)), "Via")


@case("O03", "identity is each request's own, not its connection's", private=True)
def run(house, mark):
    annex = pair_of(house)
    a, b = (basic(n, annex.tokens[n]) for n in ("A", "B"))
    with annex.agents["A"].plain() as stream:
        for lines, wanted in (([a], 200), ([b], 200), ([], 407), (["Proxy-Authorization: Basic QTp4"], 407)):
            stream.send(head("plain.test", "GET http://plain.test/ HTTP/1.1", *lines))
            try:
                expect(stream.answer(), wanted)
            except Closed:
                fail_unless(wanted == 407, "closed before", wanted)
                break
    # A line is written behind its answer.
    carried = lambda: [line["agent"] for line in annex.lines() if line.get("status") == 200]  # noqa: E731
    wait_until("both lines", lambda: len(carried()) >= 2, 2)
    fail_unless(carried() == ["A", "B"], carried())


@case("O04", "a proxy credential in a URL is in no line", private=True, lines_wanted=None)
def run(house, mark):
    token = house.secrets["A_TOKEN"]
    for line in (f"GET http://A:{token}@plain.test/ HTTP/1.1", f"CONNECT A:{token}@{RO}:443 HTTP/1.1",
                 f"GET http://{token}@plain.test/ HTTP/1.1",
                 f"CONNECT {token}@{RO}:443 HTTP/1.1", f"CONNECT A:{token}@evil.test:443 HTTP/1.1"):
        with house.A.plain() as stream:
            stream.send(f"{line}\r\nHost: plain.test\r\n{house.A.authorization}\r\n")
            try:
                answer = stream.answer(line.split()[0])
                fail_unless(answer.status in (400, 403, 421), line.split()[0], answer.status)
            except Closed:
                pass
    for host in (f"A:{token}@{RO}", f"{token}@{RO}"):
        answer = house.A.ask(RO, head(RO, "GET /v1/items/1 HTTP/1.1", f"Host: {host}"))
        expect(answer, 400, 421)
    # The oracle I1 looks for it in everything that was written.


@case("O05", "nothing is cached, whatever answers allow")
def run(house, mark):
    def behave(record, conversation):
        refused = house.ro.judge(record)
        if refused:
            return 401, [("www-authenticate", 'DPoP error="invalid_token"')], refused
        fields = [("cache-control", "public, max-age=3600, immutable, s-maxage=3600"), ("etag", '"one"'),
                  ("expires", "Fri, 01 Jan 2100 00:00:00 GMT"),
                  ("age", "0"), ("last-modified", "Thu, 01 Jan 2015 00:00:00 GMT")]
        return 200, fields, secrets.token_hex(16)
    house.origins[RO].behave = behave
    bodies = [agent.get(RO, "/v1/items/cached").body for agent in (house.A, house.B, house.A, house.B)]
    with house.A.tunnel(RO) as stream:
        for _ in range(2):
            stream.send(head(RO, "GET /v1/items/cached HTTP/1.1"))
            bodies.append(stream.answer().body)
    fail_unless(len(set(bodies)) == 6 and all(len(b) == 32 for b in bodies), bodies)
    seen = mark.at(RO)
    fail_unless(len(seen) == 6, len(seen), "requests")
    tokens = {r.values("authorization")[0] for r in seen}
    fail_unless(len(tokens) == 2, len(tokens), "tokens for two agents")
    connections = {t: {r.connection for r in seen if r.values("authorization")[0] == t} for t in tokens}
    fail_unless(not set.intersection(*connections.values()), "A and B shared a connection")
    fail_unless(not [n for r in seen for n, _ in r.fields if n in ("if-none-match", "if-modified-since")],
                "it asked for what it has")


@case("O06", "A's answers are A's", private=True)
def run(house, mark):
    issuer, api = realm(house, "o06")
    issuer.secret = secrets.token_urlsafe(24)
    annex = Annex(house, {"api": oauth("own", api.host)}, who=("A", "B"), issuers={"own": issuer.url},
                  environment={"AS_SECRET": issuer.secret},
                  owners=[issuer], log="error")

    def behave(record, conversation):
        refused = api.judge(record)
        if refused:
            return 401, [("www-authenticate", 'DPoP error="invalid_token"')], refused
        owner = issuer.tokens[record.values("authorization")[0][5:]][0]
        time.sleep(secrets.randbelow(5) / 1000)
        return 200, [("content-type", "application/json")], json.dumps({"owner": owner, "said": record.values("x-who"),
                "target": record.target,
                                                                        "pad": "x" * secrets.randbelow(3000)})
    house.origins[api.host].behave = behave
    owners, wrong = {"A": set(), "B": set()}, []

    def judge(who, target, answer):
        document = json.loads(answer.body) if answer.status == 200 else {}
        if document.get("target") != target or document.get("said") != [who]:
            wrong.append((who, target, answer.status, answer.body[:100]))
        owners[who].add(document.get("owner"))

    def h1(who, part):
        with annex.agents[who].tunnel(api.host) as stream:
            for i in range(30):
                target = f"/{part}/{i}?same"
                stream.send(head(api.host, f"GET {target} HTTP/1.1", f"X-Who: {who}"))
                judge(who, target, stream.answer())

    def h2(who, part):
        with annex.agents[who].h2(api.host) as connection:
            targets = {connection.request(connection.head(api.host, f"/{part}/{i}?same",
                                                          more=[("x-who", who)])): f"/{part}/{i}?same" for i in range(40)}
            for number, target in targets.items():
                judge(who, target, connection.wait(number))
    threads = [threading.Thread(target=kind, args=(who, f"{kind.__name__}{n}"), daemon=True) for who in "AB" for kind in (h1,
            h2) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(14)
    fail_unless(not any(t.is_alive() for t in threads), "not done in time")
    fail_unless(not wrong, len(wrong), "answers were somebody else's:", wrong[:2])
    fail_unless(len(owners["A"]) == len(owners["B"]) == 1 and owners["A"] != owners["B"], owners)
    fail_unless(len(mark.at(api.host)) == 280, len(mark.at(api.host)), "requests reached the API")


@case("O07", "A's limits are A's", private=True, lines_wanted=None)
def run(house, mark):
    services = {"wild": f'{{hosts: ["*.wild.test"], upstream: {{<CA>}}, {ANYTHING}}}'}
    annex = Annex(house, services, who=("A", "B"), limits="{per_agent: {connections: 6, requests_per_second: 20, streams: 4}}")
    a, b, host = annex.agents["A"], annex.agents["B"], "o07.wild.test"
    origin, release = house.open_origin(host), threading.Event()

    def behave(record, conversation):
        if "hang" in record.target:
            release.wait(8)
        return ordinary(record, conversation)
    origin.behave = behave

    def calm():
        """B is served at once."""
        began = time.monotonic()
        expect(b.get(host, "/b"), 200)
        fail_unless(time.monotonic() - began < 1, "B waited", round(time.monotonic() - began, 1), "s")
    calm()
    # Requests in a second.
    with a.h2(host) as connection:
        statuses = []
        for _ in range(15):
            asked = [connection.request(connection.head(host, "/quick")) for _ in range(4)]
            statuses += [connection.wait(number) for number in asked]
            if any(s.status == 429 for s in statuses):
                break
    refused = [s for s in statuses if s.status == 429]
    fail_unless(refused and {s.status for s in statuses} == {200, 429}, [s.status for s in statuses])
    fail_unless(all(s.code == "agent-rate-limited" and s.values("retry-after") for s in refused), "no Retry-After")
    calm()
    # Requests under way, over all connections.
    time.sleep(1.1)
    hanging = [a.h2(host) for _ in range(2)]
    try:
        asked = [(c, c.request(c.head(host, f"/hang{i}"))) for i in range(3) for c in hanging]
        end = time.monotonic() + 3
        while len([r for r in mark.at(host) if "hang" in r.target]) < 4 and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.2)
        fail_unless(len([r for r in mark.at(host) if "hang" in r.target]) == 4, "under way:",
                    len([r for r in mark.at(host) if "hang" in r.target]))
        calm()
        release.set()
        outcomes = [c.wait(number) for c, number in asked]
        fail_unless({o.status for o in outcomes} <= {200, 429, 503, 0} and sum(o.status == 200 for o in outcomes) >= 4,
                    [o.status for o in outcomes])
    finally:
        release.set()
        for connection in hanging:
            connection.close()
    # Connections.
    time.sleep(1.1)
    held, statuses = [], []
    for _ in range(9):
        stream, answer = a.connect(f"{host}:443")
        held.append(stream)
        statuses.append(answer.status)
    fail_unless(statuses[:4] == [200] * 4 and statuses[-1] == 429 and set(statuses) == {200, 429}, statuses)
    calm()
    for stream in held:
        stream.close()
    time.sleep(1.1)
    expect(a.get(host, "/"), 200)
