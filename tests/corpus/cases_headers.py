"""Class G: fields, and where credentials go. What an agent brings is taken off; what is ours is set last, once, in its place."""

import base64
import json
import secrets
import time

from annex import Annex, oauth, realm
from cases import case, expect, head
from house import fail_unless, wait_until

RO, RW, ECHO = "api.ro.test", "api.rw.test", "echo.test"
# Two that get a credential each its own way, one that gets another field, one that gets none.
PATHS = {RO: "/v1/items/1", RW: "/v1/items", ECHO: "/x", "h11.rw.test": "/v1/items/1", "mal.test": "/x"}
STOLEN = "stolen-" + "s" * 24


def ours(house, host, record):
    """The record has the credential of its service and no other."""
    said, key = record.values("authorization"), record.values("x-api-key")
    if host in (RO, RW):
        fail_unless(len(said) == 1 and said[0].startswith("DPoP at-") and len(record.values("dpop")) == 1, host, "received", said, record.values("dpop"))
    elif host == ECHO:
        fail_unless(said == [f"Bearer {house.secrets['ECHO_TOKEN']}"] and not record.values("dpop"), host, "received", said)
    elif host == "mal.test":
        fail_unless(not said and not key and not record.values("dpop"), host, "received", said, key)
    else:
        fail_unless(key == [house.secrets["PARSER_KEY"]] and not said and not record.values("dpop"), host, "received", said, key)
    text = "\n".join([record.target, record.body.decode("latin-1"), *(f"{n}: {v}" for n, v in [*record.fields, *record.trailers])])
    fail_unless(STOLEN not in text, host, "received the agent's own credential")


def sent(house, mark, host, *lines, path=None, statuses=(200,), method="GET", body=""):
    """One request with these lines; what the origin received of it, or None where it was refused."""
    before = len(mark.at(host))
    answer = house.A.ask(host, head(host, f"{method} {path or PATHS[host]} HTTP/1.1", *lines, body=body))
    try:
        expect(answer, *statuses)
    except AssertionError as error:
        raise AssertionError(f"{host} {lines}: {error}") from error
    new = mark.at(host)[before:]
    fail_unless(len(new) == (answer.status == 200), host, lines, "reached the origin", len(new), "times after a", answer.status)
    if new:
        ours(house, host, new[0])
        return new[0]
    return None


BASIC = base64.b64encode(f"x:{STOLEN}".encode()).decode()
AUTHORIZATIONS = [
    [f"Authorization: Bearer {STOLEN}"], [f"Authorization: Bearer {STOLEN}", f"Authorization: Bearer {STOLEN}2"], [f"aUTHORIZATION: bearer {STOLEN}"], ["authorization:"], [f"authorization: {STOLEN}"], ["Authorization:   "],
    [f"Authorization: Bearer {STOLEN}", "authorization:"], [f"Authorization: Basic {BASIC}"], [f"Authorization: DPoP {STOLEN}", "DPoP: e30.e30.e30"], [f"Authorization: AWS4-HMAC-SHA256 Credential={STOLEN}"], [f"Authorization: Bearer {STOLEN}, DPoP {STOLEN}"],
    [f"Authorization: Digest username=\"{STOLEN}\""], [f"Authorization: Bearer\t{STOLEN}"], [f"Authorization: Bearer \xe9{STOLEN}"], [f"Authorization: Bearer {STOLEN * 200}"]]


@case("G01", "the agent's own Authorization")
def run(house, mark):
    for host in PATHS:
        for lines in AUTHORIZATIONS:
            sent(house, mark, host, *lines)


@case("G01", "over HTTP/2, and in its trailers")
def run(house, mark):
    for host in (RO, ECHO, "mal.test"):
        with house.A.h2(host) as h2:
            for more in ([("authorization", f"Bearer {STOLEN}")], [("authorization", f"Bearer {STOLEN}"), ("authorization", "")], [("authorization", ""), ("dpop", STOLEN), ("x-api-key", STOLEN)], [("cookie", f"token={STOLEN}")] if host != "mal.test" else []):
                expect(h2.get(host, PATHS[host], more), 200)
                ours(house, host, mark.at(host)[-1])
    with house.A.h2(ECHO) as h2:
        number = h2.request(h2.head(ECHO, "/t", "POST"), b"abc", trailers=[("authorization", f"Bearer {STOLEN}"), ("dpop", STOLEN), ("x-api-key", STOLEN), ("cookie", STOLEN), ("x-http-method-override", "DELETE")])
        expect(h2.wait(number), 200)
        fail_unless(not mark.at(ECHO)[-1].trailers, mark.at(ECHO)[-1].trailers)
        ours(house, ECHO, mark.at(ECHO)[-1])


