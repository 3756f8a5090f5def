"""Plays a rendered overlay on this machine: each container in mount namespaces with the very volumes, users and groups of the
manifest, all in one network that leads nowhere. tokenward is the real one; the agent is a shell with curl.

    unshare --net --mount stage.py OVERLAY.yaml BINARY FOLDER

Needs root, for the users. What it cannot play: the kubelet, the policies' enforcement, seccomp of the node.
"""

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml
from pods import INIT, containers, named, pods

HOST, DENIED = "api.items.example", "api.evil.example"
# Where an agent without a proxy finds the API: in this network, so that it would get there if the rules let it.
NEAR = "198.18.0.9"


def sh(*command, **more):
    return subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True, **more)


def certificate(folder, name):
    sh("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}",
       "-addext", f"subjectAltName=DNS:{name}", "-keyout", folder / "tls.key", "-out", folder / "tls.crt")


def secret_values(folder, binary):
    """What the pages tell the operator to put into each Secret."""
    folder.mkdir()
    made = {name: folder / name for name in ("tokenward", "tokenward-tls", "tokenward-ca")}
    for path in made.values():
        path.mkdir()
    (made["tokenward"] / "coder-token").write_text(secrets.token_urlsafe(32))
    (made["tokenward"] / "store.key").write_text(secrets.token_hex(32))
    sh("openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", made["tokenward"] / "client.pem")
    certificate(made["tokenward-tls"], "tokenward.tokenward.svc")
    config = folder / "ca.yaml"
    config.write_text(f"ca: {{dir: {folder}/made}}\nservices: {{items: {{hosts: [{HOST}], rules: [{{allow: GET /**}}]}}}}\n")
    sh(binary, "--config", config, "ca", "init")
    shutil.copy(folder / "made" / "ca.pem", made["tokenward-ca"] / "tls.crt")
    shutil.copy(folder / "made" / "ca.key", made["tokenward-ca"] / "tls.key")
    return made


class Pod:
    """One pod: its volumes as the kubelet would make them, and a way to run its containers."""

    def __init__(self, name, spec, docs, folder, binary, secret):
        self.spec, self.folder, self.volumes = spec, folder / name, {}
        self.folder.mkdir()
        self.group = spec.get("securityContext", {}).get("fsGroup")
        shutil.copytree("/etc", self.folder / "etc", symlinks=True, ignore_dangling_symlinks=True)
        hosts = [f"{a['ip']} {n}" for a in spec.get("hostAliases", []) for n in a["hostnames"]]
        (self.folder / "etc" / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts]) + "\n")
        (self.folder / "bin").mkdir()
        shutil.copy(binary, self.folder / "bin" / "tokenward")
        for volume in spec.get("volumes", []):
            path = self.volumes[volume["name"]] = self.folder / f"volume-{volume['name']}"
            path.mkdir()
            if "configMap" in volume and volume["configMap"]["name"] != "tokenward-trust":
                data = next(d["data"] for d in docs if d["kind"] == "ConfigMap" and d["metadata"]["name"] == volume["configMap"]["name"])
                self.fill(path, data, 0o644)
            elif "secret" in volume and volume["secret"]["secretName"] in secret:
                source = secret[volume["secret"]["secretName"]]
                self.fill(path, {f.name: f.read_text() for f in source.iterdir()}, volume["secret"]["defaultMode"])
            elif "emptyDir" in volume or "persistentVolumeClaim" in volume:
                path.chmod(0o777 if "emptyDir" in volume else 0o755)
                if self.group:
                    os.chown(path, 0, self.group)
                    path.chmod(0o2777 if "emptyDir" in volume else 0o2775)

    def fill(self, path, data, mode):
        """Files behind the links that the kubelet makes, so that all of them change at once."""
        real = path / "..1"
        real.mkdir()
        (path / "..data").symlink_to("..1")
        for name, text in data.items():
            (real / name).write_text(text)
            (real / name).chmod(mode)
            if self.group:
                os.chown(real / name, 0, self.group)
            (path / name).symlink_to(f"..data/{name}")

    def command(self, container, arguments):
        """A shell line that makes the container's file system and becomes its user."""
        context = {**self.spec.get("securityContext", {}), **container["securityContext"]}
        lines = ["set -e", "mount --make-rprivate /", "mount -t tmpfs -o mode=755 tmpfs /run", "mount -t tmpfs -o mode=755 tmpfs /var/lib",
                 "mount -t tmpfs -o mode=755 tmpfs /var/log", "mkdir /run/bin", f"mount --bind {self.folder}/bin /run/bin",
                 f"mount --bind {self.folder}/etc /etc"]
        for mount in sorted(container.get("volumeMounts", []), key=lambda m: (m["mountPath"] == "/tmp", m["mountPath"])):
            source = self.volumes[mount["name"]] / mount.get("subPath", "")
            make = f"[ -d {source} ] && mkdir -p {mount['mountPath']} || [ -e {mount['mountPath']} ]"
            lines += [make, f"mount --bind {source} {mount['mountPath']}"]
            if mount.get("readOnly"):
                lines.append(f"mount -o remount,bind,ro {mount['mountPath']}")
        groups = ["--groups", str(self.group)] if self.group else ["--clear-groups"]
        path = "/run/bin:/usr/bin:/bin" if named(container["image"]) in ("tokenward", INIT) else "/usr/bin:/bin"
        keep = "".join(f",+{c.lower()}" for c in context["capabilities"].get("add", []))
        lines.append(shlex.join(["exec", "setpriv", "--reuid", str(context["runAsUser"]), "--regid", str(context["runAsGroup"]), *groups,
                                 "--no-new-privs", f"--bounding-set=-all{keep}", "--inh-caps=-all", "env", "-i", f"PATH={path}", "HOME=/nonexistent",
                                 *arguments]))
        return ["unshare", "--mount", "--fork", "--kill-child", "sh", "-c", "\n".join(lines)]

    def container(self, name):
        return next(c for c in containers(self.spec) if c["name"] == name)

    def run(self, name, arguments):
        return subprocess.run(self.command(self.container(name), arguments), capture_output=True, text=True, timeout=30, cwd="/")

    def start(self, name, arguments, out):
        return subprocess.Popen(self.command(self.container(name), arguments), stdout=out.open("wb"), stderr=(out.parent / "log").open("wb"), cwd="/")


