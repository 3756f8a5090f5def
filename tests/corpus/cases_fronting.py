"""Class D: names that disagree. One name is in the CONNECT, one in the ClientHello, one or more in the request: they are the same
or nothing is sent."""

import socket
import ssl

from agent import Closed, Stream
from cases import case, expect, head, waits
from house import fail_unless

RO, EVIL = "api.ro.test", "evil.test"
MISMATCH, MALFORMED = (421, "authority-mismatch"), 400

waits("D10", "the transparent listener")


def raw(line, *fields):
    return "\r\n".join([line, *fields]) + "\r\n\r\n"


def refused_in_tunnel(house, requests, *wanted, host=RO):
    """Each in a tunnel of its own, which ends with it."""
    wrong = []
    for request in requests:
        with house.A.tunnel(host) as stream:
            # What follows on the same connection must not be served either.
            stream.send(request + head(host, "GET /v1/items/after HTTP/1.1"))
            try:
                expect(stream.answer(), *wanted)
                fail_unless(not stream.buffer and stream.closed(), "the connection went on")
            except (AssertionError, Closed) as error:
                wrong.append(f"{request[:120]!r}: {error or 'no answer'}")
    fail_unless(not wrong, "; ".join(wrong))


def tunnelled(id, title, requests, *wanted):
    """None of these is sent anywhere: not to the tunnel's host, nor to the other one."""
    @case(id, title, silent=True)
    def run(house, mark):
        refused_in_tunnel(house, requests, *wanted)


OTHERS = [EVIL, "mal.test", "api.rw.test", "x.wild.test", "echo.test", "localhost", "127.0.0.1", "45.33.32.10", "[2606:4700::77]", "api.ro.test:80", "api.ro.test:8443", "api.ro.test:4430", "api.ro.test.evil.test",
          "xapi.ro.test", "x.api.ro.test", "ro.test", "api.ro", "evil.test:443", "EVIL.TEST", "evil.test.", "as.test", "10.77.0.1:3128", "h11.rw.test"]
tunnelled("D01", "another host in the field", [raw("GET /v1/items/1 HTTP/1.1", f"Host: {h}") for h in OTHERS], MISMATCH)
tunnelled("D01", "another host in the field, in other dress", [raw("GET /v1/items/1 HTTP/1.1", f) for f in (
    "host: evil.test", "HOST:evil.test", "hOsT:  evil.test  ", "Host:\tevil.test", "host:evil.test\t ")] + [
    raw("GET /v1/items/1 HTTP/1.1", "A: b", "Connection: host", "Host: evil.test"), raw("GET /v1/items/1 HTTP/1.0", "Host: evil.test"), raw("OPTIONS /v1/items/1 HTTP/1.1", "Host: evil.test"),
    raw("DELETE /v1/admin HTTP/1.1", "Host: evil.test")], MISMATCH)


@case("D01", "the same host in other dress")
def run(house, mark):
    for name in ("API.RO.TEST", "api.ro.test:443", "Api.Ro.Test:443"):
        expect(house.A.ask(RO, head(name, "GET /v1/items/1 HTTP/1.1")), 200)
    fail_unless([r.host for r in mark.at(RO)] == [RO] * 3, mark.at(RO))


@case("D01", "after a request that was right")
def run(house, mark):
    with house.A.tunnel(RO) as stream:
        stream.send(head(RO, "GET /v1/items/1 HTTP/1.1"))
        expect(stream.answer(), 200)
        stream.send(head("api.rw.test", "GET /v1/items HTTP/1.1") + head(RO, "GET /v1/items/2 HTTP/1.1"))
        expect(stream.answer(), MISMATCH)
        fail_unless(stream.closed(), "the connection went on")
    fail_unless([r.target for r in mark.everywhere()] == ["/v1/items/1"], mark.everywhere())


