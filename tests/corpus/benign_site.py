"""What benign clients ask for: pages, downloads, event streams, a git server, package registries. A behaviour for
`origins.Origin`, which decides by host; gRPC and WebSockets have servers of their own (`benign.py`)."""

import base64
import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
import urllib.parse
import zipfile
import zlib

JSON = [("content-type", "application/json")]
BIG = bytes(range(256)) * 4096 * 5  # 5 MiB


def site(shop):
    hosts = {"git.wild.test": shop.git, "pypi.wild.test": shop.pypi, "npm.wild.test": shop.npm, "crates.wild.test": shop.crates}

    def behave(record, conversation):
        return hosts.get(record.host.split(":")[0], pages)(record, conversation)
    return behave


def pages(record, conversation):
    """Features of HTTP by their path; everything else tells what it received."""
    path = record.target.partition("?")[0]
    name, _, rest = path.lstrip("/").partition("/")
    found = PAGES.get(name)
    return found(record, conversation, rest) if found else told(record)


def told(record, *_):
    shown = {"method": record.method, "target": record.target, "host": record.host, "fields": record.fields,
             "length": len(record.body), "sha256": hashlib.sha256(record.body).hexdigest()}
    return 200, [*JSON, ("etag", '"one"'), ("x-origin", "corpus")], json.dumps(shown)


def packed(encoding, pack):
    def page(record, *_):
        return 200, [*JSON, ("content-encoding", encoding), ("vary", "accept-encoding")], pack(json.dumps({"packed": encoding}).encode())
    return page


def partial(record, *_):
    wanted = record.values("range")
    if not wanted:
        return 200, [("accept-ranges", "bytes")], BIG[:1000]
    start, _, end = wanted[0].removeprefix("bytes=").split(",")[0].partition("-")
    start, end = (1000 - int(end), 999) if not start else (int(start), min(int(end or 999), 999))
    if start > 999:
        return 416, [("content-range", "bytes */1000")], ""
    return 206, [("content-range", f"bytes {start}-{end}/1000"), ("accept-ranges", "bytes")], BIG[start:end + 1]


def by_hand(page):
    """Bytes of HTTP/1; where the origin speaks HTTP/2 with us, an answer of the same content."""
    def answer(record, conversation, rest):
        if getattr(conversation.stream, "selected_alpn_protocol", lambda: None)() != "h2":
            return page(record, conversation, rest)
        return WHOLE[page.__name__](record)
    return answer


def chunked(record, conversation, _):
    conversation.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\nContent-Type: text/plain\r\n\r\n")
    for n in range(20):
        piece = f"piece {n}\n".encode() * (n + 1)
        conversation.send(b"%x;note=%d\r\n%s\r\n" % (len(piece), n, piece))
    conversation.send(b"0\r\nx-sum: 20\r\n\r\n")


def events(record, conversation, _):
    conversation.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\nTransfer-Encoding: chunked\r\n\r\n")
    for n in range(5):
        piece = f"id: {n}\nevent: tick\ndata: {{\"n\": {n}}}\n\n".encode()
        conversation.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        time.sleep(0.05)
    conversation.send(b"0\r\n\r\n")


def until_close(record, conversation, _):
    conversation.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n" + b"to the end\n" * 100)
    if hasattr(conversation.stream, "unwrap"):
        conversation.stream.unwrap()  # TLS says that this is the end and no cut
    raise ConnectionError("the end")


def hints(record, conversation, _):
    conversation.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
    return told(record)


def status(record, _conversation, rest):
    fields = {"301": [("location", "/moved")], "302": [("location", "/moved")], "307": [("location", "/moved")], "308": [("location", "/moved")],
              "401": [("www-authenticate", 'Basic realm="site"')], "429": [("retry-after", "1")], "503": [("retry-after", "1")]}
    return int(rest), fields.get(rest, []), "" if rest in ("204", "304") else f"status {rest}"


WHOLE = {
    "chunked": lambda _: (200, [("content-type", "text/plain")], "".join(f"piece {n}\n" * (n + 1) for n in range(20))),
    "events": lambda _: (200, [("content-type", "text/event-stream")], "".join(f'id: {n}\ndata: {{"n": {n}}}\n\n' for n in range(5))),
    "until_close": lambda _: (200, [("content-type", "text/plain")], "to the end\n" * 100),
    "hints": told,
}
PAGES = {
    "gzip": packed("gzip", gzip.compress), "deflate": packed("deflate", zlib.compress), "range": partial, "chunked": by_hand(chunked),
    "events": by_hand(events), "until-close": by_hand(until_close), "hints": by_hand(hints), "status": status,
    "big": lambda *_: (200, [("content-type", "application/octet-stream")], BIG),
    "slow": lambda r, *_: (time.sleep(0.5), told(r))[1],
    "cookies": lambda *_: (200, [("set-cookie", "a=1; Path=/; Secure; HttpOnly"), ("set-cookie", "b=2; SameSite=Lax")], "cookies"),
    "fields": lambda *_: (200, [(f"x-field-{n}", "v" * n) for n in range(80)], "many"),
}


