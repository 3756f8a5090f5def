"""Servers that record what they receive. Requests are read by h11; answers can be scripted down to the byte."""

import base64
import hashlib
import json
import secrets
import socket
import ssl
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

import h11
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils


@dataclass
class Record:
    """One request as an origin understood it."""
    origin: str
    connection: int
    method: str
    target: str
    fields: list  # (lower-case name, value) in order
    sni: str
    body: bytes = b""
    trailers: list = field(default_factory=list)
    complete: bool = False
    at: float = 0.0

    def values(self, name):
        return [value for n, value in self.fields if n == name]

    @property
    def host(self):
        return (self.values("host") or [""])[0]


class Conversation:
    """One connection at an origin, as scripts see it."""

    def __init__(self, origin, number, stream, sni):
        self.origin, self.number, self.stream, self.sni = origin, number, stream, sni
        self.raw = bytearray()  # every byte received

    def send(self, data):
        self.stream.sendall(data)

    def reset(self):
        """Closes so that the peer sees RST."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.stream.close()


class Origin:
    """Listens on `address:port`, with TLS where a context is given.

    `behave(record, conversation)` answers a request: it returns `(status, fields, body)`, or None when it has sent
    bytes of its own (the connection then goes on), or raises ConnectionError to close. `early(record, conversation)`
    may do the same before the body is read. `greet(stream)` replaces everything on a raw TCP connection.
    """

    def __init__(self, name, address, port, context=None, behave=None):
        self.name, self.address, self.context = name, address, context
        self.records, self.accepted, self.conversations = [], [], []
        self.default = behave or ordinary
        self.behave, self.early, self.greet = self.default, None, None
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.listener = socket.create_server((address, port), family=family, backlog=1024)
        self.port = self.listener.getsockname()[1]
        if context:
            context.sni_callback = self.note_sni
        threading.Thread(target=self.accept, daemon=True).start()

    def reset(self):
        self.behave, self.early, self.greet = self.default, None, None

    @staticmethod
    def note_sni(stream, sni, _context):
        stream.corpus_sni = sni

    def accept(self):
        while True:
            stream, peer = self.listener.accept()
            self.accepted.append((time.monotonic(), peer))
            threading.Thread(target=self.talk, args=(stream, len(self.accepted)), daemon=True).start()

    def talk(self, stream, number):
        try:
            if self.greet:
                self.greet(stream)
                return
            stream.settimeout(60)
            # Head and body are written apart: the second must not wait until the first is acknowledged.
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sni = None
            if self.context:
                stream = self.context.wrap_socket(stream, server_side=True)
                sni = getattr(stream, "corpus_sni", None)
            conversation = Conversation(self, number, stream, sni)
            self.conversations.append(conversation)
            if self.context and stream.selected_alpn_protocol() == "h2":
                import origins_h2
                origins_h2.serve(self, conversation)
            else:
                self.serve(conversation)
        except (OSError, h11.ProtocolError, ValueError):
            pass
        finally:
            try:
                stream.close()
            except OSError:
                pass

    def serve(self, conversation):
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        while True:
            record = self.read_head(parser, conversation)
            if record is None:
                return
            answer = self.early(record, conversation) if self.early else None
            if answer is None:
                self.read_body(parser, conversation, record)
                answer = self.behave(record, conversation)
            if answer is None:
                # The script spoke for itself; what follows is a new request on the same bytes.
                trailing = parser.trailing_data[0]
                parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
                if trailing:
                    parser.receive_data(trailing)
                continue
            status, fields, body = answer
            body = body if isinstance(body, bytes) else body.encode()
            if record.method != "HEAD":
                fields = [*fields, ("content-length", str(len(body)))]
            conversation.send(parser.send(h11.Response(status_code=status, headers=fields)))
            if record.method != "HEAD":
                conversation.send(parser.send(h11.Data(data=body)) or b"")
            conversation.send(parser.send(h11.EndOfMessage()) or b"")
            if parser.our_state is h11.MUST_CLOSE or parser.their_state is not h11.DONE:
                return
            parser.start_next_cycle()

    def next_event(self, parser, conversation):
        while (event := parser.next_event()) is h11.NEED_DATA:
            if parser.they_are_waiting_for_100_continue:
                conversation.send(parser.send(h11.InformationalResponse(status_code=100, headers=[])))
            data = conversation.stream.recv(65536)
            conversation.raw += data[:1 << 20]
            parser.receive_data(data)
        return event

    def read_head(self, parser, conversation):
        event = self.next_event(parser, conversation)
        if not isinstance(event, h11.Request):
            return None
        fields = [(n.decode("latin-1").lower(), v.decode("latin-1")) for n, v in event.headers]
        record = Record(self.name, conversation.number, event.method.decode("latin-1"),
                        event.target.decode("latin-1"), fields, conversation.sni, at=time.monotonic())
        self.records.append(record)
        return record

    def read_body(self, parser, conversation, record):
        body = bytearray()
        while True:
            event = self.next_event(parser, conversation)
            if isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                record.trailers = [(n.decode("latin-1").lower(), v.decode("latin-1")) for n, v in event.headers]
                record.body, record.complete = bytes(body), True
                return
            else:
                raise ConnectionError("the request ended early")


def ordinary(record, _conversation):
    """200 and what was understood, without any credential."""
    shown = {"origin": record.origin, "method": record.method, "target": record.target, "host": record.host,
             "sha256": hashlib.sha256(record.body).hexdigest(), "length": len(record.body)}
    return 200, [("content-type", "application/json")], json.dumps(shown)


def unpadded(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Proofs:
    """RFC 9449, read once more: what a strict server checks. Raises ValueError with the reason."""

    def __init__(self):
        self.seen = set()

    def check(self, proof, method, url, token=None, nonce=None):
        head, claims, signature = proof.split(".")
        header, payload = json.loads(unpadded(head)), json.loads(unpadded(claims))
        jwk = header["jwk"]
        require(header["typ"] == "dpop+jwt" and header["alg"] == "ES256", "typ or alg")
        require(set(jwk) == {"kty", "crv", "x", "y"}, "jwk members")
        point = int.from_bytes(unpadded(jwk["x"]), "big"), int.from_bytes(unpadded(jwk["y"]), "big")
        key = ec.EllipticCurvePublicNumbers(*point, ec.SECP256R1()).public_key()
        raw = unpadded(signature)
        require(len(raw) == 64, "signature length")
        der = utils.encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
        try:
            key.verify(der, f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise ValueError("signature") from error
        require(payload["htm"] == method, "htm")
        require(payload["htu"] == url, f"htu {payload['htu']} is not {url}")
        require(abs(payload["iat"] - time.time()) <= 60, "iat")
        require(len(payload["jti"]) >= 16 and payload["jti"] not in self.seen, "jti")
        self.seen.add(payload["jti"])
        if token is None:
            require("ath" not in payload, "ath without a token")
        else:
            require(payload["ath"] == base64url(hashlib.sha256(token.encode()).digest()), "ath")
        if nonce is not None:
            require(payload.get("nonce") == nonce, "nonce")
        thumb = json.dumps({m: jwk[m] for m in ("crv", "kty", "x", "y")}, separators=(",", ":"))
        return base64url(hashlib.sha256(thumb.encode()).digest())


def require(truth, what):
    if not truth:
        raise ValueError(what)


class Issuer:
    """The authorization server as a behaviour: metadata, and tokens for client credentials, bound to the proof's key."""

    def __init__(self, host, secret):
        self.url, self.secret = f"https://{host}", secret
        self.tokens = {}  # token -> (jkt, resource, scope)
        self.proofs, self.answer, self.asked = Proofs(), None, 0
        self.lifetime = 600

    def reset(self):
        self.answer, self.lifetime = None, 600

    def behave(self, record, conversation):
        if record.target == "/.well-known/oauth-authorization-server":
            return 200, [("content-type", "application/json")], json.dumps({
                "issuer": self.url, "token_endpoint": self.url + "/token", "grant_types_supported": ["client_credentials"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
                "dpop_signing_alg_values_supported": ["ES256"], "response_types_supported": ["code"]})
        if record.target != "/token" or record.method != "POST":
            return 404, [], ""
        self.asked += 1
        if self.answer:
            return self.answer(record, conversation)
        return self.grant(record)

    def grant(self, record, more=None):
        form = dict(urllib.parse.parse_qsl(record.body.decode()))
        basic = base64.b64decode(record.values("authorization")[0].split(" ", 1)[1]).decode()
        if basic != f"corpus:{self.secret}" or form.get("grant_type") != "client_credentials":
            return 401, [("content-type", "application/json")], '{"error":"invalid_client"}'
        try:
            jkt = self.proofs.check(*record.values("dpop"), "POST", self.url + "/token")
        except (ValueError, KeyError, TypeError):
            return 400, [("content-type", "application/json")], '{"error":"invalid_dpop_proof"}'
        token = "at-" + secrets.token_urlsafe(32)
        self.tokens[token] = (jkt, form.get("resource", ""), form.get("scope", ""))
        answer = {"access_token": token, "token_type": "DPoP", "expires_in": self.lifetime}
        if "scope" in form:
            answer["scope"] = form["scope"]
        return 200, [("content-type", "application/json")], json.dumps({**answer, **(more or {})})


class DpopApi:
    """An API that takes DPoP-bound tokens of one issuer for one resource, and nothing else."""

    def __init__(self, issuer, host, answer=ordinary):
        self.issuer, self.host, self.answer = issuer, host, answer
        self.proofs, self.nonce, self.refusals = Proofs(), None, []

    def reset(self):
        self.nonce = None

    def behave(self, record, conversation):
        refused = self.judge(record)
        if refused:
            self.refusals.append((record, refused))
            code = refused if refused == "use_dpop_nonce" else "invalid_token"
            fields = [("www-authenticate", f'DPoP error="{code}"')]
            if self.nonce:
                fields.append(("dpop-nonce", self.nonce))
            return 401, fields, ""
        return self.answer(record, conversation)

    def judge(self, record):
        credentials, proofs = record.values("authorization"), record.values("dpop")
        if len(credentials) != 1 or not credentials[0].startswith("DPoP "):
            return "one Authorization: DPoP is wanted"
        if len(proofs) != 1:
            return "one proof is wanted"
        token = credentials[0][5:]
        jkt, resource, _ = self.issuer.tokens.get(token, ("", "", ""))
        url = f"https://{self.host}{record.target.split('?')[0]}"
        try:
            require(jkt and resource == f"https://{self.host}", "an unknown token")
            require(self.proofs.check(proofs[0], record.method, url, token) == jkt, "another key")
        except (ValueError, KeyError, TypeError) as error:
            return str(error) or "malformed"
        if self.nonce:
            payload = json.loads(unpadded(proofs[0].split(".")[1]))
            if payload.get("nonce") != self.nonce:
                return "use_dpop_nonce"
        return None
