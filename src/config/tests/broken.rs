//! Broken files: each names its line, its key and the way out.

use super::*;

/// (name, file, [(line, key, word of the whole message)]).
type Case = (
    &'static str,
    &'static str,
    &'static [(usize, &'static str, &'static str)],
);

/// A service that is right, to be put behind what is wrong.
const OK: &str = "services: {ok: {hosts: [ok.example], rules: [{allow: GET /}]}}\n";

fn run(cases: &[Case]) {
    for (name, yaml, expected) in cases {
        let found = problems(yaml.replace("<OK>", OK).replace("<LONG>", &"x".repeat(120)));
        let lines: Vec<_> = found.iter().map(|p| (p.line, p.key.as_str())).collect();
        let wanted: Vec<_> = expected
            .iter()
            .map(|(line, key, _)| (*line, *key))
            .collect();
        assert_eq!(lines, wanted, "{name}:\n{found}");
        for (problem, (_, _, word)) in found.iter().zip(*expected) {
            assert!(problem.to_string().contains(word), "{name}: {problem}");
        }
    }
}

#[test]
fn keys() {
    run(KEYS);
}

const KEYS: &[Case] = &[
    (
        "unknown",
        "listn: {}\n<OK>",
        &[(1, "listn", "did you mean `listen`?")],
    ),
    (
        "unknown without a neighbour",
        "<OK>zebra: 1\n",
        &[(2, "zebra", "known here: admin, agents, audit, ca")],
    ),
    (
        "unknown in a list",
        "services:\n  a:\n    hosts: [a.example]\n    rules:\n      - allow: GET /\n      - alow: GET /x\n",
        &[(6, "services.a.rules[1].alow", "did you mean `allow`?")],
    ),
    (
        "merge key",
        "<OK>\n? <<\n: {a: b}\n",
        &[(3, "?", "merge keys")],
    ),
    (
        "duplicate",
        "services:\n  a: {hosts: [a.example]}\n  b: {hosts: [b.example], port: 1, port: 2}\n  a: {hosts: [c.example]}\n",
        &[
            (3, "services.b.port", "duplicate"),
            (4, "services.a", "keep one"),
        ],
    ),
    (
        "missing",
        "services:\n  a:\n    rules: []\n    credential: {oauth: {issuer: x, grant: client_credentials}}\n",
        &[
            (2, "services.a.hosts", "add this key"),
            (4, "services.a.credential.oauth.client_id", "missing"),
            (4, "services.a.credential.oauth.client_auth", "missing"),
            (4, "services.a.credential.oauth.issuer", "name an entry"),
        ],
    ),
    (
        "no value",
        "health:\n<OK>",
        &[(1, "health", "remove the key")],
    ),
    (
        "empty paths",
        "runtime_dir: ''\nca: {dir: ''}\naudit: {file: ''}\n<OK>",
        &[
            (1, "runtime_dir", "name a path"),
            (2, "ca.dir", "name a path"),
            (3, "audit.file", "name a path"),
        ],
    ),
    (
        "a store without its parts",
        "store: {file: {}}\n<OK>",
        &[(1, "store.file.path", ""), (1, "store.file.key", "")],
    ),
    (
        "a store key that is none",
        "store: {file: {path: s, key: {file: not-pem}}}\n<OK>",
        &[(1, "store.file.key", "openssl rand -hex 32")],
    ),
    (
        "nothing to reach",
        "store: memory\n",
        &[(1, "services", "name at least one service")],
    ),
];

#[test]
fn not_built_yet() {
    run(NOT_BUILT_YET);
}

