"""Class B: which host is meant. Names are judged as they stand in the CONNECT, before anybody is asked for an address."""

import threading

from agent import Closed
from annex import Annex
from cases import case, expect, head
from house import fail_unless

RO = "api.ro.test"
# The HTTP library refuses some targets by itself, with a bare 400.
MALFORMED, DENIED = 400, (403, "destination-denied")


def wire(text):
    """A text as the bytes that UTF-8 makes of it, for `Agent`, which writes Latin-1."""
    return text.encode().decode("latin-1")


def connect(house, authority, *wanted, silent_close=False, **how):
    """One CONNECT and its answer; where it is malformed the connection ends. `silent_close`: no answer is as good."""
    try:
        stream, answer = house.A.connect(authority, **how)
    except Closed:
        fail_unless(silent_close, repr(authority), "was not answered")
        return None
    with stream:
        try:
            expect(answer, *wanted)
        except AssertionError as error:
            raise AssertionError(f"CONNECT {authority!r} {how or ''}: {error}") from error
        fail_unless(answer.status != 400 or stream.closed(), repr(authority), "left the connection open")
    return answer


def connects(house, authorities, *wanted, **how):
    """All of them, also where no Host field can be what is refused. Everything wrong is told at once."""
    wrong = []
    for authority in authorities:
        for form in ({}, {"version": "HTTP/1.0", "host": ""}):
            try:
                connect(house, authority, *wanted, **form, **how)
            except AssertionError as error:
                wrong.append(str(error))
    fail_unless(not wrong, "; ".join(wrong))


def refused(id, title, authorities, *wanted, silent_close=False, lines_wanted=0):
    """None of these is connected to, looked up or dialled."""
    @case(id, title, silent=True, lines_wanted=lines_wanted)
    def run(house, mark):
        connects(house, authorities, *wanted, silent_close=silent_close)


def served(house, mark, host, name, path="/v1/items/1", origin=None, agent=None):
    """A tunnel to `host` as written there, and a request for `name` in it, which its origin gets under `name`."""
    with (agent or house.A).tunnel(host, sni=name.lower()) as stream:
        stream.send(head(name, f"GET {path} HTTP/1.1"))
        expect(stream.answer(), 200)
    fail_unless([(r.target, r.host) for r in mark.at(origin or name)[-1:]] == [(path, name.lower())], host, "reached", mark.at(origin or name))


@case("B01", "a trailing dot changes nothing")
def run(house, mark):
    served(house, mark, "api.ro.test.", RO)
    with house.A.tunnel("api.ro.test.", sni=RO) as stream:
        stream.send(head(RO, "GET /v1/admin HTTP/1.1"))
        expect(stream.answer(), (403, "policy-denied"))
    # In the field it may be the same name or a refusal, never another rule.
    for host in ("api.ro.test.", "api.ro.test.:443"):
        answer = expect(house.A.ask(RO, head(host, "GET /v1/items/1 HTTP/1.1")), 200, 400, 421)
        fail_unless(answer.status != 200 or mark.at(RO)[-1].host == RO, "Host", mark.at(RO)[-1].host)
        expect(house.A.ask(RO, head(host, "GET /v1/admin HTTP/1.1")), 400, 403, 421)
    fail_unless(all(r.target == "/v1/items/1" for r in mark.at(RO)), mark.at(RO))


refused("B01", "a trailing dot opens nothing", ["evil.test.:443", "xwild.test.:443", "api.ro.test.evil.test.:443", "test.:443"], DENIED)
refused("B01", "two trailing dots are no name", ["api.ro.test..:443", ".:443", "..:443", "x.wild.test..:443"], MALFORMED)


@case("B02", "upper case changes nothing")
def run(house, mark):
    served(house, mark, "API.RO.TEST", "API.RO.TEST", origin=RO)
    served(house, mark, "Api.rO.TesT.", RO)
    expect(house.A.ask("API.RO.TEST", head("api.RO.test", "GET /v1/admin HTTP/1.1")), (403, "policy-denied"))
    if house.private:
        served(house, mark, "X.WILD.TEST", "x.wild.test", "/up", origin="wild.test")


refused("B02", "upper case opens nothing", ["EVIL.TEST:443", "XWILD.TEST:443", "WILD.TEST:443"], DENIED)


