"""The checks, in the order in which they run. Each says in its first line what holds, and answers with figures."""

import base64
import hashlib
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from canaries import Search, of_pem, of_token
from configuration import AGENTS, Config
from stage import CURL, HOSTS, PLACEHOLDER, Agent, Proxy, World, fail_unless, load, wait_until


@dataclass
class Stage:
    world: World
    proxy: Proxy
    config: Config
    agents: dict
    dir: Path
    load: int
    minutes: float
    planted: list  # (name, values) of secrets that checks made

    @property
    def api(self):
        return self.world.dpop_api

    @property
    def plain(self):
        return self.world.plain_api


    def ordinary(self):
        """The settings that most checks want. Tokens live long, so that only what a check does ends one."""
        self.world.set(nonceMode="rotating", accessTokenTtl=900, clockSkew=0)


ALL = []
LAST = []  # what holds over everything that was seen


def check(function):
    ALL.append(function)
    return function


def last(function):
    LAST.append(function)
    return function


def nonce_challenges(entries):
    return sum("use_dpop_nonce" in (e["error"] or "") for e in entries)


def claims(token):
    part = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def placeholder(agent, variable="ITEMS_TOKEN"):
    return "Authorization: Bearer " + agent.environment[variable]


def get(s, agent="coder", path="/v1/items", **more):
    agent = s.agents[agent]
    return agent.curl("-H", placeholder(agent), s.api + path, **more)


def refused(answer, status, code):
    fail_unless(answer["http_code"] == status, "status", answer["http_code"], "instead of", status, answer["body"][:300])
    problem = json.loads(answer["body"])
    fail_unless(problem["code"] == code, "code", problem["code"], "instead of", code)
    fail_unless(f'details="{code}"' in answer["head"], "no Proxy-Status in", answer["head"])
    return problem


def tallied(total, challenges=0):
    return (f"{total['requests']} requests, " + ", ".join(f"{n} by HTTP/{v}" for v, n in sorted(total["versions"].items()))
            + (f", {challenges} nonce challenges upstream" if challenges is not None else ""))


# ---- the way there


@check
def no_way_around(s):
    "without the proxy no client finds the APIs"
    for host in HOSTS.values():
        try:
            socket.getaddrinfo(host, 443)
        except OSError:
            continue
        raise AssertionError(f"{host} resolves: a pass would not mean that the proxy was used")
    for agent in s.agents.values():
        fail_unless("PATH" not in agent.environment and "HOME" not in agent.environment, "more than `env` printed")
    return f"{len(s.agents['coder'].environment)} variables from `tokenward env`"


@check
def configuration_checks(s):
    "`check` accepts the configuration, `explain` knows the rules"
    done = s.proxy.verb("check", environment=s.proxy.environment)
    fail_unless(done.returncode == 0, done.stdout, done.stderr)
    for method, code in (("GET", 0), ("DELETE", 1)):
        done = s.proxy.verb("explain", method, s.api + "/v1/items/1", "--agent", "coder")
        fail_unless(done.returncode == code, method, "ended with", done.returncode, done.stdout, done.stderr)


@check
def first_request(s):
    "private_key_jwt and secret_basic both lead to a 200"
    s.ordinary()
    figures = []
    for agent, client in (("coder", "svc-pkjwt"), ("reviewer", "svc-basic")):
        mark = s.world.collect()
        answer = get(s, agent)
        fail_unless(answer["http_code"] == 200, answer["http_code"], answer["body"])
        tokens = [e for e in s.world.since(mark, "as") if e["url"] == "/token"]
        fail_unless(tokens[-1]["client"] == client and tokens[-1]["status"] == 200, tokens[-1]["error"])
        figures.append(f"{client}: {len(tokens)} token requests, {len(s.world.since(mark, 'dpop-api'))} API requests")
    return "; ".join(figures)


