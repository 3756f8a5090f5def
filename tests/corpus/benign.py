#!/usr/bin/env python3
"""Benign traffic of real clients through tokenward: none of it may be refused.

benign.py --bin PATH --clients DIR [--only curl,git]     run; DIR/venv/bin/python is the interpreter that has everything
benign.py --install DIR                                  puts the clients that come as packages into DIR; needs the registries

Every client runs with a cleared environment and what `tokenward env` prints for its agent, in the corpus's private network.
A table says for each how many requests the audit counts, how many were refused or failed, and what the client itself found
wrong. A client that this machine does not have is said so aloud and is no failure.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

PYTHON = ["requests", "httpx[http2]", "aiohttp", "websockets", "websocket-client", "grpcio"]
NODE = ["undici@7", "https-proxy-agent@7", "axios@1", "ws@8"]
BASE, H2 = "https://site.wild.test", "https://two.wild.test"
TABLE = []


def install(dir):
    """A venv with the corpus's own packages and the clients, and a folder of Node's."""
    dir.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", dir / "venv"], check=True)
    pip = [dir / "venv" / "bin" / "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
    for package in PYTHON:
        if subprocess.run([*pip, package]).returncode:
            print("could not be installed:", package)
    if shutil.which("npm"):
        if subprocess.run(["npm", "install", "--prefix", dir, "--no-audit", "--no-fund", "--loglevel=error", *NODE]).returncode:
            print("could not be installed:", *NODE)


class Missing(Exception):
    """This machine does not have the client."""


class Client:
    """One client's run: what it may use, and what it found."""

    def __init__(self, bench, name):
        self.bench, self.name, self.good, self.wrong = bench, name, 0, []
        self.dir = bench.dir / f"client-{name}"
        self.dir.mkdir()
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.dir), "LANG": "C.UTF-8", "GIT_TERMINAL_PROMPT": "0",
                            **bench.environment}

    def check(self, what, truth, *seen):
        if truth:
            self.good += 1
        else:
            self.wrong.append(" ".join([what, *(str(s)[-300:] for s in seen)]))

    def do(self, what, command, wanted=b"", stdin=None, codes=(0,), test=None, cwd=None, **more):
        """Runs a command and judges its end and its output."""
        if not shutil.which(str(command[0])):
            raise Missing(f"no {command[0]}")
        try:
            done = subprocess.run([str(c) for c in command], input=stdin, capture_output=True, timeout=120, cwd=cwd or self.dir,
                                  env={**self.environment, **more})
        except subprocess.TimeoutExpired:
            self.check(what, False, "was not done after 120 s")
            return b""
        wanted = wanted.encode() if isinstance(wanted, str) else wanted
        fine = done.returncode in codes and wanted in done.stdout + done.stderr and (test is None or test(done.stdout))
        self.check(what, fine, done.returncode, done.stdout[-200:], done.stderr)
        return done.stdout

    def script(self, *command, **more):
        """A script that counts for itself."""
        if not shutil.which(str(command[0])):
            raise Missing(f"no {command[0]}")
        done = subprocess.run([str(c) for c in command], capture_output=True, timeout=180, cwd=self.dir, env={**self.environment, **more})
        try:
            told = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            self.check("the script", False, done.stdout, done.stderr)
            return
        if "missing" in told:
            raise Missing(told["missing"])
        self.good += told["good"]
        self.wrong += told["wrong"]


def client(name):
    def enter(function):
        TABLE.append((name, function))
        return function
    return enter


