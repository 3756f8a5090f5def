//! File descriptors: how many there may be, and that agents never use up the last ones.
//!
//! Out of descriptors, a proxy can neither ask an issuer for a token nor write its audit file nor answer its health
//! check, and whoever opens connections could bring it there. So the connections of agents are bounded by what the
//! system gives, whatever the configuration says.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::upstream::PoolLimits;

/// Descriptors kept for calls to issuers, the audit file, health and what the libraries open. Where the system gives
/// few, a quarter of them.
const RESERVE: u64 = 256;

/// Raises the limit to what the system allows. For `serve` alone: a command that `run` starts would inherit it, and
/// programs that use `select` misbehave above 1024.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!("the limit of open files could not be raised");
    }
}

/// How many connections of agents fit: at most `wanted`.
pub(super) fn connections(wanted: usize) -> usize {
    let fit = fit(getrlimit(Resource::Nofile).current, wanted);
    if fit < wanted {
        tracing::info!(
            wanted,
            fit,
            "fewer connections than `limits.connections`: the process may not open that many files"
        );
    }
    fit
}

/// How many connections to APIs there may be: as many as there may be of agents, at most the usual number.
pub(super) fn pool() -> PoolLimits {
    let usual = PoolLimits::default();
    let current = getrlimit(Resource::Nofile).current;
    let connections = fit(current, usual.connections);
    PoolLimits {
        connections,
        idle: usual.idle.min(connections.div_ceil(2)),
        ..usual
    }
}

/// Each agent's connection may need one to an API.
fn fit(descriptors: Option<u64>, wanted: usize) -> usize {
    let Some(descriptors) = descriptors else {
        return wanted;
    };
    let pairs = (descriptors - RESERVE.min(descriptors / 4)) / 2;
    usize::try_from(pairs).map_or(wanted, |pairs| pairs.clamp(1, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_back_is_never_given_away() {
        for (descriptors, wanted, expected) in [
            (None, 10_000, 10_000),
            (Some(1 << 20), 10_000, 10_000),
            (Some(20_480), 10_000, 10_000),
            (Some(20_000), 10_000, 9_872),
            (Some(1024), 10_000, 384),
            (Some(256), 10_000, 96),
            (Some(256), 10, 10),
            (Some(0), 10, 1),
        ] {
            assert_eq!(fit(descriptors, wanted), expected, "{descriptors:?}");
        }
    }
}
