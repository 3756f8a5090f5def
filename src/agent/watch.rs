//! What is usual for an agent, and what is not: from where it calls, when, and how often against its own past.
//!
//! Pure: addresses and times are arguments. Nothing is written down, so after a start everything is new; and nothing is
//! known of countries: an address is judged by the networks that the configuration names, never by a table of places.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::vocab::{Moment, WallTime};

/// Sources of one agent that are remembered; the one that is forgotten is the one seen first.
const SOURCES_MAX: usize = 64;
/// Minutes with requests before an agent's own rate is known.
const LEARNING: u32 = 10;
/// Minutes with requests over which the average forgets.
const MEMORY: u32 = 30;
/// Requests in a minute that are never too many.
const FLOOR: f64 = 60.0;
/// How often the same finding is told.
const TOLD_EVERY: Duration = Duration::from_secs(60);
const MINUTE_MS: u64 = 60_000;
const MINUTES_OF_DAY: i64 = 24 * 60;

/// What is usual, as the configuration says it.
#[derive(Debug, Clone, PartialEq)]
pub struct WatchSettings {
    /// Networks that the agent calls from; empty: any. A unix socket is always one of them.
    pub sources: Vec<Network>,
    /// When it calls; empty: at any time.
    pub hours: Vec<Hours>,
    /// Minutes that the agent's clock is ahead of UTC.
    pub offset: i32,
    /// How many times its usual rate is too much.
    pub rate: Option<f64>,
    /// What is done about it.
    pub action: Action,
}

/// What is done about what is unusual. A source that is seen for the first time is only ever noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Action {
    /// The request is refused.
    Deny,
    /// It is noted.
    #[default]
    Log,
    /// The request is refused, and all that the agent is lent is revoked.
    Revoke,
}

impl Action {
    /// The word in the configuration and in audit lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Log => "log",
            Self::Revoke => "revoke",
        }
    }
}

/// A network, by its first address and the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    first: u128,
    mask: u128,
    v4: bool,
}

impl Network {
    /// Reads `10.0.0.0/8`, or an address alone. `None`: it is none, or has bits behind its prefix, or is IPv4 in IPv6
    /// (`::ffff:10.0.0.0/104`): addresses are compared as what they are, so that none would be in it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        if address.to_canonical() != address {
            return None;
        }
        let (bits, v4) = bits(address);
        let most: u32 = if v4 { 32 } else { 128 };
        let length = match length {
            Some(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok()?,
            Some(_) => return None,
            None => most,
        };
        let host = u32::checked_sub(most, length)?;
        let mask = u128::MAX.checked_shl(host).unwrap_or(0);
        (bits & !mask == 0).then_some(Self {
            first: bits,
            mask,
            v4,
        })
    }

    /// Whether an address is in it.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let (bits, v4) = bits(address.to_canonical());
        v4 == self.v4 && bits & self.mask == self.first
    }
}

/// An address as a number. IPv4 stands in the last 32 bits; the others of its mask are ones.
fn bits(address: IpAddr) -> (u128, bool) {
    match address {
        IpAddr::V4(v4) => (u32::from(v4).into(), true),
        IpAddr::V6(v6) => (v6.into(), false),
    }
}

/// Hours on some days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    /// Bit 0 is Monday.
    days: u8,
    /// Minutes since midnight; the last is not in it.
    from: i64,
    to: i64,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Hours {
    /// Reads `Mon-Fri 08:00-18:00`, `Sat,Sun 10:00-12:00` or `06:00-24:00`. Hours over midnight are two entries.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (days, hours) = match text.trim().rsplit_once(' ') {
            Some((days, hours)) => (days_of(days)?, hours),
            None => (0x7f, text.trim()),
        };
        let (from, to) = hours.split_once('-')?;
        let (from, to) = (minute(from)?, minute(to)?);
        (from < to).then_some(Self { days, from, to })
    }

    fn holds(&self, wall: WallTime, offset: i32) -> bool {
        let minutes = wall.seconds().div_euclid(60) + i64::from(offset);
        // The first of January 1970 was a Thursday.
        let day = (minutes.div_euclid(MINUTES_OF_DAY) + 3).rem_euclid(7);
        let minute = minutes.rem_euclid(MINUTES_OF_DAY);
        self.days >> day & 1 == 1 && (self.from..self.to).contains(&minute)
    }
}

fn days_of(text: &str) -> Option<u8> {
    let day = |name: &str| {
        let name = name.trim().to_ascii_lowercase();
        DAYS.iter().position(|known| *known == name)
    };
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // Fri-Mon goes over the end of the week.
        let many = (last + 7 - first) % 7;
        for step in 0..=many {
            days |= 1 << ((first + step) % 7);
        }
    }
    Some(days)
}

fn minute(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<i64>().ok().filter(|_| digits)
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    let found = hours * 60 + minutes;
    (minutes < 60 && found <= MINUTES_OF_DAY).then_some(found)
}

/// Reads `UTC`, `+02:00` or `-05:30`; the minutes that it is ahead of UTC.
#[must_use]
pub fn utc_offset(text: &str) -> Option<i32> {
    if text == "UTC" {
        return Some(0);
    }
    let (sign, rest) = match text.strip_prefix('+') {
        Some(rest) => (1, rest),
        None => (-1, text.strip_prefix('-')?),
    };
    let minutes = minute(rest).and_then(|m| i32::try_from(m).ok())?;
    (minutes <= 14 * 60).then_some(sign * minutes)
}

