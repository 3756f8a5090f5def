"""Grants that need no person: assertions, exchanged tokens, client certificates; and what becomes of them when the files
that they are read from are replaced while tokenward runs."""

import base64
import hashlib
import json
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from canaries import of_pem, of_token
from checks import check, claims, refused
from configuration import certificate, put, workload_token
from stage import CURL, fail_unless, wait_until

WORKLOAD = "system:serviceaccount:agents:coder"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


def call(s, agent, path, *arguments, variable="ITEMS_TOKEN", base=None, http="--http2"):
    agent = s.agents[agent]
    header = "Authorization: Bearer " + agent.environment[variable]
    return agent.curl("-H", header, *arguments, (base or s.api) + path, http=http)


def ledger(s, agent, path="/v1/whoami", *arguments, http="--http2"):
    return call(s, agent, path, *arguments, variable="LEDGER_TOKEN", base=s.world.mtls_api, http=http)


def said(answer):
    fail_unless(answer["http_code"] == 200, answer["http_code"], answer["body"][:300])
    return json.loads(answer["body"])["claims"]


def token_requests(s, mark):
    return [e for e in s.world.since(mark, "as") if e["url"] == "/token"]


def thumbprint(file):
    """`x5t#S256`, by Python's own reading of the certificate."""
    der = ssl.PEM_cert_to_DER_cert(file.read_text())
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()


@check
def jwt_bearer(s):
    "a workload token becomes a DPoP token, as client and in its name"
    s.ordinary()
    for agent, client in (("workload", "svc-workload"), ("bearer", "svc-exchange")):
        mark = s.world.collect()
        facts = said(call(s, agent, "/v1/whoami"))
        fail_unless((facts["sub"], facts["client_id"], facts["scope"]) == (WORKLOAD, client, "items:read"), facts)
        asked = token_requests(s, mark)
        fail_unless({(e["client"], e["grantType"]) for e in asked} == {(client, JWT_BEARER)}, asked[-1])
        fail_unless(asked[-1]["proof"] and asked[-1]["status"] == 200, asked[-1]["error"])
        fail_unless(not asked[-1]["authorization"] or client != "svc-workload", "a public client showed a credential")
    return f"sub {WORKLOAD}"


@check
def token_exchange(s):
    "an exchanged token names the actor, and the audit file says so"
    mark = s.world.collect()
    facts = said(call(s, "delegate", "/v1/whoami"))
    fail_unless((facts["sub"], facts["act"]) == ("alice", {"sub": "delegate"}), facts)
    asked = token_requests(s, mark)[-1]
    fail_unless((asked["client"], asked["grantType"], asked["status"]) == ("svc-exchange", EXCHANGE, 200), asked)

    def lines():
        return [json.loads(line) for line in s.config.audit.read_text().splitlines() if '"event":"token.exchanged"' in line]

    line = wait_until("a line in the audit file", lines)[-1]
    told = (line["agent"], line["service"], line["subject"], line["actors"])
    fail_unless(told == ("delegate", "items-delegate", "alice", ["delegate"]), line)
    return f"audit: subject {line['subject']}, actors {line['actors']}"


@check
def certificate_for_the_issuer(s):
    "tls_client_auth at the alias, DPoP at the API, no certificate there"
    mark = s.world.collect()
    facts = said(call(s, "certified", "/v1/whoami"))
    fail_unless("jkt" in facts["cnf"] and "x5t#S256" not in facts["cnf"], facts)
    asked = token_requests(s, mark)
    ports = {e["host"] for e in asked}
    fail_unless(ports == {s.world.mtls.removeprefix("https://")}, "asked at", ports)
    shown = {e["clientCertificate"] for e in asked}
    fail_unless(shown == {thumbprint(s.config.given / "svc-mtls.crt")}, "showed", shown)
    fail_unless(asked[-1]["client"] == "svc-mtls" and not asked[-1]["authorization"], asked[-1]["error"])
    seen = s.world.since(mark, "dpop-api")
    fail_unless(all(e["clientCertificate"] is None and e["dpop"] for e in seen), "the API saw a certificate, or no proof")
    return f"{len(asked)} token requests"