const NOT_BUILT_YET: &[Case] = &[
    (
        "top",
        "listen: {proxy: 127.0.0.1:1, gateway: y}\n<OK>",
        &[(1, "listen.gateway", "not supported yet")],
    ),
    (
        "listeners and stores",
        "listen: {proxy: 127.0.0.1:1}\nhealth: unix:/run/h.sock\nstore: {postgres: {url: {env: X}}}\n<OK>",
        &[
            (2, "health", "not supported yet"),
            (3, "store.postgres", "not supported yet"),
        ],
    ),
    (
        "agents",
        "agents:\n  a: {auth: {kubernetes: {}}}\n  b: {auth: mtls, uid: 7}\n<OK>",
        &[
            (2, "agents.a.auth.kubernetes", "not supported yet"),
            (3, "agents.b.auth", "not supported yet"),
            (3, "agents.b.uid", "not supported yet"),
        ],
    ),
    (
        "service",
        "services:\n  a:\n    hosts: [a.example]\n    body_inspection: 1MiB\n    capture: {issuer: x}\n    credential: {basic: {}}\n    rules: [{allow: GET /, mcp: {}}]\n",
        &[
            (4, "services.a.body_inspection", "not supported yet"),
            (5, "services.a.capture", "not supported yet"),
            (6, "services.a.credential.basic", "not supported yet"),
            (7, "services.a.rules[0].mcp", "not supported yet"),
        ],
    ),
    (
        "cookies",
        "services:\n  a:\n    hosts: [a.example]\n    credential: {bearer: {env: LLM_KEY}}\n    session_cookies: {pass: [ok, \"a b\", \"\"]}\n    rules: [{allow: GET /}]\n  b:\n    hosts: [b.example]\n    credential: {bearer: {env: X}}\n    session_cookies: {pass: []}\n    rules: [{allow: GET /}]\n",
        &[
            (
                5,
                "services.a.session_cookies.pass[1]",
                "not the name of a cookie",
            ),
            (
                5,
                "services.a.session_cookies.pass[2]",
                "not the name of a cookie",
            ),
            (
                10,
                "services.b.session_cookies.pass",
                "name one, or write drop",
            ),
        ],
    ),
    (
        "secrets",
        "agents: {a: {auth: {token: {keyring: Token}}}}\nservices:\n  a: {hosts: [a.example], credential: {bearer: {vault: {path: canary-8841-Zq}}}}\n",
        &[
            (1, "agents.a.auth.token.keyring", "not supported yet"),
            (3, "services.a.credential.bearer.vault", "not supported yet"),
        ],
    ),
];

#[test]
fn listeners() {
    run(LISTENERS);
}

