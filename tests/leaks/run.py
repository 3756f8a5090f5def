#!/usr/bin/env python3
"""Runs the real program at trace level, with secrets that nobody else has in every place of a secret, and searches all that it
left with `tokenward leakcheck`: logs, audit files, the store, public files, what every verb printed, what agents and the
command of `run` got.

tests/leaks/run.py --bin target/release/tokenward [--broken target/debug/tokenward] [--keep]

Then it plants a leak of each class, one at a time, and each must be found. `--broken` is a build with the feature `variants`:
one that writes tokens into its log must be found as well. Needs openssl and Python 3.11.
"""

import argparse
import base64
import gzip
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kills"))
import run as kills  # noqa: E402
from issuer import HOST_API, Api, Issuer  # noqa: E402
from program import Wrong, free_port  # noqa: E402

# A value of the API's own header, so that a client secret is not the only thing that an issuer may repeat.
KEY_PORT = 8443


class Telling(Issuer):
    """Its tokens are long enough to be looked for, and it remembers them."""

    def __init__(self, folder):
        super().__init__(folder, 10, 60)
        self.given = {}

    def decide(self, form):
        status, document = super().decide(form)
        if status == 200:
            document["access_token"] = f"at-{self.number}-{secrets.token_urlsafe(24)}"
            for name in ("access_token", "refresh_token"):
                self.given[f"{name} {self.number}"] = document[name]
        return status, document

    def approve(self, url):
        back = super().approve(url)
        self.given[f"code {len(self.given)}"] = list(self.codes)[-1]
        return back


