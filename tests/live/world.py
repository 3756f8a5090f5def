"""An API that keeps its connections, and agents that count what became of each request. Nothing of the product's."""

import base64
import hashlib
import os
import socket
import ssl
import struct
import subprocess
import threading
import time
from pathlib import Path

HOST = "api.live.test"


def certificates(folder):
    """A root and a certificate of it, by the openssl program."""
    def call(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)

    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    call("req", "-x509", *ec, "-keyout", "root.key", "-out", "ca.pem", "-days", "3", "-subj", "/CN=live root")
    (Path(folder) / "leaf.ext").write_text(f"subjectAltName=DNS:{HOST}\nextendedKeyUsage=serverAuth\n")
    call("req", *ec, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", f"/CN={HOST}")
    call("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "root.key", "-CAcreateserial", "-days", "3", "-out",
         "leaf.pem", "-extfile", "leaf.ext")


class Pipe:
    """A connection with what was read too far."""

    def __init__(self, io):
        self.io, self.rest = io, b""

    def until(self, end):
        while end not in self.rest:
            more = self.io.recv(65536)
            if not more:
                raise EOFError(len(self.rest))
            self.rest += more
        head, self.rest = self.rest.split(end, 1)
        return head

    def exactly(self, count):
        while len(self.rest) < count:
            more = self.io.recv(65536)
            if not more:
                raise EOFError(len(self.rest))
            self.rest += more
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken


def fields_of(head):
    lines = head.decode("latin-1").split("\r\n")
    return lines[0].split(" "), {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}


def frame(pipe):
    """The next frame of a WebSocket: opcode and payload."""
    first, length = pipe.exactly(2)
    size = length & 0x7F
    if size == 126:
        size = struct.unpack(">H", pipe.exactly(2))[0]
    mask = pipe.exactly(4) if length & 0x80 else bytes(4)
    return first & 0x0F, bytes(b ^ mask[i % 4] for i, b in enumerate(pipe.exactly(size)))


class Api:
    """/a and /b answer at once, /stream in ten pieces, /upload reads all, /ws repeats what it hears."""

    def __init__(self, folder):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(Path(folder) / "leaf.pem", Path(folder) / "leaf.key")
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port, self.authorizations = self.listener.getsockname()[1], set()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, plain):
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self.context.wrap_socket(plain, server_side=True) as io:
                pipe = Pipe(io)
                while self.one(pipe):
                    pass
        except (OSError, EOFError, ValueError):
            pass

    def one(self, pipe):
        (_, path, _), fields = fields_of(pipe.until(b"\r\n\r\n"))
        self.authorizations.add(fields.get("authorization"))
        if path == "/ws":
            key = fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            pipe.io.sendall(f"HTTP/1.1 101 X\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-accept: {accept}\r\n\r\n".encode())
            while True:
                code, payload = frame(pipe)
                pipe.io.sendall(bytes([0x80 | code, len(payload)]) + payload)
                if code == 8:
                    return False
        if path == "/stream":
            pipe.io.sendall(b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for number in range(10):
                pipe.io.sendall(b"9\r\ndata: %d\n\n\r\n" % number)
                time.sleep(0.05)
            pipe.io.sendall(b"0\r\n\r\n")
            return True
        body = pipe.exactly(int(fields.get("content-length", 0)))
        text = b'{"got":%d}' % len(body)
        pipe.io.sendall(b"HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(text) + text)
        return True


class Gone(Exception):
    """The connection ended before a byte of the answer: the proxy has not taken the request."""


class Agent(threading.Thread):
    """Asks again and again over connections that it keeps. `plan` yields kinds of requests, with pauses between them."""

    def __init__(self, port, plan, stop):
        super().__init__(daemon=True)
        self.port, self.plan, self.stop = port, plan, stop
        self.pipe, self.used = None, False
        self.count, self.refused, self.again, self.lost = 0, {}, 0, []
        self.context = ssl._create_unverified_context()

    def connect(self):
        while not self.stop.is_set():
            try:
                plain = socket.create_connection(("127.0.0.1", self.port), 30)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                plain.sendall(f"CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\n\r\n".encode())
                if b" 200 " not in plain.recv(4096):
                    raise OSError("refused")
                self.pipe, self.used = Pipe(self.context.wrap_socket(plain, server_hostname=HOST)), False
                return True
            except OSError:
                time.sleep(0.02)  # nobody listens just now
        return False

    def run(self):
        for kind, pause in self.plan():
            if self.stop.is_set():
                return
            time.sleep(pause)
            while True:
                if self.pipe is None and not self.connect():
                    return
                try:
                    self.one(kind)
                    break
                except Gone:
                    self.again += 1
                    self.pipe = None
                except (OSError, EOFError, ValueError) as error:
                    self.lost.append(f"{kind}: {type(error).__name__} {error}")
                    self.pipe = None
                    break

    def one(self, kind):
        method, path = kind
        body = os.urandom(65536) if method == "POST" else b""
        more = ""
        if path == "/ws":
            more = ("upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
                    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n")
        head = f"{method} {path} HTTP/1.1\r\nhost: {HOST}\r\n{more}content-length: {len(body)}\r\n\r\n".encode()
        if path == "/ws":
            head = head.replace(b"content-length: 0\r\n", b"")
        try:
            self.pipe.io.sendall(head + body)
            first = self.pipe.until(b"\r\n\r\n")
        except (OSError, EOFError) as error:
            if self.pipe.rest:
                raise
            raise Gone from error
        (_, status, *_), fields = fields_of(first)
        if status == "101":
            for number in range(5):
                text = b"%d" % number
                self.pipe.io.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)
                code, payload = frame(self.pipe)
                if (code, payload) != (1, text):
                    raise ValueError(f"the socket said {code} {payload!r}")
                time.sleep(0.05)
            self.pipe.io.sendall(bytes([0x88, 0x82, 0, 0, 0, 0]) + struct.pack(">H", 1000))
            frame(self.pipe)
            self.pipe = None
            self.count += 1
            return
        if fields.get("transfer-encoding") == "chunked":
            text = b""
            while size := int(self.pipe.until(b"\r\n"), 16):
                text += self.pipe.exactly(size)
                self.pipe.until(b"\r\n")
            self.pipe.until(b"\r\n")
        else:
            text = self.pipe.exactly(int(fields.get("content-length", 0)))
        if fields.get("connection") == "close":
            self.pipe = None
        if status == "200":
            self.count += 1
        else:
            code = text.split(b'"code":"')[-1].split(b'"')[0].decode()
            self.refused[(status, code)] = self.refused.get((status, code), 0) + 1
