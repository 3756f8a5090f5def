#!/usr/bin/env python3
"""The health of tokens, judged by the world: what its desk revokes is replaced before an agent's call meets it, and the audit
file alone tells the lives of all tokens. Part of run.py, and a program of its own:

    tests/world/health.py [--bin PATH] [--keep]
"""

import json
import secrets
import threading
import time

import configuration
from stage import HOSTS, Agent, Proxy, World, alone, fail_unless, free_port, through, wait_until

INTERVAL = 5  # seconds, the shortest that a file may say
RULES = [("GET /v1/**", "items:read"), ("POST /v1/items", "items:write")]


class House:
    """One configuration, its proxy, and its one agent."""

    def __init__(self, world, binary, dir, name, health):
        self.world, self.dir = world, dir / name
        self.dir.mkdir()
        given = {"CODER_TOKEN": secrets.token_urlsafe(24), "CLIENT_SECRET": world.clients["svc-basic"]["client_secret"]}
        oauth = (f"{{oauth: {{issuer: world, client_id: svc-basic, client_auth: {{secret_basic: {{env: CLIENT_SECRET}}}}, "
                 f"grant: client_credentials, resource: \"{world.dpop_api}\", revoke_on_exit: true}}}}")
        service = configuration.service("items", HOSTS["DPOP"], world.port("dpop_api"), world.ca, oauth, "ITEMS_TOKEN", "{random:32}", RULES,
                                        checked=True)
        file = self.dir / "tokenward.yaml"
        file.write_text(f"""# Made by tests/world.
listen: {{proxy: 127.0.0.1:{free_port()}}}
health: 127.0.0.1:{free_port()}
admin: {{listen: "unix:operator/admin.sock"}}
runtime_dir: public
ca: {{dir: ca}}
audit: {{file: audit.jsonl}}
agents:
  coder: {{auth: {{token: {{env: CODER_TOKEN}}}}}}
issuers:{configuration.issuer("world", world.issuer, world.ca)}
services:{service.rstrip()}
    health: {health}
""")
        self.proxy = Proxy(binary, file, given, self.dir, log="info")
        self.agent = Agent("coder", self.proxy.agent_environment("coder"), None, self.dir / "got")
        (self.dir / "got").mkdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proxy.stop()

    def lines(self, event=None):
        whole = [line for line in (self.dir / "audit.jsonl").read_text().splitlines(keepends=True) if line.endswith("\n")]
        lines = [json.loads(line) for line in whole]
        return [line for line in lines if event in (None, line["event"])]

    def get(self):
        header = "Authorization: Bearer " + self.agent.environment["ITEMS_TOKEN"]
        return self.agent.curl("-H", header, self.world.dpop_api + "/v1/items")["http_code"]


def probe_finds_the_dead(world, binary, dir):
    "revoked at the desk: replaced within the interval, no call meets it"
    world.set(nonceMode="rotating", accessTokenTtl=900, clockSkew=0)
    with House(world, binary, dir, "probe", f"{{interval: {INTERVAL}s, introspection: false, probe: GET /v1/items}}") as house:
        fail_unless(house.get() == 200, "the first call")
        wait_until("a check that says yes", lambda: house.lines("token.health"), INTERVAL + 5)
        world.do("revoke-tokens")
        start, mark = time.monotonic(), world.collect()
        wait_until("a new token", lambda: len(house.lines("token.issued")) == 2, INTERVAL + 5)
        took = time.monotonic() - start
        statuses = [house.get() for _ in range(5)]
        fail_unless(statuses == [200] * 5, "statuses", statuses)
        dropped = house.lines("token.dropped")
        fail_unless([line["reason"] for line in dropped] == ["inactive"], dropped)
        fail_unless(not house.lines("token.rejected"), "a call met the dead token")
        said = house.proxy.verb("status", "--json")
        checked = json.loads(said.stdout)["grants"][0]["tokens"][0]["checked"]
        fail_unless(checked is None or checked["by"] == "probe", checked)
        met = [e for e in world.since(mark, "dpop-api") if e["status"] == 401 and "revoked" in (e["error"] or "")]
        fail_unless(len(met) == 1, "the dead token was shown", len(met), "times")
    return f"replaced {took:.1f} s after its end, with checks every {INTERVAL} s; one probe met it, no call"


