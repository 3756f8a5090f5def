"""Strict authorization servers and an API behind one TLS listener on loopback, each issuer below a path of its own, and every
one of them able to be faulty in one way.

What they verify they leave to published libraries: PyJWT takes client assertions, workload tokens and access tokens apart, and
joserfc proofs and, once more, client assertions. What needs a memory (a `jti` is good once, nonces) is here.
"""

import base64
import hashlib
import json
import secrets
import ssl
import threading
import time
import urllib.parse
from collections import namedtuple
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import joserfc.jwt
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID
from joserfc.jwk import ECKey, import_key

DOMAIN = "issuers.test"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
JWT_SPIFFE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe"
GRANT = "urn:ietf:params:oauth:grant-type:"
TYPE = "urn:ietf:params:oauth:token-type:"
CLUSTER = "https://kubernetes.default.svc.cluster.local"

Seen = namedtuple("Seen", "host method path form headers certificate at")
Raw = namedtuple("Raw", "status headers body")


class Refused(Exception):
    """The issuer's "no": an error code of RFC 6749 §5.2, and for us alone why."""


def pem(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def public(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def sha256(text):
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def new_key(kind="ec"):
    match kind:
        case "ec": return ec.generate_private_key(ec.SECP256R1())
        case "ed25519": return ed25519.Ed25519PrivateKey.generate()
        case "rsa": return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Authority:
    """A certificate authority of one run."""

    def __init__(self):
        self.key, self.name = new_key(), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Issuers")])
        self.certificate = self.sign(self.name, self.key, [(x509.BasicConstraints(True, None), True)])

    def sign(self, subject, key, extensions):
        now = datetime.now(timezone.utc)
        builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key.public_key())
                   .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
                   .not_valid_after(now + timedelta(days=2)))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, names):
        """(certificate, key) in PEM for names of hosts or URIs."""
        key = new_key()
        kind = lambda name: x509.UniformResourceIdentifier(name) if "://" in name else x509.DNSName(name)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody")])
        found = self.sign(subject, key, [(x509.SubjectAlternativeName([kind(name) for name in names]), False),
                                         (x509.BasicConstraints(False, None), True)])
        return found.public_bytes(serialization.Encoding.PEM), pem(key)

    def pem(self):
        return self.certificate.public_bytes(serialization.Encoding.PEM)


class Issuer:
    """One authorization server. `authenticate(form, headers, seen)` raises `Refused`, `fault` replaces its metadata and
    `answer` its token response."""

    def __init__(self, house, name, authenticate, nonces=True):
        self.house, self.name, self.authenticate, self.nonces = house, name, authenticate, nonces
        self.url = f"https://as.{DOMAIN}:{house.port}/{name}"
        self.api = f"https://{name}.api.{DOMAIN}:{house.port}"
        self.key, self.nonce = new_key(), secrets.token_urlsafe(16)
        self.used = set()
        self.fault = self.answer = self.grant = None
        self.more, self.skew = {}, 0

    def now(self):
        return time.time() + self.skew

    def metadata(self):
        return {"issuer": self.url, "token_endpoint": self.url + "/token", "revocation_endpoint": self.url + "/revoke",
                "dpop_signing_alg_values_supported": ["ES256"],
                "token_endpoint_auth_signing_alg_values_supported": ["ES256", "PS256", "EdDSA"], **self.more}

    def once(self, jti):
        if not isinstance(jti, str) or len(jti) < 16 or jti in self.used:
            raise Refused("invalid_client", "jti used twice, or none")
        self.used.add(jti)

    def token(self, seen):
        """A token response, or a refusal."""
        try:
            client = self.authenticate(self, seen)
            jkt = self.proof(seen)
            if self.grant:
                self.grant(self, seen)
            elif seen.form["grant_type"] != "client_credentials":
                raise Refused("unsupported_grant_type", seen.form["grant_type"])
            now = int(self.now())
            claims = {"iss": self.url, "sub": client, "client_id": client, "aud": self.api, "iat": now, "exp": now + 300,
                      "jti": secrets.token_urlsafe(16), "scope": seen.form["scope"], "cnf": {"jkt": jkt}}
            body = {"token_type": "DPoP", "expires_in": 300, "scope": seen.form["scope"]}
            if self.answer:
                answer = self.answer(claims, body)
                if isinstance(answer, Raw):
                    return answer
            token = jwt.encode(claims, self.key, "ES256", {"typ": "at+jwt"})
            self.house.tokens.append(token)
            return Raw(200, {}, json.dumps({"access_token": token, **body}))
        except Refused as no:
            self.house.said.append((self.name, *no.args))
            return Raw(401 if no.args[0] == "invalid_client" else 400, {"DPoP-Nonce": self.nonce}, json.dumps({"error": no.args[0]}))
        except (jwt.PyJWTError, joserfc.errors.JoseError, KeyError, ValueError) as why:
            self.house.said.append((self.name, "invalid_client", repr(why)))
            return Raw(401, {}, json.dumps({"error": "invalid_client"}))

    def proof(self, seen):
        """RFC 9449 §4.3; the thumbprint of its key."""
        claims, key = proof(seen, self.url + "/token", self)
        if "ath" in claims:
            raise Refused("invalid_dpop_proof", "ath at the token endpoint")
        self.once(claims["jti"])
        if self.nonces and claims.get("nonce") != self.nonce:
            raise Refused("use_dpop_nonce", "no nonce")
        return key.thumbprint()


