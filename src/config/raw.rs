//! The file as the user wrote it: keys, shapes and nothing else.
//!
//! These types are the source of two things that must not drift apart: serde fills them, and schemars turns them and
//! their comments into the JSON schema, which `shape` then checks files against. So a key is known exactly if it
//! stands here, and a key stands here exactly if it works. Values stay text; `compile` reads them.
//!
//! A field is an `Option` even where it is required (`with` tells the schema so): what was refused before is left
//! out, so that one mistake does not hide the others.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// Entries of a list; one that was refused is a hole, so that the numbers of the others stay.
pub(super) type List<T> = Vec<Option<T>>;
/// Entries by name; one that was refused is a hole, so that references to it still resolve.
pub(super) type Named<T> = BTreeMap<String, Option<T>>;

/// Configuration of tokenward, an egress proxy that attaches credentials which the agent never holds.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "tokenward configuration")]
pub(super) struct RawFile {
    /// Addresses on which agents reach the proxy.
    pub(super) listen: Option<RawListen>,
    /// Address of /livez, /readyz and /metrics; absent: off.
    pub(super) health: Option<String>,
    /// Where operators speak to the running proxy. Default: a unix socket in the state directory.
    pub(super) admin: Option<RawAdmin>,
    /// Directory of what is public: `ca.pem`, `bundle.pem`, `trust.p12` for Java and `wgetrc`. Default: `/run/tokenward` for
    /// root, otherwise `$XDG_RUNTIME_DIR/tokenward`.
    pub(super) runtime_dir: Option<String>,
    /// The interception CA; absent: one that lives in memory and is new at each start.
    pub(super) ca: Option<RawCa>,
    /// Where refresh tokens and the keys that they are bound to are kept. Default: memory.
    pub(super) store: Option<RawStore>,
    /// The audit file; absent: standard output of `serve`.
    pub(super) audit: Option<RawAudit>,
    /// Who may call; absent: one agent named `default` with all services, on loopback and unix listeners
    /// only.
    pub(super) agents: Option<Named<RawAgent>>,
    /// What metadata cannot tell about authorization servers.
    pub(super) issuers: Option<Named<RawIssuer>>,
    /// The APIs that agents may call.
    pub(super) services: Option<Named<RawService>>,
    /// `host:port` of destinations passed through blind: never a credential, never a wildcard.
    pub(super) tunnel: Option<List<String>>,
    /// The proxy through which everything leaves; absent: the network is reached directly.
    pub(super) parent_proxy: Option<RawParentProxy>,
    /// Upper bounds.
    pub(super) limits: Option<RawLimits>,
    /// What happens between SIGTERM and the end.
    pub(super) drain: Option<RawDrain>,
}

/// Where operators speak to the running proxy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    /// `unix:PATH`, in a folder of its own that is this user's with mode 0700; or `host:port` with an IP address, which needs
    /// `token`, and `tls` where it is not loopback.
    #[schemars(with = "String")]
    pub(super) listen: Option<String>,
    /// What callers must show in `Authorization: Bearer`.
    pub(super) token: Option<SecretRef>,
    /// Speaks TLS with this certificate. The verbs know the proxy by it, whoever signed it.
    pub(super) tls: Option<RawListenerTls>,
}

/// The proxy through which everything leaves, by CONNECT.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawParentProxy {
    /// `http://host:port`, or `https://host:port` where it is spoken to in TLS.
    #[schemars(with = "String")]
    pub(super) url: Option<String>,
    /// `user:password` for Basic.
    pub(super) auth: Option<SecretRef>,
    /// Destinations that are dialled directly: a host and what is below it, an address, a network such as 10.0.0.0/8.
    pub(super) except: Option<List<String>>,
    /// Roots to trust for its own certificate, in addition to the system's.
    pub(super) ca: Option<RawFileRef>,
}

/// Addresses on which agents reach the proxy.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListen {
    /// Explicit HTTP proxy (CONNECT and absolute-form); one address or a list. Default: 127.0.0.1:8080.
    pub(super) proxy: Option<OneOrMany<RawListener>>,
    /// Connections that the system redirects here; one address or a list. Absent: off. `tokenward netfilter` makes the rules.
    pub(super) transparent: Option<OneOrMany<RawTransparent>>,
}

/// An address to which connections are redirected.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RawTransparent {
    /// `host:port` with an IP address.
    Address(String),
    /// The address with its settings.
    Full(Box<RawFullTransparent>),
}

