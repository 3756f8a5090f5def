#!/usr/bin/env python3
"""One hostile agent beside a benign one: what the benign one notices.

beside.py --bin PATH [--only NAME,…] [--rounds N] [--seconds S] [--full] [--sources N] [--bar 2.0] [--json FILE]

Agent B sends requests at a steady rate over a few kept connections, and a new connection now and then, to an origin that is not
the bottleneck. Rounds alternate: alone, under the attack, and under a control that burns as much processor time as the
attacker did and attacks nothing: on a small machine the attacker's own work slows everybody, tokenward or not. Each number is
the median of its rounds. Attackers and B are processes of their own. Use a release build: others measure the compiler.

The bar: B's 99th percentile under attack is at most `--bar` times what it is alone, or under the control if that is more; no
request of B fails; the process is the same one at the end. `others` is what the rest of the machine did meanwhile, in processors:
with much of it the percentiles say little.
"""

import argparse
import base64
import json
import os
import random
import resource
import select
import selectors
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent))

HOST, CONNECTIONS, RATE, FRESH = "node.rw.test", 4, 300, 10


# --- roles: each runs in a process of its own, says "ready", and ends when its standard input does

def begun():
    print("ready", flush=True)


def over():
    """Whether who started it wants it to end."""
    return bool(select.select([sys.stdin], [], [], 0)[0]) and not sys.stdin.read(1)


def connected(given, source=None):
    """A connection to the proxy."""
    return socket.create_connection(tuple(given["proxy"]), timeout=10, source_address=(source, 0) if source else None)


def login(given, who):
    pair = base64.b64encode(f"{who}:{given['tokens'][who]}".encode()).decode()
    return f"Proxy-Authorization: Basic {pair}\r\n"


