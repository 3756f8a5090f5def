#!/usr/bin/env python3
"""Sends generated requests through tokenward to three servers with parsers of their own (nginx, Node's llhttp, h11), and
compares what they saw with each other, with the audit file and with what was meant.

    tests/differential/run.py [--bin PATH] [--cases N] [--seed S] [--case K] [--workers W] [--keep]

A request that is as it should be arrives once at each, the same in method, target, fields and body. Of the others only
this is asked: that nobody sees what the others do not see, or what no audit line tells. A case that seems to fail is tried
again by itself: on a busy machine an answer, or a line about it, can come after nobody waits for it any more, and a parser
reads the same bytes the same way each time. One that fails again is printed with the number that makes it: `--seed S --case K`.

Needs nginx, Node.js 20, openssl, and Python's venv for h11 and h2. $TOKENWARD_CI_CACHE keeps the venv.
"""

import argparse
import collections
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote_to_bytes

import cases
from agent import Agent

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ORIGINS = {"nginx": "origin-ngnx.test", "node": "origin-node.test", "h11": "origin-h11p.test"}
BATCH = 1000
PACKAGES = ["h11==0.16.0", "h2==4.3.0"]


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--bin", type=Path, default=Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "release" / "tokenward")
    options.add_argument("--cases", type=int, default=20_000)
    options.add_argument("--seed", type=int, default=None, help="[default: a new one, which is printed]")
    options.add_argument("--case", type=int, default=None, help="this one alone, with all that was seen of it")
    options.add_argument("--workers", type=int, default=8)
    options.add_argument("--keep", action="store_true", help="leave the folder with all logs")
    options = options.parse_args()
    for program in ("nginx", "node", "openssl"):
        if not shutil.which(program):
            sys.exit(f"differential: {program} is needed and not installed")
    with_packages()
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {options.seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="tokenward-differential-"))
    stage = Stage(folder, options.bin.resolve())
    try:
        stage.start()
        numbers = [options.case] if options.case is not None else range(options.cases)
        failed = judge(stage, options, numbers)
    finally:
        stage.stop()
    if failed or options.keep:
        print(f"logs: {folder}")
    else:
        shutil.rmtree(folder)
    sys.exit(1 if failed else 0)


def with_packages():
    """Runs this program again in a venv that has the packages, unless it is there already."""
    try:
        import h11, h2  # noqa: F401
        return
    except ImportError:
        if "TOKENWARD_DIFFERENTIAL" in os.environ:
            raise
    cache = os.environ.get("TOKENWARD_CI_CACHE")
    venv = Path(cache or tempfile.gettempdir()) / "tokenward-differential-venv"
    python = venv / "bin" / "python"
    if not (venv / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *PACKAGES], check=True)
        (venv / "complete").touch()
    os.environ["TOKENWARD_DIFFERENTIAL"] = "1"
    os.execv(python, [python, *sys.argv])


class Stage:
    """tokenward and the three origins."""

    def __init__(self, folder, binary):
        self.folder, self.binary = folder, binary
        self.parts, self.ports = [], {name: free_port() for name in [*ORIGINS, "proxy"]}
        self.logs = {}

    def start(self):
        folder, ports = self.folder, self.ports
        certificates(folder)
        files = [folder / "origin.pem", folder / "origin.key"]
        fields = "".join(f'"{name}":"$http_{name.replace("-", "_")}",' for name in cases.FIELDS)
        conf = (HERE / "origin.conf").read_text()
        user = "user root root;" if os.geteuid() == 0 else ""
        for mark, value in (("@DIR@", folder), ("@PORT@", ports["nginx"]), ("@FIELDS@", fields), ("@USER@", user)):
            conf = conf.replace(mark, str(value))
        (folder / "nginx.conf").write_text(conf)
        self.run("nginx", ["nginx", "-c", folder / "nginx.conf", "-e", folder / "nginx.error"])
        self.run("node", ["node", HERE / "origin.js", ports["node"], *files, folder / "node.log"])
        self.run("h11", [sys.executable, HERE / "origin.py", ports["h11"], *files, folder / "h11.log"])
        (folder / "tokenward.yaml").write_text(configuration(folder, ports))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENWARD_LOG")}
        self.run("tokenward", [self.binary, "--config", folder / "tokenward.yaml", "serve"], environment)
        for name, port in ports.items():
            until(lambda: reachable(port), f"{name} to listen")
        until((folder / "runtime" / "ca.pem").exists, "the CA certificate")
        self.logs = {name: Tail(folder / f"{name}.log") for name in ORIGINS}
        # It writes bytes as they came; each becomes one character.
        self.logs["nginx"].encoding = "latin-1"
        self.logs["audit"] = Tail(folder / "audit.jsonl")

    def run(self, name, command, environment=None):
        out = (self.folder / f"{name}.out").open("w")
        self.parts.append(subprocess.Popen([str(part) for part in command], cwd=self.folder, env=environment, stdout=out, stderr=out))

    def stop(self):
        for part in reversed(self.parts):
            part.terminate()
        for part in self.parts:
            try:
                part.wait(10)
            except subprocess.TimeoutExpired:
                part.kill()

    def alive(self):
        return all(part.poll() is None for part in self.parts)


