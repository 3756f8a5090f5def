"""The operator and the person at the browser, once for each scenario: the suite starts this with the MCP server's URL.

The operator finds the authorization server, registers a client there, writes a configuration and starts
`tokenward run -- client.py`. The person opens the URL that `run` prints. Neither gets a token; the code passes through
the browser's hands and is good for tokenward's key alone.
"""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
CONFIG = """\
issuers:
  as: {{url: "{issuer}", allow_private: true}}
services:
  mcp:
    hosts: [{host}]
    port: {port}
    upstream: {{allow_private: true, danger_plain_http: true}}
    credential:
      oauth:
        issuer: as
        client_id: {client}
        client_auth: none
        grant: authorization_code
        resource: "{resource}"
    placeholder: {{variable: MCP_TOKEN, mode: required}}
    rules: [{{allow: GET|POST|DELETE /mcp}}]
"""


class Stay(urllib.request.HTTPRedirectHandler):
    """A browser that is shown where it would go."""

    def redirect_request(self, *_):
        return None


BROWSER = urllib.request.build_opener(urllib.request.ProxyHandler({}), Stay)


def fetch(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"} if data else {})
    with BROWSER.open(request, timeout=10) as answer:
        return json.load(answer)


def log_in(url):
    """What a person's browser does: goes to the authorization server, is sent back to tokenward."""
    try:
        BROWSER.open(url, timeout=10)
    except urllib.error.HTTPError as answer:
        if answer.code in (302, 303):
            BROWSER.open(answer.headers["Location"], timeout=10).read()


def configuration(url):
    parts = urllib.parse.urlsplit(url)
    found = fetch(f"{parts.scheme}://{parts.netloc}/.well-known/oauth-protected-resource{parts.path}")
    issuer = found["authorization_servers"][0]
    metadata = fetch(f"{issuer}/.well-known/oauth-authorization-server")
    client = fetch(metadata["registration_endpoint"], {
        "client_name": "tokenward", "application_type": "native", "redirect_uris": ["http://127.0.0.1/callback"],
        "grant_types": ["authorization_code"], "response_types": ["code"], "token_endpoint_auth_method": "none"})
    return CONFIG.format(issuer=issuer, host=parts.hostname, port=parts.port, client=client["client_id"],
                         resource=found["resource"])


def main():
    binary, dir, url = sys.argv[1], Path(sys.argv[2]), sys.argv[-1]
    client = [sys.executable, str(HERE / "client.py"), url]
    environment = {"PATH": os.environ["PATH"], "HOME": str(dir), "XDG_STATE_HOME": str(dir), "CLIENT_GOT": str(dir / "got.json")}
    if "--without" in sys.argv:  # the control: the same client, and nobody who does the rest
        sys.exit(subprocess.run(client, env={**environment, "MCP_TOKEN": "tw-placeholder"}).returncode)
    (dir / "tokenward.yaml").write_text(configuration(url))
    process = subprocess.Popen([binary, "--config", dir / "tokenward.yaml", "run", "--", *client], env=environment,
                               stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        sys.stderr.write(line)
        if line.startswith("http"):
            log_in(line.strip())
    sys.exit(process.wait())


if __name__ == "__main__":
    main()
