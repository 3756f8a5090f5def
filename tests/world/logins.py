#!/usr/bin/env python3
"""Logins through the verbs that a user types, headless: the world's desk is the person. Part of run.py, and a program of its
own:

    tests/world/logins.py [--bin PATH] [--keep]
"""

import json
import queue
import secrets
import subprocess
import threading
import time
import urllib.parse

import configuration
from stage import DESK, HOSTS, Agent, Proxy, World, alone, fail_unless, free_port, through

AGENTS = ("alice", "bob")
RULES = [("GET /v1/**", "items:read"), ("POST /v1/items", "items:write")]


class House:
    """One configuration, its proxy while it runs, and its agents."""

    def __init__(self, world, binary, dir, name, client, auth, grant, store):
        self.world, self.binary, self.dir = world, binary, dir / name
        self.dir.mkdir()
        self.secrets = {f"{agent.upper()}_TOKEN": secrets.token_urlsafe(24) for agent in AGENTS}
        self.secrets["CLIENT_SECRET"] = world.clients[client].get("client_secret", "none")
        (self.dir / "store.key").write_text(secrets.token_hex(32))
        kept = "{file: {path: state/store, key: {file: store.key}}}" if store == "file" else "memory"
        oauth = (f"{{oauth: {{issuer: world, client_id: {client}, client_auth: {auth}, grant: {grant}, "
                 f"resource: \"{world.dpop_api}\"}}}}")
        agents = "".join(f"\n  {agent}: {{auth: {{token: {{env: {agent.upper()}_TOKEN}}}}}}" for agent in AGENTS)
        self.file = self.dir / "tokenward.yaml"
        self.file.write_text(f"""# Made by tests/world.
listen: {{proxy: 127.0.0.1:{free_port()}}}
health: 127.0.0.1:{free_port()}
admin: {{listen: "unix:operator/admin.sock"}}
runtime_dir: public
ca: {{dir: ca}}
store: {kept}
audit: {{file: audit.jsonl}}
agents:{agents}
issuers:{configuration.issuer("world", world.issuer, world.ca)}
services:{configuration.service("items", HOSTS["DPOP"], world.port("dpop_api"), world.ca, oauth, "ITEMS_TOKEN", "{random:32}", RULES)}
""")
        self.proxy = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        self.proxy = Proxy(self.binary, self.file, self.secrets, self.dir, log="trace")
        got = self.dir / "got"
        got.mkdir(exist_ok=True)
        self.agents = {name: Agent(name, self.proxy.agent_environment(name), None, got) for name in AGENTS}
        return self

    def stop(self):
        if self.proxy:
            self.proxy.stop()
            self.proxy = None

    def ask(self, agent, *more):
        """Status and problem code of one request."""
        agent = self.agents[agent]
        facts = agent.curl(f"{self.world.dpop_api}/v1/items", "-H", "Authorization: Bearer " + agent.environment["ITEMS_TOKEN"], *more)
        code = json.loads(facts["body"]).get("code") if facts["http_code"] == 403 else None
        return facts["http_code"], code

    def verb(self, *arguments):
        return subprocess.run([self.binary, "--config", self.file, *arguments], text=True, capture_output=True, timeout=60,
                              env={"PATH": "/usr/bin:/bin", "HOME": str(self.dir), **self.secrets})

    def verb_json(self, *arguments):
        done = self.verb(*arguments, "--json")
        fail_unless(done.returncode == 0, arguments, done.stderr)
        return json.loads(done.stdout)

    def login(self, *arguments):
        return Login(self, arguments)


class Login:
    """`tokenward login`, and what it prints, line by line."""

    def __init__(self, house, arguments):
        self.house, self.lines = house, queue.Queue()
        self.process = subprocess.Popen(
            [house.binary, "--config", house.file, "login", "items", "--no-browser", *arguments], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "HOME": str(house.dir), **house.secrets})
        threading.Thread(target=lambda: [self.lines.put(line.strip()) for line in self.process.stdout], daemon=True).start()

    def line(self):
        try:
            return self.lines.get(timeout=20)
        except queue.Empty:
            self.process.kill()
            raise AssertionError("login printed nothing: " + self.process.stderr.read()) from None

    def end(self, code=0):
        said = self.process.stderr.read()
        ended = self.process.wait(30)
        fail_unless(ended == code, "login ended with", ended, said)
        return said

    def approve(self):
        """The person logs in at the URL, and the browser comes back."""
        url = self.line()
        redirect = self.house.world.desk("POST", "/_do/authorize", {"url": url})["redirect"]
        DESK.open(redirect, timeout=20).read()
        return url, redirect


