//! How long to wait, and when: the numbers of requirements part F and the arithmetic over them.

use std::time::Duration;

use super::super::failure::{Failure, RETRY_AFTER_MAX};
use crate::credential::Unavailable;
use crate::vocab::{Code, Moment};

/// Longest use of one access token, whatever the issuer and the configuration say.
const LIFE_MAX: Duration = Duration::from_mins(30);
/// Life of a token whose issuer does not tell.
const LIFE_ASSUMED: Duration = Duration::from_mins(5);
/// A renewal begins no later than this before the end, unless the whole life is shorter than twice that.
const MARGIN: Duration = Duration::from_secs(10);
/// Shortest time between a grant and its renewal: tokens of a second must not become a request storm.
const RENEW_MIN: Duration = Duration::from_secs(1);

/// Longest pause after failures that may pass, and the shortest that this can be: an outage may go unnoticed for a
/// fifteenth of a token's life after its end, for tokens of 45 s three seconds.
const PAUSE_MAX: Duration = Duration::from_secs(30);
const PAUSE_SHARE: u32 = 15;
const PAUSE_LEAST: Duration = Duration::from_secs(1);

/// What a token's life is worth to us.
pub(super) fn usable(life: Option<Duration>, cap: Duration) -> Duration {
    life.unwrap_or(LIFE_ASSUMED).min(cap).min(LIFE_MAX)
}

/// When to renew, counted from now: at 75 to 80 % of the life, earlier where the margin asks for it.
pub(super) fn renew_in(
    life: Duration,
    age: Duration,
    remaining: Duration,
    jitter: &mut Jitter,
) -> Duration {
    let share = 750 + jitter.below(51);
    let planned = permille(life, share).saturating_sub(age);
    let latest = remaining.saturating_sub(MARGIN.min(life / 2));
    planned.min(latest).max(RENEW_MIN)
}

/// A `Retry-After` for agents: whole seconds, never zero, never longer than we honour ourselves.
pub(super) fn hint(wait: Duration) -> Duration {
    let seconds = wait.as_millis().div_ceil(1000);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(u64::MAX).max(1)).min(RETRY_AFTER_MAX)
}

/// What went wrong last, and until when nothing is tried.
pub(super) struct Trouble {
    failure: Failure,
    /// Failures in a row on this schedule.
    rounds: u32,
    pub(super) until: Moment,
}

impl Trouble {
    /// The state after one more failure, where the last token lived so long.
    ///
    /// A grant that is known to be dead stays so through 429s and outages, otherwise a storm of our own making would
    /// hide from the operator what has to be mended. Only a token or another verdict changes it.
    pub(super) fn after(
        before: Option<Self>,
        failure: Failure,
        now: Moment,
        life: Option<Duration>,
        jitter: &mut Jitter,
    ) -> Self {
        let (shown, rounds) = match before {
            Some(b) if b.failure.terminal() && !failure.terminal() => (b.failure, b.rounds + 1),
            Some(b) if b.failure.terminal() == failure.terminal() => (failure, b.rounds + 1),
            _ => (failure, 1),
        };
        let (first, longest) = if shown.terminal() {
            (Duration::from_secs(1), Duration::from_mins(5))
        } else {
            let longest = life.map_or(PAUSE_MAX, |life| life / PAUSE_SHARE);
            let longest = longest.clamp(PAUSE_LEAST, PAUSE_MAX);
            (Duration::from_millis(200), longest)
        };
        let doubled = first * 2u32.saturating_pow(rounds.saturating_sub(1).min(12));
        let pause = permille(doubled.min(longest), 800 + jitter.below(401));
        let asked = failure.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        Self {
            failure: shown,
            rounds,
            until: now + pause.max(asked),
        }
    }

    /// What an agent is told now.
    pub(super) fn refusal(&self, now: Moment) -> Unavailable {
        let wait = hint(self.until.since(now));
        Unavailable {
            code: self.failure.code,
            retry_after: (!self.failure.terminal()).then_some(wait),
            oauth_error: self.failure.oauth_error,
        }
    }

    /// Whether only somebody's doing can mend it.
    pub(super) fn terminal(&self) -> bool {
        self.failure.terminal()
    }

    /// The situation.
    pub(super) fn code(&self) -> Code {
        self.failure.code
    }
}

fn permille(span: Duration, share: u64) -> Duration {
    let millis = span.as_millis() * u128::from(share) / 1000;
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

/// SplitMix64: a sequence that follows from its seed. It spreads load and protects nothing.
pub(in crate::tokens) struct Jitter(u64);

impl Jitter {
    pub(in crate::tokens) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub(in crate::tokens) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(in crate::tokens) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }
}
