#!/usr/bin/env python3
"""Python's HTTP clients, one a run: benign_requests.py CLIENT URL. They find proxy and CA by the environment alone. Prints one
JSON object: how many requests were as they should be, and what was wrong with the others."""

import asyncio
import gzip
import hashlib
import json
import os
import ssl
import sys
import urllib.request
from urllib.parse import unquote, urlsplit

# What is legal in a target, however odd.
TARGETS = [
    "/", "/a/b/c", "/a%20b", "/caf%C3%A9", "/%E6%97%A5%E6%9C%AC/%F0%9F%A6%80", "/a+b", "/~user/x", "/a;v=1/b;w=2,3", "/a:b@c", "/(x)!'*$&,=",
    "/a.b.c", "/.well-known/x", "/...", "/a/.hidden", "/v1.2/items:batch", "/x?", "/x?a", "/x?a=", "/x?a=1&a=2&b=%20+%2B", "/x?q=%E2%82%AC",
    "/x?u=https://a.test/?b=c", "/x?a[]=1&b[c]=2", "/x?/../..", "/x?a?b", "/x?" + "k=v&" * 1500, "/" + "p" * 2000, "/" + "/".join("abcdefgh"),
]
BODY = json.dumps({"text": "naïve ☃", "n": list(range(500))}).encode()
BULK = bytes(range(256)) * 8192  # 2 MiB
FIELDS = {"X-Empty": "", "X-Long": "v" * 4000, "X-Token": "a!b#c", "Accept": "application/json, */*;q=0.1", "Accept-Language": "de, en;q=0.5",
          "If-None-Match": 'W/"x"', "X-Request-Id": "r-1", "Cache-Control": "no-cache", "Cookie": "; ".join(f"c{n}=v{n}" for n in range(40)),
          "User-Agent": "demo/1.0 (+https://x.test)", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
          **{f"X-{n}": str(n) for n in range(50)}}
good, wrong = 0, []


def check(what, truth, *seen):
    global good
    if truth:
        good += 1
    else:
        wrong.append(" ".join([what, *(str(s)[:200] for s in seen)]))


def same(seen, meant):
    """Clients may escape more than they have to, and leave an empty query out."""
    return unquote(seen).rstrip("?") == unquote(meant).rstrip("?")


def rows():
    """(title, method, target, fields, body, test of the decoded answer)."""
    for target in TARGETS:
        yield "GET " + target[:40], "GET", target, {}, None, lambda told, t=target: same(told["target"], t)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        yield method, method, "/m", {"Content-Type": "application/json"}, BODY, lambda told: told["sha256"] == hashlib.sha256(BODY).hexdigest()
    yield "a large body", "POST", "/m", {"Content-Type": "application/octet-stream"}, BULK, lambda told: told["length"] == len(BULK)
    yield "an empty body", "POST", "/m", {}, b"", lambda told: told["length"] == 0
    yield "a packed body", "POST", "/m", {"Content-Encoding": "gzip"}, gzip.compress(BODY), lambda told: told["length"] == len(gzip.compress(BODY))
    yield "many fields", "GET", "/f", FIELDS, None, lambda told: len(told["fields"]) > 50
    yield "OPTIONS", "OPTIONS", "/o", {"Origin": "https://x.test", "Access-Control-Request-Method": "POST"}, None, lambda told: told["method"] == "OPTIONS"


def with_urllib(base):
    for title, method, target, fields, body, test in rows():
        with urllib.request.urlopen(urllib.request.Request(base + target, body, fields, method=method), timeout=20) as answer:
            check(title, test(json.load(answer)))


def with_requests(base):
    import requests
    with requests.Session() as session:
        for title, method, target, fields, body, test in rows():
            answer = session.request(method, base + target, headers=fields, data=body, timeout=20)
            check(title, answer.status_code == 200 and test(answer.json()), answer.status_code, answer.text)
        check("gzip", session.get(base + "/gzip").json() == {"packed": "gzip"})
        check("deflate", session.get(base + "/deflate").json() == {"packed": "deflate"})
        check("redirect", session.get(base + "/status/302").json()["target"] == "/moved")
        check("HEAD", session.head(base + "/x").headers["x-origin"] == "corpus")
        check("a generator's body", session.post(base + "/m", data=(b"x" * n for n in range(1, 60))).json()["length"] == 59 * 30)
        check("a form with files", session.post(base + "/m", files={"f": ("ü.bin", BULK[:100_000])}, data={"a": "b"}).json()["length"] > 100_000)
        check("a stream", sum(len(c) for c in session.get(base + "/big", stream=True).iter_content(65536)) == 5 << 20)
        check("events", sum(line.startswith(b"data:") for line in session.get(base + "/events", stream=True).iter_lines()) == 5)
        check("chunks", session.get(base + "/chunked").text.endswith("piece 19\n"))
        check("to the end", len(session.get(base + "/until-close").text) == 1100)
        for status in (204, 304, 400, 401, 404, 409, 418, 422, 429, 500, 503):
            answer = session.get(f"{base}/status/{status}")
            check(f"status {status}", answer.status_code == status and "tokenward" not in answer.headers.get("proxy-status", ""), answer.status_code)
        check("cookies", session.get(base + "/cookies").status_code == 200 and session.cookies.get("a") == "1")
        check("early hints", session.get(base + "/hints").status_code == 200)
        check("many fields back", len(session.get(base + "/fields").headers) >= 80)