@check
def least_scope(s):
    "reads carry items:read and nothing else, writes items:write"
    answer = get(s, path="/v1/whoami")
    fail_unless(answer["http_code"] == 200, answer["body"])
    scope = json.loads(answer["body"])["claims"]["scope"]
    fail_unless(scope == "items:read", "a read carries", scope)
    mark = s.world.collect()
    agent = s.agents["coder"]
    for prefix in ("/v1", "/auth0/v1"):
        answer = agent.curl("-H", placeholder(agent), "--json", '{"name": "second"}', f"{s.api}{prefix}/items")
        fail_unless(answer["http_code"] == 201, answer["http_code"], answer["body"])
    writes = [e for e in s.world.since(mark, "dpop-api") if e["method"] == "POST"]
    for entry in writes:
        scope = claims(entry["authorization"][0].split()[1])["scope"]
        fail_unless(scope == "items:write", "a write carries", scope)
    asked = {e["scope"] for e in s.world.since(0, "as") if e["url"] == "/token"}
    fail_unless(asked == {"items:read", "items:write"}, "asked the issuer for", asked)


@check
def many_requests(s):
    "20 clients at once, a new nonce with every answer"
    mark = s.world.collect()
    total = load([s.agents["coder"], s.agents["reviewer"]], s.api, s.load // 20)
    upstream = s.world.since(mark, "dpop-api")
    issuer = s.world.since(mark, "as")
    challenges = nonce_challenges(upstream)
    fail_unless(total["statuses"] == {"200": total["requests"]}, "statuses", total["statuses"])
    fail_unless(total["challenges"] == 0, "agents saw", total["challenges"], "challenges")
    fail_unless({"1.1", "2"} <= set(total["versions"]), "versions", total["versions"])
    fail_unless(challenges <= 5, challenges, "nonce challenges upstream")
    fail_unless(len(upstream) == total["requests"] + challenges, len(upstream), "requests upstream")
    for entry in upstream:
        scope = claims(entry["authorization"][0].split()[1])["scope"]
        fail_unless(scope == "items:read", "a read carries", scope)
    alpn = sorted({e["alpn"] or "none" for e in upstream})
    return f"{tallied(total, challenges)}, ALPN upstream {'+'.join(alpn)}, {len(issuer)} at the issuer"


@check
def one_connection(s):
    "100 requests side by side on one HTTP/2 connection"
    agent, count = s.agents["coder"], 100
    urls = [f"{s.api}/v1/items?z={i}" for i in range(count)]
    done = agent.run(CURL, "-sSi", "--no-progress-meter", "--http2", "--parallel", "--parallel-max", "50", "-H", placeholder(agent),
                     "-w", "%{stderr}%{http_code} %{http_version} %{num_connects}\\n", *urls)
    agent.sent(count)
    lines = [line.split() for line in done.stderr.decode().splitlines() if line[:1].isdigit()]
    fail_unless(done.returncode == 0 and len(lines) == count, "curl", done.returncode, done.stderr[-300:])
    fail_unless({tuple(line[:2]) for line in lines} == {("200", "2")}, lines[:5])
    return f"{sum(int(line[2]) for line in lines)} connections"


@check
def expired_nonces(s):
    "nonces expire under load: at most one more request each"
    mark = s.world.collect()
    size, expired = 20, []

    def expire(running):
        for _ in range(3):
            seen = s.world.collect()
            wait_until("some requests", lambda: s.world.collect() > seen + 60, 30)
            if not all(r.done() for r in running):
                s.world.do("expire-nonces")
                expired.append(1)

    total = load([s.agents["coder"], s.agents["reviewer"]], s.api, 30, expire)
    upstream = s.world.since(mark, "dpop-api")
    challenges = nonce_challenges(upstream)
    fail_unless(expired, "the load ended before a nonce did")
    fail_unless(total["statuses"] == {"200": total["requests"]}, "statuses", total["statuses"])
    fail_unless(total["challenges"] == 0, "agents saw", total["challenges"], "challenges")
    times = {}
    for entry in upstream:
        times[entry["url"]] = times.get(entry["url"], 0) + 1
    fail_unless(max(times.values()) <= 2, "one request went out", max(times.values()), "times")
    fail_unless(1 <= challenges <= size * len(expired), challenges, "challenges for", len(expired), "expiries")
    return f"{tallied(total, challenges)}, {len(expired)} expiries"


@check
def issuer_nonces(s):
    "the issuer's nonces expire: the next token is had all the same"
    agent = s.agents["reviewer"]
    mark = s.world.collect()
    s.world.do("expire-as-nonces")
    answer = agent.curl("-H", placeholder(agent), "--json", '{"name": "third"}', f"{s.api}/v1/items")  # new scopes
    fail_unless(answer["http_code"] == 201, answer["http_code"], answer["body"])
    asked = [e for e in s.world.since(mark, "as") if e["url"] == "/token"]
    fail_unless(len(asked) <= 2, len(asked), "token requests")
    return f"{len(asked)} token requests"


@check
def single_use_nonces(s):
    "nonces that are good once, one request after the other"
    s.world.set(nonceMode="single-use")
    mark = s.world.collect()
    agent = s.agents["coder"]
    total = agent.many_curls("--http2", [f"{s.api}/v1/items?s={i}" for i in range(50)], placeholder(agent))
    s.ordinary()
    challenges = nonce_challenges(s.world.since(mark, "dpop-api"))
    fail_unless(total["statuses"] == {"200": 50} and challenges <= 1, total["statuses"], challenges, "challenges")
    return tallied(total, challenges)


@check
def soak(s):
    "load and faults for as long as --minutes says"
    faults = [lambda: s.world.do("expire-nonces"), lambda: s.world.do("expire-as-nonces"), lambda: s.world.do("rotate-nonce"),
              lambda: s.world.set(accessTokenTtl=10), lambda: s.world.set(accessTokenTtl=900), lambda: s.world.set(asDelay=300),
              lambda: s.world.set(asDelay=0), lambda: s.world.do("expire-nonces")]
    end, rounds, memory = time.monotonic() + 60 * s.minutes, 0, []
    mark = s.world.collect()
    while time.monotonic() < end:
        def fault(running):
            time.sleep(1)
            faults[rounds % len(faults)]()

        total = load([s.agents["coder"], s.agents["reviewer"]], s.api, 40, fault)
        fail_unless(total["statuses"] == {"200": total["requests"]}, "round", rounds, "statuses", total["statuses"])
        fail_unless(total["challenges"] == 0, "round", rounds, "agents saw", total["challenges"], "challenges")
        rounds += 1
        memory.append(s.proxy.memory())
        s.world.collect()
    s.world.set(asDelay=0)
    s.ordinary()
    warm = memory[min(2, len(memory) - 1)]
    fail_unless(memory[-1] < warm + 32, "memory grew from", warm, "to", memory[-1], "MiB")
    challenges = nonce_challenges(s.world.since(mark, "dpop-api"))
    return f"{rounds} rounds of 800 requests, {challenges} nonce challenges upstream, {warm} to {memory[-1]} MiB"


# ---- what policy and failures look like


@check
def denied(s):
    "DELETE is refused as policy-denied and nobody hears of it"
    mark = s.world.collect()
    for http in ("--http1.1", "--http2"):
        agent = s.agents["coder"]
        answer = agent.curl("-X", "DELETE", "-H", placeholder(agent), s.api + "/v1/items/1", http=http)
        refused(answer, 403, "policy-denied")
    fail_unless(s.world.collect() == mark, "the world saw", s.world.collect() - mark, "requests")


@check
def unknown_host(s):
    "a host that no service has is refused at CONNECT"
    agent = s.agents["coder"]
    mark = s.world.collect()
    done = agent.run(CURL, "-sSi", "-w", "%{stderr}%{json}", "https://elsewhere.world.test/")
    agent.sent(1)
    facts = json.loads(done.stderr.decode().splitlines()[-1])
    fail_unless(done.returncode != 0 and facts["http_connect"] == 403, "CONNECT was answered", facts["http_connect"])
    fail_unless(s.world.collect() == mark, "the world saw something")


@check
def wrong_proxy_token(s):
    "a wrong proxy token is answered 407"
    agent = s.agents["coder"]
    proxy = agent.environment["https_proxy"]
    wrong = proxy.rsplit("@", 1)[0] + "x@" + proxy.rsplit("@", 1)[1]
    done = subprocess.run([CURL, "-sS", "-x", wrong, "-w", "%{stderr}%{json}", s.api + "/v1/items"], capture_output=True,
                          env=agent.environment, timeout=30)
    agent.sent(1)
    facts = json.loads(done.stderr.decode().splitlines()[-1])
    fail_unless(done.returncode != 0 and facts["http_connect"] == 407, "CONNECT was answered", facts["http_connect"])


@check
def static_key(s):
    "the API that knows only keys gets the key"
    agent = s.agents["coder"]
    for header in ("x-api-key: ", "Authorization: Bearer "):
        mark = s.world.collect()
        answer = agent.curl("-H", header + agent.environment["PLAIN_TOKEN"], s.plain + "/v1/models")
        fail_unless(answer["http_code"] == 200, answer["http_code"], answer["body"])
        entry, = s.world.since(mark, "plain-api")
        sent = [value for name, value in entry["headers"] if name == "x-api-key"]
        fail_unless(sent == s.world.api_keys, "x-api-key was sent", len(sent), "times")
        fail_unless(not entry["authorization"], "what the agent sent went on")
    answer = agent.curl("-H", "x-api-key: " + agent.environment["PLAIN_TOKEN"], "--json", '{"stream": true}', s.plain + "/v1/messages")
    fail_unless(answer["http_code"] == 200 and "message_stop" in answer["body"], answer["http_code"], answer["body"][-300:])


@check
def bearer_token(s):
    "binding: bearer by secret_post; the API gets a Bearer token"
    agent = s.agents["reviewer"]
    mark = s.world.collect()
    answer = agent.curl("-H", placeholder(agent, "PLAIN_TOKEN"), s.plain + "/v1/whoami")
    fail_unless(answer["http_code"] == 200, answer["http_code"], answer["body"])
    entry, = s.world.since(mark, "plain-api")
    fail_unless(entry["authorization"][0].startswith("Bearer ") and not entry["dpop"], "not a bare Bearer token")
    fail_unless(s.world.since(mark, "as")[-1]["client"] == "svc-bearer", "another client asked")


def unavailable(s, agent):
    """The agent's DPoP service has no token, its other service goes on."""
    client = s.agents[agent]
    mark = s.world.collect()
    with ThreadPoolExecutor() as pool:
        start = time.monotonic()
        waiting = [pool.submit(get, s, agent, http=http) for http in ("--http1.1", "--http2") for _ in range(3)]
        other = client.curl("-H", "x-api-key: " + client.environment["PLAIN_TOKEN"], s.plain + "/v1/models")
        took = time.monotonic() - start
        answers = [w.result() for w in waiting]
    fail_unless(other["http_code"] == 200 and took < 2, "the other service answered", other["http_code"], "after", took)
    for answer in answers:
        problem = refused(answer, 503, "as-unavailable")
        fail_unless(problem["retryable"], "not retryable")
        fail_unless(answer["time_total"] < 6, "after", answer["time_total"], "s")
        after = [line for line in answer["head"].lower().split("\n") if line.startswith("retry-after:")]
        fail_unless(after and int(after[0].split(":")[1]) <= 30, "Retry-After", after)
    fail_unless(not s.world.since(mark, "dpop-api"), "the API saw requests")
    asked = len([e for e in s.world.since(mark, "as") if e["url"] == "/token"])
    return f"after {max(a['time_total'] for a in answers):.2f} s, {asked} token requests for {len(answers)} requests"


@check
def issuer_gone(s):
    "no issuer at all: 503 as-unavailable, other services go on"
    return unavailable(s, "stranded")


@check
def issuer_fails(s):
    "the issuer answers 503: as-unavailable, and well again after it"
    s.world.do("fail", service="as", status=503, times=100_000)
    try:
        figures = unavailable(s, "late")
    finally:
        s.world.do("reset")
        s.ordinary()
    start = time.monotonic()

    def again():
        time.sleep(0.2)
        return get(s, "late")["http_code"] == 200

    wait_until("served again", again, 35)
    return f"{figures}; served again {time.monotonic() - start:.1f} s after its recovery"


@check
def revoked(s):
    "tokens are revoked at the issuer: the next call is a 200"
    mark = s.world.collect()
    s.world.do("revoke-tokens")
    answer = get(s)
    fail_unless(answer["http_code"] == 200, answer["http_code"], answer["body"])
    alone = len(s.world.since(mark, "as"))
    mark = s.world.collect()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda i: get(s, "reviewer", f"/v1/items?v={i}"), range(10)))
    statuses = [a["http_code"] for a in answers]
    fail_unless(set(statuses) == {200}, "side by side", statuses)
    asked = [e for e in s.world.since(mark, "as") if e["url"] == "/token"]
    fail_unless(len(asked) <= 2, len(asked), "token requests for 10 requests side by side")
    return f"{alone} token requests, {len(asked)} for 10 requests side by side"


