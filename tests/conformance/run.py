#!/usr/bin/env python3
"""Runs the authorization scenarios of the MCP conformance suite against a client that holds a placeholder, behind tokenward.

Usage: tests/conformance/run.py [--bin FILE] [--keep] [--only SCENARIO …]

The suite (`SUITE` below, from npm) starts an MCP server and an authorization server on loopback and judges what it sees
there. Its servers speak plain http, which tokenward never does with a credential, so the binary is a build for tests with
the feature `danger-plain-http`. Needs Python 3.11 with venv, and the package registries (Node.js comes from there too);
packages are kept in $TOKENWARD_CI_CACHE/conformance [default: ~/.cache/tokenward-ci/conformance].

Every check of the suite must be passed, and a control, the same client without tokenward, must fail.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SUITE = "@modelcontextprotocol/conformance@0.2.0-alpha.12"
LOGIN = {"authorization-server-metadata", "authorization-request", "token-request", "pkce-code-challenge-sent", "pkce-s256-method-used",
         "pkce-verifier-matches-challenge"}
BEARER = LOGIN | {"valid-bearer-token"}
RESOURCE = {"resource-parameter-in-authorization", "resource-parameter-in-token", "resource-parameter-matches-prm",
            "resource-parameter-valid-uri", "resource-parameter-consistency"}
MACHINE = {"authorization-server-metadata", "token-request", "valid-bearer-token"}
DPOP = LOGIN | {"sep-1932-client-token-request-proof", "sep-1932-client-dpop-auth-scheme", "sep-1932-client-fresh-proof"}
# Each scenario that can apply, and the checks of the suite that tokenward must have passed in it.
SERVED = {
    "auth/dpop": DPOP,
    "auth/dpop-nonce": DPOP | {"sep-1932-client-as-nonce", "sep-1932-client-rs-nonce"},
    "auth/metadata-default": BEARER | RESOURCE,
    "auth/metadata-var1": BEARER | RESOURCE,
    "auth/metadata-var2": BEARER | RESOURCE,
    "auth/metadata-var3": BEARER | RESOURCE,
    "auth/2025-03-26-oauth-metadata-backcompat": BEARER,
    "auth/basic-cimd": BEARER | {"cimd-client-id-used"},
    "auth/pre-registration": BEARER | {"pre-registration-auth"},
    "auth/token-endpoint-auth-basic": BEARER | RESOURCE | {"token-endpoint-auth-method"},
    "auth/token-endpoint-auth-post": BEARER | RESOURCE | {"token-endpoint-auth-method"},
    "auth/token-endpoint-auth-none": BEARER | RESOURCE | {"token-endpoint-auth-method"},
    "auth/scope-from-www-authenticate": BEARER | {"scope-from-www-authenticate"},
    "auth/scope-from-scopes-supported": BEARER | {"scope-from-scopes-supported"},
    "auth/scope-omitted-when-undefined": BEARER | {"scope-omitted-when-undefined"},
    "auth/offline-access-scope": BEARER,
    "auth/offline-access-not-supported": BEARER | {"sep-2207-offline-access-not-requested"},
    "auth/iss-supported": BEARER | {"sep-2468-client-compare-iss-supported"},
    "auth/iss-not-advertised": BEARER | {"sep-2468-client-proceed-no-iss"},
    "auth/client-credentials-jwt": MACHINE | {"client-credentials-jwt-verified"},
    "auth/client-credentials-basic": MACHINE | {"client-credentials-basic-auth"},
    "auth/wif-jwt-bearer": MACHINE | {"wif-assertion-verified"},
    "auth/enterprise-managed-authorization": MACHINE | {"complete-flow-jwt-bearer"},
}
# In these the agent must be told no, once.
DENIED = {"auth/scope-retry-limit": LOGIN | {"scope-retry-limit"}}
# In these the authorization server lies, and no agent may so much as start.
REFUSED = {
    "auth/iss-supported-missing": {"sep-2468-client-reject-missing-iss"},
    "auth/iss-wrong-issuer": {"sep-2468-client-compare-iss-supported"},
    "auth/iss-unexpected": {"sep-2468-client-compare-iss-unadvertised"},
    "auth/iss-normalized": {"sep-2468-client-no-normalization"},
    "auth/metadata-issuer-mismatch": {"sep-2468-client-validate-metadata-issuer"},
}
WANTED = {**SERVED, **DENIED, **REFUSED}
AT_ONCE = 4
# What the operator's script asked for, not tokenward: a check of these says nothing about the proxy.
OPERATORS = {"complete-flow-token-exchange": "the enterprise exchanges its identity token; tokenward presents what comes of it",
             "sep-837-application-type-present": "as client-registration",
             "prm-pathbased-requested": "the operator reads where the authorization server is; tokenward is configured with it",
             "client-registration": "the operator registers the client; tokenward is configured with its name"}


def cache():
    base = Path(os.environ.get("TOKENWARD_CI_CACHE") or Path.home() / ".cache" / "tokenward-ci") / "conformance"
    base.mkdir(parents=True, exist_ok=True)
    return base


def call(*command, **more):
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, **more)
    if done.returncode:
        sys.exit(f"conformance: {command[0]} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


def kept(folder, wanted, make):
    """A folder of packages, made anew where it was made for others or not to its end."""
    if (folder / "made-for").is_file() and (folder / "made-for").read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make()
    (folder / "made-for").write_text(wanted)


def packages():
    """The suite's program, and a Python with the MCP SDK beside a Node.js that is new enough for the suite."""
    suite, python = cache() / "suite", cache() / "python"
    bin, wanted = python / "bin", HERE / "requirements.txt"

    def venv():
        call(sys.executable, "-m", "venv", str(python))
        call(str(bin / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(wanted))

    kept(python, wanted.read_text(), venv)
    path = {**os.environ, "PATH": f"{bin}:{os.environ['PATH']}"}
    kept(suite, SUITE, lambda: call(str(bin / "npm"), "install", "--prefix", str(suite), "--no-save", "--no-audit", "--no-fund",
                                    "--ignore-scripts", "--no-package-lock", SUITE, env=path))
    return suite / "node_modules/@modelcontextprotocol/conformance/dist/index.js", bin


def built():
    call("cargo", "build", "--locked", "--features", "danger-plain-http", cwd=ROOT)
    return Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target") / "debug" / "tokenward"


def play(scenario, binary, dir, *more):
    """One scenario: what the suite says, its checks, and what the client got."""
    suite, bin = packages()
    dir.mkdir()
    # The suite cuts the command at every space.
    command = [str(bin / "python"), str(HERE / "operate.py"), str(binary), str(dir), *more]
    if any(" " in part for part in command):
        sys.exit(f"conformance: the suite cannot start a command with spaces in its paths: {command}")
    done = subprocess.run(
        [str(bin / "node"), str(suite), "client", "--command", " ".join(command), "--scenario", scenario, "-o", str(dir / "suite"),
         "--timeout", "60000"],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    said = re.sub(r"\x1b\[\d+m", "", done.stdout)
    files = list((dir / "suite").glob("**/checks.json"))
    if len(files) != 1:
        sys.exit(f"conformance: {scenario}: the suite left no checks:\n{said}")
    checks = json.loads(files[0].read_text())
    got = json.loads((dir / "got.json").read_text()) if (dir / "got.json").exists() else {}
    log = (dir / "run.log").read_text() if (dir / "run.log").exists() else ""
    return done.returncode, said, checks, got, log


def judged(scenario, code, said, checks, got, log):
    """Prints what came of it; what is wrong."""
    wrong = [f"{c['id']}: {c['status']}" for c in checks if c["status"] in ("FAILURE", "WARNING")]
    passed = {c["id"] for c in checks if c["status"] == "SUCCESS"}
    wrong += [f"{check}: not among those that were passed" for check in sorted(WANTED[scenario] - passed)]
    if code:
        wrong.append(f"the suite ended with {code}: {said[-500:]}")
    tokens, text = issued(checks), json.dumps(got)
    wrong += ["the client got the token" for t in tokens if t in text or t.count(".") == 2 and t.rsplit(".", 1)[1] in text]
    statuses = [entry["status"] for entry in got.get("got", []) if "status" in entry]
    if scenario in REFUSED:
        reason = "as-metadata-invalid" if "metadata" in scenario else "the answer is not the configured issuer's"
        if tokens or got or reason not in log:
            wrong.append(f"the login was not refused as it should: {log[-300:]}")
    elif scenario in DENIED:
        if statuses[-1:] != [403]:
            wrong.append(f"the client got {statuses}")
    elif (got.get("got") or [{}])[-1].get("tools") != ["test-tool"]:
        wrong.append("the client did not get through its calls")
    if scenario in ("auth/dpop", "auth/dpop-nonce") and not tokens:
        wrong.append("the authorization server's answer with the token was not seen")
    operators = len(passed & set(OPERATORS))
    print(f"{'FAIL' if wrong else 'ok':4} {scenario:44} {len(passed)} checks passed, {operators} of them not ours; the client got "
          f"{statuses or 'not started'}", flush=True)
    return wrong


def issued(checks):
    bodies = (c.get("details", {}).get("body") for c in checks if c["id"] == "outgoing-auth-response")
    return [b["access_token"] for b in bodies if isinstance(b, dict) and "access_token" in b]


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--bin", type=Path, help="a tokenward with danger-plain-http [default: built, debug]")
    options.add_argument("--only", nargs="*", choices=WANTED, help="scenarios [default: all]")
    options.add_argument("--keep", action="store_true", help="leave the folder with all that was written")
    options = options.parse_args()
    binary = (options.bin or built()).resolve()
    version = call(str(binary), "--version").strip()
    if "danger-plain-http" not in version:
        sys.exit(f"conformance: {version}: a build with --features danger-plain-http is needed")
    node = call(str(packages()[1] / "node"), "--version").strip()
    print(f"{SUITE} on Node.js {node}, {version}", flush=True)
    dir = Path(tempfile.mkdtemp(prefix="tokenward-conformance-"))
    wrong = []
    scenarios = [*(options.only or WANTED)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        control = pool.submit(play, "auth/dpop", binary, dir / "control", "--without")
        results = pool.map(lambda scenario: play(scenario, binary, dir / scenario.replace("/", "-")), scenarios)
        for scenario, result in zip(scenarios, results):
            wrong += [f"{scenario}: {what}" for what in judged(scenario, *result)]
    code, _, checks, *_ = control.result()
    failed = {c["id"]: c.get("details", {}) for c in checks if c["status"] == "FAILURE"}
    print(f"control, the same client without tokenward: {len(failed)} checks failed, the suite ended with {code}")
    # It must have come as far as the MCP server, with the placeholder.
    if not code or failed.get("sep-1932-client-dpop-auth-scheme", {}).get("observedSchemes") != ["Bearer"]:
        wrong.append("control: it did not fail as it should, so the scenarios show nothing")
    for what in wrong:
        print(f"WRONG {what}")
    if options.keep or wrong:
        print(f"left: {dir}")
    else:
        shutil.rmtree(dir)
    print("conformance: " + ("FAILED" if wrong else f"all checks of {len(scenarios)} scenarios passed"))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
