"""The rows of the matrix: what each client is made to do, and what it takes. Each function is one row; it runs the client with
the environment alone, and where that is not enough shows first that the client then reaches nothing."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

ALL = []
FULL = {"Java", "deno", "bun", "Node 22"}  # large to install: not part of the quick run


class Wrong(Exception):
    """A client did not do what its row says."""


class Missing(Exception):
    """This machine does not have the client."""


def row(name, kind, alone="yes", otherwise=""):
    """`alone`: what the environment alone comes to; `otherwise`: what else does it."""
    def enter(function):
        ALL.append((name, kind, alone, otherwise, function))
        return function
    return enter


def program(name):
    found = shutil.which(name)
    if not found:
        raise Missing(f"{name} is not installed")
    return found


class Run:
    """One row's run: its folder, its environment, and what it found."""

    def __init__(self, bench, tools, name):
        self.bench, self.tools, self.version, self.expected = bench, tools, "", set()
        self.dir = bench.dir / "rows" / re.sub(r"[^a-z0-9]+", "-", name.lower())
        self.dir.mkdir(parents=True)
        world = bench.world
        self.items = world.dpop_api
        self.facts = {"items": world.dpop_api, "llm": world.plain_api, "mcp": world.mcp, "bucket": "https://bucket.wild.test",
                      "socket": world.dpop_api.replace("https:", "wss:") + "/v1/ws", "calls": "calls.wild.test:443"}

    def environment(self, agent="coder"):
        """HOME, PATH, and exactly what `tokenward env` prints."""
        return {"HOME": str(self.dir), "PATH": self.tools.path, **getattr(self.bench, agent).environment}

    def start(self, command, agent, cwd, stdin, timeout):
        try:
            return subprocess.run([str(c) for c in command], input=stdin, capture_output=True, timeout=timeout, cwd=cwd or self.dir,
                                  env=self.environment(agent))
        except subprocess.TimeoutExpired:
            raise Wrong(f"{command[:3]} was not done after {timeout} s") from None

    def do(self, *command, wanted="", agent="coder", cwd=None, stdin=None, timeout=90):
        """A run that must succeed, with `wanted` in what it says."""
        done = self.start(command, agent, cwd, stdin, timeout)
        said = (done.stdout + done.stderr).decode(errors="replace")
        if done.returncode or wanted not in said:
            raise Wrong(f"{shown(command)} ended with {done.returncode}: …{said[-700:]}")
        return done.stdout.decode(errors="replace")

    def closed(self, *command, agent="coder"):
        """A run that must fail, and reach nothing."""
        self.settle()
        mark = self.bench.mark()
        done = self.start(command, agent, None, None, 60)
        if not done.returncode:
            raise Wrong(f"{shown(command)} succeeded: the row says that the environment alone does not do it")
        lines = self.bench.lines()
        passed = [line for line in lines if line.get("code") != "agent-unauthenticated"]
        if passed or self.bench.seen(mark):
            raise Wrong(f"{shown(command)} failed, but not closed: {passed[:2]}")

    def settle(self):
        """What the requests so far came to is kept for the row."""
        self.collected = getattr(self, "collected", []) + self.bench.lines()

    # ---- kinds of clients

    def python(self, client, *, closed=False):
        self.script([self.tools.python, self.tools.scripts / "agent.py", client, json.dumps(self.facts)], closed)

    def js(self, runtime, client, *, closed=False):
        command = {"node20": [self.tools.node20], "node22": [self.tools.node22], "node24": [self.tools.node24],
                   "bun": [self.tools.bun, "run"],
                   "deno": [self.tools.deno, "run", "-A", "--quiet", "--no-lock", "--node-modules-dir=manual"]}[runtime]
        self.script([*command, self.tools.scripts / "agent.mjs", client, json.dumps(self.facts)], closed)

    def java(self, client, *, closed=False, agent="coder"):
        java = program("java")
        self.script([java, self.tools.scripts / "Agent.java", client, self.items], closed, agent)

    def script(self, command, closed, agent="coder"):
        if not Path(command[0]).exists():
            raise Missing(f"{command[0]} is not installed")
        if closed:
            self.closed(*command, agent=agent)
            return
        said = self.do(*command, agent=agent)
        self.version = json.loads(said.splitlines()[-1])["version"]

    def number(self, *command):
        """The version that a program tells."""
        said = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=60, env={"PATH": self.tools.path, "HOME": str(self.dir)})
        self.version = re.search(r"\d+(\.\d+)+", said.stdout + said.stderr)[0]


