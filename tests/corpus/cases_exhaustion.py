"""Class R: one hostile agent takes what it can: connections, time, memory, streams, lines of the audit.

The numbers are small enough for every change; TOKENWARD_CORPUS_FULL=1 sets those of the page (more memory and minutes). Each
case has an annex of its own, whose memory is measured against itself and whose other agent, B, is served throughout. What
B's latency does under load is measured by `beside.py`.
"""

import contextlib
import json
import os
import resource
import select
import selectors
import socket
import ssl
import struct
import threading
import time

import agent as agents
from agent import CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST, SETTINGS, WINDOW, Http2
from annex import Annex, oauth, realm
from cases import ARGUED, case, expect, head
from house import MIB, fail_unless, wait_until

FULL = bool(os.environ.get("TOKENWARD_CORPUS_FULL"))
ANYTHING = 'rules: [{allow: "* /**"}]'
WILD = f'{{hosts: ["*.wild.test"], upstream: {{<CA>}}, {ANYTHING}}}'
# An agent's streams, as the annexes' configuration leaves them.
STREAMS = 256

# Bytes of a nonce that is believed.
NONCE_MAX = 1024

ARGUED["R07"] = "a nonce may be 1 KiB long, as requirements.md part F has it, and not 256 bytes; there is one place for it all the same"


def often(small, full):
    return full if FULL else small


def besieged(house, limits=None, **how):
    """An annex with a hostile agent A and a benign B, both served once: `(annex, resident bytes)`."""
    annex = Annex(house, {"wild": WILD}, who=("A", "B"), limits=limits, log="error", **how)
    for agent in annex.agents.values():
        expect(agent.get("calm.wild.test"), 200)
        with agent.h2("calm.wild.test") as h2:
            expect(h2.get("calm.wild.test"), 200)
    return annex, resident(annex)


