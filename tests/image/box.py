"""The image as a container: its file system read-only, its volumes, its user and nothing else, in namespaces of its own. In them
it gets the configuration and secrets below as files, and does the main job for an agent against an issuer and two APIs.

`run.py` starts it as `unshare --net --mount --pid … box.py ROOTFS CONFIG FOLDER` and reads the JSON that it prints.
"""

import base64
import ctypes
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "kills"), str(HERE.parent)]
from issuer import HOST_API, Api, Issuer, certificates  # noqa: E402
from program import apart  # noqa: E402

USER, AGENT, KEYS = 65532, "coder", 8443
VOLUMES = {"/run/tokenward": 0o755, "/var/lib/tokenward": 0o700, "/var/log/tokenward": 0o700}
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
GUESS = "the-agents-own-guess"


class Accounts(Issuer):
    """Gives what a client asks for with its secret."""

    def __init__(self, folder, secret):
        super().__init__(folder, 0)
        self.basic, self.asked = b64(f"image:{secret}"), []

    def token(self, method, target, body, fields):
        right = fields.get("authorization") == f"Basic {self.basic}" and "grant_type=client_credentials" in body
        self.asked.append((right, "dpop" in fields))
        return (200, {"access_token": "at-1", "token_type": "DPoP", "expires_in": 600}) if right else (401, {"error": "invalid_client"})


class Telling(Api):
    """Remembers every field of a request."""

    def answer(self, method, target, body, fields):
        self.seen.append(fields)
        return 200, {"ok": True}


def b64(text):
    return base64.b64encode(text.encode()).decode()


def call(*words):
    subprocess.run([str(w) for w in words], check=True, capture_output=True, timeout=30)


def configure(folder, issuer, items, keys, listen="{proxy: 127.0.0.1:8080}"):
    """The default configuration of the image, with somebody to talk to."""
    (folder / "tokenward.yaml").write_text(f"""
listen: {listen}
health: 127.0.0.1:9091
runtime_dir: /run/tokenward
ca: {{dir: /var/lib/tokenward/ca}}
store: {{file: {{path: /var/lib/tokenward/store/grants, key: {{file: /run/secrets/store.key}}}}}}
admin: {{listen: "unix:/var/lib/tokenward/admin/admin.sock"}}
audit: {{file: /var/log/tokenward/audit.jsonl}}
drain: {{timeout: 5s}}
agents:
  {AGENT}: {{auth: {{token: {{file: /run/secrets/coder-token}}}}}}
issuers:
  as: {{url: "{issuer.url}", connect: 127.0.0.1, allow_private: true, ca: {{file: ca.pem}}}}
services:
  items:
    hosts: [{HOST_API}]
    upstream: {{connect: "127.0.0.1:{items.port}", allow_private: true, ca: {{file: ca.pem}}}}
    credential:
      oauth:
        {{issuer: as, client_id: image, client_auth: {{secret_basic: {{file: /run/secrets/client-secret}}}}, grant: client_credentials}}
    rules: [{{allow: GET /a, scopes: [a]}}]
  keys:
    hosts: [{HOST_API}]
    port: {KEYS}
    upstream: {{connect: "127.0.0.1:{keys.port}", allow_private: true, ca: {{file: ca.pem}}}}
    credential: {{header: {{name: x-api-key, value: {{file: /run/secrets/api-key}}}}}}
    rules: [{{allow: GET /**}}]
""")