tunnelled("D02", "another host in the target", [raw(f"GET {target} HTTP/1.1", f"Host: {host}") for target, host in [
    ("http://evil.test/x", RO), ("https://evil.test/x", RO), ("https://evil.test/v1/items/1", EVIL), ("https://evil.test", RO), ("https://api.rw.test/v1/items", RO), ("https://api.rw.test/v1/items", "api.rw.test"),
    ("https://api.ro.test/v1/items/1", EVIL), ("https://api.ro.test:80/v1/items/1", RO), ("https://api.ro.test:8443/v1/items/1", RO), ("https://api.ro.test.evil.test/v1/items/1", RO),
    ("HTTPS://EVIL.TEST/v1/items/1", RO), ("https://45.33.32.99/v1/items/1", RO), ("https://evil.test:443/v1/items/1", RO)]], MISMATCH, MALFORMED)
tunnelled("D02", "a target that is no path of an https service", [raw(f"GET {target} HTTP/1.1", f"Host: {RO}") for target in (
    "http://api.ro.test/v1/items/1", "http://api.ro.test:443/v1/items/1", "ftp://api.ro.test/v1/items/1", "ws://api.ro.test/v1/items/1", "file:///v1/items/1", "https:/v1/items/1", "https:///v1/items/1", "https:api.ro.test/v1/items/1",
    "https://evil.test@api.ro.test/v1/items/1", "https://api.ro.test@evil.test/v1/items/1", "https://a:b@api.ro.test/v1/items/1", "https://api.ro.test\\@evil.test/v1/items/1", "https://evil.test#@api.ro.test/v1/items/1",
    "https://api.ro.test:443:80/v1/items/1", "https://api.ro.test:/v1/items/1", "https://api.ro.test%2f/v1/items/1", "https://[api.ro.test]/v1/items/1", "https://:443/v1/items/1", "https://?/v1/items/1", "evil.test:443", "api.ro.test:443",
    "api.ro.test", "v1/items/1", "?/v1/items/1", "*", "javascript:1", "https://api.ro.test,evil.test/v1/items/1", "https://api.ro.test /v1/items/1")],
    MISMATCH, MALFORMED, 403)


@case("D02", "the right host in the target is the path")
def run(house, mark):
    answer = expect(house.A.ask(RO, raw("GET https://api.ro.test/v1/items/1?q HTTP/1.1", f"Host: {RO}")), 200, 400)
    if answer.status == 200:
        fail_unless([(r.target, r.host) for r in mark.at(RO)] == [("/v1/items/1?q", RO)], mark.at(RO))
        expect(house.A.ask(RO, raw("GET https://api.ro.test/v1/admin HTTP/1.1", f"Host: {RO}")), (403, "policy-denied"))
        fail_unless(len(mark.at(RO)) == 1, mark.at(RO))


def hello(sni, forged=None):
    """The bytes of a ClientHello for a name, or for other bytes of the same length in its place."""
    inside, outside = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        context.wrap_bio(inside, outside, server_hostname=sni).do_handshake()
    except ssl.SSLWantReadError:
        pass
    said = outside.read()
    if forged is not None:
        assert len(forged) == len(sni) and said.count(sni.encode()) == 1
        said = said.replace(sni.encode(), forged)
    return said


def alerted(house, said, host=RO):
    """What comes back for a ClientHello: `(description of the fatal alert or None, everything)`; then the tunnel has ended."""
    stream, answer = house.A.connect(f"{host}:443")
    with stream:
        expect(answer, 200)
        stream.send(said)
        while stream.more() and stream.buffer[0] == 21:
            pass
        back = bytes(stream.buffer)
    return (back[6] if len(back) >= 7 and back[0] == 21 and back[5] == 2 else None), back


UNRECOGNIZED = 112


