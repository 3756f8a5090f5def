"""The fixture: names, origins, the issuer, the configuration and a running tokenward; and the six oracles."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import agent as agents
import net
import origins
import parsers
from keys import Authority, pem

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "world"))
from canaries import forms  # noqa: E402

DESK = urllib.request.build_opener(urllib.request.ProxyHandler({}))
MIB = 1024 * 1024


def fail_unless(truth, *what):
    if not truth:
        raise AssertionError(" ".join(str(w) for w in what))


def wait_until(what, test, seconds=10, step=0.02):
    end = time.monotonic() + seconds
    while not (answer := test()):
        fail_unless(time.monotonic() < end, "not within", seconds, "s:", what)
        time.sleep(step)
    return answer


class House:
    def __init__(self, binary, dir, private, variant=None, log="trace"):
        self.binary, self.dir, self.private, self.variant, self.log_level = binary, Path(dir), private, variant, log
        self.ca = Authority()
        (self.dir / "origins.pem").write_bytes(pem(self.ca.certificate))
        self.dns = net.Dns() if private else None
        self.origins = {}
        # Processes beside the main one, for the time of one case (annex.py).
        self.annexes = []
        # Hosts that are issuers, and hosts that are sent a credential.
        self.issuing, self.credentialed = {"as.test"}, {"api.ro.test", "api.rw.test", "echo.test", "gql.test", "ws.test"}
        self.secrets = {name: prefix + secrets.token_urlsafe(30) for name, prefix in [
            ("A_TOKEN", "pa-"), ("B_TOKEN", "pb-"), ("AS_SECRET", "cs-"), ("ECHO_TOKEN", "echo-"), ("GQL_TOKEN", "gql-"),
            ("WS_TOKEN", "ws-"), ("PARSER_KEY", "parser-")]}
        self.build_origins()
        self.audit_at, self.baseline = 0, None
        self.proxy_address = (net.PROXY, 3128) if private else ("127.0.0.1", free_port())
        self.health = ("127.0.0.1", 9901 if private else free_port())
        self.write_config()
        self.process = None

    # --- the other side

    def address(self, host):
        known = net.HOSTS.get(host, net.WILD)
        return known if self.private else net.private_to_loopback(known)

    def build_origins(self):
        self.issuer = origins.Issuer("as.test", self.secrets["AS_SECRET"])
        self.ro = origins.DpopApi(self.issuer, "api.ro.test")
        self.rw = origins.DpopApi(self.issuer, "api.rw.test")
        behaviours = {"as.test": self.issuer.behave, "api.ro.test": self.ro.behave, "api.rw.test": self.rw.behave}
        for host in ("as.test", "api.ro.test", "api.rw.test", "echo.test", "gql.test", "ws.test", "mal.test", "evil.test",
                     "xn--bcher-kva.test", "h11.rw.test"):
            self.add_origin(host, self.address(host), [host], behaviours.get(host))
        self.add_origin("wild.test", self.address("x.wild.test"), ["*.wild.test", "wild.test"])
        self.origins["plain.test"] = origins.Origin("plain.test", self.address("plain.test"), 80 if self.private else 0)
        # Foreign parsers: service -> what stands behind `<service>.rw.test`.
        self.parsers = parsers.start(self)
        self.sinks = {**self.origins, **{p.name: p for p in self.parsers.values()}}

    def add_origin(self, host, address, names, behave=None):
        context = self.ca.server(self.dir, names)
        self.origins[host] = origins.Origin(host, address, 443 if self.private else 0, context, behave)

    def open_origin(self, host, behave=None, context=None, names=None):
        """An origin that a case wants for itself, at an address of its own; the second time it is the same one. The name
        resolves to it from now on, and for the time of the case if it is a `*.wild.test`, which main's policy allows."""
        if host not in self.origins:
            address = net.add(self)
            context = context or self.ca.server(self.dir, names or [host])
            self.origins[host] = self.sinks[host] = origins.Origin(host, address, 443, context, behave)
        origin = self.origins[host]
        if host.endswith(".wild.test"):
            self.dns.answers[host] = [origin.address]
        else:
            net.HOSTS[host] = origin.address
        return origin

    # --- tokenward

    def upstream(self, host):
        ca = f'ca: {{file: "{self.dir / "origins.pem"}"}}'
        if self.private:
            return f"upstream: {{{ca}}}"
        origin = self.sinks[host]
        return f"upstream: {{{ca}, connect: \"{origin.address}:{origin.port}\", allow_private: true}}"

    def write_config(self):
        def oauth(host):
            return (f"{{oauth: {{issuer: corpus, client_id: corpus, client_auth: {{secret_basic: {{env: AS_SECRET}}}}, "
                    f"grant: client_credentials, resource: \"https://{host}\"}}}}")

        def service(name, hosts, origin, credential, rules, variable=None, port=None, more=""):
            listed = "".join(f'\n      - {{{kind}: "{rule}"}}' for kind, rule in rules)
            hole = f'\n    placeholder: {{variable: {variable}, shape: "ph-{name}-{{random:32}}"}}' if variable else ""
            place = "" if port == 80 else f"\n    {self.upstream(origin)}"
            return (f"\n  {name}:\n    hosts: [{', '.join(json.dumps(h) for h in hosts)}]" + (f"\n    port: {port}" if port else "")
                    + f"{place}\n    credential: {credential}{hole}{more}\n    rules:{listed}\n")

        def bearer(variable):
            return f"{{bearer: {{env: {variable}}}}}"
        anything = [("allow", "* /**")]
        written = "".join([
            service("ro", ["api.ro.test"], "api.ro.test", oauth("api.ro.test"),
                    [("allow", "GET /v1/items/**"), ("allow", "GET /v1/public/**")], "RO_TOKEN"),
            service("rw", ["api.rw.test"], "api.rw.test", oauth("api.rw.test"),
                    [("allow", "GET|POST /v1/items")], "RW_TOKEN"),
            service("echo", ["echo.test"], "echo.test", bearer("ECHO_TOKEN"), anything, "ECHO_PH"),
            service("gql", ["gql.test"], "gql.test", bearer("GQL_TOKEN"), [("allow", "POST /graphql")], "GQL_PH"),
            service("ws", ["ws.test"], "ws.test", bearer("WS_TOKEN"), [("allow", "GET /socket")], "WS_PH"),
            service("wild", ["*.wild.test"], "wild.test", "none", anything),
            service("npm", ["npm.wild.test"], "wild.test", "none", anything, more="\n    escaped_slashes: literal"),
            service("dlp", ["dlp.wild.test"], "wild.test", "none", anything, more="\n    request_guard: block"),
            service("mal", ["mal.test"], "mal.test", "none", anything),
            service("idn", ["xn--bcher-kva.test"], "xn--bcher-kva.test", "none", anything),
        ] + [service(name, [f"{name}.rw.test"], f"{name}.rw.test",
                     "{header: {name: x-api-key, value: {env: PARSER_KEY}}}",
                     [("allow", "* /v1/items/**"), ("allow", "PROPFIND /v1/items/**")])
             for name in self.parsers])
        if self.private:
            written += service("plain", ["plain.test"], "plain.test", "none", anything, port=80)
        issuer = f'{{url: "https://as.test", ca: {{file: "{self.dir / "origins.pem"}"}}'
        if not self.private:
            origin = self.origins["as.test"]
            issuer += f', connect: "{origin.address}:{origin.port}", allow_private: true'
        allowed = ["ro", "rw", "echo", "gql", "ws", "wild", "npm", "dlp", "mal", "idn", *self.parsers] + (["plain"] if self.private else [])
        host, port = self.proxy_address
        self.config = self.dir / "tokenward.yaml"
        self.audit = self.dir / "audit.jsonl"
        self.config.write_text(f"""# Made by tests/corpus.
listen: {{proxy: {{address: "{host}:{port}", plaintext: true}}}}
health: {self.health[0]}:{self.health[1]}
runtime_dir: public
ca: {{dir: ca}}
audit: {{file: audit.jsonl}}
agents:
  A: {{auth: {{token: {{env: A_TOKEN}}}}, services: [{', '.join(allowed)}]}}
  B: {{auth: {{token: {{env: B_TOKEN}}}}, services: [ro, rw]}}
issuers:
  corpus: {issuer}}}
services:{written}""")

    def environment(self):
        more = {"TOKENWARD_VARIANT": self.variant} if self.variant else {}
        return {"PATH": os.environ["PATH"], "HOME": str(self.dir), **self.secrets, **more}

    def verb(self, *arguments, config=None, environment=None, timeout=30):
        return subprocess.run([self.binary, "--config", config or self.config, *arguments], text=True, capture_output=True,
                              timeout=timeout, env=environment or self.environment())

    def start(self):
        done = self.verb("ca", "init")
        fail_unless(done.returncode == 0, "tokenward ca init:", done.stderr)
        self.out, self.log = self.dir / "serve.out", self.dir / "serve.log"
        self.process = subprocess.Popen(
            [self.binary, "--config", self.config, "--log", self.log_level, "serve"], env=self.environment(),
            stdout=self.out.open("wb"), stderr=self.log.open("wb"))
        wait_until("tokenward is ready", self.is_ready, 20)
        ca = self.dir / "public" / "ca.pem"
        self.A = agents.Agent(self.proxy_address, "A", self.secrets["A_TOKEN"], ca)
        self.B = agents.Agent(self.proxy_address, "B", self.secrets["B_TOKEN"], ca)
        self.Z = agents.Agent(self.proxy_address, "Z", None, ca)
        self.placeholders = {who: self.placeholder(who) for who in ("A", "B")}
        for host, path in [("api.ro.test", "/v1/items/1"), ("api.rw.test", "/v1/items"), ("echo.test", "/")]:
            answer = self.A.get(host, path)
            fail_unless(answer.status == 200, "warm up", host, answer.status, answer.body[:300], self.ro.refusals[-1:])
        wait_until("the warm-up's lines", lambda: len([l for l in self.lines() if l["event"] == "request"]) >= 3)
        self.baseline = self.memory()

    def placeholder(self, who):
        done = self.verb("env", "--agent", who, "--format", "json")
        fail_unless(done.returncode == 0, "tokenward env:", done.stderr)
        return json.loads(done.stdout)

    def is_ready(self):
        fail_unless(self.process.poll() is None, "tokenward serve ended:", self.log.read_text(errors="replace")[-3000:])
        return self.verb("healthcheck").returncode == 0

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(40)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for parser in self.parsers.values():
            if parser is not self.origins.get(parser.name):
                parser.stop()

    def memory(self):
        """Resident bytes."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def metrics(self):
        host, port = self.health
        with DESK.open(f"http://{host}:{port}/metrics", timeout=5) as answer:
            return answer.read().decode()

    # --- what was recorded

    def lines(self, since=0):
        """The audit's lines from a byte offset on."""
        data = self.audit.read_bytes()[since:]
        return [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]

    def mark(self):
        return Mark(self)

    def reset(self):
        """Between cases: nothing scripted is left over."""
        for origin in [*self.origins.values()]:
            origin.reset()
        if self.dns:
            self.dns.reset()
        self.issuer.reset()
        self.ro.reset()
        self.rw.reset()

    def close_annexes(self):
        while self.annexes:
            self.annexes.pop().stop()