@check
def short_tokens(s):
    "tokens of 8 s under steady load: nobody notices"
    agent, size, seconds = s.agents["late"], 4, 18  # its token was revoked in the check before
    s.world.set(accessTokenTtl=8)
    mark = s.world.collect()
    end = time.monotonic() + seconds

    def steady(client):
        urls = [f"{s.api}/v1/items?t={client}-{i}" for i in range(5)]
        statuses = {}
        while time.monotonic() < end:
            facts = agent.many_curls(["--http1.1", "--http2"][client % 2], urls, placeholder(agent))
            for status, count in facts["statuses"].items():
                statuses[status] = statuses.get(status, 0) + count
            time.sleep(0.1)
        return statuses

    with ThreadPoolExecutor(size) as pool:
        results = list(pool.map(steady, range(size)))
    s.ordinary()
    asked = [e for e in s.world.since(mark, "as") if e["url"] == "/token"]
    bad = [e["error"] for e in s.world.since(mark, "dpop-api") if e["status"] != 200]
    fail_unless(all(set(statuses) == {"200"} for statuses in results), "statuses", results)
    fail_unless(len(bad) <= size, "refused upstream:", len(bad), bad[:3])  # the revoked one, by all clients at once
    fail_unless(2 <= len(asked) <= 8, len(asked), "token requests in", seconds, "s")
    return f"{sum(r['200'] for r in results)} requests, {len(asked)} token requests, {len(bad)} refused upstream"