def resident(annex):
    with open(f"/proc/{annex.process.pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def burnt(annex):
    """Processor seconds so far."""
    with open(f"/proc/{annex.process.pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def files(annex):
    return len(os.listdir(f"/proc/{annex.process.pid}/fd"))


class Watch:
    """B at its work while A attacks: every request is served, and how long the slowest took. And A's largest footprint."""

    def __init__(self, annex, pause=0.1, lost=0.0):
        # `lost`: the share of requests that may fail, where a client that is slow to speak can be the one that makes room.
        self.annex, self.pause, self.lost = annex, pause, lost
        self.waits, self.failures, self.peak, self.stopped = [], [], resident(annex), threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self):
        while not (self.waits and self.stopped.wait(self.pause)):
            began = time.monotonic()
            try:
                answer = self.annex.agents["B"].get("calm.wild.test")
                if answer.status != 200:
                    self.failures.append((answer.status, answer.code))
            except (OSError, agents.Closed, agents.Refused) as error:
                self.failures.append(repr(error))
            self.waits.append(time.monotonic() - began)
            self.peak = max(self.peak, resident(self.annex))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, *_):
        self.stopped.set()
        self.thread.join(10)
        self.peak = max(self.peak, resident(self.annex))
        if kind is None:
            fail_unless(len(self.failures) <= self.lost * len(self.waits), "B was not served:", self.failures[:3], "of", len(self.waits))
            fail_unless(sorted(self.waits)[len(self.waits) * 9 // 10] < 2, "B waited", round(max(self.waits), 1), "s")


class Swarm:
    """Many connections watched at once: when each was closed, and what it was told before."""

    def __init__(self):
        self.selector, self.known = selectors.DefaultSelector(), []

    def add(self, kind, stream):
        one = {"kind": kind, "stream": stream, "born": time.monotonic(), "closed": None, "heard": b"", "went": 0}
        stream.setblocking(False)
        self.selector.register(stream, selectors.EVENT_READ, one)
        self.known.append(one)
        return one

    def open(self, kind, address, count, sources):
        """Plain connections to the proxy port, from several machines."""
        # As many as this process may have: what the system does not allow is not tried.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        count = min(count, most - 2000)
        for number in range(count):
            source = f"127.0.9.{1 + number % sources}"
            try:
                yield self.add(kind, socket.create_connection(address, timeout=5, source_address=(source, 0)))
            except OSError:
                self.known.append({"kind": kind, "stream": None, "born": 0, "closed": 0, "heard": b"", "went": 0})

    def say(self, one, data):
        try:
            one["stream"].send(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except (OSError, ssl.SSLError):
            self.gone(one)

    def gone(self, one):
        if one["closed"] is None:
            one["closed"] = time.monotonic() - one["born"]
            self.selector.unregister(one["stream"])
            one["stream"].close()

    def listen(self, seconds):
        """Reads what comes for so long; True while any is open."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and any(one["closed"] is None for one in self.known):
            for key, _ in self.selector.select(left):
                one = key.data
                try:
                    data = one["stream"].recv(4096)
                except (BlockingIOError, ssl.SSLWantReadError):
                    continue
                except OSError:
                    data = b""
                agents.HEARD.append(data)
                one["heard"] += data
                if not data:
                    self.gone(one)
        return any(one["closed"] is None for one in self.known)

    def of(self, kind):
        return [one for one in self.known if one["kind"] == kind]

    def close(self):
        for one in self.known:
            if one["closed"] is None:
                self.gone(one)
        self.selector.close()


def swarming(function):
    """A case with a swarm, whose connections are closed however it ends."""
    def run(house, mark):
        with contextlib.closing(Swarm()) as swarm:
            function(house, mark, swarm)
    return run


# What is sent at once, and what then drips.
SLOW_HEADS = [
    ("nothing but a letter", b"C", b"ONNECT"),
    ("a request line", b"CONNECT x.wild.test:443 HTTP/1.1\r\n", b"X-Slow: y\r\n"),
    ("a field without end", b"CONNECT x.wild.test:443 HTTP/1.1\r\nHost: x.wild.test:443\r\nX-Slow: ", b"yyyyyyy"),
    ("all but the last byte", b"GET http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\n\r", b""),
]
SLOW_INSIDE = [
    ("inside: a letter", b"G", b"ET / HTTP/1.1"),
    ("inside: a field", b"GET / HTTP/1.1\r\nHost: x.wild.test\r\nX-Slow: ", b"yyyyyyy"),
    ("inside: the second head", b"GET / HTTP/1.1\r\nHost: x.wild.test\r\n\r\nGET /second HTTP/1.1\r\nX-Slow: ", b"yyyyyyy"),
]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SLOW_H2 = [
    ("h2: half a preface", PREFACE[:10], PREFACE[10:]),
    ("h2: no settings", PREFACE, b""),
    ("h2: half a frame", PREFACE + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x40\1\4\0\0\0\1", b"\0\1x\1y"),
    ("h2: a block without end", PREFACE + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\5\1\1\0\0\0\1\0\1x\1y", b""),
]


@case("R01", "heads that drip", private=True, lines_wanted=None, unheard=True)
@swarming
def run(house, mark, swarm):
    count = often(400, 5000)
    annex, _ = besieged(house)
    before = files(annex)
    drips = {}
    with Watch(annex):
        for name, first, drip in SLOW_HEADS:
            for one in swarm.open(name, annex.proxy, count // len(SLOW_HEADS), 8):
                swarm.say(one, first)
                drips[id(one)] = drip
        for rows, alpn in ((SLOW_INSIDE, "http/1.1"), (SLOW_H2, "h2")):
            for name, first, drip in rows:
                for _ in range(often(3, 30)):
                    inside = annex.agents["A"].tunnel("x.wild.test", alpn=(alpn,))
                    one = swarm.add(name, inside.stream)
                    swarm.say(one, first)
                    drips[id(one)] = drip
        # A byte now and then never starts the time anew.
        begun, turn = time.monotonic(), 0
        while swarm.listen(2.5) and time.monotonic() < begun + 12.5:
            for one in swarm.known:
                if one["closed"] is None and (drip := drips.get(id(one)))[turn:turn + 1]:
                    swarm.say(one, drip[turn:turn + 1])
            turn += 1
    wrong = []
    for name, *_ in [*SLOW_HEADS, *SLOW_INSIDE, *SLOW_H2]:
        ends = [one["closed"] for one in swarm.of(name)]
        if None in ends:
            wrong.append(f"{name}: {ends.count(None)} of {len(ends)} still open after 12 s")
        elif min(ends) < 5:
            wrong.append(f"{name}: closed too soon, after {min(ends):.1f} s")
        # On HTTP/1 it is said why.
        told = sum(b"HTTP/1.1 408" in one["heard"] for one in swarm.of(name))
        if not name.startswith("h2") and told < len(ends) * 9 // 10:
            wrong.append(f"{name}: only {told} of {len(ends)} were told 408")
    swarm.close()
    fail_unless(not wrong, *wrong)
    wait_until("the files are closed", lambda: files(annex) <= before + 8, 5)


def endless(size, sent):
    """Answers with as much as is taken; `sent` has the bytes by target."""
    def behave(record, conversation):
        piece = b"x" * 65536
        conversation.send(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        while sent.setdefault(record.target, 0) < size:
            conversation.send(piece[:size - sent[record.target]])
            sent[record.target] += len(piece)
    return behave


@case("R02", "readers that take a kilobyte a second", private=True, lines_wanted=None, unheard=True)
def run(house, mark):
    count, size = often(80, 200), 100 * MIB
    annex, _ = besieged(house)
    sent = {}
    house.open_origin("big.wild.test").behave = endless(size, sent)
    streams, host = [], "big.wild.test"
    before = resident(annex)
    with Watch(annex) as watch:
        def small(stream):
            # As an attacker would: what the system keeps for him is little, the rest is for the proxy to keep.
            stream.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            return stream
        for number in range(count // 2):
            stream = small(annex.agents["A"].tunnel(host))
            stream.send(head(host, f"GET /h1-{number} HTTP/1.1"))
            streams.append(stream)
        # Over HTTP/2: windows without end on a connection that is not read, and windows that stay shut.
        for window, name in ((2**31 - 1, "open"), (0, "shut")):
            h2 = Http2(small(annex.agents["A"].tunnel(host, alpn=("h2",))), struct.pack("!HI", 4, window))
            h2.frame(WINDOW, 0, 0, struct.pack("!I", 2**31 - 1 - 65535))
            for number in range(count // 4):
                h2.request(h2.head(host, f"/h2-{name}-{number}"))
            streams.append(h2.stream)
        end = time.monotonic() + often(5, 30)
        while time.monotonic() < end:
            for stream in streams:
                stream.stream.settimeout(0.01)
                try:
                    agents.HEARD.append(stream.stream.recv(1024))
                except TimeoutError:
                    pass
            time.sleep(0.2)
    begun = [target for target in sent if target.startswith("/h")]
    for stream in streams:
        stream.close()
    wait_until("the lines of downloads that were given up",
               lambda: sum(line.get("host") == host for line in annex.lines()) >= len(begun), 5, step=0.1)
    fail_unless(len(begun) >= count * 9 // 10, "only", len(begun), "downloads began")
    fail_unless(max(sent.values()) < 32 * MIB, "no back-pressure: the origin could send", max(sent.values()) // MIB, "MiB")
    fail_unless(watch.peak - before <= count * MIB // 2, "memory grew by", (watch.peak - before) // MIB, "MiB for", count, "readers")


def frame(kind, flags, stream, payload=b""):
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def flood(h2, pieces, seconds=10):
    """Sends the pieces while what comes back is read. Answers after how many seconds the peer ended it, or None, and after
    how many bytes."""
    began, went, stream = time.monotonic(), 0, h2.stream.stream
    def hear(wait):
        while (stream.pending() or select.select([stream], [], [], wait)[0]):
            stream.settimeout(5)
            if not h2.one() or h2.goaway is not None:
                return True
            wait = 0
        return False
    for piece in pieces:
        if hear(0):
            return time.monotonic() - began, went
        stream.settimeout(2)
        try:
            stream.sendall(piece)
        except TimeoutError:
            pass  # it does not read on
        except OSError:
            hear(1)
            return time.monotonic() - began, went
        went += len(piece)
        if time.monotonic() > began + seconds:
            break
    while time.monotonic() < began + seconds:
        if hear(0.2):
            return time.monotonic() - began, went
    return None, went


def batches(one, count, size=200):
    """`one(stream id)` for so many streams, in pieces."""
    for start in range(0, count, size):
        yield b"".join(one(2 * n + 1) for n in range(start, min(start + size, count)))


def resets(kind, host):
    """How a stream is asked for and taken back."""
    def request(stream, end, method="GET"):
        block = Http2.block(Http2.head(host, f"/{kind}/{stream}", method))
        return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block)
    cancel, refused = struct.pack("!I", 8), struct.pack("!I", 7)
    return {
        "rst": lambda s: request(s, True) + frame(RST, 0, s, cancel),
        "rst-other-code": lambda s: request(s, True) + frame(RST, 0, s, refused),
        "rst-upload": lambda s: request(s, False, "POST") + frame(RST, 0, s, cancel),
        "rst-in-upload": lambda s: request(s, False, "POST") + frame(DATA, 0, s, b"x") + frame(RST, 0, s, cancel),
        # "Made you reset": the proxy takes the stream back, because of a frame that is wrong.
        "wrong-window": lambda s: request(s, True) + frame(WINDOW, 0, s, bytes(4)),
        "window-overflow": lambda s: request(s, True) + frame(WINDOW, 0, s, struct.pack("!I", 2**31 - 1)),
        "data-after-end": lambda s: request(s, True) + frame(DATA, 0, s, b"x"),
        "wrong-priority": lambda s: request(s, True) + frame(2, 0, s, struct.pack("!IB", s, 1)),
    }[kind]


@case("R03", "streams that are opened and taken back", private=True, lines_wanted=None, unheard=True)
def run(house, mark):
    count, host = often(4000, 10000), "slow.wild.test"
    annex, before = besieged(house)
    origin = house.open_origin(host)

    def lazy(record, conversation):
        time.sleep(0.2)
        return 200, [], ""
    origin.behave = lazy
    with Watch(annex) as watch:
        for kind in ("rst", "rst-other-code", "rst-upload", "rst-in-upload", "wrong-window", "window-overflow", "data-after-end",
                     "wrong-priority"):
            heard = len(origin.records)
            with annex.agents["A"].h2(host) as h2:
                after, went = flood(h2, batches(resets(kind, host), count))
                fail_unless(after is not None, kind + ": it went on after", went, "bytes")
                fail_unless(h2.goaway in (11, 1, 5, None), kind + ": GOAWAY", h2.goaway)
                if kind.startswith("rst"):
                    fail_unless(h2.goaway == 11, kind + ": GOAWAY", h2.goaway, "and not ENHANCE_YOUR_CALM, after", round(after, 2))
                # The page's second, and what a machine under load needs to send so much.
                fail_unless(after < 3, kind + ": ended only after", round(after, 1), "s")
            seen = len(origin.records) - heard
            fail_unless(seen <= 2 * STREAMS, kind + ": the origin saw", seen, "requests")
    fail_unless(watch.peak - before <= 16 * MIB, "memory grew by", (watch.peak - before) // MIB, "MiB")


def big_head(fields):
    return Http2.block([*Http2.head("x.wild.test"), *fields])


def continuations():
    """16 MiB of fields in one block."""
    yield frame(HEADERS, END_STREAM, 1, big_head([]))
    piece = Http2.block([(f"x-{n}", "v" * 1000) for n in range(15)])
    for _ in range(16 * MIB // len(piece)):
        yield frame(CONTINUATION, 0, 1, piece)
    yield frame(CONTINUATION, END_HEADERS, 1)


def empty_continuations():
    yield frame(HEADERS, END_STREAM, 1, big_head([]))
    for _ in range(100):
        yield frame(CONTINUATION, 0, 1) * 1000


def one_field():
    """One value that goes on over all frames: no part of it is a field yet."""
    yield frame(HEADERS, END_STREAM, 1, big_head([]) + b"\0\1x\x7f\x80\x80\x80\x08")
    for _ in range(1024):
        yield frame(CONTINUATION, 0, 1, b"v" * 16000)


def table_bomb():
    """A field of 4000 bytes in the table, named 16,000 times by one byte each: 64 MB for 16 kB."""
    first = b"".join(b"\0" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in Http2.head("x.wild.test"))
    entry = b"\x40\1x\x7f" + bytes([(4000 - 127) % 128 + 128, (4000 - 127) // 128]) + b"v" * 4000
    for stream in range(1, 41, 2):
        yield frame(HEADERS, END_HEADERS | END_STREAM, stream, first + (entry if stream == 1 else b"") + b"\xbe" * 12000)


def flooding(kind, flags, stream, payload, count):
    def pieces():
        if kind in (DATA, CONTINUATION):
            yield frame(HEADERS, END_HEADERS, stream, Http2.block(Http2.head("x.wild.test", method="POST")))
        for _ in range(count // 1000):
            yield frame(kind, flags, stream, payload) * 1000
    return pieces


FLOODS = {
    # name: pieces, and whether the proxy has to end the connection
    "continuations": (continuations, True),
    "empty continuations": (empty_continuations, True),
    "one value over all continuations": (one_field, True),
    "a table's field named without end": (table_bomb, False),
    "pings": (flooding(PING, 0, 0, bytes(8), 100_000), False),
    "settings": (flooding(SETTINGS, 0, 0, struct.pack("!HI", 4, 65535), 100_000), False),
    "empty data": (flooding(DATA, 0, 1, b"", 100_000), True),
    "data that is padding": (flooding(DATA, 8, 1, b"\0", 50_000), False),
    "priorities": (flooding(2, 0, 1, struct.pack("!IB", 0, 1), 100_000), False),
    "windows": (flooding(WINDOW, 0, 0, struct.pack("!I", 1), 100_000), False),
    "frames nobody knows": (flooding(0xbe, 0, 0, b"x" * 8, 100_000), False),
}


@case("R04", "blocks and frames without end on HTTP/2", private=True, lines_wanted=None, unheard=True)
def run(house, mark):
    annex, before = besieged(house)
    heard = len(house.origins["wild.test"].records)
    with Watch(annex) as watch:
        for name, (pieces, ends) in FLOODS.items():
            with annex.agents["A"].h2("x.wild.test") as h2:
                after, went = flood(h2, pieces(), 5 if ends else 1)
                fail_unless(after is not None or not ends, name + ": still open after", went, "bytes")
            fail_unless(watch.peak - before <= 16 * MIB, name + ": memory grew by", (watch.peak - before) // MIB, "MiB")
    asked = [r.target for r in house.origins["wild.test"].records[heard:] if r.host.startswith("x.")]
    fail_unless(not [t for t in asked if t != "/"] and len(asked) <= 2, "an origin was asked for", asked[:3])


@case("R04", "floods whose answers nobody reads", private=True, lines_wanted=None, unheard=True)
def run(house, mark):
    annex, before = besieged(house)
    # Each of these frames has an answer, which stays with the proxy if it does not stop reading.
    rows = {"pings": frame(PING, 0, 0, bytes(8)), "settings": frame(SETTINGS, 0, 0, struct.pack("!HI", 4, 65535))}
    with Watch(annex) as watch:
        for name, one in rows.items():
            stream = annex.agents["A"].tunnel("x.wild.test", alpn=("h2",))
            h2, went = Http2(stream), 0
            stream.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stream.stream.settimeout(1)
            try:
                while went < 64 * MIB:
                    stream.stream.sendall(one * 4000)
                    went += len(one) * 4000
            except OSError:
                pass
            fail_unless(watch.peak - before <= 16 * MIB, name + ": memory grew by", (watch.peak - before) // MIB, "MiB after", went)
            h2.close()


@case("R04", "heads without end on HTTP/1", private=True, lines_wanted=None)
def run(house, mark):
    annex, before = besieged(house)
    line, host = "GET / HTTP/1.1\r\nHost: x.wild.test\r\n", "x.wild.test"
    rows = {
        "a field of 16 MiB": (line + "X: ", "v" * 65536, (431,)),
        "a line of 16 MiB": ("GET /", "v" * 65536, (414,)),
        "a method of 16 MiB": ("", "V" * 65536, (400, 414, 431)),
        "fields without end": (line, "X: v\r\n" * 10000, (431,)),
        # Before a request line they may be skipped: then the time ends it.
        "empty lines without end": ("", "\r\n" * 30000, (400, 408, 414, 431)),
    }
    wrong = []

    def send(name, where, open_one):
        first, piece, wanted = rows[name]
        try:
            with open_one() as stream:
                stream.send(first)
                for _ in range(256):
                    stream.send(piece)
                    # Inside, what can be read need not be an answer: TLS has its tickets.
                    if where == "outside" and select.select([stream.stream], [], [], 0)[0]:
                        break
                try:
                    # To the proxy itself a head that has come so far may be answered before it has been read.
                    expect(stream.answer(), *wanted, *((400,) if where == "outside" else ()))
                except agents.Closed:
                    pass  # what was still on the way can reset the connection before the answer is read
                fail_unless(stream.closed(), "it went on")
        except (AssertionError, OSError) as error:
            wrong.append(f"{name}, {where}: {error!r}")
    ways = [("outside", annex.agents["A"].plain), ("inside", lambda: annex.agents["A"].tunnel(host))]
    with Watch(annex) as watch:
        threads = [threading.Thread(target=send, args=(name, *way), daemon=True) for name in rows for way in ways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(14)
    fail_unless(not wrong and not any(thread.is_alive() for thread in threads), *wrong)
    fail_unless(watch.peak - before <= 16 * MIB, "memory grew by", (watch.peak - before) // MIB, "MiB")
    fail_unless(not [r for r in mark.at("wild.test") if r.host == host], "an origin heard of it")


@case("R06", "connections that say nothing", private=True, lines_wanted=None)
@swarming
def run(house, mark, swarm):
    # Few files, so that thousands of connections are more than there are.
    count, given = often(2500, 20000), often(1500, 12000)
    annex, before = besieged(house, launcher=["prlimit", f"--nofile={given}:{given}"])
    at_rest = files(annex)
    with Watch(annex, lost=0.1) as watch:
        most = at_rest
        for _ in swarm.open("silent", annex.proxy, count, often(20, 200)):
            most = max(most, files(annex))
        swarm.listen(1)
        most = max(most, files(annex))
        fail_unless(annex.fetch("/readyz")[0] == 200 and annex.metrics(), "no health among them")
        # Nothing happens, so nothing is done: no loop spins.
        began, spent = time.monotonic(), burnt(annex)
        swarm.listen(1.5)
        share = (burnt(annex) - spent) / (time.monotonic() - began)
    fail_unless(most <= given - min(256, given // 4) // 2, most, "files of", given, "were taken")
    fail_unless(share < 0.5, "it burns", round(share, 2), "of a processor")
    fail_unless(watch.peak - before <= 16 * MIB + (most - at_rest) * 32768, "memory grew by", (watch.peak - before) // MIB, "MiB")
    fail_unless(annex.process.poll() is None, "it ended")
    swarm.close()
    wait_until("the files are closed", lambda: files(annex) <= at_rest + 16, 5)


@case("R06", "an agent has its own connections and no more", private=True, lines_wanted=None)
def run(house, mark):
    cap = often(40, 1024)
    annex, _ = besieged(house, limits=f"{{per_agent: {{connections: {cap}, requests_per_second: 20000}}}}")
    wait_until("nobody is connected", lambda: not connected(annex), 5)
    kept, refused = [], []
    with Watch(annex):
        for _ in range(cap + 20):
            stream, answer = annex.agents["A"].connect("x.wild.test:443")
            (kept if answer.status == 200 else refused).append((stream, answer))
        fail_unless(len(kept) == cap, len(kept), "tunnels of", cap, "were granted")
        for stream, answer in refused:
            expect(answer, (429, "agent-rate-limited"))
            fail_unless(answer.values("retry-after"), "no Retry-After")
            stream.close()
        # Those that were granted work, whatever was refused.
        inside = annex.agents["A"].context().wrap_socket(kept[0][0].stream, server_hostname="x.wild.test")
        inside.sendall(head("x.wild.test", "GET / HTTP/1.1").encode())
        fail_unless(inside.recv(4096).startswith(b"HTTP/1.1 200"), "a granted tunnel does not work")
        inside.close()
        for stream, _ in kept:
            stream.close()
        # And what is given back can be had again.
        wait_until("a place is free", lambda: one_more(annex), 5)


def connected(annex):
    counts = [line for line in annex.metrics().splitlines() if line.startswith("tokenward_connections{")]
    return sum(float(line.split()[-1]) for line in counts)


def one_more(annex):
    stream, answer = annex.agents["A"].connect("x.wild.test:443")
    stream.close()
    return answer.status == 200


@case("R06", "no file can be opened any more", private=True, lines_wanted=None)
def run(house, mark):
    annex, _ = besieged(house)
    pid, agent = annex.process.pid, annex.agents["A"]
    inside = annex.agents["B"].tunnel("calm.wild.test")
    inside.send(head("calm.wild.test", "GET / HTTP/1.1"))
    expect(inside.answer(), 200)
    usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    # From outside, as if something else in the process had taken them all: `accept` fails from now on.
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (files(annex), usual[1]))
    waiting = [agent.plain() for _ in range(20)]
    time.sleep(0.3)
    began, spent = time.monotonic(), burnt(annex)
    time.sleep(1.5)
    share = (burnt(annex) - spent) / (time.monotonic() - began)
    # Who is connected already is served on.
    inside.send(head("calm.wild.test", "GET / HTTP/1.1"))
    expect(inside.answer(), 200)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
    fail_unless(share < 0.3, "it burns", round(share, 2), "of a processor while it can accept nothing")
    # Those that waited are answered, as soon as there are files again.
    for stream in waiting:
        stream.send(f"CONNECT calm.wild.test:443 HTTP/1.1\r\nHost: calm.wild.test:443\r\n{agent.authorization}\r\n")
    for stream in waiting:
        expect(stream.answer("CONNECT"), 200)
        stream.close()
    expect(annex.agents["B"].get("calm.wild.test"), 200)


@case("R07", "a nonce with each answer", private=True, lines_wanted=None)
def run(house, mark):
    count = often(100, 100_000)
    issuer, api = realm(house, "r07")
    annex = Annex(house, {"api": oauth("own", api.host)}, issuers={"own": issuer.url}, log="error", owners=[issuer],
                  environment={"AS_SECRET": issuer.secret}, limits="{per_agent: {requests_per_second: 100000}}")
    origin, number, used = house.open_origin(api.host), iter(range(10**9)), []

    def nonces(length):
        """As long as it likes, and never the same twice."""
        def behave(record, conversation):
            claims = json.loads(agents.base64.urlsafe_b64decode(record.values("dpop")[0].split(".")[1] + "=="))
            used.append(claims.get("nonce"))
            status, fields, body = api.behave(record, conversation)
            return status, [*fields, ("dpop-nonce", f"{next(number):0{length}}")], body
        return behave

    def ask(times):
        with annex.agents["A"].tunnel(api.host) as stream:
            for _ in range(times):
                stream.send(head(api.host, "GET / HTTP/1.1"))
                answer = expect(stream.answer(), 200)
                fail_unless(not answer.values("dpop-nonce"), "a nonce reached the agent")
    origin.behave = nonces(32)
    ask(20)
    before = resident(annex)
    ask(count)
    # Each proof has the newest one: there is one place for it.
    fail_unless(used[-1] == f"{count + 18:032}", "the last proof had", used[-1])
    origin.behave = nonces(256)
    ask(3)
    fail_unless(len(used[-1]) == 256, "a long nonce was not used:", used[-1])
    # Longer than NONCE_MAX it is refused: proofs go on with the last good one, or without.
    for length in (NONCE_MAX + 1, 4000, 8000):
        origin.behave = nonces(length)
        ask(count // 10)
        longest = max((len(n) for n in used[-count // 10 + 1:] if n), default=0)
        fail_unless(longest <= NONCE_MAX, "a nonce of", longest, "bytes was taken")
    fail_unless(resident(annex) - before <= 8 * MIB, "memory grew by", (resident(annex) - before) // MIB, "MiB")


@case("R07", "challenges without end", private=True, lines_wanted=None)
def run(house, mark):
    issuer, api = realm(house, "r07c")
    annex = Annex(house, {"api": oauth("own", api.host)}, issuers={"own": issuer.url}, log="error", owners=[issuer],
                  environment={"AS_SECRET": issuer.secret})
    origin, times = house.open_origin(api.host), []

    def challenge(record, conversation):
        times.append(1)
        return 401, [("www-authenticate", 'DPoP error="use_dpop_nonce"'), ("dpop-nonce", f"n-{len(times)}")], ""
    origin.behave = challenge
    for _ in range(20):
        asked = len(times)
        fail_unless(annex.agents["A"].get(api.host).status in (401, 502, 503), "a challenge was relayed as success")
        fail_unless(len(times) - asked <= 3, len(times) - asked, "tries for one request")


@case("R08", "denials as fast as they come", private=True, lines_wanted=None, unheard=True)
def run(house, mark):
    hosts, seconds = 6, often(2.5, 20)
    who = [f"a{n}" for n in range(hosts)]
    services = {"wild": '{hosts: ["*.wild.test"], upstream: {<CA>}, rules: [{allow: "GET /allowed"}]}'}
    annex = Annex(house, services, who=(*who, "B"), log="error", limits="{per_agent: {requests_per_second: 20000}}")
    expect(annex.agents["B"].get("calm.wild.test", "/allowed"), 200)
    counts, lock, start = {}, threading.Lock(), time.monotonic()
    origins = len(house.origins["wild.test"].records)
    before, lines = resident(annex), len(annex.lines())
    # One that a rule denies, again and again on one connection: written in batches, so that the attacker is not what is slow.
    batch, piece = 100, head("x.wild.test", "GET /denied HTTP/1.1") * 100

    def deny(name):
        stream = annex.agents[name].tunnel("x.wild.test")
        annex.agents[name].opened.remove(stream)
        while time.monotonic() < start + seconds:
            stream.send(piece)
            for _ in range(batch):
                answer = stream.answer()
                with lock:
                    counts[answer.status] = counts.get(answer.status, 0) + 1
        stream.close()
    threads = [threading.Thread(target=deny, args=(name,), daemon=True) for name in who]
    served = []
    for thread in threads:
        thread.start()
    while time.monotonic() < start + seconds:
        served.append(annex.agents["B"].get("calm.wild.test", "/allowed").status)
        time.sleep(0.1)
    for thread in threads:
        thread.join(20)
    spent = time.monotonic() - start
    # Under a full queue even B may be told 503: nothing goes on without a line. But most of it is served.
    fail_unless(served.count(200) >= len(served) * 0.9, "B got", served)
    answers = sum(counts.values())
    fail_unless(set(counts) <= {403, 429, 503} and counts.get(403, 0) > 500, "answers", counts)
    # Every answer has its line, except those that say that there was no room for one.
    wanted = answers - counts.get(503, 0)
    wait_until("the lines of all denials", lambda: len(annex.lines()) - lines >= wanted, 10, step=0.3)
    written = [line for line in annex.lines()[lines:] if line.get("host") == "x.wild.test" and line["event"] == "request"]
    fail_unless(wanted <= len(written) <= answers, answers, "answers", len(written), "lines", counts)
    size = annex.audit.stat().st_size / max(1, len(written))
    fail_unless(size < 2048, "a denial takes", int(size), "bytes of the disk")
    fail_unless(house.verb("audit", "verify", str(annex.audit)).returncode == 0, "the chain is broken")
    fail_unless(len(house.origins["wild.test"].records) - origins == len(served), "an origin heard of denied requests")
    fail_unless(resident(annex) - before <= 24 * MIB, "memory grew by", (resident(annex) - before) // MIB, "MiB")
    print(f"R08: {answers / spent:.0f} denials/s, {counts}", flush=True) if FULL else None


@case("R08", "an agent's denials are no faster than its requests", private=True, lines_wanted=None, unheard=True)
def run(house, mark):
    # Refusals for haste are lines of the audit too: they are held back, so that the disk is bounded by the rate.
    rate, seconds = 50, 3
    annex, _ = besieged(house, limits=f"{{per_agent: {{requests_per_second: {rate}}}}}")
    before, start, threads = len(annex.lines()), time.monotonic(), []

    def haste():
        with annex.agents["A"].tunnel("x.wild.test") as stream:
            while time.monotonic() < start + seconds:
                stream.send(head("x.wild.test", "TRACE / HTTP/1.1") * 10)
                for _ in range(10):
                    stream.answer()
    with Watch(annex, 0.3):
        for _ in range(8):
            threads.append(threading.Thread(target=lambda: haste_quietly(haste), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join(15)
    spent = time.monotonic() - start
    lines = len([line for line in annex.lines()[before:] if line.get("agent") == "A"])
    # A burst of each bucket and then the rate of both, and what waits for its second on eight connections.
    bound = 2 * rate + 2 * rate * spent + 8 * (spent + 2)
    fail_unless(lines <= bound * 1.2, lines, "lines in", round(spent, 1), "s of an agent that may ask", rate, "times a second")


def haste_quietly(attack):
    try:
        attack()
    except (OSError, agents.Closed, agents.Refused):
        pass