@check
def certificate_bound(s):
    "binding mtls: one certificate at issuer and API, HTTP/1.1 and HTTP/2"
    wanted = {"workload": "svc-mtls-bound", "delegate": "svc-mtls-bound", "certified": "second"}
    mark, asked_for = s.world.collect(), {}
    for agent, name in wanted.items():
        print_ = thumbprint(s.config.given / f"{name}.crt")
        before = s.world.collect()
        for http in ("--http1.1", "--http2"):
            facts = said(ledger(s, agent, http=http))
            fail_unless(facts["cnf"] == {"x5t#S256": print_}, facts["cnf"])
        seen = s.world.since(before, "mtls-api")
        asked = token_requests(s, before)
        fail_unless({e["clientCertificate"] for e in [*seen, *asked]} == {print_}, "another certificate")
        fail_unless(all(not e["dpop"] for e in [*seen, *asked]), "a proof")
        asked_for[agent] = {e["clientPort"] for e in seen}
    # A WebSocket goes by HTTP/1.1 upstream, too.
    agent = s.agents["workload"]
    agent.sent(1)
    agent.run(CURL, "-sSi", "--http1.1", "-m", "2", "-H", "Authorization: Bearer " + agent.environment["LEDGER_TOKEN"], "-H", "Connection: Upgrade",
              "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13", "-H", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
              s.world.mtls_api + "/v1/ws")
    upgraded = [e for e in s.world.since(mark, "mtls-api") if e["url"] == "/v1/ws"][-1]
    fail_unless((upgraded["status"], upgraded["httpVersion"]) == (101, "1.1"), upgraded["status"], upgraded["error"])
    fail_unless(upgraded["clientCertificate"] == thumbprint(s.config.given / "svc-mtls-bound.crt"), "another certificate")
    return f"{len(s.world.since(mark, 'mtls-api'))} API requests, {len(token_requests(s, mark))} token requests"


@check
def certificates_apart(s):
    "services with different certificates share no connection"
    mark = s.world.collect()
    agents = ["workload", "delegate", "certified"]
    with ThreadPoolExecutor(12) as pool:
        jobs = [pool.submit(ledger, s, agents[i % 3], f"/v1/items?a={agents[i % 3]}&i={i}", http=["--http1.1", "--http2"][i % 2])
                for i in range(48)]
        statuses = {job.result()["http_code"] for job in jobs}
    fail_unless(statuses == {200}, statuses)
    whose = {}
    for entry in s.world.since(mark, "mtls-api"):
        whose.setdefault(entry["clientPort"], set()).add((entry["url"].split("a=")[1].split("&")[0], entry["clientCertificate"]))
    fail_unless(all(len(owners) == 1 for owners in whose.values()), "shared:", whose)
    ports = {}
    for entry in (e for e in s.world.seen.values() if e["service"] == "as" and e["clientCertificate"]):
        ports.setdefault(entry["clientPort"], set()).add(entry["clientCertificate"])
    fail_unless(all(len(shown) == 1 for shown in ports.values()), "shared at the issuer:", ports)
    prints = {print_ for owners in whose.values() for _, print_ in owners}
    return f"{len(whose)} connections, {len(prints)} certificates"


@check
def stolen_bound_token(s):
    "a certificate-bound token is worth nothing without the certificate"
    token = s.world.since(0, "mtls-api")[-1]["authorization"][0].split()[1]
    others = certificate(s.world, s.dir, "thief", "svc-mtls-bound")
    s.planted.append(("a thief's key", of_pem(others[1])))
    host, port = s.world.mtls_api.removeprefix("https://").rsplit(":", 1)
    config = s.dir / "thief.curl"  # not an argument: others can read those
    config.write_text(f'header = "Authorization: Bearer {token}"\n')
    answers = []
    for shown in ([], ["--cert", str(others[0]), "--key", str(others[1])]):
        done = s.agents["coder"].run("env", "-i", CURL, "-sS", "-K", str(config), "--cacert", s.world.ca, "--resolve", f"{host}:{port}:127.0.0.1",
                                     *shown, "-o", "/dev/null", "-w", "%{http_code}", s.world.mtls_api + "/v1/items")
        answers.append(done.stdout.decode())
    config.unlink()
    fail_unless(answers == ["401", "401"], answers)
    return "401 without one, 401 with another of the same name"