def tunnel(given, who, host, source=None):
    stream = connected(given, source)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.sendall(f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\n{login(given, who)}\r\n".encode())
    head = b""
    while b"\r\n\r\n" not in head:
        piece = stream.recv(4096)
        if not piece:
            raise ConnectionError("CONNECT: closed")
        head += piece
    if not head.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(head[:60].decode())
    return stream


def secured(given, who, host, alpn="http/1.1", source=None, context=None):
    context = context or ssl.create_default_context(cafile=given["ca"])
    context.set_alpn_protocols([alpn])
    return context.wrap_socket(tunnel(given, who, host, source), server_hostname=host)


def whole_answer(stream):
    data = b""
    while b"\r\n\r\n" not in data:
        piece = stream.recv(65536)
        if not piece:
            raise ConnectionError("closed")
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    fields = {l.split(b":", 1)[0].lower(): l.split(b":", 1)[1].strip() for l in head.split(b"\r\n")[1:]}
    if fields.get(b"transfer-encoding") == b"chunked":
        while not body.endswith(b"0\r\n\r\n"):
            body += stream.recv(65536)
    else:
        while len(body) < int(fields.get(b"content-length", 0)):
            body += stream.recv(65536)
    return int(head.split(b" ")[1])


def benign(given):
    """B: a line on standard input starts a measured round, and one JSON object tells about it."""
    context = ssl.create_default_context(cafile=given["ca"])
    # No pace hides how long a connection takes: resumption would.
    streams = [secured(given, "B", HOST, context=context) for _ in range(CONNECTIONS)]
    ask = f"GET /v1/items/benign HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    begun()
    for line in sys.stdin:
        count, times, fresh, errors = int(line), [], [], []

        def keep(index):
            pause, due = CONNECTIONS / RATE, time.perf_counter() + random.random() * CONNECTIONS / RATE
            for _ in range(count // CONNECTIONS):
                time.sleep(max(0, due - time.perf_counter()))
                start = time.perf_counter()
                try:
                    streams[index].sendall(ask)
                    if (status := whole_answer(streams[index])) != 200:
                        errors.append(status)
                except OSError as error:
                    errors.append(repr(error))
                    try:
                        streams[index] = secured(given, "B", HOST, context=context)
                    except OSError as error:
                        errors.append(repr(error))
                times.append(time.perf_counter() - start)
                # What is late is not made good by haste: the rate is B's own, and below its limit.
                due = max(due + pause, time.perf_counter() - pause)

        def anew():
            for _ in range(max(3, count * FRESH // RATE)):
                start = time.perf_counter()
                try:
                    with secured(given, "B", HOST) as stream:
                        stream.sendall(ask)
                        if (status := whole_answer(stream)) != 200:
                            errors.append(status)
                except OSError as error:
                    errors.append("fresh: " + repr(error))
                fresh.append(time.perf_counter() - start)
                time.sleep(max(0, 1 / FRESH - fresh[-1]))
        threads = [threading.Thread(target=keep, args=(n,)) for n in range(CONNECTIONS)] + [threading.Thread(target=anew)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(json.dumps({"p50": quantile(times, .5), "p99": quantile(times, .99), "fresh50": quantile(fresh, .5), "fresh99": quantile(fresh, .99),
                          "count": len(times) + len(fresh), "errors": errors[:5], "failed": len(errors)}), flush=True)


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def source_of(given, number):
    """One of the hostile agent's addresses."""
    number %= given["sources"]
    return f"127.0.{20 + number // 250}.{1 + number % 250}"


def kept_open(given, count, first, drip):
    """So many connections, opened anew when they are closed; `drip(n)` is the next byte of one."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count + 500, max(limit[1], count + 500)))
    except (OSError, ValueError):
        count = min(count, limit[1] - 500)
    selector, opened, born = selectors.DefaultSelector(), 0, {}

    def one():
        nonlocal opened
        stream = socket.socket()
        stream.setblocking(False)
        stream.bind((source_of(given, opened), 0))
        stream.connect_ex(tuple(given["proxy"]))
        opened += 1
        selector.register(stream, selectors.EVENT_READ | (selectors.EVENT_WRITE if first else 0), 0)
        born[stream] = time.monotonic()

    def gone(stream):
        selector.unregister(stream)
        born.pop(stream, None)
        stream.close()
    most, said = 0, False
    while not over():
        # Some hundred at a time, so that those who are there are heard too.
        for _ in range(min(200, count - len(born))):
            try:
                one()
            except OSError:
                break
        for key, events in selector.select(0.02):
            stream = key.fileobj
            try:
                if events & selectors.EVENT_WRITE:
                    stream.send(first)
                    selector.modify(stream, selectors.EVENT_READ, 0)
                if events & selectors.EVENT_READ and not stream.recv(4096):
                    gone(stream)
            except BlockingIOError:
                pass
            except OSError:
                gone(stream)
        if drip:
            now = time.monotonic()
            for stream in [s for s, since in list(born.items()) if now - since > 2][:100]:
                born[stream] = now
                try:
                    stream.send(drip)
                except OSError:
                    gone(stream)
        most = max(most, len(born))
        if not said and opened >= count:
            said = True
            begun()
    print(json.dumps({"opened": opened, "open at once": most}))


def slowloris(given):
    kept_open(given, given["n"], b"CONNECT x.wild.test:443 HTTP/1.1\r\nHost: x.wild.test:443\r\nX-Slow: ", b"y")


def connections(given):
    kept_open(given, given["n"], b"", b"")


def resets(given):
    """Streams opened and taken back as fast as they can be written; a new connection when one is ended."""
    from agent import END_HEADERS, END_STREAM, HEADERS, RST, Http2
    def frame(kind, flags, stream, payload):
        return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload
    block = Http2.block(Http2.head("x.wild.test", "/reset"))
    batches = [b"".join(frame(HEADERS, END_HEADERS | END_STREAM, s, block) + frame(RST, 0, s, b"\0\0\0\x08") for s in range(a, a + 400, 2))
               for a in range(1, 20001, 400)]
    begun()
    counts = {"connections": 0, "streams": 0, "refused": 0}
    while not over():
        try:
            with secured(given, "A", "x.wild.test", "h2") as stream:
                counts["connections"] += 1
                stream.settimeout(1)
                stream.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\4\0\0\0\0\0")
                for batch in batches:
                    stream.sendall(batch)
                    counts["streams"] += 200
        except OSError:
            counts["refused"] += 1
            time.sleep(0.002)
    print(json.dumps(counts))


def readers(given):
    """Downloads of which a kilobyte a second is taken: over HTTP/1 and on one HTTP/2 connection that is hardly read."""
    from agent import Http2, Stream
    streams = []
    for n in range(given["n"] // 2):
        streams.append(secured(given, "A", "big.wild.test"))
        streams[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        streams[-1].sendall(b"GET /h1 HTTP/1.1\r\nHost: big.wild.test\r\n\r\n")
    h2 = Http2(Stream(secured(given, "A", "big.wild.test", "h2")), struct.pack("!HI", 4, 2**31 - 1))
    h2.frame(8, 0, 0, struct.pack("!I", 2**31 - 1 - 65535))
    for n in range(given["n"] // 2):
        h2.request(h2.head("big.wild.test", "/h2"))
    streams.append(h2.stream.stream)
    begun()
    taken = 0
    while not over():
        start = time.monotonic()
        for stream in streams:
            stream.settimeout(0.001)
            try:
                taken += len(stream.recv(1024))
            except OSError:
                pass
        time.sleep(max(0, 1 - (time.monotonic() - start)))
    print(json.dumps({"streams": given["n"], "kB taken": taken // 1000}))


def leaves(given):
    """A hello for another name each time, so that a certificate is made for each."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = context.wrap_bio(incoming, outgoing, server_hostname="n00000000.wild.test")
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    hello, counts, lock = outgoing.read(), {"hellos": 0, "certificates": 0, "refused": 0}, threading.Lock()
    done = threading.Event()

    def knock(start):
        number = start * 1_000_000
        while not done.is_set():
            number += 1
            name = f"n{number:08}"
            try:
                stream = tunnel(given, "A", f"{name}.wild.test")
                stream.settimeout(5)
                stream.sendall(hello.replace(b"n00000000", name.encode()))
                first = stream.recv(1)
                stream.close()
                kind = "certificates" if first == b"\x16" else "refused"
            except OSError:
                kind = "refused"
                time.sleep(0.005)
            with lock:
                counts["hellos"] += 1
                counts[kind] += 1
    threads = [threading.Thread(target=knock, args=(n,), daemon=True) for n in range(16)]
    for thread in threads:
        thread.start()
    begun()
    while not over():
        time.sleep(0.05)
    done.set()
    print(json.dumps(counts))


def burn(given):
    """A share of one processor, and nothing else."""
    begun()
    while not over():
        start = time.perf_counter()
        spent = time.process_time()
        while time.process_time() - spent < given["share"] * 0.01 and time.perf_counter() - start < 0.02:
            pass
        time.sleep(max(0.0, 0.01 - (time.perf_counter() - start)))


ATTACKS = {"slowloris": (slowloris, 1500, 5000), "resets": (resets, 1, 1), "readers": (readers, 100, 200), "leaves": (leaves, 1, 1),
           "connections": (connections, 5000, 20000)}
ROLES = {"benign": benign, "burn": burn, **{name: role for name, (role, *_) in ATTACKS.items()}}


# --- the measure

class Role:
    """A process in a role."""

    def __init__(self, name, given):
        self.process = subprocess.Popen([sys.executable, HERE, "--role", name, json.dumps(given)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        ready = self.process.stdout.readline()
        if ready != "ready\n":
            raise AssertionError(f"{name} did not start: {ready!r}")

    def round(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.stdin.close()
        told = self.process.stdout.read()
        self.process.wait(20)
        return json.loads(told) if told.strip() else {}


def spent(pid):
    """Processor seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy():
    """Processor seconds of the whole machine."""
    fields = [int(f) for f in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def resident(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)


def files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Sampler:
    """The largest footprint meanwhile."""

    def __init__(self, pid):
        self.pid, self.peak, self.stopped = pid, 0, threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def work(self):
        while not self.stopped.wait(0.03):
            self.peak = max(self.peak, resident(self.pid))

    def stop(self):
        self.stopped.set()
        self.thread.join()
        return self.peak


def one_round(bench, kind, given, count):
    """A round of B beside a role or alone: B's numbers, and who used how much of a processor."""
    role = Role(kind, given) if kind else None
    time.sleep(0.3)
    pids = {"tokenward": bench.annex.process.pid, "benign": bench.benign.process.pid, "here": os.getpid(), "origin": bench.origin,
            **({"attacker": role.process.pid} if role else {})}
    before, start, all_before = {name: spent(pid) for name, pid in pids.items()}, time.monotonic(), busy()
    told = bench.benign.round(count)
    wall = time.monotonic() - start
    told["cpu"] = {name: (spent(pid) - before[name]) / wall for name, pid in pids.items()}
    told["others"] = (busy() - all_before) / wall - sum(told["cpu"].values())
    told["attack"] = role.end() if role else {}
    return told


def measure(bench, name, given):
    _, small, full = ATTACKS[name]
    how = {**bench.given, "n": full if given.full else small, "sources": given.sources}
    count, pid = int(given.seconds * RATE), bench.annex.process.pid
    start, sampler = (resident(pid), files(pid)), Sampler(pid)
    rounds = {"alone": [], "attacked": [], "burnt": []}
    for _ in range(given.rounds):
        rounds["alone"].append(one_round(bench, None, how, count))
        rounds["attacked"].append(one_round(bench, name, how, count))
        share = statistics.median(r["cpu"]["attacker"] for r in rounds["attacked"])
        rounds["burnt"].append(one_round(bench, "burn", {**how, "share": share}, count))
        time.sleep(0.5)
    peak = sampler.stop()
    time.sleep(2)
    alive = bench.annex.process.poll() is None
    def middle(kind, what):
        return statistics.median(r[what] for r in rounds[kind])
    row = {"attack": name, **{f"{what} {kind}": round(middle(kind, what) * 1000, 3) for what in ("p50", "p99", "fresh50", "fresh99") for kind in rounds},
           "failed": sum(r["failed"] for kind in ("attacked", "alone", "burnt") for r in rounds[kind]),
           "errors": [e for kind in rounds for r in rounds[kind] for e in r["errors"]][:4],
           "cpu attacker": round(statistics.median(r["cpu"]["attacker"] for r in rounds["attacked"]), 2),
           "cpu tokenward": round(statistics.median(r["cpu"]["tokenward"] for r in rounds["attacked"]), 2),
           "cpu tokenward alone": round(statistics.median(r["cpu"]["tokenward"] for r in rounds["alone"]), 2),
           "others": round(max(middle(kind, "others") for kind in rounds), 2),
           "rss before": round(start[0], 1), "rss peak": round(peak, 1), "rss after": round(resident(pid), 1) if alive else None,
           "fds before": start[1], "fds after": files(pid) if alive else None, "same pid": alive, "did": rounds["attacked"][-1]["attack"]}
    row["ratio p50"], row["ratio p99"] = (round(row[f"{w} attacked"] / row[f"{w} alone"], 2) for w in ("p50", "p99"))
    row["against control"] = round(row["p99 attacked"] / row["p99 burnt"], 2)
    row["within"] = bool(alive and not row["failed"]
                         and row["p99 attacked"] <= given.bar * max(row["p99 alone"], row["p99 burnt"]))
    return row


COLUMNS = [("attack", 12), ("p50 alone", 10), ("p50 attacked", 13), ("ratio p50", 10), ("p99 alone", 10), ("p99 attacked", 13), ("ratio p99", 10),
           ("p99 burnt", 10), ("against control", 16), ("fresh50 alone", 14), ("fresh50 attacked", 17), ("fresh99 attacked", 17), ("failed", 7),
           ("cpu attacker", 13), ("cpu tokenward", 14), ("others", 7), ("rss before", 11), ("rss peak", 9), ("rss after", 10), ("fds before", 11),
           ("fds after", 10), ("same pid", 9), ("within", 7)]


class Bench:
    """One tokenward with two agents, and B at work."""

    def __init__(self, house):
        from annex import Annex
        from cases_exhaustion import endless
        from house import MIB
        rules = 'rules: [{allow: "* /**"}]'
        self.annex = Annex(house, {
            "wild": f'{{hosts: ["*.wild.test"], upstream: {{<CA>}}, {rules}}}',
            "node": f"{{hosts: [{HOST}], upstream: {{<CA>}}, credential: {{header: {{name: x-api-key, value: {{env: KEY}}}}}}, {rules}}}",
        }, who=("A", "B"), environment={"KEY": house.secrets["PARSER_KEY"]}, log="error")
        house.open_origin("big.wild.test").default = house.origins["big.wild.test"].behave = endless(100 * MIB, {})
        self.given = {"proxy": self.annex.proxy, "tokens": self.annex.tokens, "ca": str(self.annex.dir / "public" / "ca.pem")}
        for _ in range(20):
            self.annex.agents["B"].get(HOST, "/v1/items/warm")
        self.origin = house.parsers["node"].process.pid
        self.benign = Role("benign", self.given)
        self.benign.round(RATE)


def main():
    if sys.argv[1:2] == ["--role"]:
        ROLES[sys.argv[2]](json.loads(sys.argv[3]))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="target/release/tokenward", type=Path)
    parser.add_argument("--only", default=",".join(ATTACKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--full", action="store_true", help="the attack corpus's own numbers: 5,000 drips, 200 readers, 20,000 connections")
    parser.add_argument("--sources", type=int, default=8, help="addresses that the hostile agent's connections come from")
    parser.add_argument("--bar", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    import net
    if not net.enter(sys.argv):
        print("SKIPPED: no private network can be made here")
        return 1
    net.furnish()
    import shutil
    if not shutil.which("node"):
        print("SKIPPED: there is no node, whose server is the fast origin")
        return 1
    from house import House
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        house = House(given.bin.resolve(), Path(scratch), True, None, "error")
        try:
            house.start()
            print("".join(f"{title:>{width}}" for title, width in COLUMNS), "  (milliseconds, processors, MiB)")
            for name in given.only.split(","):
                # Each attack meets a process of its own: nothing of the one before is counted.
                bench = Bench(house)
                row = measure(bench, name, given)
                rows.append(row)
                bench.benign.end()
                house.close_annexes()
                print("".join(f"{str(row[title]):>{width}}" for title, width in COLUMNS), " ", json.dumps(row["did"]), *row["errors"], flush=True)
        finally:
            house.close_annexes()
            house.stop()
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))
    beyond = [row["attack"] for row in rows if not row["within"]]
    print(f"{len(rows) - len(beyond)} of {len(rows)} attacks are within the bar of {given.bar}{': not ' + ', '.join(beyond) if beyond else ''}")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