@case("B02", "nor with 150 hosts", private=True)
def run(house, mark):
    # Caddy's host matcher became case-sensitive above 100 entries. Each of ours has a path of its own, so that a match of
    # a neighbour's rule would show.
    services = {f"n{i}": f'{{hosts: [n{i}.wild.test], upstream: {{<CA>}}, rules: [{{allow: "GET /n{i}/**"}}]}}' for i in range(150)}
    annex = Annex(house, services)
    agent = annex.agents["A"]
    for i in (0, 7, 99, 100, 101, 149):
        served(house, mark, f"N{i}.Wild.TEST", f"N{i}.wild.test", f"/n{i}/x", "wild.test", agent)
        expect(agent.ask(f"N{i}.WILD.TEST", head(f"n{i}.wild.test", f"GET /n{(i + 1) % 150}/x HTTP/1.1")), (403, "policy-denied"))
    for host in ("N150.wild.test", "n.wild.test", "xn1.wild.test", "n1.wild.test.evil.test"):
        stream, answer = agent.connect(f"{host}:443")
        stream.close()
        expect(answer, DENIED)


@case("B02", "a list of 150 hosts for one service", private=True)
def run(house, mark):
    hosts = ", ".join(f"m{i}.wild.test" for i in range(150))
    annex = Annex(house, {"many": f'{{hosts: [{hosts}], upstream: {{<CA>}}, rules: [{{allow: "GET /m/**"}}]}}'})
    for i in (3, 100, 149):
        served(house, mark, f"M{i}.WILD.test", f"m{i}.wild.test", "/m/x", "wild.test", annex.agents["A"])
    stream, answer = annex.agents["A"].connect("M150.WILD.TEST:443")
    stream.close()
    expect(answer, DENIED)


refused("B03", "a suffix is not a domain", ["xwild.test:443", "evilwild.test:443", "wild.test:443", "x-wild.test:443", "xecho.test:443",
                                            "xapi.ro.test:443", "x.api.ro.test:443", "a.b.xwild.test:443"], DENIED)
refused("B03", "a suffix alone is no name", [".wild.test:443", "*.wild.test:443", "*:443", "**.wild.test:443"], MALFORMED)
refused("B04", "a prefix is not a domain", ["api.ro.test.evil.test:443", "api.ro.testx:443", "x.wild.test.evil.test:443", "x.wild.testevil:443",
                                            "api.ro:443", "api.ro.tes:443", "api:443", "ro.test:443", "api.rotest:443", "apixro.test:443"], DENIED)
refused("B05", "one star is one label", ["a.b.wild.test:443", "a.b.c.wild.test:443", "x.wild.test.wild.test:443"], DENIED)


@case("B05", "two stars are any depth", private=True)
def run(house, mark):
    names = ["a.b.c.wild.test", "d.wild.test"]
    for name in names:
        house.open_origin(name)
    annex = Annex(house, {"deep": '{hosts: ["**.wild.test"], upstream: {<CA>}, rules: [{allow: "GET /deep"}]}'})
    for name in names:
        served(house, mark, name, name, "/deep", name, annex.agents["A"])
    for host in ("a.b.cwild.test", "a.wild.test.evil.test", "xwild.test"):
        stream, answer = annex.agents["A"].connect(f"{host}:443")
        stream.close()
        expect(answer, DENIED)


refused("B06", "user information in an authority",
        ["api.ro.test:443@evil.test:443", "a:443@evil.test:443", "a@evil.test:443", "api.ro.test@evil.test:443", "evil.test@api.ro.test:443",
         "evil.test:443@api.ro.test:443", "@api.ro.test:443", ":@api.ro.test:443", "a:b@c@api.ro.test:443", "%40api.ro.test:443",
         "api.ro.test%40evil.test:443"], MALFORMED)
refused("B06", "more than an authority",
        ["api.ro.test:443/", "api.ro.test:443/@evil.test:443", "api.ro.test:443?@evil.test:443", "api.ro.test:443#@evil.test:443",
         "evil.test#.wild.test:443", "evil.test/.wild.test:443", "evil.test?.wild.test:443", "evil.test\\.wild.test:443", "evil.test;.wild.test:443",
         "https://api.ro.test:443", "http://api.ro.test:443/", "//api.ro.test:443", "/api.ro.test:443", "https:api.ro.test:443",
         "api.ro.test:443,evil.test:443", "evil.test,api.ro.test:443", "api.ro.test:443:443", "api.ro.test:evil.test:443", "[api.ro.test]:443",
         "api.ro.test]:443", "[api.ro.test:443", "*", "/"], MALFORMED)
