#!/usr/bin/env python3
"""Plays every fault of the foreign servers against both DPoP verifiers, through tokenward, and prints what came of it.

Usage: tests/verifiers/run.py [--bin FILE] [--only TEXT] [--markdown] [--keep]

The servers are those of tests/world (TOKENWARD_WORLD names their folder [default: ../shared/world beside this checkout]).
Under /v1 oauth4webapi judges token and proof, under /auth0/v1 Auth0's express-oauth2-jwt-bearer; nonces, replays, the iat
window, revocation and scopes are the API's. The agent is curl with what `tokenward env` prints. Then `tokenward run` logs in
through the browser as a public and as a confidential client, and binding: mtls is shown to want a certificate.
"""

import argparse
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "world"))

from configuration import issuer  # noqa: E402
from rows import OK, ROWS  # noqa: E402
from stage import CURL, HOSTS, PLACEHOLDER, Agent, Proxy, World, fail_unless, free_port, perform  # noqa: E402

VERIFIERS = {"/v1": ("oauth4webapi", "svc-pkjwt"), "/auth0/v1": ("Auth0", "svc-basic")}
MTLS_HOST = "ledger.world.test"
# Seconds that tokens live, also by the furthest of the skewed clocks.
LONG = 7200
# The cut that `dropAfterBytes` asks for ends the whole world over HTTP/2. In the copy that is played with it is mended.
CUT = ("(req.stream ? req.stream.session.socket : req.socket).destroy()", "(req.stream ? req.stream.session : req.socket)?.destroy()")
RULES = """
      - {allow: GET @/**, scopes: [items:read]}
      - {allow: POST @/upload, scopes: [items:read]}
      - {allow: POST @/items, scopes: [items:read]}"""


def name(i, prefix):
    return f"r{i}-{'a' if 'auth0' in prefix else 'o'}"


def auth(world, client):
    facts = world.clients[client]
    if client == "svc-pkjwt":
        return f"{{private_key_jwt: {{key: {{file: \"{facts['private_key']}\"}}, kid: {facts['kid']}}}}}"
    return "{secret_basic: {env: SECRET}}" if client == "svc-basic" else "{secret_post: {env: SECRET_POST}}"


def service(world, name, prefix, client, more="grant: client_credentials", host=HOSTS["DPOP"], at="dpop_api"):
    return f"""
  {name}:
    hosts: [{host}]
    port: {world.port(at)}
    upstream: {{connect: 127.0.0.1, allow_private: true, ca: {{file: "{world.ca}"}}}}
    credential: {{oauth: {{issuer: world, client_id: {client}, client_auth: {auth(world, client)}, {more}, resource: "{getattr(world, at)}"}}}}
    placeholder: {{variable: ITEMS_TOKEN, shape: "{PLACEHOLDER}{{random:32}}"}}
    rules:{RULES.replace("@", prefix)}"""


def configure(world, dir):
    """One agent and one service for each row and verifier."""
    pairs = [(name(i, prefix), prefix, client) for i in range(len(ROWS)) for prefix, (_, client) in VERIFIERS.items()]
    values = {"SECRET": world.clients["svc-basic"]["client_secret"], "SECRET_POST": world.clients["svc-bearer"]["client_secret"],
              **{f"T_{agent.upper().replace('-', '_')}": secrets.token_urlsafe(24) for agent, _, _ in pairs}, "T_MTLS": secrets.token_urlsafe(24)}
    agents = "".join(f"\n  {agent}: {{auth: {{token: {{env: T_{agent.upper().replace('-', '_')}}}}}, services: [{agent}]}}"
                     for agent, _, _ in [*pairs, ("mtls", "", "")])
    services = "".join(service(world, *pair) for pair in pairs)
    services += service(world, "mtls", "/v1", "svc-bearer", "grant: client_credentials, binding: bearer", MTLS_HOST, "mtls_api")
    file = dir / "tokenward.yaml"
    file.write_text(f"""listen: {{proxy: 127.0.0.1:{free_port()}}}
health: 127.0.0.1:{free_port()}
runtime_dir: public
ca: {{dir: ca}}
audit: {{file: audit.jsonl}}
agents:{agents}
issuers:{issuer("world", world.issuer, world.ca)}
services:{services}
""")
    return file, values


def seen(entries):
    """Statuses with their errors; repetitions in a row as one with its number."""
    told = []
    for entry in sorted(entries, key=lambda e: e["n"]):
        error = (entry["error"] or "").split(":")[0]
        told.append(f"{entry['status'] or 'unanswered'}{' ' + error if error and entry['status'] != 200 and not error.isdigit() else ''}")
    return told


