"""The requests: made from a seed and a number, so that one that fails can be made again."""

import hashlib
import random
import re
from urllib.parse import unquote_to_bytes

HOST = b"origin-host.test"  # replaced by the name of each origin, which is as long
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]
# Fields whose values are compared. nginx can only tell those that it is asked for.
FIELDS = ["x-a", "x-b", "x-long-name", "accept", "user-agent", "content-type", "accept-language"]
UNRESERVED = "abcxyzABCXYZ0189-._~"
SUB_DELIMS = "!$&'()*+,;=:@"


class Case:
    """One write on a connection."""

    def __init__(self, number):
        self.number = number
        self.bytes = b""
        # What each origin must see of it; None where tokenward may refuse it instead.
        self.expected = []
        self.what = "plain"


class Wanted:
    def __init__(self, method, target, fields, body):
        self.method, self.target, self.fields, self.data = method, target, fields, body
        self.body = hashlib.sha256(body).hexdigest()


def make(seed, number):
    rng = random.Random(f"{seed}/{number}")
    case = Case(number)
    kind = rng.random()
    if kind < 0.60:
        add(rng, case, f"{number}.0")
        if rng.random() < 0.1:
            case.what = "h2"
    elif kind < 0.70:
        case.what = "pipelined"
        for i in range(rng.randint(2, 4)):
            add(rng, case, f"{number}.{i}")
    elif kind < 0.80:
        case.what = "large" if rng.random() < 0.1 else "odd"
        add(rng, case, f"{number}.0", odd=True, large=case.what == "large")
    else:
        hostile(rng, case)
    return case


def add(rng, case, name, odd=False, large=False):
    """A request that any server must take, as it must arrive."""
    method = rng.choice(METHODS)
    target = path(rng, name) + query(rng)
    sent, arrives = fields(rng)
    data, framing = body(rng, method, odd, large)
    if odd:
        order = rng.sample(range(len(sent)), len(sent))
        arrives = [arrives[i] for i in order if arrives[i]]
        sent = [sent[i] for i in order]
    arrives = [field for field in arrives if field]
    lines = [b"Host: " + HOST] + sent + framing
    if odd and rng.random() < 0.5:
        lines = sent + framing + lines[:1]
    case.bytes += b"%s %s HTTP/1.1\r\n%s\r\n\r\n" % (method.encode(), target.encode(), b"\r\n".join(lines)) + data[1]
    case.expected.append(Wanted(method, target, arrives, data[0]))


def path(rng, name):
    segments = [segment(rng) for _ in range(rng.choice([0, 0, 1, 1, 2, 3, 6]))]
    segments.insert(rng.randint(0, len(segments)), f"~{name}~")
    return "/" + "/".join(segments) + ("/" if rng.random() < 0.1 else "")


def segment(rng):
    while True:
        atoms = [atom(rng) for _ in range(rng.choice([1, 1, 2, 3, 5, 12]))]
        text = "".join(atoms)
        if rng.random() < 0.15:
            text = rng.choice(["...", ".x", "..x", "x..", "%2E%2e.", "~", ";", ";a=b", "a;..", "-", "%25", "a%20b", ","]) + text
        # What some server reads as a dot segment must not arrive, so it is not among these.
        plain = re.sub(r"%3[Bb]", ";", text)
        bare = unquote_to_bytes(plain.split(";")[0]).decode("latin-1").strip(" ")
        double = re.search(rb"%[0-9A-Fa-f]{2}", unquote_to_bytes(text))
        # An empty segment with parameters is one that some servers take out.
        if bare not in (".", "..") and not double and not re.search(r"%[cC][01]", text):
            return text


def atom(rng):
    kind = rng.random()
    if kind < 0.6:
        return rng.choice(UNRESERVED.replace(".", "")) * rng.choice([1, 1, 2, 4])
    if kind < 0.7:
        return rng.choice(SUB_DELIMS)
    if kind < 0.75:
        return "."
    if kind < 0.85:
        # UTF-8 in escapes, whole.
        char = rng.choice("äß€漢😀Ω")
        return "".join(rng.choice(["%%%02X", "%%%02x"]) % b for b in char.encode())
    while True:
        value = rng.randint(0x20, 0xff)
        if value not in b"/\\%\x7f\xc0\xc1\xe0\xf0\xf8\xfc":
            return rng.choice(["%%%02X", "%%%02x"]) % value


def query(rng):
    if rng.random() < 0.5:
        return ""
    pieces = ["a=1", "b=%2e%2e", "c=/../x", "d=?", "%zz", "e=a+b", "f=%00", "g=~", "h=%E2%82%AC", "&&", ";", "i=//", "=", "/v1/../admin"]
    return "?" + "&".join(rng.choice(pieces) for _ in range(rng.randint(0, 4)))


