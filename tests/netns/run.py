#!/usr/bin/env python3
"""Can an agent get around the proxy? Asked in network namespaces, of the very rules that `tokenward netfilter` makes.

tests/netns/run.py --bin target/release/tokenward [--only sidecar|legacy|gateway|tproxy|gateway-legacy|tproxy-legacy|verbs|faults]

An agent tries every way out that it has, and a witness at the far side counts packets. What is allowed must work all the
same, over IPv4 and IPv6, with the credential attached and to the address that we resolve. Two planted faults (rules
without IPv6, rules without their filter) must be noticed. Needs root, Python 3.11, ip, nft, iptables, curl, openssl, setpriv.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stage import BLIND, EVIL4, EVIL6, GID, HOST, PLAIN, RESOLVER, UID, V4, V6, Stage, call

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from program import Wrong  # noqa: E402

COUNT = 0


def must(condition, *words):
    global COUNT
    COUNT += 1
    if not condition:
        raise Wrong(" ".join(str(word) for word in words))


def rules(stage, *more):
    """What `netfilter print` says, asked without any privilege."""
    shape = ["--shape", "sidecar", "--exempt-gid", GID] if stage.shape == "sidecar" else ["--shape", "gateway", "--interface", "agents0"]
    if stage.shape == "tproxy":
        shape.append("--tproxy")
    return ["print", *shape, *more]


def printed(stage, *more):
    return stage.tokenward("netfilter", *rules(stage, *more), uid=65534, gid=65534).stdout


def apply(stage, *more, **how):
    _, *words = rules(stage, *more)
    return stage.tokenward("netfilter", "apply", *words, **how)


def curl(stage, url, host, port, address, *more):
    """One request by a client that was told another address than ours, and that no proxy is to be used."""
    at = f"[{address}]" if ":" in address else address
    done = stage.agent("curl", "-sS", "--noproxy", "*", "-m", "8", "--cacert", f"{stage.dir}/run/bundle.pem", "--resolve",
                       f"{host}:{port}:{at}", "-w", "\n%{http_code}", *more, url)
    body, _, status = done.stdout.rpartition("\n")
    return done.returncode, int(status or 0), body


def allowed(stage):
    """The main job, with the agent choosing addresses of its own."""
    for address in (V4, V6, EVIL4, EVIL6):
        code, status, body = curl(stage, f"https://{HOST}/v1/items", HOST, 443, address)
        must(status == 200, "TLS by", address, code, status, body)
        told = json.loads(body)
        must(told["credential"] == "ours", "no credential by", address, body)
        must(told["to"].removeprefix("::ffff:") == V4, "the agent chose the address", address, body)
        code, status, body = curl(stage, f"http://{PLAIN}/v1/items", PLAIN, 80, address)
        must(status == 200 and json.loads(body)["credential"] is None, "clear by", address, code, status, body)
        must(json.loads(body)["to"].removeprefix("::ffff:") == V4, "the agent chose the address", address, body)
    # A host that passes blind: its own certificate, no credential, our choice of address.
    code, status, body = curl(stage, f"https://{BLIND}/x", BLIND, 443, EVIL4, "--cacert", f"{stage.dir}/ca.pem")
    must(status == 200 and json.loads(body)["credential"] is None, "blind", code, status, body)
    must(json.loads(body)["to"].removeprefix("::ffff:") == V4, "blind by the agent's address", body)
    # Its own resolver stays within reach.
    ask = f"import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'question', ('{RESOLVER}', 53))"
    _, packets = stage.arrived(lambda: stage.agent(sys.executable, "-c", ask))
    must(any(packet["target"] == RESOLVER and packet["port"] == 53 for packet in packets), "the resolver was not asked")
    metrics = stage.inside(stage.gw, "curl", "-s", "http://127.0.0.1:9091/metrics").stdout
    must('tokenward_connections{listener="transparent"}' in metrics, "the connections are not counted as transparent")
    lines = [line for line in stage.lines() if line.get("event") == "request"]
    must(all(line["listener"] == "transparent" for line in lines), "another door", lines[-1:])


def refused(stage):
    """What is not allowed is refused at the door, and nothing of it arrives."""
    def ask():
        for address in (V4, V6):
            at = f"[{address}]" if ":" in address else address
            code, status, _ = curl(stage, f"https://{at}/", "unused.test", 443, address, "-k")
            must(code == 35 and status == 0, "a handshake without a name", address, code, status)
            code, status, _ = curl(stage, "https://other.test/", "other.test", 443, address, "-k")
            must(code == 35 and status == 0, "a name that nobody admits", address, code, status)
            code, status, body = curl(stage, f"https://{HOST}/", HOST, 443, address, "-H", "host: other.test")
            must(status == 421, "another name inside", address, code, status, body)
            code, status, body = curl(stage, f"https://{HOST}/", HOST, 443, address, "-X", "DELETE")
            must(status == 403 and json.loads(body)["code"] == "policy-denied", "a rule", address, code, status, body)
            code, status, body = curl(stage, "http://other.test/", "other.test", 80, address)
            must(status == 403 and json.loads(body)["code"] == "destination-denied", "clear", address, code, status, body)
            code, status, body = curl(stage, f"http://{PLAIN}/", PLAIN, 80, address, "-H", f"host: {PLAIN}:8080")
            must(status == 421, "a Host of another port", address, code, status, body)
            code, status, body = curl(stage, f"http://{HOST}/", HOST, 80, address)
            must(status == 403, "a credential's service in clear", address, code, status, body)
            code, status, body = curl(stage, f"http://{PLAIN}:443/", PLAIN, 443, address)
            must(status == 403, "clear where TLS is", address, code, status, body)
        if stage.shape == "sidecar":
            for address in ("127.0.0.1", "::1"):
                at = f"[{address}]" if ":" in address else address
                code, status, _ = curl(stage, f"http://{at}:15001/", "unused.test", 15001, address)
                must(code == 52 or code == 56, "a connection to the listener itself", address, code, status)
    _, packets = stage.arrived(ask)
    must(not packets, "refused, and still", packets[:3])
    codes = {line.get("code") for line in stage.lines()}
    must({"destination-denied", "bad-request", "authority-mismatch"} <= codes, "codes", codes)
    must(stage.shape != "sidecar" or "proxy-loop" in codes, "codes", codes)


def nothing_leaves(stage):
    """Every other way out. No packet of the agent may arrive."""
    def flee():
        done = stage.agent(sys.executable, stage.dir / "agent.py", V4, V6)
        must(done.returncode == 0, "the agent", done.stderr[-300:])
        return json.loads(done.stdout)
    outcome, packets = stage.arrived(flee)
    must(not packets, len(packets), "packets of the agent arrived, such as", packets[:3])
    for name, word in outcome.items():
        if name.startswith("tcp"):
            must(word.startswith("refused"), name, word)
        if name.startswith("raw") or name == "packet":
            must(word.startswith("not permitted"), name, word)


def after_reset(stage):
    """The far side resets a connection of tokenward's group. The agent takes its port, and with it the connection's mark."""
    dial = ("import socket, sys\nto = (sys.argv[1], 7001)\nio = socket.socket(socket.AF_INET6 if ':' in to[0] else socket.AF_INET)\n"
            "io.settimeout(2)\nio.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\nio.bind(('', int(sys.argv[2])))\n"
            "print(io.getsockname()[1], flush=True)\nio.connect(to)\nio.recv(1)\n")
    for address in (V4, V6):
        own = stage.inside(stage.pod, sys.executable, "-c", dial, address, 0, uid=UID, gid=GID, check=False)
        must("ConnectionResetError" in own.stderr, "no reset to begin with", own.stderr[-300:])
        port = int(own.stdout)
        done, packets = stage.arrived(lambda: stage.agent(sys.executable, "-c", dial, address, port))
        must("ConnectionRefusedError" in done.stderr, "the agent by a port that was reset", done.stdout, done.stderr[-300:])
        must(not packets, "the agent by a port that was reset", packets[:3])


# What a gateway may have open besides: the owner's way in, a resolver, and both answer.
SERVICES = """import socket, threading
tcp = socket.create_server(("::", 2222), family=socket.AF_INET6, dualstack_ipv6=True)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
udp.bind(("::", 53))
def answer():
    while True:
        udp.sendto(b"answer", udp.recvfrom(512)[1])