KEYS = ["x-api-key", "X-Api-Key", "api-key", "apikey", "x-apikey", "X-Auth-Token", "x-access-token", "X-Goog-Api-Key", "x-rapidapi-key", "x-functions-key", "Ocp-Apim-Subscription-Key", "DD-API-KEY", "dd-application-key", "x-vault-token", "xi-api-key",
        "PRIVATE-TOKEN", "JOB-TOKEN", "X-GitHub-Token", "X-Shopify-Access-Token", "X-Amz-Security-Token", "CF-Access-Client-Secret", "CF-Access-Client-Id", "X-Authorization", "X-Token", "X-Auth", "x-auth-key", "X-Client-Secret", "Openai-Api-Key", "Anthropic-Api-Key",
        "X-Figma-Token", "x-goog-iap-jwt-assertion", "X-Access-Key", "X-Secret", "Cookie2"]


@case("G02", "an attacker's key at a host that is allowed")
def run(house, mark):
    for host in (RO, ECHO, "h11.rw.test"):
        record = sent(house, mark, host, *[f"{name}: {STOLEN}" for name in KEYS], f"Cookie: session={STOLEN}; token={STOLEN}", f"Authorization: Bearer {STOLEN}")
        left = {n for n, _ in record.fields} & ({k.lower() for k in KEYS} - {"x-api-key"} | {"cookie"})
        fail_unless(not left, host, "received", left)
    # Each alone: one that is taken must not be what takes the others.
    for name in KEYS:
        sent(house, mark, "h11.rw.test", f"{name}: {STOLEN}")
    # What is no credential stays.
    for line in ("Idempotency-Key: 7", "X-CSRF-Token: 7", "X-Page-Token: 7", "X-Request-Id: 7", "Cache-Control: no-store", "anthropic-version: 2023-06-01", "If-None-Match: \"7\""):
        name, _, value = line.partition(": ")
        record = sent(house, mark, ECHO, line)
        fail_unless(record.values(name.lower()) == [value], "lost:", line)


@case("G02", "a WebSocket's subprotocol as a credential", unheard=True)
def run(house, mark):
    # Browsers that cannot set fields put a key there.
    lines = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{STOLEN}, chat"]
    house.A.ask("ws.test", head("ws.test", "GET /socket HTTP/1.1", *lines))
    fail_unless(all(STOLEN not in v for r in mark.at("ws.test") for _, v in r.fields), mark.at("ws.test"))


@case("G03", "the agent's own proof")
def run(house, mark):
    own = "eyJ0eXAiOiJkcG9wK2p3dCJ9.e30." + STOLEN
    for host in PATHS:
        for lines in ([f"DPoP: {own}"], [f"DPoP: {own}", f"DPoP: {own}"], [f"dpop: {own}"], [f"dPoP:{own}", "DPOP:"], [f"DPoP: {own}, {own}"], ["DPoP: x", "DPoP-Nonce: evil"], ["DPoP_: x", "D-PoP: x"]):
            record = sent(house, mark, host, *lines)
            fail_unless(not record.values("dpop-nonce"), host, "received DPoP-Nonce")
    # The origin of ro checks the proof: its answer of 200 says that the only one there was ours.


@case("G04", "Connection names what is ours")
def run(house, mark):
    for host in PATHS:
        for value in ("close, authorization, dpop, host", "authorization", "Authorization, DPoP, X-Api-Key, Host, Content-Length, Via", "keep-alive, dpop", ",,authorization,,", "x-api-key", "transfer-encoding, authorization", "accept-encoding, traceparent",
                      "authorization,authorization", "\tauthorization ,\tdpop"):
            record = sent(house, mark, host, f"Connection: {value}", f"Authorization: Bearer {STOLEN}", "X-Hop: 1")
            fail_unless(record.values("host") == [host] and record.values("x-hop") == ["1"], host, record.fields)
    record = sent(house, mark, RO, "Connection: x-hop, authorization", "Connection: x-other", "X-Hop: 1", "X-Other: 2", "X-Stays: 3")
    fail_unless(not record.values("x-hop") and not record.values("x-other") and record.values("x-stays") == ["3"], record.fields)
    fail_unless("authorization" not in ",".join(record.values("connection")).lower(), record.fields)
    # A body keeps its length, whatever Connection says.
    record = sent(house, mark, ECHO, "Connection: content-length, authorization", "Content-Length: 5", method="POST", body="hello")
    fail_unless(record.body == b"hello" and record.complete, record)


