"""What the clients meet: the world's servers, servers of our own for what it lacks, and tokenward in front of all of them.

Every name is known to the proxy alone (`connect:`), so who gets an answer went through it. Every server tells what it
received, so that a row can be held to its word: the real credential arrived and the placeholder did not.
"""

import json
import secrets
import socket
import ssl
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
for folder in ("world", "corpus"):
    sys.path.insert(0, str(HERE.parent / folder))

from stage import HOSTS, PLACEHOLDER, Proxy, World, fail_unless, free_port  # noqa: E402

WORLD_HOSTS = {**HOSTS, "GIT": "git.world.test"}
# Our own: host, rules, variable of the placeholder.
OWN = {
    "gh": ("gh.wild.test", ["GET /api/**", "POST /api/**"], "GH_ENTERPRISE_TOKEN"),
    "pypi": ("pypi.wild.test", ["GET|HEAD /**"], "PYPI_TOKEN"),
    "npm": ("npm.wild.test", ["* /**"], "NPM_TOKEN"),
    "crates": ("crates.wild.test", ["GET|HEAD /**"], "CRATES_TOKEN"),
    "bucket": ("bucket.wild.test", ["* /**"], "BUCKET_TOKEN"),
    "calls": ("calls.wild.test", ["POST /demo.Echo/*"], "CALLS_TOKEN"),
}
SETTLED = 0.25


@dataclass
class Seen:
    """One request as a server received it."""
    service: str
    what: str
    wrong: list = field(default_factory=list)


