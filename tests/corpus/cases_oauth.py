"""Class N: how tokenward behaves as a client of issuers and of DPoP APIs.

Almost every case has a realm of its own (an issuer, an API, an annex): a script that spoils an issuer's answers would
otherwise leave pauses and nonces behind for the cases after it. Within a realm each agent is a fresh grant with a fresh key.
"""

import base64
import gzip
import json
import secrets
import threading
import time
import urllib.parse
from email.utils import formatdate

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent import Closed
from annex import Annex, annexed, oauth, realm
from cases import case, expect, head, waits
from house import fail_unless
from origins import DpopApi, base64url, ordinary, unpadded

RO = "api.ro.test"
JSON = [("content-type", "application/json")]

waits("N09", "grants with refresh tokens and the store that keeps them")
waits("N10", "`login` and its redirect listener")
waits("N11", "`login` and its redirect listener")


def proof(record):
    """`(header, claims)` of the one proof that an origin received."""
    lines = record.values("dpop")
    fail_unless(len(lines) == 1, len(lines), "DPoP lines")
    header, claims, _ = lines[0].split(".")
    return json.loads(unpadded(header)), json.loads(unpadded(claims))


def names(count, letter="a"):
    return [f"{letter}{i}" for i in range(count)]


def quick(function, *arguments, seconds=5):
    """A refusal may cost an attempt or two, not a wait."""
    start = time.monotonic()
    answer = function(*arguments)
    fail_unless(time.monotonic() - start < seconds, "it took", round(time.monotonic() - start, 1), "s")
    return answer