def certificates(folder):
    ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ",".join(f"DNS:{host}" for host in ORIGINS.values())
    (folder / "names").write_text(f"subjectAltName={names}\n")
    for command in (
        ["req", "-x509", *ec, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=differential", "-days", "2"],
        ["req", *ec, "-keyout", "origin.key", "-out", "origin.csr", "-subj", "/CN=origin"],
        ["x509", "-req", "-in", "origin.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "origin.pem", "-days", "2",
         "-extfile", "names"],
    ):
        subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True)


def configuration(folder, ports):
    services = "".join(f"""
  {name}:
    hosts: [{host}]
    upstream: {{ca: {{file: {folder}/ca.pem}}, connect: "127.0.0.1:{ports[name]}", allow_private: true}}
    rules: [{{allow: "GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS /**"}}]""" for name, host in ORIGINS.items())
    return f"""listen: {{proxy: "127.0.0.1:{ports['proxy']}"}}
runtime_dir: {folder}/runtime
audit: {{file: {folder}/audit.jsonl}}
# It is load, and none of an attacker.
limits: {{per_agent: {{requests_per_second: 100000}}}}
services:{services}
"""


class Tail:
    """The lines of a file that came since the last look."""

    def __init__(self, path, encoding="utf-8"):
        self.path, self.encoding, self.at, self.rest = path, encoding, 0, b""

    def lines(self):
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.at)
            data = self.rest + file.read()
            self.at = file.tell()
        *lines, self.rest = data.split(b"\n")
        return [json.loads(line.decode(self.encoding)) for line in lines]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def reachable(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def until(condition, what, limit=20.0):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {limit:.0f} s for {what}")
        time.sleep(0.02)


def prepare(proxy, ca, seed):
    global AGENT, SEED
    AGENT, SEED = Agent(proxy, ca, list(ORIGINS.values())), seed


def send(number):
    case = cases.make(SEED, number)
    try:
        return number, AGENT.run(case)
    except OSError as why:
        return number, {"any": [repr(why)]}


def judge(stage, options, numbers):
    begun = time.monotonic()
    proxy, ca = ("127.0.0.1", stage.ports["proxy"]), str(stage.folder / "runtime" / "ca.pem")
    failed, kinds, total = 0, collections.Counter(), collections.Counter()
    with multiprocessing.Pool(options.workers, prepare, (proxy, ca, options.seed)) as pool:
        for start in range(0, len(numbers), BATCH):
            batch = numbers[start:start + BATCH]
            made = {number: cases.make(options.seed, number) for number in batch}
            found, answers, seen = attempt(pool, stage, made)
            kinds.update(case.what for case in made.values())
            total["seen"] += sum(len(records) for records in seen["origins"].values())
            total["lines"] += len(seen["audit"])
            if options.case is not None:
                show(made[options.case], answers, seen)
            if found:
                time.sleep(5)
                gather(stage, {})  # what came late
                again = {number: made[number] for number in sorted({number for number, _, late in found if late})}
                total["again"] += len(again)
                found = [one for one in found if not one[2]]
                found += [one for number, case in again.items() for one in attempt(pool, stage, {number: case})[0]]
            for number, text, _ in found[:20]:
                print(f"DISAGREEMENT (--seed {options.seed} --case {number}): {text}", flush=True)
            failed += len(found)
            if not stage.alive():
                raise SystemExit("a server has ended")
            if failed > 100:
                break
    took = time.monotonic() - begun
    print(f"{sum(kinds.values())} cases in {took:.0f} s ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))}); "
          f"{total['seen']} requests seen, {total['lines']} audit lines; {total['again']} cases were tried again")
    print(f"{failed} disagreements", flush=True)
    return failed


def attempt(pool, stage, made):
    """Sends these cases; answers what is wrong, what was answered and what was seen."""
    answers = dict(pool.imap_unordered(send, list(made), chunksize=10))
    seen = gather(stage, made)
    return compare(made, answers, seen), answers, seen


def show(case, answers, seen):
    print(case.what, case.bytes)
    print("answers", answers)
    for name, records in seen["origins"].items():
        for record in records:
            print(name, json.dumps(record)[:1500])
    for line in seen["audit"]:
        print("audit", json.dumps(line)[:1500])


def gather(stage, made):
    """What was written about a batch. The servers write a moment after they answer."""
    wanted = sum(len(case.expected) for case in made.values())
    origins, audit = {name: [] for name in ORIGINS}, []
    quiet, end = 0, time.monotonic() + 10
    while quiet < 3 and time.monotonic() < end:
        new = [line for line in stage.logs["audit"].lines() if line.get("event") == "request"]
        audit += new
        for name in ORIGINS:
            lines = stage.logs[name].lines()
            origins[name] += lines
            new += lines
        # Not before all that must come has come, and then until nothing more comes.
        complete = all(len(records) >= wanted for records in origins.values())
        quiet = quiet + 1 if complete and not new else 0
        time.sleep(0.03)
    origins["nginx"] = [plain(record) for record in origins["nginx"] if record["status"] == 200]
    return {"origins": origins, "audit": audit}


def plain(record):
    """nginx's line in the form of the others."""
    data = record.pop("bytes").encode("latin-1")
    fields = [[name, record.pop(name)] for name in cases.FIELDS]
    return record | {"length": len(data), "body": hashlib.sha256(data).hexdigest(), "fields": fields}


def number_of(text, made):
    found = re.search(r"~(\d+)\.\d~", text)
    return int(found[1]) if found and int(found[1]) in made else min(made)


def compare(made, answers, seen):
    """[(number, what is wrong, whether it is only that something may have come late)]."""
    found = []
    keyed = {}
    for name, records in seen["origins"].items():
        keyed[name] = collections.Counter((r["method"], r["target"], r["body"], marks(r)) for r in records)
        for record in records:
            if "/smuggled" in record["target"]:
                found.append((number_of(record["target"], made), f"{name} saw what stood in a body", False))
            path = record["target"].split("?")[0]
            if record["reading"] != unquote_to_bytes(path).decode("latin-1"):
                found.append((number_of(path, made), f"{name} reads the path {path} as {record['reading']!r}", False))
    first, *others = keyed
    for other in others:
        for key in ((keyed[first] - keyed[other]) + (keyed[other] - keyed[first])):
            counts = {name: keyed[name][key] for name in (first, other)}
            found.append((number_of(key[1], made), f"seen so often: {counts}: {key[0]} {key[1][:200]} body {key[2][:8]} {key[3]}", True))
    found += against_audit(made, seen)
    found += against_plan(made, answers, seen)
    return found


def marks(record):
    """One field that all three can tell, for what is not known beforehand."""
    return next((value for name, value in record["fields"] if name == "x-a"), "")


def against_audit(made, seen):
    found = []
    for name, host in ORIGINS.items():
        lines = [line for line in seen["audit"] if line["host"].split(":")[0] == host]
        carried = [line for line in lines if line.get("upstream_status") is not None]
        for line in carried:
            if line["upstream_status"] != 200:
                found.append((number_of(line["path"], made), f"{name} refused what was sent: {line['upstream_status']} {line['method']} {line['path'][:200]}", False))
        told = collections.Counter((line["method"], line["path"]) for line in carried if line["upstream_status"] == 200)
        saw = collections.Counter((r["method"], r["target"].split("?")[0]) for r in seen["origins"][name])
        for key in (told - saw) + (saw - told):
            found.append((number_of(key[1], made), f"{name} saw {saw[key]} and the audit file tells {told[key]}: {key[0]} {key[1][:200]}", True))
    return found


def against_plan(made, answers, seen):
    """What had to arrive has arrived, as it had to."""
    found = []
    by_target = {name: {} for name in ORIGINS}
    for name, records in seen["origins"].items():
        for record in records:
            by_target[name].setdefault(record["target"], []).append(record)
    for number, case in made.items():
        if not case.expected:
            continue
        for host, statuses in answers[number].items():
            if statuses != [200] * len(case.expected):
                found.append((number, f"{case.what}: {host} answered {statuses}", True))
        for wanted in case.expected:
            for name in ORIGINS:
                records = by_target[name].get(wanted.target, [])
                if len(records) != 1:
                    found.append((number, f"{name} saw {len(records)} of {wanted.method} {wanted.target[:200]}", not records))
                    continue
                for what, got, meant in differences(name, records[0], wanted):
                    found.append((number, f"{name}: {what} is {got!r} and should be {meant!r}", False))
    return found


def differences(name, record, wanted):
    yield from (("method", record["method"], wanted.method),) if record["method"] != wanted.method else ()
    yield from (("body", record["length"], len(wanted.data)),) if record["body"] != wanted.body else ()
    for field in cases.FIELDS:
        meant = [value for n, value in wanted.fields if n == field]
        got = [value for n, value in record["fields"] if n == field]
        if name == "nginx":
            # It tells one line of each, and an empty one like none.
            meant, got = (meant or [""])[:1], got if len(meant) < 2 else meant[:1]
        if got != meant:
            yield field, got, meant


if __name__ == "__main__":
    main()
