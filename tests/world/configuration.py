"""The configurations that are judged. All secrets are references, as users write them."""

import secrets
import subprocess
from dataclasses import dataclass
from pathlib import Path

from stage import HOSTS, PLACEHOLDER, free_port

AGENTS = ("coder", "reviewer", "late", "stranded", "workload", "delegate", "bearer", "certified")


@dataclass
class Config:
    file: Path
    solo: Path  # for `run`: no agents, so everything is the one default agent's
    secrets: dict  # variables from which the files read secrets
    audit: Path
    health: int
    given: Path  # tokens and certificates that somebody else replaces while tokenward runs


def issuer(name, url, ca):
    # `connect` names no port: every endpoint keeps its own.
    return f"""
  {name}: {{url: "{url}", connect: 127.0.0.1, allow_private: true, ca: {{file: "{ca}"}}}}"""


def service(name, host, port, ca, credential, variable, shape, rules, checked=False):
    # Checks that go on beside it would be counted with what is judged; health.py has its own.
    checks = "\n    health: {introspection: false}" if "oauth" in credential and not checked else ""
    listed = "".join(f"\n      - {{allow: \"{route}\"" + (f", scopes: [{scope}]" if scope else "") + "}"
                     for route, scope in rules)
    return f"""
  {name}:
    hosts: [{host}]
    port: {port}
    upstream: {{connect: 127.0.0.1, allow_private: true, ca: {{file: "{ca}"}}}}
    credential: {credential}
    placeholder: {{variable: {variable}, shape: "{PLACEHOLDER}{shape}"}}{checks}
    rules:{listed}
"""


ITEMS = [
    ("GET /v1/**", "items:read"), ("GET /auth0/v1/**", "items:read"),
    ("POST /v1/items", "items:write"), ("POST /auth0/v1/items", "items:write"),
    ("POST /v1/upload", "items:read"),
]
PLAIN = [("GET /v1/**", ""), ("POST /v1/messages", "")]
LEDGER = [("GET /v1/**", "items:read"), ("POST /v1/items", "items:write")]


def put(file, data):
    """Replaces a file as whoever keeps it should: at once."""
    new = file.with_name(file.name + ".new")
    new.write_bytes(data if isinstance(data, bytes) else data.encode())
    new.chmod(0o600)
    new.rename(file)


def workload_token(world, **wanted):
    return world.desk("POST", "/_do/workload-token", wanted)["token"]


def certificate(world, dir, name, subject):
    """A certificate of the world's CA: its paths."""
    keys = Path(world.ca).parent
    crt, key, csr = (dir / f"{name}.{end}" for end in ("crt", "key", "csr"))
    run = lambda *arguments: subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
    run("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={subject}", "-keyout", key, "-out", csr)
    (dir / "client.ext").write_text("basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=clientAuth\n")
    run("x509", "-req", "-days", "2", "-in", csr, "-extfile", dir / "client.ext", "-CA", keys / "ca.crt", "-CAkey", keys / "ca.key",
        "-CAcreateserial", "-out", crt)
    key.chmod(0o600)
    return crt, key


def machine_grants(world, dir):
    """The files that the machine grants read, as they are at the start."""
    dir.mkdir()
    put(dir / "workload.jwt", workload_token(world, sub="system:serviceaccount:agents:coder"))
    put(dir / "subject.jwt", workload_token(world, sub="alice"))
    put(dir / "actor.jwt", workload_token(world, sub="delegate"))
    for name in ("svc-mtls", "svc-mtls-bound"):
        put(dir / f"{name}.crt", Path(world.clients[name]["cert"]).read_bytes())
        put(dir / f"{name}.key", Path(world.clients[name]["key"]).read_bytes())
    certificate(world, dir, "second", "svc-mtls-bound")
    return dir


