//! What is worth telling about tokens, as words; who writes them down is not this room's business.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::failure::Failure;
use super::keeper::Reason;
use super::pattern::Excess;
use super::stops::Selection;
use crate::vocab::{Binding, GrantId, ScopeSet, ServiceName};

/// Takes notes. Must not block: it is called from the control runtime's only thread.
pub(super) trait Journal: Send + Sync {
    /// Takes one note.
    fn note(&self, note: &Note<'_>);

    /// Waits until what was noted so far outlives the process, for a second at most. At once where nothing is written.
    fn settled(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Something that operators want to see. No variant can carry a token or a key; of an issuer's text only names of a
/// delegation, and those are bounded and printable.
#[derive(Debug)]
pub(super) enum Note<'a> {
    /// The token is bound to a key that is not ours.
    BindingMismatch { grant: &'a GrantId },
    /// Somebody was asked after a token in use. `by`: `introspection` or `probe`; `proofs`: the `jti` of what was signed
    /// for that.
    Checked {
        grant: &'a GrantId,
        lease: u64,
        by: &'static str,
        outcome: &'static str,
        proofs: &'a [String],
    },
    /// The issuer's clock differs from ours by this much.
    ClockOffset {
        service: &'a ServiceName,
        seconds: i64,
    },
    /// The issuer answered with a weaker token than configured.
    DowngradeRefused { grant: &'a GrantId },
    /// A token went out of use before it was replaced.
    Dropped {
        grant: &'a GrantId,
        lease: u64,
        reason: Reason,
    },
    /// The issuer's metadata names another host than before.
    EndpointMoved { service: &'a ServiceName },
    /// A token was exchanged: for whom it speaks, then who acts for them.
    Exchanged {
        grant: &'a GrantId,
        chain: &'a [String],
    },
    /// The next token is bound to a new key.
    KeyRotated { grant: &'a GrantId },
    /// No token could be had.
    Failed {
        grant: &'a GrantId,
        failure: Failure,
    },
    /// Only a new login brings this grant back.
    GrantDead { grant: &'a GrantId, ending: Ending },
    /// A refresh was begun and its answer is not known; the refresh token from before is tried again.
    GrantInDoubt { grant: &'a GrantId },
    /// A token came into use.
    Issued {
        grant: &'a GrantId,
        lease: u64,
        scopes: &'a ScopeSet,
        binding: Binding,
        jkt: Option<&'a str>,
        expires_in: Duration,
        renewal: bool,
    },
    /// The issuer wanted a nonce.
    NonceChallenge { service: &'a ServiceName },
    /// A refresh left the refresh token as it was.
    NotRotated { grant: &'a GrantId },
    /// A proof was signed for the issuer.
    Proof { service: &'a ServiceName },
    /// A token was given back to the issuer; `confirmed`: the issuer said that it is over.
    Revoked {
        grant: &'a GrantId,
        kind: &'static str,
        /// The number of the lease that it was; refresh tokens have none.
        lease: Option<u64>,
        confirmed: bool,
    },
    /// The issuer could not be told yet that a token is over; it is tried again.
    RevocationPending {
        grant: &'a GrantId,
        kind: &'static str,
    },
    /// The operator has lifted a stop.
    Restored { selection: &'a Selection },
    /// The issuer granted other scopes than asked for. `taken`: the token is used all the same, as configured.
    ScopeChanged {
        grant: &'a GrantId,
        requested: &'a ScopeSet,
        granted: &'a ScopeSet,
        taken: bool,
    },
    /// The operator has stopped something.
    Stopped {
        selection: &'a Selection,
        compromise: bool,
    },
    /// Something happened after which a grant gets a new key and new tokens (S-31).
    Suspected {
        grant: &'a GrantId,
        reason: &'static str,
    },
    /// How the grants of a service stand.
    Standing {
        service: &'a ServiceName,
        binding: Binding,
        standing: Standing,
    },
    /// Tokens come faster than their lives explain.
    TooFast { grant: &'a GrantId, excess: Excess },
}

/// How a grant came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Its row in the store is damaged.
    Damaged,
    /// The issuer refused its refresh token.
    Refused,
    /// The issuer refused a refresh token that had been sent before without an answer: that answer may have brought
    /// the next one, and it is lost; or somebody else uses the same refresh token.
    RefusedInDoubt,
}

impl Ending {
    /// The word in audit lines and metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Damaged => "store_damaged",
            Self::Refused => "refresh_refused",
            Self::RefusedInDoubt => "refresh_lost",
        }
    }
}

/// Grants of one service, counted by how they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Standing {
    /// A token is in use and nothing is wrong.
    pub(super) healthy: usize,
    /// A token is in use, and its last check brought no yes.
    pub(super) unknown: usize,
    /// A token is in use and its renewal fails.
    pub(super) degraded: usize,
    /// There is no token, because something is wrong.
    pub(super) failed: usize,
}
