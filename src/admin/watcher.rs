//! What the admin API has of the audit room: it follows lines, and notes who was turned away: each is counted, and one in a second has a line in the audit file, so that a
//! guesser cannot fill it.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::audit::{Audit, Event, Tail};
use crate::metrics::Metrics;
use crate::vocab::Clock;

/// Milliseconds between two lines.
const LINE_EVERY: u64 = 1000;

/// Counts and notes.
pub struct Watcher {
    audit: Audit,
    metrics: Metrics,
    clock: Clock,
    /// When the next line may be written, on the monotonic clock.
    next: AtomicU64,
}

impl Watcher {
    /// A watcher that has seen nobody yet.
    #[must_use]
    pub fn new(audit: Audit, metrics: Metrics, clock: Clock) -> Self {
        Self {
            audit,
            metrics,
            clock,
            next: AtomicU64::new(0),
        }
    }

    /// Follows the audit lines; `None`: too many do.
    pub(super) fn follow(&self) -> Option<Tail> {
        self.audit.follow()
    }

    /// Somebody did not show the token.
    pub(super) fn admin_refused(&self) {
        let event = Event::AdminAuthFailed;
        self.metrics.security_event(event.name());
        let now = self.clock.now().0;
        let next = self.next.load(Ordering::Relaxed);
        let mine = now >= next
            && self
                .next
                .compare_exchange(next, now + LINE_EVERY, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if mine {
            self.audit.event(event);
        }
    }
}