const LISTENERS: &[Case] = &[
    (
        "not an address",
        "listen: {proxy: [localhost:8080, 127.0.0.1]}\nhealth: 9091\n<OK>",
        &[
            (1, "listen.proxy[0]", "127.0.0.1:8080"),
            (1, "listen.proxy[1]", "127.0.0.1:8080"),
            (2, "health", "127.0.0.1:8080"),
        ],
    ),
    (
        "clear text",
        "listen:\n  proxy: 0.0.0.0:8080\nagents: {a: {auth: {token: {env: CODER_TOKEN}}}}\n<OK>",
        &[(2, "listen.proxy", "plaintext: true")],
    ),
    (
        "clear text in writing, but nobody is named",
        "listen:\n  proxy: [{address: \"[::]:8080\", plaintext: true}]\n<OK>",
        &[(2, "listen.proxy", "name `agents`")],
    ),
    (
        "twice",
        "listen: {proxy: [127.0.0.1:8080, 127.0.0.1:8080]}\nhealth: 0.0.0.0:8080\n<OK>",
        &[
            (1, "listen.proxy[1]", "another port"),
            (2, "health", "another port"),
        ],
    ),
    (
        "redirected to nobody's listener",
        "listen:\n  transparent:\n    - 0.0.0.0:1\n    - {address: 127.0.0.1:2, mode: tproxy}\n<OK>",
        &[
            (2, "listen.transparent", "0.0.0.0:1: without"),
            (2, "listen.transparent", "127.0.0.1:2: without"),
        ],
    ),
    (
        "redirected, and it is not known whose",
        "listen:\n  transparent:\n    - 127.0.0.1:1\n    - {address: 127.0.0.1:2, agent: b}\n    - {address: 127.0.0.1:3, agent: '-'}\nagents: {a: {auth: {token: {env: CODER_TOKEN}}}}\n<OK>",
        &[
            (2, "listen.transparent", "127.0.0.1:1: nobody could tell"),
            (2, "listen.transparent", "127.0.0.1:2: its agent is not"),
            (2, "listen.transparent", "127.0.0.1:3: nobody could tell"),
            (5, "listen.transparent[2].agent", "one of `agents`"),
        ],
    ),
    (
        "redirected to what is taken",
        "listen: {proxy: [127.0.0.1:1, '[::1]:2'], transparent: [127.0.0.1:1, '[::1]:3', 127.0.0.1:3, '[::1]:2', unix:/x]}\n<OK>",
        &[
            (1, "listen.transparent[0]", "another port"),
            (1, "listen.transparent[3]", "another port"),
            (1, "listen.transparent[4]", "not supported yet"),
        ],
    ),
    (
        "one socket twice, one without a path, one too long",
        "listen:\n  proxy:\n    - unix:/run/p.sock\n    - unix:/run/p.sock\n    - \"unix:\"\n    - unix:/run/<LONG>\n<OK>",
        &[
            (4, "listen.proxy[1]", "another port or path"),
            (5, "listen.proxy[2]", "name a path"),
            (6, "listen.proxy[3]", "at most 107 bytes"),
        ],
    ),
    (
        "modes",
        "listen:\n  proxy:\n    - {address: unix:/a, mode: 999}\n    - {address: unix:/b, mode: rw}\n    - {address: 127.0.0.1:1, mode: 0600}\n    - {address: unix:/c, plaintext: true}\n<OK>",
        &[
            (3, "listen.proxy[0].mode", ""),
            (4, "listen.proxy[1].mode", ""),
            (5, "listen.proxy[2].mode", "remove it"),
            (6, "listen.proxy[3].plaintext", "remove it"),
        ],
    ),
    (
        "certificates",
        "listen:\n  proxy:\n    - {address: 127.0.0.1:1, tls: {cert: {file: leaf.pem}}}\n    - {address: 127.0.0.1:2, tls: {cert: {file: not-pem}, key: {file: client.pem}}}\n    - {address: 127.0.0.1:3, tls: {cert: {file: leaf.pem}, key: {file: ca-key.pem}}}\n    - {address: 127.0.0.1:4, plaintext: true, tls: {cert: {file: leaf.pem}, key: {file: client.pem}}}\n<OK>",
        &[
            (3, "listen.proxy[0].tls.key", "add this key"),
            (4, "listen.proxy[1].tls.cert.file", "BEGIN CERTIFICATE"),
            (5, "listen.proxy[2].tls.key", "the key of `cert`"),
            (6, "listen.proxy[3].plaintext", "remove it"),
        ],
    ),
    (
        "none",
        "listen: {proxy: []}\n<OK>",
        &[(1, "listen.proxy", "give an address")],
    ),
    (
        "not a truth value",
        "listen: {proxy: {address: 127.0.0.1:1, plaintext: yes}}\n<OK>",
        &[(1, "listen.proxy.plaintext", "true or false")],
    ),
];

#[test]
fn the_parent_proxy() {
    run(PARENT);
}

const PARENT: &[Case] = &[
    (
        "no URL",
        "parent_proxy: {auth: {env: LLM_KEY}}\n<OK>",
        &[
            (1, "parent_proxy.url", "add this key"),
            (1, "parent_proxy.auth", "cannot be sent"),
        ],
    ),
    (
        "a credential in the URL",
        "parent_proxy: {url: \"http://u:canary-8841-Zq@proxy.corp:3128\"}\n<OK>",
        &[(1, "parent_proxy.url", "auth: {env: NAME}")],
    ),
    (
        "another scheme",
        "parent_proxy: {url: socks5://proxy.corp:1080}\n<OK>",
        &[(1, "parent_proxy.url", "http://HOST:PORT")],
    ),
    (
        "a path",
        "parent_proxy: {url: http://proxy.corp:3128/x}\n<OK>",
        &[(1, "parent_proxy.url", "http://HOST:PORT")],
    ),
    (
        "an address that nobody dials",
        "parent_proxy: {url: \"http://169.254.169.254:80\"}\n<OK>",
        &[(1, "parent_proxy.url", "never dialled")],
    ),
    (
        "exceptions that are none",
        "parent_proxy: {url: http://proxy.corp:3128, except: [a.example, \"*\", 10.0.0.0/33, \"a.example:443\", 10.0.0.0/+8]}\n<OK>",
        &[
            (1, "parent_proxy.except[1]", "10.0.0.0/8"),
            (1, "parent_proxy.except[2]", "10.0.0.0/8"),
            (1, "parent_proxy.except[3]", "10.0.0.0/8"),
            (1, "parent_proxy.except[4]", "10.0.0.0/8"),
        ],
    ),
];

