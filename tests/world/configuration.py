"""The configurations that are judged. All secrets are references, as users write them."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from stage import HOSTS, PLACEHOLDER, free_port

AGENTS = ("coder", "reviewer", "late", "stranded")


@dataclass
class Config:
    file: Path
    solo: Path  # for `run`: no agents, so everything is the one default agent's
    secrets: dict  # variables from which the files read secrets
    audit: Path
    health: int


def issuer(name, url, ca):
    # `connect` names no port: every endpoint keeps its own.
    return f"""
  {name}: {{url: "{url}", connect: 127.0.0.1, allow_private: true, ca: {{file: "{ca}"}}}}"""


def service(name, host, port, ca, credential, variable, shape, rules):
    listed = "".join(f"\n      - {{allow: \"{route}\"" + (f", scopes: [{scope}]" if scope else "") + "}"
                     for route, scope in rules)
    return f"""
  {name}:
    hosts: [{host}]
    port: {port}
    upstream: {{connect: 127.0.0.1, allow_private: true, ca: {{file: "{ca}"}}}}
    credential: {credential}
    placeholder: {{variable: {variable}, shape: "{PLACEHOLDER}{shape}"}}
    rules:{listed}
"""


ITEMS = [
    ("GET /v1/**", "items:read"), ("GET /auth0/v1/**", "items:read"),
    ("POST /v1/items", "items:write"), ("POST /auth0/v1/items", "items:write"),
    ("POST /v1/upload", "items:read"),
]
PLAIN = [("GET /v1/**", ""), ("POST /v1/messages", "")]


def write(world, dir):
    ca = world.ca
    client = world.clients
    values = {
        "SVC_BASIC_SECRET": client["svc-basic"]["client_secret"],
        "SVC_BEARER_SECRET": client["svc-bearer"]["client_secret"],
        "PLAIN_API_KEY": world.api_keys[0],
        **{f"{agent.upper()}_TOKEN": secrets.token_urlsafe(24) for agent in AGENTS},
    }

    def oauth(issuer, id, auth, resource, more=""):
        return (f"{{oauth: {{issuer: {issuer}, client_id: {id}, client_auth: {auth}, grant: client_credentials, "
                f"resource: \"{resource}\"{more}}}}}")

    def items(name, issuer, id, auth):
        return service(name, HOSTS["DPOP"], world.port("dpop_api"), ca, oauth(issuer, id, auth, world.dpop_api),
                       "ITEMS_TOKEN", "{random:32}", ITEMS)

    def plain(name, credential):
        return service(name, HOSTS["PLAIN"], world.port("plain_api"), ca, credential, "PLAIN_TOKEN", "{random:40}", PLAIN)

    pkjwt = f"{{private_key_jwt: {{key: {{file: \"{client['svc-pkjwt']['private_key']}\"}}, kid: {client['svc-pkjwt']['kid']}}}}}"
    basic = "{secret_basic: {env: SVC_BASIC_SECRET}}"
    post = "{secret_post: {env: SVC_BEARER_SECRET}}"
    key = "{header: {name: x-api-key, value: {env: PLAIN_API_KEY}}}"
    granted = {"coder": "[items, keys]", "reviewer": "[items-basic, tokens]", "late": "[items, keys]",
               "stranded": "[items-stranded, keys]"}
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
{plain("keys", key)}{plain("tokens", oauth("world", "svc-bearer", post, world.plain_api, ", binding: bearer"))}
""")
    solo = dir / "solo.yaml"
    solo.write_text(f"""# Made by tests/world.
issuers:{issuer("world", world.issuer, ca)}
services:{items("items", "world", "svc-basic", basic)}{plain("keys", key)}
""")
    return Config(file, solo, values, dir / "audit.jsonl", health)