def shown(command):
    return " ".join(str(c) if len(str(c)) < 80 else "…" for c in command[:6])


# ---- programs


@row("curl", "programs")
def run(it):
    curl, token = program("curl"), f"Authorization: Bearer {it.bench.coder.environment['ITEMS_TOKEN']}"
    it.number(curl, "--version")
    (it.dir / "bulk").write_bytes(os.urandom(300_000))
    for protocol in ("--http1.1", "--http2"):
        start = [curl, "-sS", "--fail", "--max-time", "30", protocol, "-H", token]
        it.do(*start, it.items + "/v1/items", wanted='"items"')
        it.do(*start, "--json", '{"name": "x"}', it.items + "/v1/items", wanted='"x"')
        it.do(*start, "-X", "POST", "-T", "bulk", it.items + "/v1/upload", wanted='"bytes":300000')
        it.do(*start, "-X", "POST", "-T", "-", it.items + "/v1/upload", wanted='"bytes":5000', stdin=b"x" * 5000)
        it.do(*start, "-N", it.items + "/v1/stream?n=3&ms=20", wanted="id: 2")
        # Where the agent puts its placeholder is not where the credential goes.
        key = f"X-Api-Key: {it.bench.coder.environment['LLM_API_KEY']}"
        it.do(curl, "-sS", "--fail", "--max-time", "30", protocol, "-H", key, it.facts["llm"] + "/v1/models", wanted="tiny")


@row("wget", "programs")
def run(it):
    wget, token = program("wget"), f"Authorization: Bearer {it.bench.coder.environment['ITEMS_TOKEN']}"
    it.number(wget, "--version")
    start = [wget, "-q", "--tries=1", "--timeout=20", "-O", "-", f"--header={token}"]
    it.do(*start, it.items + "/v1/items", wanted='"items"')
    it.do(*start, "--post-data=" + "x" * 5000, it.items + "/v1/upload", wanted='"bytes":5000')
    it.do(*start, it.items + "/v1/stream?n=3&ms=20", wanted="id: 2")


@row("git: clone, push", "programs")
def run(it):
    git, url = program("git"), it.bench.world.git
    it.number(git, "--version")
    author = ["-c", "user.name=a", "-c", "user.email=a@x.test"]
    it.do(git, "clone", "-q", url, "one")
    one = it.dir / "one"
    (one / "more.bin").write_bytes(os.urandom(2_000_000))
    it.do(git, "add", ".", cwd=one)
    it.do(git, *author, "commit", "-q", "-m", "more", cwd=one)
    # Larger than http.postBuffer: it goes out in chunks, after a request that asks for leave.
    it.do(git, "push", "-q", "origin", "HEAD", cwd=one)
    bearer = f"http.extraHeader=Authorization: Bearer {it.bench.coder.environment['GIT_TOKEN']}"
    it.do(git, "-c", bearer, "clone", "-q", url, "two")
    it.do(git, "-c", "http.version=HTTP/1.1", "clone", "-q", "--depth=1", url, "three")
    if (it.dir / "two" / "more.bin").read_bytes() != (one / "more.bin").read_bytes():
        raise Wrong("what was pushed is not what was cloned")
    it.settle()
    # git says whose it is only when it is asked: 407 with `Proxy-Authenticate: Basic`, then with the token.
    if not any(line.get("code") == "agent-unauthenticated" for line in it.collected):
        raise Wrong("git needed no 407: the row no longer shows that it can")