@case("D03", "another name in the ClientHello", silent=True, lines_wanted=None)
def run(house, mark):
    for name in ("mal.test", EVIL, "api.rw.test", "x.wild.test", "echo.test", "localhost", "ro.test", "x.api.ro.test", "api.ro.test.evil.test", "xapi.ro.test", "as.test"):
        alert, back = alerted(house, hello(name))
        fail_unless(alert == UNRECOGNIZED and len(back) == 7, name, "answered with", back[:60])
    # As a client sees it.
    try:
        house.A.tunnel(RO, sni="mal.test", verify=False).close()
        fail_unless(False, "a handshake for another name")
    except ssl.SSLError as error:
        fail_unless("UNRECOGNIZED_NAME" in str(error).upper().replace(" ", "_"), error)


@case("D03", "bytes in the ClientHello that are no name", silent=True, lines_wanted=None)
def run(house, mark):
    for forged in (b"api.ro.tes\0", b"\0pi.ro.test", b"api.ro\0test", b"api.ro.te\xc3\xa9", b"api ro test", b"api_ro.test", b"api.ro.tes.", b"127.0.0.001", b"*.ro.test.a", b"api.ro..tes", b"-pi.ro.test", b"api.ro.test"[:10] + b"/",
                   b"api.ro:4430", b"mal.test\0\0\0", b"evil\0o.test", b"[::1]000000"):
        alert, back = alerted(house, hello(RO, forged))
        # `illegal_parameter` or `decode_error` is an end as good.
        fail_unless(alert is not None and len(back) == 7, forged, "answered with", back[:60])


@case("D03", "an address in the ClientHello is no name (RFC 6066 §3)", silent=True, lines_wanted=None)
def run(house, mark):
    # It is refused or it is as if none stood there; then the leaf is still the one of the CONNECT.
    for forged in (b"45.33.32.10", b"45.33.32.99"):
        alert, back = alerted(house, hello(RO, forged))
        fail_unless(alert is not None or back[0] == 22, forged, "answered with", back[:60])


@case("D03", "the same name in upper case")
def run(house, mark):
    with house.A.tunnel(RO, sni="API.ro.TEST") as stream:
        stream.send(head(RO, "GET /v1/items/1 HTTP/1.1"))
        expect(stream.answer(), 200)
    fail_unless([r.sni for r in mark.at(RO)] == [RO], mark.at(RO))


@case("D04", "no name in the ClientHello: the one of the CONNECT")
def run(house, mark):
    with house.A.tunnel(RO, sni=False) as stream:
        certificate = stream.stream.getpeercert()
        fail_unless(("DNS", RO) in certificate["subjectAltName"], certificate)
        stream.send(head(RO, "GET /v1/items/1 HTTP/1.1"))
        expect(stream.answer(), 200)
        stream.send(head(RO, "GET /v1/admin HTTP/1.1"))
        expect(stream.answer(), (403, "policy-denied"))
    for host in (EVIL, "api.rw.test"):
        with house.A.tunnel(RO, sni=False) as stream:
            stream.send(head(host, "GET /v1/items/1 HTTP/1.1"))
            expect(stream.answer(), MISMATCH)
            fail_unless(stream.closed(), "the connection went on")
    fail_unless([r.target for r in mark.everywhere()] == ["/v1/items/1"], mark.everywhere())


tunnelled("D05", "two Host fields", [raw("GET /v1/items/1 HTTP/1.1", *fields) for fields in (
    (f"Host: {RO}", f"Host: {EVIL}"), (f"Host: {EVIL}", f"Host: {RO}"), (f"Host: {RO}", f"Host: {RO}"), (f"Host: {RO}", f"host: {EVIL}"), (f"HOST: {RO}", "A: b", f"hOST: {RO}"), (f"Host: {RO}", "Host:"), ("Host:", f"Host: {RO}"),
    (f"Host: {RO}", *[f"X-{i}: y" for i in range(60)], f"Host: {EVIL}"), (f"Host: {RO}", f"Host: {RO}", f"Host: {RO}"), (f"Host: {EVIL}", f"Host: {EVIL}"))]
    + [raw("GET /v1/items/1 HTTP/1.0", f"Host: {RO}", f"Host: {EVIL}"), raw("GET https://api.ro.test/v1/items/1 HTTP/1.1", f"Host: {RO}", f"Host: {EVIL}")], MALFORMED)