/// An address to which connections are redirected, with its settings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFullTransparent {
    /// `host:port` with an IP address. One of IPv6 takes IPv6 alone.
    #[schemars(with = "String")]
    pub(super) address: Option<String>,
    /// Whose all its connections are. Absent: `default`, where no agent is named; otherwise they are refused.
    pub(super) agent: Option<String>,
    /// How connections come here. Default: redirect.
    pub(super) mode: Option<RawRedirectMode>,
}

/// How connections come to a transparent listener.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawRedirectMode {
    /// By NAT to an address of this machine.
    Redirect,
    /// Without NAT, by TPROXY; takes CAP_NET_ADMIN or CAP_NET_RAW.
    Tproxy,
}

/// One entry or a list of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum OneOrMany<T> {
    /// A list.
    Many(List<T>),
    /// One entry without a list around it.
    One(T),
}

/// An address of the proxy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RawListener {
    /// `host:port` with an IP address, or `unix:PATH`.
    Address(String),
    /// The address with its settings.
    Full(Box<RawFullListener>),
}

/// An address of the proxy with its settings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFullListener {
    /// `host:port` with an IP address, or `unix:PATH`.
    #[schemars(with = "String")]
    pub(super) address: Option<String>,
    /// Speaks TLS with this certificate; `https://` is then the scheme of the proxy's URL.
    pub(super) tls: Option<RawListenerTls>,
    /// Mode of a unix socket, in octal. Default: 0600.
    pub(super) mode: Option<RawMode>,
    /// Accepts that agents send their proxy tokens in clear text; needed where the address is not loopback.
    pub(super) plaintext: Option<bool>,
}

/// The certificate of a listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListenerTls {
    /// The certificate and what is above it, in PEM. Agents must trust it; it is not made by tokenward.
    #[schemars(with = "RawFileRef")]
    pub(super) cert: Option<RawFileRef>,
    /// Its private key, in PEM.
    #[schemars(with = "SecretRef")]
    pub(super) key: Option<SecretRef>,
}

/// Permissions of a file: three octal digits, with or without a 0 in front.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct RawMode(#[schemars(regex(pattern = "^0?[0-7]{3}$"))] pub(super) String);

/// The interception CA: a directory that tokenward keeps, or a certificate and key of your own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCa {
    /// Directory of `ca.key` and `instance.key`.
    pub(super) dir: Option<String>,
    /// Your own CA certificate; needs `key`.
    pub(super) cert: Option<RawFileRef>,
    /// Private key of `cert`, in PEM.
    pub(super) key: Option<SecretRef>,
}

/// A file that holds nothing secret.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFileRef {
    /// Its path, relative to the configuration file.
    #[schemars(with = "String")]
    pub(super) file: Option<String>,
}

/// Where refresh tokens and the keys that they are bound to are kept.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawStore {
    /// A sealed file that belongs to one process.
    File(RawFileStore),
    /// In memory: they end with the process.
    Memory,
}

/// A sealed file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFileStore {
    /// Its path, relative to the configuration file; beside it tokenward keeps `<path>.lock`.
    #[schemars(with = "String")]
    pub(super) path: Option<String>,
    /// What it is sealed with: 32 random bytes in hexadecimal or base64.
    #[schemars(with = "SecretRef")]
    pub(super) key: Option<SecretRef>,
    /// What it was sealed with before: at the next start it is opened with this key and sealed anew with `key`.
    pub(super) previous_key: Option<SecretRef>,
}

/// The audit file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAudit {
    /// Its path, relative to the configuration file; absent: standard output.
    pub(super) file: Option<String>,
    /// What happens to requests whose line cannot be kept. Default: refuse.
    pub(super) when_full: Option<RawWhenFull>,
}

/// What happens to requests whose audit line cannot be kept.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawWhenFull {
    /// They go on; the lost lines are counted.
    Count,
    /// They are refused.
    Refuse,
}

/// Somebody who may call.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAgent {
    /// How the agent proves its name; may be absent where a transparent listener is its own.
    pub(super) auth: Option<RawAgentAuth>,
    /// Names of the services it may use; absent: all.
    pub(super) services: Option<List<String>>,
    /// What is done where it shows a placeholder to another service than its own, or to a host that is none. Default: deny.
    pub(super) placeholder_misuse: Option<RawMisuse>,
    /// What is usual for it; absent: anything is.
    pub(super) watch: Option<RawWatch>,
}

