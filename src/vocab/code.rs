//! The closed list of problem codes: what an agent is told, and what the audit file and the metrics count.
//!
//! One row a situation; the texts are fixed, so nothing from an upstream, no address and no length of a secret can
//! get into an answer. Several rows may share a code where only the status differs.

use std::fmt;

/// RFC 9209 error types that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyError {
    /// `connection_refused`
    ConnectionRefused,
    /// `connection_terminated`
    ConnectionTerminated,
    /// `connection_timeout`
    ConnectionTimeout,
    /// `destination_ip_prohibited`
    DestinationIpProhibited,
    /// `destination_unavailable`
    DestinationUnavailable,
    /// `dns_error`
    DnsError,
    /// `dns_timeout`
    DnsTimeout,
    /// `http_protocol_error`
    HttpProtocolError,
    /// `http_request_denied`
    HttpRequestDenied,
    /// `http_request_error`
    HttpRequestError,
    /// `http_response_timeout`
    HttpResponseTimeout,
    /// `proxy_configuration_error`
    ProxyConfigurationError,
    /// `proxy_internal_error`
    ProxyInternalError,
    /// `proxy_internal_response`
    ProxyInternalResponse,
    /// `proxy_loop_detected`
    ProxyLoopDetected,
    /// `tls_certificate_error`
    TlsCertificateError,
}

impl ProxyError {
    /// The token as `Proxy-Status` carries it (RFC 9209 §2.3).
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConnectionRefused => "connection_refused",
            Self::ConnectionTerminated => "connection_terminated",
            Self::ConnectionTimeout => "connection_timeout",
            Self::DestinationIpProhibited => "destination_ip_prohibited",
            Self::DestinationUnavailable => "destination_unavailable",
            Self::DnsError => "dns_error",
            Self::DnsTimeout => "dns_timeout",
            Self::HttpProtocolError => "http_protocol_error",
            Self::HttpRequestDenied => "http_request_denied",
            Self::HttpRequestError => "http_request_error",
            Self::HttpResponseTimeout => "http_response_timeout",
            Self::ProxyConfigurationError => "proxy_configuration_error",
            Self::ProxyInternalError => "proxy_internal_error",
            Self::ProxyInternalResponse => "proxy_internal_response",
            Self::ProxyLoopDetected => "proxy_loop_detected",
            Self::TlsCertificateError => "tls_certificate_error",
        }
    }
}

/// What the one who is told can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Ask whoever runs the proxy.
    AskOperator,
    /// The proxy's configuration is wrong.
    FixConfig,
    /// Nothing; the request is not carried.
    None,
    /// The operator must log in again.
    Reauthorize,
    /// Ask for less.
    ReduceScope,
    /// Try again, after `Retry-After`.
    Retry,
}

impl Remedy {
    /// The word in the problem document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AskOperator => "ask_operator",
            Self::FixConfig => "fix_config",
            Self::None => "none",
            Self::Reauthorize => "reauthorize",
            Self::ReduceScope => "reduce_scope",
            Self::Retry => "retry",
        }
    }
}

/// Whose doing a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The agent asked for what it may not have, or asked badly.
    Agent,
    /// The authorization server.
    Issuer,
    /// The API.
    Service,
    /// We ourselves, or our configuration.
    Tokenward,
}

impl Fault {
    /// The word in audit lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Issuer => "issuer",
            Self::Service => "service",
            Self::Tokenward => "tokenward",
        }
    }
}

/// Everything that is fixed about a situation.
struct Row {
    code: &'static str,
    status: u16,
    title: &'static str,
    proxy_error: ProxyError,
    retryable: bool,
    remedy: Remedy,
    fault: Fault,
}

macro_rules! codes {
    ($($variant:ident $code:literal $status:literal $title:literal $error:ident $retryable:literal $remedy:ident $fault:ident;)*) => {
        /// A situation in which an agent is refused. Closed: a new one needs a row in the README's table first.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// Every situation, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row {
                        code: $code,
                        status: $status,
                        title: $title,
                        proxy_error: ProxyError::$error,
                        retryable: $retryable,
                        remedy: Remedy::$remedy,
                        fault: Fault::$fault,
                    },)*
                }
            }
        }
    };
}