@case("D05", "two Host fields on the proxy's own connection", silent=True)
def run(house, mark):
    for request, method in [(f"CONNECT {RO}:443 HTTP/1.1\r\nHost: {RO}:443\r\nHost: {EVIL}:443", "CONNECT"), (f"CONNECT {RO}:443 HTTP/1.1\r\nHost: {RO}:443\r\nhost: {RO}:443", "CONNECT"),
                            ("GET http://plain.test/x HTTP/1.1\r\nHost: plain.test\r\nHost: evil.test", "GET"), ("GET http://plain.test/x HTTP/1.1\r\nHost: plain.test\r\nHost: plain.test", "GET")]:
        if method == "GET" and not house.private:
            continue  # plain.test is no service there
        with house.A.plain() as stream:
            stream.send(f"{request}\r\n{house.A.authorization}\r\n")
            expect(stream.answer(method), MALFORMED)
            fail_unless(stream.closed(), "the connection went on after", request)


tunnelled("D06", "a Host field that is no host", [raw("GET /v1/items/1 HTTP/1.1", f"Host: {value}") for value in (
    f"{RO}, {EVIL}", f"{RO},{EVIL}", f"{EVIL}, {RO}", f"{RO}@{EVIL}", f"{EVIL}@{RO}", f"{RO}:443@{EVIL}", f"{RO}:443:80", f"{RO}/", f"{RO}/v1", "", " ", ":", ":443", f"@{RO}", f"{RO} {EVIL}", f"{RO}\t{EVIL}", f"{RO};{EVIL}", f"{RO}#", f"{RO}?",
    f"{RO}\\{EVIL}", f"https://{RO}", f"//{RO}", f'"{RO}"', f"<{RO}>", f"[{RO}]", f"{RO}:+443", f"{RO}:-443", f"{RO}:0", f"{RO}:65979", f"{RO}:https", f"{RO}:0x1bb", f"{RO}:44 3", "%61pi.ro.test", "api%2ero.test", "api..ro.test", ".api.ro.test", "api.ro.test..",
    "bücher.test".encode().decode("latin-1"), "api。ro。test".encode().decode("latin-1"), "2130706433", "0x7f.1", "*", f"{RO}\x7f", f"{RO}\x0b", f"{RO}\xa0", f"{RO}\x85")], MALFORMED)
tunnelled("D06", "a Host field with what ends texts or lines", [raw("GET /v1/items/1 HTTP/1.1", f"Host: {value}") for value in (
    f"{RO}\0", f"{RO}\0.{EVIL}", f"{RO}\rX: y", f"{RO}\x01")] + [raw("GET /v1/items/1 HTTP/1.1", f"Host : {RO}"), raw("GET /v1/items/1 HTTP/1.1", f"Host: {RO}", f" {EVIL}"), raw("GET /v1/items/1 HTTP/1.1", f" Host: {RO}"),
                                                                 raw("GET /v1/items/1 HTTP/1.1", f"Host\t: {RO}"), raw("GET /v1/items/1 HTTP/1.1", "Host:", f" {RO}")], MALFORMED)
tunnelled("D06", "a port written in another way", [raw("GET /v1/items/1 HTTP/1.1", f"Host: {RO}:{p}") for p in ("00080", "080")], MALFORMED, MISMATCH)
tunnelled("D07", "no Host field", [raw("GET /v1/items/1 HTTP/1.1"), raw("GET /v1/items/1 HTTP/1.1", "X-Host: api.ro.test"), raw("GET /v1/items/1 HTTP/1.1", "Accept: */*"), raw("GET https://api.ro.test/v1/items/1 HTTP/1.1"),
                                   raw("OPTIONS * HTTP/1.1")], MALFORMED)
tunnelled("D07", "HTTP/1.0 without Host", [raw("GET /v1/items/1 HTTP/1.0"), raw("GET /v1/items/1 HTTP/1.0", "Connection: keep-alive")], MALFORMED, MISMATCH)


