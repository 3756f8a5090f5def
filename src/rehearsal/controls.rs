//! What a test or the demo can change while the servers run. Only settings and a queue of faults: no behaviour.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

/// One of the servers of the rehearsal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// The API that takes DPoP-bound tokens only.
    Api,
    /// The authorization server.
    Issuer,
    /// The API that takes fixed keys and bearer tokens.
    Static,
}

impl Service {
    fn index(self) -> usize {
        match self {
            Self::Api => 0,
            Self::Issuer => 1,
            Self::Static => 2,
        }
    }
}

/// How a server treats nonces (RFC 9449 §8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonceMode {
    /// None is asked for and none is sent.
    Off,
    /// A new one with every response; the last hundred stay good.
    Rotating,
    /// A new one with every response, and each is good for one request.
    SingleUse,
    /// One, until it is rotated or expired by hand.
    Stable,
}

/// What a server offers in ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    /// HTTP/2 and HTTP/1.1.
    Both,
    /// HTTP/1.1 only.
    H1,
    /// HTTP/2 only.
    H2,
}

/// Settings that every server has.
#[derive(Debug, Clone)]
pub struct SiteSettings {
    /// What is offered in ALPN to new connections.
    pub alpn: Alpn,
    /// How far the server's clock, its `Date` included, is ahead in seconds.
    pub clock_skew: i64,
    /// How long it waits before it answers anything.
    pub delay: Duration,
}

impl Default for SiteSettings {
    fn default() -> Self {
        Self {
            alpn: Alpn::Both,
            clock_skew: 0,
            delay: Duration::ZERO,
        }
    }
}

/// What is wrong with the issuer's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataFault {
    /// `dpop_signing_alg_values_supported` names these instead of ES256.
    Algorithms(Vec<String>),
    /// `issuer` stands in it twice.
    DuplicateMembers,
    /// Megabytes of white space.
    Huge,
    /// The token endpoint is `http:`.
    HttpTokenEndpoint,
    /// No `dpop_signing_alg_values_supported` at all.
    NoDpop,
    /// The token endpoint is somewhere else.
    TokenEndpoint(String),
    /// `issuer` names somebody else.
    WrongIssuer,
}

/// What the issuer says when it is asked after a token (RFC 7662).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Introspection {
    /// No of every token: an issuer that cannot look its own tokens up.
    AlwaysNo,
    /// The truth.
    Honest,
    /// Its metadata has the endpoint, and the endpoint refuses every client.
    Refused,
}

/// What the issuer says in `expires_in`.
#[derive(Debug, Clone, PartialEq)]
pub enum ExpiresIn {
    /// Nothing.
    Omitted,
    /// Any JSON: a wrong number, a string, a negative one.
    Said(Value),
    /// The token's life.
    Truth,
}

/// Settings of the issuer.
#[derive(Debug, Clone)]
pub struct IssuerSettings {
    /// Nonces in DPoP proofs; stable at the start.
    pub nonces: NonceMode,
    /// The status of the nonce challenge; 400 (RFC 9449 §8).
    pub challenge_status: u16,
    /// Every token request is challenged for another nonce.
    pub always_challenge: bool,
    /// Seconds that a proof's `iat` may be away; 60.
    pub iat_window: i64,
    /// Client assertions have `typ: JWT` and the token endpoint as audience, as before RFC 10070.
    pub legacy_assertions: bool,
    /// Seconds that a token lives; 300.
    pub token_life: u64,
    /// What the answer says about it.
    pub expires_in: ExpiresIn,
    /// A `token_type` in place of the true one: `Bearer` is the downgrade.
    pub token_type: Option<String>,
    /// The token is bound to another key than the proof's.
    pub wrong_jkt: bool,
    /// A scope in place of the one asked for, in token and answer: wider or narrower.
    pub scope: Option<String>,
    /// The answer has no `scope`.
    pub omit_scope: bool,
    /// The answer has `access_token` twice.
    pub duplicate_members: bool,
    /// What is wrong with the metadata.
    pub metadata: Option<MetadataFault>,
    /// How it answers who asks after a token; not at all and not in its metadata at the start.
    pub introspection: Option<Introspection>,
    /// There is an endpoint for revocation (RFC 7009).
    pub revokes: bool,
}

impl Default for IssuerSettings {
    fn default() -> Self {
        Self {
            nonces: NonceMode::Stable,
            challenge_status: 400,
            always_challenge: false,
            iat_window: 60,
            legacy_assertions: false,
            token_life: 300,
            expires_in: ExpiresIn::Truth,
            token_type: None,
            wrong_jkt: false,
            scope: None,
            omit_scope: false,
            duplicate_members: false,
            metadata: None,
            introspection: None,
            revokes: true,
        }
    }
}

/// How the API writes its challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChallengeForm {
    /// `Bearer …, DPoP …` in one line.
    AfterBearer,
    /// `Bearer` alone: an API that knows no DPoP.
    BearerOnly,
    /// `DPoP error=…`.
    Dpop,
    /// `error` as last parameter, behind a quoted string with a comma and a scheme's name in it.
    LastParameter,
    /// Scheme and parameter names in unusual case, a token in place of a quoted string.
    OddCase,
    /// `Bearer` in the first field line, `DPoP` in the second.
    SecondLine,
}

/// Which nonce the API sends in a nonce challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChallengeNonce {
    /// A good one.
    Good,
    /// A value outside `1*NQCHAR`.
    Malformed,
    /// None, on no response at all.
    Missing,
    /// The very one that the proof had.
    Same,
    /// Two field lines.
    Twice,
}