codes! {
    AgentUnauthenticated "agent-unauthenticated" 407 "The proxy does not know this agent" HttpRequestDenied false AskOperator Agent;
    AgentUnknown "agent-unauthenticated" 403 "The proxy does not know whose connection this is" HttpRequestDenied false AskOperator Agent;
    DestinationDenied "destination-denied" 403 "No service of this agent has this destination" HttpRequestDenied false AskOperator Agent;
    DestinationIpProhibited "destination-ip-prohibited" 403 "The destination's address is not allowed" DestinationIpProhibited false AskOperator Agent;
    PolicyDenied "policy-denied" 403 "No rule allows this request" HttpRequestDenied false AskOperator Agent;
    ScopeDenied "scope-denied" 403 "The API asks for more scope than policy allows" HttpRequestDenied false ReduceScope Service;
    AuthorityMismatch "authority-mismatch" 421 "The request names another destination than its connection" HttpRequestError false None Agent;
    BadRequest "bad-request" 400 "The request is malformed or ambiguous" HttpRequestError false None Agent;
    MethodNotSupported "method-not-supported" 405 "This method is never carried" HttpRequestDenied false None Agent;
    AgentRateLimited "agent-rate-limited" 429 "The agent has used up its share" HttpRequestDenied true Retry Agent;
    AsUnavailable "as-unavailable" 503 "No token can be had at the moment" DestinationUnavailable true Retry Issuer;
    AsTimeout "as-unavailable" 504 "No token can be had at the moment" ConnectionTimeout true Retry Issuer;
    AsTlsError "as-tls-error" 502 "The issuer's TLS certificate was not accepted" TlsCertificateError false AskOperator Issuer;
    AsMetadataInvalid "as-metadata-invalid" 502 "The issuer's metadata cannot be trusted" ProxyConfigurationError false FixConfig Issuer;
    ReauthorizationRequired "reauthorization-required" 403 "The grant has ended and must be renewed by the operator" HttpRequestDenied false Reauthorize Issuer;
    ClientMisconfigured "client-misconfigured" 403 "The issuer refuses this client's configuration" ProxyConfigurationError false FixConfig Tokenward;
    ApprovalPending "approval-pending" 403 "The operator has not approved yet" HttpRequestDenied true AskOperator Tokenward;
    DowngradeRefused "downgrade-refused" 502 "The issuer answered with a weaker token than configured" ProxyInternalResponse false FixConfig Issuer;
    BindingMismatch "binding-mismatch" 502 "The issued token is bound to another key" ProxyInternalResponse false AskOperator Issuer;
    UnsupportedDpopAlg "client-misconfigured" 403 "The issuer takes no DPoP algorithm that tokenward signs" ProxyConfigurationError false FixConfig Issuer;
    DpopNonceRetry "dpop-nonce-retry" 503 "The API wants a fresh nonce; the same request will now succeed" ProxyInternalResponse true Retry Service;
    DpopNonceLoop "dpop-nonce-loop" 502 "The API keeps asking for another nonce" ProxyInternalResponse true AskOperator Service;
    DpopProofRejected "dpop-proof-rejected" 502 "The API does not accept the proof" ProxyInternalResponse false FixConfig Service;
    UpstreamRejectedCredential "upstream-rejected-credential" 502 "The API does not accept the token" ProxyInternalResponse true AskOperator Service;
    UpstreamUnauthorized "upstream-unauthorized" 502 "The API answers 401 without a challenge that can be met" ProxyInternalResponse false AskOperator Service;
    StepupRequired "stepup-required" 403 "The API wants a stronger or fresher login" HttpRequestDenied false Reauthorize Service;
    DnsError "dns-error" 502 "The destination's name does not resolve" DnsError true Retry Service;
    DnsTimeout "dns-error" 504 "The destination's name did not resolve in time" DnsTimeout true Retry Service;
    UpstreamUnreachable "upstream-unreachable" 502 "The API cannot be reached" ConnectionRefused true Retry Service;
    UpstreamReset "upstream-unreachable" 502 "The API closed the connection before it answered" ConnectionTerminated false Retry Service;
    UpstreamTimeout "upstream-timeout" 504 "The API did not answer in time" HttpResponseTimeout true Retry Service;
    UpstreamConnectTimeout "upstream-timeout" 504 "The API did not accept a connection in time" ConnectionTimeout true Retry Service;
    UpstreamTlsError "upstream-tls-error" 502 "The API's TLS certificate was not accepted" TlsCertificateError false AskOperator Service;
    CredentialReflected "credential-reflected" 502 "The API's answer held the credential" ProxyInternalResponse false AskOperator Service;
    ServiceRevoked "service-revoked" 403 "The operator has revoked this access" HttpRequestDenied false AskOperator Tokenward;
    AnomalyDenied "anomaly-denied" 403 "This use is outside what is usual" HttpRequestDenied false AskOperator Tokenward;
    Overloaded "overloaded" 503 "The proxy is at its limit" ProxyInternalError true Retry Tokenward;
    Draining "draining" 503 "The proxy is shutting down" ProxyInternalError true Retry Tokenward;
    ProxyLoop "proxy-loop" 508 "The request came through this proxy before" ProxyLoopDetected false FixConfig Agent;
    Internal "internal" 500 "Something went wrong inside the proxy" ProxyInternalError false AskOperator Tokenward;
    IdentityUnavailable "identity-unavailable" 503 "The workload identity cannot be read" ProxyConfigurationError true Retry Tokenward;
    PlaceholderMismatch "placeholder-mismatch" 403 "This placeholder belongs to another service or agent" HttpRequestDenied false AskOperator Agent;
    PlaceholderRequired "placeholder-required" 403 "The service's placeholder is missing" HttpRequestDenied false FixConfig Agent;
    SignedRequest "placeholder-required" 403 "The request is signed instead of carrying the service's placeholder" HttpRequestError false FixConfig Agent;
    TlsRequired "tls-required" 403 "This service is reached by https only" HttpRequestDenied false None Agent;
    MethodOverride "method-override" 403 "A header tries to change the method" HttpRequestDenied false None Agent;
    UpgradeNotSupported "upgrade-not-supported" 501 "This upgrade or transfer coding is not carried" HttpRequestError false None Agent;
    ExpectationFailed "expectation-failed" 417 "This expectation is not known" HttpRequestError false None Agent;
    HeadTooLarge "head-too-large" 431 "The request's head is too large" HttpRequestError false None Agent;
    UriTooLong "uri-too-long" 414 "The request's target is too long" HttpRequestError false None Agent;
    BodyNotInspectable "body-not-inspectable" 413 "A rule must read this body and cannot" HttpRequestDenied false None Agent;
    RequestTimeout "request-timeout" 408 "The agent was too slow" HttpRequestError true Retry Agent;
    UpstreamProtocolError "upstream-protocol-error" 502 "The API broke the rules of HTTP" HttpProtocolError false AskOperator Service;
    UpstreamNoHttp2 "upstream-protocol-error" 502 "The API does not speak HTTP/2, which gRPC needs" ProxyConfigurationError false FixConfig Service;
    ResponseUnscannable "response-unscannable" 502 "The API's answer cannot be searched for the credential" ProxyInternalResponse false AskOperator Service;
    TokenResponseWithheld "token-response-withheld" 502 "The API's answer carries tokens" ProxyInternalResponse false AskOperator Service;
    IssuerNotForAgents "issuer-not-for-agents" 403 "Agents do not talk to the issuer" HttpRequestDenied false None Agent;
    SecretInRequest "secret-in-request" 403 "The request holds a live secret" HttpRequestDenied false AskOperator Agent;
    AuditUnavailable "audit-unavailable" 503 "There is no room for the audit line" ProxyInternalError true Retry Tokenward;
    ConfigChanged "config-changed" 503 "The policy changed while the request was on its way" ProxyInternalError true Retry Tokenward;
}