/// What is done where an agent misuses a placeholder.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawMisuse {
    /// The request is refused, and noted.
    Deny,
    /// The request is refused, and all that the agent is lent is revoked, until the operator lifts it.
    Revoke,
}

/// What is usual for an agent.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWatch {
    /// Networks or addresses that it calls from, such as 10.0.0.0/8; absent: any. Unix sockets are always among them.
    pub(super) sources: Option<List<String>>,
    /// When it calls, such as `Mon-Fri 08:00-18:00`; one or a list; absent: at any time.
    pub(super) hours: Option<OneOrMany<String>>,
    /// Where `hours` are: `UTC`, or an offset such as `+02:00`. Default: UTC.
    pub(super) timezone: Option<String>,
    /// How many times its own usual rate is too much, such as `5x`; absent: any rate is usual.
    pub(super) rate: Option<RawFactor>,
    /// What is done about what is not usual. Default: log.
    pub(super) action: Option<RawWatchAction>,
}

/// A number of times: `5x`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct RawFactor(
    #[schemars(regex(pattern = "^[0-9]+(\\.[0-9]+)?x$"))] pub(super) String,
);

/// What is done about what is not usual.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawWatchAction {
    /// The request is refused, and noted.
    Deny,
    /// It is noted.
    Log,
    /// The request is refused, and all that the agent is lent is revoked, until the operator lifts it.
    Revoke,
}

/// How an agent proves its name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawAgentAuth {
    /// A token in Proxy-Authorization.
    Token(SecretRef),
    /// SHA-256 of such a token, in 64 hexadecimal digits.
    TokenSha256(String),
}

/// What metadata cannot tell about an authorization server.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIssuer {
    /// The issuer identifier (RFC 8414), an https URL.
    #[schemars(with = "String")]
    pub(super) url: Option<String>,
    /// Roots to trust in addition to the system's.
    pub(super) ca: Option<RawFileRef>,
    /// Dial this address; every endpoint keeps its own port unless one is given here.
    pub(super) connect: Option<String>,
    /// Admits RFC 1918, CGNAT, unique-local and loopback addresses.
    pub(super) allow_private: Option<bool>,
    /// Whom client assertions are meant for. Default: issuer (RFC 10070).
    pub(super) assertion_audience: Option<RawAssertionAudience>,
}

/// Whom client assertions are meant for.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawAssertionAudience {
    /// The issuer identifier.
    Issuer,
    /// The token endpoint, for older servers.
    TokenEndpoint,
}

/// An API with one credential.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawService {
    /// Its hosts: exact, `*.x` for one label, `**.x` for any depth.
    #[schemars(with = "List<String>")]
    pub(super) hosts: Option<List<String>>,
    /// Its port. Default: 443; 80 is plain HTTP, which never carries a credential.
    #[schemars(range(min = 1))]
    pub(super) port: Option<u16>,
    /// How to reach it.
    pub(super) upstream: Option<RawUpstream>,
    /// How its credential is had; absent: none.
    pub(super) credential: Option<RawCredential>,
    /// What the agent holds instead of the credential.
    pub(super) placeholder: Option<RawPlaceholder>,
    /// What agents may do; nothing else is allowed.
    pub(super) rules: Option<List<RawRule>>,
    /// How the service compares the `htu` of proofs. Default: as_sent.
    pub(super) htu: Option<RawHtu>,
    /// What it takes `%2F` in a path for. Default: refuse.
    pub(super) escaped_slashes: Option<RawEscapedSlashes>,
    /// How long to wait for it.
    pub(super) timeouts: Option<RawTimeouts>,
    /// Longest life of one exchange; 0s: no limit.
    pub(super) max_stream_age: Option<RawDuration>,
    /// Largest request body that is kept for a second attempt. Default: 64KiB.
    pub(super) replay_buffer: Option<RawSize>,
    /// What becomes of answers that hold the credential. Default: redact.
    pub(super) response_guard: Option<RawResponseGuard>,
    /// What becomes of cookies, where it has a credential. Default: keep.
    pub(super) session_cookies: Option<RawSessionCookies>,
    /// What becomes of requests that hold a live secret of this proxy. Default: off.
    pub(super) request_guard: Option<RawRequestGuard>,
    /// How its tokens are asked after while they are in use.
    pub(super) health: Option<RawHealth>,
}

/// What becomes of requests that hold a live secret.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawRequestGuard {
    /// They are refused; a body that has begun to flow is broken off.
    Block,
    /// Nobody looks.
    Off,
}

