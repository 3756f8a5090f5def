"""The smallest issuer that the bench needs: metadata, and a DPoP token for whoever asks. It verifies nothing.

usage: issuer.py PORT CERTS
"""

import json
import secrets
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, certs = int(sys.argv[1]), sys.argv[2]
issuer = f"https://as.bench.test:{port}"
METADATA = {
    "issuer": issuer,
    "token_endpoint": issuer + "/token",
    "response_types_supported": ["code"],
    "grant_types_supported": ["client_credentials"],
    "token_endpoint_auth_methods_supported": ["client_secret_basic"],
    "dpop_signing_alg_values_supported": ["ES256"],
}
# Random, as tokens are: what looks like the bodies of the bench would be found at each of their bytes.
TOKEN = {"access_token": secrets.token_urlsafe(33), "token_type": "DPoP", "expires_in": 3600}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def say(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("cache-control", "no-store")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.say(METADATA)

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.say(TOKEN)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(f"{certs}/origin.pem", f"{certs}/origin.key")
context.set_alpn_protocols(["http/1.1"])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