@row("gh", "programs")
def run(it):
    gh = program("gh")
    it.number(gh, "--version")
    start = [gh, "api", "--hostname", "gh.wild.test"]
    it.do(*start, "user", wanted="octo")
    it.do(*start, "graphql", "-f", "query={viewer{login}}", wanted="octo")
    it.do(*start, "repos/octo/demo/issues", "-f", "title=hello", wanted='"number"')


# ---- package managers


@row("pip", "packages")
def run(it):
    pip = [it.tools.python, "-m", "pip", "--disable-pip-version-check"]
    it.number(*pip, "--version")
    where = ["--index-url", "https://pypi.wild.test/simple/", "--no-cache-dir", "-q"]
    it.do(*pip, "download", *where, "-d", "wheels", "demo-pkg")
    it.do(*pip, "install", *where, "--target", "site", "demo-pkg")
    if not (it.dir / "site" / "demo_dep" / "__init__.py").exists():
        raise Wrong("the package's dependency is not there")


@row("uv", "packages")
def run(it):
    uv = it.tools.python.parent / "uv"
    it.number(uv, "--version")
    it.do(uv, "pip", "install", "-q", "--no-cache", "--python", it.tools.python, "--default-index", "https://pypi.wild.test/simple/",
          "--target", "site", "demo-pkg")
    if not (it.dir / "site" / "demo_dep" / "__init__.py").exists():
        raise Wrong("the package's dependency is not there")


@row("cargo", "packages")
def run(it):
    cargo = program(it.tools.cargo)
    it.number(cargo, "--version")
    for folder in ("src", ".cargo"):
        (it.dir / folder).mkdir()
    (it.dir / "src" / "lib.rs").write_text("")
    (it.dir / "Cargo.toml").write_text('[package]\nname = "x"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\ndemo = "1"\n')
    (it.dir / ".cargo" / "config.toml").write_text(
        '[source.crates-io]\nreplace-with = "here"\n[source.here]\nregistry = "sparse+https://crates.wild.test/index/"\n')
    it.do(cargo, "fetch", "-q")
    if "demo" not in (it.dir / "Cargo.lock").read_text():
        raise Wrong("the crate is not there")


def npm(it, *arguments, wanted=""):
    registry = ["--registry=https://npm.wild.test/", "--no-fund", "--no-update-notifier"]
    it.do(it.tools.node24, it.tools.npm, *arguments, *registry, wanted=wanted)


@row("npm", "packages")
def run(it):
    it.number(it.tools.node24, it.tools.npm, "--version")
    (it.dir / "package.json").write_text('{"name": "x", "version": "1.0.0"}')
    npm(it, "ping")
    npm(it, "install", "demo-a")
    npm(it, "ci")
    npm(it, "audit")
    if not (it.dir / "node_modules" / "demo-b" / "package.json").exists():
        raise Wrong("the package's dependency is not there")


@row("npm: scoped names", "packages", otherwise="the registry's service needs `escaped_slashes: literal`")
def run(it):
    # The registry's protocol asks for `/@scope%2fname`.
    it.number(it.tools.node24, it.tools.npm, "--version")
    (it.dir / "package.json").write_text('{"name": "@demo/x", "version": "1.0.0"}')
    (it.dir / ".npmrc").write_text(f"//npm.wild.test/:_authToken={it.bench.coder.environment['NPM_TOKEN']}\n")
    npm(it, "install", "@demo/scoped")
    npm(it, "publish", "--access=public")


# ---- Python

for name in ("requests", "openai", "anthropic", "mcp", "websockets", "websocket-client"):
    row(f"{name}", "Python")(lambda it, name=name: it.python(name))
@row("httpx", "Python")
def run(it):
    it.python("httpx, http2=True")
    it.python("httpx")


row("urllib.request", "Python")(lambda it: it.python("urllib"))


