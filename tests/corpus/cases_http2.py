"""Class F: HTTP/2 from agents, and what becomes of it on HTTP/1.1 (and HTTP/2) upstream.

What HTTP/2 can carry and HTTP/1.1 cannot (line ends in values, spaces in methods, lengths that frames contradict) must not
be written to anybody: the request is malformed (RFC 9113 §8.1.1) and its stream is reset, or it is answered 400.
"""

import time

from agent import DATA, END_STREAM, RST
from cases import case, expect
from cases_framing import H11, PATH, RW, Watch, hosts
from house import fail_unless, wait_until

RO = "api.ro.test"
WILD2 = "h2.wild.test"
PROTOCOL_ERROR = 1


def origin_h2(house):
    """The service `*.wild.test` at an origin that chooses HTTP/2."""
    context = getattr(house, "h2_context", None) or house.ca.server(house.dir, [WILD2], alpn=("h2", "http/1.1"))
    house.h2_context = context
    house.open_origin(WILD2, context=context)
    return WILD2


def targets(house):
    """Parsers of HTTP/1.1 to which we cross over, and an origin that stays on HTTP/2."""
    return [*hosts(house), *([origin_h2(house)] if house.private else [])]


def fields_of(host, method="GET", path=PATH, scheme="https", more=()):
    return [(":method", method), (":scheme", scheme), (":authority", host), (":path", path), *more]


def told(answer, statuses=(400,)):
    """Whether a stream was refused as it should: reset, or answered so."""
    if answer.status == 0:
        return answer.reset is None or answer.reset == PROTOCOL_ERROR  # None: the whole connection went
    return answer.status in statuses and answer.complete


def malformed(id, title, *requests, statuses=(400,), at=targets, **how):
    """Each request, given as a function from the host to its fields, is refused and heard by no origin; other streams of
    the connection go on, unless the whole connection was ended for it."""
    @case(id, title, lines_wanted=None, **how)
    def run(house, mark):
        for host in at(house):
            watch, connection, asked = Watch(house, host), None, 0
            for request in requests:
                connection = connection or house.A.h2(host)
                answer = connection.wait(connection.request(request(host)))
                fail_unless(told(answer, statuses), host, request(host), "got", answer.status, answer.code, answer.reset, connection.goaway)
                if connection.goaway is None:
                    # It lives, so the next one is judged too. Where policy can say so, nobody need be asked.
                    expect(connection.get(host, "/v1/between"), 200 if host == WILD2 else 403)
                    asked += host == WILD2
                else:
                    connection.close()
                    connection = None
            if connection:
                connection.close()
            heard = [r for r in (watch.settled(asked) if asked else watch.records) if r.target != "/v1/between"]
            fail_unless(not heard, host, "heard", heard)


def field(name, value):
    return lambda host: fields_of(host, more=[(name, value)])


# --- F01, F03, F05: what is no field of HTTP/2, or must not be one

malformed("F01", "line ends and NUL in values", *(field("x-odd", value) for value in [
    "a\r\nx-smuggled: b", "a\nx-smuggled: b", "a\0b", "a\r", "a\r\n\r\nGET /v1/admin HTTP/1.1\r\nHost: h\r\n\r\n", "\n", "\r\n", "\0", "a\x01b", "a\x7fb"]))
malformed("F01", "names that are none", *(field(name, "a") for name in [
    "X-Odd", "x-Odd", "x odd", "x:odd", "x\rodd", "x\r\nx-smuggled: b\r\ny", "x\nodd", "x\0odd", "", " x", "x ", "x\todd", "x\xe9", "x(y)", "x/y",
    "x\x7f", "x,y", "x:", ":", "content-length:", "transfer-encoding: chunked\r\nx"]))
malformed("F01", "a quotation mark in a name", field('x"y', "a"), field('"', "a"))
malformed("F01", "line ends in the values that we read", *(field(name, "a\r\nx-smuggled: b") for name in [
    "authorization", "cookie", "content-type", "user-agent", "accept", "expect", "te", "host", "origin", "content-length"]))
malformed("F03", "fields of one connection", *(field(*f) for f in [
    ("transfer-encoding", "chunked"), ("transfer-encoding", "identity"), ("connection", "authorization"), ("connection", "close"), ("connection", ""),
    ("keep-alive", "timeout=5"), ("upgrade", "h2c"), ("upgrade", "websocket"), ("proxy-connection", "keep-alive"), ("te", "gzip"), ("te", "trailers, gzip"),
    ("te", "chunked")]))