def until_ready(process, log):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"tokenward ended with {process.returncode}: {log.read_text()[-800:]}")
        try:
            return urllib.request.urlopen("http://127.0.0.1:9091/readyz", timeout=1).read()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"tokenward is not ready after 20 s: {log.read_text()[-800:]}")


AGENT = r"""
say() { printf '%s=%s\n' "$1" "$2"; }
ask() { say "$1" "$(curl -sS -o /tmp/body -w '%{http_connect} %{http_code}' --max-time 20 "$2" 2>&1 | head -1)"; }
say who "$(id -u) $(id -g) $(id -G)"
say proxy "${HTTPS_PROXY%%:*}"
say token "${ITEMS_TOKEN:+there}"
ask denied_path https://HOST/v1/other
ask allowed https://HOST/v1/items/1
ask denied_host https://DENIED/
for f in $(find /run /var/lib /var/log /etc/tokenward -type f 2>/dev/null); do
    if head -c 1 "$f" >/dev/null 2>&1; then say reads "$f"; fi
    if (: >> "$f") 2>/dev/null; then say writes "$f"; fi
done
for d in /run/tokenward /run/agent; do if (: > "$d/x") 2>/dev/null; then say writes "$d"; fi; done
"""
# Without a proxy: to the API, and to somebody else who would answer.
AROUND = r"""
say around "$(curl -sS --noproxy '*' -o /tmp/body -w '%{http_code}' --max-time 20 https://HOST/v1/items/2 2>&1 | head -1)"
code=0; curl -sS --noproxy '*' --max-time 5 http://NEAR:9091/ >/dev/null 2>&1 || code=$?; say elsewhere $code
"""