@case("D07", "the proxy's own connection without Host", silent=True)
def run(house, mark):
    for line, method in ((f"CONNECT {RO}:443 HTTP/1.1", "CONNECT"), ("GET http://plain.test/x HTTP/1.1", "GET")):
        if method == "GET" and not house.private:
            continue
        with house.A.plain() as stream:
            stream.send(f"{line}\r\n{house.A.authorization}\r\n")
            expect(stream.answer(method), MALFORMED)


@case("D07", "a CONNECT to one host that names another", lines_wanted=None)
def run(house, mark):
    for host in (EVIL, f"{EVIL}:443", "api.rw.test:443", "api.ro.test:80"):
        stream, answer = house.A.connect(f"{RO}:443", host=host)
        with stream:
            expect(answer, 200, 400, 421)
            if answer.status != 200:
                continue
            # The target is what counts (RFC 9112 §3.2.2): the tunnel is to it and to nothing else.
            inside = Stream(house.A.context().wrap_socket(stream.stream, server_hostname=RO))
            house.A.opened.append(inside)
            inside.send(head(host, "GET /v1/items/1 HTTP/1.1"))
            expect(inside.answer(), MISMATCH)
            inside.close()
    fail_unless(not mark.everywhere(), mark.everywhere())


def pseudo(method="GET", scheme="https", authority=RO, path="/v1/items/1", more=()):
    """A head of which parts may be absent."""
    fields = [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]
    return [(n, v) for n, v in fields if v is not None] + list(more)


def refused_streams(id, title, heads, *wanted):
    """Each is answered so or its stream is reset; either way the next request on the connection, or on a new one, is served."""
    @case(id, title, lines_wanted=None)
    def run(house, mark):
        h2, wrong = house.A.h2(RO), []
        for fields in heads:
            answer = h2.wait(h2.request(fields))
            if answer.status == 0:
                if answer.reset is None and h2.goaway is None:
                    wrong.append(f"{fields}: neither answered nor reset")
            else:
                try:
                    expect(answer, *wanted)
                except AssertionError as error:
                    wrong.append(f"{fields}: {error}")
            if answer.status == 0 and answer.reset is None or h2.goaway is not None:
                h2.close()
                h2 = house.A.h2(RO)
        try:
            expect(h2.get(RO, "/v1/items/alive"), 200)
        finally:
            h2.close()
        fail_unless(not wrong, "; ".join(wrong))
        fail_unless([r.target for r in mark.everywhere()] == ["/v1/items/alive"], mark.everywhere())


refused_streams("D08", "HTTP/2: the field names another host than the pseudo-header", [pseudo(more=[("host", h)]) for h in (
    EVIL, "api.rw.test", "api.ro.test:80", "api.ro.test, evil.test", "evil.test@api.ro.test", "api.ro.test@evil.test", "", " ", "api.ro.test.evil.test", "x.wild.test", "api.ro.test/", "45.33.32.10")]
    + [pseudo(more=[("host", RO), ("host", EVIL)]), pseudo(more=[("host", EVIL), ("host", RO)])], MISMATCH, MALFORMED)
refused_streams("D08", "HTTP/2: the pseudo-header names another host than the connection", [pseudo(authority=a) for a in OTHERS] + [pseudo(authority=EVIL, more=[("host", RO)]), pseudo(authority="api.rw.test", path="/v1/items")], MISMATCH, MALFORMED)
refused_streams("D08", "HTTP/2: a pseudo-header that is no host", [pseudo(authority=a) for a in (
    "a@api.ro.test", "api.ro.test@evil.test", "api.ro.test:443@evil.test", "api.ro.test:443:80", "api.ro.test/", "api.ro.test, evil.test", "", " ", "api.ro.test ", "api.ro.test#", "https://api.ro.test", "api.ro.test\0", "api.ro.test\r\nx: y", "api.ro.test:+443",
    "[api.ro.test]", "%61pi.ro.test", "api..ro.test", "*")], MISMATCH, MALFORMED)


