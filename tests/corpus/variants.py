#!/usr/bin/env python3
"""Runs the corpus against every broken variant: each must be found out. A corpus that cannot fail proves nothing.

variants.py --bin PATH [NAME…]     PATH: a build with the feature `variants`

The cases that should find a variant out come first, because a run ends with its first failure; where they do not, the
whole table is tried.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Where each is looked for first.
HINTS = {
    "audit-gap": "H03", "bare-lf": "E07", "bearer-downgrade": "N02", "crash": "E01", "decides-once": "E14",
    "dials-first": "B01", "echo-upstream-errors": "P07,M01", "framing-kept": "E01,E11", "host-trusting": "D01",
    "nonce-uncapped": "N02", "pass-through": "H10", "path-as-sent": "H01", "pool-unkeyed": "E22,O05",
    "private-allowed": "C02", "rebinding": "C08", "redirect-follower": "K01", "reflects-proof": "N02",
    "strip-nothing": "G01,G03", "suffix-without-dot": "B03", "any-placeholder": "G07,O02", "token-in-log": "N13,H10",
    "trusts-any-certificate": "M01",
}


def named(binary):
    """The variants that this build has: a wrong name prints them all."""
    done = subprocess.run([binary, "schema"], env={**os.environ, "TOKENWARD_VARIANT": "?"}, text=True, capture_output=True,
                          timeout=30)
    said = done.stdout + done.stderr
    if "there are: " not in said:
        sys.exit(f"{binary} is no build with the feature `variants`")
    return [name.strip() for name in said.split("there are: ")[1].split(",")]


def attempt(binary, name, only):
    """`(found out, what was said)`."""
    command = [sys.executable, str(HERE / "run.py"), "--bin", str(binary), "--variant", name]
    done = subprocess.run([*command, *(["--only", only] if only else [])], text=True, capture_output=True, timeout=900,
                          stdin=subprocess.DEVNULL)
    return done.returncode == 0 and "was found out" in done.stdout, done.stdout + done.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=Path)
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    binary, missed = given.bin.resolve(), []
    names = given.names or named(binary)
    for name in names:
        start = time.monotonic()
        found, said = attempt(binary, name, HINTS.get(name))
        if not found:
            found, said = attempt(binary, name, None)
        reason = next((line for line in said.splitlines() if line.startswith("FAILED")), said[-2000:])
        print(f"{name}: {'found out' if found else 'NOT FOUND OUT'} in {time.monotonic() - start:.0f} s: {reason[:240]}", flush=True)
        if not found:
            missed.append(name)
    print(f"{len(names) - len(missed)} of {len(names)} variants were found out")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