@check
def workload_token_ends(s):
    "a dead workload token is shown to nobody; a new one serves at once"
    file = s.config.given / "workload.jwt"
    dead = workload_token(s.world, sub=WORKLOAD, ttl=-10)
    s.planted.append(("a dead workload token", of_token(dead)))
    s.planted.append(("the first workload token", of_token(file.read_text())))
    put(file, dead)
    mark = s.world.collect()
    write = lambda: call(s, "workload", "/v1/items", "--json", '{"name": "third"}')  # a scope set that has no token yet
    problem = refused(write(), 503, "identity-unavailable")
    fail_unless(problem["retryable"], problem)
    fail_unless(call(s, "workload", "/v1/items")["http_code"] == 200, "the token that is alive does not serve")
    fail_unless(not s.world.since(mark, "as"), "the issuer was asked")
    # As a volume is replaced: another file behind the name.
    put(file, workload_token(s.world, sub="system:serviceaccount:agents:second"))
    start = time.monotonic()
    wait_until("served with the new token", lambda: write()["http_code"] == 201 or time.sleep(0.2), 10)
    written = [e for e in s.world.since(mark, "dpop-api") if e["method"] == "POST"][-1]
    subject = claims(written["authorization"][0].split()[1])["sub"]
    fail_unless(subject == "system:serviceaccount:agents:second", "it speaks for", subject)
    return f"served {time.monotonic() - start:.1f} s after the file was replaced"


@check
def certificate_replaced(s):
    "a certificate is replaced under load: no request fails"
    given, over = s.config.given, threading.Event()
    before = thumbprint(given / "svc-mtls-bound.crt")
    s.planted.append(("the first certificate's key", of_pem(given / "svc-mtls-bound.key")))
    new = certificate(s.world, s.dir, "replacement", "svc-mtls-bound")
    mark = s.world.collect()

    def steady(i):
        agent, statuses = ["workload", "delegate"][i % 2], {}
        while not over.wait(0.1):
            answer = ledger(s, agent, f"/v1/items?s={i}", http=["--http1.1", "--http2"][i // 2])
            statuses[answer["http_code"]] = statuses.get(answer["http_code"], 0) + 1
        return statuses

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(steady, i) for i in range(4)]
        try:
            time.sleep(1)
            put(given / "svc-mtls-bound.crt", new[0].read_bytes())
            time.sleep(3)  # for so long the pair does not fit
            put(given / "svc-mtls-bound.key", new[1].read_bytes())
            start = time.monotonic()
            after = thumbprint(given / "svc-mtls-bound.crt")
            wait_until("requests with the new certificate", lambda: time.sleep(0.2) or any(
                e["clientCertificate"] == after for e in s.world.since(mark, "mtls-api")), 18)
            took = time.monotonic() - start
            time.sleep(2)
        finally:
            over.set()
        results = [r.result() for r in running]
    fail_unless(all(set(statuses) == {200} for statuses in results), "statuses", results)
    seen = s.world.since(mark, "mtls-api")
    bad = [e["error"] for e in seen if e["status"] != 200]
    fail_unless(not bad, "refused upstream:", len(bad), bad[:3])
    for entry in seen:
        bound = claims(entry["authorization"][0].split()[1])["cnf"]["x5t#S256"]
        fail_unless(bound == entry["clientCertificate"], "a token of one certificate over a connection of another")
    fail_unless({e["clientCertificate"] for e in seen} == {before, after}, "other certificates")
    fail_unless(seen[-1]["clientCertificate"] == after, "the old one still serves")
    return f"{sum(r[200] for r in results)} requests, the new one serves {took:.1f} s after it was there"
