"""A hostile agent's tools: raw bytes through the proxy, HTTP/2 frame by frame. Everything that comes back is kept."""

import base64
import socket
import ssl
import struct
import time
from dataclasses import dataclass, field

import hpack

HEARD = []  # every byte that any agent received; searched for secrets


@dataclass
class Answer:
    status: int
    fields: list
    body: bytes = b""
    complete: bool = True  # the body ended as its framing says
    informational: list = field(default_factory=list)
    trailers: list = field(default_factory=list)
    method: str = "GET"

    def values(self, name):
        return [v for n, v in self.fields if n == name]

    @property
    def code(self):
        """tokenward's own code, where it is its answer."""
        import json
        if self.values("content-type") != ["application/problem+json"] or not self.body:
            return None  # to HEAD there is no body
        return json.loads(self.body).get("code")


class Closed(Exception):
    """The peer closed (or reset) where an answer was wanted."""


class Stream:
    """Bytes to and from the proxy, and HTTP/1.1 answers read from them."""

    def __init__(self, stream, timeout=15):
        self.stream, self.buffer = stream, bytearray()
        self.answers = []
        stream.settimeout(timeout)

    def send(self, data, step=None, pause=0.0):
        data = data.encode("latin-1") if isinstance(data, str) else data
        try:
            if step is None:
                self.stream.sendall(data)
                return
            for at in range(0, len(data), step):
                self.stream.sendall(data[at:at + step])
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLError):
            pass  # what the peer had to say first is read by the caller

    def more(self):
        try:
            data = self.stream.recv(65536)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError, ssl.SSLEOFError):
            data = b""
        HEARD.append(bytes(data))
        self.buffer += data
        return bool(data)

    def line(self):
        while b"\r\n" not in self.buffer:
            if not self.more():
                raise Closed()
        line, _, rest = bytes(self.buffer).partition(b"\r\n")
        self.buffer[:] = rest
        return line

    def exactly(self, length):
        while len(self.buffer) < length:
            if not self.more():
                data, self.buffer[:] = bytes(self.buffer), b""
                return data, False
        data, self.buffer[:] = bytes(self.buffer[:length]), self.buffer[length:]
        return data, True

    def fields(self):
        found = []
        while line := self.line():
            name, _, value = line.partition(b":")
            found.append((name.decode("latin-1").lower(), value.strip().decode("latin-1")))
        return found

    def answer(self, method="GET"):
        """The next final response. Raises Closed where there is none."""
        informational = []
        while True:
            status = int(self.line().split(b" ", 2)[1])
            fields = self.fields()
            if status >= 200 or status == 101:
                break
            informational.append(status)
        answer = Answer(status, fields, informational=informational, method=method)
        self.answers.append(answer)
        self.body(answer, method)
        return answer

    def body(self, answer, method):
        if method == "HEAD" or answer.status in (101, 204, 304) or (method == "CONNECT" and answer.status == 200):
            return
        try:
            if answer.values("transfer-encoding") == ["chunked"]:
                while (size := int(self.line().split(b";")[0], 16)):
                    data, whole = self.exactly(size + 2)
                    answer.body += data[:size]
                    if not whole:
                        raise Closed()
                answer.trailers = self.fields()
            elif lengths := answer.values("content-length"):
                answer.body, answer.complete = self.exactly(int(lengths[0]))
            else:
                while self.more():
                    pass
                answer.body, self.buffer[:] = bytes(self.buffer), b""
        except Closed:
            answer.complete = False

    def closed(self, seconds=5):
        """Whether the peer closes within the time, with nothing more to say."""
        self.stream.settimeout(seconds)
        try:
            return not self.more()
        except TimeoutError:
            return False

    def rest(self, *methods, seconds=8):
        """Every answer until the peer closes, and whether it did; `methods` are those of the requests, in order."""
        self.stream.settimeout(seconds)
        found, methods = [], list(methods)
        try:
            while True:
                found.append(self.answer(methods.pop(0) if methods else "GET"))
        except Closed:
            return found, True
        except TimeoutError:
            return found, False

    def close(self):
        try:
            self.stream.close()
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Agent:
    """One agent: its name and proxy token, and what it trusts."""

    def __init__(self, proxy, name, token, ca, source=None):
        self.proxy, self.name, self.token, self.ca, self.source = proxy, name, token, ca, source
        self.opened = []  # every Stream, so that a case's answers can be counted

    @property
    def authorization(self):
        if self.token is None:
            return ""
        pair = base64.b64encode(f"{self.name}:{self.token}".encode()).decode()
        return f"Proxy-Authorization: Basic {pair}\r\n"

    def plain(self, timeout=15):
        """A connection to the proxy itself."""
        source = (self.source, 0) if self.source else None
        plain = socket.create_connection(self.proxy, timeout=timeout, source_address=source)
        # What is written apart, frame by frame or byte by byte, is sent so, and does not wait for acknowledgements.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = Stream(plain, timeout)
        self.opened.append(stream)
        return stream

    def connect(self, authority, more="", version="HTTP/1.1", host=None):
        """A CONNECT; `(stream, answer)`, whatever the answer is."""
        stream = self.plain()
        named = f"Host: {authority if host is None else host}\r\n" if host != "" else ""
        stream.send(f"CONNECT {authority} {version}\r\n{named}{self.authorization}{more}\r\n")
        return stream, stream.answer("CONNECT")

    def context(self, alpn=("http/1.1",)):
        context = ssl.create_default_context(cafile=self.ca)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def tunnel(self, host, port=443, sni=True, alpn=("http/1.1",), verify=True, context=None):
        """A CONNECT that is granted and TLS inside it; requests are written to the Stream that comes back."""
        stream, answer = self.connect(f"{host}:{port}")
        if answer.status != 200:
            raise Refused(answer)
        context = context or self.context(alpn)
        if not verify or not sni:
            context.check_hostname = False
        if not verify:
            context.verify_mode = ssl.CERT_NONE
        name = (host if sni is True else sni) or None
        inside = Stream(context.wrap_socket(stream.stream, server_hostname=name))
        self.opened.append(inside)
        return inside

    def ask(self, host, data, method="GET", port=443):
        """One raw request in a tunnel of its own and its answer; the connection is closed after."""
        with self.tunnel(host, port) as stream:
            stream.send(data)
            return stream.answer(method)

    def get(self, host, path="/", more=""):
        return self.ask(host, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")

    def h2(self, host, **how):
        """An HTTP/2 connection in a tunnel."""
        stream = self.tunnel(host, alpn=("h2",), **how)
        return Http2(stream)


class Refused(Exception):
    """A CONNECT that was not granted; holds its answer."""

    def __init__(self, answer):
        super().__init__(f"CONNECT: {answer.status}")
        self.answer = answer


DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4


class Http2:
    """HTTP/2 frames by hand: what a library would not send can be sent."""

    def __init__(self, stream, settings=b""):
        self.stream, self.decoder = stream, hpack.Decoder()
        self.streams = {}  # id -> {"status", "fields", "body", "ended", "reset", "trailers"}
        self.goaway, self.last = None, -1
        stream.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.frame(SETTINGS, 0, 0, settings)

    def frame(self, kind, flags, stream, payload=b""):
        self.stream.send(struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload)

    @staticmethod
    def block(fields):
        """Literal fields without indexing and without Huffman: any bytes can be said."""
        def text(value):
            value = value.encode("latin-1") if isinstance(value, str) else value
            length = len(value)
            if length < 127:
                return bytes([length]) + value
            out, length = bytearray([127]), length - 127
            while length >= 128:
                out.append(length % 128 + 128)
                length //= 128
            return bytes(out) + bytes([length]) + value
        return b"".join(b"\0" + text(n) + text(v) for n, v in fields)

    def request(self, fields, body=None, end=None, trailers=None, stream=None):
        """HEADERS (and DATA, trailers); the id of the stream."""
        self.last = stream if stream is not None else self.last + 2
        end = (body is None and trailers is None) if end is None else end
        self.frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), self.last, self.block(fields))
        if body is not None:
            self.frame(DATA, END_STREAM if trailers is None else 0, self.last, body)
        if trailers is not None:
            self.frame(HEADERS, END_HEADERS | END_STREAM, self.last, self.block(trailers))
        return self.last

    @staticmethod
    def head(host, path="/", method="GET", more=()):
        return [(":method", method), (":scheme", "https"), (":authority", host), (":path", path), *more]

    def get(self, host, path="/", more=()):
        return self.wait(self.request(self.head(host, path, more=more)))

    def one(self):
        """Reads one frame; False at the end of the connection."""
        head, whole = self.stream.exactly(9)
        if not whole:
            return False
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        number = int.from_bytes(head[5:9], "big") & 0x7FFFFFFF
        payload, whole = self.stream.exactly(length)
        if not whole:
            return False
        known = self.streams.setdefault(number, {"status": None, "fields": [], "body": b"", "ended": False, "reset": None,
                                                 "trailers": []}) if number else None
        if kind == HEADERS:
            fields = [(str(n), str(v)) for n, v in self.decoder.decode(payload)]
            status = dict(fields).get(":status")
            if known["status"] is None or known["status"] < 200:
                known["status"], known["fields"] = int(status), fields
            else:
                known["trailers"] = fields
        elif kind == DATA:
            known["body"] += payload
            if payload:
                for where in (0, number):
                    self.frame(WINDOW, 0, where, struct.pack("!I", len(payload)))
        elif kind == RST:
            known["reset"] = int.from_bytes(payload, "big")
        elif kind == SETTINGS and not flags & 1:
            self.frame(SETTINGS, 1, 0)
        elif kind == PING and not flags & 1:
            self.frame(PING, 1, 0, payload)
        elif kind == GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big")
        if known is not None and kind in (HEADERS, DATA) and flags & END_STREAM:
            known["ended"] = True
        return True

    def wait(self, number, seconds=10):
        """An `Answer` for one stream: status 0 and `complete` false where it was reset or the connection ended."""
        end = time.monotonic() + seconds
        while True:
            known = self.streams.get(number)
            if known and (known["ended"] or known["reset"] is not None):
                break
            if time.monotonic() > end:
                raise TimeoutError("no answer on the stream")
            if not self.one():
                break
        known = self.streams.get(number) or {"status": None, "fields": [], "body": b"", "ended": False, "trailers": []}
        answer = Answer(known["status"] or 0, known["fields"], known["body"], known["ended"], trailers=known["trailers"])
        answer.reset = known.get("reset")
        if answer.status:
            self.stream.answers.append(answer)
        return answer

    def close(self):
        self.stream.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