@case("G05", "names with an underscore")
def run(house, mark):
    names = ["Authorization_", "X_Forwarded_Host", "_Authorization", "X_Api_Key", "x_api_key", "HTTP_Authorization", "Proxy_Authorization", "DPoP_", "D_PoP", "Content_Length", "Transfer_Encoding", "X_HTTP_Method_Override", "Ho_st", "x-forwarded_host", "_", "__", "Cookie_"]
    for host in (RO, "mal.test"):
        record = sent(house, mark, host, *[f"{n}: {STOLEN}" for n in names], "X-Stays: 3")
        fail_unless(not [n for n, _ in record.fields if "_" in n] and record.values("x-stays") == ["3"], host, "received", record.fields)


@case("G05", "a name with a space after it")
def run(house, mark):
    for host in (RO, "mal.test"):
        for line in (f"authorization : {STOLEN}", f"Authorization\t: {STOLEN}", f"authorization\xa0: {STOLEN}", f"authorization\x0b: {STOLEN}", f"author ization: {STOLEN}", f" authorization: {STOLEN}", f"authorization\0: {STOLEN}", f"authorization\x7f: {STOLEN}",
                     f"authorizati\xf6n: {STOLEN}", f"(authorization): {STOLEN}", f"authorization,: {STOLEN}", f'"authorization": {STOLEN}'):
            with house.A.tunnel(host) as stream:
                stream.send(head(host, f"GET {PATHS[host]} HTTP/1.1", "A: b", line))
                expect(stream.answer(), 400)
                fail_unless(stream.closed(), "the connection went on after", line)
    fail_unless(not mark.everywhere(), mark.everywhere())


@case("G06", "what is for the proxy stays here")
def run(house, mark):
    login = house.A.authorization.strip()
    lines = [login, "Proxy-Connection: keep-alive", "Proxy-Authenticate: Basic", "Proxy-Features: x", "Proxy-Anything: x", "X-Tokenward-Agent: B", "X-Tokenward-Service: rw", "X-Tokenward-Scope: admin", "Proxy-Status: x", login.replace("Proxy-Authorization", "proxy-authorization")]
    for host in PATHS:
        record = sent(house, mark, host, *lines)
        left = [n for n, _ in record.fields if n.startswith(("proxy-", "x-tokenward"))]
        fail_unless(not left, host, "received", left)
    if house.private:
        with house.A.plain() as stream:
            stream.send("GET http://plain.test/x HTTP/1.1\r\nHost: plain.test\r\n" + "".join(f"{line}\r\n" for line in lines[:-1]) + "\r\n")
            expect(stream.answer(), 200)
        left = [n for n, _ in mark.at("plain.test")[-1].fields if n.startswith(("proxy-", "x-tokenward"))]
        fail_unless(not left, "plain.test received", left)


@case("G06", "a login in the tunnel is nobody's login")
def run(house, mark):
    # B's login inside A's tunnel makes it neither B's nor a better one: it is A who asks.
    login = house.B.authorization.strip()
    expect(house.A.ask(ECHO, head(ECHO, "GET /as-b HTTP/1.1", login)), 200)
    with house.B.tunnel(RO) as stream:
        stream.send(head(RO, "GET /v1/items/1 HTTP/1.1", house.A.authorization.strip()))
        expect(stream.answer(), 200)
    wait_until("two lines", lambda: len(mark.lines()) >= 2, 5)
    fail_unless(sorted(line["agent"] for line in mark.lines()) == ["A", "B"], mark.lines())


def slots(placeholder):
    """All the places in which a credential may stand."""
    both = base64.b64encode(f"x:{placeholder}".encode()).decode()
    user = base64.b64encode(f"{placeholder}:".encode()).decode()
    return [[f"Authorization: Bearer {placeholder}"], [f"Authorization: DPoP {placeholder}"], [f"authorization: token {placeholder}"], [f"Authorization: {placeholder}"], [f"Authorization: Basic {both}"], [f"Authorization: Basic {user}"], [f"X-Api-Key: {placeholder}"],
            [f"X-Auth-Token: {placeholder}"], [f"Authorization: Bearer {STOLEN}", f"Authorization: Bearer {placeholder}"], [f"Authorization:  Bearer   {placeholder}  "]]


