#!/usr/bin/env python3
"""The real program under load: reloads between two policies, and restarts.

tests/live/run.py --bin target/debug/tokenward [--only reloads|restarts] [--seconds 8] [--rate 200] [--restarts 3]

reloads: once a second the other of two policies is taken into force, now and then a broken file is refused. Every
request must be judged by one of the two, and nothing else may go wrong. Memory must stay flat.
restarts: SIGTERM while requests, uploads, streams and WebSockets are under way, and a new process in its place. Nothing
that the program has taken may be lost.

In long form: --seconds 100 --rate 500 --restarts 50. Needs openssl and Python 3.11.
"""

import argparse
import itertools
import json
import shutil
import sys
import threading
import time
from pathlib import Path

from world import HOST, Agent, Api, certificates

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from program import Program, Wrong  # noqa: E402

MIB = 1 << 20
TOKEN = "live-token-0123456789abcdef"


class House(Program):
    flags = ("--log", "warn")

    def __init__(self, binary):
        super().__init__(binary, "live")
        certificates(self.dir)
        self.api = Api(self.dir)
        (self.dir / "api.token").write_text(TOKEN)
        self.policy(True)
        self.new_ca()

    def policy(self, open_, broken=False):
        """Allows /b, or not. Written beside and renamed: the program also looks at the file by itself."""
        rules = ["GET /a", "GET /b" if open_ else "HEAD /b", "GET /stream", "POST /upload", "GET /ws"]
        part = self.dir / "part.yaml"
        part.write_text(f"""
listen: {{proxy: 127.0.0.1:{self.port}}}
runtime_dir: {self.dir}/run
ca: {{dir: {self.dir}/ca}}
audit: {{file: {self.dir}/audit.jsonl}}
drain: {{timeout: 20s}}
limits: {{per_agent: {{requests_per_second: 5000}}}}
{"servces" if broken else "services"}:
  items:
    hosts: [{HOST}]
    upstream: {{connect: "127.0.0.1:{self.api.port}", allow_private: true, ca: {{file: ca.pem}}}}
    credential: {{bearer: {{file: api.token}}}}
    rules: [{", ".join(f"{{allow: {rule}}}" for rule in rules)}]
""")
        part.rename(self.config)

    def memory(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        return 0

    def lines(self):
        with open(self.dir / "audit.jsonl") as file:
            return [json.loads(line) for line in file]


def quick(rate, kinds):
    """So many requests a second, in turn."""
    def plan():
        due = time.monotonic()
        for kind in itertools.cycle(kinds):
            due += 1 / rate
            yield kind, max(0.0, due - time.monotonic())
    return plan


def work(house, plans, during):
    """Runs the agents while `during` goes on. All of them, when they have come to their end."""
    stop = threading.Event()
    agents = [Agent(house.port, plan, stop) for plan in plans]
    for agent in agents:
        agent.start()
    try:
        during()
    finally:
        stop.set()
    for agent in agents:
        agent.join(30)
    if any(agent.is_alive() for agent in agents):
        raise Wrong("a request has no end")
    lost = [line for agent in agents for line in agent.lost]
    if lost:
        raise Wrong(f"{len(lost)} requests were lost: {lost[:5]}; {(house.dir / 'log').read_text()[-1000:]}")
    return agents


def reloads(house, seconds, rate):
    house.start()
    seen = {"memory": [], "done": 0, "refused": 0, "closed": set()}

    def swap():
        generation = 1
        for second in range(seconds):
            time.sleep(1)
            if second % 10 == 4:
                house.policy(True, broken=True)
                if house.call("reload", check=False).returncode != 1:
                    raise Wrong("a broken file was taken")
                seen["refused"] += 1
            house.policy(second % 2 == 1)
            done = json.loads(house.call("reload", "--json").stdout)
            if done["generation"] <= generation:
                raise Wrong(f"generation {done['generation']} after {generation}")
            generation = done["generation"]
            if second % 2 == 0:
                seen["closed"].add(generation)
            seen["done"] += 1
            seen["memory"].append(house.memory())

    kinds = (("GET", "/a"), ("GET", "/b"))
    agents = work(house, [quick(rate / 8, kinds)] * 8, swap)
    house.stop()
    good, refused = sum(a.count for a in agents), {}
    for agent in agents:
        for what, many in agent.refused.items():
            refused[what] = refused.get(what, 0) + many
    odd = {what: many for what, many in refused.items() if what not in {("403", "policy-denied"), ("503", "config-changed")}}
    if odd:
        raise Wrong(f"other refusals: {odd}")
    if refused.get(("403", "policy-denied"), 0) < seconds or good < seconds * rate / 4:
        raise Wrong(f"too little was asked: {good} answers, {refused}")
    judge(house, seen["closed"])
    half = seen["memory"][len(seen["memory"]) // 2]
    grown = seen["memory"][-1] - half
    if grown > 16 * MIB:
        raise Wrong(f"memory grew by {grown // MIB} MiB in the second half")
    print(f"reloads: {seen['done']} taken and {seen['refused']} refused in {seconds} s; {good} answers, {refused}, 0 lost; "
          f"memory {half // MIB} MiB at half-time, {seen['memory'][-1] // MIB} MiB at the end")


def judge(house, closed):
    """No request was let through by a generation that did not allow it."""
    allowed = [line for line in house.lines() if line["event"] == "request" and line["path"] == "/b" and line.get("status") == 200]
    wrong = [line for line in allowed if line["generation"] in closed]
    if wrong or len({line["generation"] for line in allowed}) < 2:
        raise Wrong(f"{len(wrong)} of {len(allowed)} were let through by {closed}: {wrong[:2]}")


def restarts(house, count, rate):
    house.start()

    def again():
        for _ in range(count):
            time.sleep(1.5)
            house.stop()
            house.start()
        time.sleep(0.5)

    plans = [quick(max(60.0, rate / 5), (("GET", "/a"),))] * 10
    plans += [quick(5, (("POST", "/upload"),))] * 2 + [quick(2, (("GET", "/stream"),))] * 3 + [quick(2, (("GET", "/ws"),))] * 2
    house.policy(True)
    agents = work(house, plans, again)
    house.stop()
    odd = {}
    for agent in agents:
        for what, many in agent.refused.items():
            odd[what] = odd.get(what, 0) + many
    if odd:
        raise Wrong(f"refusals while it ended: {odd}")
    total = sum(a.count for a in agents)
    early = [line for line in house.lines() if line["event"] == "request" and line.get("ended") == "early"
             and line["path"] != "/ws"]  # a WebSocket's agent hangs up by itself, and counts what it got
    if early:
        raise Wrong(f"{len(early)} were cut: {early[:2]}")
    if house.api.authorizations != {f"Bearer {TOKEN}"}:
        raise Wrong("the API was asked without its token")
    print(f"restarts: {count}; {total} requests, uploads, streams and WebSockets, 0 lost; "
          f"{sum(a.again for a in agents)} were asked again because their idle connection had just ended")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=Path)
    parser.add_argument("--only", choices=("reloads", "restarts"))
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--restarts", type=int, default=3)
    args = parser.parse_args()
    for name, part in (("reloads", lambda h: reloads(h, args.seconds, args.rate)),
                       ("restarts", lambda h: restarts(h, args.restarts, args.rate))):
        if args.only not in (None, name):
            continue
        house = House(args.bin.resolve())
        try:
            part(house)
        except Wrong as wrong:
            print(f"{name}: {wrong}", file=sys.stderr)
            sys.exit(1)
        finally:
            if house.process and house.process.poll() is None:
                house.process.kill()
                house.process.wait()
            shutil.rmtree(house.dir, ignore_errors=True)


if __name__ == "__main__":
    main()
