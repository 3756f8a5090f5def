#!/usr/bin/env python3
"""Kills the real program at six points of a refresh, again and again, and looks at what is left of the login.

tests/kills/run.py --bin target/debug/tokenward [--rounds 5] [--only kills|rekey|terminated|outage|storm|crowd …] [--seconds 15]

The six points, and how the program is caught there:
  before-journal   it asks for metadata, which it does before anything is written
  after-journal    it connects to the token endpoint, and has sent nothing yet
  after-send       the issuer has read the request; in every second round it has rotated as well
  after-answer     the answer is in the socket; the program is stopped, or runs on for up to two milliseconds
  after-write      the store's file has just been replaced
  after-publish    the agent has its answer

With an issuer that is patient for ten seconds no login may be lost. With one that is not, a login may be lost only
between sending and writing, and each loss must be told: `grant.dead` with `refresh_lost`. `rekey` kills it
while it seals its store with another key. Every other part is about an issuer that is away, refuses, or is asked by many at once. Needs openssl and Python 3.11.
"""

import argparse
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from issuer import HOST_API, Api, Issuer, certificates

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from program import Program, Wrong  # noqa: E402

POINTS = ("before-journal", "after-journal", "after-send", "after-answer", "after-write", "after-publish")
WINDOW = ("after-send", "after-answer", "after-write")


