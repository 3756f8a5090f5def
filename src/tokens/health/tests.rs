use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::vocab::{AgentName, GrantId, ScopeSet, ServiceName};

const INTERVAL: Duration = Duration::from_mins(1);

fn key(edition: u64, service: &str) -> Key {
    Key {
        edition,
        grant: GrantId {
            service: ServiceName::new(service).unwrap(),
            agent: AgentName::fallback(),
        },
        scopes: ScopeSet::default(),
    }
}

fn subject(key: &Key, lease: u64) -> Subject {
    Subject {
        key: key.clone(),
        lease,
        interval: INTERVAL,
        issuer: "https://as.test".into(),
    }
}

fn report(order: &Order, judge: Judge, verdict: Verdict) -> Report {
    Report {
        key: order.key.clone(),
        lease: order.lease,
        issuer: Arc::clone(&order.issuer),
        verdicts: vec![(judge, verdict)],
    }
}

/// One entry whose token is used all the time.
struct One {
    health: Health,
    key: Key,
    now: Moment,
    lease: u64,
}

impl One {
    fn new() -> Self {
        let mut one = Self {
            health: Health::new(7),
            key: key(1, "items"),
            now: Moment(0),
            lease: 0,
        };
        one.publish();
        one
    }

    fn publish(&mut self) {
        self.lease += 1;
        let subject = subject(&self.key, self.lease);
        self.health.published(self.now, subject);
    }

    /// Waits for the next check; `None` where none comes within two hours.
    fn order(&mut self, judge: Judge) -> Option<Order> {
        for _ in 0..7200 {
            self.now = self.now + Duration::from_secs(1);
            let now = self.now;
            let look = |_: &Key| Look {
                used: now,
                judges: vec![judge],
            };
            if let Some(order) = self.health.orders(now, look).pop() {
                return Some(order);
            }
        }
        None
    }

    /// The next check says this.
    fn hears(&mut self, verdict: Verdict) -> Ruling {
        let order = self.order(Judge::Issuer).unwrap();
        let report = report(&order, Judge::Issuer, verdict);
        self.health.reported(self.now, &report).unwrap()
    }
}

#[test]
fn a_judge_that_has_said_yes_is_believed_at_once() {
    let mut one = One::new();
    assert_eq!(one.hears(Verdict::Active).fate, Fate::Spared);
    let ruling = one.hears(Verdict::Inactive);
    assert_eq!(
        (ruling.verdict, ruling.fate),
        (Verdict::Inactive, Fate::Dead)
    );
    assert_eq!(ruling.by, Some(Judge::Issuer));
    one.health.dropped(&one.key.clone(), one.lease);
    one.publish();
    assert_eq!(one.hears(Verdict::Active).fate, Fate::Spared);
    assert_eq!(one.hears(Verdict::Inactive).fate, Fate::Dead);
}

#[test]
fn a_judge_that_always_says_no_costs_two_renewals_an_hour() {
    let mut one = One::new();
    for _ in 1..DENIALS {
        assert_eq!(one.hears(Verdict::Inactive).fate, Fate::Doubtful);
        one.publish();
    }
    let ruling = one.hears(Verdict::Inactive);
    assert_eq!(
        (ruling.verdict, ruling.fate),
        (Verdict::Unknown, Fate::Spared)
    );
    let disbelieved = one.now;
    assert_eq!(one.hears(Verdict::Inactive).fate, Fate::Doubtful);
    assert!(one.now.since(disbelieved) >= REST);
}

#[test]
fn who_cannot_answer_changes_nothing_and_is_asked_again_in_an_hour() {
    let mut one = One::new();
    for _ in 0..3 {
        let ruling = one.hears(Verdict::Unknown);
        assert_eq!((ruling.by, ruling.fate), (None, Fate::Spared));
    }
    let before = one.now;
    let ruling = one.hears(Verdict::Unsupported);
    assert_eq!(
        (ruling.verdict, ruling.fate),
        (Verdict::Unsupported, Fate::Spared)
    );
    one.hears(Verdict::Active);
    assert!(one.now.since(before) >= REST);
}

#[test]
fn what_is_said_of_another_token_than_the_one_in_use_changes_nothing() {
    let mut one = One::new();
    one.hears(Verdict::Active);
    let order = one.order(Judge::Issuer).unwrap();
    one.publish();
    let late = report(&order, Judge::Issuer, Verdict::Inactive);
    assert_eq!(one.health.reported(one.now, &late), None);
    // Its place is free again.
    assert_eq!(one.hears(Verdict::Active).verdict, Verdict::Active);
}

#[test]
fn nobody_asks_after_what_nobody_uses() {
    let mut one = One::new();
    let key = one.key.clone();
    let mut now = Moment(0);
    for _ in 0..7200 {
        now = now + Duration::from_secs(1);
        let look = |_: &Key| Look {
            used: Moment(0),
            judges: vec![Judge::Issuer],
        };
        let orders = one.health.orders(now, look);
        if now.since(Moment(0)) >= UNUSED {
            assert_eq!(orders, []);
        }
        for order in orders {
            let said = report(&order, Judge::Issuer, Verdict::Active);
            one.health.reported(now, &said);
        }
    }
    one.health.forgotten(&key);
    assert_eq!(one.health.wake(), None);
}

#[test]
fn an_entry_that_moves_is_asked_after_under_its_new_name() {
    let mut one = One::new();
    let order = one.order(Judge::Issuer).unwrap();
    let new = key(1, "other");
    one.health.moved(&one.key.clone(), &new);
    let late = report(&order, Judge::Issuer, Verdict::Active);
    assert_eq!(one.health.reported(one.now, &late), None);
    let order = one.order(Judge::Issuer).unwrap();
    assert_eq!((order.key, order.lease), (new, 1));
}