#[test]
fn agents() {
    run(AGENTS);
}

const AGENTS: &[Case] = &[
    (
        "unknown service",
        "agents:\n  a:\n    auth: {token: {env: CODER_TOKEN}}\n    services:\n      - ok\n      - nok\n<OK>",
        &[(6, "agents.a.services[1]", "define it")],
    ),
    (
        "nobody",
        "agents: {}\n<OK>",
        &[(1, "agents", "names nobody")],
    ),
    (
        "no auth",
        "agents:\n  a: {}\n<OK>",
        &[(2, "agents.a", "a transparent listener of its own")],
    ),
    (
        "bad hash and bad name",
        "agents:\n  a: {auth: {token_sha256: canary-8841-Zq}}\n  'canary 8841': {auth: {token: {env: OTHER_TOKEN}}}\n<OK>",
        &[
            (1, "agents", "letters, digits"),
            (2, "agents.a.auth.token_sha256", "64 hex"),
        ],
    ),
    (
        "one token for two",
        "agents:\n  a: {auth: {token: {env: CODER_TOKEN}}}\n  b: {auth: {token: {env: CODER_TOKEN}}}\n<OK>",
        &[(3, "agents.b.auth", "its own")],
    ),
];

#[test]
fn services() {
    run(SERVICES);
}