@case("F03", "te: trailers is what HTTP/2 allows")
def run(house, mark):
    for host in targets(house):
        watch = Watch(house, host)
        with house.A.h2(host) as connection:
            expect(connection.get(host, PATH, more=[("te", "trailers")]), 200)
        fail_unless(watch.settled(1)[0].values("te") in ([], ["trailers"]), watch.records)


def pseudo(*fields):
    return lambda host: [(n, v.replace("<HOST>", host)) for n, v in fields]


METHOD, SCHEME, AUTHORITY, PLACE = (":method", "GET"), (":scheme", "https"), (":authority", "<HOST>"), (":path", PATH)
malformed("F05", "pseudo-fields twice, late, unknown or missing",
          *(pseudo(METHOD, SCHEME, AUTHORITY, PLACE, again) for again in (METHOD, SCHEME, AUTHORITY, PLACE)),
          pseudo(METHOD, SCHEME, AUTHORITY, (":path", "/v1/admin"), PLACE), pseudo(METHOD, SCHEME, AUTHORITY, ("x", "y"), PLACE),
          pseudo(("x", "y"), METHOD, SCHEME, AUTHORITY, PLACE), pseudo(METHOD, SCHEME, AUTHORITY, PLACE, ("x", "y"), (":method", "POST")),
          pseudo(METHOD, SCHEME, AUTHORITY, PLACE, (":foo", "bar")), pseudo(METHOD, SCHEME, AUTHORITY, PLACE, (":status", "200")),
          pseudo(METHOD, SCHEME, AUTHORITY, PLACE, (":", "x")), pseudo(METHOD, SCHEME, AUTHORITY, PLACE, (":protocol", "websocket")),
          pseudo(METHOD, SCHEME, AUTHORITY), pseudo(METHOD, AUTHORITY, PLACE), pseudo(SCHEME, AUTHORITY, PLACE), pseudo(("x", "y")),
          pseudo(METHOD, SCHEME, AUTHORITY, PLACE, (":Method", "GET")), pseudo(METHOD, SCHEME, (":authority", ""), PLACE))


# --- F02: lengths that the frames contradict

@case("F02", "content-length that the frames contradict", lines_wanted=None, unheard=True)
def run(house, mark):
    wrong = [(["5"], "123456"), (["5"], "1234"), (["5"], ""), (["5"], None), (["0"], "1"), (["5"], "1" * 60_000), (["60000"], "1" * 59_999), (["5", "6"], "12345"),
             (["6", "5"], "12345"), (["+5"], "12345"), (["5, 5"], "12345"), (["-5"], "12345"), (["0x5"], "12345"), ([""], "12345"), (["five"], "12345"),
             (["99999999999999999999"], "12345")]
    for host in targets(house):
        for lengths, body in wrong:
            watch = Watch(house, host)
            with house.A.h2(host) as connection:
                more = [("content-length", v) for v in lengths]
                number = connection.request(fields_of(host, "POST", more=more), body=None if body is None else body.encode())
                answer = connection.wait(number)
                fail_unless(told(answer), host, lengths, body and body[:10], "got", answer.status, answer.code, answer.reset)
                if connection.goaway is None:
                    expect(connection.get(host, PATH), 200)
            # What the upstream has heard of it breaks off; and nothing else is said on that connection.
            found = wait_until("the next request", lambda: [r for r in watch.records if r.method == "GET"] or connection.goaway, 3)
            bad = [r for r in watch.records if r.method == "POST"]
            fail_unless(not any(r.complete for r in bad), host, lengths, "a whole request came of", bad)
            if bad and found and host != WILD2:
                fail_unless(found[0].connection not in {r.connection for r in bad}, host, "the connection went on")


@case("F02", "a length that becomes wrong later", lines_wanted=None, unheard=True)
def run(house, mark):
    for host in [H11, *([origin_h2(house)] if house.private else [])]:
        for announced, pieces in [("10", [b"hello", b"hello!"]), ("10", [b"hello", b"hell"]), ("5", [b"hello", b"!"]), (None, [b"hello", None])]:
            watch = Watch(house, host)
            with house.A.h2(host) as connection:
                more = [("content-length", announced)] if announced else []
                number = connection.request(fields_of(host, "POST", more=more), end=False)
                connection.frame(DATA, 0, number, pieces[0])
                time.sleep(0.1)  # a head may have been sent by now, or the body is kept first
                if pieces[1] is None:
                    connection.frame(RST, 0, number, b"\0\0\0\x08")  # CANCEL: the body is not to be had
                    answer = None
                else:
                    connection.frame(DATA, END_STREAM, number, pieces[1])
                    answer = connection.wait(number)
                # A whole body that is followed by more may be answered already; it is no other request.
                early = announced == "5"
                fail_unless(answer is None or told(answer, (400, 200) if early else (400,)), host, announced, pieces, answer)
                expect(connection.get(host, PATH), 200)
            wait_until("the next request", lambda: any(r.method == "GET" for r in watch.records), 3)
            for record in [r for r in watch.records if r.method == "POST"]:
                fail_unless(not record.complete or (early and record.body == b"hello"), host, record)