def write(world, dir):
    ca = world.ca
    client = world.clients
    values = {
        "SVC_BASIC_SECRET": client["svc-basic"]["client_secret"],
        "SVC_EXCHANGE_SECRET": client["svc-exchange"]["client_secret"],
        "SVC_BEARER_SECRET": client["svc-bearer"]["client_secret"],
        "PLAIN_API_KEY": world.api_keys[0],
        **{f"{agent.upper()}_TOKEN": secrets.token_urlsafe(24) for agent in AGENTS},
    }

    given = machine_grants(world, dir / "given")

    def oauth(issuer, id, auth, resource, more="", grant="client_credentials"):
        return (f"{{oauth: {{issuer: {issuer}, client_id: {id}, client_auth: {auth}, grant: {grant}, "
                f"resource: \"{resource}\"{more}}}}}")

    def items(name, issuer, id, auth, grant="client_credentials"):
        return service(name, HOSTS["DPOP"], world.port("dpop_api"), ca, oauth(issuer, id, auth, world.dpop_api, grant=grant),
                       "ITEMS_TOKEN", "{random:32}", ITEMS)

    def ledger(name, files):
        return service(name, HOSTS["MTLS"], world.port("mtls_api"), ca,
                       oauth("world", "svc-mtls-bound", mtls(files), world.mtls_api, ", binding: mtls"),
                       "LEDGER_TOKEN", "{random:32}", LEDGER)

    def mtls(files):
        return f"{{mtls: {{cert: {{file: \"{given / files}.crt\"}}, key: {{file: \"{given / files}.key\"}}}}}}"

    def token(file):
        return f"{{file: \"{given / file}.jwt\"}}"

    def plain(name, credential):
        return service(name, HOSTS["PLAIN"], world.port("plain_api"), ca, credential, "PLAIN_TOKEN", "{random:40}", PLAIN)

    pkjwt = f"{{private_key_jwt: {{key: {{file: \"{client['svc-pkjwt']['private_key']}\"}}, kid: {client['svc-pkjwt']['kid']}}}}}"
    basic = "{secret_basic: {env: SVC_BASIC_SECRET}}"
    post = "{secret_post: {env: SVC_BEARER_SECRET}}"
    exchange = "{secret_basic: {env: SVC_EXCHANGE_SECRET}}"
    assertion = f"{{jwt_bearer: {{assertion: {token('workload')}}}}}"
    delegation = (f"{{token_exchange: {{subject_token: {token('subject')}, actor_token: {token('actor')}, "
                  "requested_token_type: access_token}}")
    key = "{header: {name: x-api-key, value: {env: PLAIN_API_KEY}}}"
    granted = {"coder": "[items, keys]", "reviewer": "[items-basic, tokens]", "late": "[items, keys]",
               "stranded": "[items-stranded, keys]", "workload": "[items-workload, ledger]", "delegate": "[items-delegate, ledger]",
               "bearer": "[items-bearer]", "certified": "[items-certified, ledger-second]"}
    health = free_port()
    file = dir / "tokenward.yaml"
    file.write_text(f"""# Made by tests/world.
listen: {{proxy: 127.0.0.1:{free_port()}}}
health: 127.0.0.1:{health}
runtime_dir: public
ca: {{dir: ca}}
store: memory
audit: {{file: audit.jsonl}}

agents:""" + "".join(f"\n  {agent}: {{auth: {{token: {{env: {agent.upper()}_TOKEN}}}}, services: {services}}}"
                     for agent, services in granted.items()) + f"""

issuers:{issuer("world", world.issuer, ca)}{issuer("gone", f"https://{HOSTS['AS']}:{free_port()}", ca)}

services:{items("items", "world", "svc-pkjwt", pkjwt)}{items("items-basic", "world", "svc-basic", basic)}
{items("items-stranded", "gone", "svc-basic", basic)}
{items("items-workload", "world", "svc-workload", "none", assertion)}{items("items-bearer", "world", "svc-exchange", exchange, assertion)}
{items("items-delegate", "world", "svc-exchange", exchange, delegation)}{items("items-certified", "world", "svc-mtls", mtls("svc-mtls"))}
{ledger("ledger", "svc-mtls-bound")}{ledger("ledger-second", "second")}
{plain("keys", key)}{plain("tokens", oauth("world", "svc-bearer", post, world.plain_api, ", binding: bearer"))}
""")
    solo = dir / "solo.yaml"
    solo.write_text(f"""# Made by tests/world.
issuers:{issuer("world", world.issuer, ca)}
services:{items("items", "world", "svc-basic", basic)}{plain("keys", key)}
""")
    return Config(file, solo, values, dir / "audit.jsonl", health, given)
