//! Time, as two clocks that are never derived from each other: ages and timeouts by the monotonic one, `iat` and
//! absolute expiry by the wall. The only file that asks the operating system what time it is.

use std::fmt;
use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A reading of the monotonic clock: milliseconds since the clock was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// How long ago `earlier` was; zero where it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

/// A reading of the wall clock: milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallTime(pub u64);

impl WallTime {
    /// Whole seconds since 1970, as JOSE's NumericDate counts them.
    #[must_use]
    pub fn seconds(self) -> i64 {
        i64::try_from(self.0 / 1000).unwrap_or(i64::MAX)
    }
}

impl Add<Duration> for WallTime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

/// RFC 3339 in UTC with milliseconds.
impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stamp =
            time::OffsetDateTime::from_unix_timestamp(self.seconds()).map_err(|_| fmt::Error)?;
        let (year, month, day) = stamp.to_calendar_date();
        let (hour, minute, second) = stamp.to_hms();
        // Each audit line has one, so it is written by hand; the years that `time` knows have four digits.
        let mut text = *b"0000-00-00T00:00:00.000Z";
        put(&mut text[..4], u32::try_from(year).map_err(|_| fmt::Error)?);
        put(&mut text[5..7], u8::from(month).into());
        put(&mut text[8..10], day.into());
        put(&mut text[11..13], hour.into());
        put(&mut text[14..16], minute.into());
        put(&mut text[17..19], second.into());
        put(
            &mut text[20..23],
            u32::try_from(self.0 % 1000).map_err(|_| fmt::Error)?,
        );
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

/// Writes the last digits of a number, as many as there is room for.
fn put(room: &mut [u8], mut number: u32) {
    for digit in room.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
    }
}

/// Measures a span in full resolution; for metrics, never for decisions.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts measuring.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this file is where time enters")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Where time comes from. Cheap to clone; all clones tell the same time.
#[derive(Clone)]
pub struct Clock(Kind);

#[derive(Clone)]
enum Kind {
    System(Instant),
    Manual(Arc<Hands>),
}

/// The two hands of a clock that a test turns.
struct Hands {
    monotonic: AtomicU64,
    wall: AtomicU64,
}

impl Clock {
    /// The machine's clocks.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this file is where time enters")]
    pub fn system() -> Self {
        Self(Kind::System(Instant::now()))
    }

    /// A clock that stands at `wall` until [`Clock::advance`] turns it.
    #[must_use]
    pub fn manual(wall: WallTime) -> Self {
        Self(Kind::Manual(Arc::new(Hands {
            monotonic: AtomicU64::new(0),
            wall: AtomicU64::new(wall.0),
        })))
    }

    /// Monotonic time.
    #[must_use]
    pub fn now(&self) -> Moment {
        match &self.0 {
            Kind::System(start) => {
                Moment(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX))
            }
            Kind::Manual(hands) => Moment(hands.monotonic.load(Ordering::SeqCst)),
        }
    }

    /// Wall time. A clock set before 1970 reads as 1970.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this file is where time enters")]
    pub fn wall(&self) -> WallTime {
        match &self.0 {
            Kind::System(_) => {
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Kind::Manual(hands) => WallTime(hands.wall.load(Ordering::SeqCst)),
        }
    }

    /// Turns both hands of a manual clock forward; does nothing to the machine's.
    pub fn advance(&self, span: Duration) {
        if let Kind::Manual(hands) = &self.0 {
            let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
            hands.monotonic.fetch_add(millis, Ordering::SeqCst);
            hands.wall.fetch_add(millis, Ordering::SeqCst);
        }
    }

    /// Sets the wall hand of a manual clock alone; does nothing to the machine's.
    pub fn set_wall(&self, wall: WallTime) {
        if let Kind::Manual(hands) = &self.0 {
            hands.wall.store(wall.0, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wall_time_prints_as_rfc_3339() {
        assert_eq!(
            WallTime(1_700_000_000_123).to_string(),
            "2023-11-14T22:13:20.123Z"
        );
    }

    #[test]
    fn a_manual_clock_moves_only_when_turned() {
        let clock = Clock::manual(WallTime(5_000));
        let before = clock.now();
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.now().since(before), Duration::from_secs(2));
        assert_eq!(clock.wall().seconds(), 7);
    }
}
