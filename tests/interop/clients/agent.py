"""Python's clients, one a run: `agent.py CLIENT FACTS`. They know URLs and the environment, nothing else; where a client needs
a setting in code to find the proxy, that is a client of its own here. The last line says what version did it. Any failure ends
the run with 1."""

import asyncio
import hashlib
import json
import os
import sys
import urllib.request
from importlib.metadata import version

CLIENT, FACTS = sys.argv[1], json.loads(sys.argv[2])
ITEMS, LLM, MCP, SOCKET = FACTS["items"], FACTS["llm"], FACTS["mcp"], FACTS["socket"]
TOKEN = {"Authorization": "Bearer " + os.environ["ITEMS_TOKEN"]}
BULK = bytes(range(256)) * 800  # more than is kept for a second attempt
SUM = hashlib.sha256(BULK).hexdigest()
PROXY = os.environ["HTTPS_PROXY"]


def check(what, truth, *seen):
    if not truth:
        sys.exit(f"{what}: {' '.join(str(s)[:300] for s in seen)}")


def four_requests(ask):
    """`ask(method, path, headers, body)` gives status and body. Reading, writing, a large upload, an event stream."""
    status, body = ask("GET", "/v1/items", TOKEN, None)
    check("GET", status == 200 and json.loads(body)["items"], status, body)
    status, body = ask("POST", "/v1/items", {**TOKEN, "Content-Type": "application/json"}, b'{"name": "x"}')
    check("POST", status == 201 and json.loads(body)["name"] == "x", status, body)
    status, body = ask("POST", "/v1/upload", {**TOKEN, "Content-Type": "application/octet-stream"}, BULK)
    check("upload", status == 200 and json.loads(body)["sha256"] == SUM, status, body)
    status, body = ask("GET", "/v1/stream?n=3&ms=20", TOKEN, None)
    check("events", status == 200 and body.count(b"data: ") == 3, status, body)


def with_urllib():
    def ask(method, path, headers, body):
        with urllib.request.urlopen(urllib.request.Request(ITEMS + path, body, headers, method=method), timeout=20) as answer:
            return answer.status, answer.read()
    four_requests(ask)
    return sys.version.split()[0]


def with_requests():
    import requests
    with requests.Session() as session:
        def ask(method, path, headers, body):
            answer = session.request(method, ITEMS + path, headers=headers, data=body, timeout=20)
            return answer.status_code, answer.content
        four_requests(ask)


def with_httpx(**how):
    import httpx
    with httpx.Client(timeout=20, **how) as client:
        def ask(method, path, headers, body):
            answer = client.request(method, ITEMS + path, headers=headers, content=body)
            return answer.status_code, answer.content
        four_requests(ask)


def with_aiohttp(**how):
    import aiohttp

    async def main():
        async with aiohttp.ClientSession(**how) as session:
            async def ask(method, path, headers, body):
                async with session.request(method, ITEMS + path, headers=headers, data=body) as answer:
                    return answer.status, await answer.read()
            said = []
            for step in ("GET", "/v1/items", None), ("POST", "/v1/upload", BULK), ("GET", "/v1/stream?n=3&ms=20", None):
                said.append(await ask(step[0], step[1], TOKEN, step[2]))
            return said
    said = asyncio.run(main())
    check("all three", [status for status, _ in said] == [200] * 3 and SUM.encode() in said[1][1] and said[2][1].count(b"data: ") == 3, said)


def with_urllib3(pool):
    def ask(method, path, headers, body):
        answer = pool.request(method, ITEMS + path, headers=headers, body=body, timeout=20, retries=False)
        return answer.status, answer.data
    four_requests(ask)


def bare_urllib3():
    import urllib3
    with_urllib3(urllib3.PoolManager())


def proxied_urllib3():
    import urllib3
    address = urllib3.util.parse_url(PROXY)
    with_urllib3(urllib3.ProxyManager(f"http://{address.host}:{address.port}", ca_certs=os.environ["SSL_CERT_FILE"],
                                      proxy_headers=urllib3.make_headers(proxy_basic_auth=address.auth)))