def fields(rng):
    """Lines as they are sent, and for each [name, value] as it must arrive, or None."""
    sent, arrives = [], []
    for _ in range(rng.choice([0, 1, 2, 3, 8])):
        name = rng.choice(FIELDS)
        if name == "content-type" and any(field and field[0] == name for field in arrives):
            continue
        value = "".join(rng.choice(["a", "B", "1", " ", "\t", ",", ";", "\"", "=", "(", "%", "\\", "é", "ÿ"]) for _ in range(rng.randint(0, 12)))
        value = value.strip(" \t")
        spelt = "".join(rng.choice([c.upper(), c]) for c in name)
        before, after = rng.choice(["", " ", "  ", "\t", " \t "]), rng.choice(["", "", " ", "\t"])
        sent.append(f"{spelt}:{before}{value}{after}".encode("latin-1"))
        arrives.append([name, value])
    if rng.random() < 0.1:
        sent.append(b"X_Under_Score: dropped")
        arrives.append(None)
    if rng.random() < 0.1:
        sent += [b"Connection: x-hop, Keep-Alive", b"X-Hop: dropped"]
        arrives += [None, None]
    return sent, arrives


def body(rng, method, odd, large):
    """((plain, as it is sent), lines about it)."""
    if method == "HEAD" or rng.random() < (0.8 if method in ("GET", "OPTIONS") else 0.2):
        return (b"", b""), [b"Content-Length: 0"] if method in ("POST", "PUT", "PATCH") and rng.random() < 0.5 else []
    size = rng.choice([70_000, 90_000]) if large else rng.choice([0, 1, 2, 10, 200, 2000])
    plain = rng.randbytes(size)
    if rng.random() < 0.2:
        plain += b"GET /smuggled HTTP/1.1\r\nHost: smuggled.test\r\n\r\n"
    lines = [b"Expect: 100-continue"] if odd and rng.random() < 0.2 else []
    if rng.random() < 0.5:
        return (plain, plain), lines + [b"Content-Length: %d" % len(plain)]
    chunks, rest = b"", plain
    while rest:
        take = rng.choice([1, 2, 7, 100, 5000, len(rest)])
        piece, rest = rest[:take], rest[take:]
        if len(plain) > 5000 and take < 100:
            piece, rest = piece + rest[:5000], rest[5000:]
        size = rng.choice([b"%x", b"%X"]) % len(piece)
        if odd:
            size = rng.choice([b"", b"0", b"000"]) + size + rng.choice([b"", b"", b";a", b";a=b", b";a=\"b c\"", b";a=b;c=d"])
        chunks += size + b"\r\n" + piece + b"\r\n"
    last = rng.choice([b"0", b"000"]) if odd else b"0"
    trailers = b"".join(rng.sample([b"X-T: 1\r\n", b"Authorization: Bearer x\r\n", b"Host: evil.test\r\n", b"Content-Length: 5\r\n"], 2)) if odd and rng.random() < 0.3 else b""
    name = rng.choice([b"Transfer-Encoding: chunked", b"transfer-encoding:chunked", b"TRANSFER-ENCODING: Chunked"])
    return (plain, chunks + last + b"\r\n" + trailers + b"\r\n"), lines + [name]


# Changes that make a request wrong, or a matter of opinion. Nobody may see what the others do not.
BAD_PATHS = [b"/..", b"/../x", b"/%2e%2e/x", b"//", b"/a//b", b"/./x", b"/a/..;/x", b"/a%2fb", b"/a%5cb", b"/a\\b", b"/%00", b"/%zz", b"/%",
             b"/a#b", b"/a%23b", b"/\xc3\xa4", b"/a b", b"/a\tb", b"*", b"", b"x", b"/%252e%252e/", b"/%c0%ae/", b"/{a}", b"/a|b", b"/a\"b",
             b"/<a>", b"/^", b"/`", b"/a%0d%0aX:y", b"/%7f", b"/\x7f", b"http://" + HOST, b"https://" + HOST + b"/", b"//evil.test/", b"/a;/../b"]
BAD_LINES = [b"Content-Length: 3", b"Content-Length: +3", b"Content-Length: 3, 3", b"Content-Length: 0x3", b"Content-Length: -1",
             b"Content-Length: 3\r\nContent-Length: 3", b"Content-Length: 3\r\nContent-Length: 4", b"Content-Length: 003", b"Content-Length: 3 ",
             b"Content-Length : 3", b"Content-Length:\t3", b"Content-Length: 99999999999999999999", b"Transfer-Encoding: gzip, chunked",
             b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: xchunked", b"Transfer-Encoding: \x0bchunked",
             b"Transfer-Encoding : chunked", b"Transfer-Encoding:\n chunked", b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
             b"Transfer-Encoding: chunked\r\nContent-Length: 3", b"Content-Length: 3\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: \"chunked\"",
             b"Host: evil.test", b"Host: " + HOST, b"X-A: a\rb", b"X-A: a\nb", b"X-A: a\0b", b"X A: b", b"X-A", b": a", b" X-A: b", b"X-A: a\r\n b",
             b"X-A : b", b"X(A): b", b"X-\xc3\xa4: b", b"X-A: \x7f", b"X-A: a\x01b", b"Expect: x", b"Expect: y 100-continue", b"Upgrade: h2c\r\nConnection: upgrade",
             b"Connection: close", b"Connection: content-length, host", b"Connection: transfer-encoding", b"TE: trailers\r\nConnection: te", b"Trailer: X-A",
             b"Authorization: Bearer x", b"Cookie: a=b", b"X-HTTP-Method-Override: DELETE", b"Proxy-Connection: close", b"Max-Forwards: 0"]
