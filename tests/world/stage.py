"""What the checks play on: the world, tokenward, and clients that know nothing but the environment `env` printed."""

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLACEHOLDER = "world-ph-"
HOSTS = {"AS": "as.world.test", "DPOP": "api.world.test", "PLAIN": "plain.world.test", "MTLS": "ledger.world.test"}
CURL = shutil.which("curl") or "curl"
# Ours alone: no proxy that the machine may have set, nor one that the product sets.
DESK = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fail_unless(truth, *what):
    """Like `assert`, and there with `python -O` too."""
    if not truth:
        raise AssertionError(" ".join(str(w) for w in what))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_until(what, test, seconds=10):
    end = time.monotonic() + seconds
    while not (answer := test()):
        fail_unless(time.monotonic() < end, "not within", seconds, "s:", what)
        time.sleep(0.02)
    return answer


def built():
    """The release binary, built if it is missing."""
    binary = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "release" / "tokenward"
    if not binary.exists():
        subprocess.run(["cargo", "build", "--locked", "--release"], cwd=ROOT, check=True)
    return binary


def world_folder(name):
    """Where the world is; none, and said so, where there is none. CI must have it."""
    source = Path(os.environ.get("TOKENWARD_WORLD") or ROOT.parent / "shared" / "world")
    if (source / "world.js").exists():
        return source
    missing = f"there is no world.js in {source}; set TOKENWARD_WORLD to the folder that holds the world"
    if os.environ.get("CI"):
        sys.exit(f"{name}: {missing}")
    print(f"skipped: {missing}")
    return None


def perform(name, options, judge):
    """Runs `judge(binary, source, dir, started, options)`, stops what it put into `started`, and ends with its verdict."""
    source = world_folder(name)
    if not source:
        return
    for program in ("node", "npm", "curl", "openssl"):
        if not shutil.which(program):
            sys.exit(f"{name}: {program} is needed and not installed")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    binary = (options.bin or built()).resolve()
    dir = Path(tempfile.mkdtemp(prefix=f"tokenward-{name}-"))
    started = []
    try:
        judged = judge(binary, source, dir, started, options)
    finally:
        for part in reversed(started):
            part.stop()
    if options.keep or not judged:
        print(f"logs: {dir}")
    else:
        shutil.rmtree(dir)
    sys.exit(0 if judged else 1)


def through(checks, dir, *given):
    """Each check with what it is given, told in a line. How many failed."""
    failed = 0
    for check in checks:
        start = time.monotonic()
        try:
            result, figures = "ok", check(*given) or ""
        except Exception as why:  # any failure of a check is a finding, not the end
            failed += 1
            said = f" {why.url} {why.read()[:500]}" if isinstance(why, urllib.error.HTTPError) else ""
            result, figures = "FAIL", ((str(why) or repr(why))[:600] + said).strip()
            (dir / "failures.log").open("a").write(traceback.format_exc() + "\n")
        print(f"{result:4} {check.__doc__:58} {time.monotonic() - start:5.1f} s  {figures}", flush=True)
    return failed


def alone(name, doc, checks, play, flags=()):
    """A part of run.py as a program of its own. `flags`: `(name, help)` of those that `play` takes besides."""
    options = argparse.ArgumentParser(description=doc.split("\n")[0])
    options.add_argument("--bin", type=Path, help="the tokenward to judge [default: target/release/tokenward, built if missing]")
    options.add_argument("--keep", action="store_true", help="leave the folder with all logs")
    options.add_argument("--modules", type=Path, help="a node_modules that holds what the world's lock file says")
    for flag, text in flags:
        options.add_argument("--" + flag, action="store_true", help=text)

    def judge(binary, source, dir, started, options):
        more = {flag: getattr(options, flag) for flag, _ in flags}
        failed = play(binary, source, dir / name, started, options.modules and options.modules.resolve(), **more)
        print(f"{len(checks) - failed} passed, {failed} failed", flush=True)
        return failed == 0

    perform(name, options.parse_args(), judge)