const SERVICES: &[Case] = &[
    (
        "hosts",
        "services:\n  a:\n    hosts:\n      - 'a.*.example'\n      - https://a.example\n      - a.example:8443\n      - a.example\n    rules: [{allow: GET /}]\n  b: {hosts: [a.example], rules: [{allow: GET /}]}\n",
        &[
            (4, "services.a.hosts[0]", "`*.x` for one label"),
            (5, "services.a.hosts[1]", "without scheme"),
            (6, "services.a.hosts[2]", "as `port`"),
            (9, "services.b.hosts[0]", "remove one of the two hosts"),
        ],
    ),
    (
        "a credential over clear text and for everybody",
        "services:\n  a: {hosts: [a.example], port: 80, credential: {bearer: {env: LLM_KEY}}}\n  b: {hosts: ['**.co.uk'], credential: {bearer: {env: LLM_KEY}}}\n  c: {hosts: [c.example], port: 0}\n",
        &[
            (2, "services.a.port", "TLS port"),
            (3, "services.b.hosts[0]", "strangers"),
            (4, "services.c.port", "from 1 to 65535"),
        ],
    ),
    (
        "rules",
        "services:\n  a:\n    hosts: [a.example]\n    rules:\n      - {allow: GET /, deny: GET /x}\n      - allow: get it\n      - {allow: GET /y, scopes: ['a b']}\n      - {scopes: []}\n",
        &[
            (5, "services.a.rules[0]", "exactly one"),
            (6, "services.a.rules[1].allow", ""),
            (7, "services.a.rules[2].scopes[0]", "entry of its own"),
            (8, "services.a.rules[3]", "exactly one"),
        ],
    ),
    (
        "two rules tie, behind one that was refused",
        "services:\n  a:\n    hosts: [a.example]\n    rules:\n      - 5\n      - allow: GET /x/**\n      - allow: GET /x/**\n",
        &[
            (5, "services.a.rules[0]", "a mapping"),
            (7, "services.a.rules[2]", "merge them"),
        ],
    ),
    (
        "placeholders",
        "services:\n  a: {hosts: [a.example], placeholder: {variable: HTTPS_PROXY, shape: 'sk-{random:4}', mode: maybe}}\n  b: {hosts: [b.example], placeholder: {variable: T}}\n  c: {hosts: [c.example], placeholder: {variable: T}}\n",
        &[
            (2, "services.a.placeholder.variable", "ITEMS_TOKEN"),
            (2, "services.a.placeholder.shape", "{random:32}"),
            (2, "services.a.placeholder.mode", "optional or required"),
            (4, "services.c.placeholder.variable", "another name"),
        ],
    ),
    (
        "spans, sizes and profiles",
        "services:\n  a:\n    hosts: [a.example]\n    timeouts: {connect: 5, first_byte: 2d, idle: 0s}\n    max_stream_age: -1s\n    replay_buffer: 64KB\n    htu: {strip_prefix: x}\nlimits: {request_head: 1B, connections: 0}\ndrain: {timeout: 1w}\n",
        &[
            (4, "services.a.timeouts.connect", "90s"),
            (4, "services.a.timeouts.first_byte", "90s"),
            (4, "services.a.timeouts.idle", "from 1ms to 24h"),
            (5, "services.a.max_stream_age", "90s"),
            (6, "services.a.replay_buffer", "64KiB"),
            (7, "services.a.htu.strip_prefix", "/gateway"),
            (8, "limits.request_head", "from 8KiB"),
            (8, "limits.connections", "from 1 to"),
            (9, "drain.timeout", "90s"),
        ],
    ),
    (
        "limits that make no sense",
        "limits:\n  replay_total: 1KiB\n  connections: 1000001\n  per_agent:\n    requests_per_second: 0\n    body_floor: 0B/s\n    streams: -1\n    connections: 0\n    certificates_per_second: 0\n<OK>",
        &[
            (2, "limits.replay_total", "from 64KiB"),
            (3, "limits.connections", "from 1 to 1000000"),
            (
                5,
                "limits.per_agent.requests_per_second",
                "from 1 to 1000000",
            ),
            (6, "limits.per_agent.body_floor", "from 1B/s to 1024KiB/s"),
            (7, "limits.per_agent.streams", "from 1 to"),
            (8, "limits.per_agent.connections", "from 1 to"),
            (9, "limits.per_agent.certificates_per_second", "from 1 to"),
        ],
    ),
    (
        "rates",
        "limits: {per_agent: {body_floor: 100, requests_per_second: 1.5}}\n<OK>",
        &[
            (1, "limits.per_agent.body_floor", "such as 100B/s"),
            (1, "limits.per_agent.requests_per_second", ""),
        ],
    ),
    (
        "headers",
        "services:\n  a: {hosts: [a.example], credential: {header: {name: Host, value: {env: LLM_KEY}}}}\n  b: {hosts: [b.example], credential: {header: {name: 'x y', value: {env: LLM_KEY}}}}\n  c: {hosts: [c.example], credential: {header: {name: x-key}}}\n  d: {hosts: [d.example], credential: {header: {name: x-key, value: {env: TWO_LINES}}}}\n",
        &[
            (2, "services.a.credential.header.name", "the API documents"),
            (3, "services.b.credential.header.name", "x-api-key"),
            (4, "services.c.credential.header.value", "missing"),
            (5, "services.d.credential.header.value", "one line"),
        ],
    ),
    (
        "tunnels",
        "services: {a: {hosts: [a.example], rules: [{allow: GET /}]}}\ntunnel:\n  - '*.example:443'\n  - b.example\n  - a.example:443\n",
        &[
            (3, "tunnel[0]", "wildcard"),
            (4, "tunnel[1]", "host:port"),
            (5, "tunnel[2]", "remove one of the two"),
        ],
    ),
];

#[test]
fn oauth_and_files() {
    run(OAUTH_AND_FILES);
}