/// A world of seeds: some issuers, some clients of each, tokens that die in secret, judges that are honest, silent or
/// liars, and users that come and go.
struct World {
    seed: u64,
    random: Jitter,
    health: Health,
    now: Moment,
    /// By entry: the token in use and since when it is dead.
    tokens: BTreeMap<Key, (u64, Option<Moment>)>,
    /// Entries whose token was found good: only those die, for deaths in a row are another test's.
    good: BTreeSet<Key>,
    used: BTreeMap<Key, Moment>,
    counter: u64,
    flying: Vec<(Moment, Order)>,
    last: BTreeMap<Key, Moment>,
    begun: BTreeMap<Arc<str>, Vec<Moment>>,
    renewals: u64,
    deaths: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            random: Jitter::new(seed ^ 0x5eed),
            health: Health::new(seed),
            now: Moment(0),
            tokens: BTreeMap::new(),
            good: BTreeSet::new(),
            used: BTreeMap::new(),
            counter: 0,
            flying: Vec::new(),
            last: BTreeMap::new(),
            begun: BTreeMap::new(),
            renewals: 0,
            deaths: 0,
        }
    }

    fn keys() -> Vec<Key> {
        (0..12).map(|i| key(i, &format!("s{i}"))).collect()
    }

    fn issuer(key: &Key) -> Arc<str> {
        format!("https://as{}.test", key.edition % 3).into()
    }

    /// Editions below six have honest judges, below nine silent ones, the others liars.
    fn says(&self, key: &Key) -> Verdict {
        match key.edition {
            0..6 if self.tokens[key].1.is_some() => Verdict::Inactive,
            0..6 => Verdict::Active,
            6..9 => Verdict::Unknown,
            _ => Verdict::Inactive,
        }
    }

    fn publish(&mut self, key: &Key) {
        self.counter += 1;
        self.tokens.insert(key.clone(), (self.counter, None));
        let subject = Subject {
            issuer: Self::issuer(key),
            ..subject(key, self.counter)
        };
        self.health.published(self.now, subject);
    }

    fn step(&mut self) {
        let seed = self.seed;
        self.now = self.now + Duration::from_millis(self.random.below(3000));
        for key in Self::keys() {
            if self.random.below(20) > 0 {
                self.used.insert(key.clone(), self.now);
            }
            match self.tokens.get_mut(&key) {
                None => self.publish(&key),
                Some((_, dead @ None))
                    if self.good.contains(&key) && self.random.below(300) == 0 =>
                {
                    *dead = Some(self.now);
                }
                Some(_) => {}
            }
        }
        self.land();
        let (now, used) = (self.now, self.used.clone());
        let look = |key: &Key| Look {
            used: used.get(key).copied().unwrap_or_default(),
            judges: vec![Judge::Issuer],
        };
        for order in self.health.orders(now, look) {
            let issuer = Self::issuer(&order.key);
            let busy = self.flying.iter().any(|(_, o)| o.issuer == issuer);
            assert!(!busy, "seed {seed}: two checks at {issuer}");
            if let Some(last) = self.last.insert(order.key.clone(), now) {
                assert!(now.since(last) >= INTERVAL, "seed {seed}: too often");
            }
            let begun = self.begun.entry(issuer).or_default();
            begun.push(now);
            let minute = begun.iter().filter(|at| now.since(**at) < INTERVAL);
            assert!(minute.count() <= 60, "seed {seed}: too many a minute");
            let due = now + Duration::from_millis(self.random.below(4000));
            self.flying.push((due, order));
        }
        // An honest judge is asked in time, and what it says counts.
        for (key, (_, dead)) in &self.tokens {
            let patience = INTERVAL + Duration::from_secs(40);
            let late = dead.is_some_and(|at| now.since(at) > patience);
            assert!(
                !late || key.edition >= 6,
                "seed {seed}: {key:?} is dead and in use"
            );
        }
    }

    fn land(&mut self) {
        let now = self.now;
        let (landed, flying) = self.flying.drain(..).partition(|(due, _)| *due <= now);
        self.flying = flying;
        let landed: Vec<(Moment, Order)> = landed;
        for (_, order) in landed {
            let said = report(&order, Judge::Issuer, self.says(&order.key));
            let Some(ruling) = self.health.reported(now, &said) else {
                continue;
            };
            let honest = order.key.edition < 6;
            match ruling.fate {
                Fate::Spared => {
                    if ruling.verdict == Verdict::Active {
                        self.good.insert(order.key);
                    }
                    continue;
                }
                Fate::Dead => {
                    assert!(honest, "seed {}: a liar was believed", self.seed);
                    self.deaths += 1;
                    self.health.dropped(&order.key, order.lease);
                }
                Fate::Doubtful => self.renewals += 1,
            }
            self.good.remove(&order.key);
            self.publish(&order.key);
        }
    }
}

#[test]
fn checks_are_spread_and_bounded_and_the_dead_are_found_under_any_seed() {
    let mut told = BTreeSet::new();
    for seed in 0..64 {
        let mut world = World::new(seed);
        for _ in 0..3000 {
            world.step();
        }
        told.insert(world.deaths > 0);
        // Three liars cost two renewals an hour each.
        let hours = world.now.since(Moment(0)).as_secs() / 3600 + 1;
        assert!(world.renewals <= 3 * 2 * hours, "seed {seed}");
    }
    assert_eq!(told, BTreeSet::from([true]), "no seed had a death");
}
