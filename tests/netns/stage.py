"""Network namespaces in the shape of a pod or of a gateway, and who acts in them. The machine's own network is never touched."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from program import Wrong  # noqa: E402

HERE = Path(__file__).resolve().parent
GID, UID = 1337, 65532
V4, V6 = "45.33.32.99", "2606:4700::77"          # where the API is
EVIL4, EVIL6 = "45.33.32.66", "2606:4700::66"    # where an agent would rather have it
RESOLVER = "45.33.32.53"                         # what /etc/resolv.conf names
HOST, PLAIN, BLIND = "api.netns.test", "plain.netns.test", "blind.netns.test"
TOKEN = "netns-canary-token"


def call(*words, check=True, **more):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, **more)
    if check and done.returncode:
        raise Wrong(f"{' '.join(map(str, words))}: {done.returncode} {done.stderr.strip()[-400:]}")
    return done


def await_(what, condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise Wrong(f"{what} did not come about within {seconds} s")


class Stage:
    """`sidecar`: agent and proxy share a network. `gateway` and `tproxy`: the agent's packets pass through the proxy's machine."""

    def __init__(self, binary, shape):
        self.binary, self.shape, self.proxy, self.far = binary, shape, None, None
        self.dir = Path(tempfile.mkdtemp(prefix="tokenward-netns-"))
        self.dir.chmod(0o755)
        tag = f"tw{os.getpid() % 100000}{secrets.token_hex(2)}"
        self.pod, self.srv = f"{tag}-pod", f"{tag}-srv"
        self.gw = self.pod if shape == "sidecar" else f"{tag}-gw"
        self.names = []
        try:
            self.files()
            self.network()
        except BaseException:
            self.close()
            raise

    def network(self):
        for name in dict.fromkeys((self.pod, self.gw, self.srv)):
            call("ip", "netns", "add", name)
            self.names.append(name)
            call("ip", "-n", name, "link", "set", "lo", "up")
        if self.gw == self.pod:
            self.link(self.pod, "out0", self.srv, "in0", "10.66.0", "fd66")
        else:
            self.link(self.pod, "out0", self.gw, "agents0", "10.66.0", "fd66")
            self.link(self.gw, "up0", self.srv, "in0", "10.77.0", "fd77")
            self.inside(self.gw, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
            call("ip", "-n", self.srv, "route", "add", "10.66.0.0/24", "via", "10.77.0.2")
            call("ip", "-n", self.srv, "-6", "route", "add", "fd66::/64", "via", "fd77::2")
        for address in (V4, EVIL4, RESOLVER):
            call("ip", "-n", self.srv, "addr", "add", f"{address}/32", "dev", "lo")
        for address in (V6, EVIL6):
            call("ip", "-n", self.srv, "-6", "addr", "add", f"{address}/128", "dev", "lo", "nodad")

    def link(self, near, near_if, far, far_if, net4, net6):
        """`near` gets .2 and a default route by `far`, which gets .1."""
        call("ip", "link", "add", near_if, "netns", near, "type", "veth", "peer", "name", far_if, "netns", far)
        for name, interface, last in ((near, near_if, 2), (far, far_if, 1)):
            call("ip", "-n", name, "addr", "add", f"{net4}.{last}/24", "dev", interface)
            call("ip", "-n", name, "-6", "addr", "add", f"{net6}::{last}/64", "dev", interface, "nodad")
            call("ip", "-n", name, "link", "set", interface, "up")
        call("ip", "-n", near, "route", "add", "default", "via", f"{net4}.1")
        call("ip", "-n", near, "-6", "route", "add", "default", "via", f"{net6}::1")

    def files(self):
        def ssl(*words):
            call("openssl", *words, cwd=self.dir)

        ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        ssl("req", "-x509", *ec, "-keyout", "root.key", "-out", "ca.pem", "-days", "3", "-subj", "/CN=netns root")
        (self.dir / "leaf.ext").write_text(f"subjectAltName=DNS:{HOST},DNS:{BLIND}\nextendedKeyUsage=serverAuth\n")
        ssl("req", *ec, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=netns leaf")
        ssl("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "root.key", "-CAcreateserial", "-days", "3", "-out",
            "leaf.pem", "-extfile", "leaf.ext")
        (self.dir / "hosts").write_text(f"127.0.0.1 localhost\n{V4} {HOST} {PLAIN} {BLIND}\n")
        (self.dir / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
        (self.dir / "api.token").write_text(TOKEN)
        (self.dir / "agent.py").write_bytes((HERE / "agent.py").read_bytes())
        if self.shape == "sidecar":
            listen, agents, doors = '["127.0.0.1:15001", "[::1]:15001"]', "", '"127.0.0.1:8080"'
        else:
            mode, places = ("redirect", ("0.0.0.0", "[::]")) if self.shape == "gateway" else ("tproxy", ("127.0.0.1", "[::1]"))
            rows = [(f"{place}:15001", mode) for place in places]
            listen = "[" + ", ".join(f'{{address: "{at}", mode: {mode}, agent: coder}}' for at, mode in rows) + "]"
            agents, doors = "agents: {coder: {}}", '[{address: "[::]:8081", plaintext: true}]'
        (self.dir / "tokenward.yaml").write_text(f"""