impl Code {
    /// The stable word, as in `urn:tokenward:problem:<code>`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().code
    }

    /// The HTTP status that the agent gets.
    #[must_use]
    pub fn status(self) -> u16 {
        self.row().status
    }

    /// One line for people.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.row().title
    }

    /// The error type of `Proxy-Status`.
    #[must_use]
    pub fn proxy_error(self) -> ProxyError {
        self.row().proxy_error
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn retryable(self) -> bool {
        self.row().retryable
    }

    /// What can be done.
    #[must_use]
    pub fn remedy(self) -> Remedy {
        self.row().remedy
    }

    /// Whose doing it is.
    #[must_use]
    pub fn fault(self) -> Fault {
        self.row().fault
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_refusal_invites_a_login_of_the_agents_own() {
        for code in Code::ALL {
            assert_ne!(code.status(), 401, "{code}");
            assert!((400..=599).contains(&code.status()), "{code}");
        }
    }

    #[test]
    fn rows_that_share_a_code_differ_in_status_or_cause() {
        for (i, a) in Code::ALL.iter().enumerate() {
            for b in &Code::ALL[i + 1..] {
                let same = a.as_str() == b.as_str()
                    && a.status() == b.status()
                    && a.proxy_error() == b.proxy_error()
                    && a.fault() == b.fault();
                assert!(!same, "{a:?} and {b:?}");
            }
        }
    }
}