def together(*functions):
    """Runs them at the same time; the first error is raised."""
    errors = []

    def one(function):
        try:
            function()
        except Exception as error:  # handed on below
            errors.append(error)
    threads = [threading.Thread(target=one, args=(f,), daemon=True) for f in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        fail_unless(not thread.is_alive(), "still running after 20 s")
    if errors:
        raise errors[0]


# --- N01: what a proof says

@case("N01", "htu is what is sent, without query, port and capitals")
def run(house, mark):
    table = [("/v1/items/1?q=1", RO), ("/v1/items/1?", "API.RO.TEST"), ("/v1/items/2?a=/../b?c", f"{RO}:443"),
             ("/v1/items/a:b;c=d,e", f"API.ro.test:443"), ("/v1/items/%7Eme/%40x", RO), ("/v1/items/", RO),
             ("/v1/items/%C3%A9", RO)]
    for target, host in table:
        expect(house.A.ask(RO, head(RO, f"GET {target} HTTP/1.1", f"Host: {host}")), 200)
        record = mark.at(RO)[-1]
        header, claims = proof(record)
        fail_unless(claims["htu"] == f"https://{RO}{record.target.split('?')[0]}", claims["htu"], "for", record.target)
        fail_unless("?" not in claims["htu"] and "#" not in claims["htu"], claims["htu"])
        fail_unless(claims["htm"] == "GET" and set(claims) - {"nonce"} == {"jti", "htm", "htu", "iat", "ath"}, claims)
        fail_unless(set(header) == {"typ", "alg", "jwk"} and header["typ"] == "dpop+jwt", header)
        fail_unless(set(header["jwk"]) == {"kty", "crv", "x", "y"}, "jwk", sorted(header["jwk"]))
        fail_unless(len(unpadded(header["jwk"]["x"])) == len(unpadded(header["jwk"]["y"])) == 32, "coordinates")
    # A fragment is no part of a request: cut, or not taken; never signed.
    answer = house.A.ask(RO, head(RO, "GET /v1/items/1?q=1#f HTTP/1.1"))
    expect(answer, 200, 400)
    fail_unless(all("#" not in r.target for r in mark.at(RO)), "a fragment went out")


@case("N01", "htm is the method as it was sent", private=True)
def run(house, mark):
    issuer, api = realm(house, "n01")
    issuer.secret = secrets.token_urlsafe(24)
    rules = '[{allow: "* /**"}, {allow: "PROPFIND|purge|M-SEARCH /**"}, {allow: "HEAD /**"}]'
    annex = Annex(house, {"api": oauth("own", api.host, rules=rules)}, issuers={"own": issuer.url},
                  environment={"AS_SECRET": issuer.secret}, owners=[issuer])
    for method in ("GET", "POST", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "M-SEARCH", "purge"):
        answer = annex.agents["A"].ask(api.host, head(api.host, f"{method} /x HTTP/1.1", "Content-Length: 0"))
        expect(answer, 200)
        record = mark.at(api.host)[-1]
        fail_unless(record.method == method == proof(record)[1]["htm"], record.method, proof(record)[1]["htm"])


# --- N02, N03: nonces

def challenge(nonce=(), value='DPoP error="use_dpop_nonce"'):
    """An API that wants another nonce, always."""
    values = [value] if isinstance(value, str) else value

    def behave(record, _):
        found = nonce(record) if callable(nonce) else nonce
        return 401, [*(("www-authenticate", v) for v in values), *(("dpop-nonce", n) for n in found)], ""
    return behave


@case("N02", "one retry with the nonce, and the nonce is kept", private=True)
def run(house, mark):
    annex, issuer, api = annexed(house, "n02", who=names(12))
    agents, origin = iter(annex.agents.values()), house.origins[api.host]

    def asked(agent, *wanted, requests, method="GET", body=b"", fields=()):
        """One request of `agent`; how many reached the API."""
        before = len(mark.at(api.host))
        data = head(api.host, f"{method} /x HTTP/1.1", *fields).encode() + body
        answer = quick(agent.ask, api.host, data)
        expect(answer, *wanted)
        for name in ("dpop-nonce", "www-authenticate"):
            fail_unless(not answer.values(name), name, "reached the agent")
        seen = mark.at(api.host)[before:]
        fail_unless(len(seen) == requests, len(seen), "requests instead of", requests)
        jtis = [proof(r)[1]["jti"] for r in seen]
        fail_unless(len(set(jtis)) == len(jtis), "a proof was sent twice")
        return seen

    api.nonce = "n1"
    first = next(agents)
    seen = asked(first, 200, requests=2)
    fail_unless([proof(r)[1].get("nonce") for r in seen] == [None, "n1"], "nonces")
    asked(first, 200, requests=1)

    # Every answer brings the next nonce: whoever reads it is never challenged again (RFC 9449 §8.2).
    agent = next(agents)

    def rotating(record, conversation):
        status, fields, body = api.behave(record, conversation)
        if status == 200:
            api.nonce = secrets.token_urlsafe(8)
            fields = [*fields, ("dpop-nonce", api.nonce)]
        return status, fields, body
    origin.behave = rotating
    asked(agent, 200, requests=2)
    for _ in range(5):
        asked(agent, 200, requests=1)
    origin.behave, api.nonce = origin.default, None

    # Spellings of the same challenge.
    for value in ('dpop error="use_dpop_nonce"', "DPoP error=use_dpop_nonce",
                  ["Basic realm=\"a, DPoP x\"", 'DPoP error="use_dpop_nonce"'],
                  'Bearer realm="x", DPoP algs="ES256", error="use_dpop_nonce"'):
        agent, fresh = next(agents), secrets.token_urlsafe(8)

        def once(record, conversation, fresh=fresh, value=value):
            if proof(record)[1].get("nonce") == fresh:
                return api.behave(record, conversation)
            return challenge((fresh,), value)(record, conversation)
        origin.behave = once
        seen = asked(agent, 200, requests=2)
        fail_unless(proof(seen[1])[1]["nonce"] == fresh, "nonce")
    # What was buffered is sent again, byte for byte; what was not is the agent's to send again.
    api.nonce, origin.behave, agent = "n2", origin.default, next(agents)
    body = secrets.token_bytes(65536)
    seen = asked(agent, 200, requests=2, method="POST", body=body, fields=["Content-Length: 65536"])
    fail_unless([r.body for r in seen] == [body, body], "the body changed")
    api.nonce, agent = "n3", next(agents)
    big = secrets.token_bytes(300000)
    for wanted in ((503, "dpop-nonce-retry"), 200):
        seen = asked(agent, wanted, requests=1, method="POST", body=big, fields=["Content-Length: 300000"])
    fail_unless(seen[0].body == big, "the body changed")


@case("N02", "no loop, whatever the API asks for", private=True)
def run(house, mark):
    annex, issuer, api = annexed(house, "n02loop", who=names(12))
    agents, origin = iter(annex.agents.values()), house.origins[api.host]
    fresh = lambda record: (secrets.token_urlsafe(8),)  # noqa: E731
    # What it answers, and how many requests that is worth.
    table = [(challenge(fresh), 2), (challenge(("same",)), 2), (challenge(()), 1), (challenge(("one", "two")), 1),
             (challenge(("x" * 5000,)), 1), (challenge(('a"b',)), 1), (challenge(("a b",)), 1), (challenge(("",)), 1)]
    for number, (behave, most) in enumerate(table):
        before = len(mark.at(api.host))
        origin.behave = behave
        answer = quick(next(agents).get, api.host, "/x")
        fail_unless(answer.code == "dpop-nonce-loop", "row", number, "answered", answer.status, answer.code)
        seen = mark.at(api.host)[before:]
        fail_unless(len(seen) == most, "row", number, "made", len(seen), "requests instead of", most)
        for record in seen[1:]:
            fail_unless(len(proof(record)[1]["nonce"]) <= 4096, "a giant nonce was kept")


@case("N03", "the issuer's nonce is the issuer's, the API's is the API's", private=True)
def run(house, mark):
    annex, issuer, api = annexed(house, "n03", who=names(6))
    agents = iter(annex.agents.values())
    wanted = {"issuer": "as-nonce-1"}

    def strict(record, _):
        if proof(record)[1].get("nonce") != wanted["issuer"]:
            return 400, [*JSON, ("dpop-nonce", wanted["issuer"])], '{"error":"use_dpop_nonce"}'
        return issuer.grant(record)
    issuer.answer, api.nonce = strict, "rs-nonce-1"
    agent = next(agents)
    expect(quick(agent.get, api.host, "/x"), 200)
    asked = [r for r in mark.at(issuer.host) if r.target == "/token"]
    fail_unless([proof(r)[1].get("nonce") for r in asked] == [None, "as-nonce-1"], "at the issuer:", len(asked))
    fail_unless([proof(r)[1].get("nonce") for r in mark.at(api.host)] == [None, "rs-nonce-1"], "at the API")
    fail_unless(len({proof(r)[1]["jti"] for r in asked}) == 2, "a proof was sent twice")
    # It never stops asking: two requests, and the agent hears of an issuer that cannot be used.
    loops = [lambda r, _: (400, [*JSON, ("dpop-nonce", secrets.token_urlsafe(8))], '{"error":"use_dpop_nonce"}'),
             lambda r, _: (400, [*JSON, ("dpop-nonce", "same")], '{"error":"use_dpop_nonce"}')]
    for answer in loops:
        issuer.answer, before = answer, issuer.asked
        expect(quick(next(agents).get, api.host, "/x"), (503, "as-unavailable"))
        fail_unless(issuer.asked - before == 2, issuer.asked - before, "token requests")
    for fields in ([], [("dpop-nonce", "a"), ("dpop-nonce", "b")], [("dpop-nonce", "x" * 5000)]):
        issuer.answer, before = (lambda r, _, f=fields: (400, [*JSON, *f], '{"error":"use_dpop_nonce"}')), issuer.asked
        expect(quick(next(agents).get, api.host, "/x"), (503, "as-unavailable"))
        fail_unless(issuer.asked - before == 1, issuer.asked - before, "token requests")


@case("N03", "a nonce goes back to the origin that gave it, and a cold start asks once", private=True)
def run(house, mark):
    issuer, api = realm(house, "n03a")
    other = DpopApi(issuer, "api-n03b.test")
    house.open_origin(other.host).default = other.behave
    house.origins[other.host].reset()
    house.credentialed.add(other.host)
    issuer.secret = secrets.token_urlsafe(24)
    annex = Annex(house, {"one": oauth("own", api.host), "two": oauth("own", other.host)}, issuers={"own": issuer.url},
                  environment={"AS_SECRET": issuer.secret}, owners=[issuer])
    agent, api.nonce = annex.agents["A"], "of-one"
    # Twelve requests that all need the first token: one token request, and each is challenged at most once.
    with agent.h2(api.host) as connection:
        for number in [connection.request(connection.head(api.host, f"/{i}")) for i in range(12)]:
            expect(connection.wait(number), 200)
    fail_unless(issuer.asked == 1, issuer.asked, "token requests")
    targets = [r.target for r in mark.at(api.host)]
    fail_unless(all(targets.count(t) <= 2 for t in targets), "challenged more than once:", targets)
    expect(agent.get(other.host, "/x"), 200)
    foreign = [proof(r)[1].get("nonce") for host in (other.host, issuer.host) for r in mark.at(host) if r.values("dpop")]
    fail_unless(foreign and not any(foreign), "a nonce went elsewhere:", foreign)
    keys = {host: {json.dumps(proof(r)[0]["jwk"], sort_keys=True) for r in mark.at(host)} for host in (api.host, other.host)}
    fail_unless(not keys[api.host] & keys[other.host], "two services share a key")


@case("N04", "no proof twice: connections, agents, restarts, replicas", private=True)
def run(house, mark):
    annex, issuer, api = annexed(house, "n04", who=names(2), log="info")
    other = Annex(house, {"api": oauth("own", api.host)}, issuers={"own": issuer.url}, environment=annex.given,
                  owners=[issuer], who=names(2), log="info")

    def many(agent, count):
        with agent.h2(api.host) as connection:
            for number in [connection.request(connection.head(api.host, f"/{i}")) for i in range(count)]:
                expect(connection.wait(number), 200)
    for _ in range(2):
        together(*(lambda a=a: many(a, 30) for a in [*annex.agents.values(), *other.agents.values()]))
        annex.again("info")
    for agent in annex.agents.values():
        many(agent, 5)
    claims = [proof(r)[1]["jti"] for host in (api.host,
                                              issuer.host) for r in mark.at(host) if r.method == "POST" or host == api.host]
    fail_unless(len(claims) >= 250, len(claims), "proofs")
    fail_unless(len(set(claims)) == len(claims), len(claims) - len(set(claims)), "proofs came twice")
    fail_unless(all(len(unpadded(c)) >= 16 for c in claims), "a jti of less than 128 bits")


# --- N05: clocks

def skewed(server, seconds, window=10):
    """A server whose clock goes `seconds` ahead, and which says so."""
    def judge(record, refuse, accept):
        date = ("date", formatdate(time.time() + seconds, usegmt=True))
        good = abs(proof(record)[1]["iat"] - time.time() - seconds) <= window
        status, fields, body = accept() if good else refuse
        return status, [*fields, date], body
    return judge


@case("N05", "a server's clock is learnt from its Date, once and within bounds", private=True)
def run(house, mark):
    refused = (401, [("www-authenticate", 'DPoP error="invalid_dpop_proof"')], "")
    for seconds, wanted in ((120, 200), (-120, 200), (3600, (502, "dpop-proof-rejected")), (-3600, (502, "dpop-proof-rejected"))):
        title = f"n05{'m' if seconds < 0 else 'p'}{abs(seconds)}"
        annex, issuer, api = annexed(house, title, who=names(1))
        judge = skewed(api, seconds)
        # The proof itself is not judged by the API's own window here: DpopApi takes 60 s.
        house.origins[api.host].behave = lambda r, c, j=judge: j(r, refused, lambda: ordinary(r, c))
        before = len(mark.at(api.host))
        agent = annex.agents["a0"]
        expect(quick(agent.get, api.host, "/x"), wanted)
        seen = mark.at(api.host)[before:]
        fail_unless(len(seen) <= 2, len(seen), "requests")
        for record in seen:
            fail_unless(abs(proof(record)[1]["iat"] - time.time()) <= 610, "iat left its bounds")
        if wanted == 200:
            before = len(mark.at(api.host))
            expect(agent.get(api.host, "/y"), 200)
            fail_unless(len(mark.at(api.host)) - before == 1, "it was refused again")


@case("N05", "an API that refuses every proof gets two, an issuer as well", private=True)
def run(house, mark):
    annex, issuer, api = annexed(house, "n05", who=names(2))
    refused = (401, [("www-authenticate", 'DPoP error="invalid_dpop_proof"'),
                     ("date", formatdate(time.time() + 90, usegmt=True))], "")
    house.origins[api.host].behave = lambda r, c: refused
    expect(quick(annex.agents["a0"].get, api.host, "/x"), (502, "dpop-proof-rejected"))
    fail_unless(len(mark.at(api.host)) <= 2, len(mark.at(api.host)), "requests")
    issuer.answer = lambda r, c: (400, [*JSON, ("date", formatdate(time.time() + 90, usegmt=True))],
                                  '{"error":"invalid_dpop_proof"}')
    before = issuer.asked
    answer = quick(annex.agents["a1"].get, api.host, "/x")
    expect(answer, (403, "client-misconfigured"), 503)
    fail_unless(issuer.asked - before <= 2, issuer.asked - before, "token requests")


@case("N06", "nothing hands out a proof", lines_wanted=None)
def run(house, mark):
    # Whatever an agent might hope to find on the port that it can reach, with and without its name.
    for agent in (house.A, house.Z):
        for line in ("GET /proof", "POST /dpop", "POST /sign", "GET /token", "GET /v1/items/1", "GET /.well-known/jwks.json",
                     "GET /jwks", "GET /grants", "GET /status", "OPTIONS /proof"):
            with agent.plain() as stream:
                stream.send(f"{line}?htu=https%3A%2F%2F{RO}%2Fv1%2Fadmin&htm=DELETE HTTP/1.1\r\nHost: {RO}\r\n{agent.authorization}"
                            "Content-Length: 0\r\n\r\n")
                try:
                    answer = stream.answer()
                except Closed:
                    continue
                fail_unless(answer.status >= 400, line, "was answered", answer.status)
                fail_unless(b"eyJ" not in answer.body and not answer.values("dpop"), "a proof for", line)
    fail_unless(not mark.everywhere(), "it went out:", [r.target for r in mark.everywhere()])
    # What is signed is what was judged, at the time when it goes out: an agent's wishes for it are not heard.
    wishes = ["DPoP: htm=DELETE", "X-DPoP-HTU: https://evil.test/", "X-Tokenward-Proof: 1", "Prefer: return=dpop"]
    answer = house.A.ask(RO, head(RO, "GET /v1/items/1 HTTP/1.1", *wishes))
    expect(answer, 200)
    fail_unless(not [n for n, v in answer.fields if "dpop" in n or "eyJ" in v], "proof in", answer.fields)
    record = mark.at(RO)[-1]
    fail_unless(proof(record)[1]["htu"] == f"https://{RO}/v1/items/1" and abs(proof(record)[1]["iat"] - time.time()) < 5, "proof")


# --- N07, N08: what issuers answer

@case("N07", "a token that is not bound is not taken", private=True)
def run(house, mark):
    kinds = ["Bearer", "bearer", "N_A", "DPoPx", "mac", None, 7, "DPoP Bearer", " DPoP", "DPoP\u0000"]
    annex, issuer, api = annexed(house, "n07", who=names(len(kinds) + 4))
    agents = iter(annex.agents.values())

    def answers(more, drop=()):
        def answer(record, _):
            status, fields, body = issuer.grant(record, more)
            document = {k: v for k, v in json.loads(body).items() if k not in drop}
            return status, fields, json.dumps(document)
        return answer
    def revocable(record, conversation):
        if record.target == "/revoke":
            return 200, [], ""
        status, fields, body = issuer.behave(record, conversation)
        if "well-known" in record.target:
            body = json.dumps({**json.loads(body), "revocation_endpoint": f"{issuer.url}/revoke"})
        return status, fields, body
    house.origins[issuer.host].behave = revocable
    for kind in kinds:
        issuer.answer = answers({"token_type": kind}, ("token_type",) if kind is None else ())
        answer = quick(next(agents).get, api.host, "/x")
        expect(answer, (502, "downgrade-refused"), *([(503, "as-unavailable")] if kind == 7 else []))
        fail_unless(not mark.at(api.host), "the API saw a token of type", kind)
    fail_unless(len(annex.events("downgrade.refused")) >= len(kinds) - 1, "events:", len(annex.events("downgrade.refused")))
    # What is not taken is handed back (RFC 7009), where the issuer has an endpoint for it: nobody else may find it in use.
    # (Metadata is read once an hour, so this realm's has had it from the start.)
    revoked = [urllib.parse.parse_qs(r.body.decode()) for r in mark.at(issuer.host) if r.target == "/revoke"]
    fail_unless(len(revoked) >= len(kinds) - 1 and all(f["token"][0] in issuer.tokens for f in revoked), len(revoked),
                "handed back")
    # A JWT that names another key.
    claims = base64url(json.dumps({"cnf": {"jkt": base64url(secrets.token_bytes(32))}}).encode())
    jwt = f"{base64url(b'{}')}.{claims}.{base64url(secrets.token_bytes(32))}"
    issuer.answer = answers({"access_token": jwt})
    expect(quick(next(agents).get, api.host, "/x"), (502, "binding-mismatch"))
    fail_unless(not mark.at(api.host), "the API saw a foreign token")
    # The type is compared without case (RFC 6749 §5.1), and a bound token stays bound whatever the API says.
    issuer.answer = answers({"token_type": "dpop"})
    agent = next(agents)
    expect(quick(agent.get, api.host, "/x"), 200)
    house.origins[api.host].behave = lambda r, c: (401, [("www-authenticate", 'Bearer realm="x", error="invalid_request"')], "")
    expect(quick(agent.get, api.host, "/x"), (502, "upstream-unauthorized"))
    schemes = {v.split()[0] for r in mark.at(api.host) for v in r.values("authorization")}
    fail_unless(schemes == {"DPoP"}, schemes)


@case("N07", "a service that is declared bearer takes bearer", private=True)
def run(house, mark):
    annex, issuer, api = annexed(house, "n07b", more=", binding: bearer", who=names(2))
    house.origins[api.host].behave = ordinary
    token = f"plain-{secrets.token_urlsafe(24)}"
    issuer.tokens[token] = ("", f"https://{api.host}", "")
    kinds = iter(["Bearer", "DPoP"])
    issuer.answer = lambda r, c: (200, JSON, json.dumps({"access_token": token, "token_type": next(kinds), "expires_in": 60}))
    expect(quick(annex.agents["a0"].get, api.host, "/x"), 200)
    record = mark.at(api.host)[0]
    fail_unless(record.values("authorization") == [f"Bearer {token}"] and not record.values("dpop"), "credential")
    # Bound to a key that nobody has: of no use, and sent as what it is not it would be a lie.
    answer = quick(annex.agents["a1"].get, api.host, "/x")
    fail_unless(answer.status in (403, 502) and answer.code, "answered", answer.status)
    fail_unless(len(mark.at(api.host)) == 1, "it went out")


def token_answer(**more):
    return json.dumps({"access_token": "never-" + secrets.token_urlsafe(16), "token_type": "DPoP", "expires_in": 60, **more})


UNAVAILABLE, MISCONFIGURED = (503, "as-unavailable"), (403, "client-misconfigured")
# (what an issuer answers a token request, what agents may be told)
SPOILT = [
    ((200, [("content-type", "text/html")], "<html><body>Please log in</body></html>"), [UNAVAILABLE]),
    ((200, [("content-type", "text/html")], token_answer()), [UNAVAILABLE]),
    ((200, [], token_answer()), [UNAVAILABLE]),
    ((500, [], "oops"), [UNAVAILABLE]), ((503, [("retry-after", "7")], ""), [UNAVAILABLE]), ((429, [], ""), [UNAVAILABLE]),
    ((502, JSON, token_answer()), [UNAVAILABLE]), ((201, JSON, token_answer()), [UNAVAILABLE]), ((204, [], ""), [UNAVAILABLE]),
    ((404, JSON, token_answer()), [UNAVAILABLE, MISCONFIGURED]),
    ((302, [("location", "https://evil.test/token")], ""), [UNAVAILABLE, (502, "as-metadata-invalid")]),
    ((307, [("location", "https://evil.test/token")], ""), [UNAVAILABLE, (502, "as-metadata-invalid")]),
    ((308, [("location", "https://as.test/token")], ""), [UNAVAILABLE, (502, "as-metadata-invalid")]),
    ((200, JSON, token_answer(pad="x" * 10_000_000)), [UNAVAILABLE]),
    ((200, JSON, '{"access_token":"x","token_type":"DPoP","a":' + "[" * 100_000 + "]" * 100_000 + "}"), [UNAVAILABLE]),
    ((200, JSON, '{"access_token":"x","token_type":"DPoP","a":' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "}"), [UNAVAILABLE]),
    ((200, JSON, '{"access_token":"one","access_token":"two","token_type":"DPoP","expires_in":60}'), [UNAVAILABLE]),
    ((200, JSON, '{"token_type":"Bearer","access_token":"one","token_type":"DPoP","expires_in":60}'), [UNAVAILABLE]),
    ((200, JSON, token_answer(expires_in=-1)), [UNAVAILABLE]), ((200, JSON, token_answer(expires_in="soon")), [UNAVAILABLE]),
    ((200, JSON, token_answer(expires_in=0)), [UNAVAILABLE]), ((200, JSON, token_answer(expires_in=1.5)), [UNAVAILABLE]),
    ((200, JSON, token_answer(access_token="")), [UNAVAILABLE]), ((200, JSON, token_answer(access_token=7)), [UNAVAILABLE]),
    ((200, JSON, token_answer(access_token="a\r\nX-Evil: 1")), [UNAVAILABLE]),
    ((200, JSON, token_answer(access_token="a\u0000b")), [UNAVAILABLE]),
    ((200, JSON, token_answer(access_token="a b")), [UNAVAILABLE]),
    ((200, JSON, token_answer(access_token="\u00e9")), [UNAVAILABLE]),
    ((200, JSON, token_answer(access_token="x" * 40_000)), [UNAVAILABLE]),
    ((200, JSON, token_answer(scope=["a"])), [UNAVAILABLE]),
    ((200, JSON, "null"), [UNAVAILABLE]), ((200, JSON, "[]"), [UNAVAILABLE]), ((200, JSON, '"x"'), [UNAVAILABLE]),
    ((200, JSON, ""), [UNAVAILABLE]), ((200, JSON, token_answer()[:-5]), [UNAVAILABLE]),
    ((200, JSON, token_answer() + "x"), [UNAVAILABLE]),
    ((200, JSON, b"\xff\xfe{}"), [UNAVAILABLE]),
    ((200, [*JSON, ("content-encoding", "gzip")], gzip.compress(token_answer().encode())), [UNAVAILABLE]),
    ((401, JSON, '{"error":"invalid_client","error_description":"no"}'), [MISCONFIGURED]),
    ((400, JSON, '{"error":"<script>"}'), [MISCONFIGURED]),
    ((400, JSON, '{"error":"invalid_grant"}'), [(403, "reauthorization-required")]),
]


@case("N08", "an issuer's nonsense: 503 for agents, nothing kept, nothing followed", private=True, lines_wanted=None)
def run(house, mark):
    annex, issuer, api = annexed(house, "n08", who=names(len(SPOILT) + 1))
    agents = list(annex.agents.values())
    for number, ((status, fields, body), wanted) in enumerate(SPOILT):
        issuer.answer, before = (lambda r, c: (status, fields, body)), issuer.asked
        answer = quick(agents[number].get, api.host, "/x")
        try:
            expect(answer, *wanted)
        except AssertionError as error:
            raise AssertionError(f"row {number}, {body[:60]!r}: {error}") from error
        fail_unless(issuer.asked - before <= 2, "row", number, "made", issuer.asked - before, "token requests")
        fail_unless(b"evil" not in answer.body and b"script" not in answer.body, "an issuer's words reached the agent")
        if answer.status == 503:
            fail_unless(answer.values("retry-after"), "no Retry-After in row", number)
    fail_unless(not mark.at(api.host), "the API was asked with", mark.at(api.host))
    fail_unless("evil.test" not in mark.dialled() and "as.test" not in mark.dialled(), "a redirect was followed")
    issuer.answer = None
    expect(quick(agents[-1].get, api.host, "/x"), 200)


@case("N08", "issuers in trouble: the old token serves to its end, who waits hears of it in time", private=True)
def run(house, mark):
    together(lambda: failing_renewal(house, mark), lambda: dripping_issuer(house))


def failing_renewal(house, mark):
    annex, issuer, api = annexed(house, "n08old", who=("A",))
    issuer.lifetime = 5
    agent = annex.agents["A"]
    start = time.monotonic()
    expect(agent.get(api.host, "/x"), 200)
    issuer.answer = lambda r, c: (500, [], "")
    outcomes = []
    with agent.tunnel(api.host) as stream:
        while time.monotonic() - start < 5.6:
            stream.send(head(api.host, "GET /y HTTP/1.1"))
            outcomes.append((time.monotonic() - start, stream.answer().status))
            time.sleep(0.2)
    fail_unless(all(status == 200 for at, status in outcomes if at < 4), "refused before its end:", outcomes)
    fail_unless(outcomes[-1][1] == 503, "served after its end:", outcomes[-1])
    fail_unless(issuer.asked >= 2, "no renewal was tried")
    # The pause between attempts doubles: an issuer in trouble is not stormed.
    fail_unless(issuer.asked <= 12, issuer.asked, "token requests")
    used = {v for r in mark.at(api.host) for v in r.values("authorization")}
    fail_unless(len(used) == 1, len(used), "tokens")


def dripping_issuer(house):
    """It never finishes its answer: whoever needs a token hears of that, whoever has one is served."""
    annex, issuer, api = annexed(house, "n08slow", who=names(3))
    agents = annex.agents
    expect(agents["a0"].get(api.host, "/x"), 200)

    def drip(record, conversation):
        conversation.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n")
        for _ in range(60):
            conversation.send(b" ")
            time.sleep(0.25)
        raise ConnectionError

    issuer.answer = drip

    def slow(name):
        answer = quick(agents[name].get, api.host, "/x", seconds=12)
        expect(answer, (504, "as-unavailable"), (503, "as-unavailable"))

    def others():
        for _ in range(5):
            quick(lambda: expect(agents["a0"].get(api.host, "/y"), 200), seconds=1)
            time.sleep(0.2)
    together(lambda: slow("a1"), lambda: slow("a2"), others)


# --- N12: which issuer

@case("N12", "metadata that is not the issuer's own", private=True, lines_wanted=None)
def run(house, mark):
    issuer, api = realm(house, "n12")
    good, good_api = realm(house, "n12good")
    issuer.secret = good.secret = secrets.token_urlsafe(24)
    wrong = house.open_origin("as-n12wrong.test", names=["elsewhere.test"])
    house.issuing.add("as-n12wrong.test")

    def document(path, **changed):
        base = {"issuer": issuer.url + path, "token_endpoint": f"{issuer.url}/token", "response_types_supported": ["code"],
                "dpop_signing_alg_values_supported": ["ES256"]}
        return json.dumps({k: v for k, v in {**base, **changed}.items() if v is not ...})
    text = lambda body, kind="application/json", status=200, more=(): (status, [("content-type", kind), *more],
            body)  # noqa: E731
    rows = [
        # The issuer that it claims to be.
        lambda p: text(document(p, issuer=good.url)), lambda p: text(document(p, issuer=issuer.url + p + "/")),
        lambda p: text(document(p, issuer=issuer.url.upper() + p)), lambda p: text(document(p, issuer=...)),
        lambda p: text(document(p, issuer=[issuer.url + p])), lambda p: text(document(p, issuer=f"https://as-n12.test:443{p}")),
        lambda p: text('{"issuer":"' + good.url + '",' + document(p)[1:]),
        # The endpoint that it names.
        lambda p: text(document(p, token_endpoint="http://as-n12.test/token")),
        lambda p: text(document(p, token_endpoint="/token")),
        lambda p: text(document(p, token_endpoint="https://as-n12.test@evil.test/token")),
        lambda p: text(document(p, token_endpoint=...)),
        lambda p: text(document(p, token_endpoint="https://as-n12.test/token#x")),
        lambda p: text(document(p, token_endpoint="https://127.0.0.1/token")),
        lambda p: text(document(p, token_endpoint="https://169.254.169.254/token")),
        lambda p: text(document(p, token_endpoint="https://10.77.0.1:3128/token")),
        lambda p: text(document(p, token_endpoint="https://10.77.0.1:9901/metrics")),
        lambda p: text(document(p, token_endpoint="https://[::1]/token")),
        lambda p: text(document(p, token_endpoint="https://as-n12wrong.test/token")),  # a certificate for another name
        # Other answers than metadata.
        lambda p: text("", status=302, more=[("location", f"{good.url}/.well-known/oauth-authorization-server")]),
        lambda p: text("", status=307, more=[("location", "https://evil.test/")]),
        lambda p: text("<html>", "text/html"), lambda p: text(document(p, pad="x" * 5_000_000)), lambda p: text("[" * 100_000),
        lambda p: text(document(p, dpop_signing_alg_values_supported=["HS256", "none"])),
    ]
    by_path = {f"/i{n}": row for n, row in enumerate(rows)}

    def behave(record, conversation):
        for path, row in by_path.items():
            if record.target.endswith(path) or record.target.startswith(path + "/"):
                return row(path)
        return issuer.behave(record, conversation)
    house.origins[issuer.host].behave = behave
    services, allowed, issuers, agents = {}, {}, {"good": good.url}, []
    for n, path in enumerate(by_path):
        services[f"s{n}"] = oauth(f"i{n}", api.host)
        issuers[f"i{n}"], allowed[f"a{n}"] = issuer.url + path, [f"s{n}"]
        agents.append(f"a{n}")
    annex = Annex(house, services, who=agents, allowed=allowed, issuers=issuers, environment={"AS_SECRET": issuer.secret},
                  owners=[issuer, good])
    before, before_good = issuer.asked, good.asked
    for n, name in enumerate(agents):
        answer = quick(annex.agents[name].get, api.host, "/x")
        fail_unless(answer.status in (403, 502, 503, 504) and answer.code, "row", n, "answered", answer.status, answer.body[:100])
        fail_unless(b"://" not in answer.body.replace(b"urn:", b""), "row", n, "tells", answer.body)
    fail_unless(issuer.asked == before and good.asked == before_good, "the client's secret was sent to", issuer.asked - before,
                good.asked - before_good)
    fail_unless(not mark.at(api.host) and not mark.at(wrong.name), "a request went out")
    fail_unless("evil.test" not in mark.dialled() and "as.test" not in mark.dialled(), "dialled", mark.dialled())


@case("N12", "mix-up: one issuer's metadata names another issuer's endpoint", private=True)
def run(house, mark):
    bad, api = realm(house, "n12bad")
    good, good_api = realm(house, "n12honest")
    bad.secret, good.secret = (f"sec-{secrets.token_urlsafe(24)}" for _ in range(2))

    def behave(record, conversation):
        status, fields, body = bad.behave(record, conversation)
        if "well-known" in record.target:
            body = json.dumps({**json.loads(body), "token_endpoint": f"{good.url}/token"})
        return status, fields, body
    house.origins[bad.host].behave = behave
    services = {"bad": oauth("bad", api.host, secret="{secret_post: {env: BAD}}"),
                "good": oauth("good", good_api.host, secret="{secret_post: {env: GOOD}}")}
    annex = Annex(house, services, issuers={"bad": bad.url, "good": good.url},
                  environment={"BAD": bad.secret, "GOOD": good.secret},
                  owners=[bad, good])
    good.answer = lambda r, c: (400, JSON, '{"error":"invalid_client"}')
    answer = quick(annex.agents["A"].get, api.host, "/x")
    fail_unless(not good.asked, "the other issuer was sent what is not meant for it")
    expect(answer, (502, "as-metadata-invalid"), (503, "as-unavailable"))


# --- N13: where secrets go

@case("N13", "client secrets and assertions in their one place", private=True)
def run(house, mark):
    issuer, api = realm(house, "n13")
    # Characters that an encoder gets wrong.
    issuer.secret = f"s:{secrets.token_urlsafe(12)}+%2B&= {secrets.token_urlsafe(12)}"
    key = ec.generate_private_key(ec.SECP256R1())
    (house.dir / "n13.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                                          serialization.NoEncryption()))
    kinds = {"basic": "{secret_basic: {env: S}}", "post": "{secret_post: {env: S}}", "public": "none",
             "jwt": f'{{private_key_jwt: {{key: {{file: "{house.dir / "n13.pem"}"}}, kid: k1}}}}'}
    assertions, seen = [], {}

    def answer(record, _):
        form = dict(urllib.parse.parse_qsl(record.body.decode(), keep_blank_values=True))
        basic = record.values("authorization")
        kind = "jwt" if "client_assertion" in form else "basic" if basic else "post" if "client_secret" in form else "public"
        seen[kind] = seen.get(kind, 0) + 1
        if kind == "basic":
            pair = base64.b64decode(basic[0].split()[1]).decode()
            who, _, told = pair.partition(":")
            good = [urllib.parse.unquote_plus(t) for t in (who, told)] == ["corpus", issuer.secret] and "client_secret" not in form
        elif kind == "post":
            good = form["client_secret"] == issuer.secret and form["client_id"] == "corpus"
        elif kind == "jwt":
            assertions.append(form["client_assertion"])
            claims = json.loads(unpadded(form["client_assertion"].split(".")[1]))
            good = claims["aud"] in (issuer.url, [issuer.url]) and claims["sub"] == claims["iss"] == "corpus" and not basic
            if seen[kind] == 1:
                return 400, [*JSON, ("dpop-nonce", "again")], '{"error":"use_dpop_nonce"}'
        else:
            good = form["client_id"] == "corpus"
        if not good:
            return 401, JSON, '{"error":"invalid_client"}'
        jkt = issuer.proofs.check(*record.values("dpop"), "POST", issuer.url + "/token")
        token = "at-" + secrets.token_urlsafe(32)
        issuer.tokens[token] = (jkt, f"https://{api.host}", "")
        return 200, JSON, json.dumps({"access_token": token, "token_type": "DPoP", "expires_in": 60})
    issuer.answer = answer
    services = {name: oauth("own", api.host, secret=kind) for name, kind in kinds.items()}
    annex = Annex(house, services, who=kinds, allowed={name: [name] for name in kinds}, issuers={"own": issuer.url},
                  environment={"S": issuer.secret}, owners=[issuer])
    for name in kinds:
        expect(quick(annex.agents[name].get, api.host, "/x"), 200)
    fail_unless(seen == {"basic": 1, "post": 1, "public": 1, "jwt": 2}, seen)
    for record in mark.at(issuer.host):
        fail_unless("?" not in record.target, "a query:", record.target)
        text = record.target + "".join(f"{n}: {v}\n" for n, v in record.fields if n != "authorization")
        for form in (issuer.secret, urllib.parse.quote(issuer.secret), urllib.parse.quote_plus(issuer.secret)):
            fail_unless(form not in text, "the secret stands in the URL or a field")
        fail_unless(record.sni == issuer.host, "SNI", record.sni)
    jtis = [json.loads(unpadded(a.split(".")[1]))["jti"] for a in assertions]
    fail_unless(len(set(jtis)) == 2, "an assertion was sent twice")
    # What nobody but the issuer may see, at trace level too. (The oracle looks for the secrets themselves.)
    written = annex.written()
    for assertion in assertions:
        fail_unless(assertion.encode() not in written and assertion.split(".")[2].encode() not in written,
                    "an assertion was written")
    fail_unless(b"\n".join(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                             serialization.NoEncryption()).splitlines()[1:-1]) not in written,
                                             "the key was written")


@case("N13", "issuers that throw our secret back at us", private=True)
def run(house, mark):
    annex, issuer, api = annexed(house, "n13echo", who=names(5))
    answers = [
        lambda r, c: (400, JSON, json.dumps({"error": "invalid_client", "error_description": issuer.secret,
                                             "error_uri": f"https://x/{issuer.secret}"})),
        lambda r, c: (401, [*JSON, ("www-authenticate", f'Basic realm="{issuer.secret}"')], '{"error":"invalid_client"}'),
        lambda r, c: (500, [("content-type", "text/plain")],
                      f"panic at {issuer.secret} {r.values('authorization')} {r.values('dpop')}"),
        lambda r, c: (302, [("location", f"https://evil.test/?s={issuer.secret}")], ""),
        lambda r, c: (200, [*JSON, ("set-cookie", f"s={issuer.secret}")],
                      issuer.grant(r, {"refresh_token": issuer.secret, "id_token": issuer.secret,
                                                                                          "error_description": issuer.secret})[2]),
    ]
    for answer, agent in zip(answers, annex.agents.values()):
        issuer.answer = answer
        got = quick(agent.get, api.host, "/x")
        fail_unless(got.status == 200 or got.code, got.status)
    fail_unless(not any(r.values("cookie") for r in mark.at(issuer.host)), "a cookie was kept")
    # The oracle I1 looks for the secret in everything that was written or said.


@case("N14", "scopes: asked for exactly, and what comes back is believed", private=True)
def run(house, mark):
    issuer, api = realm(house, "n14")
    issuer.secret = secrets.token_urlsafe(24)
    rules = ('[{allow: "GET /read/**", scopes: ["items:read", "items:list"]}, {allow: "POST /write/**", scopes: ["items:write"]}, '
             '{allow: "GET /plain/**"}]')
    annex = Annex(house, {"api": oauth("own", api.host, rules=rules)}, who=names(9), issuers={"own": issuer.url},
                  environment={"AS_SECRET": issuer.secret}, owners=[issuer])
    agents = iter(annex.agents.values())

    def forms():
        return [dict(urllib.parse.parse_qsl(r.body.decode())) for r in mark.at(issuer.host) if r.method == "POST"]
    agent = next(agents)
    expect(agent.get(api.host, "/read/1"), 200)
    expect(agent.ask(api.host, head(api.host, "POST /write/1 HTTP/1.1", "Content-Length: 0")), 200)
    expect(agent.get(api.host, "/plain/1"), 200)
    asked = [set(f["scope"].split()) if "scope" in f else None for f in forms()]
    fail_unless(asked == [{"items:read", "items:list"}, {"items:write"}, None], "asked for", asked)
    tokens = [r.values("authorization")[0][5:] for r in mark.at(api.host)]
    fail_unless([set(issuer.tokens[t][2].split()) for t in tokens] == [{"items:read", "items:list"}, {"items:write"}, set()],
                "a token of other scopes was used")
    # More than asked for, another one, less: not used, and somebody hears of it.
    for granted in ("items:read items:list admin", "admin", "items:read", ""):
        issuer.answer = lambda r, c, g=granted: issuer.grant(r, {"scope": g})
        before = len(mark.at(api.host))
        answer = quick(next(agents).get, api.host, "/read/1")
        expect(answer, (403, "scope-denied"), *([200, (503, "as-unavailable")] if granted == "" else []))
        if answer.status != 200:
            fail_unless(len(mark.at(api.host)) == before, "it went out with", granted)
    fail_unless(len(annex.events("scope.changed")) >= 3, "events:", [e["event"] for e in annex.lines()])
    # The same ones in another order are the same; none told is what was asked for (RFC 6749 §5.1).
    issuer.answer = lambda r, c: issuer.grant(r, {"scope": "items:list items:read"})
    expect(next(agents).get(api.host, "/read/1"), 200)

    def silent(record, _):
        status, fields, body = issuer.grant(record)
        return status, fields, json.dumps({k: v for k, v in json.loads(body).items() if k != "scope"})
    issuer.answer = silent
    expect(next(agents).get(api.host, "/read/1"), 200)