def with_httpx(base, http2=False):
    import httpx
    with httpx.Client(http2=http2, timeout=20) as client:
        for title, method, target, fields, body, test in rows():
            answer = client.request(method, base + target, headers=fields, content=body)
            check(title, answer.status_code == 200 and test(answer.json()), answer.status_code, answer.text)
        with client.stream("GET", base + "/events") as answer:
            check("events", sum(line.startswith("data:") for line in answer.iter_lines()) == 5)
        check("a generator's body", client.post(base + "/m", content=(b"x" * 100 for _ in range(30))).json()["length"] == 3000)


def with_aiohttp(base):
    import aiohttp

    async def main():
        async with aiohttp.ClientSession(trust_env=True, requote_redirect_url=False) as session:
            import yarl
            for title, method, target, fields, body, test in rows():
                async with session.request(method, yarl.URL(base + target, encoded=True), headers=fields, data=body) as answer:
                    check(title, answer.status == 200 and test(await answer.json()), answer.status)
            async def one(n):
                async with session.get(f"{base}/parallel/{n}") as answer:
                    check("in parallel", (await answer.json())["target"] == f"/parallel/{n}")
            await asyncio.gather(*(one(n) for n in range(30)))
    asyncio.run(main())


def with_websockets(url):
    from websockets.sync.client import connect
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    for number in range(3):
        with connect(url, ssl=context, proxy=os.environ["HTTPS_PROXY"], open_timeout=10) as socket:
            for size in (0, 1, 125, 126, 65535, 65536, 500_000):
                socket.send("x" * size)
                check(f"{size} letters back", len(socket.recv(timeout=10)) == size)
            socket.send(BULK[:1000])
            check("bytes back", socket.recv(timeout=10) == BULK[:1000])
            socket.ping().wait(5)


def with_websocket_client(url):
    import websocket
    proxy = urlsplit(os.environ["HTTPS_PROXY"])
    socket = websocket.create_connection(url, timeout=10, sslopt={"ca_certs": os.environ["SSL_CERT_FILE"]}, http_proxy_host=proxy.hostname,
                                         http_proxy_port=proxy.port, http_proxy_auth=(proxy.username, proxy.password), proxy_type="http")
    socket.send("hello")
    check("hello back", socket.recv() == "hello")
    socket.close()


def with_grpcio(target):
    import grpc
    with grpc.secure_channel(target, grpc.ssl_channel_credentials()) as channel:
        unary = channel.unary_unary("/demo.Echo/Say")
        for size in (0, 1, 1000, 300_000):
            check(f"unary of {size}", unary(b"x" * size, timeout=10) == b"x" * size)
        check("a server's stream", len(list(channel.unary_stream("/demo.Echo/Count")(b"5", timeout=10))) == 5)
        check("a client's stream", channel.stream_unary("/demo.Echo/Join")(iter([b"a"] * 20), timeout=10) == b"a" * 20)
        check("both streams", list(channel.stream_stream("/demo.Echo/Chat")(iter([b"a", b"b", b"c"]), timeout=10)) == [b"a", b"b", b"c"])
        try:
            channel.unary_unary("/demo.Echo/Fail")(b"", timeout=10)
            check("a status", False)
        except grpc.RpcError as error:
            check("a status", error.code() is grpc.StatusCode.NOT_FOUND and error.details() == "näh", error)


CLIENTS = {"urllib": with_urllib, "requests": with_requests, "httpx": with_httpx, "httpx-h2": lambda base: with_httpx(base, True),
           "aiohttp": with_aiohttp, "websockets": with_websockets, "websocket-client": with_websocket_client, "grpcio": with_grpcio}

if __name__ == "__main__":
    try:
        CLIENTS[sys.argv[1]](sys.argv[2])
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        sys.exit(0)
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {error}"[:500])
    print(json.dumps({"good": good, "wrong": wrong}))
