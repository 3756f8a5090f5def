"""An origin with the parser h11. Writes one line of JSON for each request that it has read to its end.
    python origin.py PORT CERT KEY LOG"""

import hashlib
import json
import socket
import ssl
import sys
import threading
from urllib.parse import unquote_to_bytes, urlsplit

import h11


def text(data):
    return data.decode("latin-1")


def reading(target):
    """What a program behind this server takes for the path."""
    try:
        return text(unquote_to_bytes(urlsplit("http://origin.test" + target).path))
    except ValueError:
        return None


def answers(stream, log):
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 18)
    request, body, length, count = None, hashlib.sha256(), 0, 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(stream.recv(1 << 16))
        elif isinstance(event, h11.Request):
            request, body, length = event, hashlib.sha256(), 0
        elif isinstance(event, h11.Data):
            body.update(event.data)
            length += len(event.data)
        elif isinstance(event, h11.EndOfMessage):
            count += 1
            target = text(request.target)
            line = {"method": text(request.method), "target": target, "reading": reading(target),
                    "fields": [[text(n), text(v)] for n, v in request.headers], "length": length, "body": body.hexdigest(),
                    "count": count}
            log.write(json.dumps(line) + "\n")
            answer = connection.send(h11.Response(status_code=200, headers=[("content-length", "2")]))
            if request.method != b"HEAD":
                answer += connection.send(h11.Data(data=b"ok"))
            stream.sendall(answer + connection.send(h11.EndOfMessage()))
            connection.start_next_cycle()
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return


def serve(stream, context, log):
    try:
        with context.wrap_socket(stream, server_side=True) as stream:
            try:
                answers(stream, log)
            except h11.RemoteProtocolError as why:
                stream.sendall(b"HTTP/1.1 %d x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n" % why.error_status_hint)
    except (OSError, h11.LocalProtocolError):
        pass  # whoever sent it has gone


def main():
    port, cert, key, file = sys.argv[1:]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    context.set_alpn_protocols(["http/1.1"])
    log = open(file, "a", buffering=1)
    listener = socket.create_server(("127.0.0.1", int(port)), backlog=256)
    while True:
        stream, _ = listener.accept()
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=serve, args=(stream, context, log), daemon=True).start()


main()
