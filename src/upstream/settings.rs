//! What the configuration says about reaching one service or issuer.

use rustls_pki_types::CertificateDer;

use crate::vocab::Host;

/// How to reach a service or an issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetSettings {
    /// Dial this instead of asking DNS for the name; SNI and `Host` stay.
    pub connect: Option<ConnectTo>,
    /// Admits RFC 1918, CGNAT, unique-local and loopback addresses.
    pub allow_private: bool,
    /// Roots to trust in addition to the system's.
    pub extra_roots: Vec<CertificateDer<'static>>,
}

/// An address to dial in place of the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectTo {
    /// A name or an address.
    pub host: Host,
    /// `None`: the port of the authority.
    pub port: Option<u16>,
}