const OAUTH_AND_FILES: &[Case] = &[
    (
        "issuers",
        "issuers:\n  a: {url: http://as.example}\n  b: {url: https://as.example/?x, connect: 10.0.0.1:443}\n  c: {url: https://u@as.example, connect: 'no such'}\n<OK>",
        &[
            (2, "issuers.a.url", "https://HOST"),
            (3, "issuers.b.url", "without user, query"),
            (4, "issuers.c.url", "https://HOST"),
            (4, "issuers.c.connect", "an address or a name"),
        ],
    ),
    (
        "clients",
        "services:\n  a:\n    hosts: [a.example]\n    credential:\n      oauth:\n        issuer: nobody\n        client_id: ''\n        client_auth: {private_key_jwt: {key: {file: not-pem}}}\n        grant: client_credentials\n        resource: api#x\n        parameters: {scope: x}\n        max_token_age: 31m\n",
        &[
            (
                6,
                "services.a.credential.oauth.issuer",
                "entry of `issuers`",
            ),
            (
                7,
                "services.a.credential.oauth.client_id",
                "name that the issuer gave",
            ),
            (
                8,
                "services.a.credential.oauth.client_auth.private_key_jwt.key",
                "PEM",
            ),
            (
                10,
                "services.a.credential.oauth.resource",
                "https://api.example",
            ),
            (
                11,
                "services.a.credential.oauth.parameters.scope",
                "cannot be set here",
            ),
            (
                12,
                "services.a.credential.oauth.max_token_age",
                "from 1m to 30m",
            ),
        ],
    ),
    (
        "rotation without a refresh token",
        "services:\n  a:\n    hosts: [a.example]\n    credential:\n      oauth:\n        issuer: https://as.example\n        client_id: c\n        client_auth: none\n        grant: client_credentials\n        require_rotation: true\n",
        &[(
            10,
            "services.a.credential.oauth.require_rotation",
            "remove it",
        )],
    ),
    (
        "a redirect without a login",
        "services:\n  a:\n    hosts: [a.example]\n    credential:\n      oauth:\n        issuer: https://as.example\n        client_id: c\n        client_auth: none\n        grant: client_credentials\n        redirect_uri: http://127.0.0.1/callback\n",
        &[(
            10,
            "services.a.credential.oauth.redirect_uri",
            "grant: authorization_code",
        )],
    ),
    (
        "redirects to elsewhere",
        "services:\n  a: {hosts: [a.example], credential: {oauth: {issuer: https://as.example, client_id: c, client_auth: none, grant: authorization_code,\n    redirect_uri: https://127.0.0.1/callback}}}\n  b: {hosts: [b.example], credential: {oauth: {issuer: https://as.example, client_id: c, client_auth: none, grant: authorization_code,\n    redirect_uri: http://localhost/callback}}}\n  c: {hosts: [c.example], credential: {oauth: {issuer: https://as.example, client_id: c, client_auth: none, grant: authorization_code,\n    redirect_uri: http://10.0.0.1/callback}}}\n  d: {hosts: [d.example], credential: {oauth: {issuer: https://as.example, client_id: c, client_auth: none, grant: authorization_code,\n    redirect_uri: 'http://127.0.0.1/callback?x=y'}}}\n  e: {hosts: [e.example], credential: {oauth: {issuer: https://as.example, client_id: c, client_auth: none, grant: authorization_code,\n    redirect_uri: 'http://127.0.0.1'}}}\n  f: {hosts: [f.example], credential: {oauth: {issuer: https://as.example, client_id: c, client_auth: none, grant: authorization_code,\n    redirect_uri: 'http://u@127.0.0.1/callback'}}}\n",
        &[
            (3, "services.a.credential.oauth.redirect_uri", "loopback"),
            (5, "services.b.credential.oauth.redirect_uri", "loopback"),
            (7, "services.c.credential.oauth.redirect_uri", "loopback"),
            (9, "services.d.credential.oauth.redirect_uri", "loopback"),
            (11, "services.e.credential.oauth.redirect_uri", "loopback"),
            (13, "services.f.credential.oauth.redirect_uri", "loopback"),
        ],
    ),
    (
        "roots",
        "services:\n  a: {hosts: [a.example], upstream: {ca: {file: not-pem}}}\n  b: {hosts: [b.example], upstream: {ca: {file: absent.pem}}}\n",
        &[
            (2, "services.a.upstream.ca.file", "BEGIN CERTIFICATE"),
            (3, "services.b.upstream.ca.file", "does not exist"),
        ],
    ),
    (
        "a CA that is none",
        "ca: {cert: {file: leaf.pem}, key: {file: client.pem}}\n<OK>",
        &[(1, "ca.cert.file", "basic constraint")],
    ),
    (
        "a CA with another's key",
        "ca: {cert: {file: internal-ca.pem}, key: {file: client.pem}}\n<OK>",
        &[(1, "ca.key", "the key of `ca.cert`")],
    ),
    (
        "half a CA",
        "ca: {cert: {file: leaf.pem}}\n<OK>",
        &[(1, "ca", "{dir: PATH}")],
    ),
];