def with_httplib2():
    """It finds the proxy by the environment where PySocks is there to talk to it."""
    import httplib2
    client = httplib2.Http(timeout=20)

    def ask(method, path, headers, body):
        head, content = client.request(ITEMS + path, method, body, headers)
        return head.status, content
    four_requests(ask)


def with_pycurl(ca=None):
    """A wheel's libcurl looks for roots where its builder had them."""
    import io
    import pycurl
    curl = pycurl.Curl()

    def ask(method, path, headers, body):
        said = io.BytesIO()
        curl.reset()
        for option, value in ((curl.URL, ITEMS + path), (curl.HTTPHEADER, [f"{n}: {v}" for n, v in headers.items()]), (curl.TIMEOUT, 20),
                              (curl.WRITEDATA, said), *([(curl.CAINFO, ca)] if ca else []), *([(curl.POSTFIELDS, body)] if body else [])):
            curl.setopt(option, value)
        curl.perform()
        return curl.getinfo(curl.RESPONSE_CODE), said.getvalue()
    four_requests(ask)


def with_openai():
    import openai
    client = openai.OpenAI(api_key=os.environ["LLM_API_KEY"], base_url=LLM + "/v1", max_retries=0)
    check("models", [m.id for m in client.models.list()] == ["tiny"])
    question = [{"role": "user", "content": "hi"}]
    answer = client.chat.completions.create(model="tiny", messages=question)
    check("an answer", answer.choices[0].message.content == "Hello from the plain API", answer)
    pieces = client.chat.completions.create(model="tiny", messages=question, stream=True)
    check("a stream", "".join(p.choices[0].delta.content for p in pieces) == "Hello from the plain API")


