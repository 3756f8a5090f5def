"""Class P: what belongs to operators (metrics, health, logs, errors), as agents see it."""

import json
import mmap
import re
import secrets
import socket
import threading
import time

from agent import Closed
from annex import Annex, annexed
from cases import case, expect, head, waits
from house import fail_unless
from keys import DAY, NOW

RO, ECHO = "api.ro.test", "echo.test"


def asked(agent, text, method="GET"):
    """One request to the proxy's own port; None where it closes without an answer."""
    with agent.plain() as stream:
        stream.send(text)
        try:
            return stream.answer(method)
        except Closed:
            return None


@case("P01", "the proxy is no way to its own ports", private=True, silent=True)
def run(house, mark):
    host, port = house.health
    for authority in (f"127.0.0.1:{port}", f"localhost:{port}", f"{host}:{port}", f"{host}:3128", f"[::1]:{port}",
                      f"[::ffff:{host}]:{port}",
                      f"0.0.0.0:{port}", f"127.0.0.53:{port}"):
        stream, answer = house.A.connect(authority)
        stream.close()
        fail_unless(answer.status in (400, 403), authority, answer.status)
        answer = asked(house.A, f"GET http://{authority}/metrics HTTP/1.1\r\nHost: {authority}\r\n{house.A.authorization}\r\n")
        fail_unless(answer.status in (400, 403) and b"tokenward_" not in answer.body, authority, answer.status)


@case("P01", "… not even where somebody allowed it on purpose", private=True, unheard=True)
def run(house, mark):
    rules = 'rules: [{allow: "* /**"}]'
    local = ["127.0.0.1", "127.0.0.9", "10.77.0.1", "45.33.32.10"]
    services = {f"connect{i}": f'{{hosts: [connect{i}.test], upstream: {{connect: "{address}:<HEALTH>", allow_private: true}}, {rules}}}'
                for i, address in enumerate(local)}
    services |= {"name": f"{{hosts: [p01.wild.test], port: <HEALTH>, upstream: {{allow_private: true}}, {rules}}}",
                 "loop": f'{{hosts: [loop.test], upstream: {{connect: "10.77.0.1:<PROXY>", allow_private: true}}, {rules}}}'}
    # On one address, and on all: then every address of this machine is its own.
    for health in (None, "0.0.0.0"):
        house.dns.answers["p01.wild.test"] = ["10.77.0.1"]
        annex = Annex(house, services, health=health)
        agent = annex.agents["A"]
        targets = [(f"connect{i}.test", 443) for i in range(len(local)) if health or local[i] == "10.77.0.1"]
        targets += [("p01.wild.test", annex.health[1]), ("loop.test", 443)]
        for host, port in targets:
            stream, answer = agent.connect(f"{host}:{port}")
            if answer.status == 200:
                stream.close()
                answer = agent.ask(host, head(host if port == 443 else f"{host}:{port}", "GET /metrics HTTP/1.1"), port=port)
            fail_unless(answer.status == 403 and answer.code == "destination-ip-prohibited", host, port, health, answer.status,
                        answer.code)
            fail_unless(b"tokenward_" not in answer.body, "metrics came back")
        refused = len(annex.events("connect.self_refused"))
        fail_unless(refused >= len(targets) - 1, refused, "events for", len(targets), "refusals")


class Operators:
    """An admin API on loopback TCP, spoken to from where an agent on the same machine could."""

    def __init__(self, house):
        self.token = f"op-{secrets.token_urlsafe(30)}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.place = free.getsockname()
        more = f'admin: {{listen: "127.0.0.1:{self.place[1]}", token: {{env: OPERATOR}}}}'
        self.annex = Annex(house, {"none": '{hosts: [echo.test], rules: [{allow: "* /**"}]}'}, more=more,
                           environment={"OPERATOR": self.token})

    def ask(self, line, *fields, body=""):
        """One request; its status and its head in lower case."""
        with socket.create_connection(self.place, timeout=5) as stream:
            lines = [f"{line} HTTP/1.1", *fields, f"Content-Length: {len(body)}"]
            stream.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
            answer = b""
            while piece := stream.recv(65536):
                answer += piece
        fail_unless(self.token.encode() not in answer, "the token came back")
        answered = answer.split(b"\r\n\r\n")[0].decode().lower()
        fail_unless("access-control-" not in answered and "no-store" in answered, answered)
        return int(answered.split(" ")[1])