class Bench:
    def __init__(self, binary, source, cache, dir):
        self.dir, self.started, self.origins = dir, [], {}
        self.keys = {name: "real-" + secrets.token_urlsafe(24) for name in OWN}
        try:
            self.world = World(source, dir, WORLD_HOSTS, cache / "world" / "node_modules")
            self.started.append(self.world)
            self.open_origins()
            self.coder = self.serve(binary, "coder")
            self.open = self.serve(binary, "open")
        except BaseException:
            self.stop()
            raise
        self.placeholders = [value for agent in (self.coder, self.open) for name, value in agent.environment.items()
                             if name in VARIABLES]
        fail_unless(len(self.placeholders) == 2 * len(VARIABLES), "placeholders are missing in `tokenward env`")
        for host in self.hosts():
            fail_unless(not resolves(host), host, "resolves here: a pass would not mean that the proxy was used")

    def hosts(self):
        return [*WORLD_HOSTS.values(), *(host for host, _, _ in OWN.values())]

    def stop(self):
        for part in reversed(self.started):
            part.stop()

    # ---- servers

    def open_origins(self):
        import gh_origin
        import grpc_origin
        from benign_site import Shop, site
        from keys import Authority, pem
        from origins import Origin, ordinary
        authority = Authority("interop root")
        self.own_ca = self.dir / "own-ca.pem"
        self.own_ca.write_bytes(pem(authority.certificate))
        shop = site(Shop(self.dir / "shop"))
        behaviours = {"gh": gh_origin.behave, "bucket": ordinary}
        for name, (host, _, _) in OWN.items():
            context = authority.server(self.dir, [host], alpn=("h2", "http/1.1"))
            if name == "calls":
                self.calls = grpc_origin.Calls(*context.files)
                self.started.append(self.calls)
                continue
            self.origins[name] = Origin(host, "127.0.0.1", 0, context, behaviours.get(name, shop))

    def port(self, name):
        return self.calls.port if name == "calls" else self.origins[name].port

    # ---- tokenward

    def serve(self, binary, agent):
        """One proxy with one agent: `coder` has a token, `open` is the one agent of a configuration that names none."""
        from configuration import issuer, service
        world, dir = self.world, self.dir / agent
        dir.mkdir()
        pkjwt = world.clients["svc-pkjwt"]
        oauth = (f"{{oauth: {{issuer: world, client_id: svc-pkjwt, client_auth: {{private_key_jwt: {{key: {{file: \"{pkjwt['private_key']}\"}}, "
                 f"kid: {pkjwt['kid']}}}}}, grant: client_credentials, resource: \"{world.dpop_api}\"}}}}")
        key = "{bearer: {env: WORLD_KEY}}"
        git_port = int(world.git.split(":")[2].split("/")[0])
        services = [
            service("items", HOSTS["DPOP"], world.port("dpop_api"), world.ca, oauth, "ITEMS_TOKEN", "{random:32}", ITEMS),
            service("llm", HOSTS["PLAIN"], world.port("plain_api"), world.ca, key, "LLM_API_KEY", "{random:40}", LLM),
            service("git", WORLD_HOSTS["GIT"], git_port, world.ca, key, "GIT_TOKEN", "{random:32}",
                    [("GET|POST /project.git/**", "")]),
        ]
        for name, (host, rules, variable) in OWN.items():
            text = service(name, host, 443, self.own_ca, f"{{bearer: {{env: {name.upper()}_KEY}}}}", variable, "{random:32}",
                           [(rule, "") for rule in rules])
            # npm's registry asks for `/@scope%2fname`, and takes that for one segment.
            more = "    escaped_slashes: literal\n" if name == "npm" else ""
            services.append(text.replace("connect: 127.0.0.1,", f'connect: "127.0.0.1:{self.port(name)}",') + more)
        values = {"WORLD_KEY": world.api_keys[0], **{f"{name.upper()}_KEY": key for name, key in self.keys.items()}}
        agents = ""
        if agent != "open":
            values["CODER_TOKEN"] = secrets.token_urlsafe(24)
            agents = "agents:\n  coder: {auth: {token: {env: CODER_TOKEN}}}\n"
        file = dir / "tokenward.yaml"
        file.write_text(f"""# Made by tests/interop.
listen: {{proxy: 127.0.0.1:{free_port()}}}
health: 127.0.0.1:{free_port()}
runtime_dir: public
ca: {{dir: ca}}
store: memory
audit: {{file: audit.jsonl}}
{agents}issuers:{issuer("world", world.issuer, world.ca)}
services:{"".join(services)}
""")
        proxy = Proxy(binary, file, values, dir, log="info")
        self.started.append(proxy)
        proxy.environment = proxy.agent_environment("default" if agent == "open" else agent)
        proxy.audit, proxy.read = dir / "audit.jsonl", 0
        return proxy

    # ---- what was seen

    def lines(self):
        """The audit lines of requests since the last call, of both proxies, when no more of them come."""
        end, before = time.monotonic() + 5, None
        while time.monotonic() < end:
            now = [proxy.audit.stat().st_size for proxy in (self.coder, self.open)]
            if now == before:
                break
            before = now
            time.sleep(SETTLED)
        found = []
        for proxy, size in zip((self.coder, self.open), before, strict=True):
            with proxy.audit.open("rb") as file:
                file.seek(proxy.read)
                found += [json.loads(line) for line in file.read(size - proxy.read).splitlines()]
            proxy.read = size
        return [line for line in found if line["event"] == "request"]

    def mark(self):
        return self.world.collect(), {name: len(origin.records) for name, origin in self.origins.items()}, len(self.calls.records)

    def seen(self, mark):
        """What all servers but the issuer received since the mark, each with what is wrong about it."""
        world, own, calls = mark
        found = []
        for service in ("dpop-api", "plain-api", "git"):
            for entry in self.world.since(world, service):
                seen = Seen(service, f"{entry['method']} {entry['url']}")
                found.append(seen)
                challenge = "use_dpop_nonce" in (entry["error"] or "")
                said, wanted = entry["authorization"], [f"Bearer {self.world.api_keys[0]}"]
                if service == "dpop-api" and not (len(said) == 1 and said[0].startswith("DPoP ") and len(entry["dpop"]) == 1):
                    seen.wrong.append(f"not one token and one proof: {len(said)} and {len(entry['dpop'])}")
                if service != "dpop-api" and said != wanted:
                    seen.wrong.append("not the real key alone")
                if entry["placeholders"]:
                    seen.wrong.append(f"a placeholder in {entry['placeholders']}")
                if (entry["status"] or 0) in (401, 403) and not challenge:
                    seen.wrong.append(f"refused by the API: {entry['status']} {entry['error']}")
        for name, origin in self.origins.items():
            for record in origin.records[own[name]:]:
                found.append(self.judge(Seen(name, f"{record.method} {record.target}"), name, record.values("authorization"),
                                        [record.target, record.body.decode("latin-1"), *(v for _, v in record.fields)]))
        for method, metadata in self.calls.records[calls:]:
            said = [v for n, v in metadata if n == "authorization"]
            found.append(self.judge(Seen("calls", method), "calls", said, [str(v) for _, v in metadata]))
        return found

    def judge(self, seen, name, said, texts):
        if said != [f"Bearer {self.keys[name]}"]:
            seen.wrong.append("not the real credential alone")
        if any(hole in text for text in texts for hole in self.placeholders):
            seen.wrong.append("the placeholder itself")
        return seen


ITEMS = [
    ("GET /v1/items", "items:read"), ("POST /v1/items", "items:write"), ("POST /v1/upload", "items:read"),
    ("GET /v1/stream", "items:read"), ("GET /v1/ws", "items:read"), ("GET|POST|DELETE /v1/mcp", "mcp:read"),
]
LLM = [("GET /v1/models", ""), ("POST /v1/chat/completions", ""), ("POST /v1/messages", "")]
VARIABLES = {"ITEMS_TOKEN", "LLM_API_KEY", "GIT_TOKEN", *(variable for _, _, variable in OWN.values())}


def resolves(host):
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True