class House(kills.House):
    variant, secrets = None, {}

    def __init__(self, binary, variant=None):
        super().__init__(binary, 10)
        self.variant, self.health = variant, free_port()
        self.issuer, self.keys, self.log = Telling(self.dir), Api(self.dir), self.dir / "log"
        self.secrets = {name: secrets.token_urlsafe(24) for name in ("API_KEY", "CLIENT_SECRET")}
        self.secrets["STORE_KEY"] = secrets.token_hex(32)
        text = (self.dir / "tokenward.yaml").read_text()
        issuers = text.index("issuers:")
        text = text[:issuers].replace("{file: store.key}", "{env: STORE_KEY}") + f"""health: 127.0.0.1:{self.health}
issuers:
  as: {{url: "{self.issuer.url}", connect: 127.0.0.1, allow_private: true, ca: {{file: ca.pem}}}}
services:
  items:
    hosts: [{HOST_API}]
    upstream: {{connect: "127.0.0.1:{self.api.port}", allow_private: true, ca: {{file: ca.pem}}}}
    credential: {{oauth: {{issuer: as, client_id: leaks, client_auth: {{secret_basic: {{env: CLIENT_SECRET}}}}, grant: authorization_code}}}}
    rules: [{{allow: GET /a, scopes: [a]}}, {{allow: GET /b, scopes: [b]}}]
  keys:
    hosts: [{HOST_API}]
    port: {KEY_PORT}
    upstream: {{connect: "127.0.0.1:{self.keys.port}", allow_private: true, ca: {{file: ca.pem}}}}
    credential: {{header: {{name: x-api-key, value: {{env: API_KEY}}}}}}
    rules: [{{allow: GET /**}}]
"""
        (self.dir / "tokenward.yaml").write_text(text)
        self.out = self.dir / "out"
        self.out.mkdir()

    def environment(self):
        broken = {"TOKENWARD_VARIANT": self.variant} if self.variant else {}
        return {**super().environment(), **self.secrets, **broken}

    def start(self):
        log = self.log.open("ab")
        command = [self.binary, "--config", self.dir / "tokenward.yaml", "--log", "trace", "serve"]
        self.process = subprocess.Popen(command, env=self.environment(), stderr=log, stdout=log)
        end = time.monotonic() + 30
        while self.call("healthcheck", check=False).returncode:
            if time.monotonic() > end or self.process.poll() is not None:
                raise Wrong("serve is not ready")
            time.sleep(0.02)

    def keep(self, name, data):
        (self.out / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    def verb(self, name, *words):
        done = self.call("--log", "trace", *words, check=False)
        self.keep(name, done.stdout + done.stderr)
        return done

    def agent(self, name, path, port=443, method="GET"):
        """One request, and everything that came back."""
        with socket.create_connection(("127.0.0.1", self.port), 20) as plain:
            plain.sendall(f"CONNECT {HOST_API}:{port} HTTP/1.1\r\nhost: {HOST_API}:{port}\r\n\r\n".encode())
            got = plain.recv(4096)
            with ssl._create_unverified_context().wrap_socket(plain, server_hostname=HOST_API) as io:
                io.sendall(f"{method} {path} HTTP/1.1\r\nhost: {HOST_API}:{port}\r\nauthorization: Bearer agents-own-guess\r\n"
                           "connection: close\r\n\r\n".encode())
                while more := io.recv(65536):
                    got += more
        self.keep(f"agent-{name}", got)
        return got

    def play(self):
        """A day of a proxy, in seconds."""
        # Whoever logs in sees a URL with `state` and challenge; what must not be seen is what comes back.
        self.log_in()
        self.start()
        for name, path in (("a", "/a"), ("b", "/b")):
            if b'"ok": true' not in self.agent(name, path):
                raise Wrong(f"{path} was not served")
        if b"200" not in self.agent("key", "/x", KEY_PORT) or b"403" not in self.agent("refused", "/none"):
            raise Wrong("the key's service, or the refusal")
        self.agent("method", "/a", method="DELETE")
        for words in (["status", "--json"], ["status"], ["rotate", "--json"], ["check"], ["check", "--json"], ["env"], ["ca", "show"],
                      ["explain", "GET", f"https://{HOST_API}/a"], ["schema"], ["audit", "verify", str(self.dir / "audit.jsonl")]):
            self.verb("verb-" + "-".join(words[:2]).replace("/", "_"), *words)
        self.agent("rotated", "/a")
        self.process.send_signal(signal.SIGHUP)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.keep("metrics", direct.open(f"http://127.0.0.1:{self.health}/metrics", timeout=10).read())
        # A command of `run` must not find what the configuration read; this store is busy, so it brings its own.
        self.stop()
        self.verb("run", "run", "--", "sh", "-c", "env; cat /proc/self/environ | tr '\\0' '\\n'")
        # An issuer that says no, and then nothing; a kill in the middle.
        self.start()
        self.issuer.refusing = True
        self.verb("rotate-refused", "rotate")
        self.agent("dead", "/a")
        self.issuer.away = True
        self.agent("away", "/b")
        self.kill()

    def canaries(self):
        values = {**self.secrets, **self.issuer.given}
        # The file ends in the certificate, and the key's own last line is the public half.
        block = (self.dir / "ca/ca.key").read_text().split("PRIVATE KEY-----")[1]
        for number, line in enumerate(block.strip().splitlines()[:2]):
            values[f"CA key, line {number}"] = line
        return {name: value for name, value in values.items() if len(value) >= 8}

    def leaks(self):
        """What `leakcheck` says of all that was left, and whether it was content."""
        file = self.dir / "canaries"
        file.write_text("\n".join(self.canaries().values()) + "\n")
        left = [self.dir / name for name in ("log", "audit.jsonl", "xdg", "state", "run", "out", "tokenward.yaml")]
        done = subprocess.run([self.binary, "leakcheck", "--json", "--canaries", file, *left], capture_output=True, text=True, timeout=300,
                              env={"PATH": os.environ["PATH"]})
        report = json.loads(done.stdout)
        if report["not_searched"] or done.returncode not in (0, 1):
            raise Wrong(f"not searched: {report['not_searched']} {done.stderr}")
        return report["files"], [(leak["place"], leak["canary"], leak["form"]) for leak in report["leaks"]], done.returncode


def planted(house):
    """A leak of each class, one at a time."""
    given = house.issuer.given
    access, refresh = (next(v for k, v in reversed(given.items()) if k.startswith(kind)).encode() for kind in ("access", "refresh"))
    key, secret = (house.secrets[name].encode() for name in ("API_KEY", "CLIENT_SECRET"))
    classes = {
        "log": (house.log, b"TRACE sending authorization: DPoP " + access + b"\n"),
        "audit": (house.dir / "audit.jsonl", b'{"detail":"' + b"".join(b"\\u%04x" % c for c in refresh) + b'"}\n'),
        "answer": (house.out / "agent-planted", b"HTTP/1.1 200 OK\r\n\r\n" + base64.b64encode(b'{"key":"' + key + b'"}')),
        "compressed answer": (house.out / "agent-planted.gz", gzip.compress(b"x" * 5000 + key)),
        "metrics": (house.out / "metrics-planted", b'tokenward_x{t="' + access.hex().encode() + b'"} 1\n'),
        "store": (house.dir / "state/planted", os.urandom(3000) + refresh + os.urandom(3000)),
        "public file": (house.dir / "run/planted", b"ITEMS_TOKEN=" + b"".join(b"%%%02X" % c for c in access)),
        "core": (house.out / "core-planted", os.urandom(100) + secret.decode().encode("utf-16-le") + os.urandom(100)),
    }
    for name, (file, bytes_) in classes.items():
        before = file.read_bytes() if file.exists() else None
        with file.open("ab") as to:
            to.write(bytes_)
        _, found, code = house.leaks()
        if code != 1 or not found or any(Path(place.split("!")[0].split(" ")[0]).name != file.name for place, _, _ in found):
            raise Wrong(f"a leak in {name} was planted; found: {found}")
        file.unlink() if before is None else file.write_bytes(before)
    return len(classes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True, type=Path)
    parser.add_argument("--broken", type=Path)
    parser.add_argument("--keep", action="store_true")
    given = parser.parse_args()
    house = House(given.bin.resolve())
    try:
        house.play()
        files, found, code = house.leaks()
        if found or code:
            raise Wrong(f"leaks: {found}")
        print(f"{len(house.canaries())} secrets in {files} files: none found", flush=True)
        print(f"{planted(house)} classes of leaks planted: each found", flush=True)
    except Wrong as wrong:
        print(f"FAILED: {wrong}; see {house.dir}")
        return 1
    finally:
        if house.process and house.process.poll() is None:
            house.kill()
    if not given.keep:
        shutil.rmtree(house.dir)
    if given.broken:
        house = House(given.broken.resolve(), "token-in-log")
        try:
            house.play()
            _, found, code = house.leaks()
        finally:
            house.end()
        if code != 1 or not any("log" in place for place, _, _ in found):
            print(f"FAILED: a program that writes tokens into its log was not found out: {found}")
            return 1
        print("a program that writes tokens into its log: found", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
