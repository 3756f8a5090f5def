"""An authorization server that rotates refresh tokens, an API beside it, and a place to stop each request of either.

Nothing of the product's is used here. Metadata is at one port and the token endpoint at another, so that a connection to
the second tells that the token request is about to be sent. Every answer ends its connection.
"""

import json
import secrets
import socket
import ssl
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path

HOST_ISSUER, HOST_API = "as.kills.test", "api.kills.test"


def certificates(folder):
    """A root and one certificate of it for both names, by the openssl program."""
    folder = Path(folder)

    def call(*words):
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)

    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    call("req", "-x509", *ec, "-keyout", "root.key", "-out", "ca.pem", "-days", "3", "-subj", "/CN=kills root")
    (folder / "leaf.ext").write_text(f"subjectAltName=DNS:{HOST_ISSUER},DNS:{HOST_API}\nextendedKeyUsage=serverAuth\n")
    call("req", *ec, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", f"/CN={HOST_ISSUER}")
    call("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "root.key", "-CAcreateserial", "-days", "3", "-out",
         "leaf.pem", "-extfile", "leaf.ext")


class Server:
    """Answers one request a connection. `arrived` is told of each connection before anything is read from it."""

    def __init__(self, folder, answer, arrived=lambda: None):
        self.answer, self.arrived = answer, arrived
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(Path(folder) / "leaf.pem", Path(folder) / "leaf.key")
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, plain):
        try:
            self.arrived()
            plain.settimeout(30)
            with self.context.wrap_socket(plain, server_side=True) as io:
                head = b""
                while b"\r\n\r\n" not in head:
                    more = io.recv(65536)
                    if not more:
                        return
                    head += more
                head, body = head.split(b"\r\n\r\n", 1)
                lines = head.decode().split("\r\n")
                fields = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:])}
                while len(body) < int(fields.get("content-length", 0)):
                    body += io.recv(65536)
                method, target, _ = lines[0].split(" ")
                answered = self.answer(method, target, body.decode(), fields)
                if answered is None:
                    return
                status, document = answered[:2]
                text = json.dumps(document).encode()
                reply = (f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n"
                         f"content-length: {len(text)}\r\n\r\n").encode() + text
                io.sendall(reply)
                for after in answered[2:]:
                    after()
        except (OSError, ValueError):
            pass  # whoever asked was killed
        finally:
            plain.close()


class Issuer:
    """Rotates at each use. With `grace` seconds it takes the token before the current one too, until the current one was
    used; anything else that is not current ends the login, as reuse detection does (RFC 9700 §4.14.2)."""

    def __init__(self, folder, grace, life=600):
        self.lock, self.grace, self.life = threading.Lock(), grace, life
        self.current = self.previous = None
        self.rotated, self.number, self.reuses = 0.0, 0, 0
        self.codes, self.requests, self.refusing, self.away = {}, [], False, False
        # What a test wants to be told: on metadata, on a connection for a token request, on that request read, on its
        # answer made, and on the answer sent.
        self.hooks = {}
        self.front = Server(folder, self.metadata)
        self.back = Server(folder, self.token, lambda: self.tell("connection"))
        self.url = f"https://{HOST_ISSUER}:{self.front.port}"

    def tell(self, point):
        hook = self.hooks.get(point)
        return hook() if hook else None

    def metadata(self, method, target, body, fields):
        if target.startswith("/authorize"):
            query = dict(urllib.parse.parse_qsl(target.split("?", 1)[1]))
            return 200, query
        if self.away or self.tell("metadata") == "silence":
            return None
        back = f"https://{HOST_ISSUER}:{self.back.port}"
        return 200, {"issuer": self.url, "authorization_endpoint": self.url + "/authorize", "token_endpoint": back + "/token",
                     "dpop_signing_alg_values_supported": ["ES256"], "code_challenge_methods_supported": ["S256"],
                     "response_types_supported": ["code"], "grant_types_supported": ["authorization_code", "refresh_token"]}

    def token(self, method, target, body, fields):
        form = dict(urllib.parse.parse_qsl(body))
        with self.lock:
            self.requests.append((time.monotonic(), form.get("refresh_token"), form.get("scope")))
        if self.away or self.tell("request") == "silence":
            return None
        status, document = self.decide(form)
        if self.tell("answer") == "silence":
            return None
        return status, document, lambda: self.tell("sent")

    def decide(self, form):
        with self.lock:
            if self.refusing:
                return 400, {"error": "invalid_grant"}
            if form["grant_type"] == "refresh_token":
                sent = form["refresh_token"]
                late = sent == self.previous and time.monotonic() - self.rotated <= self.grace
                if sent != self.current and not late:
                    self.reuses += sent != self.current
                    self.current = self.previous = None
                    return 400, {"error": "invalid_grant"}
                if not late:
                    self.previous, self.rotated = sent, time.monotonic()
            elif self.codes.pop(form.get("code"), None) is None:
                return 400, {"error": "invalid_grant"}
            else:
                self.previous = None
            self.number += 1
            self.current = f"rt-{self.number}-{secrets.token_urlsafe(12)}"
            return 200, {"access_token": f"at-{self.number}", "token_type": "DPoP", "expires_in": self.life,
                         "refresh_token": self.current, "scope": form.get("scope", "a b")}

    def approve(self, url):
        """What a person's browser comes back with: the redirect to follow."""
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
        code = secrets.token_urlsafe(8)
        with self.lock:
            self.codes[code] = True
        back = urllib.parse.urlencode({"code": code, "state": query["state"], "iss": self.url})
        return f"{query['redirect_uri']}?{back}"


class Api:
    """Says which token came."""

    def __init__(self, folder):
        self.seen = []
        self.server = Server(folder, self.answer)
        self.port = self.server.port

    def answer(self, method, target, body, fields):
        token = fields.get("authorization", "")
        self.seen.append((target, token))
        return 200, {"ok": token.startswith("DPoP at-")}