refused("B06", "escapes in a name", ["api%2ero%2etest:443", "%61pi.ro.test:443", "evil.test%2f.wild.test:443", "evil.test%23.wild.test:443",
                                     "a%2e.wild.test:443", "evil.test%2500.wild.test:443"], MALFORMED)

# What ends a text for one half of a program (C strings, lines) and not for the other: the suffix is judged by one and the name
# looked up by the other.
refused("B07", "bytes that end texts", [f"evil.test{c}.wild.test:443" for c in ("\0", "%00", "\x01", "\x0b", "\x0c", "\x1f", "\x7f", "\t", "\\0", "\x85", "\xa0", "'", '"', "`", "$", "|")]
        + ["api.ro.test\0:443", "\0api.ro.test:443", "api.ro.test:443\0", "api.ro.test:4\x0043", "api.ro.test\0.evil.test:443"],
        400, silent_close=True, lines_wanted=None)
refused("B07", "bytes that end lines", [f"evil.test{c}.wild.test:443" for c in ("\r", "\n", "\r\n", "\r\n ", " ", "\n\n")], 400, silent_close=True, lines_wanted=None)


@case("B07", "SOCKS is not spoken", silent=True, lines_wanted=None)
def run(house, mark):
    name = b"evil.test\0.wild.test"
    for greeting in (b"\x05\x01\x00", b"\x05\x02\x00\x02", b"\x05\x01\x00\x05\x01\x00\x03" + bytes([len(name)]) + name + b"\x01\xbb",
                     b"\x04\x01\x01\xbb\x7f\0\0\x01me\0", b"\x04\x01\x01\xbb\0\0\0\x01me\0evil.test\0"):
        with house.A.plain(5) as stream:
            stream.send(greeting)
            try:
                expect(stream.answer(), 400)
            except Closed:
                pass
            fail_unless(not bytes(stream.buffer[:1]) in (b"\x05", b"\0"), "a SOCKS answer", bytes(stream.buffer))


IDN = "xn--bcher-kva.test"


@case("B08", "an internationalised name in its A-label form")
def run(house, mark):
    served(house, mark, IDN, IDN, "/idn")
    served(house, mark, "XN--BCHER-KVA.test", IDN, "/IDN")
    served(house, mark, "xN--bChEr-KvA.TEST.", IDN, "/mixed")
    if house.private:
        served(house, mark, "xn--bcher-kva.wild.test", "xn--bcher-kva.wild.test", "/below", "wild.test")


refused("B08", "an internationalised name in another form",
        [wire("bücher.test:443"), "b\xfccher.test:443", wire("b\u0075\u0308cher.test:443"), "b%C3%BCcher.test:443", "b%fccher.test:443", wire("xn--bücher.test:443")], 400)
# IDNA mapping would make the names of services of all of these: dots, letters in other shapes, what is left out.
refused("B08", "what a mapping would make a name of",
        [wire(t) for t in ("api。ro。test:443", "api．ro．test:443", "api｡ro.test:443", "ａｐｉ.ro.test:443", "ⓐpi.ro.test:443", "ap\u0131.ro.test:443", "api\u00ad.ro.test:443",
                           "api\u200b.ro.test:443", "api.ro\u2044.test:443", "аpi.ro.test:443", "evil.test／.wild.test:443", "evil.test\u2024wild.test:443", "ﬀ.wild.test:443", "api.ro.te\u017ft:443")],
        400)
refused("B09", "labels that are not what they decode to",
        ["xn--api-ro.test:443", "xn--apiro-.test:443", "xn--api-.ro.test:443", "xn--api.ro.test:443", "xn--api-.ro.test.:443", "XN--API-.RO.TEST:443"], DENIED, MALFORMED)
# Below a wildcard such a label would otherwise pass as any other.
refused("B09", "nor below a wildcard",
        ["xn--apiro-.wild.test:443", "xn--a-.wild.test:443", "xn---.wild.test:443", "XN--APIRO-.wild.test:443", "xn--.wild.test:443", "xn--0.wild.test:443",
         "xn--99999999.wild.test:443", "xn--a-ecp.ru.wild.test:443", "xn--zzzzzzzzzzzzzzzzzzzzzzzzzzz.wild.test:443"], DENIED, MALFORMED)