@case("F02", "right lengths, and none")
def run(house, mark):
    for host in targets(house):
        for lengths, body in [(["5"], b"hello"), (["0"], b""), ([], b"hello"), ([], b""), (["0"], None), (["5", "5"], b"hello"), (["005"], b"hello")]:
            watch = Watch(house, host)
            with house.A.h2(host) as connection:
                answer = connection.wait(connection.request(fields_of(host, "POST", more=[("content-length", v) for v in lengths]), body=body))
            if lengths in (["5", "5"], ["005"]) and told(answer):
                continue  # said twice, or oddly: refused or collapsed
            expect(answer, 200)
            (record,) = watch.settled(1)
            fail_unless(record.complete and record.body == (body or b""), host, lengths, record)
            fail_unless(record.values("content-length") in ([], [str(len(body or b""))]), host, record.fields)


# --- F04, F09: the path and the method

malformed("F04", "paths that are none", *((lambda path: lambda host: fields_of(host, path=path.replace("<HOST>", host)))(path) for path in [
    "*", "", "v1/items", "http://evil.test/", "https://<HOST>/v1/items", "/v1/items x", "/v1/items\r\nX: y", "/v1/items HTTP/1.1\r\nHost: evil.test\r\n\r\n", "//v1/items",
    "/v1/items\0", "/v1/items\t", " /v1/items", "@evil.test/v1/items", ":80/v1/items", "/v1/items\x7f", "/v1/items\xe9", "\\v1\\items"]))
malformed("F04", "an asterisk for other methods", *((lambda method: lambda host: fields_of(host, method, "*"))(m) for m in ("POST", "HEAD", "OPTIONS")),
          statuses=(400, 403))


@case("F04", "a query or a fragment without a path is refused, or means the root")
def run(house, mark):
    # The library tells a path of `/` for these; what is judged, sent and written down must then be that.
    for host in targets(house):
        watch, passed = Watch(house, host), 0
        with house.A.h2(host) as connection:
            for path in ("?x=1", "?/v1/items", "#a", "?"):
                answer = connection.wait(connection.request(fields_of(host, path=path)))
                fail_unless(told(answer, (400, 403)) or (answer.status == 200 and host == WILD2), host, path, answer.status, answer.reset)
                passed += answer.status == 200
        fail_unless(all(r.target in ("/", "/?x=1", "/?/v1/items", "/?") for r in watch.settled(passed)), watch.records)


@case("F04", "a fragment is refused, or no part of what is judged and sent")
def run(house, mark):
    for host in targets(house):
        watch, passed = Watch(house, host), 0
        with house.A.h2(host) as connection:
            for path in (f"{PATH}#/../admin", f"{PATH}#", f"{PATH}?a=b#c", f"/v1/admin#{PATH}", f"/v1/ad#min/../items"):
                answer = connection.wait(connection.request(fields_of(host, path=path)))
                if answer.status == 200:
                    passed += 1
                    fail_unless(path.startswith(PATH) or host == WILD2, path, "was allowed")
                else:
                    fail_unless(told(answer, (400, 403)), host, path, answer.status, answer.reset)
        for record in watch.settled(passed):
            fail_unless("#" not in record.target and (record.target.split("?")[0] == PATH or host == WILD2), record)


malformed("F09", "methods that would be a line", *((lambda method: lambda host: fields_of(host, method))(method) for method in [
    "GET / HTTP/1.1", f"GET {PATH} HTTP/1.1\r\nX: y\r\n\r\nPOST", "GET\r\n", "GE T", "", "GET\t", "G\0T", "GET\n", "G(T", "G\xc9T", " GET", "GET ", "GET,POST"]),
          statuses=(400, 403))
