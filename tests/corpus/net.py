"""A private internet: public-looking addresses on the loopback device of a network namespace, and the DNS server that
tells them. Without the right to make a namespace the addresses are 127.0.10.0/24 and nobody asks for names."""

import ipaddress
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

INSIDE = "TOKENWARD_CORPUS_INSIDE"
HOSTS = {
    "api.ro.test": "45.33.32.10", "api.rw.test": "45.33.32.11", "echo.test": "45.33.32.12", "gql.test": "45.33.32.13",
    "ws.test": "45.33.32.14", "xn--bcher-kva.test": "45.33.32.15", "as.test": "45.33.32.50", "mal.test": "45.33.32.30",
    "plain.test": "45.33.32.40", "evil.test": "45.33.32.99",
    "nginx.rw.test": "45.33.32.21", "node.rw.test": "45.33.32.22", "h11.rw.test": "45.33.32.23",
}
WILD = "45.33.32.20"  # every name below wild.test that has no answer of its own
V6 = "2606:4700::77"
PROXY, RESOLVER = "10.77.0.1", "127.0.0.53"
SILENT = object()  # what a function in `Dns.answers` returns for a question that gets no answer


def enter(arguments):
    """Comes back inside a namespace, or False where none can be had."""
    if os.environ.get(INSIDE):
        return True
    flags = ["-n", "-m"] if os.geteuid() == 0 else ["-r", "-n", "-m"]
    if subprocess.run(["unshare", *flags, "true"], capture_output=True).returncode:
        return False
    os.execvpe("unshare", ["unshare", *flags, sys.executable, *arguments], {**os.environ, INSIDE: "1"})


def furnish():
    """Inside the namespace: the addresses, and a resolver configuration that only this namespace sees."""
    def do(*command):
        subprocess.run(command, check=True)
    do("mount", "--make-rprivate", "/")
    do("ip", "link", "set", "lo", "up")
    for address in sorted({*HOSTS.values(), WILD, PROXY, "45.33.32.98"}):
        do("ip", "addr", "add", f"{address}/32", "dev", "lo")
    do("ip", "addr", "add", f"{V6}/128", "dev", "lo", "nodad")
    with tempfile.NamedTemporaryFile("w", delete=False, prefix="resolv") as file:
        file.write(f"nameserver {RESOLVER}\noptions timeout:1 attempts:1\n")
    os.chmod(file.name, 0o644)
    do("mount", "--bind", file.name, os.path.realpath("/etc/resolv.conf"))


def add(house):
    """One more address, for an origin that a case opens."""
    house.spare = getattr(house, "spare", 99) + 1
    address = f"45.33.32.{house.spare}"
    subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
    return address


def private_to_loopback(address):
    """The fallback's address for one of ours."""
    return "127.0.10." + address.rsplit(".", 1)[1]


class Dns:
    """Answers for the harness's names. `answers[name]` is a list of addresses, or a function from the number of the
    question (0, 1, …) to such a list, to raw records, to the code of an error, or to None for a name that is not; `log` holds
    every question as (time, name, type)."""

    def __init__(self, address=RESOLVER):
        self.answers, self.log, self.asked, self.silent = {}, [], {}, False
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((address, 53))
        self.tcp = socket.create_server((address, 53))
        threading.Thread(target=self.serve_udp, daemon=True).start()
        threading.Thread(target=self.serve_tcp, daemon=True).start()

    def reset(self):
        self.answers.clear()
        self.asked.clear()
        self.silent = False

    def serve_udp(self):
        while True:
            packet, peer = self.udp.recvfrom(4096)
            answer = self.answer(packet)
            if answer is None:
                continue
            if len(answer) > 1232:
                # Truncated: the resolver comes back over TCP.
                answer = answer[:2] + struct.pack("!HHHHH", 0x8380, 1, 0, 0, 0) + self.question(packet)[2]
            self.udp.sendto(answer, peer)

    def serve_tcp(self):
        while True:
            stream, _ = self.tcp.accept()
            threading.Thread(target=self.one_tcp, args=(stream,), daemon=True).start()

    def one_tcp(self, stream):
        with stream:
            stream.settimeout(5)
            try:
                while head := stream.recv(2, socket.MSG_WAITALL):
                    answer = self.answer(stream.recv(struct.unpack("!H", head)[0], socket.MSG_WAITALL))
                    if answer is not None:
                        stream.sendall(struct.pack("!H", min(len(answer), 65535)) + answer[:65535])
            except OSError:
                pass

    @staticmethod
    def question(packet):
        labels, at = [], 12
        while packet[at]:
            labels.append(packet[at + 1:at + 1 + packet[at]].decode("latin-1"))
            at += packet[at] + 1
        kind = struct.unpack("!H", packet[at + 1:at + 3])[0]
        return ".".join(labels).lower(), kind, packet[12:at + 5]

    def answer(self, packet):
        name, kind, question = self.question(packet)
        self.log.append((time.monotonic(), name, kind))
        if self.silent:
            return None
        known = self.lookup(name, kind)
        records, code = [], 0
        if known is None:
            code = 3
        if known is SILENT:
            return None
        if isinstance(known, int):  # SERVFAIL, REFUSED, …
            known, code = [], known
        for entry in known or []:
            if isinstance(entry, tuple):  # (type, data) or (owner, type, data): as it is
                records.append(entry if len(entry) == 3 else (b"\xc0\x0c", *entry))
                continue
            address = ipaddress.ip_address(entry)
            if kind == (1 if address.version == 4 else 28):
                records.append((b"\xc0\x0c", kind, address.packed))
        body = b"".join(owner + struct.pack("!HHIH", t, 1, 0, len(data)) + data for owner, t, data in records)
        return packet[:2] + struct.pack("!HHHHH", 0x8180 | code, 1, len(records), 0, 0) + question + body

    def lookup(self, name, kind):
        if name in self.answers:
            known = self.answers[name]
            if callable(known):
                number = self.asked.get((name, kind), 0)
                self.asked[name, kind] = number + 1
                known = known(number)
            return known
        if name in HOSTS:
            return [HOSTS[name]]
        return [WILD] if name.endswith(".wild.test") else None