def refreshes(world, mark):
    """How many refreshes were answered; none may have been refused as used before."""
    asked = [e for e in world.since(mark, "as") if e.get("grantType") == "refresh_token"]
    refused = [e for e in asked if e["error"] and not e["error"].startswith("use_dpop_nonce")]
    fail_unless(not refused, "refresh refused:", [e["error"] for e in refused])
    return len([e for e in asked if e["status"] == 200])


def keep_asking(house, seconds, agents=AGENTS):
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        for agent in agents:
            fail_unless(house.ask(agent)[0] == 200, agent, "was refused")
            count += 1
        time.sleep(0.2)
    return count


def code_public(world, binary, dir):
    """a public client's login serves all agents, with PAR"""
    mark = world.collect()
    with House(world, binary, dir, "public", "app-public", "none", "authorization_code", "file") as house:
        house.start()
        fail_unless(house.ask("alice") == (403, "reauthorization-required"), house.ask("alice"))
        login = house.login()
        url = login.line()
        pending = house.ask("alice")
        fail_unless(pending == (403, "approval-pending"), "while a login waits:", pending)
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
        fail_unless(set(query) == {"client_id", "request_uri"}, "the URL says too much:", url)
        redirect = world.desk("POST", "/_do/authorize", {"url": url})["redirect"]
        DESK.open(redirect, timeout=20).read()
        login.end()
        code = urllib.parse.parse_qs(urllib.parse.urlsplit(redirect).query)["code"][0]
        for agent in AGENTS:
            fail_unless(house.ask(agent)[0] == 200, agent, house.ask(agent))
        status = house.verb_json("status")
        grant, = status["grants"]
        fail_unless(grant["shared"] and grant["health"] == "healthy" and grant["binding"] == "dpop", grant)
        key = grant["tokens"][0]["thumbprint"]
        rotated, = house.verb_json("rotate")["grants"]
        fail_unless(rotated["key"] == "needs_login" and rotated["renewed"], rotated)
        grant, = house.verb_json("status")["grants"]
        fail_unless(grant["tokens"][0]["thumbprint"] == key, "the key changed")
        said = house.verb("rotate")
        fail_unless("needs a new login" in said.stdout, said.stdout)
        fail_unless(house.verb("status").returncode == 0)
        # The login outlives the process, and its refresh tokens are used once each.
        world.set(accessTokenTtl=8)
        house.verb_json("rotate")
        asked = keep_asking(house, 15)
        house.stop()
        house.start()
        asked += keep_asking(house, 5)
        world.set(accessTokenTtl=120)
        count = refreshes(world, mark)
        fail_unless(count >= 4, "only", count, "refreshes")
        pushed = [e for e in world.since(mark, "as") if e["url"] == "/request" and e["status"] == 201]
        fail_unless(pushed, "nothing was pushed")
        for path in [*house.dir.glob("serve.*"), *house.dir.glob("got/*"), house.dir / "audit.jsonl"]:
            held = path.read_bytes()
            fail_unless(code.encode() not in held and b"request_uri" not in held, path, "holds the login's code or URL")
    return f"{asked} requests, {count} refreshes"


def code_confidential(world, binary, dir):
    """a confidential client's login for one agent; it gets a new key"""
    with House(world, binary, dir, "confidential", "app-confidential", "{secret_basic: {env: CLIENT_SECRET}}",
               "authorization_code", "memory") as house:
        house.start()
        login = house.login("--agent", "alice")
        login.approve()
        login.end()
        fail_unless(house.ask("alice")[0] == 200, house.ask("alice"))
        fail_unless(house.ask("bob") == (403, "reauthorization-required"), house.ask("bob"))
        def key():
            return {t["thumbprint"] for g in house.verb_json("status")["grants"] for t in g["tokens"] if t["thumbprint"]}
        before = key()
        rotated = [g for g in house.verb_json("rotate", "--agent", "alice")["grants"]]
        fail_unless([(g["agent"], g["key"], g["renewed"]) for g in rotated] == [("alice", "new", True)], rotated)
        fail_unless(len(key()) == 1 and key() != before, before, key())
        fail_unless(house.ask("alice")[0] == 200, house.ask("alice"))
        # A second login takes the place of the first, under use.
        login = house.login("--agent", "alice")
        login.approve()
        login.end()
        fail_unless(house.ask("alice")[0] == 200, house.ask("alice"))


