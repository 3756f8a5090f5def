"""An agent written in Python. It knows a URL and the environment; what it saw goes out as one line of JSON."""

import hashlib
import json
import os
import sys
import time

import httpx
import requests

TOKEN = {"Authorization": "Bearer " + os.environ.get("ITEMS_TOKEN", "")}


def show(facts, **more):
    print(json.dumps({"requests": 1, **facts, **more}))


def get_all(session, urls, version):
    facts = {"statuses": {}, "versions": {}, "challenges": 0}
    for url in urls:
        answer = session.get(url, headers=TOKEN)
        for field, key in (("statuses", str(answer.status_code)), ("versions", version(answer))):
            facts[field][key] = facts[field].get(key, 0) + 1
        facts["challenges"] += "dpop-nonce" in answer.headers or "www-authenticate" in answer.headers
        print(dict(answer.headers), answer.text)
    show(facts, requests=len(urls))


def main(kind, url, *rest):
    match kind:
        case "requests":
            with requests.Session() as session:
                get_all(session, [url, *rest], lambda answer: {10: "1", 11: "1.1"}[answer.raw.version])
        case "httpx":
            with httpx.Client(http2=True, timeout=60) as session:
                get_all(session, [url, *rest], lambda answer: answer.http_version.removeprefix("HTTP/"))
        case "upload":
            size, = rest
            data = os.urandom(int(size))
            answer = requests.post(url, data=data, headers=TOKEN, timeout=60)
            print(answer.text)
            show({}, status=answer.status_code, expected=hashlib.sha256(data).hexdigest(),
                 sha256=answer.json().get("sha256"), code=answer.json().get("code"))
        case "download":
            digest, size = hashlib.sha256(), 0
            with requests.get(url, headers=TOKEN, stream=True, timeout=60) as answer:
                for chunk in answer.iter_content(1 << 16):
                    digest.update(chunk)
                    size += len(chunk)
            show({}, status=answer.status_code, bytes=size, sha256=digest.hexdigest())
        case "stream":
            start, times = time.monotonic(), []
            with httpx.stream("GET", url, headers=TOKEN, timeout=60) as answer:
                for line in answer.iter_lines():
                    print(line)
                    if line.startswith("data: "):
                        times.append(round(time.monotonic() - start, 3))
            show({}, status=answer.status_code, times=times)
        case "websocket":
            from websockets.sync.client import connect
            echoed = []
            with connect(url, additional_headers=TOKEN, max_size=None) as socket:
                for message in ("one", "two", os.urandom(1 << 20)):
                    socket.send(message)
                    echoed.append(socket.recv(timeout=20) == message)
            show({}, echoed=echoed)
        case _:
            sys.exit(f"no such client: {kind}")


main(*sys.argv[1:])