BAD_VERSIONS = [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/0.9", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b" HTTP/1.1", b"HTTP/1.10", b"HTTP/01.1", b"", b"HTTP/1.1\t"]
BAD_METHODS = [b"get", b"TRACE", b"CONNECT", b"PRI", b"GET\t", b"G ET", b"", b"PROPFIND", b"G\x00T", b"X" * 1000, b"M-SEARCH", b"\r\nGET", b"\nGET", b" GET"]
BAD_CHUNKS = [b"2;x\nhi\r\n0\r\n\r\n", b"2\nhi\n0\n\n", b"0x2\r\nhi\r\n0\r\n\r\n", b"+2\r\nhi\r\n0\r\n\r\n", b" 2\r\nhi\r\n0\r\n\r\n", b"2 \r\nhi\r\n0\r\n\r\n",
              b"2\r\nhiX\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFF1\r\nhi\r\n0\r\n\r\n", b"2\r\nhi0\r\n\r\n", b"2\r\nhi\r\n0\r\n", b"-1\r\nhi\r\n0\r\n\r\n", b"2\t\r\nhi\r\n0\r\n\r\n",
              b"2;a\rb\r\nhi\r\n0\r\n\r\n", b"2\r\nhi\r\n0\r\nX-T: a\nX: b\r\n\r\n", b"2\r\nhi\r\n0\r\nX T: a\r\n\r\n", b"\r\n2\r\nhi\r\n0\r\n\r\n",
              b"2;\xff\r\nhi\r\n0\r\n\r\n", b"2\r\rhi\r\n0\r\n\r\n", b"2_0\r\nhi\r\n0\r\n\r\n", b"2\r\nhi\r\n00;x=y\r\nTransfer-Encoding: chunked\r\n\r\n"]


def hostile(rng, case):
    name = f"~{case.number}.0~".encode()
    method, target, version, lines, data = b"POST", b"/" + name, b"HTTP/1.1", [], b"abc"
    framing = b"Content-Length: 3"
    case.what = rng.choice(["path", "path", "line", "line", "version", "method", "chunk", "flip", "flip", "flip", "end", "cut"])
    if case.what == "path":
        method, framing, data = b"GET", None, b""
        bad = rng.choice(BAD_PATHS)
        target = rng.choice([bad + b"/" + name, b"/" + name + bad, b"/" + name + bad + b"/x"])
    elif case.what == "line":
        bad = rng.choice(BAD_LINES)
        lines = [bad]
        if b"ontent-" in bad or b"ransfer-" in bad:
            framing = rng.choice([None, None, framing])
            data = rng.choice([b"abc", b"3\r\nabc\r\n0\r\n\r\n"])
    elif case.what == "version":
        version = rng.choice(BAD_VERSIONS)
    elif case.what == "method":
        method = rng.choice(BAD_METHODS)
    elif case.what == "chunk":
        framing, data = b"Transfer-Encoding: chunked", rng.choice(BAD_CHUNKS)
    lines = [line for line in [b"Host: " + HOST, framing, *lines, b"X-A: mark"] if line]
    if rng.random() < 0.5:
        rng.shuffle(lines)
    end = b"\n" if case.what == "end" and rng.random() < 0.5 else b"\r\n"
    head = end.join([method + b" " + target + b" " + version, *lines, b"", b""])
    if case.what == "end" and end == b"\r\n":
        at = rng.choice([m.start() for m in re.finditer(b"\r\n", head)])
        head = head[:at] + rng.choice([b"\n", b"\r", b"\r\r\n", b"\n\r", b"\0\r\n"]) + head[at + 2:]
    if case.what == "flip":
        bad = flipped(rng, head)
        # A digit that is gone or another may make it a case of another number, which then seems to come twice.
        while any(found != b"%d" % case.number for found in re.findall(rb"~(\d+)\.\d~", bad)):
            bad = flipped(rng, head)
        head = bad
    case.bytes = head + data
    if case.what == "cut":
        case.bytes = case.bytes[:rng.randint(1, len(case.bytes) - 1)]
    elif rng.random() < 0.7:
        # Where the first one's end is a matter of opinion, this is who would get lost in between.
        case.bytes += b"GET /~%d.1~ HTTP/1.1\r\nHost: %s\r\n\r\n" % (case.number, HOST)
    if case.what != "cut":
        case.bytes += b"GET /~%d.9~ HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (case.number, HOST)


def flipped(rng, head):
    head = bytearray(head)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at = rng.randrange(len(head))
        value = rng.choice(b"\r\n\t \0:;,/?#%.\\\"0aZ{\x7f\x80\xff")
        action = rng.random()
        if action < 0.4:
            head[at] = value
        elif action < 0.7:
            head.insert(at, value)
        else:
            del head[at]
    return bytes(head)