@row("grpcio: unary, all streams, trailers", "Python")
def run(it):
    it.python("grpcio")
    it.settle()
    it.expected = {"policy-denied"}
    it.python("grpcio, denied")


@row("aiohttp", "Python", "no", "`ClientSession(trust_env=True)`")
def run(it):
    it.python("aiohttp", closed=True)
    it.python("aiohttp, trust_env")


@row("urllib3", "Python", "no", "`ProxyManager(…, proxy_headers=…, ca_certs=…)`; requests does it by itself")
def run(it):
    it.python("urllib3", closed=True)
    it.python("urllib3, ProxyManager")


row("httplib2 with PySocks", "Python")(lambda it: it.python("httplib2"))


@row("pycurl from a wheel", "Python", "no", "`setopt(CAINFO, os.environ[\"CURL_CA_BUNDLE\"])`; it finds the proxy by itself")
def run(it):
    it.python("pycurl", closed=True)
    it.python("pycurl, CAINFO")


@row("boto3", "Python", "refused", "403 `placeholder-required`: SigV4 signs, so there is no placeholder to exchange")
def run(it):
    it.expected = {"placeholder-required"}
    it.python("boto3")


# ---- Node.js

for name in ("fetch", "https", "axios", "got", "node-fetch", "openai", "@anthropic-ai/sdk", "@modelcontextprotocol/sdk"):
    row(name, "Node 24")(lambda it, name=name: it.js("node24", name))


@row("undici", "Node 24")
def run(it):
    it.js("node24", "undici, EnvHttpProxyAgent")
    it.js("node24", "undici")


@row("ws", "Node 24", "no", "`new WebSocket(url, {agent: new HttpsProxyAgent(process.env.HTTPS_PROXY)})`")
def run(it):
    it.js("node24", "ws", closed=True)
    it.js("node24", "ws, agent")


@row("node:http2", "Node 24", "no", "`createConnection` with a tunnel made by hand")
def run(it):
    it.js("node24", "http2", closed=True)
    it.js("node24", "http2, tunnel")


@row("@aws-sdk/client-s3", "Node 24", "no", "with `NodeHttpHandler({httpsAgent})` it is refused as boto3 is")
def run(it):
    it.js("node24", "@aws-sdk/client-s3", closed=True)
    it.expected = {"placeholder-required"}
    it.js("node24", "@aws-sdk/client-s3, agent")


row("axios", "Node 20")(lambda it: it.js("node20", "axios"))


@row("fetch", "Node 20", "no", "`setGlobalDispatcher(new EnvHttpProxyAgent())` of undici, or Node 24")
def run(it):
    it.js("node20", "fetch", closed=True)
    it.js("node20", "fetch, global dispatcher")


@row("https", "Node 20", "no", "`agent: new HttpsProxyAgent(process.env.HTTPS_PROXY)`, or Node 24")
def run(it):
    it.js("node20", "https", closed=True)
    it.js("node20", "https, agent")


for name in ("openai", "@modelcontextprotocol/sdk"):
    @row(name, "Node 20", "no", "as fetch")
    def run(it, name=name):
        it.js("node20", name, closed=True)
        it.js("node20", f"{name}, global dispatcher")


# ---- other runtimes

for name in ("fetch", "https"):
    row(name, "Node 22")(lambda it, name=name: it.js("node22", name))
for name in ("fetch", "node:https", "axios"):
    row(name, "deno")(lambda it, name=name: it.js("deno", name.removeprefix("node:")))
    row(name, "bun")(lambda it, name=name: it.js("bun", name.removeprefix("node:")))


for name in ("HttpClient", "HttpURLConnection"):
    @row(name, "Java", "without a proxy token",
         "`HttpClient.newBuilder().authenticator(…)`" if name == "HttpClient" else "`Authenticator.setDefault(…)`")
    def run(it, name=name):
        it.java(name, closed=True)
        it.java(f"{name}, authenticator")
        # An agent that needs no token is served by the environment alone.
        it.java(name, agent="open")
