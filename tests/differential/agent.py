"""Sends cases through tokenward, each to every origin, and says what came back."""

import socket
import ssl

import cases

PATIENCE = 20.0
# How long nothing must come before a request that may never be answered counts as unanswered.
SILENCE = 0.5


class Agent:
    def __init__(self, proxy, ca, hosts):
        self.proxy, self.hosts = proxy, hosts
        self.contexts = {alpn: ssl.create_default_context(cafile=ca) for alpn in ("http/1.1", "h2")}
        for alpn, context in self.contexts.items():
            context.set_alpn_protocols([alpn])
        self.kept = {}

    def run(self, case):
        """Statuses by host; an answer that did not come is told in words."""
        if case.what == "h2":
            return {host: self.over_h2(host, case) for host in self.hosts}
        for host in self.hosts:
            self.send(host, case)
        read = self.expected if case.expected else self.whatever
        return {host: read(host, case) for host in self.hosts}

    def send(self, host, case):
        data = case.bytes.replace(cases.HOST, host.encode())
        for fresh in (False, True):
            stream = self.stream(host)
            try:
                stream.sendall(data)
                return
            except OSError:
                self.drop(host)  # the proxy had closed it, or refuses what is being sent; the answer will tell
                if fresh:
                    return

    def expected(self, host, case):
        statuses = []
        try:
            reader = self.kept[host][1]
            for wanted in case.expected:
                status, close = answer(reader, wanted.method)
                statuses.append(status)
                if close:
                    self.drop(host)
        except (OSError, ValueError, KeyError) as why:
            statuses.append(repr(why))
            self.drop(host)
        return statuses

    def whatever(self, host, case):
        """What comes until the connection ends or nothing more comes."""
        got = b""
        if host in self.kept:
            stream, reader = self.kept[host]
            stream.settimeout(SILENCE)
            try:
                while piece := stream.recv(1 << 16):
                    got += piece
            except OSError:
                pass
        self.drop(host)
        return [line.split(b" ", 2)[1].decode() for line in got.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]

    def over_h2(self, host, case):
        import h2.config, h2.connection, h2.events

        (wanted,) = case.expected
        key = host + "/h2"
        try:
            if key not in self.kept:
                stream = self.connect(host, "h2")
                connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
                connection.initiate_connection()
                self.kept[key] = (stream, connection)
            stream, connection = self.kept[key]
            number = connection.get_next_available_stream_id()
            head = [(b":method", wanted.method.encode()), (b":scheme", b"https"), (b":authority", host.encode()), (b":path", wanted.target.encode())]
            head += [(name.encode(), value.encode("latin-1")) for name, value in wanted.fields]
            connection.send_headers(number, head, end_stream=not wanted.data)
            rest = wanted.data
            while rest:
                piece, rest = rest[:16000], rest[16000:]
                connection.send_data(number, piece, end_stream=not rest)
            status = None
            while True:
                stream.sendall(connection.data_to_send())
                for event in connection.receive_data(stream.recv(1 << 16) or fail()):
                    if isinstance(event, h2.events.ResponseReceived):
                        status = int(dict(event.headers)[b":status"])
                    elif isinstance(event, h2.events.DataReceived):
                        connection.acknowledge_received_data(event.flow_controlled_length, number)
                    elif isinstance(event, h2.events.StreamEnded):
                        stream.sendall(connection.data_to_send())
                        return [status]
                    elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                        raise OSError(repr(event))
        except Exception as why:  # of the library too: whatever it is, there was no answer
            self.drop(key)
            return [repr(why)]

    def stream(self, host):
        if host not in self.kept:
            stream = self.connect(host, "http/1.1")
            self.kept[host] = (stream, stream.makefile("rb"))
        return self.kept[host][0]

    def connect(self, host, alpn):
        stream = socket.create_connection(self.proxy, PATIENCE)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream.sendall(b"CONNECT %s:443 HTTP/1.1\r\nHost: %s:443\r\n\r\n" % (host.encode(), host.encode()))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += stream.recv(1) or fail()
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise OSError(f"CONNECT was answered {head[:40]}")
        return self.contexts[alpn].wrap_socket(stream, server_hostname=host)

    def drop(self, key):
        if key in self.kept:
            stream, reader = self.kept.pop(key)
            if hasattr(reader, "close"):
                reader.close()
            stream.close()


def fail():
    raise OSError("the connection ended")


def answer(reader, method):
    """The status of the next answer, and whether the connection ends with it."""
    while True:
        status = int((reader.readline() or fail()).split(b" ")[1])
        length, close, chunked = 0, False, False
        while (line := reader.readline()) != b"\r\n":
            name, _, value = (line or fail()).lower().partition(b":")
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                close = b"close" in value
            elif name == b"transfer-encoding":
                chunked = True
        if chunked:
            raise ValueError("a chunked answer")
        if status >= 200:
            break
    if method != "HEAD":
        reader.read(length)
    return status, close