/// What is not usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Oddity {
    /// It calls from here for the first time since the start.
    FirstSeen,
    /// It calls at another time.
    Hours,
    /// It asks more often than it does.
    Rate,
    /// It calls from another network.
    Source,
}

impl Oddity {
    /// The name of its event.
    #[must_use]
    pub fn event(self) -> &'static str {
        match self {
            Self::FirstSeen => "anomaly.first_seen",
            Self::Hours => "anomaly.hours",
            Self::Rate => "anomaly.rate",
            Self::Source => "anomaly.source",
        }
    }
}

/// One finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub what: Oddity,
    /// Whether a line is due: one a minute for each agent and oddity.
    pub tell: bool,
    /// Whether the request is to be refused for it.
    pub deny: bool,
}

/// One call of an agent.
#[derive(Debug, Clone, Copy)]
pub struct Sighting {
    /// From where; none at a unix socket.
    pub from: Option<IpAddr>,
    /// When, by the wall.
    pub wall: WallTime,
    /// When, by the monotonic clock.
    pub now: Moment,
    /// Whether it is a request; a CONNECT is none.
    pub request: bool,
}

/// Watches one agent.
#[derive(Debug)]
pub struct Watch {
    settings: WatchSettings,
    memory: Mutex<Memory>,
}

#[derive(Debug, Clone, Default)]
struct Memory {
    sources: VecDeque<IpAddr>,
    pace: Pace,
    /// When each oddity was told last.
    told: [Option<Moment>; 4],
}

impl Watch {
    /// Begins to watch; nothing is known yet.
    #[must_use]
    pub fn new(settings: WatchSettings) -> Self {
        Self {
            settings,
            memory: Mutex::default(),
        }
    }

    /// The same agent under other settings: what was learned stays, and what is found now is told anew.
    #[must_use]
    pub fn succeed(&self, settings: WatchSettings) -> Self {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = Memory {
            told: Default::default(),
            ..memory.clone()
        };
        Self {
            settings,
            memory: Mutex::new(memory),
        }
    }

    /// What is usual.
    #[must_use]
    pub fn settings(&self) -> &WatchSettings {
        &self.settings
    }

    /// What is unusual about one call; most often nothing.
    pub fn see(&self, sighting: &Sighting) -> Vec<Finding> {
        let settings = &self.settings;
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        let sources = &settings.sources;
        if let Some(from) = sighting.from {
            if !sources.is_empty() && !sources.iter().any(|network| network.holds(from)) {
                found.push(Oddity::Source);
            }
            if memory.is_new(from) {
                found.push(Oddity::FirstSeen);
            }
        }
        let usual = |hours: &Hours| hours.holds(sighting.wall, settings.offset);
        if !settings.hours.is_empty() && !settings.hours.iter().any(usual) {
            found.push(Oddity::Hours);
        }
        if let (Some(factor), true) = (settings.rate, sighting.request)
            && memory.pace.is_high(sighting.now, factor)
        {
            found.push(Oddity::Rate);
        }
        found
            .into_iter()
            .map(|what| Finding {
                what,
                tell: what == Oddity::FirstSeen || memory.is_due(what, sighting.now),
                deny: settings.action != Action::Log && what != Oddity::FirstSeen,
            })
            .collect()
    }
}

impl Memory {
    /// Remembers a source; of IPv6 the network that one machine may choose its address from.
    fn is_new(&mut self, from: IpAddr) -> bool {
        let from = match from.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX))),
            v4 => v4,
        };
        if self.sources.contains(&from) {
            return false;
        }
        if self.sources.len() == SOURCES_MAX {
            self.sources.pop_front();
        }
        self.sources.push_back(from);
        true
    }

    fn is_due(&mut self, what: Oddity, now: Moment) -> bool {
        let Some(told) = self.told.get_mut(what as usize) else {
            return false;
        };
        let due = told.is_none_or(|told| now.since(told) >= TOLD_EVERY);
        if due {
            *told = Some(now);
        }
        due
    }
}

/// How often an agent asks in those minutes in which it asks at all.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    minute: u64,
    count: f64,
    usual: f64,
    /// Minutes in `usual`, as far as they count.
    known: u32,
}

impl Pace {
    /// Counts a request, and tells whether this minute has more of them than is usual, `factor` times over.
    fn is_high(&mut self, now: Moment, factor: f64) -> bool {
        let minute = now.0 / MINUTE_MS;
        if minute != self.minute {
            self.learn(factor);
            self.minute = minute;
            self.count = 0.0;
        }
        self.count += 1.0;
        self.known >= LEARNING && self.count > self.limit(factor)
    }

    fn limit(&self, factor: f64) -> f64 {
        FLOOR.max(self.usual * factor)
    }

    /// What was too much does not become usual at once: it counts as far as it was allowed.
    fn learn(&mut self, factor: f64) {
        if self.count < 1.0 {
            return;
        }
        let count = if self.known >= LEARNING {
            self.count.min(self.limit(factor))
        } else {
            self.count
        };
        self.known = (self.known + 1).min(MEMORY);
        self.usual += (count - self.usual) / f64::from(self.known);
    }
}

#[cfg(test)]
mod tests;
