//! A seeded world around the keeper: agents that ask and report, an issuer that is slow, sick or silent, clocks that
//! jump each for itself. A failure prints its seed; the seed tells the whole story.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::pace::Jitter;
use super::tests::key;
use super::*;

const SEEDS: u64 = 256;
const STEPS: usize = 1500;
const KEYS: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Healthy,
    Refusing,
    Sick,
}

/// An answer on its way.
struct Pending {
    due: Moment,
    key: Key,
    attempt: u64,
    /// `None` fails.
    life: Option<Option<Duration>>,
    mood: Mood,
}

struct World {
    seed: u64,
    random: Jitter,
    keeper: Keeper,
    now: Moment,
    wall: WallTime,
    mood: Mood,
    wake: Option<Moment>,
    pending: Vec<Pending>,
    /// What the keeper has under way, by key.
    flying: BTreeMap<Key, u64>,
    shelf: BTreeMap<Key, (u64, Expiry)>,
    waiting: BTreeMap<Key, Moment>,
    /// Leases that went out at some time, for late reports.
    lent: Vec<u64>,
    verdicts: BTreeMap<Key, Vec<Moment>>,
    served: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            random: Jitter::new(seed ^ 0x5eed),
            keeper: Keeper::new(seed),
            now: Moment(0),
            wall: WallTime(1_700_000_000_000),
            mood: Mood::Healthy,
            wake: None,
            pending: Vec::new(),
            flying: BTreeMap::new(),
            shelf: BTreeMap::new(),
            waiting: BTreeMap::new(),
            lent: Vec::new(),
            verdicts: BTreeMap::new(),
            served: 0,
        }
    }

    fn any_key(&mut self) -> Key {
        key(&format!("s{}", self.random.below(KEYS)))
    }

    fn feed(&mut self, event: Event<()>) {
        let failed = match &event {
            Event::Failed { key, attempt, .. } | Event::Granted { key, attempt, .. } => {
                Some((key.clone(), *attempt))
            }
            _ => None,
        };
        if let Some((key, attempt)) = failed
            && self.flying.get(&key) == Some(&attempt)
        {
            self.flying.remove(&key);
        }
        for action in self.keeper.handle(self.now, self.wall, event) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action<()>) {
        let seed = self.seed;
        match action {
            Action::Drop { key, lease, .. } => {
                if self.shelf.get(&key).is_some_and(|(l, _)| *l == lease) {
                    self.shelf.remove(&key);
                }
            }
            Action::Fetch { key, attempt } => {
                let twin = self.flying.insert(key.clone(), attempt);
                assert_eq!(twin, None, "seed {seed}: two fetches for one entry");
                self.launch(key, attempt);
            }
            Action::Publish {
                key,
                lease,
                expires,
                ..
            } => {
                assert!(
                    !expires.passed(self.now, self.wall),
                    "seed {seed}: published a dead token"
                );
                let left = expires.monotonic.since(self.now);
                assert!(left <= Duration::from_mins(30), "seed {seed}: {left:?}");
                self.shelf.insert(key, (lease, expires));
                self.lent.push(lease);
            }
            Action::Refuse { key, .. } => {
                self.waiting.remove(&key);
            }
            Action::Wake(key) => {
                let (_, expires) = self.shelf[&key];
                assert!(
                    !expires.passed(self.now, self.wall),
                    "seed {seed}: served a dead token"
                );
                self.waiting.remove(&key);
                self.served += 1;
            }
            Action::WakeAt(at) => self.wake = Some(self.wake.map_or(at, |wake| wake.min(at))),
            Action::Move { from, into } => {
                if let Some(slot) = self.shelf.remove(&from) {
                    self.shelf.insert(into, slot);
                }
            }
            Action::Forget(_) | Action::Trouble { .. } => {}
        }
    }

    /// The issuer's side: quick, slow, or never.
    fn launch(&mut self, key: Key, attempt: u64) {
        if self.mood == Mood::Refusing {
            self.verdicts.entry(key.clone()).or_default().push(self.now);
        }
        if self.mood != Mood::Healthy && self.random.below(20) == 0 {
            return;
        }
        let delay = match self.random.below(10) {
            0 => self.random.below(9_900),
            _ => self.random.below(300),
        };
        let life = match self.random.below(8) {
            0 => None,
            1 => Some(Duration::from_secs(self.random.below(4))),
            2 => Some(Duration::from_hours(24)),
            _ => Some(Duration::from_secs(20 + self.random.below(3600))),
        };
        self.pending.push(Pending {
            due: self.now + Duration::from_millis(delay),
            key,
            attempt,
            life: (self.mood == Mood::Healthy).then_some(life),
            mood: self.mood,
        });
    }

    fn deliver(&mut self) {
        while let Some(i) = self.pending.iter().position(|p| p.due <= self.now) {
            let answer = self.pending.swap_remove(i);
            let (key, attempt) = (answer.key, answer.attempt);
            self.feed(match answer.life {
                Some(life) => Event::Granted {
                    key,
                    attempt,
                    token: (),
                    life,
                    cap: Duration::from_mins(30),
                },
                None => Event::Failed {
                    key,
                    attempt,
                    failure: match answer.mood {
                        Mood::Refusing => Code::ClientMisconfigured.into(),
                        _ => Code::AsUnavailable.into(),
                    },
                },
            });
        }
    }

    /// As the worker does: answers first, then time.
    fn settle(&mut self) {
        self.deliver();
        if self.wake.is_some_and(|wake| self.now >= wake) {
            self.wake = None;
            self.give_up_lost_fetches();
            self.feed(Event::Tick);
        }
        for (key, since) in &self.waiting {
            let waits = self.now.since(*since);
            assert!(
                waits <= FLIGHT_MAX,
                "seed {}: {key:?} waits for {waits:?}",
                self.seed
            );
        }
    }

    /// A fetch that the keeper will give up at this tick is no longer under way: the worker's own limit is shorter.
    fn give_up_lost_fetches(&mut self) {
        let on_the_way: BTreeSet<u64> = self.pending.iter().map(|p| p.attempt).collect();
        self.flying
            .retain(|_, attempt| on_the_way.contains(attempt));
    }

    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            let next = self
                .pending
                .iter()
                .map(|p| p.due)
                .chain(self.wake)
                .filter(|at| *at > self.now)
                .min()
                .map_or(end, |at| at.min(end));
            self.wall = self.wall + next.since(self.now);
            self.now = next;
            self.settle();
        }
    }

    fn ask(&mut self) {
        let key = self.any_key();
        self.waiting.entry(key.clone()).or_insert(self.now);
        self.feed(Event::Asked(key));
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..=59 => self.ask(),
            60..=79 => {
                let span = Duration::from_millis(self.random.below(30_000));
                self.pass(span);
            }
            80..=87 => {
                if !self.lent.is_empty() {
                    let recent = self.lent.len().saturating_sub(6);
                    let pick = self.random.below((self.lent.len() - recent) as u64);
                    let lease = self.lent[recent + pick as usize];
                    let again = self.random.below(4) == 0;
                    // An API refused it, or a check said something.
                    if self.random.below(4) == 0 {
                        self.feed(Event::Doubted { lease, dead: again });
                    } else {
                        self.shelf.retain(|_, (l, _)| *l != lease);
                        self.feed(Event::Rejected { lease, again });
                    }
                }
            }
            88..=92 => {
                self.mood =
                    [Mood::Healthy, Mood::Refusing, Mood::Sick][self.random.below(3) as usize];
            }
            93..=94 => {
                let back = self.random.below(2) == 0;
                let jump = self.random.below(7_200_000);
                self.wall = WallTime(if back {
                    self.wall.0.saturating_sub(jump)
                } else {
                    self.wall.0 + jump
                });
            }
            95 => {
                let jump = Duration::from_millis(self.random.below(3_600_000));
                self.now = self.now + jump;
                for (_, since) in self.waiting.iter_mut() {
                    *since = *since + jump;
                }
                self.settle();
            }
            _ => self.pass(Duration::from_mins(11)),
        }
        self.settle();
    }

    /// With a healthy issuer and quiet clocks, everybody is served in the end.
    fn recovers(&mut self) {
        self.mood = Mood::Healthy;
        self.pass(Duration::from_mins(7));
        for i in 0..KEYS {
            let key = key(&format!("s{i}"));
            let before = self.served;
            for _ in 0..200 {
                self.waiting.entry(key.clone()).or_insert(self.now);
                self.feed(Event::Asked(key.clone()));
                self.pass(Duration::from_secs(1));
                if self.served > before {
                    break;
                }
            }
            assert!(self.served > before, "seed {}: {key:?} starves", self.seed);
        }
        self.pass(FLIGHT_MAX);
        assert!(self.waiting.is_empty(), "seed {}: forgotten", self.seed);
    }
}

#[test]
fn invariants_hold_under_every_seed() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.recovers();
        assert!(world.served > 50, "seed {seed}: the world did nothing");
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let story = |seed| {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        (world.now, world.served, world.lent)
    };
    assert_eq!(story(42), story(42));
    assert_ne!(story(42), story(43));
}

#[test]
fn an_issuer_that_refuses_for_good_is_left_in_peace() {
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        world.mood = Mood::Refusing;
        for _ in 0..2_000 {
            world.ask();
            let span = Duration::from_millis(world.random.below(200));
            world.pass(span);
        }
        for (key, times) in &world.verdicts {
            for (i, start) in times.iter().enumerate() {
                let within = times[i..]
                    .iter()
                    .filter(|t| t.since(*start) <= Duration::from_mins(1))
                    .count();
                assert!(within <= 8, "seed {seed}: {key:?} {within} in a minute");
            }
        }
    }
}