refused("B10", "ports are numbers from 1 to 65535",
        [f"api.ro.test{p}" for p in ("", ":", ":99999", ":65536", ":65979", ":4294967739", ":18446744073709552059", ":+443", ":-443", ":0", ":00", ":0x1bb", ":443 ", ": 443", ":4 43", ":443\t",
                                     ":443.0", ":4_43", ":443e0", ":0b110111011", ":https", ":443:", ":443a", ":%34%34%33", wire(":４４３"), wire(":४४३"), ":443,", ":443;", ":*")], 400)


@case("B10", "a port with zeros before it is that port or none", silent=True)
def run(house, mark):
    for authority in ("api.ro.test:0443", "api.ro.test:00000000443"):
        connect(house, authority, 200, MALFORMED)
    connects(house, ["api.ro.test:00022", "api.ro.test:0000080"], MALFORMED, DENIED)


refused("B11", "CONNECT is no way to other ports",
        [f"{host}:{port}" for host in (RO, "x.wild.test", "mal.test") for port in (1, 22, 25, 80, 465, 853, 3128, 6379, 8443, 9901, 15001, 65535)]
        + ["plain.test:443", "plain.test:22", "plain.test:8080"], DENIED)


@case("B11", "nor is the absolute form", private=True, silent=True)
def run(house, mark):
    for port in (22, 25, 443, 3128, 6379, 8080, 9901):
        for method, body in (("GET", ""), ("POST", "EHLO evil\r\n")):
            with house.A.plain() as stream:
                length = f"Content-Length: {len(body)}\r\n" if body else ""
                stream.send(f"{method} http://plain.test:{port}/ HTTP/1.1\r\nHost: plain.test:{port}\r\n{house.A.authorization}{length}\r\n{body}")
                expect(stream.answer(), DENIED)


LONG = ".".join(["a" * 60] * 4)  # 243 bytes; 253 are a name, 254 none
refused("B12", "what is no DNS name",
        [f"{name}:443" for name in (
            f"{LONG}.aaaaa.test", "a." * 126 + "test", f"{'a' * 64}.wild.test", f"{'a' * 64}.test", "a" * 1000 + ".wild.test", "api..ro.test", ".api.ro.test", "-a.wild.test", "a-.wild.test",
            "-.wild.test", "--.wild.test", "api.-ro.test", "api.ro.-test", "api.ro-.test", "a!b.wild.test", "a(b.wild.test", "a+b.wild.test", "a=b.wild.test", "a~b.wild.test", "a&b.wild.test",
            "a^b.wild.test", "a{b}.wild.test", "a<b>.wild.test", "a:b.wild.test", "", "[]", "[")], MALFORMED)
refused("B12", "names at the limits that nobody allowed", [f"{LONG}.aaaa.test:443", f"{'a' * 63}.test:443", "api_ro.test:443", "api.ro_test:443", "_api.ro.test:443"], DENIED, MALFORMED)


@case("B12", "names at the limits below a wildcard", private=True)
def run(house, mark):
    for name in ("a" * 63 + ".wild.test", "a--b.wild.test", "0.wild.test", "0x7f.wild.test", "a_b.wild.test"):
        with house.A.tunnel(name) as stream:
            stream.send(head(name, "GET /limits HTTP/1.1"))
            expect(stream.answer(), 200)
        fail_unless(mark.at("wild.test")[-1].host == name, mark.at("wild.test")[-1])


@case("B12", "an underscore is no part of a name that gets a credential", private=True, silent=True)
def run(house, mark):
    annex = Annex(house, {"keyed": '{hosts: ["*.wild.test"], upstream: {<CA>}, credential: {bearer: {env: KEYED}}, rules: [{allow: "* /**"}]}'},
                  environment={"KEYED": "k-" + "z" * 40})
    for name in ("a_b.wild.test", "_a.wild.test", "a_.wild.test", "_.wild.test"):
        stream, answer = annex.agents["A"].connect(f"{name}:443")
        stream.close()
        expect(answer, DENIED, MALFORMED)