def curl(name, base, *protocol):
    """curl in one protocol towards an origin that speaks another."""
    @client(name)
    def run(it):
        from benign_requests import TARGETS, same
        start = ["curl", "-sS", "--max-time", "30", "--globoff", *protocol]
        bulk = os.urandom(1_500_000)
        (it.dir / "bulk").write_bytes(bulk)

        def told(title, *more, test=lambda told: True, **how):
            it.do(title, [*start, *more], test=lambda out: test(json.loads(out)), **how)
        for target in TARGETS:
            told("GET " + target[:40], base + target, test=lambda t, target=target: same(t["target"], target))
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            told(method, "-X", method, "--data-binary", '{"a": 1}', "-H", "Content-Type: application/json", base + "/m",
                 test=lambda t, method=method: t["method"] == method and t["length"] == 8)
        told("OPTIONS", "-X", "OPTIONS", "-H", "Origin: https://x.test", base + "/o", test=lambda t: t["method"] == "OPTIONS")
        told("a form", "-d", "a=b", "--data-urlencode", "c=d é&", base + "/m")
        told("a form with a file", "-F", "a=b", "-F", "f=@bulk", base + "/m", test=lambda t: t["length"] > len(bulk))
        told("from standard input, chunked", "-T", "-", base + "/up", stdin=bulk, test=lambda t: t["length"] == len(bulk))
        told("a file", "-T", "bulk", base + "/up", test=lambda t: t["length"] == len(bulk))
        told("Expect", "-H", "Expect: 100-continue", "--data-binary", "@bulk", base + "/m", test=lambda t: t["length"] == len(bulk))
        told("no Expect", "-H", "Expect:", "--data-binary", "@bulk", base + "/m", test=lambda t: t["length"] == len(bulk))
        told("an empty body", "-X", "POST", "-d", "", base + "/m", test=lambda t: t["length"] == 0)
        told("a body with GET", "-X", "GET", "-d", "{}", base + "/search", test=lambda t: t["length"] == 2)
        told("cookies", "-b", "; ".join(f"c{n}=v{n}" for n in range(60)), base + "/c")
        told("an empty field", "-H", "X-Empty;", base + "/f", test=lambda t: ["x-empty", ""] in t["fields"])
        told("a field in UTF-8", "-H", "X-Name: Jürgen", base + "/f")
        told("no User-Agent, no Accept", "-A", "", "-H", "Accept:", base + "/f")
        told("a field twice", "-H", "X-A: 1", "-H", "X-A: 2", base + "/f", test=lambda t: len([f for f in t["fields"] if f[0] == "x-a"]) == 2)
        told("many fields", *(w for n in range(80) for w in ("-H", f"X-{n}: {n}")), base + "/f", test=lambda t: len(t["fields"]) >= 80)
        told("a long field", "-H", "X-Long: " + "v" * 16000, base + "/f")
        told("odd names", "-H", "X.Y~z!1: v", "-H", "x-UPPER: V", base + "/f")
        told("Via and Forwarded-For", "-H", "X-Forwarded-For: 1.2.3.4", "-H", "Via: 1.1 x", base + "/f")
        told("TE", "-H", "TE: trailers", base + "/f")
        told("a host in capitals", base.replace("wild", "WILD") + "/h")
        told("a port that is said", base + ":443/h")
        told("a conditional", "-H", 'If-None-Match: W/"x", "y"', "-H", "If-Modified-Since: Sat, 01 Jan 2022 00:00:00 GMT", base + "/f")
        told("slow", base + "/slow")
        it.do("HEAD", [*start, "-I", base + "/x"], b"x-origin: corpus")
        it.do("a range", [*start, "-r", "0-99", base + "/range"], test=lambda out: len(out) == 100)
        it.do("the last bytes", [*start, "-r", "-100", base + "/range"], test=lambda out: len(out) == 100)
        it.do("no such range", [*start, "-r", "5000-", "-o", "/dev/null", "-w", "%{http_code}", base + "/range"], b"416")
        for packed in ("gzip", "deflate"):
            it.do(packed, [*start, "--compressed", f"{base}/{packed}"], packed)
            it.do(packed + " as it is", [*start, "-H", "Accept-Encoding: gzip, deflate, br, zstd", f"{base}/{packed}"], test=lambda out: len(out) > 10)
        it.do("chunks", [*start, base + "/chunked"], b"piece 19")
        it.do("events", [*start, "-N", base + "/events"], b'"n": 4')
        it.do("to the end", [*start, base + "/until-close"], test=lambda out: len(out) == 1100)
        it.do("big", [*start, base + "/big"], test=lambda out: len(out) == 5 << 20)
        it.do("cookies back", [*start, "-i", base + "/cookies"], b"b=2")
        it.do("early hints", [*start, base + "/hints"], b"target")
        it.do("a redirect", [*start, "-L", base + "/status/307"], b"/moved")
        it.do("a redirect with its body", [*start, "-L", "-d", "abc", base + "/status/308"], b'"length": 3')
        for status in (204, 304, 400, 404, 409, 422, 500, 503):
            it.do(f"status {status}", [*start, "-o", "/dev/null", "-w", "%{http_code}", f"{base}/status/{status}"], str(status))
        urls = [w for n in range(20) for w in ("-o", f"out-{n}", f"{base}/many/{n}")]
        it.do("many on one connection", [*start, "-w", "%{num_connects} ", *urls], test=lambda out: out.split().count(b"1") == 1)
        it.do("in parallel", [*start, "-Z", *urls])


