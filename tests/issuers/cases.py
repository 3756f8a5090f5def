"""What each strict issuer does, and what must come of it. A case has a service, an issuer and an API of its own, and all of one
kind run side by side: most of a case is waiting."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

import jwt
import strict
from stage import fail_unless, wait_until
from strict import CLUSTER, DOMAIN, GRANT, TYPE, Raw

PAUSE = 60  # seconds after which refused metadata is read again
CASES = []


@dataclass
class Case:
    name: str
    says: str
    kind: str  # who plays it: `auth`, `metadata`, `answer`, `later`
    credential: dict = field(default_factory=dict)
    issuer: dict = field(default_factory=dict)
    play: object = None
    prepare: object = None


def put(file, text):
    new = file.with_name(file.name + ".new")
    new.write_bytes(text if isinstance(text, bytes) else text.encode())
    new.chmod(0o600)
    new.rename(file)


def case(name, says, kind, **more):
    def take(play):
        CASES.append(Case(name, says, kind, play=play, **more))
        return play

    return take


def good(answer, scope=None):
    fail_unless(answer["http_code"] == 200, answer["http_code"], answer["body"][:200])
    fail_unless(scope is None or json.loads(answer["body"])["scope"] == scope, answer["body"])


def refused(answer, status, code):
    problem = json.loads(answer["body"] or "{}")
    fail_unless((answer["http_code"], problem.get("code")) == (status, code), answer["http_code"], answer["body"][:200])


# ---- client authentication


def own_key(kind, algorithms, legacy=False):
    def prepare(house, c, dir):
        key = strict.new_key(kind)
        put(dir / f"{c.name}.pem", strict.pem(key))
        c.credential = {"client_auth": {"private_key_jwt": {"key": {"file": str(dir / f"{c.name}.pem")}, "kid": "k1"}}}
        house.issuer(c.name, strict.signed(key, algorithms, legacy))

    return prepare


def two_tokens(house, c, call):
    for scope in ("a", "b"):
        good(call(scope), scope)
    asked = [s for s in house.of(c.name, "/token")]
    fail_unless(len(asked) == 3, len(asked), "token requests: a nonce challenge and two tokens")
    return f"{len(asked)} assertions, one after a nonce challenge" if "client_assertion" in asked[0].form else ""


for name, says, prepare in (
        ("es256", "private_key_jwt, ES256: typ, sole audience, jti once", own_key("ec", ["ES256"])),
        ("eddsa", "private_key_jwt, Ed25519", own_key("ed25519", ["EdDSA"])),
        ("ps256", "private_key_jwt, RSA: PS256 where it is listed", own_key("rsa", ["PS256"])),
        ("legacy", "an older server: the token endpoint as audience", own_key("ec", ["ES256"], True))):
    CASES.append(Case(name, says, "auth", prepare=prepare, play=two_tokens,
                      issuer={"assertion_audience": "token_endpoint"} if name == "legacy" else {}))


def by_profile(kind, algorithms):
    """The same, held to FAPI 2.0."""
    of_key = own_key(kind, algorithms)

    def prepare(house, c, dir):
        of_key(house, c, dir)
        c.credential["profile"] = "fapi2"

    return prepare


for name, kind, algorithms in (("fapi-es256", "ec", ["ES256"]), ("fapi-eddsa", "ed25519", ["EdDSA"]), ("fapi-ps256", "rsa", ["PS256"])):
    CASES.append(Case(name, f"profile fapi2, {algorithms[0]}", "auth", prepare=by_profile(kind, algorithms), play=two_tokens))


def mint_projected(key, audience, number, life=600, account="coder"):
    now = int(time.time())
    claims = {"iss": CLUSTER, "aud": audience, "iat": now, "nbf": now, "exp": now + life, "jti": f"token-{number}",
              "sub": f"system:serviceaccount:agents:{account}", "kubernetes.io": {"namespace": "agents"}}
    return jwt.encode(claims, key, "RS256", {"kid": "cluster"})


def volume(dir, name, token):
    """As the kubelet writes a projected volume: a folder that a link names, and the link is what is replaced."""
    place = dir / name
    place.mkdir(exist_ok=True)
    now = place / f"..{time.monotonic_ns()}"
    now.mkdir()
    put(now / "token", token)
    (place / "..new").symlink_to(now.name)
    (place / "..new").rename(place / "..data")
    if not (place / "token").is_symlink():
        (place / "token").symlink_to("..data/token")
    return place / "token"


def kubernetes(audience=None):
    def prepare(house, c, dir):
        c.key, c.dir = strict.new_key("rsa"), dir
        c.audience = [audience or f"https://as.{DOMAIN}:{house.port}/{c.name}"]
        path = volume(dir, c.name, mint_projected(c.key, c.audience, 1))
        c.credential = {"client_auth": {"kubernetes": {"token": {"file": str(path)}, **({"audience": audience} if audience else {})}}}
        house.issuer(c.name, strict.projected(c.key, audience))

    return prepare


def rotated(house, c, call):
    good(call("a"), "a")
    fail_unless(json.loads(call("a")["body"])["sub"] == "token-1", "another token was shown")
    volume(c.dir, c.name, mint_projected(c.key, c.audience, 2))
    answer = call("b")
    good(answer, "b")
    fail_unless(json.loads(answer["body"])["sub"] == "token-2", "the token from before the rotation was shown")
    asked = len(house.of(c.name, "/token"))
    for number, (audience, life) in enumerate([(["https://elsewhere.test"], 600), ([*c.audience, "https://elsewhere.test"], 600), ([], 600),
                                               (c.audience, -1)]):
        volume(c.dir, c.name, mint_projected(c.key, audience, f"bad-{number}", life))
        refused(call("cdef"[number]), 503, "identity-unavailable")
    fail_unless(len(house.of(c.name, "/token")) == asked, "a token for somebody else was shown")
    good(call("a"), "a")
    volume(c.dir, c.name, mint_projected(c.key, c.audience, 3))
    wait_until("served again", lambda: call("c")["http_code"] == 200 or time.sleep(0.3), 10)
    return "rotated by symlink; 3 wrong audiences and a dead token shown to nobody"


CASES.append(Case("projected", "kubernetes: re-read, and vetted before it is shown", "auth", prepare=kubernetes(), play=rotated))
CASES.append(Case("exchangeable", "kubernetes: another audience, where it is configured", "auth",
                  prepare=kubernetes("api://token-exchange"), play=two_tokens))


def spiffe(kind):
    def prepare(house, c, dir):
        c.key, c.file = strict.new_key(), dir / f"{c.name}.jwt"
        c.url = f"https://as.{DOMAIN}:{house.port}/{c.name}"
        put(c.file, mint_svid(c))
        how = {} if kind == strict.JWT_SPIFFE else {"assertion_type": "jwt_bearer"}
        c.credential = {"client_id": "spiffe://example.test/agent",
                        "client_auth": {"spiffe": {"jwt_svid": {"file": str(c.file)}, **how}}}
        house.issuer(c.name, strict.svid(c.key, kind))

    return prepare


def mint_svid(c, subject="spiffe://example.test/agent", life=300):
    return jwt.encode({"sub": subject, "aud": c.url, "exp": int(time.time()) + life}, c.key, "ES256", {"kid": "td"})


def svids(house, c, call):
    figures = two_tokens(house, c, call)
    for scope, token in (("c", mint_svid(c, "agent")), ("d", mint_svid(c, life=-1))):
        put(c.file, token)
        refused(call(scope), 503, "identity-unavailable")
    fail_unless(len(house.of(c.name, "/token")) == 3, "shown all the same")
    return figures


CASES.append(Case("svid", "spiffe: a JWT-SVID as jwt-spiffe", "auth", prepare=spiffe(strict.JWT_SPIFFE), play=svids))
CASES.append(Case("svid-plain", "spiffe: a JWT-SVID as jwt-bearer", "auth", prepare=spiffe(strict.JWT_BEARER), play=svids))


def x509(alias):
    def prepare(house, c, dir):
        certificate, key = house.authority.issue(["spiffe://example.test/agent"])
        put(dir / f"{c.name}.crt", certificate)
        put(dir / f"{c.name}.key", key)
        c.credential = {"client_auth": {"mtls": {"cert": {"file": str(dir / f"{c.name}.crt")}, "key": {"file": str(dir / f"{c.name}.key")}}}}
        issuer = house.issuer(c.name, strict.x509_svid)
        c.alias = {"mtls_endpoint_aliases": {"token_endpoint": f"https://as.{DOMAIN}:{house.mtls_port}/{c.name}/token"}}
        issuer.more = c.alias if alias else {}

    return prepare


def x509_alias(house, c, call):
    # The proof names the URL that was called, which is the alias.
    house.issuers[c.name].proof = lambda seen: strict.proof(seen, c.alias["mtls_endpoint_aliases"]["token_endpoint"], house.issuers[c.name])[1].thumbprint()
    good(call("a"), "a")
    asked = house.of(c.name, "/token")
    fail_unless(all(s.certificate and s.host.endswith(str(house.mtls_port)) for s in asked), "not at the alias")
    fail_unless(all(not s.certificate for s in house.of(c.name)), "the API saw the certificate")
    return "an X.509-SVID, at another port"


def x509_no_alias(house, c, call):
    house.issuers[c.name].proof = lambda seen: strict.proof(seen, c.alias["mtls_endpoint_aliases"]["token_endpoint"], house.issuers[c.name])[1].thumbprint()
    refused(call("a"), 403, "client-misconfigured")
    fail_unless(not house.of(c.name), "the API was asked")
    return None


CASES.append(Case("x509", "mtls: an X.509-SVID at the alias, no certificate at the API", "auth", prepare=x509(True), play=x509_alias))
CASES.append(Case("x509-no-alias", "mtls: no alias, and no certificate asked for at the endpoint", "auth", prepare=x509(False), play=x509_no_alias))


def signs_grants(house, c, dir):
    key = strict.new_key()
    put(dir / f"{c.name}.pem", strict.pem(key))
    c.credential = {"client_auth": "none", "grant": {"jwt_bearer": {"key": {"file": str(dir / f"{c.name}.pem")}, "kid": "k1", "subject": "alice"}}}
    house.issuer(c.name).grant = strict.own_assertion(key)


def grants(house, c, call):
    for scope in ("a", "b"):
        good(call(scope), scope)
    used = [s.form["assertion"] for s in house.of(c.name, "/token")]
    fail_unless(len(used) == len(set(used)) == 3, "an assertion was used twice")
    return f"{len(used)} assertions, one after a nonce challenge"


CASES.append(Case("signs", "jwt_bearer, signed by us: each assertion once", "auth", prepare=signs_grants, play=grants))


# ---- metadata

SECRET = "issuers-canary-" + "s" * 24


def with_secret(house, c, dir):
    c.credential = {"client_auth": {"secret_basic": {"env": "CLIENT_SECRET"}}}
    house.issuer(c.name, strict.secret(SECRET))


def changed(**more):
    return lambda document: {**document, **{name: value(document) if callable(value) else value for name, value in more.items()}}


def without(name):
    return lambda document: {key: value for key, value in document.items() if key != name}


def elsewhere(host):
    return lambda document: document["token_endpoint"].replace("//as.", f"//{host}.")


def page(status, body="<html>no</html>", **headers):
    return lambda document: Raw(status, {"Content-Type": "text/html", **{n.title(): v for n, v in headers.items()}}, body)


def twice(document):
    text = json.dumps(document)
    return Raw(200, {}, text[:-1] + f', "token_endpoint": "{elsewhere("evil")(document)}"' + "}")


def redirected(document):
    return Raw(302, {"Location": document["issuer"].replace("//as.", "//evil.")}, "")


INVALID = (502, "as-metadata-invalid")
FAULTS = {
    "slash": ("the issuer's name with a slash", changed(issuer=lambda d: d["issuer"] + "/"), INVALID),
    "case": ("the issuer's name in another case", changed(issuer=lambda d: d["issuer"].replace("as.", "AS.")), INVALID),
    "other": ("another issuer's name", changed(issuer=lambda d: d["issuer"].replace("as.", "evil.")), INVALID),
    "nameless": ("no name", without("issuer"), INVALID),
    "clear": ("a token endpoint in clear", changed(token_endpoint=lambda d: d["token_endpoint"].replace("https:", "http:")), INVALID),
    "clear-revocation": ("a revocation endpoint in clear", changed(revocation_endpoint=lambda d: d["revocation_endpoint"].replace("https:", "http:")), INVALID),
    "userinfo": ("a token endpoint with a user in it", changed(token_endpoint=lambda d: d["token_endpoint"].replace("//", "//as@")), INVALID),
    "anothers": ("a token endpoint at another configured issuer", changed(token_endpoint=elsewhere("honest")), INVALID),
    "anothers-alias": ("an alias at another configured issuer",
                       changed(mtls_endpoint_aliases=lambda d: {"token_endpoint": elsewhere("honest")(d)}), INVALID),
    "clear-alias": ("an alias in clear", changed(mtls_endpoint_aliases={"token_endpoint": "http://as.test/token"}), INVALID),
    "endless": ("no token endpoint", without("token_endpoint"), INVALID),
    "redirect": ("a redirect", redirected, INVALID),
    "html": ("a page", page(200), INVALID),
    "absent": ("404 everywhere", page(404), INVALID),
    "twice": ("a member twice", twice, INVALID),
    "list": ("a list", lambda document: Raw(200, {}, json.dumps([document])), INVALID),
    "no-dpop": ("no algorithm for proofs", changed(dpop_signing_alg_values_supported=[]), (403, "client-misconfigured")),
    "rsa-dpop": ("other algorithms for proofs", changed(dpop_signing_alg_values_supported=["RS256", "EdDSA"]), (403, "client-misconfigured")),
    "big": ("50 MB", lambda document: Raw(200, {}, json.dumps({**document, "x": "y" * 50_000_000})), (503, "as-unavailable")),
    "down": ("503", page(503, "{}"), (503, "as-unavailable")),
}


def faulty(house, c, call):
    issuer = house.issuers[c.name]
    _, issuer.fault, (status, code) = FAULTS[c.name]
    outage = code == "as-unavailable"
    begun = time.monotonic()
    refused(call("a"), status, code)
    for scope in "ab":
        time.sleep(1)
        refused(call(scope), status, code)
    # Nothing of ours went out, and nobody was asked who is not this issuer.
    fail_unless(not house.of(c.name, "/token") and not house.of(c.name), "a token request, or one to the API")
    rounds = len([s for s in house.reads(c.name) if s.path.startswith("/.well-known/oauth")])
    fail_unless(outage or rounds == 1, rounds, "rounds of reading")
    issuer.fault = None
    if not outage:
        time.sleep(max(0, begun + PAUSE + 1 - time.monotonic()))
    mended = time.monotonic() if outage else begun
    wait_until("well again", lambda: call("a")["http_code"] == 200 or time.sleep(1), 12)
    good(call("a"), "a")
    return f"{status} {code}, {len(house.reads(c.name))} reads, well again after {time.monotonic() - mended:.0f} s"


for name, (says, _, _) in FAULTS.items():
    CASES.append(Case(name, f"metadata: {says}", "metadata", prepare=with_secret, play=faulty))


@case("silent", "metadata: silence about DPoP is consent", "auth", prepare=with_secret)
def silent(house, c, call):
    house.issuers[c.name].fault = without("dpop_signing_alg_values_supported")
    good(call("a"), "a")


@case("moved", "metadata: endpoints on a host of nobody else", "auth", prepare=with_secret)
def moved(house, c, call):
    house.issuers[c.name].more = {"token_endpoint": f"https://elsewhere.{DOMAIN}:{house.port}/{c.name}/token"}
    house.issuers[c.name].proof = lambda seen: strict.proof(seen, house.issuers[c.name].more["token_endpoint"], house.issuers[c.name])[1].thumbprint()
    good(call("a"), "a")
    fail_unless(house.of(c.name, "/token")[-1].host.startswith("elsewhere."), "not there")


@case("fallback", "metadata: OpenID's places after RFC 8414's, in order", "auth", prepare=with_secret)
def fallback(house, c, call):
    def by_place(document):
        last = house.reads(c.name)[-1].path
        return None if last.endswith(f"/{c.name}/.well-known/openid-configuration") else Raw(404, {}, "")

    house.issuers[c.name].fault = by_place
    good(call("a"), "a")
    paths = [s.path for s in house.reads(c.name)]
    fail_unless(paths == [f"/.well-known/oauth-authorization-server/{c.name}", f"/.well-known/openid-configuration/{c.name}",
                          f"/{c.name}/.well-known/openid-configuration"], paths)


# ---- token responses


def body_with(**more):
    def answer(claims, body):
        body.update(more)
        for name in [name for name, value in more.items() if value is None]:
            del body[name]

    return answer


def bound_elsewhere(claims, body):
    claims["cnf"] = {"jkt": "x" * 43}


def raw(status, text, **headers):
    return lambda claims, body: Raw(status, headers, text)


ANSWERS = {
    "bearer": ("Bearer instead of DPoP", body_with(token_type="Bearer"), (502, "downgrade-refused")),
    "untyped": ("no token type", body_with(token_type=None), (502, "downgrade-refused")),
    "na": ("token type N_A", body_with(token_type="N_A"), (502, "downgrade-refused")),
    "wider": ("a wider scope", lambda claims, body: body.update(scope=body["scope"] + " admin"), (403, "scope-denied")),
    "narrower": ("another scope", body_with(scope="z"), (403, "scope-denied")),
    "cnf": ("a token of another key", bound_elsewhere, (502, "binding-mismatch")),
    "answer-html": ("a page", raw(200, "<html>", **{"Content-Type": "text/html"}), (503, "as-unavailable")),
    "truncated": ("half an answer", raw(200, '{"access_token": "x", "token_ty'), (503, "as-unavailable")),
    "answer-twice": ("a member twice", raw(200, '{"access_token":"x","token_type":"Bearer","token_type":"DPoP"}'), (503, "as-unavailable")),
    "answer-big": ("50 MB", raw(200, "[" + " " * 50_000_000 + "]"), (503, "as-unavailable")),
    "answer-redirect": ("a redirect to somebody else", raw(307, "", Location=f"https://evil.{DOMAIN}/token"), INVALID),
    "crlf": ("a token with a line end", raw(200, '{"access_token":"x\\r\\nX-Injected: y","token_type":"DPoP"}'), (503, "as-unavailable")),
    "created": ("201", raw(201, '{"access_token":"x","token_type":"DPoP"}'), (503, "as-unavailable")),
}
HANDED_BACK = {"bearer", "untyped", "na", "wider", "narrower", "cnf", "kind-refresh", "kind-none"}


def wrong_answer(house, c, call):
    issuer = house.issuers[c.name]
    _, issuer.answer, (status, code) = {**ANSWERS, **KINDS}[c.name]
    refused(call("a"), status, code)
    fail_unless(not house.of(c.name), "the API was asked")
    back = house.of(c.name, "/revoke")
    fail_unless(bool(back) == (c.name in HANDED_BACK), len(back), "revocations")
    issuer.answer = None
    start = time.monotonic()
    wait_until("well again", lambda: call("a")["http_code"] == 200 or time.sleep(0.5), 12)
    return f"{status} {code}{', handed back' if back else ''}, well again after {time.monotonic() - start:.0f} s"


for name, (says, _, _) in ANSWERS.items():
    CASES.append(Case(name, f"token response: {says}", "answer", prepare=with_secret, play=wrong_answer))


def exchanges(house, c, dir):
    with_secret(house, c, dir)
    c.file = dir / f"{c.name}.jwt"
    put(c.file, jwt.encode({"sub": "alice", "exp": int(time.time()) + 600}, strict.new_key(), "ES256"))
    c.credential["grant"] = {"token_exchange": {"subject_token": {"file": str(c.file)}}}
    issuer = house.issuers[c.name]
    issuer.grant = strict.exchanged
    plain = issuer.token
    issuer.token = lambda seen: with_kind(plain(seen))


def with_kind(reply):
    body = json.loads(reply.body)
    if "access_token" in body:
        body.setdefault("issued_token_type", TYPE + "access_token")
        if body["issued_token_type"] is False:
            del body["issued_token_type"]
    return reply._replace(body=json.dumps(body))


KINDS = {
    "kind-refresh": ("issued_token_type refresh_token", body_with(issued_token_type=TYPE + "refresh_token"), (403, "client-misconfigured")),
    "kind-none": ("no issued_token_type", body_with(issued_token_type=False), (403, "client-misconfigured")),
}
for name, (says, _, _) in KINDS.items():
    CASES.append(Case(name, f"token exchange: {says}", "answer", prepare=exchanges, play=wrong_answer))


def life(house, c, call, wanted):
    good(call("a"), "a")

    def told():
        lines = (json.loads(line) for line in Path(c.audit).read_text().splitlines() if '"token.issued"' in line)
        return [line["expires_in"] for line in lines if line["service"] == c.name]

    seconds = wait_until("a line in the audit file", told)[0]
    fail_unless(wanted - 3 <= seconds <= wanted, seconds, "seconds instead of", wanted)
    return f"used for {seconds} s at most"


@case("lifeless", "token response: no expires_in is five minutes", "auth", prepare=with_secret)
def lifeless(house, c, call):
    house.issuers[c.name].answer = body_with(expires_in=None)
    return life(house, c, call, 300)


@case("eternal", "token response: ten years are half an hour", "auth", prepare=with_secret)
def eternal(house, c, call):
    house.issuers[c.name].answer = body_with(expires_in=315_360_000)
    return life(house, c, call, 1800)


# ---- what changes while tokenward runs, two hours after the start

LATER = {
    "vanishes": ("DPoP is not listed any more", without("dpop_signing_alg_values_supported"), (403, "client-misconfigured")),
    "moves": ("the token endpoint goes to another host", changed(token_endpoint=elsewhere("evil")), INVALID),
    "moves-port": ("the token endpoint goes to another port",
                   changed(token_endpoint=lambda d: d["token_endpoint"].replace(".test:", ".test:1")), INVALID),
    "moves-revocation": ("the revocation endpoint goes to another host",
                         changed(revocation_endpoint=lambda d: d["revocation_endpoint"].replace("as.", "evil.")), INVALID),
    "alias-appears": ("an alias appears on another host", changed(mtls_endpoint_aliases=lambda d: {"token_endpoint": elsewhere("evil")(d)}), INVALID),
    "renamed": ("the issuer has another name", changed(issuer=lambda d: d["issuer"] + "/"), INVALID),
    "later-down": ("the issuer's metadata is 503: goes on", page(503, "{}"), None),
    "later-page": ("the issuer's metadata is a page: goes on", page(200), None),
    "later-absent": ("the issuer's metadata is 404: goes on", page(404), None),
    "same-host": ("the token endpoint goes to another path: goes on",
                  changed(token_endpoint=lambda d: d["token_endpoint"].replace("/same-host/", "/same-host/v2/")), None),
}


def later(house, c, call):
    issuer = house.issuers[c.name]
    good(call("a"), "a")
    c.ready.wait()  # for the others; then the clock goes two hours on
    issuer.fault = LATER[c.name][1]
    reads, begun = len(house.reads(c.name)), time.monotonic()
    asked = len(house.of(c.name, "/token"))
    expected = LATER[c.name][2]
    if expected is None:
        if c.name == "same-host":
            issuer.proof = lambda seen: strict.proof(seen, issuer.url + "/v2/token", house.issuers[c.name])[1].thumbprint()
        good(call("a"), "a")
        fail_unless(len(house.reads(c.name)) > reads, "metadata was not read again")
        return "served"
    refused(call("a"), *expected)
    time.sleep(1)
    refused(call("b"), *expected)
    fail_unless(len(house.of(c.name, "/token")) == asked, "a token request")
    issuer.fault = None
    time.sleep(max(0, begun + PAUSE + 1 - time.monotonic()))
    wait_until("well again", lambda: call("a")["http_code"] == 200 or time.sleep(1), 12)
    return f"{expected[0]} {expected[1]}, well again after {time.monotonic() - begun:.0f} s"


for name, (says, _, _) in LATER.items():
    CASES.append(Case(name, f"two hours later: {says}", "later", prepare=with_secret, play=later))