/// What becomes of the cookies of a service with a credential.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawSessionCookies {
    /// They are dropped, those of the service and those of the agent.
    Drop,
    /// tokenward keeps them for the agent and sends them with its next requests; the agent's own are dropped.
    Keep,
    /// Those with these names pass, both ways; the others are dropped.
    Pass(List<String>),
}

/// What becomes of answers that hold the credential.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawResponseGuard {
    /// The placeholder stands in for it.
    Redact,
    /// The answer is refused.
    Block,
    /// Nobody looks: what the service answers reaches the agent, credentials included.
    Off,
}

/// How tokens in use are asked after.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealth {
    /// How often at most, each token; from 5s to 1h. Default: 5m.
    pub(super) interval: Option<RawDuration>,
    /// Whether the issuer is asked (RFC 7662), where it offers that and answers this client. Default: true.
    pub(super) introspection: Option<bool>,
    /// `GET PATH` or `HEAD PATH` of a cheap request to the API, whose answer tells whether a token is good.
    pub(super) probe: Option<String>,
}

/// What becomes of paths with `%2F`.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawEscapedSlashes {
    /// They are sent: the service takes it for a part of its segment. A `deny` holds for both readings.
    Literal,
    /// They are refused: whether it divides the path cannot be known.
    Refuse,
}

/// How to reach a service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstream {
    /// Roots to trust in addition to the system's.
    pub(super) ca: Option<RawFileRef>,
    /// Dial this `host` or `host:port` instead of asking DNS for the service's name.
    pub(super) connect: Option<String>,
    /// Admits RFC 1918, CGNAT, unique-local and loopback addresses.
    pub(super) allow_private: Option<bool>,
    /// Sends credentials to loopback in clear text. Only builds for tests have this key.
    #[cfg(feature = "danger-plain-http")]
    pub(super) danger_plain_http: Option<bool>,
}

/// How a credential is had.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawCredential {
    /// A fixed bearer token.
    Bearer(SecretRef),
    /// A fixed value in a header.
    Header(RawHeader),
    /// The service takes none.
    None,
    /// An access token from an authorization server.
    Oauth(Box<RawOauth>),
}

/// A fixed value in a header.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHeader {
    /// Name of the header.
    #[schemars(with = "String")]
    pub(super) name: Option<String>,
    /// Its whole value.
    #[schemars(with = "SecretRef")]
    pub(super) value: Option<SecretRef>,
}

/// An access token from an authorization server.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOauth {
    /// A name of `issuers`, or the issuer's URL.
    #[schemars(with = "String")]
    pub(super) issuer: Option<String>,
    /// Our name there.
    #[schemars(with = "String")]
    pub(super) client_id: Option<String>,
    /// How we prove that name.
    #[schemars(with = "RawClientAuth")]
    pub(super) client_auth: Option<RawClientAuth>,
    /// How tokens are had.
    #[schemars(with = "RawGrant")]
    pub(super) grant: Option<RawGrant>,
    /// Where the browser is sent after a login: `http`, a loopback address, a path; without a port any free one.
    /// Default: `http://127.0.0.1/callback`.
    pub(super) redirect_uri: Option<String>,
    /// Resource indicator (RFC 8707).
    pub(super) resource: Option<String>,
    /// `audience`, for servers that know that instead.
    pub(super) audience: Option<String>,
    /// Further parameters of the token request.
    pub(super) parameters: Option<BTreeMap<String, Option<String>>>,
    /// What ties the token to our key. Default: dpop.
    pub(super) binding: Option<RawBinding>,
    /// Longest use of one access token, from 1m to 30m. Default: 30m.
    pub(super) max_token_age: Option<RawDuration>,
    /// A security profile that client and issuer are held to. Default: none.
    pub(super) profile: Option<RawProfile>,
    /// A refresh that leaves the refresh token as it is counts as failed. Default: false.
    pub(super) require_rotation: Option<bool>,
    /// Tokens are revoked at the issuer when nobody used them for ten minutes and at the end of the process (RFC 7009),
    /// and so is a login, at the end of the process. Default: false.
    pub(super) revoke_on_exit: Option<bool>,
    /// What becomes of a token with other scopes than were asked for. Default: refuse.
    pub(super) scope_changes: Option<RawScopeChanges>,
}

/// What becomes of a token with other scopes than were asked for.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawScopeChanges {
    /// It is used, and an event says so.
    Pass,
    /// It is handed back, and an event says so.
    Refuse,
}