curl("curl h1", BASE, "--http1.1")
curl("curl h2", BASE, "--http2")
curl("curl h2 to h2", H2, "--http2")
curl("curl h1 to h2", H2, "--http1.1")


@client("curl with credentials")
def run(it):
    holes = it.bench.environment
    for protocol in ("--http1.1", "--http2"):
        start = ["curl", "-sS", "--max-time", "20", protocol]
        for more in ([], ["-H", f"Authorization: Bearer {holes['RW_TOKEN']}"], ["-H", f"Authorization: DPoP {holes['RW_TOKEN']}"],
                     ["-H", "Authorization: Bearer something-else"], ["-b", "session=1"], ["-H", "X-Api-Key: k"]):
            it.do(f"GET {more}", [*start, *more, "https://api.rw.test/v1/items?x=1"], b'"method": "GET"')
        it.do("POST", [*start, "-d", "{}", "https://api.rw.test/v1/items"], b'"length": 2')
        it.do("a path", [*start, "https://api.ro.test/v1/items/a%20b/~c;d=1"], b"/v1/items/a")
        it.do("a static one", [*start, "https://echo.test/x"], b"/x")


@client("curl http")
def run(it):
    it.do("absolute-form", ["curl", "-sS", "http://plain.test/a?b=c"], b"/a?b=c")
    it.do("absolute-form, POST", ["curl", "-sS", "-d", "abc", "http://plain.test/a"], b'"length": 3')
    it.do("wget", ["wget", "-q", "-O", "-", "http://plain.test/w"], b"/w")


@client("curl http, in a tunnel")
def run(it):
    # undici's proxy agent does so by default.
    it.do("in a tunnel", ["curl", "-sS", "-p", "http://plain.test/a"], b"/a")


@client("wget")
def run(it):
    start = ["wget", "-q", "--tries=1", "--timeout=20", f"--ca-certificate={it.bench.environment['CURL_CA_BUNDLE']}"]
    it.do("GET", [*start, "-O", "-", BASE + "/a%20b?c=d"], b"/a%20b?c=d")
    it.do("POST", [*start, "-O", "-", "--post-data=a=b", BASE + "/m"], b'"length": 3')
    it.do("PUT", [*start, "-O", "-", "--method=PUT", "--body-data=abc", BASE + "/m"], b"PUT")
    it.do("HEAD", [*start, "--spider", BASE + "/x"])
    it.do("gzip", [*start, "-O", "-", "--compression=auto", BASE + "/gzip"], b"gzip")
    it.do("a redirect", [*start, "-O", "-", BASE + "/status/302"], b"/moved")
    it.do("big", [*start, "-O", "big", BASE + "/big"])
    (it.dir / "range").write_bytes((it.dir / "big").read_bytes()[:400] if (it.dir / "big").exists() else b"")
    it.do("going on", [*start, "-c", BASE + "/range"])
    it.do("many", [*start, "-P", "many", *[f"{BASE}/many/{n}" for n in range(10)]])