listen: {{proxy: {doors}, transparent: {listen}}}
health: 127.0.0.1:9091
runtime_dir: {self.dir}/run
audit: {{file: {self.dir}/state/audit.jsonl}}
drain: {{timeout: 20s}}
{agents}
services:
  items:
    hosts: [{HOST}]
    upstream: {{ca: {{file: ca.pem}}}}
    credential: {{bearer: {{file: api.token}}}}
    rules: [{{allow: "GET /**"}}]
  plain:
    hosts: [{PLAIN}]
    port: 80
    rules: [{{allow: "GET /**"}}]
tunnel: ["{BLIND}:443"]
""")
        for name in ("run", "state"):
            (self.dir / name).mkdir(mode=0o755)
            os.chown(self.dir / name, UID, GID)
        os.chown(self.dir / "api.token", UID, GID)

    def words(self, name, words, uid=0, gid=0, capability=None):
        """A command in a namespace, with our own hosts and resolver, as somebody without privileges."""
        keep = f",+{capability}" if capability else ""
        ambient = [f"--ambient-caps=+{capability}"] if capability else []
        who = [] if uid == 0 else ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs",
                                   f"--inh-caps=-all{keep}", *ambient, f"--bounding-set=-all{keep}"]
        mounts = f"mount --bind {self.dir}/hosts /etc/hosts && mount --bind {self.dir}/resolv.conf /etc/resolv.conf"
        words = ["ip", "netns", "exec", name, "unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh", *who, *words]
        return [str(word) for word in words]

    def inside(self, name, *words, uid=0, gid=0, check=True, **more):
        return call(*self.words(name, words, uid, gid), check=check, **more)

    def agent(self, *words, **more):
        return self.inside(self.pod, *words, uid=1000, gid=1000, check=False, **more)

    def tokenward(self, *words, uid=0, gid=0, check=True):
        return self.inside(self.gw, self.binary, "--config", self.dir / "tokenward.yaml", *words, uid=uid, gid=gid, check=check,
                           env=self.environment())

    def environment(self):
        return {"PATH": os.environ["PATH"], "HOME": str(self.dir / "state"), "XDG_STATE_HOME": str(self.dir / "state")}

    def begin_far(self):
        log = open(self.dir / "far.log", "ab")
        words = ["ip", "netns", "exec", self.srv, sys.executable, HERE / "far.py", self.dir / "leaf.pem", self.dir / "leaf.key"]
        self.far = subprocess.Popen([str(word) for word in words], stdout=log, stderr=subprocess.STDOUT)
        await_("the witness", lambda: any("ready" in line for line in self.seen()))

    def start(self, capability=None):
        log = open(self.dir / "proxy.log", "ab")
        words = [self.binary, "--log", "info", "--config", self.dir / "tokenward.yaml", "serve"]
        self.proxy = subprocess.Popen(self.words(self.gw, words, UID, GID, capability), env=self.environment(), stdout=log,
                                      stderr=log)

        def ready():
            if self.proxy.poll() is not None:
                raise Wrong(f"serve ended with {self.proxy.returncode}: {(self.dir / 'proxy.log').read_text()[-800:]}")
            return self.tokenward("healthcheck", check=False).returncode == 0
        await_("the proxy", ready)

    def stop(self, how=signal.SIGTERM):
        self.proxy.send_signal(how)
        return self.proxy.wait(40)

    def seen(self):
        lines = (self.dir / "far.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def arrived(self, during):
        """What reached the far side while `during` went on. A packet of our own is sent behind it, as everything else was by then."""
        before = len(self.seen())
        result = during()
        mark = secrets.token_hex(8)
        send = f"import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'{mark}', ('{V4}', 7))"

        def marked():
            self.inside(self.gw, sys.executable, "-c", send, uid=UID, gid=GID)
            return any(line.get("mark") == mark for line in self.seen())
        await_("the mark at the far side", marked)
        return result, [line for line in self.seen()[before:] if "packet" in line and line["port"] != 7]

    def lines(self):
        return [json.loads(line) for line in (self.dir / "state/audit.jsonl").read_text().splitlines()]

    def close(self):
        for process in (self.proxy, self.far):
            if process and process.poll() is None:
                process.kill()
                process.wait(10)
        for name in self.names:
            call("ip", "netns", "del", name, check=False)
        shutil.rmtree(self.dir, ignore_errors=True)
