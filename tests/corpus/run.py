#!/usr/bin/env python3
"""Attacks a real tokenward over real sockets, case by case, and asks six oracles after each.

run.py --bin PATH [--only E,H05] [--variant NAME] [--json FILE] [--list]

Needs root or `unshare -r` for its private network; without, what can be tried on loopback is, and the rest is counted as
skipped. `--variant` runs a deliberately broken build: then the run succeeds only if some case or oracle fails.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import net  # noqa: E402
from cases import ARGUED, OPEN, TABLE, WAITING  # noqa: E402
from house import House, Oracles  # noqa: E402

CLASSES = "names addresses fronting framing http2 headers paths redirects reflection upgrades tls oauth identity operators settings exhaustion"


def load(only):
    for name in CLASSES.split():
        if (Path(__file__).resolve().parent / f"cases_{name}.py").exists():
            __import__(f"cases_{name}")


def chosen(only):
    wanted = [w for w in (only or "").split(",") if w]
    return [c for c in TABLE if not wanted or any(c.id == w or (w.isalpha() and c.id.startswith(w)) for w in wanted)]


def settle(mark, case):
    """The lines of what was answered come when the answers' last bytes have gone."""
    end = time.monotonic() + 3
    while True:
        case.answered, case.lines = mark.answers(), mark.lines()
        wanted = len(case.answered) + (case.lines_wanted or 0)
        # Where there may be lines of something else, each answer's own is waited for.
        missing = Counter(a.status for a in case.answered) - Counter(l.get("status") for l in case.lines)
        if (len(case.lines) >= wanted and not (case.lines_wanted is None and missing)) or time.monotonic() > end:
            break
        time.sleep(0.02)
    case.dialled = [n for n in mark.dialled()]
    case.asked = mark.asked_names()


def attempt(house, oracles, case):
    """One case: what it did, and what the oracles say."""
    mark, start, failure = house.mark(), time.monotonic(), None
    try:
        case.run(house, mark)
    except Exception as error:  # whatever it is, it is this case's failure
        where = traceback.extract_tb(error.__traceback__)[-1]
        failure = f"{type(error).__name__}: {str(error)[:1500]} ({Path(where.filename).name}:{where.lineno})"
    settle(mark, case)
    found = oracles.check(mark, case)
    house.close_annexes()
    house.reset()
    return {"case": case.id, "title": case.title, "got": failure or "as stated", "oracles": found,
            "seconds": round(time.monotonic() - start, 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="target/debug/tokenward", type=Path)
    parser.add_argument("--only")
    parser.add_argument("--variant")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder for what tokenward wrote; kept")
    parser.add_argument("--log", default="trace")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--loopback", action="store_true", help="as if there were no right to make a namespace")
    parser.add_argument("--all", action="store_true", help="with --variant: go on after the first failure")
    given = parser.parse_args()
    load(given.only)
    if given.list:
        for case in TABLE:
            print(case.id, case.title)
        for id, what in sorted(WAITING.items()):
            print(id, "waits for", what)
        return 0
    private = not given.loopback and net.enter(sys.argv)
    if private:
        net.furnish()
    with tempfile.TemporaryDirectory() as scratch:
        dir = given.keep or Path(scratch)
        dir.mkdir(parents=True, exist_ok=True)
        house = House(given.bin.resolve(), dir, private, given.variant, given.log)
        try:
            house.start()
            return judge(house, given)
        finally:
            house.stop()


def judge(house, given):
    oracles, failed, skipped, results = Oracles(house), [], [], []
    cases = chosen(given.only)
    for case in cases:
        if given.variant and (case.id, case.title) in OPEN:
            continue  # it would find out every variant
        if case.private and not house.private:
            skipped.append(case.id)
            continue
        result = attempt(house, oracles, case)
        results.append(result)
        known = OPEN.get((case.id, case.title))
        if known:
            held = result["got"] == "as stated" and not result["oracles"]
            print(f"OPEN {case.id} {case.title}: {known}{' (it held this time)' if held else ''}", flush=True)
        elif result["got"] != "as stated" or result["oracles"]:
            failed.append(case.id)
            print("FAILED", json.dumps(result), flush=True)
            if given.variant and not given.all:
                break
    still = [c for c in cases if (c.id, c.title) in OPEN]
    if given.json:
        given.json.write_text("".join(json.dumps(r) + "\n" for r in results))
    ids = {c.id for c in cases}
    print(f"{len(results) - len(failed) - len(still)} of {len(results)} runs of {len(ids)} cases are as stated, {len(failed)} failed"
          f"{': ' + ' '.join(failed) if failed else ''}")
    if still:
        print(f"{len(still)} more are open: {' '.join(c.id for c in still)}")
    if skipped:
        print(f"SKIPPED {len(skipped)}, because no private network could be made: {' '.join(skipped)}")
    if not given.only and not given.variant:
        print("class R is tried by hand only so far: --only R")
        for id, what in sorted(WAITING.items()):
            print(f"{id} waits for {what}")
        for id, why in sorted(ARGUED.items()):
            print(f"{id}: {why}")
    if given.variant:
        print(f"the variant {given.variant} was {'found out' if failed else 'NOT FOUND OUT'}")
        return 0 if failed else 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