#[test]
fn one_run_finds_mistakes_of_every_stage() {
    let found = problems(
        "listn: {}\nhealth: x\nservices:\n  a: {hosts: [a.example], credential: {bearer: canary-8841-Zq}}\n  b: {hosts: [b.example], port: x, max_stream_age: 5}\n  b: {}\n",
    );
    let keys: Vec<_> = found.iter().map(|p| (p.line, p.key.as_str())).collect();
    assert_eq!(
        keys,
        [
            (1, "listn"),
            (2, "health"),
            (4, "services.a.credential.bearer"),
            (5, "services.b.port"),
            (5, "services.b.max_stream_age"),
            (6, "services.b"),
        ]
    );
}

/// Client, grant, binding; then the key that is found wrong, and a word about it.
const MACHINE_GRANTS: [(&str, &str, &str, &str, &str); 15] = [
    (
        "none",
        "client_credentials",
        "mtls",
        "binding",
        "add `client_auth: {mtls",
    ),
    (
        "{mtls: {cert: {file: not-pem}, key: {file: client.pem}}}",
        "client_credentials",
        "mtls",
        "client_auth.mtls.cert",
        "no certificate",
    ),
    (
        "{mtls: {cert: {file: leaf.pem}, key: {file: not-pem}}}",
        "client_credentials",
        "mtls",
        "client_auth.mtls.key",
        "not a private key",
    ),
    (
        "{mtls: {cert: {file: leaf.pem}, key: {file: ca-key.pem}}}",
        "client_credentials",
        "mtls",
        "client_auth.mtls.key",
        "does not belong",
    ),
    (
        "{mtls: {cert: {file: leaf.pem}}}",
        "client_credentials",
        "mtls",
        "client_auth.mtls.key",
        "missing",
    ),
    (
        "{kubernetes: {token: {file: absent}}}",
        "client_credentials",
        "dpop",
        "client_auth.kubernetes.token",
        "does not exist",
    ),
    (
        "{kubernetes: {token: {file: not-pem}, audience: ''}}",
        "client_credentials",
        "dpop",
        "client_auth.kubernetes.audience",
        "empty",
    ),
    (
        "{spiffe: {jwt_svid: {file: not-pem}, assertion_type: x}}",
        "client_credentials",
        "dpop",
        "client_auth.spiffe.assertion_type",
        "jwt_bearer",
    ),
    (
        "none",
        "{jwt_bearer: {}}",
        "dpop",
        "grant.jwt_bearer",
        "neither an assertion",
    ),
    (
        "none",
        "{jwt_bearer: {assertion: {file: not-pem}, subject: x}}",
        "dpop",
        "grant.jwt_bearer",
        "neither an assertion",
    ),
    (
        "none",
        "{jwt_bearer: {key: {file: client.pem}}}",
        "dpop",
        "grant.jwt_bearer",
        "neither an assertion",
    ),
    (
        "none",
        "{jwt_bearer: {key: {file: not-pem}, subject: x}}",
        "dpop",
        "grant.jwt_bearer.key",
        "not a private key",
    ),
    (
        "none",
        "{token_exchange: {subject_token: {file: not-pem}, subject_token_type: x}}",
        "dpop",
        "grant.token_exchange.subject_token_type",
        "not a token type",
    ),
    (
        "none",
        "{token_exchange: {subject_token: {file: not-pem}, actor_token_type: jwt}}",
        "dpop",
        "grant.token_exchange.actor_token_type",
        "no actor_token",
    ),
    (
        "none",
        "{token_exchange: {subject_token: {file: absent}}}",
        "dpop",
        "grant.token_exchange.subject_token",
        "does not exist",
    ),
];