def proof(seen, url, issuer):
    lines = seen.headers.get_all("dpop") or []
    if len(lines) != 1:
        raise Refused("invalid_dpop_proof", f"{len(lines)} proofs")
    header = jwt.get_unverified_header(lines[0])
    if header["typ"] != "dpop+jwt" or header["alg"] != "ES256" or set(header["jwk"]) - {"kty", "crv", "x", "y", "kid", "alg", "use"}:
        raise Refused("invalid_dpop_proof", "header")
    key = ECKey.import_key(header["jwk"])
    claims = joserfc.jwt.decode(lines[0], key, algorithms=["ES256"]).claims
    if claims["htm"] != seen.method or claims["htu"] != url or abs(claims["iat"] - issuer.now()) > 20:
        raise Refused("invalid_dpop_proof", f"htm, htu or iat: {claims['htu']}")
    return claims, key


# ---- how clients prove their names


def nobody(issuer, seen):
    return seen.form["client_id"]


def secret(value):
    def authenticate(issuer, seen):
        wanted = base64.b64encode(f"agent-proxy:{value}".encode()).decode()
        if seen.headers["authorization"] != "Basic " + wanted or "client_assertion" in seen.form:
            raise Refused("invalid_client", "secret")
        return "agent-proxy"

    return authenticate


def assertion_of(seen, kind):
    if seen.headers["authorization"] or "client_secret" in seen.form or seen.form["client_assertion_type"] != kind:
        raise Refused("invalid_client", "more than one method, or another assertion type")
    return seen.form["client_assertion"]


def signed(key, algorithms, legacy=False):
    """`private_key_jwt` as RFC 10070 wants it, or as older servers do."""

    def authenticate(issuer, seen):
        text = assertion_of(seen, JWT_BEARER)
        judge_own(issuer, text, key, algorithms, "agent-proxy", "agent-proxy",
                  *((issuer.url + "/token", "JWT") if legacy else (issuer.url, "client-authentication+jwt")))
        return "agent-proxy"

    return authenticate


def judge_own(issuer, text, key, algorithms, iss, sub, audience, typ):
    """A JWT that tokenward signed itself; by two libraries."""
    header = jwt.get_unverified_header(text)
    if header["typ"] != typ or header.get("kid") != "k1" or {"jwk", "jku", "x5u", "crit"} & set(header):
        raise Refused("invalid_client", f"header {header}")
    claims = jwt.decode(text, public(key), algorithms=algorithms, audience=audience, issuer=iss, subject=sub,
                        options={"require": ["exp", "iat", "iss", "sub", "aud", "jti"], "strict_aud": True})
    again = joserfc.jwt.decode(text, import_key(public(key), "RSA" if "RS" in algorithms[0] or "PS" in algorithms[0] else
                                                "OKP" if algorithms == ["EdDSA"] else "EC"), algorithms=algorithms).claims
    joserfc.jwt.JWTClaimsRegistry(iss={"essential": True, "value": iss}, sub={"essential": True, "value": sub},
                                  aud={"essential": True, "value": audience}, jti={"essential": True},
                                  exp={"essential": True}).validate(again)
    if claims["exp"] - claims["iat"] > 60:
        raise Refused("invalid_client", "lives too long")
    issuer.once(claims["jti"])


def projected(key, audience=None):
    """A projected service-account token, as an issuer that trusts the cluster sees it (RFC 7523 §3)."""

    def authenticate(issuer, seen):
        text = assertion_of(seen, JWT_BEARER)
        claims = jwt.decode(text, public(key), algorithms=["RS256"], audience=audience or issuer.url, issuer=CLUSTER,
                            options={"require": ["exp", "iat", "iss", "sub", "aud"]})
        if claims["sub"] != "system:serviceaccount:agents:coder" or seen.form["client_id"] != "agent-proxy":
            raise Refused("invalid_client", "another account")
        return claims["jti"]  # names the very token that was shown

    return authenticate


def svid(key, kind):
    """A JWT-SVID: draft-ietf-oauth-spiffe-client-auth, or RFC 7523."""

    def authenticate(issuer, seen):
        claims = jwt.decode(assertion_of(seen, kind), public(key), algorithms=["ES256"], audience=issuer.url,
                            options={"require": ["exp", "sub", "aud"], "strict_aud": True})
        if claims["sub"] != "spiffe://example.test/agent" or seen.form["client_id"] != claims["sub"]:
            raise Refused("invalid_client", "another workload")
        return claims["sub"]

    return authenticate


def x509_svid(issuer, seen):
    """An X.509-SVID in the handshake (RFC 8705 §2.1); OpenSSL has verified its chain."""
    names = (seen.certificate or {}).get("subjectAltName", ())
    if ("URI", "spiffe://example.test/agent") not in names or seen.headers["authorization"]:
        raise Refused("invalid_client", f"certificate {names}")
    return seen.form["client_id"]