class World:
    """The authorization server, the APIs, and the desk that tells what they saw."""

    def __init__(self, source, dir, hosts=HOSTS, modules=None):
        """`modules`: a `node_modules` that holds what the world's lock file says."""
        self.copy = dir / "world"
        shutil.copytree(source, self.copy, ignore=shutil.ignore_patterns("node_modules"))
        for path in [self.copy, *self.copy.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)
        if modules:
            (self.copy / "node_modules").symlink_to(modules)
        else:
            done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=self.copy, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
            fail_unless(done.returncode == 0, "npm ci:", done.stdout[-2000:])
        names = {f"WORLD_{part}_HOST": host for part, host in hosts.items()}
        self.log = (dir / "world.log").open("w")
        # A session of its own: npm does not end the node that it started.
        self.process = subprocess.Popen(
            ["npm", "start"], cwd=self.copy, text=True, stdout=subprocess.PIPE, stderr=self.log, start_new_session=True,
            env={**os.environ, **names, "WORLD_PLACEHOLDER": PLACEHOLDER, "WORLD_DIR": str(dir / "world-keys")})
        line = next((line for line in self.process.stdout if line.startswith("{")), None)
        fail_unless(line, "the world did not start; see", self.log.name)
        self.facts = json.loads(line)
        self.seen = {}  # by number
        self.settled = 0  # up to this number every request has its answer

    def __getattr__(self, name):
        return self.facts[name]

    def port(self, part):
        return int(self.facts[part].rsplit(":", 1)[1])

    def desk(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with DESK.open(urllib.request.Request(self.admin + path, data, method=method), timeout=20) as answer:
            return json.load(answer)

    def do(self, action, **body):
        if action == "reset":
            self.collect()  # it forgets what was seen
        self.desk("POST", f"/_do/{action}", body)

    def set(self, **settings):
        self.desk("POST", "/_settings", settings)

    def collect(self):
        """Fetches what was seen since the last time (the desk keeps the last 10,000 only); a mark for `since`."""
        for entry in self.desk("GET", f"/_seen?since={self.settled}"):
            self.seen[entry["n"]] = entry
        while self.seen.get(self.settled + 1, {}).get("status") is not None:
            self.settled += 1
        return max(self.seen, default=0)

    def since(self, mark, service):
        """What `service` saw after `mark`."""
        self.collect()
        return [e for n, e in sorted(self.seen.items()) if n > mark and e["service"] == service]

    def stop(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(20)


class Proxy:
    """`tokenward serve`."""

    def __init__(self, binary, config, secrets, dir, log, patience=20):
        self.binary, self.config, self.dir = binary, config, dir
        self.out, self.log = dir / "serve.out", dir / "serve.log"
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(dir), **secrets}
        self.process = subprocess.Popen(
            [binary, "--config", config, "--log", log, "serve"],
            env=self.environment, stdout=self.out.open("wb"), stderr=self.log.open("wb"))
        try:
            wait_until("tokenward serve is ready", self.ready, patience)
        except BaseException:
            self.process.kill()
            raise

    def ready(self):
        fail_unless(self.process.poll() is None, "tokenward serve ended:", self.log.read_text()[-2000:])
        return self.verb("healthcheck").returncode == 0

    def memory(self):
        """What it holds of the machine's memory, in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("VmRSS:"))

    def verb(self, *arguments, environment=None, config=None):
        return subprocess.run(
            [self.binary, "--config", config or self.config, *arguments], text=True, capture_output=True, timeout=60,
            env=environment or {"PATH": os.environ["PATH"], "HOME": str(self.dir)})

    def agent_environment(self, agent):
        done = self.verb("env", "--agent", agent, "--format", "json")
        fail_unless(done.returncode == 0, "tokenward env:", done.stderr)
        return json.loads(done.stdout)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(45)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


class Agent:
    """Clients with a cleared environment and exactly the variables of one agent."""

    counter = 0
    total = 0
    lock = threading.Lock()

    def __init__(self, name, environment, python, got):
        self.name, self.environment, self.python, self.got = name, environment, python, got

    def run(self, *command, kept=True, timeout=90):
        """Runs a program; everything it got is kept for the search for canaries."""
        done = subprocess.run(command, env=self.environment, capture_output=True, timeout=timeout)
        if kept:
            with Agent.lock:
                Agent.counter += 1
                (self.got / f"{Agent.counter:05}").write_bytes(done.stdout + done.stderr)
        return done

    def sent(self, requests):
        with Agent.lock:
            Agent.total += requests

    def curl(self, *arguments, http="--http2"):
        """One request by curl: its status, the head and the body as text, and the seconds it took."""
        self.sent(1)
        done = self.run(CURL, "-sSi", "--suppress-connect-headers", "--max-time", "60", http,
                        "-w", "%{stderr}%{json}", *arguments)
        fail_unless(done.returncode == 0, "curl", arguments, "ended with", done.returncode, done.stderr[-300:])
        facts = json.loads(done.stderr.decode().splitlines()[-1])
        text = done.stdout.decode(errors="replace").replace("\r\n", "\n")
        blocks = text.split("\n\n")
        while " 100" in blocks[0].split("\n")[0]:
            blocks.pop(0)
        facts |= {"head": blocks[0], "body": "\n\n".join(blocks[1:])}
        return facts

    def client(self, kind, *arguments):
        """A Python client (`client.py`): what it says about its requests."""
        done = self.run(self.python, str(HERE / "client.py"), kind, *map(str, arguments))
        fail_unless(done.returncode == 0, kind, "ended with", done.returncode, done.stderr.decode()[-500:])
        facts = json.loads(done.stdout.decode().splitlines()[-1])
        self.sent(facts["requests"])
        return facts

    def many_curls(self, http, urls, header):
        """One curl process, one request after the other: the same facts as `client`."""
        done = self.run(CURL, "-sSi", "--max-time", "60", http, "-H", header, "-w",
                        "%{stderr}%{http_code} %{http_version} %header{dpop-nonce}%header{www-authenticate}\\n", *urls)
        fail_unless(done.returncode == 0, "curl ended with", done.returncode, done.stderr[-300:])
        self.sent(len(urls))
        facts = {"requests": len(urls), "statuses": {}, "versions": {}, "challenges": 0}
        for line in done.stderr.decode().splitlines():
            status, version, *challenge = line.split(" ", 2)
            note(facts, status, version, any(challenge))
        return facts


def note(facts, status, version, challenge):
    facts["statuses"][status] = facts["statuses"].get(status, 0) + 1
    facts["versions"][version] = facts["versions"].get(version, 0) + 1
    facts["challenges"] += challenge


def load(agents, base, each, during=None):
    """20 clients at once, 5 of each kind, `each` requests a client, half of them on each verifier. The sums."""
    def urls(client):
        prefixes = ["/v1", "/auth0/v1"]
        return [f"{base}{prefixes[i % 2]}/items?r={Agent.total}-{client}-{i}" for i in range(each)]

    def play(client):
        agent, mine = agents[client % len(agents)], urls(client)
        header = "Authorization: Bearer " + agent.environment["ITEMS_TOKEN"]
        match client % 4:
            case 0: return agent.many_curls("--http1.1", mine, header)
            case 1: return agent.many_curls("--http2", mine, header)
            case 2: return agent.client("requests", *mine)
            case 3: return agent.client("httpx", *mine)

    with ThreadPoolExecutor(21) as pool:
        running = [pool.submit(play, client) for client in range(20)]
        if during:
            during(running)
        results = [r.result() for r in running]
    total = {"requests": 0, "statuses": {}, "versions": {}, "challenges": 0}
    for result in results:
        total["requests"] += result["requests"]
        total["challenges"] += result["challenges"]
        for field in ("statuses", "versions"):
            for key, count in result[field].items():
                total[field][key] = total[field].get(key, 0) + count
    return total


def python_with_clients(dir):
    """A Python that has requests, httpx and websockets."""
    subprocess.run([sys.executable, "-m", "venv", dir / "venv"], check=True)
    python = str(dir / "venv" / "bin" / "python")
    done = subprocess.run([python, "-m", "pip", "install", "-q", "requests", "httpx[http2]", "websockets"], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    fail_unless(done.returncode == 0, "pip install:", done.stdout[-2000:])
    return python