@case("P02", "the admin API answers nobody without its token, and to no name but its own", private=True, silent=True)
def run(house, mark):
    desk = Operators(house)
    port, shown = desk.place[1], f"Authorization: Bearer {desk.token}"
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
        fail_unless(desk.ask("GET /v1/status", f"Host: {host}", shown) == 200, host)
        for wrong in ("X-Nothing: x", "Authorization: Bearer", f"Authorization: Bearer {desk.token[:-1]}",
                      f"Authorization: Basic {desk.token}", f"Proxy-Authorization: Bearer {desk.token}", f"Cookie: token={desk.token}",
                      f"Authorization: Bearer {desk.annex.tokens['A']}"):
            fail_unless(desk.ask("GET /v1/status", f"Host: {host}", wrong) == 401, wrong)
        fail_unless(desk.ask(f"GET /v1/status?token={desk.token}", f"Host: {host}") == 401, "in the query")
    for host in (f"evil.test:{port}", f"127.0.0.1.evil.test:{port}", f"localhost.evil.test:{port}", "echo.test", ""):
        fail_unless(desk.ask("GET /v1/status", f"Host: {host}", shown) == 421, host)
    fail_unless(desk.annex.events("auth.admin_failed"), "no event")


@case("P03", "a page in a browser changes nothing, though it had the token", private=True, silent=True)
def run(house, mark):
    desk = Operators(house)
    host, shown = f"Host: localhost:{desk.place[1]}", f"Authorization: Bearer {desk.token}"
    json_type = "Content-Type: application/json"
    fail_unless(desk.ask("GET /v1/rotate", host, shown) == 405, "GET")
    fail_unless(desk.ask("GET /v1/logins?service=none&_method=POST", host, shown) == 200, "only shown")
    for fields in ([json_type, "Origin: http://localhost"], [json_type, "Origin: null"], ["Content-Type: text/plain"],
                   ["Content-Type: application/x-www-form-urlencoded"], []):
        fail_unless(desk.ask("POST /v1/rotate", host, shown, *fields, body="{}") == 403, fields)
    fail_unless(desk.ask("OPTIONS /v1/rotate", host, shown, "Origin: http://evil.test",
                         "Access-Control-Request-Method: POST") == 403, "preflight")
    fail_unless(desk.ask("POST /v1/rotate", host, shown, json_type, body="{}") == 200, "as the verbs do")


def series(metrics):
    return {line.rsplit(" ", 1)[0] for line in metrics.splitlines() if line and not line.startswith("#")}


