//! What a check of a token in use leads to.

use super::{Action, Keeper, Key, Reason};
use crate::credential::Expiry;
use crate::vocab::{Moment, WallTime};

impl Keeper {
    /// A check says that this lease is over (`dead`), or that it may be. Whether to believe that was decided before.
    ///
    /// What is over goes out of use and is replaced at once, before anybody asks; what may be over serves until its
    /// successor is there. The grant's other tokens are renewed in the first case: what ended one, which was not its own
    /// time, may have ended them. A report about any other than the live lease changes nothing.
    pub(super) fn doubted<T>(
        &mut self,
        now: Moment,
        wall: WallTime,
        (lease, dead): (u64, bool),
        actions: &mut Vec<Action<T>>,
    ) -> Option<Key> {
        let key = self.holders.get(&lease)?.clone();
        let at_once = Expiry {
            monotonic: now,
            wall,
        };
        let of_grant = self
            .entries
            .iter_mut()
            .filter(|(k, _)| k.edition == key.edition && k.grant == key.grant);
        for (of, entry) in of_grant {
            if *of == key && dead {
                entry.live = None;
                self.holders.remove(&lease);
                actions.push(Action::Drop {
                    key: key.clone(),
                    lease,
                    reason: Reason::Inactive,
                });
            } else if let Some(live) = entry.live.as_mut().filter(|_| *of == key || dead) {
                live.renew = at_once;
            }
            let wanted = (*of == key && dead) || entry.wants_one(now, wall);
            if wanted && entry.flight.is_none() && entry.barred(now).is_none() {
                entry.launch(now, wall, of, &mut self.counter, actions);
            }
        }
        // The entries beside it have new dates, which the caller does not look at.
        self.wake = self.entries.values().map(super::Entry::due).min();
        actions.extend(self.wake.map(Action::WakeAt));
        Some(key)
    }
}
