#!/usr/bin/env python3
"""Runs real clients through tokenward, each with a cleared environment and exactly what `tokenward env` prints: what works by
that alone, what needs a setting in code, what cannot.

    tests/interop/run.py [--bin PATH] [--only NAME,…] [--quick] [--json FILE] [--table FILE] [--cache DIR]
    tests/interop/run.py --check      the README's table is that of the last full run

--only takes clients or kinds (`curl`, `Java`). --quick leaves out Node 22, deno, bun and Java and holds the rest against the last full
run. --table writes between the markers of a file that has them. The clients are installed once, into the cache. $TOKENWARD_WORLD
is the folder of the world's servers. Needs Node.js 20, npm, git, curl, openssl; gh, wget, cargo and Java 17 are used where they
are. Ends with 1 where a row is not as it should be, also where a request that should have passed was refused.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import install
import table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.json"
README = ROOT / "README.md"


@dataclass
class Tools:
    """Where the clients are."""
    python: Path
    scripts: Path
    node20: Path
    node22: Path
    node24: Path
    npm: Path
    deno: Path
    bun: Path
    cargo: Path
    path: str


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the folder with all logs")
    parser.add_argument("--check", action="store_true")
    return parser.parse_args()


def main():
    given = arguments()
    if given.check:
        sys.exit(check())
    source = Path(os.environ.get("TOKENWARD_WORLD") or ROOT.parent / "shared" / "world")
    if not (source / "world.js").exists():
        missing = f"there is no world.js in {source}; set TOKENWARD_WORLD to the folder that holds the world"
        if os.environ.get("CI"):
            sys.exit(f"interop: {missing}")
        print(f"skipped: {missing}")
        return
    cache = (given.cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tokenward-interop").resolve()
    cache.mkdir(parents=True, exist_ok=True)
    python = install.python(cache)
    if Path(sys.prefix).resolve() != (cache / "venv").resolve():
        # What the servers are made of is installed there too.
        os.execv(python, [str(python), *sys.argv])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    dir = Path(tempfile.mkdtemp(prefix="tokenward-interop-"))
    good = False
    try:
        good = play(given, source, cache, python, dir)
    finally:
        if given.keep or not good:
            print(f"logs: {dir}")
        else:
            shutil.rmtree(dir)
    sys.exit(0 if good else 1)


def play(given, source, cache, python, dir):
    begun = time.monotonic()
    import rows
    from bench import Bench
    wanted = [w.strip().lower() for w in given.only.split(",") if w.strip()]
    chosen = [r for r in rows.ALL if not (given.quick and r[1] in rows.FULL)
              and (not wanted or any(r[0].lower().startswith(w) or r[1].lower().startswith(w) for w in wanted))]
    install.node(cache, "world", source)
    tools = equip(cache, python, dir, more=any(r[1] in rows.FULL for r in chosen))
    print(f"installed after {time.monotonic() - begun:.0f} s", flush=True)
    bench = Bench((given.bin or built()).resolve(), source, cache, dir)
    try:
        results = [one(bench, tools, *r) for r in chosen]
    finally:
        bench.stop()
    bad = sum(r["result"] == "FAILED" for r in results)
    missing = [f"{r['kind']}: {r['client']}" for r in results if r["result"] == "not run"]
    if missing:
        print("not on this machine:", ", ".join(missing))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    if given.table:
        table.put(given.table, results)
    if given.quick and not wanted:
        bad += differs(results)
    print(f"{sum(r['requests'] for r in results)} requests, {sum(r['refused'] for r in results)} refused that should have passed;"
          f" {time.monotonic() - begun:.0f} s")
    print(f"{len(results) - bad - len(missing)} passed, {bad} failed, {len(missing)} skipped", flush=True)
    return bad == 0


def equip(cache, python, dir, more):
    """All tools. Scripts lie beside a `node_modules`, where JavaScript looks for packages."""
    node = install.node(cache, "node", HERE / "node") / "node_modules"
    runtimes = install.node(cache, "runtimes", HERE / "runtimes") / "node_modules" if more else Path("/nonexistent")
    scripts = dir / "scripts"
    shutil.copytree(HERE / "clients", scripts, ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / "node_modules").symlink_to(node)
    # rustup's `cargo` asks for its settings in HOME; the real one does not.
    cargo = shutil.which("cargo")
    if shutil.which("rustup"):
        cargo = subprocess.run(["rustup", "which", "cargo"], capture_output=True, text=True, cwd=ROOT).stdout.strip()
    cargo = Path(cargo or "/nonexistent")
    path = os.pathsep.join([str(cargo.parent), "/usr/local/bin", "/usr/bin", "/bin"])
    return Tools(python=python, scripts=scripts, node20=node / "node-20" / "bin" / "node", node22=runtimes / "node-22" / "bin" / "node",
                 node24=node / "node-24" / "bin" / "node", npm=node / "npm" / "bin" / "npm-cli.js", cargo=cargo, path=path,
                 deno=runtimes / "@deno" / "linux-x64-glibc" / "deno", bun=runtimes / "@oven" / "bun-linux-x64" / "bin" / "bun")


def one(bench, tools, name, kind, alone, otherwise, function):
    """Runs a row and holds it against what the servers and the audit file say."""
    from rows import Missing, Run, Wrong
    bench.lines()
    it, mark, start, wrong = Run(bench, tools, f"{kind}-{name}"), bench.mark(), time.monotonic(), []
    result = "ok"
    try:
        function(it)
    except Missing as error:
        result, wrong = "not run", [str(error)]
    except Wrong as error:
        wrong.append(str(error))
    except Exception as error:  # a broken client is this row's failure and no other's
        wrong.append(f"{type(error).__name__}: {error}")
    it.settle()
    seen = bench.seen(mark)
    # git, wget and Java say whose they are when they are asked: that is one way to begin, and no refusal.
    lines = [line for line in it.collected if line.get("code") != "agent-unauthenticated"]
    # Some runtimes ask their makers for news. Nothing here allows that, and that is as it should be.
    elsewhere = {line["host"] for line in lines if line["host"].split(":")[0] not in bench.hosts()}
    lines = [line for line in lines if line["host"] not in elsewhere]
    refused = [line for line in lines if line.get("code") and line["code"] not in it.expected]
    wrong += [f"{s.service} got {s.what}: {w}" for s in seen for w in s.wrong]
    wrong += [f"refused: {line.get('method')} {line.get('host')}{line.get('path')} {line['code']}" for line in refused]
    if result == "ok" and not it.expected and not seen:
        wrong.append("no server saw anything")
    if result == "ok" and it.expected and not it.expected <= {line.get("code") for line in lines}:
        wrong.append(f"not refused with {it.expected}")
    if result == "ok" and wrong:
        result = "FAILED"
    print(f"{result:7} {kind:9} {name:38} {it.version:14} {alone:22} {len(lines):4} requests {time.monotonic() - start:6.1f} s", flush=True)
    for host in sorted(elsewhere):
        print("        also asked for", host)
    for what in wrong[:8]:
        print("       ", what)
    return {"client": name, "kind": kind, "version": it.version, "alone": alone, "otherwise": otherwise, "result": result,
            "requests": len(lines), "refused": len(refused)}


def differs(results):
    """Rows that the last full run does not have in this way."""
    last = {(r["kind"], r["client"]): r for r in json.loads(RESULTS.read_text())}
    bad = 0
    for r in results:
        before = last.get((r["kind"], r["client"]))
        if r["result"] == "ok" and (before is None or (before["alone"], before["otherwise"]) != (r["alone"], r["otherwise"])):
            print(f"{r['kind']}: {r['client']} is not so in {RESULTS.name}: run `just interop`")
            bad += 1
    return bad + check()


def check():
    results = json.loads(RESULTS.read_text())
    bad = [r for r in results if r["result"] != "ok"]
    for r in bad:
        print(f"in the last full run {r['kind']}: {r['client']} was {r['result']}")
    if not table.same(README, results):
        print(f"the table in {README.name} is not that of {RESULTS.name}: run `just interop`")
        return 1
    return 1 if bad else 0


def built():
    """The release binary, built if it is missing."""
    binary = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "release" / "tokenward"
    if not binary.exists():
        subprocess.run(["cargo", "build", "--locked", "--release"], cwd=ROOT, check=True)
    return binary


if __name__ == "__main__":
    main()
