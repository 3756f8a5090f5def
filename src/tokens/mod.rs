//! How access tokens are had and kept.
//!
//! The keeper decides (a pure state machine), the worker does (one task on the control runtime), the door lends (to
//! the hot path, through [`credential::Source`](crate::credential::Source)). Under `issuer` is everything that speaks
//! to an authorization server.
//!
//! It knows nothing of requests and their answers, of TLS interception and of configuration files. Serves RFC 6749,
//! RFC 7009, RFC 7523, RFC 7636, RFC 7662, RFC 8252, RFC 8414, RFC 8693, RFC 8705, RFC 8707, RFC 9126, RFC 9207, RFC 9449 §5, §8 and §10, RFC 10070. Invariant: what is lent is unexpired by both
//! clocks, carries the scopes that were asked for and is bound as configured; where that cannot be had, nothing is lent.

mod catalogue;
mod checks;
mod door;
mod failure;
mod health;
mod identity;
mod issuer;
mod journal;
mod keeper;
mod ledger;
mod lineage;
mod pattern;
mod probe;
mod retired;
mod revoking;
mod settings;
mod shelf;
mod stops;
mod supply;
#[cfg(feature = "demo")]
#[cfg(test)]
mod tests;
mod transport;
mod worker;

use std::sync::Arc;

use crate::audit::Audit;
use crate::metrics::Metrics;
use crate::store::{Lost, Store};
use crate::upstream::Upstream;
use crate::vocab::Clock;

pub use catalogue::SetupError;
pub use checks::Checkup;
pub use door::{
    Door, Expected, GrantStatus, KeyFate, LoginWay, Return, Revocation, Revoked, Rotated, Rotation,
    Standing,
};
pub use issuer::{Answered, Brought, Device, Login, LoginError, Verdict};
pub use revoking::Fate;
pub use settings::{
    AssertionAudience, AssertionSource, CertificateSettings, ClientAuth, CredentialSettings,
    ExchangeSettings, FirstRefresh, Grant, HealthSettings, IssuerSettings, OauthSettings, Platform,
    Presented, ProbeSettings, Redirect, Settings, WorkloadSettings,
};
pub use stops::{Selection, Stopped};
pub use supply::Supply;
pub use worker::{Came, Worker};

#[cfg(feature = "fuzzing")]
pub use issuer::fuzzing;

/// What the room needs of the rest of the house.
pub struct Deps {
    /// The time.
    pub clock: Clock,
    /// Where the life of tokens is written down.
    pub audit: Audit,
    /// Where it is counted.
    pub metrics: Metrics,
    /// The way to the issuers.
    pub upstream: Upstream,
    /// Where refresh tokens and their keys outlive the process, and what of it could not be read.
    pub store: Option<(Store, Lost)>,
}

/// Sets the room up. Nothing is sent before somebody asks; [`Worker::run`] is to be spawned on the control runtime,
/// and ends when the last handle of the door is gone.
///
/// # Errors
/// [`SetupError`] naming the service whose credential cannot be used.
pub fn start(settings: Settings, deps: Deps) -> Result<(Arc<Door>, Worker), SetupError> {
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).map_err(|_| SetupError::Randomness)?;
    let ledger = ledger::Ledger {
        audit: deps.audit,
        metrics: deps.metrics,
    };
    let lineages = match deps.store {
        Some((store, lost)) => lineage::Lineages::load(store, &lost.rows, &ledger),
        None => lineage::Lineages::default(),
    };
    let stops = lineages.stops().list().len();
    if stops > 0 {
        tracing::warn!(
            stops,
            "an earlier process has revoked access for a compromise, and it stays revoked; `tokenward status` says which"
        );
    }
    door::assemble(
        settings,
        deps.clock,
        Arc::new(deps.upstream),
        Arc::new(ledger),
        Arc::new(lineages),
        u64::from_le_bytes(seed),
    )
}