@check
def skewed_clock(s):
    "the API's clock is 90 s ahead, then behind: still 200"
    figures = []
    for skew in (90, -90):
        s.world.set(clockSkew=skew)
        mark = s.world.collect()
        for i in range(5):
            answer = get(s, path=f"/v1/items?c={i}")
            fail_unless(answer["http_code"] == 200, skew, "s:", answer["http_code"], answer["body"])
        figures.append(len(s.world.since(mark, "dpop-api")))
    s.ordinary()
    fail_unless(get(s)["http_code"] == 200, "not well again")
    return f"5 requests each, {figures[0]} and {figures[1]} upstream"


# ---- long answers, big bodies, other protocols


@check
def events(s):
    "server-sent events arrive one by one"
    facts = s.agents["coder"].client("stream", f"{s.api}/v1/stream?n=6&ms=250")
    times = facts["times"]
    fail_unless(facts["status"] == 200 and len(times) == 6, facts)
    fail_unless(times[-1] - times[0] > 1, "all at once:", times)
    return f"first after {times[0]} s, last after {times[-1]} s"


@check
def websocket(s):
    "a WebSocket echoes text and 1 MiB"
    mark = s.world.collect()
    facts = s.agents["coder"].client("websocket", s.api.replace("https:", "wss:") + "/v1/ws")
    fail_unless(facts["echoed"] == [True] * 3, facts)
    entry = s.world.since(mark, "dpop-api")[-1]
    fail_unless(entry["status"] == 101 and entry["authorization"][0].startswith("DPoP "), entry["error"])


