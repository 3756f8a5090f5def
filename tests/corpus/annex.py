"""A tokenward beside the main one, for the time of one case: what a case wants to break (an issuer's answers, small limits,
the environment) is broken there, and nobody else's tokens, pauses or limits are touched. The oracles read its audit, its
log and its metrics like those of the main one."""

import itertools
import json
import os
import secrets
import signal
import subprocess
import urllib.request

import agent as agents
import net
from origins import DpopApi, Issuer

PORTS = itertools.count(20001, 2)
DESK = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Annex:
    """`services` maps names to YAML in flow style; `who` names agents, each of which may use `allowed[name]` or all."""

    def __init__(self, house, services, who=("A",), allowed=None, issuers=None, limits=None, more="", environment=None, owners=(),
                 log="trace", health=None, launcher=()):
        # A command before tokenward's own, such as `prlimit`: it has to replace itself by it.
        self.launcher = list(launcher)
        self.house, self.given, self.owners = house, dict(environment or {}), list(owners)
        number = next(PORTS)
        self.dir = house.dir / f"annex-{number}"
        self.dir.mkdir()
        self.proxy, self.health = (net.PROXY, number), (net.PROXY, number + 1)
        # `<HEALTH>` and `<PROXY>` in services are its own ports; `health` another address for it to listen on.
        self.listens = health or net.PROXY
        self.audit, self.log, self.out = self.dir / "audit.jsonl", self.dir / "serve.log", self.dir / "serve.out"
        self.tokens = {name: f"px-{secrets.token_urlsafe(30)}" for name in who}
        self.config = self.dir / "tokenward.yaml"
        self.config.write_text(self.written_config(services, allowed or {}, issuers or {}, limits, more))
        self.process, self.agents = None, {}
        house.annexes.append(self)
        self.start(log)

    def written_config(self, services, allowed, issuers, limits, more):
        host, port = self.proxy
        ca = f'ca: {{file: "{self.house.dir / "origins.pem"}"}}'
        named = "".join(f"\n  {name}: {{auth: {{token: {{env: PX_{i}}}}}, services: "
                        f"[{', '.join(allowed.get(name, services))}]}}" for i, name in enumerate(self.tokens))
        given = "".join(f'\n  {name}: {{url: "{url}", {ca}}}' for name, url in issuers.items())
        holes = {"<CA>": ca, "<PROXY>": str(port), "<HEALTH>": str(port + 1)}
        text = ""
        for name, body in services.items():
            for hole, value in holes.items():
                body = body.replace(hole, value)
            text += f"\n  {name}: {body}"
        return (f'listen: {{proxy: {{address: "{host}:{port}", plaintext: true}}}}\nhealth: "{self.listens}:{port + 1}"\n'
                f"runtime_dir: public\naudit: {{file: audit.jsonl}}\n{'limits: ' + limits if limits else ''}\n{more}\n"
                f"agents:{named}\n{'issuers:' + given if given else ''}\nservices:{text}\n")

    def start(self, log):
        variables = {f"PX_{i}": token for i, token in enumerate(self.tokens.values())}
        variant = {"TOKENWARD_VARIANT": self.house.variant} if self.house.variant else {}
        self.process = subprocess.Popen(
            [*self.launcher, self.house.binary, "--config", self.config, "--log", log, "serve"], cwd=self.dir,
            env={"PATH": os.environ["PATH"], "HOME": str(self.dir), **variables, **variant, **self.given},
            stdout=self.out.open("ab"), stderr=self.log.open("ab"))
        from house import wait_until
        wait_until("the annex is ready", self.is_ready, 20)
        ca = self.dir / "public" / "ca.pem"
        self.agents = {name: agents.Agent(self.proxy, name, token, ca) for name, token in self.tokens.items()}

    def again(self, log="trace"):
        """Ends it and starts it anew: all it keeps is in memory."""
        before = {name: agent.opened for name, agent in self.agents.items()}
        self.end()
        self.start(log)
        for name, opened in before.items():
            self.agents[name].opened = opened

    def is_ready(self):
        if self.process.poll() is not None:
            raise AssertionError(f"the annex ended: {self.log.read_text(errors='replace')[-2000:]}")
        try:
            return self.fetch("/readyz")[0] == 200
        except OSError:
            return False

    def fetch(self, path):
        try:
            with DESK.open(f"http://{self.health[0]}:{self.health[1]}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metrics(self):
        return self.fetch("/metrics")[1]

    def lines(self):
        data = self.audit.read_bytes() if self.audit.exists() else b""
        return [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]

    def events(self, name):
        return [line for line in self.lines() if line["event"] == name]

    def written(self):
        """Everything in which a secret must not be."""
        return b"\n".join([*(p.read_bytes() for p in (self.audit, self.log, self.out) if p.exists()),
                           self.metrics().encode() if self.process and self.process.poll() is None else b""])

    def owned(self):
        """`(secret, host that may see it)`."""
        for token in self.tokens.values():
            yield token, None
        for source in self.owners:
            if isinstance(source, Issuer):
                yield source.secret, source.host
                for token, (_, resource, _) in list(source.tokens.items()):
                    yield token, resource.removeprefix("https://")
            else:
                yield source

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def oauth(issuer, host, more="", secret="{secret_basic: {env: AS_SECRET}}", rules='[{allow: "* /**"}]', hosts=None):
    """A service with a token of `issuer`'s for `host`."""
    return (f'{{hosts: [{hosts or host}], upstream: {{<CA>}}, credential: {{oauth: {{issuer: {issuer}, client_id: corpus, '
            f'client_auth: {secret}, grant: client_credentials, resource: "https://{host}"{more}}}}}, rules: {rules}}}')


def realm(house, name):
    """An issuer `as-<name>.test` and its API `api-<name>.test`, which only this case's annexes use."""
    issuer = Issuer(f"as-{name}.test", house.secrets["AS_SECRET"])
    issuer.host = f"as-{name}.test"
    api = DpopApi(issuer, f"api-{name}.test")
    for host, server in ((issuer.host, issuer), (api.host, api)):
        origin = house.open_origin(host)
        origin.default = origin.behave = server.behave
        origin.reset()
    house.issuing.add(issuer.host)
    house.credentialed.add(api.host)
    return issuer, api


def annexed(house, name, environment=None, more="", **how):
    """A realm and an annex that uses it, as the service `api`."""
    issuer, api = realm(house, name)
    issuer.secret = f"sec-{secrets.token_urlsafe(24)}"
    annex = Annex(house, {"api": oauth("own", api.host, more)}, issuers={"own": issuer.url},
                  environment={"AS_SECRET": issuer.secret, **(environment or {})}, owners=[issuer], **how)
    return annex, issuer, api
