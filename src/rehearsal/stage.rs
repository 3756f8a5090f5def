//! What the three servers share: identities, keys, clients, and what they remember.

use super::clients::Client;
use super::controls::{Controls, Service};
use super::jose::Key;
use super::once::{Nonces, Once};
use super::seen::SeenLog;
use crate::vocab::Clock;

/// What a server that takes proofs remembers.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) nonces: Nonces,
    pub(super) proofs: Once,
}

/// The shared state of a rehearsal.
pub(super) struct Stage {
    pub(super) clock: Clock,
    pub(super) controls: Controls,
    pub(super) seen: SeenLog,

    pub(super) issuer_url: String,
    pub(super) issuer_key: Key,
    pub(super) issuer_memory: Memory,
    pub(super) clients: Vec<Client>,
    pub(super) assertions: Once,
    /// Identifiers of the tokens that are neither forgotten nor revoked.
    pub(super) living_tokens: Once,

    /// The API's names for itself; the first is the canonical one.
    pub(super) api_origins: Vec<String>,
    pub(super) api_memory: Memory,

    pub(super) static_origins: Vec<String>,
    pub(super) api_key: String,
    pub(super) bearer_key: String,
}

impl Stage {
    /// The time as a server believes it to be.
    pub(super) fn now(&self, service: Service) -> i64 {
        let skew = self.controls.site_now(service).clock_skew;
        self.clock.wall().seconds().saturating_add(skew)
    }

    pub(super) fn token_endpoint(&self) -> String {
        format!("{}/token", self.issuer_url)
    }

    /// RFC 8414 §3.1: the well-known part goes between host and path of the issuer identifier.
    pub(super) fn metadata_path(&self) -> String {
        format!(
            "/.well-known/oauth-authorization-server{}",
            path_of(&self.issuer_url)
        )
    }

    /// The path of one of the issuer's own endpoints.
    pub(super) fn issuer_path(&self, endpoint: &str) -> String {
        format!("{}{endpoint}", path_of(&self.issuer_url))
    }
}

fn path_of(url: &str) -> &str {
    let after_scheme = url.strip_prefix("https://").unwrap_or(url);
    after_scheme
        .find('/')
        .and_then(|at| after_scheme.get(at..))
        .unwrap_or("")
}