threading.Thread(target=answer, daemon=True).start()
print("ready", flush=True)
while True:
    tcp.accept()[0].close()
"""
KNOCK = """import json, socket, sys
out = {}
for address in sys.argv[1:]:
    for kind, port in (("tcp", 2222), ("udp", 53), ("tcp", 15001), ("tcp", 8081)):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as io:
            io.settimeout(2)
            try:
                io.connect((address, port))
                kind == "udp" and (io.send(b"question"), io.recv(9))
                out[f"{kind} {port} {address}"] = "open"
            except OSError as error:
                out[f"{kind} {port} {address}"] = type(error).__name__
print(json.dumps(out))
"""


def knock(stage, expected):
    """What an agent finds open of the gateway itself."""
    def serving(name):
        return subprocess.Popen(["ip", "netns", "exec", name, sys.executable, "-c", SERVICES], stdout=subprocess.PIPE, text=True)
    services = [serving(stage.gw), serving(stage.pod)]
    try:
        must(all(each.stdout.readline() == "ready\n" for each in services), "the services did not start")
        # Neighbours have to be found anew: that goes on.
        for name in (stage.pod, stage.gw):
            call("ip", "-n", name, "neigh", "flush", "all")
        done = stage.agent(sys.executable, "-c", KNOCK, "10.66.0.1", "fd66::1")
        must(done.returncode == 0, "the agent", done.stderr[-300:])
        found = json.loads(done.stdout)
        for door, word in found.items():
            wanted = "open" if " ".join(door.split()[:2]) in expected else "ConnectionRefusedError"
            must(word == wanted, door, word, "instead of", wanted)
        # The gateway's own questions to the agents' side are answered.
        done = stage.inside(stage.gw, sys.executable, "-c", KNOCK, "10.66.0.2", "fd66::2")
        found = json.loads(done.stdout)
        must(all(found[f"udp 53 {address}"] == "open" for address in ("10.66.0.2", "fd66::2")), "answers to the gateway", found)
    finally:
        for each in services:
            each.kill()
            each.wait(10)


def capabilities(stage, expected):
    status = Path(f"/proc/{stage.proxy.pid}/status").read_text()
    held = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Cap"))
    must(held["CapEff"] == held["CapPrm"] == held["CapBnd"] == f"{expected:016x}", "capabilities", held)


def ends(stage, capability=None):
    """The agent first, the proxy killed, the proxy ended in order: no request goes around it, and none is lost."""
    def alone():
        for address in (EVIL4, EVIL6):
            code, _, _ = curl(stage, f"https://{HOST}/v1/around", HOST, 443, address)
            must(code != 0, "an answer without a proxy")
    _, packets = stage.arrived(alone)
    must(not packets, "without a proxy", packets[:3])
    stage.start(capability)
    code, status, _ = curl(stage, f"https://{HOST}/v1/items", HOST, 443, V6)
    must(status == 200, "after the start", code, status)
    stage.stop(signal.SIGKILL)
    _, packets = stage.arrived(alone)
    # What the killed proxy had open is closed by the system. The agent asks for an address to which the proxy never goes.
    must(all(packet["target"] == V4 for packet in packets), "after the kill", packets[:3])
    must(not any(line.get("request") == "/v1/around" for line in stage.seen()), "around")
    stage.start(capability)
    words = stage.words(stage.pod, ["curl", "-sS", "--noproxy", "*", "-m", "20", "--cacert", f"{stage.dir}/run/bundle.pem", "--resolve",
                                    f"{HOST}:443:{V4}", "-w", "\n%{http_code}", f"https://{HOST}/slow"], 1000, 1000)
    before = sum(line.get("request") == "/slow" for line in stage.seen())
    under_way = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    end = time.monotonic() + 15
    while sum(line.get("request") == "/slow" for line in stage.seen()) < before + 8:
        must(time.monotonic() < end, "the slow requests did not arrive")
        time.sleep(0.02)
    must(stage.stop() == 0, "the end in order")
    answers = [process.communicate(timeout=30)[0].rpartition("\n")[2] for process in under_way]
    must(answers == ["200"] * 8, "requests under way at SIGTERM", answers)


def sidecar(binary, more=()):
    stage = Stage(binary, "sidecar")
    try:
        stage.begin_far()
        if more:
            apply(stage, *more)
        else:
            text = printed(stage)
            call("ip", "netns", "exec", stage.gw, "nft", "-f", "-", input=text)
        ends(stage)
        stage.start()
        refused(stage)
        nothing_leaves(stage)
        after_reset(stage)
        allowed(stage)
        nothing_leaves(stage) if stage.stop() == 0 else must(False, "the end")
        stage.start()
        capabilities(stage, 0)
    finally:
        stage.close()


def gateway(binary, shape, more=()):
    stage = Stage(binary, shape)
    capability, held = ("net_admin", 1 << 12) if shape == "tproxy" else (None, 0)
    try:
        stage.begin_far()
        knock(stage, {"tcp 2222", "udp 53"})
        apply(stage, *more)
        ends(stage, capability)
        stage.start(capability)
        knock(stage, {"tcp 8081"})
        capabilities(stage, held)
        refused(stage)
        nothing_leaves(stage)
        allowed(stage)
        if shape == "tproxy":
            stage.stop()
            try:
                stage.start()
                must(False, "tproxy without a capability")
            except Wrong as wrong:
                must("CAP_NET_ADMIN" in str(wrong), "said", wrong)
            stage.tokenward("netfilter", "remove", "--tproxy", *more)
            left = stage.inside(stage.gw, "ip", "rule", "show").stdout + stage.inside(stage.gw, "nft", "list", "ruleset").stdout
            must("7477" not in left and "tokenward" not in left, "left behind", left)
    finally:
        stage.close()


def verbs(binary):
    """`apply` and `remove`: again and again, without a capability, where something else stands, and where it cannot work."""
    stage = Stage(binary, "sidecar")
    try:
        def ruleset():
            return stage.inside(stage.gw, "nft", "-s", "list", "ruleset").stdout

        call("ip", "netns", "exec", stage.gw, "nft", "-f", "-", input="table inet other {\n chain keep {\n  counter\n }\n}\n")
        bare = ruleset()
        must("are covered" in apply(stage).stdout, "apply says nothing")
        first = ruleset()
        apply(stage)
        must(ruleset() == first, "twice is not once")
        denied = apply(stage, uid=65534, gid=65534, check=False)
        must(denied.returncode == 1 and "CAP_NET_ADMIN" in denied.stderr, "without a capability", denied.stderr)
        must(ruleset() == first, "a refused change changed something")
        stage.tokenward("netfilter", "remove")
        must(ruleset() == bare, "remove took something else, or not all", ruleset())
        stage.tokenward("netfilter", "remove")
        must(ruleset() == bare, "removing nothing is something")
        for words, said in (
            (["print", "--shape", "sidecar"], "--exempt-gid"),
            (["print", "--shape", "gateway"], "--interface"),
            (["print", "--exempt-gid", "0"], "of its own"),
            (["print", "--exempt-gid", "7", "--tproxy"], "not supported yet"),
            (["print", "--shape", "gateway", "--interface", "x\" accept"], "ip link"),
            (["print", "--shape", "gateway", "--interface", "agents0"], "0.0.0.0:15001"),
        ):
            done = stage.tokenward("netfilter", *words, uid=65534, gid=65534, check=False)
            must(done.returncode in (1, 2) and said in done.stderr and not done.stdout, words, done.stderr)
        # Legacy: its own chains, once, and gone again.
        for _ in range(2):
            apply(stage, "--format", "iptables")
        for program in ("iptables-save", "ip6tables-save"):
            saved = stage.inside(stage.gw, program).stdout
            must(saved.count("-j TOKENWARD_OUT") == 1 and saved.count("-j TOKENWARD_NAT") == 1, program, saved)
            must(saved.count("-j TOKENWARD_LO") == 1, program, saved)
        stage.tokenward("netfilter", "remove", "--format", "iptables")
        for program in ("iptables-save", "ip6tables-save"):
            must("TOKENWARD" not in stage.inside(stage.gw, program).stdout, program, "has something left")
    finally:
        stage.close()


def faults(binary):
    """Rules that are broken on purpose: the judge must notice."""
    for name, spoil in (
        ("rules without IPv6", lambda text: text.replace("table inet", "table ip").replace("meta nfproto ipv4 ", "")),
        ("rules without their filter", lambda text: text[:text.index("  chain filter_out")] + text[text.index("  chain loopback_out"):]),
    ):
        stage = Stage(binary, "sidecar")
        try:
            stage.begin_far()
            text = "\n".join(line for line in spoil(printed(stage)).splitlines()
                             if name != "rules without IPv6" or not any(word in line for word in ("ip6", "ipv6", "icmpv6")))
            call("ip", "netns", "exec", stage.gw, "nft", "-f", "-", input=text + "\n")
            stage.start()
            try:
                nothing_leaves(stage)
            except Wrong as wrong:
                print(f"  noticed: {name}: {str(wrong)[:110]}")
            else:
                raise Wrong(f"{name}: the judge noticed nothing")
        finally:
            stage.close()


PARTS = {
    "verbs": verbs,
    "sidecar": sidecar,
    "legacy": lambda binary: sidecar(binary, ("--format", "iptables")),
    "gateway": lambda binary: gateway(binary, "gateway"),
    "tproxy": lambda binary: gateway(binary, "tproxy"),
    "gateway-legacy": lambda binary: gateway(binary, "gateway", ("--format", "iptables")),
    "tproxy-legacy": lambda binary: gateway(binary, "tproxy", ("--format", "iptables")),
    "faults": faults,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, required=True)
    parser.add_argument("--only", choices=PARTS)
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("netns: needs root, for network namespaces")
    with tempfile.TemporaryDirectory(prefix="tokenward-netns-bin-") as folder:
        # Where everybody may read it: proxy and agents have users of their own, and the build may lie in a closed home.
        os.chmod(folder, 0o755)
        binary = Path(shutil.copy(args.bin, Path(folder) / "tokenward"))
        binary.chmod(0o755)
        judge(binary, [args.only] if args.only else PARTS)


def judge(binary, names):
    for name in names:
        begun, before = time.monotonic(), COUNT
        try:
            PARTS[name](binary)
        except Wrong as wrong:
            sys.exit(f"netns: {name}: {wrong}")
        print(f"{name}: {COUNT - before} checks hold, {time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    main()
