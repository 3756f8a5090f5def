"""Both images as a pod whose traffic is redirected: the init container writes the rules with NET_ADMIN alone, tokenward runs without a
capability, and an agent that knows of no proxy dials APIs, and everything else, by itself.

`run.py` starts it as `unshare --net --mount --pid … pod.py ROOTFS INIT-ROOTFS COMMAND FOLDER` and reads the JSON that it prints. Who is
dialled has an address of this network, so that it could be reached without the rules. What leaves a network, packet by packet, is
the business of tests/netns.
"""

# The interpreter may lie where the agent's user cannot read: what it would ask for later is brought now.
import encodings.idna  # noqa: F401
import json
import socket
import ssl
import sys
import threading
from pathlib import Path

import box
from box import HOST_API, KEYS, Box, apart, call

NET_ADMIN, AGENT = 12, 10001
OUTSIDE = {"v4": "198.18.0.9", "v6": "fd00::9"}
ELSEWHERE = 2222


def as_agent(act):
    """What `act` returns, in a process that has the agent's user and nothing of ours."""
    return apart(lambda: box.become(AGENT), act)


def tried(act):
    try:
        return act()
    except OSError as error:
        return type(error).__name__


def dialled(address, port, path, context):
    """A request to whom the agent believes to be the API: the status, or why not."""
    def act():
        with socket.create_connection((address, port), 10) as plain, context.wrap_socket(plain, server_hostname=HOST_API) as io:
            io.sendall(f"GET {path} HTTP/1.1\r\nhost: {HOST_API}{':' + str(port) if port != 443 else ''}\r\n"
                       f"authorization: Bearer {box.GUESS}\r\nconnection: close\r\n\r\n".encode())
            text = b""
            while more := io.recv(65536):
                text += more
        return int(text.split(b" ")[1])
    return tried(act)


def reached(address, kind=socket.SOCK_STREAM, port=ELSEWHERE):
    """Whether something else is reached: for UDP, whether the system takes a second packet after what it learnt from the first."""
    def act():
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as io:
            io.settimeout(3)
            io.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                io.send(b"x")
                io.send(b"x")
        return "reached"
    return tried(act)


def ways(context):
    """Everything that the agent tries."""
    told = {}
    for family, address in OUTSIDE.items():
        told[f"api {family}"] = dialled(address, 443, "/a", context)
        told[f"key {family}"] = dialled(address, KEYS, "/any", context)
        told[f"denied {family}"] = dialled(address, 443, "/b", context)
        told[f"elsewhere {family}"] = reached(address)
        told[f"quic {family}"] = reached(address, socket.SOCK_DGRAM, 443)
        told[f"dns {family}"] = reached(address, socket.SOCK_DGRAM, 53)
    told["raw"] = tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close() or "made")
    told["packet"] = tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close() or "made")
    return told


def outside():
    """Somebody at those addresses whom nothing but the rules keeps the agent from."""
    def swallow(listener):
        while True:
            listener.accept()[0].close()

    for address in OUTSIDE.values():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, ELSEWHERE), family=family)
        threading.Thread(target=swallow, args=(listener,), daemon=True).start()
        for port in (443, 53):
            held.append(socket.socket(family, socket.SOCK_DGRAM))
            held[-1].bind((address, port))


held = []


def main(root, init_root, command, folder):
    secrets = {f.name: f.read_text() for f in (folder / "secrets").iterdir()}
    call("ip", "link", "set", "lo", "up")
    call("ip", "address", "add", OUTSIDE["v4"] + "/32", "dev", "lo")
    call("ip", "address", "add", OUTSIDE["v6"] + "/128", "dev", "lo", "nodad")
    outside()
    (folder / "config").mkdir()
    box.certificates(folder)
    issuer, items, keys = box.Accounts(folder, secrets["client-secret"]), box.Telling(folder), box.Telling(folder)
    box.configure(folder / "config", issuer, items, keys,
                  '{transparent: [{address: 127.0.0.1:15001, agent: coder}, {address: "[::1]:15001", agent: coder}]}')
    (folder / "config" / "ca.pem").write_bytes((folder / "ca.pem").read_bytes())
    house = Box(root, {"etc/tokenward": folder / "config", "run/secrets": folder / "secrets"})
    house.close()
    init = Box(init_root, {"etc/tokenward": folder / "config"}, volumes=())
    init.close()
    none = ssl._create_unverified_context()
    told = {"before": as_agent(lambda: ways(none))}
    told["without"] = init.run(*command, user=0)
    told["still"] = as_agent(lambda: reached(OUTSIDE["v4"]))
    told["writes"] = init.run(*command, user=0, keep=(NET_ADMIN,))
    told["again"] = init.run(*command, user=0, keep=(NET_ADMIN,))
    told["early"] = as_agent(lambda: ways(none))
    log = folder / "log"
    with log.open("wb") as out:
        process = house.start(["/usr/local/bin/tokenward", "serve"], stdout=out, stderr=out)
    box.until_ready(process, log)
    context = ssl.create_default_context(cafile=root / "run/tokenward/ca.pem")
    told["ways"] = as_agent(lambda: ways(context))
    told["items"], told["keys"] = items.seen, keys.seen
    process.kill()
    process.wait(10)
    told["late"] = as_agent(lambda: ways(context))
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), Path(sys.argv[4]))