/// How the client proves its name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawClientAuth {
    /// A projected service-account token of Kubernetes, shown as assertion (RFC 7523) and read again for each request.
    Kubernetes(RawKubernetes),
    /// A certificate in the TLS handshake (RFC 8705), read again when its files are replaced.
    Mtls(RawMtls),
    /// A public client: its name alone.
    None,
    /// A signed assertion (RFC 7523).
    PrivateKeyJwt(RawPrivateKeyJwt),
    /// The client secret in Authorization: Basic.
    SecretBasic(SecretRef),
    /// The client secret in the form.
    SecretPost(SecretRef),
    /// A JWT-SVID of SPIFFE, read again for each request.
    Spiffe(RawSpiffe),
}

/// A projected service-account token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawKubernetes {
    /// The projected token.
    #[schemars(with = "RawFileRef")]
    pub(super) token: Option<RawFileRef>,
    /// Its one audience. Default: the issuer's URL.
    pub(super) audience: Option<String>,
}

/// A JWT-SVID.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSpiffe {
    /// The JWT-SVID, as an agent of SPIFFE keeps it.
    #[schemars(with = "RawFileRef")]
    pub(super) jwt_svid: Option<RawFileRef>,
    /// Its one audience. Default: the issuer's URL.
    pub(super) audience: Option<String>,
    /// How it is named to the issuer. Default: jwt_spiffe.
    pub(super) assertion_type: Option<RawAssertionType>,
}

/// How a JWT-SVID is named to the issuer.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawAssertionType {
    /// As any assertion (RFC 7523), for issuers that do not know the other.
    JwtBearer,
    /// As draft-ietf-oauth-spiffe-client-auth says.
    JwtSpiffe,
}

/// A client certificate.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMtls {
    /// The certificate in PEM, its chain after it.
    #[schemars(with = "RawFileRef")]
    pub(super) cert: Option<RawFileRef>,
    /// Its private key, in PEM.
    #[schemars(with = "SecretRef")]
    pub(super) key: Option<SecretRef>,
}

/// A signed assertion.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPrivateKeyJwt {
    /// The private key, in PEM.
    #[schemars(with = "SecretRef")]
    pub(super) key: Option<SecretRef>,
    /// Its name in the client's key set.
    pub(super) kid: Option<String>,
}

/// How tokens are had.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawGrant {
    /// A person logs in (RFC 6749 §4.1).
    AuthorizationCode,
    /// RFC 6749 §4.4.
    ClientCredentials,
    /// A person logs in on another device (RFC 8628).
    DeviceCode,
    /// An assertion is turned into a token (RFC 7523 §2.1).
    JwtBearer(RawJwtBearer),
    /// A refresh token that was had elsewhere (RFC 6749 §6); its successors are kept in the store.
    RefreshToken(SecretRef),
    /// A token is turned into another one (RFC 8693).
    TokenExchange(RawTokenExchange),
}

/// An assertion: one that somebody else signs, or `key` and `subject` to sign it here.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJwtBearer {
    /// The assertion, read again for each token request.
    pub(super) assertion: Option<SecretRef>,
    /// The private key to sign with, in PEM.
    pub(super) key: Option<SecretRef>,
    /// Its name at the issuer.
    pub(super) kid: Option<String>,
    /// `iss`. Default: the client_id.
    pub(super) issuer: Option<String>,
    /// `sub`: whose token it will be.
    pub(super) subject: Option<String>,
}

/// The tokens that are exchanged; each is read again for each token request.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTokenExchange {
    /// For whom the new token will speak.
    #[schemars(with = "SecretRef")]
    pub(super) subject_token: Option<SecretRef>,
    /// Its type: `jwt`, `access_token`, `id_token`, `refresh_token`, `saml1`, `saml2` or a URI. Default: jwt.
    pub(super) subject_token_type: Option<String>,
    /// Who acts for them.
    pub(super) actor_token: Option<SecretRef>,
    /// Its type. Default: jwt.
    pub(super) actor_token_type: Option<String>,
    /// The type to ask for: `access_token`, `jwt` or their URIs; absent: the server's choice.
    pub(super) requested_token_type: Option<String>,
}

/// A security profile.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawProfile {
    /// FAPI 2.0 Security Profile.
    Fapi2,
    /// None beyond what always holds.
    None,
}

