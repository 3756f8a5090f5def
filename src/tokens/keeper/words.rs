//! What the keeper is told, and what it answers.

use std::time::Duration;

use super::Key;
use crate::credential::{Expiry, Unavailable};
use crate::tokens::failure::Failure;
use crate::vocab::{AgentName, Code, Moment};

/// What happened.
#[derive(Debug)]
pub(in crate::tokens) enum Event<T> {
    /// A login brought what was missing: what went wrong before counts no more.
    Answered(Key),
    /// Somebody waits for a token.
    Asked(Key),
    /// The token in use is given up although nothing has come in its place.
    Distrusted(Key),
    /// A check says of this lease that it is over, or that it may be.
    Doubted { lease: u64, dead: bool },
    /// A fetch failed.
    Failed {
        key: Key,
        attempt: u64,
        failure: Failure,
    },
    /// A fetch brought a token.
    Granted {
        key: Key,
        attempt: u64,
        token: T,
        /// `expires_in`, where the issuer said it.
        life: Option<Duration>,
        /// The configured longest use.
        cap: Duration,
    },
    /// The tokens of this grant serve every scope set from now on: they belong under `into`. `from`: the entry whose
    /// token does so already.
    Merged { from: Option<Key>, into: Key },
    /// A token is wanted although nobody waits for it, until it is there or can be had no more.
    Pursued(Key),
    /// An API refused this very lease; `again`: and the one before it.
    Rejected { lease: u64, again: bool },
    /// The tokens of this edition, or of one owner alone, should be had anew; those in use stay until then.
    Renew {
        edition: u64,
        agent: Option<AgentName>,
    },
    /// The credential of this edition is no longer configured.
    Retired { edition: u64 },
    /// The operator has revoked what this edition has, or what it has for one owner.
    Revoked {
        edition: u64,
        agent: Option<AgentName>,
    },
    /// Time passed.
    Tick,
    /// A published token was used at this time.
    Used { key: Key, at: Moment },
}

/// What to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::tokens) enum Action<T> {
    /// Take this lease, and only this one, out of use.
    Drop {
        key: Key,
        lease: u64,
        reason: Reason,
    },
    /// Ask the issuer. The answer comes back with the same attempt number.
    Fetch { key: Key, attempt: u64 },
    /// Nothing is kept about this entry any more.
    Forget(Key),
    /// The entry has another name, and its token with it.
    Move { from: Key, into: Key },
    /// Put this token into use in place of the one before it.
    Publish {
        key: Key,
        lease: u64,
        expires: Expiry,
        token: T,
        /// It replaces a token that was still in use.
        renewal: bool,
    },
    /// Tell all who wait for this entry that there is nothing to be had.
    Refuse { key: Key, refusal: Unavailable },
    /// This is what is wrong with the entry now.
    Trouble { key: Key, code: Code },
    /// Give the published token to all who wait for this entry.
    Wake(Key),
    /// Send a tick no later than this.
    WakeAt(Moment),
}

/// Why a token goes out of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tokens) enum Reason {
    /// A reload changed or removed the credential.
    ConfigChanged,
    /// The grant may be in somebody else's hands.
    Distrusted,
    /// The table is full.
    Evicted,
    /// Its time is over.
    Expired,
    /// Nobody uses it.
    Idle,
    /// A check said that it is over.
    Inactive,
    /// The API refused it.
    InvalidToken,
    /// Another token serves in its place.
    Merged,
    /// Somebody logged in anew.
    Replaced,
    /// The operator has revoked it.
    Revoked,
}

impl Reason {
    /// The word in audit lines.
    pub(in crate::tokens) fn as_str(self) -> &'static str {
        match self {
            Self::ConfigChanged => "config_changed",
            Self::Distrusted => "distrusted",
            Self::Evicted => "evicted",
            Self::Expired => "expired",
            Self::Idle => "idle",
            Self::Inactive => "inactive",
            Self::InvalidToken => "invalid_token",
            Self::Merged => "merged",
            Self::Replaced => "replaced",
            Self::Revoked => "revoked",
        }
    }
}
