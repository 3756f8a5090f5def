"""What is set, what is asked, and what must come of it. One row is played for each verifier, with an agent and a grant
of its own, so that no row knows the token, key or nonce of another.

`agent` is what the agent is told: a status, and the code where the answer is tokenward's. `api` and `issuer` are what they
saw, in order: a status and its error each; `*` before one means any number of them, `?` that there may be none. Where the verifiers rightly differ,
the second is Auth0's.
"""

from dataclasses import dataclass, field

CHALLENGE, OK = "401 use_dpop_nonce", "200"


@dataclass
class Row:
    name: str
    agent: str | tuple = OK
    api: str | tuple = OK
    issuer: str = ""
    settings: dict = field(default_factory=dict)
    do: list = field(default_factory=list)  # (action, body)
    warm: bool = True  # token and nonce are at hand before the setting changes
    path: str = "/items"
    arguments: tuple = ()
    times: int = 1
    side_by_side: bool = False
    pause: float = 0
    why: str = ""


def cold(name, **more):
    """The agent's first request: the token is fetched under the setting."""
    return Row(name, **{"api": f"{CHALLENGE}, {OK}", "issuer": f"400 use_dpop_nonce, {OK}", "warm": False, **more})


def fails(status, error=None, times=1, service="dpop-api", **more):
    body = {"service": service, "status": status, "times": times, **more}
    return [("fail", {**body, "error": error} if error else body)]