@client("git")
def run(it):
    it.bench.shop.plant()
    url = "https://git.wild.test/demo.git"
    who = {"GIT_AUTHOR_NAME": "b", "GIT_AUTHOR_EMAIL": "b@x.test", "GIT_COMMITTER_NAME": "b", "GIT_COMMITTER_EMAIL": "b@x.test"}
    it.do("ls-remote", ["git", "ls-remote", url], b"refs/heads/main")
    it.do("clone", ["git", "clone", "-q", url, "whole"])
    it.do("clone, protocol 0", ["git", "-c", "protocol.version=0", "clone", "-q", url, "old"])
    it.do("shallow", ["git", "clone", "-q", "--depth", "1", url, "shallow"])
    it.do("deepen", ["git", "fetch", "-q", "--unshallow"], cwd=it.dir / "shallow")
    it.do("h1", ["git", "-c", "http.version=HTTP/1.1", "clone", "-q", url, "one"])
    whole = it.dir / "whole"
    (whole / "big.bin").write_bytes(os.urandom(3_000_000))
    it.do("add", ["git", "add", "."], cwd=whole)
    it.do("commit", ["git", "commit", "-q", "-m", "big"], cwd=whole, **who)
    # More than http.postBuffer: it goes out chunked, after an empty request that asks for leave.
    it.do("push", ["git", "push", "-q", "origin", "main"], cwd=whole)
    it.do("a branch", ["git", "push", "-q", "origin", "main:refs/heads/feature/ü-1"], cwd=whole)
    it.do("fetch", ["git", "fetch", "-q", "--all", "--tags"], cwd=it.dir / "one")
    it.do("pull", ["git", "pull", "-q", "--ff-only"], cwd=it.dir / "one")
    it.do("what was pushed is there", ["git", "cat-file", "-e", "origin/main:big.bin"], cwd=it.dir / "one")


@client("pip")
def run(it):
    start = [it.bench.python, "-m", "pip", "--isolated", "--disable-pip-version-check", "-q"]
    where = ["--index-url", "https://pypi.wild.test/simple/", "--no-cache-dir"]
    # `--isolated` also ignores PIP_CERT.
    start += ["--cert", it.bench.environment["PIP_CERT"]]
    it.do("download", [*start, "download", *where, "-d", "wheels", "demo-pkg"])
    it.do("install", [*start, "install", *where, "--target", "site", "demo_pkg==1.0"])
    it.do("it is there", [it.bench.python, "-c", "import demo_pkg, demo_dep"], PYTHONPATH=str(it.dir / "site"))
    plain = [it.bench.python, "-m", "pip", "--disable-pip-version-check", "-q"]
    it.do("by environment", [*plain, "download", "-d", "more", "demo_dep"], PIP_INDEX_URL="https://pypi.wild.test/simple/", PIP_NO_CACHE_DIR="1")


@client("npm")
def run(it):
    more = {"npm_config_registry": "https://npm.wild.test/", "npm_config_fund": "false", "npm_config_update_notifier": "false"}
    (it.dir / "package.json").write_text('{"name": "x", "version": "1.0.0"}')
    it.do("ping", ["npm", "ping"], **more)
    it.do("view", ["npm", "view", "demo-a", "version"], b"1.0.0", **more)
    it.do("install", ["npm", "install", "demo-a"], **more)
    it.do("ci", ["npm", "ci"], **more)
    it.do("audit", ["npm", "audit"], **more)


@client("npm, scoped names")
def run(it):
    # The registry's protocol asks for `/@scope%2fname`.
    more = {"npm_config_registry": "https://npm.wild.test/", "npm_config_fund": "false", "npm_config_update_notifier": "false"}
    (it.dir / "package.json").write_text('{"name": "@demo/x", "version": "1.0.0"}')
    (it.dir / ".npmrc").write_text("//npm.wild.test/:_authToken=placeholder\n")
    it.do("install", ["npm", "install", "@demo/scoped"], **more)
    it.do("publish", ["npm", "publish", "--access=public"], **more)