/// What ties a token to our key.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawBinding {
    /// Nothing: whoever holds the token may use it.
    Bearer,
    /// DPoP (RFC 9449) at the issuer and at the API.
    Dpop,
    /// Our client certificate (RFC 8705), at the issuer and at the API; needs `client_auth: {mtls: …}`.
    Mtls,
    /// DPoP at the issuer only.
    RefreshOnly,
}

/// What the agent holds instead of the credential.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPlaceholder {
    /// Environment variable that `env` sets for the agent.
    pub(super) variable: Option<String>,
    /// How it looks: text with `{random:N}`, N at least 22, or `{jwt}`.
    pub(super) shape: Option<String>,
    /// Whether requests must show it. Default: optional.
    pub(super) mode: Option<RawPlaceholderMode>,
}

/// Whether requests must show the placeholder.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawPlaceholderMode {
    /// The credential is attached whether or not it is there.
    Optional,
    /// Without it the request is refused.
    Required,
}

/// A rule: exactly one of `allow` and `deny`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    /// `METHODS PATH` of requests that may go out.
    pub(super) allow: Option<String>,
    /// `METHODS PATH` of requests that may not, whatever else allows them.
    pub(super) deny: Option<String>,
    /// Scopes of the token for these requests.
    pub(super) scopes: Option<List<String>>,
    /// Further scopes that the API may ask for when it refuses such a request for want of scope (RFC 6750 §3.1); at most
    /// twice an hour. Default: none.
    pub(super) step_up: Option<List<String>>,
}

/// How a service compares `htu`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawHtu {
    /// The path as it is sent.
    AsSent,
    /// With escapes of unreserved characters decoded.
    DecodeUnreserved,
    /// With every escape decoded.
    PercentDecoded,
    /// Without this prefix.
    StripPrefix(String),
}

/// How long to wait for a service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTimeouts {
    /// For a connection, DNS and TLS included. Default: 3s.
    pub(super) connect: Option<RawDuration>,
    /// For the head of the answer. Default: 60s.
    pub(super) first_byte: Option<RawDuration>,
    /// Between two pieces of a body. Default: 300s.
    pub(super) idle: Option<RawDuration>,
}

/// Upper bounds.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    /// Connections from agents; fewer where the process may not open that many files. Default: 10000.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) connections: Option<u32>,
    /// Bounds of each agent.
    pub(super) per_agent: Option<RawAgentLimits>,
    /// Largest head of a request. Default: 64KiB.
    pub(super) request_head: Option<RawSize>,
    /// Request bodies kept for a second attempt, all together; a body beyond it streams through and is not kept.
    /// Default: 64MiB.
    pub(super) replay_total: Option<RawSize>,
}

/// Bounds of each agent.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAgentLimits {
    /// Its connections. Default: 1024.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) connections: Option<u32>,
    /// Its requests under way, over all its connections. Default: 256.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) streams: Option<u32>,
    /// Its requests in a second, refused ones too; as many may come at once after a pause. Default: 500.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) requests_per_second: Option<u32>,
    /// Leaf certificates made for it in a second, of hosts below a wildcard above all. Default: 50.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(super) certificates_per_second: Option<u32>,
    /// Slowest upload, over 30 seconds of waiting for the agent. Default: 100B/s.
    pub(super) body_floor: Option<RawRate>,
}

/// What happens between SIGTERM and the end.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDrain {
    /// How long requests under way may take to finish. Default: 30s.
    pub(super) timeout: Option<RawDuration>,
    /// How long new connections are still accepted. Default: 0s.
    pub(super) pre_stop: Option<RawDuration>,
}

/// A time span: a whole number and `ms`, `s`, `m` or `h`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct RawDuration(
    #[schemars(regex(pattern = "^([0-9]+(ms|s|m|h)|0)$"))] pub(super) String,
);

/// A size in bytes: a whole number and `B`, `KiB` or `MiB`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct RawSize(#[schemars(regex(pattern = "^[0-9]+(B|KiB|MiB)$"))] pub(super) String);

/// A rate: a whole number and `B/s`, `KiB/s` or `MiB/s`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct RawRate(#[schemars(regex(pattern = "^[0-9]+(B|KiB|MiB)/s$"))] pub(super) String);

/// Where a secret is found; never the secret itself.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum SecretRef {
    /// An environment variable.
    Env(String),
    /// Standard output of a command, which runs in a cleared environment for at most 10 seconds.
    Exec(Vec<String>),
    /// A file, relative to the configuration file.
    File(String),
    /// A person, who is asked with this text on the terminal when tokenward starts.
    Prompt(String),
}
