#!/usr/bin/env python3
"""Has tokenward judged by third parties: published OAuth servers and verifiers on one side, published HTTP clients on
the other. Neither side knows tokenward; what counts is what the APIs and the authorization server saw.

    tests/world/run.py [--bin PATH] [--keep] [--load N] [--minutes M]

$TOKENWARD_WORLD is the folder that holds the world (default: ../shared/world beside the checkout); it is copied, not
written to. Needs Node.js 20, npm, curl with HTTP/2, openssl, and Python's venv. Ends with `N passed, M failed`.
"""

import argparse
import time
import traceback
from pathlib import Path

import checks
import configuration
import grants  # noqa: F401, its checks
import health
import logins
from stage import Agent, Proxy, World, perform, python_with_clients

ROOT = Path(__file__).resolve().parents[2]


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--bin", type=Path, help="the tokenward to judge [default: target/release/tokenward, built if missing]")
    options.add_argument("--keep", action="store_true", help="leave the folder with all logs")
    options.add_argument("--load", type=int, default=1000, help="requests of the load check [default: 1000]")
    options.add_argument("--minutes", type=float, default=0, help="go on with load and faults for so long [default: not]")
    options = options.parse_args()
    perform("world", options, judge)


def judge(binary, source, dir, started, options):
    begun = time.monotonic()
    python = python_with_clients(dir)
    world = World(source, dir)
    started.append(world)
    config = configuration.write(world, dir)
    # All that the log can hold is searched for secrets, unless that would fill the disk.
    proxy = Proxy(binary, config.file, config.secrets, dir, log="info" if options.minutes else "trace")
    started.append(proxy)
    got = dir / "got"
    got.mkdir()
    agents = {name: Agent(name, proxy.agent_environment(name), python, got) for name in configuration.AGENTS}
    stage = checks.Stage(world, proxy, config, agents, dir, options.load, options.minutes, [])
    print(f"world and proxy are ready after {time.monotonic() - begun:.0f} s\n", flush=True)

    failed = 0
    wanted = [check for check in checks.ALL + checks.LAST if options.minutes or check is not checks.soak]
    for check in wanted:
        start = time.monotonic()
        try:
            result, figures = "ok", check(stage) or ""
        except Exception as why:  # any failure of a check is a finding, not the end
            failed += 1
            result, figures = "FAIL", (str(why) or repr(why))[:600].strip()
            if not isinstance(why, AssertionError):
                (dir / "failures.log").open("a").write(traceback.format_exc() + "\n")
        print(f"{result:4} {check.__doc__:58} {time.monotonic() - start:5.1f} s  {figures}", flush=True)
    upstream = [e for e in world.seen.values() if e["service"] == "dpop-api"]
    issuer = [e for e in world.seen.values() if e["service"] == "as"]
    print(f"\nagents sent {Agent.total} requests; the DPoP API saw {len(upstream)} with {checks.nonce_challenges(upstream)} nonce"
          f" challenges, the authorization server {len(issuer)} with {checks.nonce_challenges(issuer)}")
    proxy.stop()
    failed += logins.play(binary, source, dir / "logins", started, world.copy / "node_modules")
    failed += health.play(binary, source, dir / "health", started, world.copy / "node_modules")
    total = len(wanted) + len(logins.ALL) + len(health.ALL)
    print(f"{total - failed} passed, {failed} failed", flush=True)
    return failed == 0


if __name__ == "__main__":
    main()