/// How the API reads `htu`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HtuRule {
    /// The bytes of the request.
    Exact,
    /// The path with every escape decoded, as some deployed servers do.
    PercentDecoded,
    /// The path without this prefix, as servers behind a gateway do.
    WithoutPrefix(String),
}

/// Settings of the DPoP API.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// Nonces; stable at the start.
    pub nonces: NonceMode,
    /// Every request is challenged for another nonce.
    pub always_challenge: bool,
    /// The nonce in a nonce challenge.
    pub challenge_nonce: ChallengeNonce,
    /// The status of refusals; 401.
    pub challenge_status: u16,
    /// How challenges are written.
    pub challenge: ChallengeForm,
    /// Every proof is refused with `invalid_dpop_proof`.
    pub reject_proofs: bool,
    /// Every token is refused with `invalid_token`.
    pub reject_tokens: bool,
    /// Refusals go out before the request's body is read.
    pub early_answer: bool,
    /// Seconds that a proof's `iat` may be away; 60.
    pub iat_window: i64,
    /// How `htu` is read.
    pub htu: HtuRule,
    /// Takes any token of the issuer, with or without proof: the broken API that shows that the demo can fail.
    pub trusting: bool,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            nonces: NonceMode::Stable,
            always_challenge: false,
            challenge_nonce: ChallengeNonce::Good,
            challenge_status: 401,
            challenge: ChallengeForm::Dpop,
            reject_proofs: false,
            reject_tokens: false,
            early_answer: false,
            iat_window: 60,
            htu: HtuRule::Exact,
            trusting: false,
        }
    }
}

/// An answer in place of the true one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The true answer, and the connection is closed gracefully behind it (GOAWAY, `Connection: close`).
    CloseAfter,
    /// The true answer, later.
    Delay(Duration),
    /// Head and some bytes, then the connection is cut.
    DropAfterHead,
    /// The connection is cut without an answer.
    DropBeforeAnswer,
    /// No answer, and the connection stays open.
    Hang,
    /// An HTML page with a text in it that nobody must repeat.
    Html {
        /// Its status.
        status: u16,
        /// The text.
        canary: String,
    },
    /// A JSON body of this many bytes, with status 200.
    Huge {
        /// Its length.
        bytes: u64,
    },
    /// An OAuth error (RFC 6749 §5.2).
    OAuth {
        /// Its status.
        status: u16,
        /// `error`.
        error: String,
    },
    /// A redirect.
    Redirect {
        /// 302, 307…
        status: u16,
        /// `Location`.
        to: String,
    },
    /// A bare status.
    Status {
        /// The status.
        status: u16,
        /// `Retry-After`, verbatim.
        retry_after: Option<String>,
    },
}

#[derive(Debug)]
struct Fault {
    service: Service,
    path: String,
    left: u32,
    failure: Failure,
}

#[derive(Default)]
struct State {
    sites: [SiteSettings; 3],
    issuer: IssuerSettings,
    api: ApiSettings,
    faults: Vec<Fault>,
}

/// The control desk. All clones turn the same knobs; a change is seen by the next request.
#[derive(Clone, Default)]
pub struct Controls(Arc<Mutex<State>>);

impl Controls {
    fn with<T>(&self, turn: impl FnOnce(&mut State) -> T) -> T {
        turn(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what every server has.
    pub fn site(&self, service: Service, change: impl FnOnce(&mut SiteSettings)) {
        self.with(|state| change(&mut state.sites[service.index()]));
    }

    /// Changes the issuer.
    pub fn issuer(&self, change: impl FnOnce(&mut IssuerSettings)) {
        self.with(|state| change(&mut state.issuer));
    }

    /// Changes the DPoP API.
    pub fn api(&self, change: impl FnOnce(&mut ApiSettings)) {
        self.with(|state| change(&mut state.api));
    }

    /// The next `times` requests to a server are answered so.
    pub fn fail(&self, service: Service, times: u32, failure: Failure) {
        self.fail_path(service, "/", times, failure);
    }

    /// The next `times` requests to a path of a server, or below it, are answered so.
    pub fn fail_path(&self, service: Service, path: &str, times: u32, failure: Failure) {
        self.with(|state| {
            state.faults.push(Fault {
                service,
                path: path.to_owned(),
                left: times,
                failure,
            });
        });
    }

    /// Settings and faults as at the start (`legacy_assertions` is off then, whatever the options said).
    pub fn reset(&self) {
        self.with(|state| *state = State::default());
    }

    pub(super) fn site_now(&self, service: Service) -> SiteSettings {
        self.with(|state| state.sites[service.index()].clone())
    }

    pub(super) fn issuer_now(&self) -> IssuerSettings {
        self.with(|state| state.issuer.clone())
    }

    pub(super) fn api_now(&self) -> ApiSettings {
        self.with(|state| state.api.clone())
    }

    /// The failure due for a request, counted down.
    pub(super) fn failure_for(&self, service: Service, path: &str) -> Option<Failure> {
        self.with(|state| {
            state.faults.retain(|fault| fault.left > 0);
            let due = state
                .faults
                .iter_mut()
                .find(|fault| fault.service == service && path.starts_with(&fault.path))?;
            due.left -= 1;
            Some(due.failure.clone())
        })
    }
}

#[cfg(test)]
mod tests;
