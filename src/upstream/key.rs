//! Whose connections are whose, and how many there may be.

use std::sync::Arc;
use std::time::Duration;

use super::lookup::Asker;
use crate::credential::Certificate;
use crate::policy::Permit;
use crate::vocab::variant::{Variant, broken};
use crate::vocab::{AgentName, Authority, ServiceName};

/// Bounds of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolLimits {
    /// Connections in use and kept, in all.
    pub connections: usize,
    /// HTTP/1.1 connections kept for one agent, service and authority; also its HTTP/2 connections.
    pub per_key: usize,
    /// HTTP/1.1 connections kept, in all.
    pub idle: usize,
    /// How long a connection is kept unused.
    pub idle_for: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            connections: 8192,
            per_key: 64,
            idle: 1024,
            idle_for: Duration::from_secs(60),
        }
    }
}

/// Whose connections: an agent's to a service, at one authority, with one certificate or none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// `None` for calls of our own to an issuer, which have a pool of their own besides.
    pub(super) owner: Option<(AgentName, ServiceName)>,
    pub(super) authority: Authority,
    /// What we show in the handshake (RFC 8705 §2): never two identities on one connection.
    pub(super) certificate: Option<Arc<Certificate>>,
}

impl Key {
    /// The key of an agent's requests to a service.
    #[must_use]
    pub fn new(agent: AgentName, service: ServiceName, authority: Authority) -> Self {
        Self {
            owner: Some((agent, service)),
            authority,
            certificate: None,
        }
    }

    /// The same with this certificate.
    #[must_use]
    pub(super) fn showing(mut self, certificate: Option<&Arc<Certificate>>) -> Self {
        self.certificate = certificate.cloned();
        self
    }

    /// On whose behalf its name is looked up.
    pub(super) fn asker(&self) -> Asker {
        match &self.owner {
            Some((agent, _)) => Asker::Agent(agent.clone()),
            None => Asker::Issuers,
        }
    }

    pub(super) fn issuer(authority: Authority) -> Self {
        Self {
            owner: None,
            authority,
            certificate: None,
        }
    }
}

/// The key of what a permit allows.
#[must_use]
pub fn key(permit: &Permit) -> Key {
    if broken(Variant::PoolUnkeyed) {
        return Key::issuer(permit.authority().clone());
    }
    Key::new(
        permit.agent().clone(),
        permit.service().clone(),
        permit.authority().clone(),
    )
}