@case("D08", "HTTP/2: the same host twice is the same host")
def run(house, mark):
    with house.A.h2(RO) as h2:
        for more in ([("host", RO)], [("host", "api.ro.test:443")], [("host", "API.RO.TEST")]):
            answer = h2.wait(h2.request(pseudo(more=more)))
            expect(answer, 200, 400, 421)
    fail_unless(all(r.values("host") == [RO] for r in mark.at(RO)), mark.at(RO))


refused_streams("D09", "HTTP/2: no pseudo-header for the host", [pseudo(authority=None, more=[("host", EVIL)]), pseudo(authority=None), pseudo(authority=None, more=[("host", "")]), pseudo(authority=None, more=[("host", "api.rw.test")]),
                                                                 pseudo(authority=None, more=[("host", RO), ("host", EVIL)]), pseudo(authority=None, more=[("x-forwarded-host", RO)])], MISMATCH, MALFORMED)
refused_streams("D09", "HTTP/2: another scheme than the connection's", [pseudo(scheme=s) for s in ("http", "ftp", "HTTP", "", "ws", "wss", "httpsx", "https://evil.test/", "https:", " https", None)], MISMATCH, MALFORMED)


@case("D09", "HTTP/2: the field alone may name the right host")
def run(house, mark):
    with house.A.h2(RO) as h2:
        answer = expect(h2.wait(h2.request(pseudo(authority=None, more=[("host", RO)]))), 200, 400, 421)
    fail_unless(len(mark.at(RO)) == (answer.status == 200) and all(r.values("host") == [RO] for r in mark.at(RO)), mark.at(RO))


def to_listener(id, title, requests, *wanted, lines_wanted=0):
    @case(id, title, silent=True, lines_wanted=lines_wanted)
    def run(house, mark):
        wrong = []
        for line, host in requests:
            with house.A.plain() as stream:
                stream.send(f"{line} HTTP/1.1\r\nHost: {host}\r\n{house.A.authorization}\r\n")
                try:
                    answer = expect(stream.answer(), *wanted)
                    fail_unless(answer.status not in (400, 421) or stream.closed(), "the connection went on")
                except (AssertionError, Closed) as error:
                    wrong.append(f"{line!r}: {error or 'no answer'}")
        fail_unless(not wrong, "; ".join(wrong))


to_listener("D11", "targets with two hosts or none", [(f"GET {t}", h) for t, h in [
    ("http://api.ro.test@evil.test/", EVIL), ("http://plain.test@evil.test/", "plain.test"), ("http://evil.test@plain.test/", "plain.test"), ("http://a:b@plain.test/", "plain.test"), ("http://@plain.test/", "plain.test"), ("evil.test:80", EVIL),
    ("plain.test:80", "plain.test"), ("plain.test", "plain.test"), ("http://evil.test#@plain.test/", "plain.test"), ("http://plain.test\\@evil.test/", "plain.test"), ("http://plain.test\\.evil.test/", "plain.test"), ("http:///x", "plain.test"),
    ("http:/plain.test/x", "plain.test"), ("http:plain.test/x", "plain.test"), ("http:////plain.test/x", "plain.test"), ("//plain.test/x", "plain.test"), ("/x", "plain.test"), ("/", "plain.test"), ("*", "plain.test"), ("x", "plain.test"), ("?x", "plain.test"),
    ("http://plain.test:80:80/", "plain.test"), ("http://plain.test:+80/", "plain.test"), ("http://plain.test:0/", "plain.test"), ("http://plain.test:65616/", "plain.test"), ("http://plain.test%00.evil.test/", "plain.test"), ("http://plain.test%2f@evil.test/", "plain.test"),
    ("http://plain%2etest/", "plain.test"), ("http://[plain.test]/", "plain.test"), ("http://plain.test, evil.test/", "plain.test"), ("http://plain.test,evil.test/", "plain.test"), ("http://:80/", "plain.test"), ("http://", "plain.test"), ("http://?x", "plain.test"),
    ("http://plain..test/", "plain.test"), ("http://2130706433/", "plain.test"), ("http://0x7f.1/", "plain.test"), ("http://bücher.test/".encode().decode("latin-1"), "plain.test")]], MALFORMED, MISMATCH, (403, "destination-denied"))
