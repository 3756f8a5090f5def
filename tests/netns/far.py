"""The far side: an API that says what reached it, and a witness of every packet. One JSON line each. Nothing of the product's."""

import json
import socket
import ssl
import struct
import sys
import threading
import time

LOCK = threading.Lock()


def say(**words):
    with LOCK:
        print(json.dumps(words), flush=True)


def serve(family, port, context):
    listener = socket.create_server(("::" if family == socket.AF_INET6 else "0.0.0.0", port), family=family, backlog=256)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection, port, context), daemon=True).start()


def reset():
    """Whoever connects is sent a reset at once."""
    listener = socket.create_server(("::", 7001), family=socket.AF_INET6, dualstack_ipv6=True)
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


def answer(connection, port, context):
    try:
        to = connection.getsockname()[0]
        if context:
            connection = context.wrap_socket(connection, server_side=True)
        while True:
            head = b""
            while b"\r\n\r\n" not in head:
                more = connection.recv(65536)
                if not more:
                    return
                head += more
            lines = head.decode("latin-1").split("\r\n")
            fields = {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in lines[1:] if ":" in line)}
            path = lines[0].split(" ")[1]
            say(request=path, to=to, port=port)
            if path.startswith("/slow"):
                time.sleep(1.5)
            shown = fields.get("authorization")
            shown = "ours" if shown == "Bearer netns-canary-token" else shown
            body = json.dumps({"to": to, "port": port, "path": path, "host": fields.get("host"), "credential": shown}).encode()
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    except (OSError, ValueError, IndexError):
        pass


def witness():
    """Every IP packet that comes in, but for what makes neighbours known."""
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    say(ready="witness")
    while True:
        data, (name, proto, kind, *_) = tap.recvfrom(65536)
        if kind == socket.PACKET_OUTGOING or name == "lo":
            continue
        if proto == 0x0800:
            number, source, target, rest = data[9], data[12:16], data[16:20], data[(data[0] & 15) * 4:]
            source, target = socket.inet_ntop(socket.AF_INET, source), socket.inet_ntop(socket.AF_INET, target)
        elif proto == 0x86DD:
            number, source, target, rest = data[6], data[8:24], data[24:40], data[40:]
            source, target = socket.inet_ntop(socket.AF_INET6, source), socket.inet_ntop(socket.AF_INET6, target)
            # Multicast listeners (behind a hop-by-hop header), routers and neighbours: they do not leave the link.
            if number == 0 or (number == 58 and rest[0] in (133, 134, 135, 136, 143)):
                continue
        else:
            continue
        port = struct.unpack(">H", rest[2:4])[0] if number in (6, 17) and len(rest) >= 4 else 0
        mark = rest[8:].decode("latin-1") if number == 17 and port == 7 else None
        say(packet=number, source=source, target=target, port=port, mark=mark)


def main(certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    for family in (socket.AF_INET, socket.AF_INET6):
        for port, tls in ((443, context), (80, None), (8080, None), (8443, context)):
            threading.Thread(target=serve, args=(family, port, tls), daemon=True).start()
    threading.Thread(target=reset, daemon=True).start()
    witness()


main(*sys.argv[1:])
