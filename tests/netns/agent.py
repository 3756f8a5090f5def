"""An agent that tries to get out: every way is tried over both families, and what came of it is one JSON object."""

import json
import socket
import sys

V4, V6 = sys.argv[1:3]
OUT = {}


def attempt(name, act):
    try:
        OUT[name] = act() or "went"
    except PermissionError as error:
        OUT[name] = f"not permitted ({error.errno})"
    except OSError as error:
        OUT[name] = f"refused ({type(error).__name__})"


def tcp(address, port):
    with socket.create_connection((address, port), 2) as io:
        io.sendall(b"data")
        io.settimeout(2)
        return "" if io.recv(1) else "closed without an answer"


def udp(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as io:
        io.settimeout(0.5)
        io.connect((address, port))
        for _ in range(3):
            io.send(b"data")
        return "" if io.recv(1) else ""


def bound(kind, address, port):
    """By the way out that the agent chooses itself, wherever the address is. It takes no privilege."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as io:
        io.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"out0")
        io.settimeout(0.5)
        io.connect((address, port))
        io.send(b"data")
        return "" if io.recv(1) else "closed without an answer"


def raw(family, kind, proto):
    with socket.socket(family, kind, proto):
        return "a raw socket was made"


def ping(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as io:
        io.settimeout(0.5)
        io.sendto(b"\x08\0\0\0\0\0\0\0secret", (address, 0))
        return "" if io.recv(1) else ""


for name, address in (("v4", V4), ("v6", V6)):
    for port in (22, 53, 8080, 8443, 25):
        attempt(f"tcp {port} {name}", lambda: tcp(address, port))
    for port in (443, 53, 123, 9999):
        attempt(f"udp {port} {name}", lambda: udp(address, port))
for name, address, own in (("v4", V4, "127.0.0.9"), ("v6", V6, "::1")):
    attempt(f"bound tcp 443 {name}", lambda: bound(socket.SOCK_STREAM, address, 443))
    for kind, word in ((socket.SOCK_DGRAM, "udp"), (socket.SOCK_STREAM, "tcp")):
        attempt(f"bound {word} loopback {name}", lambda: bound(kind, own, 9999))
attempt("ping", lambda: ping(V4))
attempt("raw ip", lambda: raw(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
attempt("raw ip6", lambda: raw(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6))
attempt("packet", lambda: raw(socket.AF_PACKET, socket.SOCK_RAW, 3))
print(json.dumps(OUT))
