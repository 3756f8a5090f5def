//! A token bucket: so many in a second, and as many as its depth at once after a pause. Pure: time is an argument.
//!
//! It is one number, the moment at which the bucket would be full again (the "generic cell rate algorithm"), so it is
//! taken from without a lock and costs eight bytes a caller.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::vocab::Moment;

const SECOND: u64 = 1_000_000_000;

/// How fast a bucket fills and how much it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// Takes in a second; at least 1.
    pub(super) per_second: u32,
    /// Takes at once after a pause; at least 1.
    pub(super) burst: u32,
}

/// A bucket; it begins full.
#[derive(Debug)]
pub(super) struct Bucket {
    interval: u64,
    depth: u64,
    /// When it is full again, in nanoseconds of the monotonic clock.
    full_at: AtomicU64,
}

impl Bucket {
    pub(super) fn new(rate: Rate) -> Self {
        let interval = SECOND / u64::from(rate.per_second.max(1));
        Self {
            interval,
            depth: interval.saturating_mul(rate.burst.max(1).into()),
            full_at: AtomicU64::new(0),
        }
    }

    /// Takes one.
    ///
    /// # Errors
    /// The bucket is empty; how long until it is not. Nothing was taken.
    pub(super) fn take(&self, now: Moment) -> Result<(), Duration> {
        self.reserve(now, Duration::ZERO).map(drop)
    }

    /// Takes one, in advance if need be; answers how long to wait for it.
    ///
    /// # Errors
    /// The wait would be longer than `patience`; how long it would be. Nothing was taken.
    pub(super) fn reserve(&self, now: Moment, patience: Duration) -> Result<Duration, Duration> {
        let now = now.0.saturating_mul(1_000_000);
        let mut full_at = self.full_at.load(Ordering::Relaxed);
        loop {
            let next = full_at.max(now).saturating_add(self.interval);
            let wait = Duration::from_nanos((next - now).saturating_sub(self.depth));
            if wait > patience {
                return Err(wait);
            }
            match self.full_at.compare_exchange_weak(
                full_at,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Ok(wait),
                Err(other) => full_at = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(per_second: u32, burst: u32) -> Bucket {
        Bucket::new(Rate { per_second, burst })
    }

    #[test]
    fn a_full_bucket_gives_its_depth_and_then_its_rate() {
        let bucket = bucket(10, 3);
        for _ in 0..3 {
            bucket.take(Moment(1000)).unwrap();
        }
        assert_eq!(bucket.take(Moment(1000)), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(Moment(1040)), Err(Duration::from_millis(60)));
        bucket.take(Moment(1100)).unwrap();
        bucket.take(Moment(1100)).unwrap_err();
        // However long the pause: not more than its depth.
        let later = (0..10).filter(|_| bucket.take(Moment(99_000)).is_ok());
        assert_eq!(later.count(), 3);
    }

    #[test]
    fn what_is_reserved_is_taken() {
        let bucket = bucket(1, 1);
        let patience = Duration::from_secs(2);
        let waits: Vec<_> = (0..4)
            .map(|_| bucket.reserve(Moment(0), patience))
            .collect();
        let second = Duration::from_secs(1);
        assert_eq!(
            waits,
            [
                Ok(Duration::ZERO),
                Ok(second),
                Ok(second * 2),
                Err(second * 3)
            ]
        );
        bucket.take(Moment(2_900)).unwrap_err();
        bucket.take(Moment(3_000)).unwrap();
    }

    #[test]
    fn a_clock_that_stands_at_its_ends_is_no_panic() {
        let bucket = bucket(u32::MAX, u32::MAX);
        assert!(bucket.take(Moment(u64::MAX)).is_ok() || bucket.take(Moment(0)).is_err());
        Bucket::new(Rate {
            per_second: 0,
            burst: 0,
        })
        .take(Moment(0))
        .unwrap();
    }

    proptest! {
        /// In no span is more taken than the depth and what the span brings.
        #[test]
        fn no_span_gives_more(
            rate in 1_u32..2_000,
            burst in 1_u32..50,
            steps in prop::collection::vec(0_u64..200, 1..400),
        ) {
            let bucket = bucket(rate, burst);
            let (mut now, mut taken) = (0, 0_u64);
            for step in steps {
                now += step;
                taken += u64::from(bucket.take(Moment(now)).is_ok());
                let most = u64::from(burst) + 1 + now * u64::from(rate) / 999;
                prop_assert!(taken <= most, "{taken} of {most}");
            }
        }

        /// Whoever waits as long as it is told gets through.
        #[test]
        fn the_wait_is_enough(rate in 1_u32..1_000, burst in 1_u32..5, at in 0_u64..10_000) {
            let bucket = bucket(rate, burst);
            for _ in 0..burst {
                bucket.take(Moment(at)).unwrap();
            }
            let wait = bucket.take(Moment(at)).unwrap_err();
            let millis = u64::try_from(wait.as_micros().div_ceil(1000)).unwrap();
            prop_assert!(bucket.take(Moment(at + millis)).is_ok());
        }
    }
}