def key(entry):
    return ((entry["proof"] or {}).get("header") or {}).get("jwk", {}).get("x")


def short(told):
    out = []
    for what in told:
        if out and out[-1][0] == what:
            out[-1][1] += 1
        else:
            out.append([what, 1])
    return ", ".join(what if n == 1 else f"{n} × {what}" for what, n in out) or "nothing"


def fits(told, wanted):
    """Whether what was told is what is wanted; `*x` stands for one or more x anywhere, `?x` for any number."""
    pattern = wanted.split(", ") if wanted else []
    needed, allowed = ({what[1:] for what in pattern if what[0] == sign} for sign in "*?")
    strict = [what for what in pattern if what[0] not in "*?"]
    loose = needed | allowed
    return needed <= set(told) and [t for t in told if t not in loose] == [s for s in strict if s not in loose]


class Game:
    def __init__(self, world, proxy, dir):
        self.world, self.proxy, self.dir, self.wrong = world, proxy, dir, 0
        got = dir / "got"
        got.mkdir()
        self.got = got
        (dir / "big").write_bytes(os.urandom(1 << 20))
        self.proofs, self.tokens, self.table = [], set(), []

    def agent(self, name):
        """With what `tokenward env` prints, from the file in which `serve` keeps it for that agent alone."""
        lines = (self.dir / "public" / "agents" / name / "env").read_text().splitlines()
        return Agent(name, {k: json.loads(v) for k, v in (line.split("=", 1) for line in lines)}, None, self.got)

    def ask(self, agent, prefix, row, i):
        arguments = [a.replace("@BIG", f"@{self.dir / 'big'}") for a in row.arguments]
        joint = "&" if "?" in row.path else "?"
        http = [] if "--http1.1" in arguments else ["--http2" if prefix == "/v1" else "--http1.1"]
        done = agent.run(CURL, "-sSi", "--suppress-connect-headers", "--max-time", "3" if row.path == "/ws" else "30", *http,
                         "-H", "Authorization: Bearer " + agent.environment["ITEMS_TOKEN"], *arguments,
                         f"{self.world.dpop_api}{prefix}{row.path}{joint}i={i}")
        text = done.stdout.decode(errors="replace").replace("\r\n", "\n")
        while re.match(r"HTTP/\S+ 100", text):
            text = text.split("\n\n", 1)[1]
        if not text:
            # 52: the end of the body came so soon that no head was on its way yet.
            return "cut" if done.returncode in (18, 52, 92) else f"nothing ({done.stderr.decode().strip()})"
        status = text.split()[1]
        head, _, body = text.partition("\n\n")
        if "retryAfter" in str(row.do) and status in ("429", "503") and "retry-after: 7" not in head.lower():
            return f"{status} without Retry-After"
        if status != "101" and done.returncode:
            return "cut"
        if status == "401" or "www-authenticate:" in head.lower() or "dpop-nonce:" in head.lower():
            return f"{status} WITH A CHALLENGE"
        code = json.loads(body).get("code") if "problem+json" in head else None
        if code == "upstream-unreachable" and "dropAfterBytes" in str(row.settings):
            # On HTTP/1.1 the head can go with what was cut off. Then the agent is told, which is no worse.
            return "cut"
        return f"{status} {code}" if code else status

    def play(self, i, prefix):
        row, second = ROWS[i], "auth0" in prefix
        self.world.set(accessTokenTtl=LONG)
        began = self.world.collect()
        of = lambda value: value[second] if isinstance(value, tuple) else value  # noqa: E731
        agent = self.agent(name(i, prefix))
        if row.warm:
            get = type(row)("")
            told = [self.ask(agent, prefix, get, "warm")]
            fail_unless(told == [OK], row.name, prefix, "was not served before:", told)
        mark = self.world.collect()
        if row.settings:
            self.world.set(**row.settings)
        for action, body in row.do:
            self.world.do(action, **body)
        if row.side_by_side:
            with ThreadPoolExecutor(row.times) as pool:
                told = list(pool.map(lambda n: self.ask(agent, prefix, row, n), range(row.times)))
        else:
            told = []
            for n in range(row.times):
                told.append(self.ask(agent, prefix, row, n))
                time.sleep(row.pause)
        api = self.world.since(mark, "dpop-api")
        as_entries = [e for e in self.world.since(mark, "as") if e["url"] == "/token"]
        # Tokens of other rows are renewed meanwhile; a key belongs to one grant.
        keys = [key(e) for e in self.world.since(began, "dpop-api")]
        if keys:
            as_entries = [e for e in as_entries if key(e) in keys]
        api_told, issuer_told = seen(api), seen(as_entries)
        wanted = of(row.agent)
        good = set(told) == {wanted} if "," not in wanted else fits(told, wanted)
        good &= fits(api_told, of(row.api))
        good &= not row.issuer or fits(issuer_told, row.issuer)
        self.world.do("reset")
        verifier = VERIFIERS[prefix][0]
        self.note(row.name, verifier, short(told), short(api_told), short(issuer_told), good, row.why)

    def note(self, what, verifier, told, api, issuer, good, why=""):
        self.wrong += not good
        self.table.append((what, verifier, told, api, issuer, good, why))
        print(f"{'ok  ' if good else 'FAIL'} {what[:48]:48} {verifier:12} agent: {told:32} api: {api:58} issuer: {issuer}"
              + (f"  ({why})" if why else ""), flush=True)

    def remember(self):
        for entry in self.world.seen.values():
            if entry["service"] == "dpop-api" and entry["proof"]:
                self.proofs.append(entry["proof"].get("payload", {}).get("jti"))
            if entry["service"] == "dpop-api" and entry["authorization"]:
                self.tokens.add(entry["authorization"][0].split()[-1])

    def proofs_and_tokens(self):
        """What holds over all rows: no proof was used twice, no agent ever got a token."""
        self.remember()
        twice = len(self.proofs) - len(set(self.proofs))
        self.note("every proof is new", "both", f"{len(self.proofs)} proofs", f"{twice} repeated", "", not twice and self.proofs)
        got = b"".join(path.read_bytes() for path in self.got.iterdir())
        leaked = [t for t in self.tokens if t.rsplit(".", 1)[-1].encode() in got]
        self.note("no agent got a token", "both", f"{len(list(self.got.iterdir()))} outputs", f"{len(self.tokens)} tokens, {len(leaked)} found",
                  "", self.tokens and not leaked)

    def reflected(self):
        """The API repeats the token, and the agent does not get it."""
        agent = self.agent(name(0, "/v1"))
        self.world.set(echoToken=True)
        mark = self.world.collect()
        done = agent.run(CURL, "-sSi", "-H", "Authorization: Bearer " + agent.environment["ITEMS_TOKEN"],
                         f"{self.world.dpop_api}/v1/items", kept=False)
        used = [e["authorization"][0].split()[-1] for e in self.world.since(mark, "dpop-api") if e["authorization"]]
        self.world.do("reset")
        found = any(t.encode() in done.stdout for t in used)
        told = "200 with the token" if found else "200 without the token"
        self.note("echoToken: true", "both", told, OK, "", bool(used) and not found)

    def mtls(self):
        """binding: mtls without a certificate is refused before anything starts; without the binding mtls_api takes nothing."""
        config = self.dir / "mtls.yaml"
        config.write_text(f"issuers:{issuer('world', self.world.issuer, self.world.ca)}\nservices:" + service(
            self.world, "mtls", "/v1", "svc-bearer", "grant: client_credentials, binding: mtls", MTLS_HOST, "mtls_api") + "\n")
        done = self.proxy.verb("check", config=config, environment=self.proxy.environment)
        good = done.returncode == 1 and "oauth.binding" in done.stdout + done.stderr and "client_auth: {mtls" in done.stdout + done.stderr
        self.note("binding: mtls with a client secret", "mtls_api", "`check`: add `client_auth: mtls`" if good else done.stdout + done.stderr, "nothing", "", good)
        mark = self.world.collect()
        agent = self.agent("mtls")
        done = agent.run(CURL, "-sS", "-H", "Authorization: Bearer " + agent.environment["ITEMS_TOKEN"], self.world.mtls_api + "/v1/items")
        code = json.loads(done.stdout or b"{}").get("code")
        self.note("mtls_api with an unbound token", "mtls_api", f"502 {code}", short(seen(self.world.since(mark, "mtls-api"))), "",
                  code == "upstream-rejected-credential", "fails closed; never 401")

    def browser(self, url):
        try:
            return self.world.desk("POST", "/_do/authorize", {"url": url})["redirect"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"the control desk: {error.read().decode()}") from error

    def login(self, client, prefix, consent, wanted, settings=()):
        """`tokenward run` with a person at the browser; the control desk stands in for the person."""
        facts = self.world.clients[client]
        config = self.dir / "login.yaml"
        how = "none" if client == "app-public" else "{secret_basic: {env: APP}}"
        config.write_text((f"issuers:{issuer('world', self.world.issuer, self.world.ca)}\nservices:" + service(
            self.world, "items", prefix, client, "grant: authorization_code")).replace(auth(self.world, client), how) + "\n")
        self.world.set(consent=consent, **dict(settings))
        mark = self.world.collect()
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.dir), "XDG_STATE_HOME": str(self.dir / "state"),
                       "APP": facts.get("client_secret", "")}
        process = subprocess.Popen(
            [self.proxy.binary, "--config", config, "run", "--", "/bin/sh", "-c",
             f"exec {CURL} -sSi --suppress-connect-headers -H \"Authorization: Bearer $ITEMS_TOKEN\" {self.world.dpop_api}{prefix}/whoami"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = []
        for line in process.stderr:
            said.append(line.strip())
            if line.startswith("http"):
                redirect = self.browser(line.strip())
                subprocess.run([CURL, "-sS", "--noproxy", "*", "-o", "/dev/null", redirect], env={"PATH": os.environ["PATH"]}, timeout=10)
        out = process.stdout.read()
        code = process.wait(30)
        told = out.split()[1] if out else f"{code}: {said[-1].removeprefix('tokenward: ') if said else ''}"
        asked = [e for e in self.world.since(mark, "as") if e["url"] in ("/request", "/token") and e.get("client") == client]
        api = seen(self.world.since(mark, "dpop-api"))
        if out and "claims" in out:
            sub = json.loads(out.split("\n\n", 1)[1])["claims"]["sub"]
            told += f" as {sub}"
        self.world.do("reset")
        issuer_told = short([("PAR " if e["url"] == "/request" else "") + text for e, text in zip(asked, seen(asked))])
        what = f"login, {client}, " + (consent if consent == "deny" else "a scope refused" if settings else "approved")
        self.note(what, VERIFIERS[prefix][0], told, short(api), issuer_told, told == wanted)


def markdown(table):
    """One row for both verifiers where they saw the same."""
    lines = ["| setting | verifier | the agent saw | the API saw | the token endpoint saw | as expected |", "|---|---|---|---|---|---|"]
    rest = list(table)
    while rest:
        what, verifier, *came = rest.pop(0)
        if rest and rest[0][0] == what and rest[0][1] in ("Auth0", verifier) and list(rest[0][2:]) == came:
            verifier = "both"
            rest.pop(0)
        told, api, issuer_told, good, why = came
        lines.append(f"| {what} | {verifier} | {told} | {api} | {issuer_told} | {'yes' if good else '**no**'}{'; ' + why if why else ''} |")
    return "\n".join(lines)


class Mended(World):
    def __init__(self, source, dir):
        copy = dir / "mended"
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("node_modules"))
        routes = copy / "lib" / "routes.js"
        routes.chmod(0o600)
        routes.write_text(routes.read_text().replace(*CUT))
        super().__init__(copy, dir)


def judge(binary, source, dir, started, options):
    begun = time.monotonic()
    os.environ["WORLD_MTLS_HOST"] = MTLS_HOST
    HOSTS["AS"] = "localhost"  # the control desk's browser looks the name up
    world = Mended(source, dir)
    started.append(world)
    file, values = configure(world, dir)
    proxy = Proxy(binary, file, values, dir, log="info", patience=120)  # a hundred services, maybe in a debug build
    started.append(proxy)
    print(f"world and proxy are ready after {time.monotonic() - begun:.0f} s\n", flush=True)
    game = Game(world, proxy, dir)
    for i, row in enumerate(ROWS):
        if not options.only or options.only in row.name:
            for prefix in VERIFIERS:
                game.play(i, prefix)
    if not options.only or options.only == "login":
        game.proofs_and_tokens()
        game.reflected()
        game.mtls()
        for prefix in VERIFIERS:
            for client in ("app-public", "app-confidential"):
                game.login(client, prefix, "approve", "200 as alice")
        game.login("app-public", "/v1", "deny", "125: items: the issuer refused: access_denied")
        game.login("app-public", "/v1", "approve", "125: items: scope-denied", [("rejectScopes", ["items:read"])])
    if options.markdown:
        print("\n" + markdown(game.table))
    print(f"\n{len(game.table) - game.wrong} as expected, {game.wrong} not, in {time.monotonic() - begun:.0f} s", flush=True)
    return not game.wrong


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--bin", type=Path, help="the tokenward to judge [default: target/release/tokenward]")
    options.add_argument("--only", help="rows whose name holds this text")
    options.add_argument("--markdown", action="store_true", help="print the table as Markdown too")
    options.add_argument("--keep", action="store_true", help="leave the folder with all logs")
    options = options.parse_args()
    perform("verifiers", options, judge)


if __name__ == "__main__":
    main()
