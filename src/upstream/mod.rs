//! How requests leave the house: one lookup, a check of every address, TLS with our own hello, a pool of our own.
//!
//! It sends only what [`Armed`](crate::credential::Armed) holds, on the connection that was checked out for it, and
//! tells truthfully whether a failed request can have been processed; whether to send again is the exchange's affair,
//! because a second attempt needs a fresh proof. Calls to issuers go through [`IssuerClient`], with connections that
//! no agent's request ever shares.
//!
//! It does not know OAuth, policy rules or configuration files, follows no redirect and reads no environment variable
//! (a root planted through `SSL_CERT_FILE` would be a way in). Serves RFC 9110 §7.6, RFC 9112 §6 and §9, RFC 9113.
//! Invariants: an address is checked after resolution and the checked address is the one dialled; a connection belongs
//! to one agent and one service for life; upstream certificates are always verified and never against our own CA.

mod address;
mod client;
mod connection;
mod dial;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod issuer;
mod key;
mod lookup;
mod open;
mod parent;
mod pool;
mod reply;
mod settings;
mod shelf;
mod stream;
mod tasks;
mod tls;
#[cfg(feature = "variants")]
mod variant;
mod way;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::credential::Certificate;
use crate::policy::Permit;
use crate::vocab::{AgentName, Authority, Clock, Scheme, ServiceName, danger};

pub use client::{Client, SendError, SendFailure, WhenInterim};
pub use connection::{Connection, Protocol};
pub use error::{EndpointError, RootsError, UpstreamError};
pub use issuer::{
    IssuerClient, IssuerError, IssuerReply, IssuerRequest, IssuerUrl, IssuerUrlError,
};
pub use key::{Key, PoolLimits, key};
pub use lookup::{Resolve, SystemResolver};
pub use parent::{Except, Parent, ParentSettings};
pub use reply::{Reply, ReplyBody};
pub use settings::{ConnectTo, TargetSettings};
pub use tls::{Endpoint, Roots};
pub use way::Way;

use dial::{Destination, Dialer, Progress};
use lookup::Asker;
use pool::Pool;
use tasks::Tasks;

/// Whether an address is one that no configuration can open: link-local, metadata services, multicast, unspecified,
/// addresses around addresses.
#[must_use]
pub fn never_dialled(ip: std::net::IpAddr) -> bool {
    !address::admitted(ip, true)
}

/// What is fixed about leaving the house, for all services.
pub struct UpstreamSettings {
    /// Whom to trust where a service names nobody else.
    pub roots: Roots,
    /// Addresses that we listen on ourselves; never dialled.
    pub own_listeners: Vec<SocketAddr>,
    /// Bounds of the agents' pool.
    pub limits: PoolLimits,
    /// The proxy through which everything goes; `None`: the network is reached directly.
    pub parent: Option<Parent>,
}

/// The way out. Cheap to clone; all clones share one pool.
#[derive(Clone)]
pub struct Upstream(Arc<Inner>);

struct Inner {
    roots: Roots,
    dialer: Arc<Dialer>,
    pool: Arc<Pool>,
    tasks: Tasks,
}

impl Upstream {
    /// A way out that asks the system's resolver.
    #[must_use]
    pub fn new(settings: UpstreamSettings, clock: Clock) -> Self {
        Self::with_resolver(settings, Arc::new(SystemResolver), clock)
    }

    /// A way out with another resolver; for tests, and for names that DNS does not know.
    #[must_use]
    pub fn with_resolver(
        settings: UpstreamSettings,
        resolver: Arc<dyn Resolve>,
        clock: Clock,
    ) -> Self {
        let dialer = Dialer::new(resolver, settings.own_listeners);
        let dialer = Arc::new(dialer.through(settings.parent.map(Arc::new)));
        let tasks = Tasks::default();
        let pool = Pool::new(settings.limits, dialer.clone(), tasks.clone(), clock);
        Self(Arc::new(Inner {
            roots: settings.roots,
            dialer,
            pool,
            tasks,
        }))
    }

    /// Compiles how to reach a service. A new endpoint has a new identity: connections made for an older one are not
    /// used for it, so keep the endpoint of a service whose settings did not change.
    ///
    /// # Errors
    /// [`EndpointError`] where an additional root is no certificate, or is our own.
    pub fn endpoint(&self, target: &TargetSettings) -> Result<Arc<Endpoint>, EndpointError> {
        Endpoint::compile(&self.0.roots, target).map(Arc::new)
    }

    /// Checks out a connection for what the permit allows: a kept one, or a new one made within `deadline` (waiting,
    /// lookup, TCP and TLS together). With a `certificate`, one on which that was shown and none else.
    ///
    /// # Errors
    /// [`UpstreamError`]; no byte of the request was written anywhere.
    pub async fn connection(
        &self,
        permit: &Permit,
        endpoint: &Arc<Endpoint>,
        need: Protocol,
        certificate: Option<&Arc<Certificate>>,
        deadline: Duration,
    ) -> Result<Connection, UpstreamError> {
        // Policy should not have permitted it; a credential in clear text is worth a second look.
        let authority = permit.authority();
        if certificate.is_some() && authority.scheme() == Scheme::Http {
            return Err(UpstreamError::Plaintext);
        }
        if permit.credentialed()
            && authority.scheme() == Scheme::Http
            && !(danger::plain_http(authority.host()) && endpoint.connect().is_none())
        {
            return Err(UpstreamError::Plaintext);
        }
        self.0
            .pool
            .checkout(&key(permit).showing(certificate), endpoint, need, deadline)
            .await
    }

    /// Dials a destination that is passed through blind. The same addresses are refused as for requests.
    ///
    /// # Errors
    /// [`UpstreamError`] where it cannot or must not be reached.
    pub async fn tunnel(
        &self,
        authority: &Authority,
        deadline: Duration,
    ) -> Result<Way, UpstreamError> {
        let to = Destination {
            name: authority.host(),
            host: authority.host(),
            port: authority.port(),
            allow_private: false,
            asker: Asker::Tunnels,
        };
        let progress = Progress::default();
        let dialled = self.0.dialer.connect(&to, &progress);
        timeout(deadline, dialled)
            .await
            .unwrap_or_else(|_| Err(progress.timed_out()))
    }

    /// Closes the kept connections of which `whose` says yes, and keeps those in use from being kept later.
    pub fn close_idle(&self, whose: impl Fn(&AgentName, &ServiceName) -> bool) {
        self.0.pool.close_idle(whose);
    }

    /// Closes what is idle, keeps nothing any more, and waits until the last connection has ended. The caller bounds
    /// the wait.
    pub async fn drain(&self) {
        self.0.pool.close();
        self.0.tasks.finished().await;
    }
}

#[cfg(test)]
mod tests;