def under_load(world, binary, dir):
    "revoked under load: every call is a 200"
    with House(world, binary, dir, "load", f"{{interval: {INTERVAL}s, introspection: false, probe: GET /v1/items}}") as house:
        over, statuses = threading.Event(), []

        def steady():
            while not over.wait(0.1):
                statuses.append(house.get())

        running = threading.Thread(target=steady)
        running.start()
        try:
            time.sleep(INTERVAL)
            world.do("revoke-tokens")
            time.sleep(INTERVAL)
        finally:
            over.set()
            running.join()
        fail_unless(set(statuses) == {200}, {s: statuses.count(s) for s in set(statuses)})
        # Whoever finds it first, the check or a call: after a check nothing was there to be refreshed.
        tokens = len(house.lines("token.issued") + house.lines("token.refreshed"))
        fail_unless(tokens == 2, tokens, "tokens")
    return f"{len(statuses)} calls, {tokens} tokens"


def the_issuer_is_asked(world, binary, dir):
    "introspection by oidc-provider: whatever it says of JWTs, no call fails"
    with House(world, binary, dir, "introspection", f"{{interval: {INTERVAL}s}}") as house:
        mark, end = world.collect(), time.monotonic() + 3 * INTERVAL
        while time.monotonic() < end:
            fail_unless(house.get() == 200, "a call")
            time.sleep(0.3)
        asked = [e for e in world.since(mark, "as") if e["url"] == "/token/introspection"]
        fail_unless(asked and not any(e["dpop"] for e in asked), "introspection requests", len(asked))
        statuses = {e["status"] for e in asked}
        # It answers 400 for tokens that it does not keep; then it is not asked again for an hour.
        fail_unless(statuses == {200} or (statuses == {400} and len(asked) == 1), statuses, len(asked))
        fail_unless(len(house.lines("token.refreshed")) <= 2 and not house.lines("token.dropped"), "tokens were replaced")
        said = sorted({line["outcome"] for line in house.lines("token.health")})
    return f"asked {len(asked)} times, answered {statuses}, told {said}"


def lives(world, binary, dir):
    "the audit file alone tells the lives, joined with the API's log by jti"
    mark = world.collect()
    with House(world, binary, dir, "lives", f"{{interval: {INTERVAL}s, introspection: false, probe: GET /v1/items}}") as house:
        world.set(accessTokenTtl=20)
        fail_unless(house.get() == 200, "the first call")
        wait_until("a renewal", lambda: house.lines("token.refreshed"), 30)
        world.set(accessTokenTtl=900)
        fail_unless(house.get() == 200, "a call with the renewed token")
        checks = len(house.lines("token.health"))
        wait_until("a check of the renewed token", lambda: len(house.lines("token.health")) > checks, INTERVAL + 5)
        world.do("revoke-tokens")
        wait_until("its replacement", lambda: len(house.lines("token.issued")) == 2, INTERVAL + 5)
        fail_unless(house.get() == 200, "a call with the replacement")
    stories, owners = {}, {}
    for line in house.lines():
        if "lease" in line:
            word = line["event"] if line["event"] != "token.health" else "health " + line["outcome"]
            stories.setdefault(line["lease"], []).append(word)
            for jti in line.get("proofs", []):
                owners.setdefault(jti, set()).add(line["lease"])
    first, second, third = (stories[lease] for lease in sorted(stories))
    fail_unless(first[:2] == ["token.issued", "request"] and "health active" in first, first)
    fail_unless(second[0] == "token.refreshed" and second[-2:] == ["health inactive", "token.dropped"], second)
    fail_unless(third[0] == "token.issued" and "request" in third, third)
    fail_unless(house.lines("token.revoked"), "nothing was given back at the end")
    seen = world.since(mark, "dpop-api")
    unknown = [e["url"] for e in seen if len(owners.get(e["proof"]["payload"]["jti"], ())) != 1]
    fail_unless(seen and not unknown, len(unknown), "requests belong to no token:", unknown[:3])
    return f"{len(stories)} tokens, {len(seen)} requests at the API, each of one token"


ALL = [probe_finds_the_dead, under_load, the_issuer_is_asked, lives]


def play(binary, source, dir, started, modules=None):
    """All checks, in a world of their own. How many failed."""
    dir.mkdir()
    world = World(source, dir, modules=modules)
    started.append(world)
    return through(ALL, dir, world, binary, dir)


if __name__ == "__main__":
    alone("health", __doc__, ALL, play)