malformed("F09", "line ends, escaped, in the path", *((lambda path: lambda host: fields_of(host, path=path))(path) for path in [
    f"{PATH}/%0d%0aX:y", f"{PATH}/%0D%0A%0D%0AGET%20/", f"{PATH}/%0a", f"{PATH}/%00", f"{PATH}/x%0dy"]), statuses=(400, 403))
malformed("F09", "other schemes", *((lambda scheme: lambda host: fields_of(host, scheme=scheme))(scheme) for scheme in [
    "http", "ftp", "HTTP", "", "https ", "https\r\nx", "wss", "https://evil.test/"]))


@case("F09", "what is written to HTTP/1.1 is what was understood")
def run(house, mark):
    asked = [fields_of(H11, path=f"{PATH}?q=%0d%0aX:y&r=a%20b"), fields_of(H11, path=f"{PATH}/a;b=c,d:e@f!$&'()*+=~"),
             fields_of(H11, "DELETE", f"{PATH}/%7Ea/b%2Bc"), fields_of(H11, "OPTIONS", more=[("x-a", "b: c"), ("x-b", ""), ("x-c", "\xe9")]),
             fields_of(H11, "POST", more=[("content-length", "2")]), fields_of(H11, "POST"), fields_of(H11, "HEAD")]
    watch = Watch(house, H11)
    with house.A.h2(H11) as connection:
        for number, fields in enumerate(asked):
            body = b"hi" if fields[0][1] == "POST" else None
            answer = connection.wait(connection.request(fields, body=body))
            fail_unless(answer.status in (200, 400), fields, answer.status)
    for number in {r.connection for r in watch.records}:
        wire = bytes(house.origins[H11].conversations[number - 1].raw)
        mine = [r for r in house.origins[H11].records if r.connection == number]
        # Written once more from what the strict parser understood, it is the same, byte for byte but for case in names.
        again = b""
        for record in mine:
            text = f"{record.method} {record.target} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in record.fields) + "\r\n"
            again += text.encode("latin-1")
            if record.values("transfer-encoding"):
                again += b"%x\r\n%s\r\n" % (len(record.body), record.body) if record.body else b""
                again += b"0\r\n\r\n"
            else:
                again += record.body
        fail_unless(wire.lower() == again.lower(), "written:", wire[-600:], "understood:", again[-600:])


# --- F06, F07: cookies, spaces, several hosts, trailers, CONNECT

