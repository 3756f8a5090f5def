//! Checks of tokens in use: when the worker begins them, and what it does about their answers.

use std::collections::BTreeMap;

use super::Worker;
use crate::credential::Expiry;
use crate::tokens::checks::Ended;
use crate::tokens::health::{Fate, Judge, Verdict};
use crate::tokens::journal::Note;
use crate::tokens::keeper::{Event, Key};

impl Worker {
    /// Begins the checks that are due.
    pub(super) fn check(&mut self) {
        let now = self.shelf.clock.now();
        if self.closing.is_cancelled() || self.checks.wake().is_none_or(|wake| wake > now) {
            return;
        }
        let used: BTreeMap<_, _> = self.shelf.uses().into_iter().collect();
        self.checks.begin(now, &used, &self.journal);
    }

    /// Tells where an entry's tokens come faster than their lives explain.
    pub(super) fn weigh_rate(&mut self, key: &Key, expires: Expiry) {
        let now = self.shelf.clock.now();
        let life = expires.monotonic.since(now);
        if let Some(excess) = self.pattern.issued(now, key, life) {
            self.journal.note(&Note::TooFast {
                grant: &key.grant,
                excess,
            });
        }
    }

    /// Does what follows from a check.
    pub(super) fn checked(&mut self, ended: Ended) {
        let now = self.shelf.clock.now();
        let Some((report, ruling)) = self.checks.ended(now, ended) else {
            return;
        };
        // Where nobody can be asked, a token lives until its end, and there is nothing to tell.
        if ruling.verdict != Verdict::Unsupported {
            let by = ruling.by.map(Judge::as_str).unwrap_or_default();
            let said = (by, ruling.verdict.as_str());
            self.shelf.checked(&report.key, report.lease, said);
            self.recount(&report.key);
        }
        let dead = match ruling.fate {
            Fate::Dead => true,
            Fate::Doubtful => false,
            Fate::Spared => return,
        };
        self.feed(Event::Doubted {
            lease: report.lease,
            dead,
        });
    }
}