def own_assertion(key):
    """The `jwt_bearer` grant with an assertion that tokenward signs."""

    def grant(issuer, seen):
        if seen.form["grant_type"] != GRANT + "jwt-bearer":
            raise Refused("unsupported_grant_type", seen.form["grant_type"])
        judge_own(issuer, seen.form["assertion"], key, ["ES256"], "agent-proxy", "alice", issuer.url, "JWT")

    return grant


def exchanged(issuer, seen):
    if seen.form["grant_type"] != GRANT + "token-exchange" or seen.form["subject_token_type"] != TYPE + "jwt":
        raise Refused("invalid_request", "not an exchange of a JWT")


# ---- the listener


class House:
    """All issuers, the API, and what was seen."""

    def __init__(self, dir):
        self.dir, self.authority = dir, Authority()
        self.issuers, self.seen, self.tokens, self.said = {}, [], [], []
        self.lock = threading.Lock()
        names = [f"as.{DOMAIN}", f"*.api.{DOMAIN}", f"evil.{DOMAIN}", f"honest.{DOMAIN}", f"elsewhere.{DOMAIN}"]
        certificate, key = self.authority.issue(names)
        (dir / "server.pem").write_bytes(certificate + key)
        (dir / "ca.pem").write_bytes(self.authority.pem())
        self.servers = [self.listen(ssl.CERT_NONE), self.listen(ssl.CERT_OPTIONAL)]
        self.port, self.mtls_port = (server.server_port for server in self.servers)

    def listen(self, wants):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.dir / "server.pem")
        if wants != ssl.CERT_NONE:
            context.load_verify_locations(self.dir / "ca.pem")
        context.verify_mode = wants
        server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"house": self}))
        server.context = context
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def issuer(self, name, authenticate=nobody, **more):
        made = self.issuers[name] = Issuer(self, name, authenticate, **more)
        return made

    def of(self, name, end=""):
        """What an issuer saw, or its API where `end` is empty."""
        with self.lock:
            if end:
                return [s for s in self.seen if f"/{name}/" in s.path + "/" and s.path.endswith(end)]
            return [s for s in self.seen if s.host.startswith(f"{name}.api.")]

    def reads(self, name):
        with self.lock:
            return [s for s in self.seen if "/.well-known/" in s.path and f"/{name}/" in s.path + "/"]

    def at(self, host):
        with self.lock:
            return [s for s in self.seen if s.host.startswith(host + ".")]

    def respond(self, seen):
        if ".api." in seen.host:
            return self.resource(self.issuers[seen.host.split(".")[0]], seen)
        issuer = next((i for i in self.issuers.values() if f"/{i.name}/" in seen.path + "/"), None)
        if issuer is None:
            return Raw(404, {}, "{}")
        if "/.well-known/" in seen.path:
            document = issuer.metadata()
            if issuer.fault:
                document = issuer.fault(document) or document
            return document if isinstance(document, Raw) else Raw(200, {}, json.dumps(document))
        if seen.path.endswith("/token"):
            return issuer.token(seen)
        if seen.path.endswith("/revoke"):
            return Raw(200, {}, "")
        return Raw(404, {}, "{}")

    def resource(self, issuer, seen):
        """The API: a DPoP-bound token of its issuer (RFC 9449 §7), with the scope that is the path's one letter."""
        try:
            scheme, _, token = (seen.headers["authorization"] or "").partition(" ")
            now = issuer.now()
            claims = jwt.decode(token, issuer.key.public_key(), algorithms=["ES256"], audience=issuer.api, issuer=issuer.url,
                                options={"verify_exp": False, "verify_iat": False})
            shown, key = proof(seen, f"https://{seen.host}{seen.path}", issuer)
            good = (scheme == "DPoP" and shown["ath"] == sha256(token) and claims["cnf"]["jkt"] == key.thumbprint()
                    and now < claims["exp"] and shown["jti"] not in issuer.used and claims["scope"] == seen.path[1:])
            issuer.used.add(shown["jti"])
        except (Refused, KeyError, ValueError, jwt.PyJWTError, joserfc.errors.JoseError) as why:
            good, claims = False, {"error": repr(why)}
        if not good:
            self.said.append((issuer.name, "API", repr(claims)))
        return Raw(200 if good else 403, {}, json.dumps({"sub": claims.get("sub"), "scope": claims.get("scope")}))


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def get_request(self):
        raw, address = super().get_request()
        raw.settimeout(30)
        return self.context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, *_):
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        length = int(self.headers["content-length"] or 0)
        text = self.rfile.read(length).decode()
        pairs = urllib.parse.parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
        form = dict(pairs)
        seen = Seen(self.headers["host"], self.command, self.path, form, self.headers, self.connection.getpeercert() or None, time.monotonic())
        house = self.house
        with house.lock:
            house.seen.append(seen)
        if len(pairs) != len(form):
            reply = Raw(400, {}, json.dumps({"error": "invalid_request"}))
        else:
            reply = house.respond(seen)
        body = reply.body if isinstance(reply.body, bytes) else reply.body.encode()
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = answer
