"""An origin's HTTP/2 side, with `h2`: requests become the same records, scripts (`behave`) the same answers. A script that
returns None has said nothing here; what HTTP/2 itself can be made to say is a case's own business."""

import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from origins import Record

FORBIDDEN = ("connection", "transfer-encoding", "keep-alive", "upgrade", "proxy-connection")


def serve(origin, conversation):
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
    connection.initiate_connection()
    conversation.send(connection.data_to_send())
    records, waiting = {}, {}
    while True:
        data = conversation.stream.recv(65536)
        if not data:
            return
        conversation.raw += data
        try:
            events = connection.receive_data(data)
        except h2.exceptions.ProtocolError:
            conversation.send(connection.data_to_send())
            return
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                records[event.stream_id] = record_of(origin, conversation, event.headers)
            elif isinstance(event, h2.events.DataReceived):
                records[event.stream_id].body += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                records[event.stream_id].trailers = [(n.lower(), v) for n, v in event.headers]
            elif isinstance(event, h2.events.StreamEnded):
                record = records.pop(event.stream_id)
                record.complete = True
                answer(connection, origin, conversation, record, event.stream_id, waiting)
            elif isinstance(event, h2.events.StreamReset):
                records.pop(event.stream_id, None)
                waiting.pop(event.stream_id, None)
        flush(connection, waiting)
        conversation.send(connection.data_to_send())


def record_of(origin, conversation, headers):
    """The pseudo-fields as they would stand in an HTTP/1.1 request."""
    pseudo = {n: v for n, v in headers if n.startswith(":")}
    fields = [("host", pseudo[":authority"])] if ":authority" in pseudo else []
    fields += [(n.lower(), v) for n, v in headers if not n.startswith(":")]
    record = Record(origin.name, conversation.number, pseudo[":method"], pseudo[":path"], fields, conversation.sni,
                    at=time.monotonic())
    origin.records.append(record)
    return record


def answer(connection, origin, conversation, record, stream, waiting):
    said = (origin.early and origin.early(record, conversation)) or origin.behave(record, conversation)
    if said is None:
        return
    status, fields, body = said
    if isinstance(body, list):  # each piece is a DATA frame; for little that fits any window
        connection.send_headers(stream, [(":status", str(status)), *fields])
        for number, piece in enumerate(body, 1):
            connection.send_data(stream, piece, end_stream=number == len(body))
        return
    body = body if isinstance(body, bytes) else body.encode()
    head = [(":status", str(status)), *((n.lower(), v) for n, v in fields if n.lower() not in FORBIDDEN)]
    if record.method == "HEAD" or not body:
        connection.send_headers(stream, head, end_stream=True)
        return
    connection.send_headers(stream, [*head, ("content-length", str(len(body)))])
    waiting[stream] = body


def flush(connection, waiting):
    """Sends of the bodies what the windows allow."""
    for stream in list(waiting):
        body = waiting[stream]
        while body and (room := min(connection.local_flow_control_window(stream), connection.max_outbound_frame_size)) > 0:
            connection.send_data(stream, body[:room], end_stream=len(body) <= room)
            body = body[room:]
        waiting[stream] = body
        if not body:
            del waiting[stream]