def device(world, binary, dir):
    """a device's login, asked for no more often than the issuer wants"""
    for grant, wish in (("device_code", []), ("authorization_code", ["--device"])):
        mark = world.collect()
        with House(world, binary, dir, f"device-{grant}", "app-public", "none", grant, "memory") as house:
            house.start()
            login = house.login(*wish)
            url, code, complete = login.line(), login.line(), login.line()
            fail_unless(url.startswith(world.issuer) and code in urllib.parse.unquote(complete), url, code, complete)
            fail_unless(house.ask("bob") == (403, "approval-pending"), house.ask("bob"))
            time.sleep(6)
            world.do("device", url=complete)
            login.end()
            fail_unless(house.ask("bob")[0] == 200 and house.ask("alice")[0] == 200, house.ask("bob"))
            polls = [e for e in world.since(mark, "as") if str(e.get("grantType")).endswith("device_code")]
            answered = [e for e in polls if not (e["error"] or "").startswith("use_dpop_nonce")]
            fail_unless(len(answered) >= 2, "polls:", len(answered))
            for path in [*house.dir.glob("serve.*"), *house.dir.glob("got/*"), house.dir / "audit.jsonl"]:
                fail_unless(code.encode() not in path.read_bytes(), path, "holds the user's code")
    return f"{len(answered)} polls"


def refused(world, binary, dir):
    """a refused and a partial consent leave agents as they were"""
    for grant, wish in (("authorization_code", []), ("device_code", [])):
        with House(world, binary, dir, f"refused-{grant}", "app-public", "none", grant, "memory") as house:
            house.start()
            for setting, word in (({"consent": "deny"}, "access_denied"), ({"rejectScopes": ["items:write"]}, "scope-denied")):
                world.set(**setting)
                try:
                    login = house.login(*wish)
                    if grant == "device_code":
                        login.line(), login.line()
                        world.desk("POST", "/_do/device", {"url": login.line()})
                    else:
                        login.approve()
                    said = login.end(code=1)
                finally:
                    world.set(consent="approve", rejectScopes=[])
                fail_unless(word in said, grant, setting, said)
                fail_unless(house.ask("alice") == (403, "reauthorization-required"), grant, setting, house.ask("alice"))


def without_proxy(world, binary, dir):
    """without a proxy a login goes into the file store, or nowhere"""
    with House(world, binary, dir, "alone-memory", "app-public", "none", "authorization_code", "memory") as house:
        done = house.verb("login", "items", "--no-browser")
        fail_unless(done.returncode == 1 and "no proxy runs" in done.stderr and not done.stdout, done)
        done = house.verb("status")
        fail_unless(done.returncode == 1 and "no proxy runs" in done.stderr, done)
    with House(world, binary, dir, "alone-file", "app-public", "none", "authorization_code", "file") as house:
        login = house.login()
        login.approve()
        login.end()
        house.start()
        fail_unless(house.ask("alice")[0] == 200 and house.ask("bob")[0] == 200, house.ask("alice"))
        done = house.verb("login", "nowhere")
        fail_unless(done.returncode == 1 and "no service" in done.stderr, done.stderr)


ALL = [code_public, code_confidential, device, refused, without_proxy]


def play(binary, source, dir, started, modules=None):
    """All checks, in a world of their own. How many failed."""
    dir.mkdir()
    # The desk's browser asks the system for the authorization server's name.
    world = World(source, dir, hosts={**HOSTS, "AS": "localhost"}, modules=modules)
    started.append(world)
    return through(ALL, dir, world, binary, dir)


if __name__ == "__main__":
    alone("logins", __doc__, ALL, play)