/// What is wrong with a client or a grant that needs no person.
#[test]
fn machine_grants() {
    const AT: &str = "services.a.credential.oauth.";
    for (auth, grant, binding, key, word) in MACHINE_GRANTS {
        let found = problems(format!(
            "services:\n  a:\n    hosts: [a.example]\n    credential:\n      oauth:\n        issuer: https://as.example\n        client_id: c\n        client_auth: {auth}\n        grant: {grant}\n        binding: {binding}\n    rules: [{{allow: GET /}}]\n"
        ));
        let keys: Vec<_> = found.iter().map(|problem| problem.key.clone()).collect();
        assert_eq!(keys, [format!("{AT}{key}")], "{auth} {grant}: {found}");
        assert!(found.to_string().contains(word), "{found}");
    }
}

#[test]
fn what_the_fapi_profile_does_not_allow() {
    run(FAPI);
}

const FAPI: &[Case] = &[(
    "everything at once",
    "issuers: {as: {url: https://as.example, assertion_audience: token_endpoint}}\nservices:\n  a:\n    hosts: [a.example]\n    credential:\n      oauth:\n        issuer: as\n        client_id: c\n        client_auth: none\n        grant: device_code\n        binding: bearer\n        profile: fapi2\n    rules: [{allow: GET /, scopes: [r]}]\n",
    &[
        (
            7,
            "services.a.credential.oauth.issuer",
            "meant for the issuer",
        ),
        (9, "services.a.credential.oauth.client_auth", "by a key"),
        (
            10,
            "services.a.credential.oauth.grant",
            "no logins on another device",
        ),
        (11, "services.a.credential.oauth.binding", "bound to a key"),
    ],
)];

/// What is wrong with `health` and `step_up`.
#[test]
fn health_and_step_up() {
    const TABLE: &[(&str, &str, &str, &str, &str)] = &[
        (
            "a.example",
            "{interval: 1s}",
            "scopes: [r]",
            "health.interval",
            "from 5s to 1h",
        ),
        (
            "a.example",
            "{probe: /ping}",
            "scopes: [r]",
            "health.probe",
            "GET /v1/ping",
        ),
        (
            "a.example",
            "{probe: POST /ping}",
            "scopes: [r]",
            "health.probe",
            "GET or HEAD",
        ),
        (
            "a.example",
            "{probe: GET /**}",
            "scopes: [r]",
            "health.probe",
            "without globs",
        ),
        (
            "a.example",
            "{probe: GET /none}",
            "scopes: [r]",
            "health.probe",
            "add a rule",
        ),
        (
            "'*.a.example'",
            "{probe: GET /ping}",
            "scopes: [r]",
            "health.probe",
            "exact name",
        ),
        (
            "a.example",
            "{}",
            "step_up: [w]",
            "rules[0].step_up",
            "need at first",
        ),
        (
            "a.example",
            "{}",
            "scopes: [r], step_up: ['a b']",
            "rules[0].step_up[0]",
            "an entry of its own",
        ),
    ];
    for (host, health, scopes, key, word) in TABLE {
        let found = problems(format!(
            "services:\n  a:\n    hosts: [{host}]\n    health: {health}\n    credential:\n      oauth:\n        issuer: https://as.example\n        client_id: c\n        client_auth: none\n        grant: client_credentials\n    rules: [{{allow: GET /ping, {scopes}}}]\n"
        ));
        let keys: Vec<_> = found.iter().map(|problem| problem.key.clone()).collect();
        assert_eq!(
            keys,
            [format!("services.a.{key}")],
            "{health} {scopes}: {found}"
        );
        assert!(found.to_string().contains(word), "{found}");
    }
    let found = problems(
        "services:\n  a:\n    hosts: [a.example]\n    health: {interval: 1m}\n    credential: {bearer: {env: T}}\n    rules: [{allow: GET /}]\n",
    );
    assert!(
        found.to_string().contains("only tokens of an issuer"),
        "{found}"
    );
}