@case("B13", "a service that wants TLS is not served in the clear", silent=True)
def run(house, mark):
    placeholder = house.placeholders["A"]["RO_TOKEN"]
    for target, wanted in [("http://api.ro.test/v1/items/1", [(403, "tls-required")]), ("HTTP://API.RO.TEST/v1/items/1", [(403, "tls-required")]),
                           ("http://api.ro.test.:80/v1/items/1", [(403, "tls-required")]), ("http://api.ro.test:443/v1/items/1", [403]), ("http://echo.test/", [(403, "tls-required")]),
                           ("http://x.wild.test/", [(403, "tls-required")]), ("http://mal.test/", [(403, "tls-required")]), ("http://evil.test/", [DENIED]),
                           ("http://api.ro.test:8080/v1/items/1", [403]), ("ws://api.ro.test/v1/items/1", [400, 403]), ("h2c://api.ro.test/v1/items/1", [400, 403])]:
        for more in ("", f"Authorization: Bearer {placeholder}\r\n", "Upgrade-Insecure-Requests: 1\r\n"):
            with house.A.plain() as stream:
                host = target.split("/")[2].lower()
                stream.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{house.A.authorization}{more}\r\n")
                # A placeholder on its way to a host that is nobody's is told apart.
                astray = more.startswith("Authorization") and "evil.test" in target
                expect(stream.answer(), *([(403, "placeholder-mismatch")] if astray else wanted))


@case("B13", "https in the absolute form goes nowhere in the clear")
def run(house, mark):
    with house.A.plain() as stream:
        stream.send(f"GET https://api.ro.test/v1/items/1 HTTP/1.1\r\nHost: api.ro.test\r\n{house.A.authorization}\r\n")
        answer = expect(stream.answer(), 200, 400, 403, 421, 501)
    # The origin speaks nothing but TLS, so what it heard was not clear.
    fail_unless(answer.status == 200 or not mark.at(RO), mark.at(RO))


@case("B13", "no clear text inside a tunnel", silent=True, lines_wanted=None)
def run(house, mark):
    for clear in (head(RO, "GET /v1/items/1 HTTP/1.1"), head(RO, "GET https://api.ro.test/v1/items/1 HTTP/1.1"), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", "SSH-2.0-x\r\n", "\0" * 64):
        stream, answer = house.A.connect(f"{RO}:443")
        with stream:
            expect(answer, 200)
            stream.send(clear)
            said = b""
            while stream.more():
                pass
            said = bytes(stream.buffer)
            # An alert, an HTTP refusal, or nothing; and the end.
            fail_unless(not said or said[:1] == b"\x15" or b" 400 " in said[:20] or b" 403 " in said[:20], "answered", said[:100])


def with_credential(house, number, host, credential="{bearer: {env: A_TOKEN}}"):
    """What `check` says about a service with this host: its exit code and text."""
    path = house.dir / f"b14-{number}.yaml"
    path.write_text(f'services: {{a: {{hosts: ["{host}"], credential: {credential}, rules: [{{allow: "GET /"}}]}}}}\n')
    done = house.verb("check", config=path)
    fail_unless("panicked" not in done.stderr, done.stderr)
    return done.returncode, done.stderr


@case("B14", "a credential for a whole public suffix is refused at load")
def run(house, mark):
    wide = ["*", "**", "*.*", "*.com", "**.com", "*.COM", "*.com.", "*.co.uk", "**.co.uk", "*.Co.Uk", "*.uk", "*.com.au", "*.co.jp", "*.test", "*.local", "*.internal", "*.xn--p1ai", "*.github.io", "*.ck",
            "*.*.com", "*.com.*", "*.c*", "*com", "a.*.com", "*.", "*.0.0.1", "10.*", "*:443", "*.10.0.0.1", "*.a_b.com", "com.*"]
    narrow = ["*.example.com", "**.example.com", "*.example.co.uk", "api.example.com", "*.api.example.com"]
    found, work = {}, list(enumerate(wide + narrow))

    def one(part):
        for number, host in part:
            found[host] = with_credential(house, number, host)
    threads = [threading.Thread(target=one, args=(work[i::4],), daemon=True) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    wrong = [h for h in wide if found[h][0] != 1 or not found[h][1].strip()] + [f"{h}: {found[h][1][:200]}" for h in narrow if found[h][0] != 0]
    fail_unless(not wrong, wrong)
    # `serve` is as strict.
    done = house.verb("serve", config=house.dir / "b14-3.yaml")
    fail_unless(done.returncode == 1, "serve took *.com:", done.returncode)
    # Without a credential a suffix harms less, but everything is still no host.
    for number, host in ((100, "*"), (101, "**")):
        code, said = with_credential(house, number, host, "none")
        fail_unless(code == 1, host, "without a credential:", code, said)