@case("F06", "cookies in several fields are one, or none")
def run(house, mark):
    for host in targets(house):
        watch = Watch(house, host)
        with house.A.h2(host) as connection:
            answer = connection.get(host, PATH, more=[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3; d=4")])
        expect(answer, 200)
        cookies = watch.settled(1)[0].values("cookie")
        on_h2 = ["a=1", "b=2", "c=3; d=4"]
        fail_unless(cookies in ([], ["a=1; b=2; c=3; d=4"], on_h2 if host == WILD2 else []), host, cookies)
        # A service with a credential is sent no cookie of an agent's.
        fail_unless(host == WILD2 or not cookies, host, cookies)


@case("F06", "spaces around values are gone before anything is compared")
def run(house, mark):
    for host in targets(house):
        with house.A.h2(host) as connection:
            for more, statuses in [([("host", f" {host} ")], (200, 0, 400)), ([("host", " evil.test")], (421, 400, 0)), ([("content-length", " 5")], (0, 400)),
                                   ([("expect", " y ")], (417, 0, 400)), ([("te", " gzip")], (0, 400, 200)), ([("transfer-encoding", " chunked ")], (0, 400))]:
                method = "POST" if more[0][0] == "content-length" else "GET"
                answer = connection.wait(connection.request(fields_of(host, method, more=more)))
                fail_unless(answer.status in statuses, host, more, answer.status, answer.code, answer.reset)
        fail_unless(all(r.host == host for r in mark.at(host)), mark.at(host))




@case("F06", "spaces around values are not passed on")
def run(house, mark):
    # RFC 9113 §8.2.1: such a field is malformed; whoever is strict must not be asked to forgive it.
    for host in targets(house):
        watch, passed = Watch(house, host), 0
        with house.A.h2(host) as connection:
            for value in (" a ", "\ta", "a\t", " ", "a "):
                answer = connection.wait(connection.request(fields_of(host, more=[("x-odd", value)])))
                fail_unless(answer.status == 200 or told(answer), host, repr(value), answer.status, answer.code, answer.reset)
                passed += answer.status == 200
        for record in watch.settled(passed):
            fail_unless(all(v == v.strip() for _, v in record.fields), record.fields)


malformed("F06", "two host fields", *((lambda more: lambda host: fields_of(host, more=[("host", v.replace("<HOST>", host)) for v in more]))(more) for more in [
    ["<HOST>", "<HOST>"], ["<HOST>", "evil.test"], ["evil.test", "<HOST>"], ["<HOST>", ""]]), statuses=(400, 421))
malformed("F06", "a host of another name", *((lambda v: lambda host: fields_of(host, more=[("host", v.replace("<HOST>", host))]))(v) for v in [
    "evil.test", "<HOST>, evil.test", "<HOST>@evil.test", "<HOST>:80", "", "<HOST>/", "evil.test:443"]), statuses=(400, 421))


def dropped(id, title, chosen, hidden):
    """A body goes through and its trailers `hidden` do not."""
    @case(id, title)
    def run(house, mark):
        for host in targets(house):
            for announced in ([], [("trailer", ", ".join(n for n, _ in chosen))]):
                watch = Watch(house, host)
                with house.A.h2(host) as connection:
                    expect(connection.wait(connection.request(fields_of(host, "POST", more=announced), body=b"hi", trailers=chosen)), 200)
                (record,) = watch.settled(1)
                fail_unless(record.body == b"hi" and record.complete and record.host == host, host, record)
                fail_unless(not {n for n, _ in record.trailers} & set(hidden), host, record.trailers)


MEANT_FOR_HEADS = [("authorization", "Bearer x"), ("host", "evil.test"), ("dpop", "x"), ("x-api-key", "x"), ("cookie", "a=b"), ("proxy-authorization", "Basic x"),
                   ("x-http-method-override", "DELETE"), ("content-length", "9"), ("x_odd", "1"), ("forwarded", "for=x"), ("via", "1.1 x"), ("te", "trailers"),
                   ("content-encoding", "gzip"), ("content-type", "x/y"), ("expect", "100-continue"), ("x-forwarded-host", "evil.test")]
dropped("F07", "trailers that mean something in heads", [t for t in MEANT_FOR_HEADS if t[0] != "te"], [n for n, _ in MEANT_FOR_HEADS])
dropped("F07", "trailers that nobody asked for", [("x-checksum", "1"), ("x-odd", "2")], ["x-checksum", "x-odd"])


@case("F07", "trailers that are none", lines_wanted=None, unheard=True)
def run(house, mark):
    for host in (H11, *([origin_h2(house)] if house.private else [])):
        watch = Watch(house, host)
        for trailers in ([(":path", "/v1/admin")], [(":status", "200")], [("x\r\ny", "z")], [("x", "a\r\nb")], [("X", "y")], [("connection", "close")],
                         [("transfer-encoding", "chunked")]):
            with house.A.h2(host) as connection:
                answer = connection.wait(connection.request(fields_of(host, "POST"), body=b"hi", trailers=trailers))
                fail_unless(told(answer, (400, 200)), host, trailers, answer.status, answer.code, answer.reset)
        for record in watch.records:
            fail_unless(not record.trailers and record.host == host and record.body in (b"hi", b""), record)


@case("F07", "CONNECT on a stream is no tunnel", lines_wanted=None)
def run(house, mark):
    for host in targets(house):
        watch = Watch(house, host)
        with house.A.h2(host) as connection:
            for fields in ([(":method", "CONNECT"), (":authority", f"{host}:443")], [(":method", "CONNECT"), (":authority", "evil.test:443")],
                           [(":method", "CONNECT"), (":authority", "169.254.169.254:80")], fields_of(host, "CONNECT"),
                           [*fields_of(host, "CONNECT"), (":protocol", "websocket")]):
                number = connection.request(fields, end=False)
                connection.frame(DATA, END_STREAM, number, b"\x16\x03\x01")
                answer = connection.wait(number)
                fail_unless(told(answer, (400, 403, 405, 421, 501)), host, fields, answer.status, answer.code, answer.reset)
                if connection.goaway is not None:
                    break
            expect(connection.wait(connection.request(fields_of(host, "TRACE"))), 405)
        fail_unless(not watch.records, watch.records)


# --- F08: one connection is one service's

@case("F08", "a certificate names one host")
def run(house, mark):
    for host in (RO, RW, "echo.test", H11):
        with house.A.tunnel(host, alpn=("h2",)) as stream:
            names = stream.stream.getpeercert()["subjectAltName"]
        fail_unless(names == (("DNS", host),), host, names)


@case("F08", "another authority on the same connection")
def run(house, mark):
    with house.A.h2(RO) as connection:
        expect(connection.get(RO, f"{PATH}/1"), 200)
        for other in (RW, "echo.test", H11, "evil.test", f"{RO}:8443", f"x.{RO}", "wild.test"):
            answer = connection.wait(connection.request(fields_of(other)))
            expect(answer, (421, "authority-mismatch"))
            expect(connection.get(RO, f"{PATH}/2"), 200)
        # Spellings of the right one are the right one.
        for same in (f"{RO}:443", RO.upper(), f"{RO}."):
            answer = connection.wait(connection.request(fields_of(same, path=f"{PATH}/3")))
            fail_unless(answer.status in (200, 400, 421), same, answer.status)
    fail_unless(not [r for r in mark.everywhere() if r.origin != RO], mark.everywhere())
    fail_unless(all(r.host == RO for r in mark.at(RO)), mark.at(RO))


@case("F08", "two at once on one connection are judged alone")
def run(house, mark):
    with house.A.h2(RO) as connection:
        asked = {}
        for n in range(20):
            host, path, wanted = [(RO, f"{PATH}/{n}", 200), (RW, PATH, 421), (RO, "/v1/admin", 403), (RO, "*", 400)][n % 4]
            asked[connection.request(fields_of(host, path=path))] = wanted
        for number, wanted in asked.items():
            answer = connection.wait(number)
            fail_unless(answer.status == wanted, number, "got", answer.status, "not", wanted)
    fail_unless(sorted(r.target for r in mark.at(RO)) == sorted(f"{PATH}/{n}" for n in range(0, 20, 4)), mark.at(RO))


# --- F10: HTTP/2 in clear

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"


@case("F10", "the preface where HTTP/2 is not spoken", lines_wanted=None)
def run(house, mark):
    def opening():
        yield house.A.plain()
        stream, answer = house.A.connect(f"{H11}:443")
        fail_unless(answer.status == 200, answer.status)
        yield stream  # in a tunnel, in place of TLS
        yield house.A.tunnel(H11)  # where http/1.1 was agreed on
        yield house.A.tunnel(H11, alpn=())  # where nothing was
    for stream in opening():
        with stream:
            stream.send(PREFACE + b"\0\0\x03\x01\x05\0\0\0\x01\x82\x84\x87")
            answers, closed = stream.rest()
            fail_unless(closed and len(answers) <= 1 and all(a.status == 400 for a in answers), answers, closed)
    fail_unless(not mark.everywhere(), mark.everywhere())


def h2c(authority, line, *more):
    return (f"{line} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
            + "".join(f"{m}\r\n" for m in more) + "\r\n")


@case("F10", "an upgrade to h2c goes no further", private=True)
def run(house, mark):
    with house.A.plain() as stream:
        stream.send(h2c("plain.test", "GET http://plain.test/a", house.A.authorization.strip(), "Content-Length: 0"))
        expect(stream.answer(), 200, 501)
        # HTTP/2 that the client believes agreed on is no HTTP/1.1.
        stream.send(PREFACE)
        rest, closed = stream.rest()
        fail_unless(closed and [a.status for a in rest] in ([], [400]), rest, closed)
    for host in hosts(house):
        watch = Watch(house, host)
        with house.A.tunnel(host) as stream:
            stream.send(h2c(host, f"GET {PATH}"))
            answer = expect(stream.answer(), 200, 501)
            if answer.status == 200:
                watch.settled(1)
            fail_unless(not answer.values("upgrade"), answer.fields)
    for record in mark.everywhere():
        fail_unless(not record.values("upgrade") and not record.values("http2-settings"), record.fields)
        named = ",".join(record.values("connection")).lower()
        fail_unless("upgrade" not in named and "http2" not in named, record.fields)


@case("F10", "an upstream that speaks HTTP/2 in clear, unasked", private=True)
def run(house, mark):
    settings = b"\0\0\0\x04\0\0\0\0\0"
    for said in (b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + settings, settings * 3, settings + b"\r\n\r\n"):
        def behave(record, conversation):
            if record.target == "/next":
                return 200, [], "next"
            conversation.send(said)
            raise ConnectionError
        house.origins["plain.test"].behave = behave
        for path, wanted in (("/odd", 502), ("/next", 200)):
            with house.A.plain() as stream:
                stream.send(f"POST http://plain.test{path} HTTP/1.1\r\nHost: plain.test\r\n{house.A.authorization}Content-Length: 0\r\n\r\n")
                expect(stream.answer(), wanted)
