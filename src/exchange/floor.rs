//! The slowest that an upload may be, judged over the time that was spent waiting for the agent.
//!
//! Time in which the upstream does not take what is there is nobody's slowness here: it is not counted, so a body that
//! waits for a busy API is never cut. An agent that sends one byte now and then holds a connection to the API, a place
//! among its own exchanges and, below `replay_buffer`, memory: that is what the floor ends (attack of the slow body).

use std::time::Duration;

/// The rate below which an upload is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyFloor {
    /// Bytes in a second of waiting.
    pub rate: usize,
    /// How much waiting is judged at a time.
    pub window: Duration,
}

/// Judges one upload. Pure: whoever waits tells how long.
#[derive(Debug)]
pub(super) struct FloorMeter {
    floor: BodyFloor,
    waited: Duration,
    bytes: u64,
}

impl FloorMeter {
    pub(super) fn new(floor: BodyFloor) -> Self {
        Self {
            floor,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// Bytes came after this much more waiting, or none did. `false`: a whole window of waiting brought too few.
    pub(super) fn came(&mut self, after: Duration, bytes: usize) -> bool {
        self.waited = self.waited.saturating_add(after);
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.waited < self.floor.window {
            return true;
        }
        let enough = self.bytes >= self.least();
        self.waited = Duration::ZERO;
        self.bytes = 0;
        enough
    }

    /// How much more waiting ends the window.
    pub(super) fn left(&self) -> Duration {
        self.floor.window.saturating_sub(self.waited)
    }

    /// Bytes that a window must bring.
    fn least(&self) -> u64 {
        let millis = u64::try_from(self.floor.window.as_millis()).unwrap_or(u64::MAX);
        (self.floor.rate as u64).saturating_mul(millis) / 1000
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FLOOR: BodyFloor = BodyFloor {
        rate: 100,
        window: Duration::from_secs(30),
    };

    #[test]
    fn a_window_must_bring_its_bytes() {
        /// Bytes, and seconds of waiting before them.
        type Piece = (usize, u64);
        // Pieces, and after which one it ends.
        let table: &[(&[Piece], Option<usize>)] = &[
            (&[(1, 10), (1, 10), (1, 10)], Some(2)),
            (&[(0, 30)], Some(0)),
            (&[(2999, 1), (0, 29)], Some(1)),
            (&[(3000, 1), (0, 29), (0, 29)], None),
            (&[(3000, 1), (0, 29), (0, 30)], Some(2)),
            // What came at once counts for the window that is under way, not for the next.
            (&[(1 << 20, 0), (0, 30), (0, 30)], Some(2)),
            (&[(100, 1); 120], None),
            (&[(0, 0); 1000], None),
        ];
        for (pieces, ends) in table {
            let mut meter = FloorMeter::new(FLOOR);
            let end = pieces
                .iter()
                .position(|(bytes, wait)| !meter.came(Duration::from_secs(*wait), *bytes));
            assert_eq!(end, *ends, "{pieces:?}");
        }
    }

    proptest! {
        #[test]
        fn whoever_keeps_the_rate_is_never_cut(waits in prop::collection::vec(1_u64..5_000, 1..200)) {
            let mut meter = FloorMeter::new(FLOOR);
            for wait in waits {
                // Whatever a window's edge cuts off a wait falls to the next.
                let bytes = usize::try_from(wait.div_ceil(10)).unwrap();
                prop_assert!(meter.came(Duration::from_millis(wait), bytes));
            }
        }

        #[test]
        fn half_the_rate_is_cut_within_two_windows(wait in 1_000_u64..10_000) {
            let mut meter = FloorMeter::new(FLOOR);
            let pieces = 60_000 / wait + 2;
            let bytes = usize::try_from(wait / 20).unwrap();
            let cut = (0..pieces).any(|_| !meter.came(Duration::from_millis(wait), bytes));
            prop_assert!(cut);
        }

        #[test]
        fn what_is_left_and_nothing_came_ends_it(before in 0_u64..29_999) {
            let mut meter = FloorMeter::new(FLOOR);
            prop_assert!(meter.came(Duration::from_millis(before), 0));
            let left = meter.left();
            prop_assert!(!meter.came(left, 0));
        }
    }
}
