#!/usr/bin/env python3
"""What root finds in the memory of a running proxy: `gcore` five seconds after tokens were replaced, again after their login
was refused, and `leakcheck` over the core. By hand, as root, with gdb; nothing fails on its findings.

tests/leaks/memory.py --bin target/release/tokenward [--requests 50] [--environment NAME=VALUE …]
"""

import argparse
import importlib.util
import json
import os
import subprocess
import time
from pathlib import Path

# Under another name: what it imports is called `run` as well.
spec = importlib.util.spec_from_file_location("leaks", Path(__file__).with_name("run.py"))
leaks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(leaks)


def found(house, name):
    """Which secrets are in memory."""
    time.sleep(5)
    core = house.dir / f"core-{name}"
    done = subprocess.run(["gcore", "-o", core, str(house.process.pid)], capture_output=True, text=True, timeout=120)
    core = Path(f"{core}.{house.process.pid}")
    if not core.exists():
        raise SystemExit(f"gcore: {done.stderr[-500:]}")
    values = house.canaries()
    file = house.dir / "canaries"
    file.write_text("\n".join(values.values()) + "\n")
    done = subprocess.run([house.binary, "leakcheck", "--json", "--canaries", file, core], capture_output=True, text=True, timeout=600,
                          env={"PATH": os.environ["PATH"]})
    core.unlink()
    names = list(values)
    hit = set()
    for leak in json.loads(done.stdout)["leaks"]:
        which = names[int(leak["canary"].rsplit(":", 1)[1]) - 1]
        hit.add(which)
    return hit


def say(when, hit, dead):
    def kinds(names):
        return ", ".join(sorted(names)) or "none"

    print(f"{when}\n  of what is over: {kinds(n for n in hit if n in dead)}\n  of what is in use: {kinds(n for n in hit if n not in dead)}",
          flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=Path)
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--environment", nargs="*", default=[])
    given = parser.parse_args()
    house = leaks.House(given.bin.resolve())
    house.secrets |= dict(pair.split("=", 1) for pair in given.environment)
    try:
        house.log_in()
        house.start()
        for number in range(given.requests):
            house.agent("many", "/a")
        first = set(house.issuer.given)
        house.call("rotate")
        for number in range(given.requests):
            house.agent("many", "/a")
        say("5 s after `rotate`, with requests in between:", found(house, "rotated"), first)
        house.issuer.refusing = True
        house.call("rotate", check=False)
        say("5 s after the issuer ended the login:", found(house, "ended"), set(house.issuer.given))
    finally:
        house.end()


if __name__ == "__main__":
    main()
