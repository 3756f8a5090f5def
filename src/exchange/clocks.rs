//! How far the clocks of a service's origins are from ours.
//!
//! Proofs carry a time, and servers accept it within seconds. What an origin's `Date` shows is followed, as the median of
//! the last few answers: one answer that lies, or that lay in a queue, moves nothing. Origins do not count for each other.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::vocab::Authority;

/// Largest difference that is followed, in seconds; larger ones are lies.
const OFFSET_MAX: i32 = 600;
/// A difference that is only the age of an answer, in seconds.
const OFFSET_NOISE: i32 = 2;
/// Answers of which the median is taken.
const SAMPLES: usize = 5;
/// Origins of one service that are remembered; below a wildcard an agent chooses them. The least recent goes first.
const ORIGINS: usize = 64;

/// The clocks of one service's origins, in seconds relative to ours.
#[derive(Default)]
pub(super) struct Clocks(Mutex<VecDeque<Clock>>);

struct Clock {
    origin: Authority,
    /// The latest last.
    samples: VecDeque<i32>,
}

impl Clock {
    fn median(&self) -> i32 {
        let mut sorted: Vec<i32> = self.samples.iter().copied().collect();
        sorted.sort_unstable();
        // Of an even number the smaller in size: two answers that disagree are no reason to move far.
        let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        let at = |i: usize| sorted.get(i).copied().unwrap_or(0);
        if at(low).abs() <= at(high).abs() {
            at(low)
        } else {
            at(high)
        }
    }
}

impl Clocks {
    /// The origin's clock minus ours.
    pub(super) fn offset(&self, origin: &Authority) -> i32 {
        let clocks = self.clocks();
        let known = clocks.iter().find(|clock| clock.origin == *origin);
        known.map_or(0, Clock::median)
    }

    /// Notes what an answer's `Date` says, both in seconds since 1970. The new offset, where it changed.
    pub(super) fn saw(&self, origin: &Authority, date: i64, now: i64) -> Option<i32> {
        self.note(origin, date, now, false)
    }

    /// Notes the `Date` of an answer that refused a proof: what was known is wrong, or the proof is refused again.
    pub(super) fn corrected(&self, origin: &Authority, date: i64, now: i64) -> Option<i32> {
        self.note(origin, date, now, true)
    }

    fn note(&self, origin: &Authority, date: i64, now: i64, afresh: bool) -> Option<i32> {
        let offset = i32::try_from(date.saturating_sub(now)).unwrap_or(0);
        let sample = if offset.abs() <= OFFSET_NOISE {
            0
        } else {
            offset.clamp(-OFFSET_MAX, OFFSET_MAX)
        };
        let mut clocks = self.clocks();
        let known = clocks.iter().position(|clock| clock.origin == *origin);
        let mut clock = known
            .and_then(|at| clocks.remove(at))
            .unwrap_or_else(|| Clock {
                origin: origin.clone(),
                samples: VecDeque::with_capacity(SAMPLES),
            });
        let before = clock.median();
        if afresh {
            clock.samples.clear();
        }
        if clock.samples.len() == SAMPLES {
            clock.samples.pop_front();
        }
        clock.samples.push_back(sample);
        let after = clock.median();
        if clocks.len() == ORIGINS {
            clocks.pop_back();
        }
        clocks.push_front(clock);
        (after != before).then_some(after)
    }

    fn clocks(&self) -> MutexGuard<'_, VecDeque<Clock>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::Scheme;

    fn origin(host: &str) -> Authority {
        Authority::parse(Scheme::Https, host).unwrap()
    }

    #[test]
    fn one_answer_that_lies_moves_nothing() {
        let (clocks, api) = (Clocks::default(), origin("api.test"));
        assert_eq!(clocks.saw(&api, 1120, 1000), Some(120));
        for _ in 0..4 {
            clocks.saw(&api, 1121, 1000);
        }
        assert_eq!(clocks.offset(&api), 121);
        for lie in [0, i64::MAX, i64::MIN] {
            let before = clocks.offset(&api);
            clocks.saw(&api, lie, 1000);
            clocks.saw(&api, 1121, 1000);
            clocks.saw(&api, 1121, 1000);
            assert_eq!((before, clocks.offset(&api)), (121, 121), "{lie}");
        }
        // Three in five are the truth.
        for _ in 0..3 {
            clocks.saw(&api, 1001, 1000);
        }
        assert_eq!(clocks.offset(&api), 0);
    }

    #[test]
    fn an_origin_does_not_speak_for_another() {
        let clocks = Clocks::default();
        clocks.saw(&origin("evil.test"), 1600, 1000);
        assert_eq!(clocks.offset(&origin("evil.test")), 600);
        assert_eq!(clocks.offset(&origin("api.test")), 0);
        assert_eq!(clocks.offset(&origin("evil.test:8443")), 0);
    }

    #[test]
    fn a_refused_proof_is_believed_at_once() {
        let (clocks, api) = (Clocks::default(), origin("api.test"));
        for _ in 0..5 {
            clocks.saw(&api, 1000, 1000);
        }
        assert_eq!(clocks.saw(&api, 1300, 1000), None);
        assert_eq!(clocks.corrected(&api, 1300, 1000), Some(300));
        assert_eq!(clocks.corrected(&api, 99_999, 1000), Some(600));
    }

    #[test]
    fn origins_without_end_do_not_grow_it() {
        let clocks = Clocks::default();
        clocks.saw(&origin("kept.test"), 1100, 1000);
        for i in 0..1000 {
            clocks.saw(&origin(&format!("h{i}.test")), 1100, 1000);
            clocks.saw(&origin("kept.test"), 1100, 1000);
        }
        assert_eq!(clocks.clocks().len(), ORIGINS);
        assert_eq!(clocks.offset(&origin("kept.test")), 100);
    }
}