class House(Program):
    """One configuration with its issuer, its API and its store."""

    def __init__(self, binary, grace, life=600, top=""):
        super().__init__(binary, "kills")
        certificates(self.dir)
        self.issuer, self.api = Issuer(self.dir, grace, life), Api(self.dir)
        (self.dir / "store.key").write_text("5a" * 32)
        self.config.write_text(f"""
listen: {{proxy: 127.0.0.1:{self.port}}}
runtime_dir: {self.dir}/run
ca: {{dir: {self.dir}/ca}}
audit: {{file: {self.dir}/audit.jsonl}}
drain: {{timeout: 5s}}
{top}store: {{file: {{path: {self.dir}/state/store, key: {{file: store.key}}}}}}
issuers:
  as: {{url: "{self.issuer.url}", connect: 127.0.0.1, allow_private: true, ca: {{file: ca.pem}}}}
services:
  items:
    hosts: [{HOST_API}]
    upstream: {{connect: "127.0.0.1:{self.api.port}", allow_private: true, ca: {{file: ca.pem}}}}
    credential: {{oauth: {{issuer: as, client_id: kills, client_auth: none, grant: authorization_code}}}}
    rules: [{{allow: GET /a, scopes: [a]}}, {{allow: GET /b, scopes: [b]}}]
""")
        self.new_ca("state")

    def change_key(self, number):
        """The store is to be sealed with the key of this number, and was with the one before."""
        (self.dir / f"store.key.{number}").write_text(f"{number:064x}")
        before = f"store.key.{number - 1}" if number > 1 else "store.key"
        keys = f"key: {{file: store.key.{number}}}, previous_key: {{file: {before}}}"
        self.config.write_text(re.sub(r"key: \{file: store\.key[^}]*\}(, previous_key: \{[^}]*\})?", keys, self.config.read_text(), 1))

    def log_in(self):
        """Through `run`, as a person does."""
        process = subprocess.Popen([self.binary, "--config", self.config, "run", "--", "true"],
                                   env=self.environment(), stderr=subprocess.PIPE, text=True)
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("https://"):
                browser = urllib.request.build_opener(urllib.request.ProxyHandler({}))
                browser.open(self.issuer.approve(line.strip()), timeout=10).read()
        if process.wait(30):
            raise Wrong(f"no login: {''.join(said)}")

    def kill(self):
        self.process.kill()
        self.process.wait(10)

    def get(self, path, timeout=20):
        """An agent's request: `(status, problem code)`; nothing where the program is gone."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout) as plain:
                plain.sendall(f"CONNECT {HOST_API}:443 HTTP/1.1\r\nhost: {HOST_API}:443\r\n\r\n".encode())
                if b" 200 " not in plain.recv(4096):
                    return None
                context = ssl._create_unverified_context()
                with context.wrap_socket(plain, server_hostname=HOST_API) as io:
                    io.sendall(f"GET {path} HTTP/1.1\r\nhost: {HOST_API}\r\nconnection: close\r\n\r\n".encode())
                    text = b""
                    while more := io.recv(65536):
                        text += more
        except OSError:
            return None
        if not text:
            return None
        head, _, body = text.decode().partition("\r\n\r\n")
        code = re.search(r'"code":"([a-z-]+)"', body)
        return int(head.split(" ")[1]), code.group(1) if code else ""

    def events(self, name):
        """From the file of `serve` and from that of `run`."""
        found = []
        for file in (self.dir / "audit.jsonl", self.dir / "xdg/tokenward/audit.jsonl"):
            lines = file.read_text(errors="replace").splitlines() if file.exists() else []
            found += [line for line in lines if f'"event":"{name}"' in line]
        return found

    def inode(self):
        return os.stat(self.dir / "state/store").st_ino

    def end(self):
        if self.process and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


def caught(house, point, round_):
    """Lets one refresh begin and kills the program at this point of it. Whether it was caught there."""
    issuer, pid, done, state = house.issuer, house.process.pid, threading.Event(), {}

    def strike():
        os.kill(pid, signal.SIGKILL)
        done.set()

    def strike_and_say_nothing():
        strike()
        return "silence"

    def stop():
        os.kill(pid, signal.SIGSTOP)

    def answered():
        if round_ % 2:
            os.kill(pid, signal.SIGCONT)
            time.sleep(random.random() * 0.002)
        strike()

    def watch():
        before = house.inode()
        threading.Thread(target=written, args=(before,), daemon=True).start()

    def written(before):
        end = time.monotonic() + 10
        while house.inode() == before and time.monotonic() < end:
            pass
        state["written"] = house.inode() != before
        strike()

    issuer.hooks = {
        "before-journal": {"metadata": strike_and_say_nothing},
        "after-journal": {"connection": strike},
        "after-send": {("answer" if round_ % 2 else "request"): strike_and_say_nothing},
        "after-answer": {"answer": stop, "sent": answered},
        "after-write": {"answer": watch},
        "after-publish": {},
    }[point]
    before = house.inode()
    got = house.get("/a" if point == "before-journal" else "/b")
    if point == "after-publish":
        strike()
        if got is None or got[0] != 200:
            raise Wrong(f"{point}: {got}")
    if not done.wait(15):
        raise Wrong(f"{point} was not come to: {got}")
    house.process.wait(10)
    issuer.hooks = {}
    return {
        "before-journal": house.inode() == before,
        "after-journal": house.inode() != before and got is None,
        "after-write": state.get("written") and got is None,
        "after-publish": True,
    }.get(point, got is None)


def kills(binary, rounds, grace):
    """Each point so often; what was lost, by point."""
    house = House(binary, grace)
    lost, exact, told = dict.fromkeys(POINTS, 0), dict.fromkeys(POINTS, 0), 0
    try:
        house.log_in()
        for round_ in range(rounds):
            for point in POINTS:
                house.start()
                if point != "before-journal":
                    got = house.get("/a")
                    if got != (200, ""):
                        raise Wrong(f"round {round_}, before {point}: {got}")
                exact[point] += bool(caught(house, point, round_))
                # What is left of it?
                house.start()
                got = house.get("/a")
                dead = len(house.events("grant.dead"))
                if got == (200, ""):
                    house.stop() if round_ % 2 else house.kill()
                    if dead != told:
                        raise Wrong(f"{point}: a grant.dead without a loss")
                    continue
                # The agent may hear of it before the audit file's thread has written the line.
                end = time.monotonic() + 3
                while len(house.events("grant.dead")) == told and time.monotonic() < end:
                    time.sleep(0.02)
                house.kill()
                dead = len(house.events("grant.dead"))
                if got is None or got[1] != "reauthorization-required":
                    raise Wrong(f"round {round_}, after {point}: {got}")
                lost[point] += 1
                if dead != told + 1 or '"refresh_lost"' not in house.events("grant.dead")[-1]:
                    raise Wrong(f"{point}: a login was lost and nobody was told: {house.events('grant.dead')[-1:]}")
                if grace or point not in WINDOW:
                    raise Wrong(f"round {round_}: a login was lost at {point}")
                house.log_in()
                # Killed before the dead row was off the disk: it is refused again, and told again.
                told = len(house.events("grant.dead"))
        if house.issuer.reuses < sum(lost.values()) or (grace and house.issuer.reuses):
            raise Wrong(f"{house.issuer.reuses} refresh tokens were used twice, {sum(lost.values())} were lost")
    finally:
        house.end()
    return lost, exact


def part_kills(given):
    for grace in given.graces:
        begun = time.monotonic()
        lost, exact = kills(given.bin, given.rounds, grace)
        where = ", ".join(f"{point} {lost[point]} lost ({exact[point]} exact)" for point in POINTS)
        print(f"{6 * given.rounds} kills, grace {grace} s: {sum(lost.values())} logins lost, each told; {where}; "
              f"{time.monotonic() - begun:.0f} s", flush=True)


def part_rekey(given):
    """SIGKILL while the store is sealed with another key: every second time as soon as its file was replaced."""
    house, caught, rounds = House(given.bin, 10), {"before": 0, "after": 0}, 4 * given.rounds
    try:
        house.log_in()
        for number in range(1, rounds + 1):
            house.change_key(number)
            before, log = house.inode(), open(house.dir / "log", "ab")
            house.process = subprocess.Popen([house.binary, "--config", house.dir / "tokenward.yaml", "serve"],
                                             env=house.environment(), stderr=log, stdout=log)
            end = time.monotonic() + (10 if number % 2 else random.random() * 0.15)
            while time.monotonic() < end and (house.inode() == before or not number % 2):
                pass
            house.kill()
            caught["before" if house.inode() == before else "after"] += 1
            house.start()
            got = house.get("/a")
            if got != (200, "") or house.events("grant.dead") or house.events("grant.in_doubt"):
                raise Wrong(f"a login was lost: {got}")
            house.stop()
        if "damaged" in (house.dir / "log").read_text():
            raise Wrong("the store or its note was damaged")
    finally:
        house.end()
    print(f"{rounds} kills while the store was sealed anew: 0 logins lost, {caught['before']} before its file was replaced, "
          f"{caught['after']} after", flush=True)


def part_terminated(given):
    """SIGTERM while the issuer is thinking: the refresh comes to its end, and nothing is in doubt."""
    house = House(given.bin, 0)
    try:
        house.log_in()
        for _ in range(3):
            house.start()
            if house.get("/a") != (200, ""):
                raise Wrong("not served")
            late = threading.Event()
            house.issuer.hooks = {"answer": lambda: late.set() or time.sleep(2)}
            agent = threading.Thread(target=house.get, args=("/b",), daemon=True)
            agent.start()
            late.wait(10)
            house.stop()
            house.issuer.hooks = {}
            house.start()
            if house.get("/a") != (200, "") or house.events("grant.in_doubt") or house.events("grant.dead"):
                raise Wrong(f"a refresh was cut off: {house.events('grant.in_doubt')[-1:]}")
            house.stop()
    finally:
        house.end()
    print("SIGTERM in the middle of a refresh: 3 of 3 came to their end, 0 in doubt", flush=True)


def part_outage(given):
    """45-s tokens; the issuer is away from just after one was issued, for two thirds of its life, then for twice its life."""
    life = 45
    for share in (2 / 3, 2):
        house = House(given.bin, 10, life)
        try:
            house.log_in()
            house.start()
            if house.get("/a") != (200, ""):
                raise Wrong("not served")
            issued, house.issuer.away = time.monotonic(), True
            failed, back, healthy, early = 0, issued + life * share, None, 0
            while time.monotonic() < back + 10:
                now = time.monotonic()
                if house.issuer.away and now >= back:
                    house.issuer.away = False
                got = house.get("/a")
                if got != (200, ""):
                    failed += 1
                    early += now < issued + life - 2
                    if got is None or got[0] not in (503, 504):
                        raise Wrong(f"{got} in an outage")
                elif now >= back and healthy is None:
                    healthy = time.monotonic() - back
                time.sleep(0.1)
            if early or healthy is None or healthy > 5 or (share < 1 and failed):
                raise Wrong(f"away for {life * share:.0f} s: {failed} failed, {early} before expiry, healthy after {healthy}")
            print(f"45-s tokens, issuer away for {life * share:.0f} s from issuance: {failed} requests failed, {early} of them "
                  f"before the token's end; healthy {healthy:.1f} s after it came back", flush=True)
        finally:
            house.end()


def many(house, path, rate, seconds):
    """So many requests a second; the answers by `(status, code)`."""
    counts, lock = {}, threading.Lock()

    def one():
        got = house.get(path)
        with lock:
            counts[got] = counts.get(got, 0) + 1

    with ThreadPoolExecutor(32) as pool:
        begun = time.monotonic()
        for number in range(rate * seconds):
            pause = begun + number / rate - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            pool.submit(one)
    return counts


def part_storm(given):
    """The issuer says `invalid_grant` to everything while agents ask all the time."""
    house = House(given.bin, 10)
    try:
        house.log_in()
        house.start()
        house.issuer.refusing = True
        before = len(house.issuer.requests)
        counts = many(house, "/a", 100, given.seconds)
        asked = len(house.issuer.requests) - before
        if asked > 8 or set(counts) != {(403, "reauthorization-required")}:
            raise Wrong(f"{asked} token requests, answers {counts}")
        print(f"invalid_grant under 100 requests/s for {given.seconds} s: {asked} token requests, {counts}", flush=True)
    finally:
        house.end()


def part_crowd(given):
    """500 requests come when the token has expired and its renewal is under way: one refresh."""
    limits = "limits: {per_agent: {requests_per_second: 10000, streams: 1000, certificates_per_second: 1000}}\n"
    house = House(given.bin, 10, 12, top=limits)
    try:
        house.log_in()
        house.start()
        if house.get("/a") != (200, ""):
            raise Wrong("not served")
        issued, release, asked = time.monotonic(), threading.Event(), []
        before = len(house.issuer.requests)

        def let_go():
            # What is asked for after this is the renewal of what comes now, which has aged on the way.
            asked.append(len(house.issuer.requests) - before)
            release.set()

        house.issuer.hooks = {"answer": lambda: release.wait(9) and None}
        time.sleep(issued + 12.2 - time.monotonic())
        threading.Timer(1.5, let_go).start()
        with ThreadPoolExecutor(500) as pool:
            got = list(pool.map(lambda _: house.get("/a"), range(500)))
        served = sum(one == (200, "") for one in got)
        refused = sorted({one for one in got if one != (200, "")}, key=str)
        # Who waited longer than five seconds on a busy machine, and those whom this script's own API kept waiting.
        slow = ((504, "as-timeout"), (504, "upstream-timeout"))
        if asked != [1] or not served or any(one not in slow for one in refused):
            raise Wrong(f"{asked} refreshes, {served} served, others {refused}")
        print(f"500 requests at expiry: {asked[0]} refresh, {served} served, others {refused}", flush=True)
    finally:
        house.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--graces", type=int, nargs="*", default=[10, 0], help="seconds")
    parser.add_argument("--only", nargs="*", default=["kills", "rekey", "terminated", "storm", "crowd"])
    given = parser.parse_args()
    given.bin = given.bin.resolve()
    parts = {"kills": part_kills, "rekey": part_rekey, "terminated": part_terminated, "outage": part_outage, "storm": part_storm,
             "crowd": part_crowd}
    for name in given.only:
        try:
            parts[name](given)
        except Wrong as wrong:
            print(f"FAILED: {name}: {wrong}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