ROWS = [
    # ---- nonces
    cold("nonces at both, the first request"),
    cold("asRequireNonce: false", settings={"asRequireNonce": False}, issuer=OK),
    cold("rsRequireNonce: false", settings={"rsRequireNonce": False}, api=OK),
    cold("no nonce anywhere", settings={"asRequireNonce": False, "rsRequireNonce": False}, api=OK, issuer=OK),
    Row("nonceMode: stable, 10 in a row", times=10, api=", ".join([OK] * 10)),
    Row("nonceMode: rotating, 10 in a row", settings={"nonceMode": "rotating"}, times=10, api=", ".join([OK] * 10)),
    Row("nonceMode: rotating, 10 at once", settings={"nonceMode": "rotating"}, times=10, side_by_side=True,
        api=", ".join([OK] * 10)),
    Row("nonceMode: single-use, 10 in a row", settings={"nonceMode": "single-use"}, times=10, api=", ".join([OK] * 10)),
    Row("nonceMode: single-use, 10 at once", settings={"nonceMode": "single-use"}, times=10, side_by_side=True,
        agent=f"*{OK}, ?502 dpop-nonce-loop", api=f"*{OK}, ?{CHALLENGE}",
        why="several challenges carry one nonce, and one request can use it"),
    Row("rotate-nonce", do=[("rotate-nonce", {})]),
    Row("expire-nonces", do=[("expire-nonces", {})], api=f"{CHALLENGE}, {OK}"),
    Row("expire-nonces, POST with a small body", do=[("expire-nonces", {})], path="/upload",
        arguments=("--data-binary", "x" * 1000), api=f"{CHALLENGE}, {OK}"),
    Row("expire-nonces, 1 MiB that is not kept", do=[("expire-nonces", {})], path="/upload", arguments=("--data-binary", "@BIG"),
        times=2, agent="503 dpop-nonce-retry, 200", api=f"{CHALLENGE}, {OK}", why="the body has gone; the same request succeeds"),
    Row("expire-nonces, WebSocket handshake", do=[("expire-nonces", {})], path="/ws", agent="101",
        arguments=("--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13",
                   "-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), api=f"{CHALLENGE}, 101"),
    Row("expire-nonces, server-sent events", do=[("expire-nonces", {})], path="/stream?n=3&ms=20", api=f"{CHALLENGE}, {OK}"),
    Row("expire-as-nonces, revoke-tokens", do=[("expire-as-nonces", {}), ("revoke-tokens", {})],
        api=f"401 invalid_token, {OK}", issuer=f"400 use_dpop_nonce, {OK}"),
    # ---- clocks and replays
    Row("iatWindow: 5", settings={"iatWindow": 5}),
    Row("iatWindow: 1, 5 in a row", settings={"iatWindow": 1}, times=5, pause=0.3, api=", ".join([OK] * 5)),
    Row("iatWindow: -1, no proof is fresh enough", settings={"iatWindow": -1}, agent="502 dpop-proof-rejected",
        api="401 invalid_dpop_proof, 401 invalid_dpop_proof"),
    *(Row(f"clockSkew: {skew}", settings={"clockSkew": skew}) for skew in (30, -30)),
    Row("clockSkew: 90", settings={"clockSkew": 90}, agent=(OK, "502 dpop-proof-rejected"),
        api=(f"401 invalid_dpop_proof, {OK}", "401 invalid_dpop_proof, 400 invalid_dpop_proof"),
        why="Auth0's library keeps the true clock and forgives 30 s; the window's clock wants more"),
    Row("clockSkew: -90", settings={"clockSkew": -90}, api=(f"401 invalid_dpop_proof, {OK}", f"401 invalid_dpop_proof, {OK}")),
    Row("clockSkew: 590", settings={"clockSkew": 590}, agent=(OK, "502 dpop-proof-rejected"),
        api=(f"401 invalid_dpop_proof, {OK}", "401 invalid_dpop_proof, 400 invalid_dpop_proof"), why="as above"),
    Row("clockSkew: -590", settings={"clockSkew": -590}, agent=(OK, "502 dpop-proof-rejected"),
        api=(f"401 invalid_dpop_proof, {OK}", "401 invalid_dpop_proof, 400 invalid_dpop_proof"), why="as above, 300 s back"),
    Row("clockSkew: 3600", settings={"clockSkew": 3600}, agent="502 dpop-proof-rejected",
        api=("401 invalid_dpop_proof, 401 invalid_dpop_proof", "401 invalid_dpop_proof, 400 invalid_dpop_proof"),
        why="ten minutes are believed"),
    # ---- tokens
    Row("revoke-tokens", do=[("revoke-tokens", {})], api=f"401 invalid_token, {OK}", issuer=OK),
    Row("revoke-tokens, 10 at once", do=[("revoke-tokens", {})], times=10, side_by_side=True,
        api=f"*401 invalid_token, *{OK}", issuer=OK),
    Row("revoke-grants", do=[("revoke-grants", {})], why="client_credentials knows no grants"),
    Row("a rule with too little scope", path="/items", arguments=("--json", '{"name": "x"}'), agent="403 scope-denied",
        api="403 insufficient_scope"),
    # ---- faults of the API
    Row("fail 401 invalid_token, once", do=fails(401, "invalid_token"), api=f"401 invalid_token, {OK}", issuer=OK),
    Row("fail 401 invalid_token, on and on", do=fails(401, "invalid_token", 9), agent="502 upstream-rejected-credential",
        api="401 invalid_token, 401 invalid_token", issuer=OK),
    Row("fail 401 use_dpop_nonce without a nonce", do=fails(401, "use_dpop_nonce", 9), agent="502 dpop-nonce-loop",
        api=CHALLENGE),
    Row("fail 401 invalid_dpop_proof, once", do=fails(401, "invalid_dpop_proof"), api=f"401 invalid_dpop_proof, {OK}"),
    Row("fail 401 invalid_dpop_proof, on and on", do=fails(401, "invalid_dpop_proof", 9), agent="502 dpop-proof-rejected",
        api="401 invalid_dpop_proof, 401 invalid_dpop_proof"),
    Row("fail 401 invalid_dpop_proof, then 401 invalid_token", do=fails(401, "invalid_dpop_proof") + fails(401, "invalid_token"),
        api=f"401 invalid_dpop_proof, 401 invalid_token, {OK}", issuer=OK),
    Row("fail 401 invalid_dpop_proof, and the nonce expires", do=fails(401, "invalid_dpop_proof") + [("expire-nonces", {})],
        api=f"401 invalid_dpop_proof, {CHALLENGE}, {OK}"),
    Row("three reasons in a row", do=fails(401, "invalid_dpop_proof") + fails(401, "invalid_token") + [("expire-nonces", {})],
        agent="503 dpop-nonce-retry, 200", times=2, api=f"401 invalid_dpop_proof, 401 invalid_token, {CHALLENGE}, {OK}",
        issuer=OK, why="sent again twice in all; the agent's own retry has the nonce"),
    Row("fail 401 with an unknown error", do=fails(401, "made_up"), agent="502 upstream-unauthorized", api="401 made_up"),
    Row("fail 401 insufficient_user_authentication", do=fails(401, "insufficient_user_authentication"),
        agent="403 stepup-required", api="401 insufficient_user_authentication"),
    *(Row(f"fail {status}", do=fails(status), agent=str(status), api=f"{status} fault", why="the API's own answer")
      for status in (400, 403, 404, 500, 502)),
    Row("fail 429 with Retry-After", do=fails(429, retryAfter=7), agent="429", api="429 fault", why="Retry-After arrives"),
    Row("fail 503 with Retry-After", do=fails(503, retryAfter=7), agent="503", api="503 fault", why="Retry-After arrives"),
    Row("dropAfterBytes: 1000 of 100000", settings={"dropAfterBytes": 1000}, path="/download?bytes=100000", agent="cut",
        # A kept connection of HTTP/1.1 that dies before a byte of the answer came: a GET may go out once more.
        api=(OK, f"*{OK}"), why="the agent can see that it is not whole"),
    # ---- faults of the issuer
    cold("asDelay: 300", settings={"asDelay": 300}),
    cold("asDelay: 11000", settings={"asDelay": 11000}, agent="504 as-unavailable", api="", issuer=""),
    cold("fail 503 at the issuer, once", do=fails(503, service="as"), agent="503 as-unavailable", api="", issuer="",
         why="metadata or token; the next ask goes out after a rest"),
    *(cold(f"fail {status}{' ' + error if error else ''} at the token endpoint", do=fails(status, error, 9, "as", path="/token"), agent=agent, api="",
           issuer=f"{status}")
      for status, error, agent in [
          (400, "invalid_grant", "403 reauthorization-required"), (401, "invalid_client", "403 client-misconfigured"),
          (400, "invalid_scope", "403 client-misconfigured"), (400, "use_dpop_nonce", "503 as-unavailable"),
          (400, "invalid_dpop_proof", "403 client-misconfigured"), (400, "made_up", "403 client-misconfigured"),
          (429, None, "503 as-unavailable"), (500, None, "503 as-unavailable")]),
    # The last: its tokens are renewed for as long as the proxy lives, so they would meet every fault of the issuer.
    Row("accessTokenTtl: 4, for 7 s", settings={"accessTokenTtl": 4}, do=[("revoke-tokens", {})], times=14, pause=0.5,
        api=f"401 invalid_token, *{OK}", issuer=f"*{OK}"),
]