def with_anthropic():
    import anthropic
    client = anthropic.Anthropic(api_key=os.environ["LLM_API_KEY"], base_url=LLM, max_retries=0)
    question = {"model": "tiny", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
    check("an answer", client.messages.create(**question).content[0].text == "Hello from the plain API")
    with client.messages.stream(**question) as stream:
        check("a stream", "".join(stream.text_stream) == "Hello from the plain API")


def with_mcp():
    import httpx2
    from mcp import Client
    from mcp.client.streamable_http import streamable_http_client

    async def main():
        async with httpx2.AsyncClient(headers=TOKEN, timeout=20) as http:
            async with Client(streamable_http_client(MCP, http_client=http)) as client:
                tools = {tool.name for tool in (await client.list_tools()).tools}
                found = await client.call_tool("search", {"query": "beta"})
                return tools, found.content[0].text
    tools, found = asyncio.run(main())
    check("tools", {"search", "read_file"} <= tools, tools)
    check("a call", found.split() == ["notes/a.txt", "notes/b.txt"], found)


def with_websockets():
    from websockets.sync.client import connect
    with connect(SOCKET, additional_headers=TOKEN, open_timeout=10, max_size=None) as socket:
        for message in ("x" * 100, "y" * 70_000, BULK):
            socket.send(message)
            check("an echo", socket.recv(timeout=10) == message)


def with_websocket_client():
    import websocket
    socket = websocket.create_connection(SOCKET, timeout=10, header=[f"{n}: {v}" for n, v in TOKEN.items()])
    for message in ("x" * 100, "y" * 70_000):
        socket.send(message)
        check("an echo", socket.recv() == message)
    socket.close()


def with_grpcio():
    import grpc
    bearer = (("authorization", "Bearer " + os.environ["CALLS_TOKEN"]),)
    how = {"timeout": 10, "metadata": bearer}
    with grpc.secure_channel(FACTS["calls"], grpc.ssl_channel_credentials()) as channel:
        say = channel.unary_unary("/demo.Echo/Say")
        for size in (0, 1, 300_000):
            answer, call = say.with_call(b"x" * size, **how)
            trailers = dict(call.trailing_metadata())
            check("unary", answer == b"x" * size and trailers["x-length"] == str(size), trailers)
            check("binary trailers", trailers["x-raw-bin"] == b"\x00\xff", trailers)
            check("initial metadata", dict(call.initial_metadata())["x-first"] == "1")
        count = channel.unary_stream("/demo.Echo/Count")(b"5", **how)
        check("a server's stream", list(count) == [b"0", b"1", b"2", b"3", b"4"])
        check("its trailers", dict(count.trailing_metadata())["x-counted"] == "5")
        joined, call = channel.stream_unary("/demo.Echo/Join").with_call(iter([b"ab"] * 50), **how)
        check("a client's stream", joined == b"ab" * 50 and dict(call.trailing_metadata())["x-length"] == "100")
        conversation(channel, how)
        failures(grpc, channel, how)


def conversation(channel, how):
    """Both streams, each message after the answer to the one before: nothing on the way may wait for the end."""
    import queue
    said = queue.Queue()
    chat = channel.stream_stream("/demo.Echo/Chat")(iter(said.get, None), **how)
    for word in (b"a", b"b", b"c" * 50_000):
        said.put(word)
        check("both streams", next(chat) == word.upper())
    said.put(None)
    check("their end", list(chat) == [])


def failures(grpc, channel, how):
    def failed(kind, method, trailers=None):
        call = kind(method)(b"", **how)
        try:
            list(call)
        except grpc.RpcError as error:
            if trailers:
                check(f"trailers of {method}", dict(error.trailing_metadata()).get("x-why") == trailers, error.trailing_metadata())
            return error.code(), error.details()
        sys.exit(f"{method} did not fail")

    def unary(method):
        def call(message, **how):
            return channel.unary_stream(method)(message, **how)
        return call
    code, details = failed(unary, "/demo.Echo/Fail", trailers="trailers-only")
    check("trailers only", (code, details) == (grpc.StatusCode.NOT_FOUND, "näh"), code, details)
    code, details = failed(unary, "/demo.Echo/Break")
    check("a failure after messages", (code, details) == (grpc.StatusCode.DATA_LOSS, "gone"), code, details)


def refused_grpcio():
    """What no rule allows is answered as gRPC answers: trailers only."""
    import grpc
    with grpc.secure_channel(FACTS["calls"], grpc.ssl_channel_credentials()) as channel:
        try:
            channel.unary_unary("/demo.Secret/Say")(b"", timeout=10)
        except grpc.RpcError as error:
            check("the refusal", error.code() is grpc.StatusCode.PERMISSION_DENIED and error.details() == "policy-denied", error)
        else:
            sys.exit("it was allowed")
    return version("grpcio")


def with_boto3():
    """SigV4 puts a signature where the placeholder would be: nothing to exchange, and a refusal that says so."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import ClientError
    key = os.environ["BUCKET_TOKEN"]
    client = boto3.client("s3", endpoint_url=FACTS["bucket"], region_name="eu-west-1", aws_access_key_id=key, aws_secret_access_key=key,
                          config=Config(retries={"max_attempts": 1}, s3={"addressing_style": "path"}))
    try:
        client.put_object(Bucket="b", Key="k", Body=b"x")
    except ClientError as error:
        head = error.response["ResponseMetadata"]
        said = head["HTTPHeaders"].get("proxy-status", "")
        check("the refusal", head["HTTPStatusCode"] == 403 and 'details="placeholder-required"' in said, error, said)
        return
    sys.exit("it was not refused")


CLIENTS = {
    "urllib": with_urllib, "requests": with_requests, "httpx": with_httpx, "aiohttp": with_aiohttp, "openai": with_openai,
    "anthropic": with_anthropic, "mcp": with_mcp, "websockets": with_websockets, "websocket-client": with_websocket_client,
    "grpcio": with_grpcio, "boto3": with_boto3, "urllib3": bare_urllib3,
    "httplib2": with_httplib2, "pycurl": with_pycurl,
}
VARIANTS = {
    "httpx, http2=True": ("httpx", lambda: with_httpx(http2=True)), "aiohttp, trust_env": ("aiohttp", lambda: with_aiohttp(trust_env=True)),
    "urllib3, ProxyManager": ("urllib3", proxied_urllib3), "pycurl, CAINFO": ("pycurl", lambda: with_pycurl(os.environ["CURL_CA_BUNDLE"])),
    "grpcio, denied": ("grpcio", refused_grpcio),
}

if __name__ == "__main__":
    package, run = VARIANTS.get(CLIENT) or (CLIENT, CLIENTS[CLIENT])
    print(json.dumps({"version": run() or version(package)}))