@case("P04", "agents make no series", private=True, lines_wanted=None)
def run(house, mark):
    # 1,500 names stand for the page's 100,000: a name of its own for each would show by the twenty-first.
    rules = 'rules: [{allow: "* /v1/**"}]'
    annex = Annex(house, {"wild": f'{{hosts: ["*.wild.test"], upstream: {{<CA>}}, {rules}}}'}, who=[f"a{i}" for i in range(5)],
                  log="error")
    agents = list(annex.agents.values())
    with agents[0].tunnel("x.wild.test") as stream:
        for line in ("GET /v1/x", "GET /denied", "POST /v1/x"):
            stream.send(head("x.wild.test", f"{line} HTTP/1.1", "Content-Length: 0"))
            stream.answer()
    before, word = series(annex.metrics()), secrets.token_hex(4)

    def hosts(agent, part):
        stream = agent.plain()
        for i in range(280):
            name = f"{word}{part}x{i}.example"
            for _ in range(2):
                try:
                    stream.send(f"CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n{agent.authorization}\r\n")
                    answer = stream.answer("CONNECT")
                    fail_unless(answer.status in (403, 429), answer.status)
                    break
                except Closed:
                    stream = agent.plain()
            if not answer.values("connection") and i % 50:
                continue
            stream.close()
            stream = agent.plain()
        stream.close()
    threads = [threading.Thread(target=hosts, args=(agent, i), daemon=True) for i, agent in enumerate(agents)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(14)
    fail_unless(not any(t.is_alive() for t in threads), "not done in time")
    agent = agents[0]
    for i in range(15):
        host = f"{word}{i}.wild.test"
        data = head(host, f"{word.upper()}{i} /v1/{word}/{i}?{word} HTTP/1.1", f"User-Agent: {word}", f"X-{word}: {word}")
        try:
            agent.ask(host, data)
            agent.get(host, f"/v1/{word}{i}")
        except Closed:
            pass
        asked(agent, f"GET http://{word}{i}.example/{word} HTTP/1.1\r\nHost: {word}{i}.example\r\n{agent.authorization}\r\n")
        asked(agent, f"GET http://x/ HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {word}{i}\r\n\r\n")
    metrics = annex.metrics()
    new = series(metrics) - before
    buckets = [s for s in new if "_bucket" in s or "_sum" in s or "_count" in s]
    # A histogram's series come together with its first observation.
    fail_unless(len(new) - len(buckets) <= 20, len(new) - len(buckets), "new series:", sorted(new)[:5])
    fail_unless(word not in metrics.lower(), "an agent's words stand in the metrics")


@case("P05", "what agents write is one line, escaped and short", lines_wanted=None)
def run(house, mark):
    forged = '{"level":"info","event":"request","agent":"B","status":200}'
    paths = [f"/v1/items/%0a{forged.replace(chr(34), '%22')}", "/v1/items/%0d%0a%1b%5b2J", "/v1/items/%e2%80%a8%e2%80%ae",
             "/v1/items/" + "a" * 8000,
             "/v1/items/" + "%41" * 2500, "/v1/items/%22%5c%22%7d", "/v1/items/" + "%f0%9f%92%a9" * 500]
    fields = ["User-Agent: \x1b[2J\x1b]0;owned\x07", "User-Agent: x\x85\x9b2J", "X-Note: " + forged,
              "User-Agent: " + "u" * 60_000,
              "Referer: https://x/\x1b[31m", "X-Long: " + "l" * 1_000_000, "X\x1b: y", "User-Agent: \\n{}\\u001b"]
    answered = 0
    for path in paths:
        expect(house.A.ask(RO, head(RO, f"GET {path} HTTP/1.1")), 200, 400, 403, 414)
        answered += 1
    for field in fields:
        try:
            expect(house.A.ask(RO, head(RO, "GET /v1/items/1 HTTP/1.1", field)), 200, 400, 431)
            answered += 1
        except Closed:
            pass
    for method in ('GET"', "G\x1bT", "A" * 2000, '{"a":1}'):
        try:
            expect(house.A.ask(RO, head(RO, f"{method} /v1/items/1 HTTP/1.1")), 400, 403, 405, 414, 431)
            answered += 1
        except Closed:
            pass
    for authority in ("evil\x1b.test:443", '{"a":1}:443', "x" * 5000 + ":443", "evil.test:443\x1b[2J"):
        answer = asked(house.A, f"CONNECT {authority} HTTP/1.1\r\nHost: x\r\n{house.A.authorization}\r\n", "CONNECT")
        fail_unless(answer is None or answer.status in (400, 403, 414, 431), authority[:20], answer and answer.status)
    time.sleep(0.1)
    with house.audit.open("rb") as file:
        file.seek(mark.audit)
        raw = file.read()
    lines = raw.split(b"\n")[:-1]
    for line in lines:
        fail_unless(len(line) <= 8192, "a line of", len(line), "bytes")
        fail_unless(not re.search(rb"[\x00-\x1f\x7f]", line), "control characters in a line")
        document = json.loads(line)
        fail_unless(document.get("agent") in (None, "A"), "a line of agent", document.get("agent"))
    fail_unless(len(lines) >= answered, len(lines), "lines for", answered, "answers")
    # The log is for terminals.
    for path, start in mark.files.items():
        with path.open("rb") as file:
            file.seek(start)
            for line in file:
                fail_unless(not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", line), "control characters in", path.name, line[:200])
                fail_unless(forged.encode() not in line[:len(forged) + 1], "a forged line in", path.name)


DEBUG = ["/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/profile", "/debug/vars", "/debug", "/console", "/tokio", "/heap",
         "/heapdump", "/allocz",
         "/memory", "/config", "/env", "/status", "/admin", "/admin/", "/api", "/quitquitquit", "/shutdown", "/reload", "/stats",
         "/config_dump", "/certs",
         "/server_info", "/clusters", "/actuator", "/actuator/heapdump", "/actuator/env", "/trace", "/threads", "/logging", "/",
         "/metrics/", "/metrics/x"]


def plainly(address, text):
    """What a port says to these bytes."""
    with socket.create_connection(address, timeout=5) as stream:
        stream.sendall(text.encode())
        return b"".join(iter(lambda: stream.recv(65536), b""))


@case("P06", "no debugging behind any port, none built in")
def run(house, mark):
    for path in DEBUG:
        for method in ("GET", "POST"):
            told = plainly(house.health, f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            status = int(told.split(b" ", 2)[1])
            fail_unless(status in (400, 404, 405), method, path, status)
    with house.binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for word in (b"console_subscriber", b"console-subscriber", b"rs.tokio.console", b"pprof::", b"/debug/pprof",
                     b"jemalloc_ctl", b"dhat-heap"):
            fail_unless(text.find(word) < 0, word.decode(), "is built in")


@case("P08", "health says ok or not, and to agents nothing at all", lines_wanted=None)
def run(house, mark):
    for path in ("/livez", "/readyz"):
        for more in ("", "?verbose", "?verbose=1&exclude=x"):
            told = plainly(house.health, f"GET {path}{more} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            fields, _, body = told.partition(b"\r\n\r\n")
            fail_unless(b" 200 " in fields.split(b"\r\n")[0] or more, path, fields)
            fail_unless(len(body) <= 16 and not re.search(rb"[0-9/:.]", body), path, "tells", body)
            for name in (b"server", b"via", b"access-control", b"x-powered-by"):
                fail_unless(b"\r\n" + name not in fields.lower(), name, "in", fields)
    for method in ("POST", "PUT", "DELETE", "TRACE", "CONNECT"):
        told = plainly(house.health,
                       f"{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nX-Echo: secret\r\nConnection: close\r\n\r\n")
        fail_unless(told == b"" or int(told.split(b" ", 2)[1]) in (400, 404, 405), method, told[:100])
        fail_unless(b"secret" not in told, method, "echoes")
    # On the port of agents there is none, in any form and for anybody.
    for agent in (house.Z, house.A):
        for path in ("/livez", "/readyz", "/metrics", "/healthz", "/health", "/"):
            for target in (path, f"http://{house.proxy_address[0]}:{house.proxy_address[1]}{path}", f"http://tokenward{path}"):
                answer = asked(agent, f"GET {target} HTTP/1.1\r\nHost: tokenward\r\n{agent.authorization}\r\n")
                if answer:
                    fail_unless(answer.status in (400, 403, 407, 421, 429), target, answer.status)
                    fail_unless(b"tokenward_" not in answer.body, target, answer.body[:100])


# What an error may consist of.
MEMBERS = {"type", "title", "status", "detail", "instance", "code", "service", "retryable", "retry_after", "remedy", "rule",
           "scopes", "oauth_error", "upstream_status"}
TELLTALE = re.compile(rb"(?<![0-9.])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![0-9])|/work|/tmp|/home|/root|/src/|\.rs\b|rustls|hyper|tokio|h2::|webpki|aws.lc|os error"
                      rb"|errno|panick|backtrace|0x[0-9a-f]{6}|stack|anyhow|Caused by|127\.0|::1|kind:|Err\(|Some\(|BadSignature|UnknownIssuer|Connection refused"
                      rb"|ECONN|canary", re.IGNORECASE)


@case("P07", "errors tell a code and an id", private=True, unheard=True, lines_wanted=None, patience=1)
def run(house, mark):
    answers, token = {}, "x-canary-" + secrets.token_hex(6)

    def inner(label, host, line="GET / HTTP/1.1", *fields, agent=house.A, body=""):
        try:
            answers[label] = agent.ask(host, head(host, line, *fields, body=body))
        except Closed:
            pass

    def outer(label, text, method="CONNECT"):
        answer = asked(house.A, text.replace("<A>", house.A.authorization), method)
        if answer:
            answers[label] = answer
    # The agent's own fault.
    outer("407", "CONNECT api.ro.test:443 HTTP/1.1\r\nHost: x\r\n\r\n")
    outer("host", "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n<A>\r\n")
    outer("port", "CONNECT api.ro.test:22 HTTP/1.1\r\nHost: x\r\n<A>\r\n")
    outer("address", "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: x\r\n<A>\r\n")
    outer("bad", "CONNECT a@b:443 HTTP/1.1\r\nHost: x\r\n<A>\r\n")
    outer("tls", f"GET http://{RO}/ HTTP/1.1\r\nHost: {RO}\r\n<A>\r\n", "GET")
    outer("origin-form", f"GET / HTTP/1.1\r\nHost: {RO}\r\n<A>\r\n", "GET")
    for label, line, *fields in [("policy", "GET /v1/admin HTTP/1.1"), ("method", "DELETE /v1/items/1 HTTP/1.1"),
                                 ("trace", "TRACE / HTTP/1.1"),
                                 ("names", "GET /v1/items/1 HTTP/1.1", "Host: evil.test"),
                                 ("path", "GET /v1/items/%zz HTTP/1.1"),
                                 ("expect", "GET /v1/items/1 HTTP/1.1", "Expect: x"),
                                 ("coding", "POST /v1/items HTTP/1.1", "Transfer-Encoding: gzip"),
                                 ("large", "GET /v1/items/1 HTTP/1.1", "X: " + "y" * 70000),
                                 ("long", f"GET /v1/items/{'z' * 40000} HTTP/1.1"),
                                 ("connect", "CONNECT evil.test:443 HTTP/1.1"),
                                 ("override", "GET /v1/items/1 HTTP/1.1", "X-HTTP-Method-Override: DELETE"),
                                 ("placeholder", "GET /v1/items/1 HTTP/1.1",
                                  f"Authorization: Bearer {list(texts(house.placeholders['A'], 'ph-rw-'))[0]}")]:
        inner(label, RO, line, *fields)
    # The upstream's: each tells us something that must stay here.
    house.dns.answers |= {"p07-private.wild.test": ["10.0.0.5"], "p07-none.wild.test": [], "p07-dead.wild.test": ["45.33.32.98"]}
    for host in ("p07-private.wild.test", "p07-none.wild.test", "p07-dead.wild.test"):
        inner(host, host)
    bad = house.ca.server(house.dir, ["p07-cert.wild.test"], start=NOW - 5 * DAY, end=NOW - DAY)
    house.open_origin("p07-cert.wild.test", context=bad)
    inner("certificate", "p07-cert.wild.test")
    broken = house.open_origin("p07.wild.test")
    for label, raw in {"nonsense": f"{token}\r\n\r\n", "status": f"HTTP/1.1 999x {token}\r\n\r\n",
                       "framing": f"HTTP/1.1 200 {token}\r\nContent-Length: 1\r\n"
                       "Content-Length: 2\r\n\r\n", "field": f"HTTP/1.1 200 OK\r\n{token}\0: x\r\n\r\n", "nothing": ""}.items():
        broken.behave = lambda record, conversation, raw=raw: speak(conversation, raw)
        inner(label, "p07.wild.test")
    house.origins[RO].behave = lambda record, conversation: (
        401, [("www-authenticate", f'DPoP error="{token}", error_description="{token}"'), ("x-debug", token)],
        f"{token} in /srv/app.py")
    inner("challenge", RO, "GET /v1/items/1 HTTP/1.1")
    # The issuer's.
    annex, issuer, api = annexed(house, "p07", who=[f"a{i}" for i in range(4)])
    json_type = [("content-type", "application/json")]
    for number, said in enumerate([(500, [], token), (400, json_type, json.dumps({"error": "invalid_client",
            "error_description": token})),
                                   (400, json_type, json.dumps({"error": token})),
                                   (200, json_type, json.dumps({"access_token": token, "token_type": "Bearer"}))]):
        issuer.answer = lambda record, conversation, said=said: said
        inner(f"issuer{number}", api.host, agent=annex.agents[f"a{number}"])
    wanted = {"407", "host", "policy", "names", "bad", "large", "certificate", "nonsense", "challenge", "issuer0", "issuer3",
              "p07-dead.wild.test"}
    fail_unless(wanted <= set(answers), "no answer for", wanted - set(answers))
    for label, answer in answers.items():
        fail_unless(answer.status >= 400, label, "was answered", answer.status)
        if answer.status == 400 and not answer.body:
            continue  # said by the HTTP library: the next case asks for our own words
        fail_unless(answer.values("content-type") == ["application/problem+json"], label, answer.fields)
        document = json.loads(answer.body)
        fail_unless(set(document) <= MEMBERS, label, "has", set(document) - MEMBERS)
        fail_unless(document["type"] == f"urn:tokenward:problem:{document['code']}" and document["status"] == answer.status,
                    label, document)
        fail_unless(re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", document["instance"]), label, document["instance"])
        # Fields and body alike; the date and the length are nobody's secret.
        text = answer.body + "\n".join(f"{n}: {v}" for n, v in answer.fields if n not in ("date",
                "content-length")).encode("latin-1")
        found = TELLTALE.search(text.replace(document["instance"].encode(), b""))
        fail_unless(not found, label, "tells", found and found.group())
        fail_unless(len(answer.body) < 1500, label, len(answer.body), "bytes")
        fail_unless(not any(n in ("server", "www-authenticate", "x-debug") or n.startswith("access-control") for n,
                            _ in answer.fields), label, answer.fields)


@case("P07", "what cannot even be read is refused in the same words")
def run(house, mark):
    table = [("HTTP/7.1", 400, "bad-request", "GET / HTTP/7.1"), ("HTTP/2.0", 400, "bad-request", "GET / HTTP/2.0"),
             ("no version", 400, "bad-request", "GET /"),
             ("a coding", (400, 501), ("bad-request", "upgrade-not-supported"),
              "POST /v1/items/1 HTTP/1.1\r\nHost: api.ro.test\r\nTransfer-Encoding: gzip"),
              ("a target of 70 kB", 414, "uri-too-long", f"GET /v1/items/{'z' * 70000} HTTP/1.1"),
             ("a target of 300 kB", 414, "uri-too-long", f"GET /v1/items/{'z' * 300000} HTTP/1.1"),
             ("a field of 300 kB", 431, "head-too-large", f"GET /v1/items/1 HTTP/1.1\r\nHost: {RO}\r\nX: {'y' * 300000}")]
    wrong = []
    for label, status, code, line in table:
        try:
            answer = house.A.ask(RO, head(RO, line))
        except Closed:
            continue  # closing without an answer is fine where nothing could be understood
        if answer.status not in flat(status) or answer.code not in flat(code):
            wrong.append(f"{label}: {answer.status} {answer.code}")
    fail_unless(not wrong, "; ".join(wrong))


def flat(one_or_more):
    return one_or_more if isinstance(one_or_more, tuple) else (one_or_more,)


def speak(conversation, raw):
    conversation.send(raw.encode("latin-1"))
    raise ConnectionError


def texts(document, prefix):
    """Strings anywhere in a document that begin so."""
    if isinstance(document, str):
        yield from [document] if document.startswith(prefix) else []
    elif isinstance(document, (dict, list)):
        for value in document.values() if isinstance(document, dict) else document:
            yield from texts(value, prefix)