@case("G07", "a placeholder of another service")
def run(house, mark):
    mine = house.placeholders["A"]
    for variable in ("RW_TOKEN", "ECHO_PH", "GQL_PH"):
        for lines in slots(mine[variable]):
            fail_unless(sent(house, mark, RO, *lines, statuses=((403, "placeholder-mismatch"),)) is None)
    for host, path in ((ECHO, "/x"), (RW, "/v1/items"), ("h11.rw.test", "/v1/items/1"), ("mal.test", "/x")):
        sent(house, mark, host, f"Authorization: Bearer {mine['RO_TOKEN']}", statuses=((403, "placeholder-mismatch"),))
    # Beside the right one it is still the wrong one.
    sent(house, mark, RO, f"Authorization: Bearer {mine['RO_TOKEN']}", f"X-Api-Key: {mine['RW_TOKEN']}", statuses=((403, "placeholder-mismatch"),))
    sent(house, mark, RO, path=f"/v1/items/1?access_token={mine['RW_TOKEN']}", statuses=((403, "placeholder-mismatch"),))
    with house.A.h2(RO) as h2:
        expect(h2.get(RO, "/v1/items/1", [("authorization", f"Bearer {mine['RW_TOKEN']}")]), (403, "placeholder-mismatch"))
    fail_unless(not mark.everywhere(), mark.everywhere())


@case("G08", "without a placeholder")
def run(house, mark):
    # `optional`, which main has: it is attached in either case.
    for host, variable in ((RO, "RO_TOKEN"), (RW, "RW_TOKEN"), (ECHO, "ECHO_PH")):
        sent(house, mark, host)
        for lines in slots(house.placeholders["A"][variable]):
            sent(house, mark, host, *lines)


@case("G08", "where a placeholder is demanded", private=True)
def run(house, mark):
    house.open_origin("g08.wild.test")
    house.credentialed.add("g08.wild.test")
    token = "g08-" + secrets.token_urlsafe(24)
    annex = Annex(house, {"need": '{hosts: [g08.wild.test], upstream: {<CA>}, credential: {bearer: {env: G08}}, placeholder: {variable: NEED, shape: "ph-need-{random:32}", mode: required}, rules: [{allow: "* /**"}]}'},
                  environment={"G08": token}, owners=[(token, "g08.wild.test")])
    agent, host = annex.agents["A"], "g08.wild.test"
    file = annex.dir / "public" / "agents" / "A" / "env"
    wait_until("the agent's variables are written", lambda: file.exists() and "ph-need-" in file.read_text(), 5)
    written = file.read_text()
    placeholder = next(word for word in written.replace("'", " ").replace('"', " ").replace("=", " ").split() if word.startswith("ph-need-"))
    for lines in ([], [f"Authorization: Bearer {STOLEN}"], ["Authorization: Bearer ph-need-" + "x" * 32], ["Authorization:"], [f"User-Agent: {placeholder}"], [f"Authorization: Bearer {placeholder[:-1]}"], [f"Authorization: Bearer {placeholder}x"],
                  [f"Authorization: Bearer {placeholder.swapcase()}"], [f"X-Note: Bearer {placeholder}"]):
        expect(agent.ask(host, head(host, "GET /x HTTP/1.1", *lines)), (403, "placeholder-required"))
    expect(agent.ask(host, head(host, f"GET /{placeholder} HTTP/1.1")), (403, "placeholder-required"))
    fail_unless(not mark.at(host), mark.at(host))
    expect(agent.ask(host, head(host, "GET /x HTTP/1.1", f"Authorization: Bearer {placeholder}")), 200)
    fail_unless(mark.at(host)[-1].values("authorization") == [f"Bearer {token}"], mark.at(host))