to_listener("D11", "schemes that are not carried", [(f"GET {s}://plain.test/x", "plain.test") for s in ("ftp", "gopher", "ws", "wss", "file", "httpx", "ldap", "dict", "unix", "socks5")] + [("GET file:///etc/passwd", "plain.test"), ("GET data:,x", "plain.test")],
            400, 403, 501)
@case("D11", "the target counts, not the field", private=True)
def run(house, mark):
    for target, host, wanted in [("http://plain.test/x", EVIL, (200, 421)), ("http://plain.test/x", "plain.test", (200,)), ("HTTP://PLAIN.TEST:80/x", "plain.test", (200,)), ("http://plain.test./x", "plain.test", (200, 400, 421)),
                                 ("http://evil.test/x", "plain.test", (403, 421)),
                                 # A field that is no host deserves a 400 (RFC 9112 §3.2); that a proxy ignores it (§3.2.2) harms nobody.
                                 *[("http://plain.test/x", h, (200, 400, 421)) for h in ("plain.test@evil.test", "plain.test, evil.test", "plain.test/", "a b", "plain.test:80:80", "")]]:
        with house.A.plain() as stream:
            stream.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{house.A.authorization}\r\n")
            expect(stream.answer(), *wanted)
    fail_unless(not mark.at(EVIL) and all((r.target, r.values("host")) == ("/x", ["plain.test"]) for r in mark.at("plain.test")), mark.everywhere())


# By these an agent would speak for a proxy, a balancer or a TLS terminator that it is not: `{name: value}`.
ROLES = {
    "X-Forwarded-Host": EVIL, "X-Forwarded-Server": EVIL, "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Port": "80", "X-Forwarded-Prefix": "/admin", "X-Forwarded-Uri": "/v1/public", "X-Forwarded-Url": "/v1/public",
    "X-Forwarded-Method": "DELETE", "X-Forwarded-User": "root", "X-Forwarded-Email": "root@evil.test", "X-Forwarded-Groups": "admin", "X-Forwarded-Preferred-Username": "root", "X-Forwarded-Client-Cert": "Subject=root", "X-Forwarded-Scheme": "http",
    "X-Forwarded-Access": "x", "X-Forwarded": "for=127.0.0.1", "Forwarded": f"host={EVIL}", "X-Original-URL": "/admin", "X-Original-Uri": "/admin", "X-Original-Host": EVIL, "X-Original-Method": "DELETE", "X-Rewrite-URL": "/admin", "X-Rewrite-Uri": "/admin",
    "X-Override-URL": "/admin", "X-Host": EVIL, "X-HTTP-Host-Override": EVIL, "X-Real-IP": "127.0.0.1", "X-Client-IP": "127.0.0.1", "Client-IP": "127.0.0.1", "True-Client-IP": "127.0.0.1", "X-Cluster-Client-IP": "127.0.0.1", "CF-Connecting-IP": "127.0.0.1",
    "Fastly-Client-IP": "127.0.0.1", "X-Remote-IP": "127.0.0.1", "X-Remote-Addr": "127.0.0.1", "Remote-Addr": "127.0.0.1", "X-Remote-User": "root", "Remote-User": "root", "X-Envoy-Original-Path": "/admin", "X-Envoy-External-Address": "127.0.0.1",
    "X-Envoy-Internal": "true", "Client-Cert": ":AAAA:", "Client-Cert-Chain": ":AAAA:", "X-Client-Cert": "AAAA", "X-SSL-Client-Cert": "AAAA", "SSL-Client-Cert": "AAAA", "X-SSL-Client-Verify": "SUCCESS", "X-SSL-Client-S-DN": "CN=root", "X-Client-Verify": "SUCCESS",
    "X-Client-DN": "CN=root", "X-ARR-ClientCert": "AAAA", "X-Amzn-Mtls-Clientcert": "AAAA", "X-Amzn-Oidc-Identity": "root", "X-Amzn-Oidc-Data": "x.y.z", "X-Goog-Authenticated-User-Email": "root", "X-Goog-IAP-JWT-Assertion": "x.y.z",
    "Cf-Access-Jwt-Assertion": "x.y.z", "X-MS-Client-Principal": "root", "X-MS-Client-Principal-Id": "root", "X-Auth-Request-User": "root", "X-Auth-Request-Email": "root", "X-Authenticated-User": "root", "X-WebAuth-User": "root",
    "X-Tokenward-Agent": "A", "X-Tokenward": "1", "Proxy-Connection": "keep-alive", "Proxy-Status": "x", "Proxy-Foo": "x", "Front-End-Https": "on", "X-Url-Scheme": "http", "X-Scheme": "http", "X-Appengine-User-Email": "root",
    "X_Forwarded_Host": EVIL, "x_original_url": "/admin", "Alt-Used": EVIL, "Max-Forwards": "0", "HTTP2-Settings": "AAMAAABkAAQAAP__",
}