@check
def big_bodies(s):
    "8 MiB up and down are whole, by HTTP/1.1 and HTTP/2"
    agent, size = s.agents["coder"], 8 << 20
    mark = s.world.collect()
    facts = agent.client("upload", s.api + "/v1/upload", size)
    fail_unless(facts["status"] == 200 and facts["sha256"] == facts["expected"], facts)
    zeros = hashlib.sha256(bytes(size)).hexdigest()
    facts = agent.client("download", f"{s.api}/v1/download?bytes={size}")
    fail_unless((facts["status"], facts["bytes"], facts["sha256"]) == (200, size, zeros), facts)
    data = secrets.token_bytes(size)
    (s.dir / "upload").write_bytes(data)
    answer = agent.curl("-H", placeholder(agent), "--data-binary", f"@{s.dir / 'upload'}", s.api + "/v1/upload")
    fail_unless(answer["http_code"] == 200, answer["http_code"], answer["body"])
    fail_unless(json.loads(answer["body"])["sha256"] == hashlib.sha256(data).hexdigest(), "other bytes arrived")
    down = s.dir / "download"
    answer = agent.curl("-H", placeholder(agent), "-o", str(down), "-D", "-", f"{s.api}/v1/download?bytes={size}")
    got = down.read_bytes()
    fail_unless(answer["http_code"] == 200 and got.endswith(bytes(size)), "other bytes came")
    return f"{len(s.world.since(mark, 'dpop-api'))} requests upstream"


