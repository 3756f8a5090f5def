#!/usr/bin/env python3
"""Has tokenward judged by strict authorization servers whose verification is another library's, and by faulty ones.

    tests/issuers/run.py [--bin PATH] [--keep] [--only NAME …]

PyJWT and joserfc verify what tokenward signs and shows; see strict.py. Needs Python 3.11 with venv, curl, gcc (for clock.c), and the
package registry; packages are kept in $TOKENWARD_CI_CACHE/issuers [default: ~/.cache/tokenward-ci/issuers]. Ends with `N passed, M failed`.
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
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(1, str(HERE.parent / "world"))


def with_packages():
    """Goes on in a Python that has what requirements.txt says."""
    base = Path(os.environ.get("TOKENWARD_CI_CACHE") or Path.home() / ".cache" / "tokenward-ci") / "issuers"
    wanted = (HERE / "requirements.txt").read_text()
    if Path(sys.prefix) == base:
        return
    if not (base / "made-for").is_file() or (base / "made-for").read_text() != wanted:
        shutil.rmtree(base, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", base], check=True)
        done = subprocess.run([base / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "-r", HERE / "requirements.txt"],
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        if done.returncode:
            sys.exit(f"issuers: pip install:\n{done.stdout[-2000:]}")
        (base / "made-for").write_text(wanted)
    os.execv(base / "bin" / "python", [str(base / "bin" / "python"), __file__, *sys.argv[1:]])


with_packages()

import cases  # noqa: E402
import strict  # noqa: E402
from canaries import Search, of_token  # noqa: E402
from stage import Agent, Proxy, built, fail_unless, free_port  # noqa: E402

SCOPES = "abcdef"
warnings.simplefilter("ignore")  # joserfc's, about the old name of EdDSA


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--bin", type=Path, help="the tokenward to judge [default: target/release/tokenward, built if missing]")
    options.add_argument("--keep", action="store_true", help="leave the folder with all logs")
    options.add_argument("--only", nargs="*", help="names of cases")
    options = options.parse_args()
    binary = (options.bin or built()).resolve()
    dir = Path(tempfile.mkdtemp(prefix="tokenward-issuers-"))
    started = []
    try:
        failed = judge(binary, dir, started, options.only)
    finally:
        for proxy in started:
            proxy.stop()
    if options.keep or failed:
        print(f"logs: {dir}")
    else:
        shutil.rmtree(dir)
    sys.exit(1 if failed else 0)


def configuration(house, wanted, dir, folder):
    """A file for these cases; YAML is JSON, too."""
    target = {"ca": {"file": str(dir / "ca.pem")}, "connect": "127.0.0.1", "allow_private": True}
    issuers = {c.name: {"url": house.issuers[c.name].url, **target, **c.issuer} for c in wanted}
    issuers["honest"] = {"url": f"https://honest.{strict.DOMAIN}:{house.port}", **target}

    def service(c):
        oauth = {"issuer": c.name, "client_id": "agent-proxy", "grant": "client_credentials", **c.credential}
        return {"hosts": [f"{c.name}.api.{strict.DOMAIN}"], "port": house.port, "upstream": target, "credential": {"oauth": oauth},
                "rules": [{"allow": f"GET /{scope}", "scopes": [scope]} for scope in SCOPES]}

    folder.mkdir()
    file = folder / "tokenward.yaml"
    file.write_text(json.dumps({
        "listen": {"proxy": f"127.0.0.1:{free_port()}"}, "health": f"127.0.0.1:{free_port()}", "runtime_dir": str(folder / "public"),
        "ca": {"dir": str(folder / "ca")}, "audit": {"file": str(folder / "audit.jsonl")},
        "issuers": issuers, "services": {**{c.name: service(c) for c in wanted}, "honest": honest(house, target)}}, indent=1))
    for c in wanted:
        c.audit = folder / "audit.jsonl"
    return file


def honest(house, target):
    """A service whose issuer no other issuer may lead to."""
    oauth = {"issuer": "honest", "client_id": "agent-proxy", "grant": "client_credentials", "client_auth": {"secret_basic": {"env": "CLIENT_SECRET"}}}
    return {"hosts": [f"honest.api.{strict.DOMAIN}"], "port": house.port, "upstream": target, "credential": {"oauth": oauth},
            "rules": [{"allow": "GET /a", "scopes": ["a"]}]}


def moved_clock(folder):
    """A file that says how far ahead the wall clock is, and the variables under which a process believes it."""
    done = subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", folder / "clock.so", HERE / "clock.c"], text=True, capture_output=True)
    fail_unless(done.returncode == 0, "gcc:", done.stderr)
    clock = folder / "clock"
    clock.write_bytes(bytes(8))
    return clock, {"LD_PRELOAD": str(folder / "clock.so"), "CLOCK_FILE": str(clock)}


def judge(binary, dir, started, only):
    begun = time.monotonic()
    house = strict.House(dir)
    wanted = [c for c in cases.CASES if not only or c.name in only]
    for c in wanted:
        c.prepare(house, c, dir)
    got = dir / "got"
    got.mkdir()
    secrets = {"CLIENT_SECRET": cases.SECRET}
    groups = [("now", [c for c in wanted if c.kind != "later"]), ("later", [c for c in wanted if c.kind == "later"])]
    agents, clock = {}, None
    for name, some in groups:
        if some:
            file, more = configuration(house, some, dir, dir / name), {}
            if name == "later":
                clock, more = moved_clock(dir)
            proxy = Proxy(binary, file, {**secrets, **more}, dir / name, log="trace")
            started.append(proxy)
            agents[name] = Agent(name, proxy.agent_environment("default"), sys.executable, got)
    print(f"{len(wanted)} issuers and tokenward are ready after {time.monotonic() - begun:.0f} s\n", flush=True)

    ready = threading.Barrier(len(groups[1][1]) or 1, action=lambda: later(house, clock))

    def play(c):
        c.ready, start = ready, time.monotonic()
        agent = agents["later" if c.kind == "later" else "now"]
        http = ["--http1.1", "--http2"][len(c.name) % 2]

        def call(scope):
            for _ in range(4):
                answer = agent.curl(f"{house.issuers[c.name].api}/{scope}", http=http)
                # Sixty issuers on one machine: a token that took longer than five seconds says nothing.
                if answer["http_code"] != 504:
                    break
                time.sleep(2)
            return answer

        time.sleep(wanted.index(c) / 10)  # not all in one moment
        try:
            return "ok", c.play(house, c, call) or "", time.monotonic() - start
        except Exception as why:  # any failure of a case is a finding, not the end
            if c.kind == "later":
                ready.abort()  # the others need not wait
            if not isinstance(why, AssertionError):
                (dir / "failures.log").open("a").write(f"{c.name}\n{traceback.format_exc()}\n")
            return "FAIL", (str(why) or repr(why))[:400], time.monotonic() - start

    failed = 0
    with ThreadPoolExecutor(len(wanted)) as pool:
        for c, outcome in [(c, pool.submit(play, c)) for c in wanted]:
            result, figures, took = outcome.result()
            failed += result != "ok"
            print(f"{result:4} {c.says:62} {took:5.1f} s  {figures}", flush=True)
    for says, check in (("nobody was asked whom an issuer only named", strangers), ("no secret in log, audit, or what clients got", canaries)):
        try:
            result, figures = "ok", check(house, dir, started)
        except AssertionError as why:
            failed, result, figures = failed + 1, "FAIL", str(why)[:400]
        print(f"{result:4} {says:62}          {figures}")
    if failed:
        print("the issuers said:", *sorted({str(said) for said in house.said if said[1] != "use_dpop_nonce"}), sep="\n  ")
    print(f"\n{len(wanted) + 2 - failed} passed, {failed} failed, in {time.monotonic() - begun:.0f} s")
    return failed


def later(house, clock):
    for c in cases.CASES:
        if c.kind == "later" and c.name in house.issuers:
            house.issuers[c.name].skew = 7200
    with clock.open("r+b") as file:
        file.write((7200).to_bytes(8, "little"))


def strangers(house, dir, started):
    seen = [*house.at("evil"), *house.at("honest")]
    fail_unless(not seen, [s.path for s in seen][:5])
    return f"{len(house.seen)} requests seen in all"


def canaries(house, dir, started):
    for proxy in started:
        fail_unless(proxy.stop() == 0, "tokenward did not end in order")
    search = Search()
    search.plant("the client secret", cases.SECRET)
    for token in house.tokens:
        search.plant("an access token", *of_token(token))
    for file in [*dir.glob("*.jwt"), *dir.glob("projected/*/token")]:
        search.plant("a workload token", *of_token(file.read_text()))
    for seen in list(house.seen):
        for name in ("client_assertion", "assertion", "subject_token"):
            if name in seen.form:
                search.plant("an assertion", *of_token(seen.form[name]))
    for file in [*dir.glob("*.pem"), *dir.glob("*.key")]:
        if file.name not in ("ca.pem", "server.pem"):
            text = "".join(line for line in file.read_text().splitlines() if not line.startswith("-----"))
            search.plant("a private key", text)
    outputs = [dir / "got", *(path for proxy in started for path in (proxy.log, proxy.out, proxy.dir / "audit.jsonl"))]
    hits = search.hits(*outputs)
    fail_unless(not hits, *hits[:5])
    (dir / "planted").write_text("x" + cases.SECRET)
    fail_unless(search.hits(dir / "planted"), "the search is blind")
    return f"{len(search.patterns)} forms"


if __name__ == "__main__":
    main()