class Mark:
    """A point in time; what happened since it."""

    def __init__(self, house):
        self.house = house
        self.audit = house.audit.stat().st_size
        self.records = {n: len(s.records) for n, s in house.sinks.items()}
        self.accepted = {n: len(o.accepted) for n, o in house.origins.items()}
        self.asked = len(house.dns.log) if house.dns else 0
        self.heard = len(agents.HEARD)
        self.streams = {id(a): len(a.opened) for a in (house.A, house.B, house.Z)}
        self.files = {p: p.stat().st_size for p in (house.log, house.out)}

    def lines(self, event="request"):
        return [line for line in self.all_lines() if line["event"] == event]

    def events(self):
        return [line for line in self.all_lines() if line["event"] != "request"]

    def all_lines(self):
        return [*self.house.lines(self.audit), *(line for annex in self.house.annexes for line in annex.lines())]

    def at(self, origin):
        """What an origin was asked since."""
        return self.house.sinks[origin].records[self.records.get(origin, 0):]

    def everywhere(self):
        return [r for n in self.house.sinks for r in self.at(n) if n not in self.house.issuing]

    def dialled(self):
        return [n for n, o in self.house.origins.items() if len(o.accepted) > self.accepted.get(n, 0)]

    def asked_names(self):
        return [name for _, name, _ in self.house.dns.log[self.asked:]] if self.house.dns else []

    def answers(self):
        """Everything final that agents were answered."""
        h = self.house
        known = [h.A, h.B, h.Z, *(agent for annex in h.annexes for agent in annex.agents.values())]
        found = [a for agent in known for s in agent.opened[self.streams.get(id(agent), 0):] for a in s.answers]
        # A CONNECT that is granted is no request of its own in the audit.
        return [a for a in found if not (a.method == "CONNECT" and a.status == 200)]