@check
def big_body_expired_nonce(s):
    "8 MiB when the nonce has expired: 200 or retryable, then 200"
    agent, size = s.agents["coder"], 8 << 20
    s.world.do("expire-nonces")
    first = agent.client("upload", s.api + "/v1/upload", size)
    fail_unless(first["status"] in (200, 503), first)
    second = agent.client("upload", s.api + "/v1/upload", size)
    fail_unless(second["status"] == 200 and second["sha256"] == second["expected"], second)
    return f"first {first['status']} {first['code'] or ''}"


@check
def refused_upload(s):
    "8 MiB where nothing may be posted: the refusal arrives"
    agent, size = s.agents["coder"], 8 << 20
    mark = s.world.collect()
    facts = agent.client("upload", s.api + "/v1/other", size)
    fail_unless((facts["status"], facts["code"]) == (403, "policy-denied"), facts)
    for http in ("--http1.1", "--http2"):
        answer = agent.curl("-H", placeholder(agent), "-H", "Expect:", "--data-binary", f"@{s.dir / 'upload'}",
                            s.api + "/v1/other", http=http)
        refused(answer, 403, "policy-denied")
    fail_unless(s.world.collect() == mark, "the world saw requests")


# ---- run


def solo(s, *arguments):
    """`tokenward run` with a terminal user's environment."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(s.dir), "XDG_STATE_HOME": str(s.dir / "state"),
                   "HTTPS_PROXY": "http://127.0.0.1:9", "SSL_CERT_FILE": "/nowhere", "WORLD_KEEPS": "this",
                   **{name: s.config.secrets[name] for name in ("SVC_BASIC_SECRET", "PLAIN_API_KEY")}}
    done = s.proxy.verb("run", "--", *arguments, environment=environment, config=s.config.solo)
    Agent.counter += 1
    (s.dir / "got" / f"{Agent.counter:05}").write_text(done.stdout + done.stderr)
    return done


@check
def run_curl_and_python(s):
    "`run -- curl` and `run -- python3` work with a placeholder alone"
    mark = s.world.collect()
    script = f'{CURL} -sS -H "Authorization: Bearer $ITEMS_TOKEN" {s.api}/v1/whoami'
    done = solo(s, "sh", "-c", script)
    fail_unless(done.returncode == 0 and '"items:read"' in done.stdout, done.returncode, done.stdout, done.stderr)
    done = solo(s, CURL, "-sS", s.plain + "/v1/models")
    fail_unless(done.returncode == 0 and '"tiny"' in done.stdout, done.returncode, done.stdout, done.stderr)
    script = ("import os, urllib.request as u; print(u.urlopen(u.Request(%r, headers={'Authorization': 'Bearer ' "
              "+ os.environ['ITEMS_TOKEN']})).status)" % (s.api + "/v1/items"))
    done = solo(s, "python3", "-c", script)
    fail_unless(done.returncode == 0 and done.stdout.strip() == "200", done.returncode, done.stdout, done.stderr)
    clients = {e.get("client") for e in s.world.since(mark, "as") if e["url"] == "/token"}
    fail_unless(clients == {"svc-basic"}, "clients", clients)


@check
def run_environment(s):
    "the command's environment has no secret, by name or value"
    done = solo(s, "env")
    fail_unless(done.returncode == 0, done.stderr)
    names = {line.split("=", 1)[0] for line in done.stdout.splitlines()}
    fail_unless(not names & {"SVC_BASIC_SECRET", "PLAIN_API_KEY"}, "a variable that the configuration reads")
    fail_unless(not any(value in done.stdout for value in s.config.secrets.values()), "a secret value")
    fail_unless("127.0.0.1:9\n" not in done.stdout and "/nowhere" not in done.stdout, "its user's proxy or trust")
    fail_unless("WORLD_KEEPS=this" in done.stdout and f"ITEMS_TOKEN={PLACEHOLDER}" in done.stdout, done.stdout)
    return f"{len(names)} variables"


@check
def run_codes(s):
    "`run` ends as its command does; 126 and 127 otherwise"
    for command, code in ((["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], 137),
                          ([str(s.dir / "nothing")], 127), ([str(s.config.file)], 126)):
        done = solo(s, *command)
        fail_unless(done.returncode == code, command, "ended with", done.returncode, done.stderr)


# ---- what holds over everything that was seen


@last
def proofs(s):
    "no proof twice, no placeholder upstream, no Bearer at the DPoP API"
    s.world.collect()
    seen = list(s.world.seen.values())
    used = [e["proof"]["payload"]["jti"] for e in seen if e.get("proof")]
    fail_unless(len(used) == len(set(used)), len(used) - len(set(used)), "proofs were used twice")
    fail_unless(not [e for e in seen if e["placeholders"]], "placeholders went out")
    api = [e for e in seen if e["service"] == "dpop-api"]
    fail_unless(all(e["authorization"] and e["authorization"][0].startswith("DPoP ") for e in api), "not all by DPoP")
    keys = {}
    for entry in api:
        token = claims(entry["authorization"][0].split()[1])
        keys.setdefault(token["cnf"]["jkt"], set()).add(token["client_id"])
    fail_unless(all(len(clients) == 1 for clients in keys.values()), "two clients share a key")
    return f"{len(used)} proofs, {len(keys)} keys"


@last
def metrics(s):
    "the metrics tell the same story"
    connection = http.client.HTTPConnection("127.0.0.1", s.config.health, timeout=10)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    (s.dir / "metrics.txt").write_text(text)
    value = lambda name, *labels: sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines()
                                      if line.startswith(name + "{") and all(label in line for label in labels))
    api = [e for e in s.world.seen.values() if e["service"] == "dpop-api"]
    counted = value("tokenward_dpop_nonce_challenges_total", 'peer="api"')
    own = nonce_challenges([e for e in api])
    fail_unless(counted <= own and counted >= own - 3, "nonce challenges", counted, "seen", own)
    fail_unless("tokenward_panics_total 0" in text, "panics")
    return f"{value('tokenward_requests_total'):.0f} requests, {counted:.0f} nonce challenges"


@last
def drained(s):
    "SIGTERM: an open stream ends in order, then exit 0"
    agent = s.agents["coder"]
    with ThreadPoolExecutor(1) as pool:
        streaming = pool.submit(agent.client, "stream", f"{s.api}/v1/stream?n=8&ms=300")
        mark = s.world.collect()
        wait_until("the stream is open", lambda: any("/stream" in e["url"] for n, e in s.world.seen.items() if n > mark)
                   or not s.world.collect(), 10)
        time.sleep(0.5)
        code = s.proxy.stop()
        facts = streaming.result()
    fail_unless(len(facts["times"]) == 8, "events", facts["times"])
    fail_unless(code == 0, "exit code", code)


@last
def audit(s):
    "the audit chain holds, breaks if touched, one line per request"
    done = s.proxy.verb("audit", "verify", str(s.config.audit))
    fail_unless(done.returncode == 0, done.stdout, done.stderr)
    lines = s.config.audit.read_text().splitlines()
    requests = [json.loads(line) for line in lines if '"event":"request"' in line]
    fail_unless(len(requests) == Agent.total, len(requests), "request lines for", Agent.total, "requests")
    ids = {r["request"] for r in requests}
    fail_unless(len(ids) == len(requests), "a request id twice")
    logged = {jti for r in requests for jti in r.get("proofs", [])}
    sent = {e["proof"]["payload"]["jti"] for e in s.world.seen.values() if e["service"] == "dpop-api"}
    touched = s.dir / "touched.jsonl"
    text = s.config.audit.read_text()
    touched.write_text(text.replace('"status":403', '"status":200', 1))
    fail_unless(touched.read_text() != text, "there is no 403 to touch")
    fail_unless(s.proxy.verb("audit", "verify", str(touched)).returncode == 1, "a touched file is taken for good")
    private = s.dir / "state" / "tokenward" / "audit.jsonl"
    fail_unless(s.proxy.verb("audit", "verify", str(private)).returncode == 0, "run's own audit file does not hold")
    return f"{len(lines)} lines, {len(requests)} requests, proofs named {len(logged & sent)} of {len(sent)}"


@last
def canaries(s):
    "no secret in log, metrics, audit, or what clients got"
    search = Search()
    for name in ("svc-basic", "svc-bearer", "svc-exchange"):
        search.plant(name + "'s secret", s.world.clients[name]["client_secret"])
    search.plant("svc-pkjwt's key", *of_pem(s.world.clients["svc-pkjwt"]["private_key"]))
    search.plant("an API key", *s.world.api_keys)
    search.plant("the CA key", *of_pem(s.dir / "ca" / "ca.key"))
    search.plant("the instance key", (s.dir / "ca" / "instance.key").read_bytes())
    for key in s.config.given.glob("*.key"):
        search.plant("a client certificate's key", *of_pem(key))
    for token in s.config.given.glob("*.jwt"):
        search.plant("a workload token", *of_token(token.read_text()))
    for name, values in s.planted:
        search.plant(name, *values)
    tokens = {e["authorization"][0].split(" ")[1] for e in s.world.seen.values()
              if e["authorization"] and e["service"] in ("dpop-api", "plain-api", "mtls-api")}
    for token in tokens:
        search.plant("an access token", *of_token(token))
    outputs = [s.proxy.log, s.proxy.out, s.dir / "metrics.txt", s.config.audit, s.dir / "state"]
    hits = search.hits(*outputs, s.dir / "got", s.dir / "public")
    # An agent holds its own proxy token; it is none of the log's business.
    search.plant("an agent's proxy token", *(s.config.secrets[f"{agent.upper()}_TOKEN"] for agent in AGENTS))
    hits += search.hits(*outputs)
    fail_unless(not hits, *hits[:5])
    # That the search finds what is there.
    for form in list(search.patterns):
        (s.dir / "planted").write_bytes(b"x" + form + b"y")
        break
    fail_unless(search.hits(s.dir / "planted"), "the search is blind")
    size = sum(f.stat().st_size for p in [*outputs, s.dir / "got"] for f in ([p] if p.is_file() else p.rglob("*")) if f.is_file())
    return f"{len(tokens)} tokens, {len(search.patterns)} forms, {size / 1e6:.1f} MB searched"
