"""The operator and the person at the browser, once for each scenario: the suite starts this with the MCP server's URL.

The operator finds the authorization server, registers a client there where the suite has none ready, writes a configuration
and starts `tokenward run -- client.py`. The person opens the URL that `run` prints. Neither gets a token; the code passes
through the browser's hands and is good for tokenward alone.
"""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCENARIO = os.environ.get("MCP_CONFORMANCE_SCENARIO", "")
# What the suite hands to whoever operates the client: names, secrets, keys.
GIVEN = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
CIMD = "https://conformance-test.local/client-metadata.json"


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


def challenge(url):
    """What the MCP server says to somebody who has no token."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "initialize",
            "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "operator", "version": "1"}}}
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    try:
        BROWSER.open(urllib.request.Request(url, json.dumps(body).encode(), headers), timeout=10).close()
    except urllib.error.HTTPError as answer:
        text = answer.headers.get("WWW-Authenticate", "")
        return dict(re.findall(r'(\w+)="([^"]*)"', text))
    return {}


def first(urls):
    for url in urls:
        try:
            return fetch(url)
        except (urllib.error.HTTPError, ValueError):
            continue
    return {}


def resource(url, said):
    """The protected resource's metadata (RFC 9728)."""
    parts = urllib.parse.urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    places = [said["resource_metadata"]] if "resource_metadata" in said else []
    places += [f"{origin}/.well-known/oauth-protected-resource{parts.path}", f"{origin}/.well-known/oauth-protected-resource"]
    return first(places) or {"authorization_servers": [origin]}


def metadata(issuer):
    parts = urllib.parse.urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    return first([f"{origin}/.well-known/oauth-authorization-server{path}", f"{origin}/.well-known/openid-configuration{path}",
                  f"{origin}{path}/.well-known/openid-configuration"])


def client(server, dir):
    """How the client is known to the authorization server: (client_id, client_auth, grant, variables)."""
    secret = lambda id, value, how: (id, {how: {"env": "CLIENT_SECRET"}}, {"CLIENT_SECRET": value})
    if "private_key_pem" in GIVEN:
        (dir / "key.pem").write_text(GIVEN["private_key_pem"])
        auth = {"private_key_jwt": {"key": {"file": str(dir / "key.pem")}}}
        return GIVEN["client_id"], auth, "client_credentials", {}
    if SCENARIO == "auth/client-credentials-basic":
        id, auth, more = secret(GIVEN["client_id"], GIVEN["client_secret"], "secret_basic")
        return id, auth, "client_credentials", more
    if SCENARIO == "auth/wif-jwt-bearer":
        (dir / "workload.jwt").write_text(GIVEN["valid_jwt"])
        return GIVEN["client_id"], "none", {"jwt_bearer": {"assertion": {"file": str(dir / "workload.jwt")}}}, {}
    if SCENARIO == "auth/enterprise-managed-authorization":
        id, auth, more = secret(GIVEN["client_id"], GIVEN["client_secret"], "secret_basic")
        (dir / "grant.jwt").write_text(id_jag(server["issuer"]))
        return id, auth, {"jwt_bearer": {"assertion": {"file": str(dir / "grant.jwt")}}}, more
    if "client_secret" in GIVEN:
        id, auth, more = secret(GIVEN["client_id"], GIVEN["client_secret"], "secret_basic")
        return id, auth, "authorization_code", more
    if SCENARIO == "auth/metadata-issuer-mismatch":  # an operator who looks at that metadata would not register there either
        return "test-client-id", "none", "authorization_code", {}
    if server.get("client_id_metadata_document_supported"):
        return CIMD, "none", "authorization_code", {}
    method = (server.get("token_endpoint_auth_methods_supported") or ["none"])[0]
    made = fetch(server["registration_endpoint"], {
        "client_name": "tokenward", "application_type": "native", "redirect_uris": ["http://127.0.0.1/callback"],
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"], "token_endpoint_auth_method": method})
    if method == "none":
        return made["client_id"], "none", "authorization_code", {}
    how = {"client_secret_basic": "secret_basic", "client_secret_post": "secret_post"}[method]
    id, auth, more = secret(made["client_id"], made["client_secret"], how)
    return id, auth, "authorization_code", more


def id_jag(issuer):
    """The enterprise's part: its identity provider gives a grant for the authorization server (an ID-JAG)."""
    form = {"grant_type": "urn:ietf:params:oauth:grant-type:token-exchange", "client_id": GIVEN["idp_client_id"], "audience": issuer,
            "requested_token_type": "urn:ietf:params:oauth:token-type:id-jag", "subject_token": GIVEN["idp_id_token"],
            "subject_token_type": "urn:ietf:params:oauth:token-type:id_token", "resource": sys.argv[-1]}
    request = urllib.request.Request(GIVEN["idp_token_endpoint"], urllib.parse.urlencode(form).encode())
    with BROWSER.open(request, timeout=10) as answer:
        return json.load(answer)["access_token"]


def configuration(url, dir):
    """The file, and the variables that it reads."""
    parts = urllib.parse.urlsplit(url)
    said = challenge(url)
    found = resource(url, said)
    issuer = found["authorization_servers"][0]
    server = metadata(issuer)
    id, auth, grant, variables = client(server, dir)
    scopes = (said.get("scope") or " ".join(found.get("scopes_supported") or [])).split()
    binding = "dpop" if "dpop_signing_alg_values_supported" in server else "bearer"
    oauth = {"issuer": "as", "client_id": id, "client_auth": auth, "grant": grant, "binding": binding, "resource": found.get("resource", url)}
    rule = {"allow": "GET|POST|DELETE /mcp", **({"scopes": scopes} if scopes else {})}
    return {
        "issuers": {"as": {"url": issuer, "allow_private": True}},
        "services": {"mcp": {
            "hosts": [parts.hostname], "port": parts.port, "upstream": {"allow_private": True, "danger_plain_http": True},
            "credential": {"oauth": oauth}, "placeholder": {"variable": "MCP_TOKEN", "mode": "required"}, "rules": [rule]}}}, variables


def main():
    binary, dir, url = sys.argv[1], Path(sys.argv[2]), sys.argv[-1]
    agent = [sys.executable, str(HERE / "client.py"), url]
    environment = {"PATH": os.environ["PATH"], "HOME": str(dir), "XDG_STATE_HOME": str(dir), "CLIENT_GOT": str(dir / "got.json")}
    if "--without" in sys.argv:  # the control: the same client, and nobody who does the rest
        sys.exit(subprocess.run(agent, env={**environment, "MCP_TOKEN": "tw-placeholder"}).returncode)
    config, variables = configuration(url, dir)
    (dir / "tokenward.yaml").write_text(json.dumps(config, indent=1))  # YAML is JSON, too
    process = subprocess.Popen([binary, "--config", dir / "tokenward.yaml", "run", "--", *agent], env={**environment, **variables},
                               stderr=subprocess.PIPE, text=True)
    log = (dir / "run.log").open("w")
    for line in process.stderr:
        log.write(line)
        log.flush()
        if line.startswith("http"):
            log_in(line.strip())
    sys.exit(process.wait())


if __name__ == "__main__":
    main()
