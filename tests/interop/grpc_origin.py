"""A gRPC server: calls of all four kinds, trailers of its own, and failures with and without a message before them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc


class Calls:
    """Listens on loopback; `records` holds the method and the metadata of every call."""

    def __init__(self, certificate, key):
        self.records = []
        self.server = grpc.server(ThreadPoolExecutor(8))
        self.server.add_generic_rpc_handlers((Echo(self.records),))
        credentials = grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(certificate).read_bytes())])
        self.port = self.server.add_secure_port("127.0.0.1:0", credentials)
        self.server.start()

    def stop(self):
        self.server.stop(1).wait(5)


class Echo(grpc.GenericRpcHandler):
    def __init__(self, records):
        self.records = records

    def service(self, call):
        self.records.append((call.method, [(n, v) for n, v in call.invocation_metadata]))
        return {
            "/demo.Echo/Say": grpc.unary_unary_rpc_method_handler(say),
            "/demo.Echo/Count": grpc.unary_stream_rpc_method_handler(count),
            "/demo.Echo/Join": grpc.stream_unary_rpc_method_handler(join),
            "/demo.Echo/Chat": grpc.stream_stream_rpc_method_handler(chat),
            "/demo.Echo/Fail": grpc.unary_unary_rpc_method_handler(fail),
            "/demo.Echo/Break": grpc.unary_stream_rpc_method_handler(break_off),
        }.get(call.method)


def say(message, context):
    context.send_initial_metadata((("x-first", "1"),))
    context.set_trailing_metadata((("x-length", str(len(message))), ("x-raw-bin", b"\x00\xff")))
    return message


def count(message, context):
    for number in range(int(message)):
        yield str(number).encode()
    context.set_trailing_metadata((("x-counted", message.decode()),))


def join(messages, context):
    joined = b"".join(messages)
    context.set_trailing_metadata((("x-length", str(len(joined))),))
    return joined


def chat(messages, _context):
    """Each answer goes out before the next message is read."""
    for message in messages:
        yield message.upper()


def fail(_message, context):
    """Nothing but trailers."""
    context.set_trailing_metadata((("x-why", "trailers-only"),))
    context.abort(grpc.StatusCode.NOT_FOUND, "näh")


def break_off(_message, context):
    """A failure after messages."""
    yield b"one"
    context.abort(grpc.StatusCode.DATA_LOSS, "gone")