@case("G09", "a placeholder elsewhere is text")
def run(house, mark):
    for host, variable, path in ((RO, "RO_TOKEN", "/v1/items"), (ECHO, "ECHO_PH", "/v1/items")):
        mine = house.placeholders["A"][variable]
        body = json.dumps({"note": mine, "authorization": f"Bearer {mine}"})
        tries = [([f"User-Agent: {mine}"], path + "/1"), ([f"Referer: https://x.test/{mine}"], path + "/1"), ([f"X-Note: Bearer {mine}"], path + "/1"), ([f"Cookie: a={mine}"], path + "/1"), ([f"Accept: {mine}"], path + "/1"), ([], f"{path}/{mine}"), ([], f"{path}/1?q={mine}"),
                 ([], f"{path}/1?access_token={mine}"), ([f"{mine}: x"], path + "/1"), ([f"X-Forwarded-For: {mine}"], path + "/1")]
        for lines, target in tries:
            sent(house, mark, host, *lines, path=target, statuses=(200, 403))
        if host == ECHO:
            record = sent(house, mark, host, "Content-Type: application/json", f"Content-Length: {len(body)}", method="POST", body=body)
            fail_unless(record.body == body.encode(), record.body)
            # Of another service: in a body it is text too (a prompt, say).
            body = house.placeholders["A"]["RW_TOKEN"]
            record = sent(house, mark, host, f"Content-Length: {len(body)}", method="POST", body=body)
            fail_unless(record.body == body.encode(), record.body)
    secret = [t for t, _ in house_tokens(house)]
    for record in mark.everywhere():
        elsewhere = [record.target, record.body.decode("latin-1"), *(v for n, v in record.fields if n not in ("authorization", "dpop"))]
        fail_unless(not any(t in text for t in secret for text in elsewhere), "a token stands elsewhere at", record.origin)


def house_tokens(house):
    yield house.secrets["ECHO_TOKEN"], ECHO
    for token, (_, resource, _) in house.issuer.tokens.items():
        yield token, resource


BAD_TOKENS = {
    "crlf": "at-good\r\nX-Evil: 1", "lf": "at-go\nod", "cr": "at-go\rod", "nul": "at-go\0od", "accent": "at-gööd", "emoji": "at-\U0001f511", "huge": "at-" + "x" * 20000, "space": "at-go od", "tab": "at-go\tod", "comma": "at-go,DPoP od", "empty": "", "blank": "   ",
    "delete": "at-go\x7fod", "escape": "at-\x1b[2Jx", "not text": 7, "a list": ["at-good"], "null": None,
}


@case("G10", "a token that is none", private=True)
def run(house, mark):
    issuer, api = realm(house, "g10")
    services = {"good": oauth("own", api.host)}
    for number, name in enumerate(BAD_TOKENS):
        services[f"bad-{number}"] = oauth("own", f"g10-{number}.wild.test")
    annex = Annex(house, services, issuers={"own": issuer.url}, environment={"AS_SECRET": issuer.secret}, owners=[issuer])
    bad = list(BAD_TOKENS.values())

    def answer(record, _):
        from urllib.parse import parse_qsl
        resource = dict(parse_qsl(record.body.decode())).get("resource", "")
        if not resource.startswith("https://g10-"):
            return issuer.grant(record)
        number = int(resource.split("-")[1].split(".")[0])
        return 200, [("content-type", "application/json")], json.dumps({"access_token": bad[number], "token_type": "DPoP", "expires_in": 600})
    agent, wrong = annex.agents["A"], []
    house.origins[issuer.host].behave = house.origins[issuer.host].default
    for number, name in enumerate(BAD_TOKENS):
        issuer.answer = answer
        got = agent.get(f"g10-{number}.wild.test", "/x")
        if got.status not in (502, 503) or got.code is None:
            wrong.append(f"{name}: {got.status} {got.code}")
    fail_unless(not mark.at("wild.test"), "it went out:", [(r.host, [v[:40] for v in r.values("authorization")]) for r in mark.at("wild.test")])
    fail_unless(not wrong, "; ".join(wrong))
    fail_unless(any(l["event"] != "request" and l.get("service", "").startswith("bad-") for l in annex.lines()), "no event:", {l["event"] for l in annex.lines()})
    # One bad API of an issuer's takes nothing from its good ones; at most a pause.
    end = time.monotonic() + 8
    while (got := agent.get(api.host, "/x")).status != 200:
        fail_unless(time.monotonic() < end, "the good one stays", got.status, got.code)
        time.sleep(0.2)


@case("G10", "a secret of the operator's that cannot be written", private=True)
def run(house, mark):
    for number, secret in enumerate(["good\r\nX-Evil: 1", "go\nod", "go\rod", "gö\u00f6d", "\U0001f511", "go\x7fod", "\x1b[2J", "", "  "]):
        for form in ("{bearer: {env: G10}}", "{header: {name: x-key, value: {env: G10}}}"):
            path = house.dir / f"g10-{number}.yaml"
            path.write_text(f"services: {{a: {{hosts: [g10.example], credential: {form}, rules: [{{allow: 'GET /'}}]}}}}\n")
            done = house.verb("check", config=path, environment={**house.environment(), "G10": secret})
            fail_unless(done.returncode == 1 and "panicked" not in done.stderr, repr(secret[:20]), form, "was taken:", done.stdout[:200], done.stderr[:200])
            fail_unless(len(secret) < 4 or secret not in done.stderr + done.stdout, "it is repeated")