def become(user, keep=()):
    """This user and group and no other, no new privileges; root's capabilities, after the next exec, are those of `keep`."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in set(range(64)) - set(keep):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


class Box:
    """A container: `given` says which folders are mounted where, read-only."""

    def __init__(self, root, given, volumes=tuple(VOLUMES)):
        self.root = root
        call("mount", "--make-rprivate", "/")
        # What every runtime lays over an image: names, processes, devices.
        for name, text in (("hosts", "127.0.0.1 localhost\n"), ("resolv.conf", "")):
            (root / "etc" / name).write_text(text)
        for name in ("proc", "dev"):
            (root / name).mkdir(exist_ok=True)
        call("mount", "--bind", root, root)
        call("mount", "-t", "proc", "proc", root / "proc")
        call("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", root / "dev")
        for device in ("null", "zero", "random", "urandom"):
            (root / "dev" / device).touch()
            call("mount", "--bind", f"/dev/{device}", root / "dev" / device)
        call("mount", "-o", "remount,bind,ro", root / "dev")
        # As Docker does with a new volume: of the owner and mode that the image's folder has.
        for path in volumes:
            have = (root / path[1:]).stat()
            call("mount", "-t", "tmpfs", "-o", f"size=16m,uid={have.st_uid},gid={have.st_gid},mode={have.st_mode & 0o7777:o}", "tmpfs", root / path[1:])
        for place, folder in given.items():
            (root / place).mkdir(exist_ok=True)
            call("mount", "--bind", folder, root / place)
            call("mount", "-o", "remount,bind,ro", root / place)

    def close(self):
        """From here on the root file system is read-only. What could be written before: so that nothing found later means something."""
        before = self.writable(0)
        call("mount", "-o", "remount,bind,ro", self.root)
        return before

    def enter(self, user=USER, keep=()):
        """Between fork and exec: from here on the process is in the container."""
        os.chroot(self.root)
        os.chdir("/")
        become(user, keep)

    def start(self, words, user=USER, keep=(), **more):
        return subprocess.Popen(words, preexec_fn=lambda: self.enter(user, keep), env={"PATH": "/usr/local/bin"}, stdin=subprocess.DEVNULL, **more)

    def run(self, *words, user=USER, keep=()):
        process = self.start(words, user, keep, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, error = process.communicate(timeout=60)
        return process.returncode, out, error

    def writable(self, user):
        """Folders and files that this user may write to, asked by trying each."""
        return apart(lambda: self.enter(user), lambda: [where for where in self.walk() if writes(where)])

    @staticmethod
    def walk():
        for at, folders, files in os.walk("/"):
            folders[:] = [f for f in folders if os.path.join(at, f) not in ("/proc", "/dev")]
            yield from (at, *(os.path.join(at, f) for f in files))


def writes(where):
    try:
        if os.path.isdir(where):
            os.close(os.open(os.path.join(where, "x"), os.O_CREAT | os.O_WRONLY))
            os.unlink(os.path.join(where, "x"))
        elif os.path.isfile(where):
            os.close(os.open(where, os.O_WRONLY))
        else:
            return False
    except OSError:
        return False
    return True


def ask(token, path, port):
    """An agent's request through the proxy: the status of the answer."""
    with socket.create_connection(("127.0.0.1", 8080), 20) as plain:
        plain.sendall(f"CONNECT {HOST_API}:{port} HTTP/1.1\r\nhost: {HOST_API}:{port}\r\n"
                      f"proxy-authorization: Basic {b64(f'{AGENT}:{token}')}\r\n\r\n".encode())
        head = plain.recv(4096)
        if b" 200 " not in head.split(b"\r\n")[0]:
            return int(head.split(b" ")[1])
        # The certificate is checked: the agent reads it where the volume with public files is mounted.
        context = ssl.create_default_context(cafile=ask.bundle)
        with context.wrap_socket(plain, server_hostname=HOST_API) as io:
            io.sendall(f"GET {path} HTTP/1.1\r\nhost: {HOST_API}:{port}\r\nauthorization: Bearer {GUESS}\r\nx-api-key: {GUESS}\r\n"
                       "connection: close\r\n\r\n".encode())
            text = b""
            while more := io.recv(65536):
                text += more
    return int(text.split(b" ")[1])


def until_ready(process, log):
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if process.poll() is not None:
            raise AssertionError(f"serve ended with {process.returncode}: {log.read_text()[-1500:]}")
        try:
            return urllib.request.urlopen("http://127.0.0.1:9091/readyz", timeout=1).read()
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"serve is not ready: {log.read_text()[-1500:]}")


def main(root, config, folder):
    secrets = {f.name: f.read_text() for f in (folder / "secrets").iterdir()}
    (folder / "config").mkdir()
    call("ip", "link", "set", "lo", "up")
    certificates(folder)
    issuer, items, keys = Accounts(folder, secrets["client-secret"]), Telling(folder), Telling(folder)
    configure(folder / "config", issuer, items, keys)
    (folder / "config" / "ca.pem").write_bytes((folder / "ca.pem").read_bytes())
    box, told, log = Box(root, {"etc/tokenward": folder / "config", "run/secrets": folder / "secrets"}), {}, folder / "log"
    told["open"] = box.close()
    told["version"] = box.run(*config["Entrypoint"], "--version")
    with log.open("wb") as out:
        process = box.start([*config["Entrypoint"], *config["Cmd"]], stdout=out, stderr=out)
    ask.bundle = root / "run/tokenward/ca.pem"
    until_ready(process, log)
    # Its own /proc: outside the number is another process's.
    status = (root / "proc" / str(process.pid) / "status").read_text()
    told["process"] = {key: value.split() for key, value in (line.split(":", 1) for line in status.splitlines())}
    told["health"] = box.run(*config["Healthcheck"]["Test"][1:])[0]
    token = secrets["coder-token"]
    told["answers"] = [ask(token, "/a", 443), ask(token, "/any", KEYS), ask(token, "/b", 443), ask("no-token", "/a", 443)]
    told["items"], told["keys"], told["asked"] = items.seen, keys.seen, issuer.asked
    told["status"] = box.run("/usr/local/bin/tokenward", "status", "--json")
    told["writable"] = {str(user): box.writable(user) for user in (USER, 0)}
    process.send_signal(signal.SIGTERM)
    told["end"] = process.wait(30)
    told["unhealthy"] = box.run(*config["Healthcheck"]["Test"][1:])[0]
    told["audit"] = box.run("/usr/local/bin/tokenward", "audit", "verify", "/var/log/tokenward/audit.jsonl")
    (folder / "audit").write_bytes((root / "var/log/tokenward/audit.jsonl").read_bytes())
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]))