class Oracles:
    """The six invariants of threat-model.md §5, asked after every case."""

    def __init__(self, house):
        self.house, self.searched = house, 0

    def check(self, mark, case):
        found = {}
        for name in ("I1", "I2", "I3", "I4", "I5", "I6"):
            try:
                getattr(self, name)(mark, case)
            except (AssertionError, OSError, agents.Closed, agents.Refused, ValueError, KeyError) as error:
                found[name] = (str(error) or type(error).__name__)[:1000]
        return found

    def owned(self):
        """Every secret there is, with the origin that may see it."""
        h = self.house
        for token, (_, resource, _) in h.issuer.tokens.items():
            yield token, resource.removeprefix("https://")
        for variable, owner in [("ECHO_TOKEN", "echo.test"), ("GQL_TOKEN", "gql.test"), ("WS_TOKEN", "ws.test"),
                                ("AS_SECRET", "as.test"), ("A_TOKEN", None), ("B_TOKEN", None)]:
            yield h.secrets[variable], owner
        yield h.secrets["PARSER_KEY"], "parsers"
        for annex in h.annexes:
            yield from annex.owned()

    def I1(self, mark, case):
        """No secret in what agents heard, nor in the log, the audit, standard output or the metrics."""
        h = self.house
        text = b"".join(agents.HEARD[mark.heard:])
        for path, start in [*mark.files.items(), (h.audit, mark.audit)]:
            with path.open("rb") as file:
                file.seek(start)
                text += b"\n" + file.read()
        for annex in h.annexes:
            text += b"\n" + annex.written()
        text += h.metrics().encode()
        for secret, owner in self.owned():
            for form in forms(secret.encode()):
                fail_unless(len(form) < 16 or form not in text, "a secret of", owner or "an agent's login", "came out")
        for header in (b"\r\ndpop:", b"\r\nDPoP:"):
            fail_unless(header not in b"".join(agents.HEARD[mark.heard:]), "a proof came back")

    def I2(self, mark, case):
        """A token at its own origin only, bound tokens with the DPoP scheme only, and no placeholder in a slot."""
        h = self.house
        foreign = {p.name for p in h.parsers.values()}
        for name in h.sinks:
            seen = [f"{n}: {v}" for r in mark.at(name) for n, v in [*r.fields, *r.trailers, ("target", r.target)]]
            text = "\n".join(seen)
            for secret, owner in self.owned():
                mine = owner == name or (owner == "parsers" and name in foreign)
                fail_unless(mine or secret not in text, "a secret of", owner, "reached", name)
            for token in h.issuer.tokens:
                fail_unless(name in h.issuing or f"Bearer {token}" not in text, "a bound token went out as Bearer")
            slots = [v for r in mark.at(name) for n, v in r.fields if n in ("authorization", "x-api-key", "proxy-authorization")]
            fail_unless(not any("ph-" in v for v in slots), "a placeholder reached", name)
            for record in mark.at(name):
                credentials = len(record.values("authorization")) + len(record.values("x-api-key"))
                wanted = name in foreign or name in h.credentialed
                fail_unless(name in h.issuing or credentials == int(wanted), credentials, "credentials reached", name)
                fail_unless(not record.values("proxy-authorization"), "Proxy-Authorization reached", name)

    def I3(self, mark, case):
        """What the origins' parsers understood is what the audit says was sent: count, method, path, host."""
        def settled():
            sent = [l for l in mark.lines() if l.get("attempts", 1 if "upstream_status" in l else 0)]
            heard = mark.everywhere()
            return sent, heard
        sent, heard = settled()
        understood = sorted((r.method, r.target.split("?")[0], r.host.split(":")[0]) for r in heard if r.complete or True)
        said = []
        for line in sent:
            said += [(line["method"], line["path"], line["host"])] * line.get("attempts", 1)
        def shown(item):
            """As an audit line shows it: a long path ends with an ellipsis there."""
            return next((i for i in said if i[1].endswith("…") and (i[0], i[2]) == (item[0], item[2]) and item[1].startswith(i[1][:-1])), item)
        for item in understood:
            item = shown(item)
            fail_unless(item in said, "an origin understood", item, "and the audit says", sorted(said)[:5])
            said.remove(item)
        fail_unless(not said or case.unheard, "the audit tells of requests that no origin understood:", said[:5])

    def I4(self, mark, case):
        """It lives: a benign request is served at once, by the same process, without having grown."""
        h = self.house
        fail_unless(h.process.poll() is None, "tokenward ended with", h.process.returncode)
        h.reset()
        start, written = time.monotonic(), h.audit.stat().st_size
        answer = h.A.get("api.ro.test", "/v1/items/benign")
        fail_unless(answer.status == 200, "a benign request got", answer.status, answer.body[:200])
        fail_unless(time.monotonic() - start < 1 + case.patience, "a benign request took", time.monotonic() - start, "s")
        # Its line belongs to this case, not to the next one.
        wait_until("the benign request's line", lambda: any(l.get("path") == "/v1/items/benign" for l in h.lines(written)), 3)
        grown = h.memory() - h.baseline
        fail_unless(grown <= 16 * MIB + case.grows, "memory grew by", grown // MIB, "MiB")
        panics = [l for l in h.metrics().splitlines() if l.startswith("tokenward_panics_total")]
        fail_unless(all(float(l.split()[-1]) == 0 for l in panics), "it panicked:", panics)

    def I5(self, mark, case):
        """Silence: where a host or an address was refused, nobody was asked, looked up or dialled."""
        if not case.silent:
            return
        fail_unless(not case.dialled, "dialled:", case.dialled)
        fail_unless(not case.asked, "names asked for:", case.asked)

    def I6(self, mark, case):
        """One well-formed line for each request that was answered, with the same status; no more, no less."""
        wanted = sorted(a.status for a in case.answered)
        found = sorted(l["status"] for l in case.lines if "status" in l)
        if case.lines_wanted is None:
            rest = list(found)
            for status in wanted:
                fail_unless(status in rest, "no line for a", status, "; lines:", found)
                rest.remove(status)
            return
        fail_unless(found == wanted or case.lines_wanted == len(case.lines), "answers", wanted, "lines", found)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def scratch(name):
    path = Path(name)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