@client("cargo")
def run(it):
    it.environment |= {name: value for name, value in (
        ("RUSTUP_HOME", os.environ.get("RUSTUP_HOME", os.path.expanduser("~/.rustup"))),) if Path(value).exists()}
    (it.dir / "src").mkdir()
    (it.dir / "src" / "lib.rs").write_text("")
    (it.dir / "Cargo.toml").write_text('[package]\nname = "x"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\ndemo = "1"\n')
    (it.dir / ".cargo").mkdir()
    (it.dir / ".cargo" / "config.toml").write_text(
        '[source.crates-io]\nreplace-with = "here"\n[source.here]\nregistry = "sparse+https://crates.wild.test/index/"\n')
    it.do("fetch", ["cargo", "fetch", "-q"])


for name in ("urllib", "requests", "httpx", "httpx-h2", "aiohttp"):
    client("python " + name)(lambda it, name=name: it.script(it.bench.python, HERE / "benign_requests.py", name, BASE))
for name in ("urllib", "requests", "httpx-h2"):
    client(f"python {name} to h2")(lambda it, name=name: it.script(it.bench.python, HERE / "benign_requests.py", name, H2))
for name in ("websockets", "websocket-client"):
    client("python " + name)(lambda it, name=name: it.script(it.bench.python, HERE / "benign_requests.py", name, it.bench.open_socket()))
client("python grpcio")(lambda it: it.script(it.bench.python, HERE / "benign_requests.py", "grpcio", it.bench.open_grpc()))
for name in ("undici", "https-proxy-agent", "axios"):
    client("node " + name)(lambda it, name=name: it.script("node", HERE / "benign_requests.mjs", name, BASE, BENIGN_MODULES=str(it.bench.clients)))
client("node ws")(lambda it: it.script("node", HERE / "benign_requests.mjs", "ws", it.bench.open_socket(), BENIGN_MODULES=str(it.bench.clients)))


class Bench:
    """The house, with what benign clients ask for."""

    def __init__(self, house, dir, clients):
        from benign_site import Shop, site
        self.house, self.dir, self.clients = house, dir, clients
        self.python = clients / "venv" / "bin" / "python" if (clients / "venv").exists() else Path(sys.executable)
        self.shop = Shop(dir / "shop")
        self.environment = house.placeholders["A"]
        behave = site(self.shop)
        for name in ("wild.test", "plain.test"):
            house.origins[name].default = house.origins[name].behave = behave
        context = house.ca.server(house.dir, ["two.wild.test"], alpn=("h2", "http/1.1"))
        house.open_origin("two.wild.test", context=context).behave = behave
        self.opened = {}

    def open_socket(self):
        """A WebSocket server that says what it hears."""
        if "ws" not in self.opened:
            try:
                from websockets.sync.server import serve
            except ImportError as error:
                raise Missing(str(error)) from error
            import net
            address = net.add(self.house)
            self.house.dns.answers["socket.wild.test"] = [address]
            context = self.house.ca.server(self.house.dir, ["socket.wild.test"])

            def echo(socket):
                for message in socket:
                    socket.send(message)
            server = serve(echo, address, 443, ssl=context, max_size=None)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.opened["ws"] = server
        return "wss://socket.wild.test/chat?room=1"

    def open_grpc(self):
        if "grpc" not in self.opened:
            try:
                import grpc
            except ImportError as error:
                raise Missing(str(error)) from error
            from concurrent.futures import ThreadPoolExecutor
            import net
            address = net.add(self.house)
            self.house.dns.answers["grpc.wild.test"] = [address]
            certificate, key = (Path(f).read_bytes() for f in self.house.ca.server(self.house.dir, ["grpc.wild.test"], alpn=("h2",)).files)

            class Echo(grpc.GenericRpcHandler):
                def service(self, call):
                    return {
                        "/demo.Echo/Say": grpc.unary_unary_rpc_method_handler(lambda message, _: message),
                        "/demo.Echo/Count": grpc.unary_stream_rpc_method_handler(lambda message, _: (b"x" for _ in range(int(message)))),
                        "/demo.Echo/Join": grpc.stream_unary_rpc_method_handler(lambda messages, _: b"".join(messages)),
                        "/demo.Echo/Chat": grpc.stream_stream_rpc_method_handler(lambda messages, _: (m for m in messages)),
                        "/demo.Echo/Fail": grpc.unary_unary_rpc_method_handler(lambda _, context: context.abort(grpc.StatusCode.NOT_FOUND, "näh")),
                    }.get(call.method)
            server = grpc.server(ThreadPoolExecutor(4))
            server.add_generic_rpc_handlers((Echo(),))
            server.add_secure_port(f"{address}:443", grpc.ssl_server_credentials([(key, certificate)]))
            server.start()
            self.opened["grpc"] = server
        return "grpc.wild.test:443"

    def lines(self, since):
        """The requests that the audit counts, and those that were refused or failed. git and wget say whose they are only
        after a challenge: that is one way to begin and no refusal."""
        lines = [line for line in self.house.lines(since) if line["event"] == "request"]
        lines = [line for line in lines if line.get("code") != "agent-unauthenticated"]
        return len(lines), [line for line in lines if line.get("code")]

    def settled(self, since):
        """The lines when no more of them come."""
        end, before = time.monotonic() + 3, -1
        while time.monotonic() < end and (now := self.house.audit.stat().st_size) != before:
            before = now
            time.sleep(0.15)
        return self.lines(since)