class Shop:
    """Files of the git server and the registries, below one folder."""

    def __init__(self, dir):
        self.dir = dir
        dir.mkdir(parents=True, exist_ok=True)
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(dir), "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a",
                            "GIT_AUTHOR_EMAIL": "a@x.test", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@x.test"}
        self.files = {}
        self.stock()

    def do(self, *command, cwd=None):
        return subprocess.run(command, check=True, capture_output=True, cwd=cwd or self.dir, env=self.environment).stdout

    def plant(self):
        """A bare repository with some history; its path on the server is /demo.git."""
        work = self.dir / "work"
        self.do("git", "init", "-q", "-b", "main", str(work))
        for n in range(30):
            (work / f"file-{n}.txt").write_text(f"line {n}\n" * 200)
            self.do("git", "add", ".", cwd=work)
            self.do("git", "commit", "-q", "-m", f"change {n}", cwd=work)
        self.do("git", "tag", "v1", cwd=work)
        self.do("git", "clone", "-q", "--bare", str(work), str(self.dir / "repos" / "demo.git"))
        self.do("git", "config", "http.receivepack", "true", cwd=self.dir / "repos" / "demo.git")

    def git(self, record, _conversation):
        """git's own CGI program."""
        path, _, query = record.target.partition("?")
        body = record.body
        variables = {"GIT_PROJECT_ROOT": str(self.dir / "repos"), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": urllib.parse.unquote(path),
                     "QUERY_STRING": query, "REQUEST_METHOD": record.method, "REMOTE_ADDR": "10.0.0.1", "REMOTE_USER": "a",
                     "CONTENT_TYPE": (record.values("content-type") or [""])[0], "CONTENT_LENGTH": str(len(body)), **self.environment}
        for name, variable in (("content-encoding", "HTTP_CONTENT_ENCODING"), ("git-protocol", "GIT_PROTOCOL")):
            if record.values(name):
                variables[variable] = record.values(name)[0]
        done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=variables)
        head, _, answer = done.stdout.partition(b"\r\n\r\n")
        fields = [tuple(part.strip() for part in line.decode().split(":", 1)) for line in head.split(b"\r\n") if line]
        code = next((int(v.split()[0]) for n, v in fields if n.lower() == "status"), 200)
        return code, [(n.lower(), v) for n, v in fields if n.lower() != "status"], answer

    def stock(self):
        for name in ("demo_pkg", "demo_dep"):
            requires = "Requires-Dist: demo_dep\n" if name == "demo_pkg" else ""
            about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}"
            wheel, stem = io.BytesIO(), f"{name}-1.0"
            with zipfile.ZipFile(wheel, "w") as archive:
                entries = {f"{name}/__init__.py": "VALUE = 1\n", f"{stem}.dist-info/METADATA": about,
                           f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
                entries[f"{stem}.dist-info/RECORD"] = "".join(f"{n},,\n" for n in [*entries, f"{stem}.dist-info/RECORD"])
                for entry, text in entries.items():
                    archive.writestr(entry, text)
            file, data = f"{stem}-py3-none-any.whl", wheel.getvalue()
            self.files[f"/files/{file}"] = data
            self.files[f"/files/{file}.metadata"] = about.encode()
            # A `+` in a version's file name is common: local versions.
            page = f'<a href="/files/{file}#sha256={hashlib.sha256(data).hexdigest()}" data-core-metadata="true">{file}</a>'
            self.files[f"/simple/{name.replace('_', '-')}/"] = f"<!DOCTYPE html><html><body>{page}</body></html>".encode()
        self.tarballs = {name: tarball({"package/package.json": json.dumps({"name": name, "version": "1.0.0", "dependencies": needs}),
                                        "package/index.js": "module.exports = 1;\n"})
                         for name, needs in (("demo-a", {"demo-b": "^1.0.0"}), ("demo-b", {}), ("@demo/scoped", {"demo-b": "1.0.0"}))}
        self.crate = tarball({"demo-1.0.0/Cargo.toml": '[package]\nname = "demo"\nversion = "1.0.0"\nedition = "2021"\n',
                              "demo-1.0.0/src/lib.rs": "pub fn one() -> u8 { 1 }\n"})

    def pypi(self, record, _conversation):
        found = self.files.get(record.target.partition("?")[0])
        kind = "text/html" if record.target.startswith("/simple/") else "application/octet-stream"
        return (200, [("content-type", kind), ("etag", '"x"')], found) if found is not None else (404, [], "")

    def npm(self, record, _conversation):
        """As npm's own registry: scoped names come with an escaped slash."""
        path = urllib.parse.unquote(record.target.partition("?")[0]).lstrip("/")
        if path.startswith("-/npm/v1/security/"):
            return 200, JSON, "{}"
        if path == "-/ping":
            return 200, JSON, "{}"
        if record.method == "PUT":
            return 201, JSON, '{"ok": true}'
        name, _, file = path.partition("/-/")
        if name not in self.tarballs:
            return 404, JSON, '{"error": "Not found"}'
        data = self.tarballs[name]
        if file:
            return 200, [("content-type", "application/octet-stream")], data
        sum512 = base64.b64encode(hashlib.sha512(data).digest()).decode()
        needs = {"demo-a": {"demo-b": "^1.0.0"}, "@demo/scoped": {"demo-b": "1.0.0"}}.get(name, {})
        url = f"https://npm.wild.test/{name}/-/{name.split('/')[-1]}-1.0.0.tgz"
        version = {"name": name, "version": "1.0.0", "dependencies": needs,
                   "dist": {"tarball": url, "integrity": f"sha512-{sum512}", "shasum": hashlib.sha1(data).hexdigest()}}
        return 200, JSON, json.dumps({"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}})

    def crates(self, record, _conversation):
        path = record.target.partition("?")[0]
        if path == "/index/config.json":
            return 200, JSON, json.dumps({"dl": "https://crates.wild.test/dl", "api": "https://crates.wild.test"})
        if path == "/index/de/mo/demo":
            return 200, [("content-type", "text/plain")], json.dumps({
                "name": "demo", "vers": "1.0.0", "deps": [], "features": {}, "yanked": False,
                "cksum": hashlib.sha256(self.crate).hexdigest()}) + "\n"
        return (200, [], self.crate) if path == "/dl/demo/1.0.0/download" else (404, [], "")


def tarball(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in files.items():
            info, data = tarfile.TarInfo(name), text.encode()
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()
