//! Why the proxy did not start, in words for the operator.

use std::io;

use crate::ca::CaError;
use crate::exchange::PlanError;
use crate::upstream::{EndpointError, RootsError};

/// Why the proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The admin socket.
    #[error(
        "admin: cannot listen on unix:{path}: {why}; its folder must be this user's with mode 0700, and nobody may listen there"
    )]
    Admin {
        /// Its path.
        path: String,
        /// The system's word.
        why: io::ErrorKind,
    },
    /// The admin API's certificate, which the configuration's check had accepted.
    #[error("admin: {0}")]
    AdminTls(crate::listen::ListenerTlsError),
    /// The audit file.
    #[error("audit: {0}")]
    Audit(#[from] crate::audit::AuditError),
    /// An address cannot be listened on.
    #[error(
        "{what}: cannot listen on {address}: {why}; choose another address or stop what listens there"
    )]
    Bind {
        /// The key of the configuration.
        what: &'static str,
        /// The address, or the path of a socket.
        address: String,
        /// The system's word.
        why: io::ErrorKind,
    },
    /// The interception CA.
    #[error("ca: {0}")]
    Ca(#[from] CaError),
    /// A thread or a runtime.
    #[error("the system refused a thread: {0}")]
    Io(#[from] io::Error),
    /// A listener's certificate, which the configuration's check had accepted.
    #[error("listen.proxy: {0}")]
    ListenerTls(#[from] crate::listen::ListenerTlsError),
    /// The metrics registry.
    #[error("metrics: {0}")]
    Metrics(#[from] crate::metrics::MetricsError),
    /// The parent proxy cannot be reached as configured.
    #[error("parent_proxy: {0}")]
    Parent(#[from] EndpointError),
    /// The snapshot, which the configuration's check had accepted.
    #[error("policy: {0}")]
    Policy(String),
    /// A service that cannot be reached as configured.
    #[error(transparent)]
    Service(#[from] PlanError),
    /// No trusted roots.
    #[error("trusted roots: {0}")]
    Roots(#[from] RootsError),
    /// The store, whose message names its file.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A listener of the mode `tproxy` takes a capability.
    #[error(
        "listen.transparent: mode tproxy takes CAP_NET_ADMIN or CAP_NET_RAW; give the process one of them, or use mode redirect"
    )]
    Tproxy,
    /// The token room.
    #[error("tokens: {0}")]
    Tokens(#[from] crate::tokens::SetupError),
}