@case("G10", "a secret of the operator's that no head has room for", private=True)
def run(house, mark):
    for number, size in enumerate((20000, 70000)):
        secret, host = "g10-" + "x" * size, f"g10s-{number}.wild.test"
        service = f"{{hosts: [{host}], upstream: {{<CA>}}, credential: {{bearer: {{env: G10}}}}, rules: [{{allow: '* /**'}}]}}"
        try:
            annex = Annex(house, {"big": service}, environment={"G10": secret}, owners=[(secret, host)])
        except AssertionError as error:
            # It says why and does not begin.
            fail_unless("service big" in str(error) and secret not in str(error), str(error)[-300:])
            continue
        answer = annex.agents["A"].get(host, "/x")
        fail_unless(answer.status == 503 and not mark.at("wild.test"), size, "bytes:", answer.status, answer.code, "; reached the origin:", len(mark.at("wild.test")))


@case("G11", "as many fields as there may be, and ours")
def run(house, mark):
    served = []
    for host in (RO, ECHO, "h11.rw.test"):
        for count in (80, 94, 95, 96, 97, 98, 99, 100, 101, 120, 300):
            record = sent(house, mark, host, *[f"x-{i}: y" for i in range(count)], statuses=(200, 400, 431))
            if record:
                served.append(count)
                fail_unless(len([n for n, _ in record.fields if n.startswith("x-") and n[2:].isdigit()]) == count, host, count)
    fail_unless(max(served) < 300 and 80 in served, served)


@case("G11", "as many bytes as there may be, and ours")
def run(house, mark):
    served = []
    for host in (RO, ECHO):
        for size in (30000, 60000, 64000, 64500, 65000, 65200, 65300, 65400, 65500, 65536, 66000, 70000):
            fill = "y" * ((size - 200) // 20)
            record = sent(house, mark, host, *[f"x-{i:02}: {fill}" for i in range(20)], statuses=(200, 400, 431))
            if record:
                served.append(size)
                fail_unless(all(record.values(f"x-{i:02}") == [fill] for i in range(20)), host, size)
    fail_unless(30000 in served and 70000 not in served, served)


@case("G12", "codings that nobody here reads")
def run(house, mark):
    known = {"gzip", "x-gzip", "deflate", "br", "zstd", "identity"}
    for host in (RO, ECHO, "h11.rw.test"):
        for lines in (["Accept-Encoding: zzz, br;q=0, *;q=1"], ["Accept-Encoding: *"], ["Accept-Encoding: compress, exi, pack200-gzip"], ["Accept-Encoding: zzz", "Accept-Encoding: gzip, dcb, dcz"], ["Accept-Encoding: aes128gcm;q=1, gzip;q=0.5"], ["Accept-Encoding:"],
                      ["Accept-Encoding: GZIP, ZZZ"], ["accept-encoding: gzip , , zzz ;q=1"], ["Accept-Encoding: identity;q=0, zzz"], [], ["Accept-Encoding: gzip, deflate, br, zstd"], ["Accept-Encoding: \xe9, gzip"], ["Accept-Encoding: gzip;q=1;x=zzz"], ["Accept-Encoding: " + "zzz, " * 2000 + "br"]):
            record = sent(house, mark, host, *lines)
            offered = [item.split(";")[0].strip().lower() for value in record.values("accept-encoding") for item in value.split(",")]
            fail_unless(set(offered) - {""} <= known, host, lines, "became", offered)
    # Everybody's own offer goes through, as far as the guard can read it as it comes.
    record = sent(house, mark, ECHO, "Accept-Encoding: gzip, deflate, br, zstd")
    fail_unless(", ".join(record.values("accept-encoding")).replace(" ", "") == "gzip,deflate,br", record.values("accept-encoding"))


@case("G13", "the scheme is the service's")
def run(house, mark):
    for host, variable in ((RO, "RO_TOKEN"), (RW, "RW_TOKEN"), (ECHO, "ECHO_PH")):
        mine = house.placeholders["A"][variable]
        for scheme in ("DPoP", "Bearer", "token", "dpop", "BEARER", "Basic", "Digest", "Token", "MAC", "N_A", "ApiKey", "Negotiate"):
            sent(house, mark, host, f"Authorization: {scheme} {mine}")
    fail_unless(not any(v.startswith("Bearer at-") for r in mark.everywhere() for _, v in r.fields), "a bound token as Bearer")