@case("D12", "fields that speak for somebody in between")
def run(house, mark):
    lines = [f"{n}: {v}" for n, v in ROLES.items()]
    names = {n.lower() for n in ROLES}
    # All of them within a head's number of fields, then each alone on a connection that is kept.
    for host, path in ((RO, "/v1/items/1"), ("mal.test", "/v1/items/1")):
        for part in (lines[:45], lines[45:]):
            expect(house.A.ask(host, head(host, f"GET {path} HTTP/1.1", *part, "X-Benign: kept")), 200)
            record = mark.at(host)[-1]
            left = sorted(names & {n for n, _ in record.fields})
            fail_unless(not left, host, "received", left)
            fail_unless(record.values("x-benign") == ["kept"] and record.target == path and record.values("host") == [host], record)
    # They decide nothing.
    for path in ("/v1/admin", "/admin"):
        expect(house.A.ask(RO, head(RO, f"GET {path} HTTP/1.1", "X-Forwarded-Uri: /v1/public", "X-Original-URL: /v1/items/1", "X-Rewrite-URL: /v1/items/1", "X-Forwarded-Method: GET", "X-Forwarded-Host: echo.test")), (403, "policy-denied"))


@case("D12", "the same over HTTP/2 and in the clear")
def run(house, mark):
    fields = [(n.lower(), v) for n, v in ROLES.items() if n.lower() not in ("proxy-connection", "http2-settings")]
    names = {n for n, _ in fields}
    with house.A.h2("mal.test") as h2:
        expect(h2.get("mal.test", "/v1/items/1", [*fields, ("x-benign", "kept")]), 200)
    records = mark.at("mal.test")[-1:]
    if house.private:
        with house.A.plain() as stream:
            stream.send(f"GET http://plain.test/x HTTP/1.1\r\nHost: plain.test\r\n{house.A.authorization}" + "".join(f"{n}: {v}\r\n" for n, v in list(ROLES.items())[:60]) + "X-Benign: kept\r\n\r\n")
            expect(stream.answer(), 200)
        records += mark.at("plain.test")[-1:]
    for record in records:
        left = sorted(names & {n for n, _ in record.fields})
        fail_unless(not left and record.values("x-benign") == ["kept"], record.origin, "received", left)


@case("D12", "a field that becomes HTTP_PROXY where fields become variables")
def run(house, mark):
    # httpoxy: a CGI program behind the API would send its own requests where the agent says.
    for host in ("mal.test", RO):
        expect(house.A.get(host, "/v1/items/1", "Proxy: http://evil.test/\r\n"), 200)
        fail_unless(not mark.at(host)[-1].values("proxy"), host, "received Proxy")