def run_all(bench, only):
    rows, failed, missing, total = [], False, [], 0
    for name, function in TABLE:
        if only and not any(name.startswith(wanted) for wanted in only):
            continue
        it, since, start = Client(bench, "".join(c if c.isalnum() else "-" for c in name)), bench.house.audit.stat().st_size, time.monotonic()
        try:
            function(it)
        except Missing as error:
            missing.append(f"{name} ({error})")
            continue
        except Exception as error:  # a broken client is this row's failure and no other's
            it.wrong.append(f"{type(error).__name__}: {error}")
        requests, refused = bench.settled(since)
        total += requests
        rows.append((name, requests, len(refused), it.good, len(it.wrong), time.monotonic() - start))
        failed |= bool(refused or it.wrong)
        print(f"{name:28} {requests:8} {len(refused):8} {it.good:8} {len(it.wrong):6} {rows[-1][-1]:8.1f}", flush=True)
        for line in refused[:10]:
            print("    REFUSED", json.dumps({k: line.get(k) for k in ("method", "host", "path", "status", "code", "upstream_status")}))
        for what in it.wrong[:10]:
            print("    WRONG", what)
    print(f"{total} requests of {len(rows)} clients, {sum(r[2] for r in rows)} refused or failed, {sum(r[4] for r in rows)} not as they should be")
    if missing:
        print(f"MISSING {len(missing)} clients: {'; '.join(missing)}")
    if not only and total < 200:
        print("that is too few to say anything: at least 200 are wanted")
        failed = True
    return 1 if failed else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", type=Path)
    parser.add_argument("--bin", type=Path)
    parser.add_argument("--clients", type=Path, default=Path("/nonexistent"))
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    if given.install:
        install(given.install.resolve())
        return 0
    import net
    if not net.enter(sys.argv):
        print("SKIPPED: no private network can be made here")
        return 1
    net.furnish()
    from house import House
    with tempfile.TemporaryDirectory() as scratch:
        dir = Path(scratch) / "house"
        dir.mkdir()
        house = House(given.bin.resolve(), dir, True, None, "info")
        try:
            house.start()
            bench = Bench(house, Path(scratch), given.clients.resolve())
            print(f"{'client':28} {'requests':>8} {'refused':>8} {'fine':>8} {'wrong':>6} {'seconds':>8}")
            return run_all(bench, [w for w in given.only.split(",") if w])
        finally:
            house.stop()


if __name__ == "__main__":
    sys.exit(main())
