//! Connections that have not said yet whose they are. Nobody's quota pays for them, so they are the first to go.
//!
//! Who opens thousands of connections and says nothing must not take the places of those who speak. From one source
//! there stay at most as many as one agent may have: those that say nothing for a second go, the oldest first. A burst
//! of clients that send their heads at once is not silent for that long, so more may come at once, up to a bound. And
//! where all places are taken, the one that has been silent longest is closed for the one that comes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    /// An IPv4 address, or the /64 that one IPv6 machine may choose its address from.
    Net(IpAddr),
    /// A user of this machine, at a unix socket.
    User(u32),
}

impl Source {
    pub(super) fn user(user: u32) -> Self {
        Self::User(user)
    }

    pub(super) fn of(ip: IpAddr) -> Self {
        Self::Net(match ip.to_canonical() {
            IpAddr::V6(v6) => {
                let network = u128::from(v6) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
            v4 => v4,
        })
    }
}

/// Connections of one source that may come at once, however few it may keep.
const BURST: usize = 1024;

/// All connections without a name. Bounded by the listener's connections.
pub(super) struct Crowd {
    /// Of one source, after a second.
    share: usize,
    /// Of one source, at once.
    most: usize,
    silent: Mutex<Silent>,
}

#[derive(Default)]
struct Silent {
    /// Numbers grow, so the first is the oldest.
    next: u64,
    all: BTreeMap<u64, (Source, Arc<Notify>)>,
    sources: HashMap<Source, BTreeSet<u64>>,
}

/// One connection's place in the crowd, left when it is dropped.
pub(super) struct Ticket {
    crowd: Arc<Crowd>,
    number: u64,
    cut: Arc<Notify>,
}

impl Ticket {
    /// Told once where the connection has to make room.
    pub(super) fn cut(&self) -> Arc<Notify> {
        self.cut.clone()
    }

    /// Its number in the crowd.
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.crowd.silent().remove(self.number);
    }
}

impl Crowd {
    pub(super) fn new(share: usize) -> Arc<Self> {
        Arc::new(Self {
            share,
            most: share.max(BURST),
            silent: Mutex::default(),
        })
    }

    /// Takes a connection in, and answers whether the oldest of its source was closed for it.
    pub(super) fn enter(self: &Arc<Self>, source: Source) -> (Ticket, bool) {
        let cut = Arc::new(Notify::new());
        let mut silent = self.silent();
        let number = silent.next;
        silent.next += 1;
        let of_source = silent.sources.entry(source).or_default();
        let oldest = of_source.first().copied();
        let oldest = oldest.filter(|_| of_source.len() >= self.most);
        of_source.insert(number);
        silent.all.insert(number, (source, cut.clone()));
        let closed = oldest.and_then(|oldest| silent.remove(oldest));
        drop(silent);
        if let Some(oldest) = &closed {
            oldest.notify_one();
        }
        let ticket = Ticket {
            crowd: self.clone(),
            number,
            cut,
        };
        (ticket, closed.is_some())
    }

    /// A connection has been silent for a while: where its source has more than its share, closes the oldest of those
    /// that have been so for as long. Answers how many.
    pub(super) fn sweep(&self, number: u64) -> usize {
        let mut silent = self.silent();
        let Some((source, _)) = silent.all.get(&number) else {
            return 0;
        };
        let Some(of_source) = silent.sources.get(source) else {
            return 0;
        };
        let beyond = of_source.len().saturating_sub(self.share);
        let oldest = of_source.range(..=number).take(beyond).copied();
        let oldest: Vec<u64> = oldest.collect();
        let closed = oldest.into_iter().filter_map(|n| silent.remove(n));
        let closed: Vec<_> = closed.collect();
        drop(silent);
        for one in &closed {
            one.notify_one();
        }
        closed.len()
    }

    /// Closes the one that has been silent longest, if any is silent.
    pub(super) fn cut_oldest(&self) -> bool {
        let mut silent = self.silent();
        let oldest = silent.all.first_key_value().map(|(number, _)| *number);
        let closed = oldest.and_then(|oldest| silent.remove(oldest));
        drop(silent);
        if let Some(oldest) = &closed {
            oldest.notify_one();
        }
        closed.is_some()
    }

    fn silent(&self) -> MutexGuard<'_, Silent> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Silent {
    fn remove(&mut self, number: u64) -> Option<Arc<Notify>> {
        let (source, cut) = self.all.remove(&number)?;
        if let Some(of_source) = self.sources.get_mut(&source) {
            of_source.remove(&number);
            if of_source.is_empty() {
                self.sources.remove(&source);
            }
        }
        Some(cut)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    fn was_cut(ticket: &Ticket) -> bool {
        ticket.cut().notified().now_or_never().is_some()
    }

    #[test]
    fn one_source_closes_its_own_oldest_and_nobody_elses() {
        let crowd = Crowd::new(2);
        let (hostile, other) = (source("10.0.0.1"), source("10.0.0.2"));
        let (patient, _) = crowd.enter(other);
        let tickets: Vec<_> = (0..5).map(|_| crowd.enter(hostile).0).collect();
        // The third has been silent for long, and so have those before it.
        assert_eq!(crowd.sweep(tickets[2].number()), 3);
        let cut: Vec<_> = tickets.iter().map(was_cut).collect();
        assert_eq!(cut, [true, true, true, false, false]);
        for ticket in &tickets {
            assert_eq!(crowd.sweep(ticket.number()), 0);
        }
        assert_eq!(crowd.sweep(patient.number()), 0);
        assert!(!was_cut(&patient));
    }

    #[test]
    fn more_than_a_burst_do_not_come_at_once() {
        let crowd = Crowd::new(2);
        let (hostile, other) = (source("10.0.0.1"), source("10.0.0.2"));
        let mut tickets: Vec<_> = (0..BURST).map(|_| crowd.enter(hostile)).collect();
        assert!(tickets.iter().all(|(_, closed)| !closed));
        assert!(!crowd.enter(other).1);
        tickets.push(crowd.enter(hostile));
        assert!(tickets[BURST].1 && was_cut(&tickets[0].0) && !was_cut(&tickets[1].0));
        // Whoever says its name leaves room.
        tickets.pop();
        assert!(!crowd.enter(hostile).1);
    }

    #[test]
    fn the_oldest_goes_first_and_nothing_is_left_behind() {
        let crowd = Crowd::new(10);
        let (first, _) = crowd.enter(source("10.0.0.1"));
        let (second, _) = crowd.enter(source("10.0.0.2"));
        assert!(crowd.cut_oldest());
        assert!(was_cut(&first) && !was_cut(&second));
        drop((first, second));
        assert!(!crowd.cut_oldest());
        let silent = crowd.silent();
        assert!(silent.all.is_empty() && silent.sources.is_empty());
    }

    #[test]
    fn a_machine_is_one_source_whatever_address_it_takes() {
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
    }
}