def play(path, binary, folder):
    docs = [d for d in yaml.safe_load_all(Path(path).read_text()) if d]
    sh("ip", "link", "set", "lo", "up")
    for service in (d for d in docs if d["kind"] == "Service"):
        if address := service["spec"].get("clusterIP"):
            sh("ip", "address", "add", f"{address}/32", "dev", "lo")
    folder.chmod(0o755)
    secret = secret_values(folder / "secrets", binary)
    made = {name: Pod(name, spec, docs, folder, binary, secret) for name, _, _, spec in pods(docs)}
    house = made.get("tokenward", made["agent"])
    out = folder / "audit"
    script = AGENT
    if redirected := any(c["name"] == "netfilter" for c in containers(house.spec)):
        script += AROUND
        sh("ip", "address", "add", f"{NEAR}/32", "dev", "lo")
        with (house.folder / "etc" / "hosts").open("a") as hosts:
            hosts.write(f"{NEAR} {HOST}\n")
        done = house.run("netfilter", ["tokenward", *house.container("netfilter")["args"]])
        if done.returncode:
            raise AssertionError(f"the container `netfilter`: {done.stderr}")
    process = house.start("tokenward", ["tokenward", *house.container("tokenward")["args"]], out)
    try:
        until_ready(process, folder / "log")
        if house is made["agent"]:
            done = house.run("environment", house.container("environment")["command"])
            if done.returncode:
                raise AssertionError(f"the container `environment`: {done.stderr}")
        else:
            hand_over(house, made["agent"], secret)
        agent = made["agent"].container("agent")
        script = script.replace("HOST", HOST).replace("DENIED", DENIED).replace("NEAR", NEAR)
        done = made["agent"].run("agent", [*agent["command"], "sh", "-c", script])
        metrics = urllib.request.urlopen("http://127.0.0.1:9091/metrics", timeout=5).read().decode()
    finally:
        # The shell of `unshare` is its parent; what has to hear the signal is the child.
        child = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in child:
            os.kill(int(pid), 15)
        code = process.wait(60)
    text = (out.read_bytes() + (folder / "log").read_bytes()).decode()
    leaked = [f.name for d in secret.values() for f in d.iterdir() if f.suffix in ("", ".key") and f.read_text().strip() in done.stdout + text]
    print(json.dumps({"agent": done.stdout.splitlines(), "error": done.stderr[-500:], "code": code, "leaked": leaked, "redirected": redirected,
                      "audit": [json.loads(line) for line in out.read_text().splitlines()],
                      "metrics": sorted(set(re.findall(r"^# TYPE (\S+)", metrics, re.M)))}))


def hand_over(house, agent, secret):
    """What docs/deploy/gateway.md has an operator do with `kubectl exec`."""
    environment = house.run("tokenward", ["tokenward", "env", "--agent", "coder", "--format", "sh"])
    bundle = house.run("tokenward", ["tokenward", "ca", "bundle"])
    if environment.returncode or bundle.returncode:
        raise AssertionError(environment.stderr + bundle.stderr)
    trust, own = agent.volumes["trust"], agent.volumes["environment"]
    (trust / "bundle.pem").write_text(bundle.stdout + (secret["tokenward-tls"] / "tls.crt").read_text())
    (own / "env").write_text(environment.stdout)


SERVED = r"""
set -e
mount --make-rprivate /
for d in /run /var/lib /var/log; do mount -t tmpfs -o mode=755 tmpfs $d; done
ip link set lo up
mkdir -p /run/bin /run/agent "$(dirname SECRETS/x)"
install -m 0755 BINARY /run/bin/tokenward
install -o 65532 -m 0400 GIVEN/coder-token GIVEN/client.pem SECRETS
install -d -o 65532 -g 65532 -m 0700 /var/lib/tokenward /var/log/tokenward
install -d -o 65532 -g 65532 -m 0755 /run/tokenward
chown 65532 /run/agent
install -m 0644 CONFIG /run/tokenward.yaml
umask 077
as() { setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --bounding-set=-all env -i PATH=/run/bin:/usr/bin:/bin "$@"; }
setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --bounding-set=-all env -i /run/bin/tokenward --config /run/tokenward.yaml serve 2>/run/log &
proxy=$!
n=0
until as tokenward --config /run/tokenward.yaml healthcheck 2>/dev/null; do
    n=$((n + 1))
    if [ $n -gt 100 ]; then cat /run/log >&2; exit 1; fi
    sleep 0.2
done
find /run/tokenward -printf 'mode %m %p\n' | sort
as tokenward --config /run/tokenward.yaml status | sed 's/^/status /'
as HAND
stat -c 'mode %a %n' /run/agent/env
sed 's/coder:[^@]*@/coder:TOKEN@/; s/^/env /' /run/agent/env
kill $proxy
code=0; wait $proxy || code=$?
echo "ended $code"
as tokenward audit verify /var/log/tokenward/audit.jsonl
"""


def serve(config, binary, given, hand):
    """Starts `serve` as Compose and systemd do: its user, a umask of 077, folders and secrets where they make them; then HAND
    gives the agent its environment."""
    where = re.search(r"file: (/run/\S+)/coder-token", config.read_text())[1]
    script = SERVED
    for name, value in {"SECRETS": where, "BINARY": binary, "GIVEN": given, "CONFIG": config, "HAND": hand}.items():
        script = script.replace(name, str(value))
    return subprocess.run(["unshare", "--net", "--mount", "--fork", "--kill-child", "sh", "-c", script], capture_output=True, text=True, timeout=90)


if __name__ == "__main__":
    play(sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]))
