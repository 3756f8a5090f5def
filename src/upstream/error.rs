//! Why a connection cannot be had. No variant carries an address, a name or a text of the other side.

use crate::vocab::Code;

/// Why no connection could be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// Every address of the destination is one that must not be dialled.
    #[error("the destination's address is not allowed")]
    AddressProhibited,
    /// No connection within the deadline.
    #[error("no connection in time")]
    ConnectTimeout,
    /// The name does not resolve.
    #[error("the name does not resolve")]
    Dns,
    /// The name did not resolve within the deadline.
    #[error("the name did not resolve in time")]
    DnsTimeout,
    /// We are shutting down.
    #[error("shutting down")]
    Draining,
    /// Our bounds on connections are reached.
    #[error("too many connections")]
    Limit,
    /// Offered HTTP/1.1 alone, the other side does not speak it.
    #[error("HTTP/1.1 is not spoken")]
    NoHttp1,
    /// The request needs HTTP/2 and the other side speaks HTTP/1.1 alone.
    #[error("HTTP/2 is not spoken")]
    NoHttp2,
    /// A credential would travel in clear text.
    #[error("a credential never travels in clear text")]
    Plaintext,
    /// The other side broke the protocol before the first request.
    #[error("the protocol was broken")]
    Protocol,
    /// The destination is one of our own listeners.
    #[error("the destination is tokenward itself")]
    SelfConnect,
    /// The TLS handshake failed: certificate, name, version or protocol.
    #[error("the TLS handshake failed")]
    Tls,
    /// Refused, unreachable, or closed during the handshake.
    #[error("the destination cannot be reached")]
    Unreachable,
}

impl UpstreamError {
    /// What the agent is told.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::AddressProhibited | Self::SelfConnect => Code::DestinationIpProhibited,
            Self::ConnectTimeout => Code::UpstreamConnectTimeout,
            Self::Dns => Code::DnsError,
            Self::DnsTimeout => Code::DnsTimeout,
            Self::Draining => Code::Draining,
            Self::Limit => Code::Overloaded,
            Self::Plaintext => Code::TlsRequired,
            Self::NoHttp2 => Code::UpstreamNoHttp2,
            Self::Protocol => Code::UpstreamProtocolError,
            Self::NoHttp1 | Self::Tls => Code::UpstreamTlsError,
            Self::Unreachable => Code::UpstreamUnreachable,
        }
    }
}

/// Why an endpoint cannot be compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// An additional root is not a certificate that can sign others.
    #[error("an additional root is not a usable certificate")]
    BadRoot,
    /// An additional root is our own interception CA: whoever holds it could pose as any service.
    #[error("the interception CA must not be trusted for upstream connections")]
    OwnRoot,
    /// The TLS library refuses its own defaults.
    #[error("TLS cannot be set up")]
    Tls,
}

/// Why the system's roots cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RootsError {
    /// None of the known files exists and holds certificates.
    #[error("no bundle of root certificates found; install the distribution's ca-certificates")]
    NotFound,
}
