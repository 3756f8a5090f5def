//! What the operator has stopped: nothing is lent to whom a stop covers, until it is lifted.
//!
//! A plain stop ends with the operator's `reload`, with a login, or with the process. One for a compromise outlives the
//! process where there is a store, and only a fresh grant ends it. Asked by every request, so while there is no stop the
//! answer is one load.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::vocab::{AgentName, GrantId, ServiceName};

/// What stands in a row for every service, or every agent.
const ALL: &str = "*";
/// The first byte of a row.
const FORM: u8 = 1;

/// What is to be revoked: a service's credential, an agent's, both together, or everything.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Selection {
    /// This service; all where absent.
    pub service: Option<ServiceName>,
    /// This agent; all where absent.
    pub agent: Option<AgentName>,
}

impl Selection {
    /// Whether it is about what this agent does at this service.
    #[must_use]
    pub fn covers(&self, service: &ServiceName, agent: &AgentName) -> bool {
        self.is_about(service) && self.agent.as_ref().is_none_or(|one| one == agent)
    }

    /// Whether it is about this service, for anybody.
    #[must_use]
    pub fn is_about(&self, service: &ServiceName) -> bool {
        self.service.as_ref().is_none_or(|one| one == service)
    }

    /// The name of its row: no name of a configuration has a star or a slash in it.
    pub(super) fn row_name(&self) -> String {
        let service = self.service.as_ref().map_or(ALL, ServiceName::as_str);
        let agent = self.agent.as_ref().map_or(ALL, AgentName::as_str);
        format!("{service}/{agent}")
    }

    fn of_row(name: &str) -> Option<Self> {
        let (service, agent) = name.split_once('/')?;
        let service = (service != ALL).then(|| ServiceName::new(service));
        let agent = (agent != ALL).then(|| AgentName::new(agent));
        Some(Self {
            service: service.transpose().ok()?,
            agent: agent.transpose().ok()?,
        })
    }
}

/// A stop that stands, as operators are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// What it is about.
    pub selection: Selection,
    /// Only a fresh grant ends it.
    pub compromise: bool,
    /// What has come back since.
    pub returned: Vec<GrantId>,
}

/// All stops. As many as there are selections of the configuration's names; each stands once for a compromise and once
/// without one.
#[derive(Default)]
pub(super) struct Stops {
    any: AtomicBool,
    all: RwLock<Vec<Stop>>,
    /// Numbers the stops; never the same twice in one process.
    last: AtomicU64,
}

struct Stop {
    selection: Selection,
    compromise: bool,
    number: u64,
    /// Grants that have come back since. As many as the configuration has.
    lifted: BTreeSet<GrantId>,
}

impl Stop {
    fn covers(&self, service: &ServiceName, agent: &AgentName) -> bool {
        self.selection.covers(service, agent)
            && !self.lifted.iter().any(|grant| {
                grant.service == *service && (grant.agent == *agent || grant.agent.is_everyone())
            })
    }

    /// Whether this grant's return ends all of it.
    fn is_all_of(&self, grant: &GrantId) -> bool {
        self.selection.service.as_ref() == Some(&grant.service)
            && match &self.selection.agent {
                Some(agent) => *agent == grant.agent,
                None => grant.agent.is_everyone(),
            }
    }

    /// What the disk says of it, where it is for a compromise.
    fn content(&self) -> Vec<u8> {
        let lifted: Vec<String> = self.lifted.iter().map(ToString::to_string).collect();
        [&[FORM], lifted.join("\n").as_bytes()].concat()
    }

    fn read(name: &str, content: &[u8]) -> Option<Self> {
        let (form, lifted) = content.split_first()?;
        let lifted = std::str::from_utf8(lifted).ok().filter(|_| *form == FORM)?;
        let grant = |line: &str| {
            let (service, agent) = line.split_once('/')?;
            let agent = match agent {
                ALL => AgentName::everyone(),
                name => AgentName::new(name).ok()?,
            };
            let service = ServiceName::new(service).ok()?;
            Some(GrantId { service, agent })
        };
        Some(Self {
            selection: Selection::of_row(name)?,
            compromise: true,
            number: 0,
            lifted: lifted.lines().map(grant).collect::<Option<_>>()?,
        })
    }
}

impl Stops {
    /// Those that an earlier process left behind. A row that cannot be read stops everything that its name says, and
    /// everything where it says nothing: what was compromised must not come back by a damaged byte.
    pub(super) fn restored<'a>(rows: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let stop = |(name, content): (&str, &[u8])| {
            Stop::read(name, content).unwrap_or_else(|| Stop {
                selection: Selection::of_row(name).unwrap_or_default(),
                compromise: true,
                number: 0,
                lifted: BTreeSet::new(),
            })
        };
        let all: Vec<Stop> = rows.map(stop).collect();
        Self {
            any: AtomicBool::new(!all.is_empty()),
            all: RwLock::new(all),
            last: AtomicU64::new(0),
        }
    }

    /// Stops a selection, from this moment on. The row of a compromise has changed then.
    pub(super) fn add(&self, selection: &Selection, compromise: bool) {
        let mut all = self.write();
        let number = self.last.fetch_add(1, Ordering::AcqRel) + 1;
        // A compromise stays what it is, whatever is revoked after it: what came back from it is then stopped for a while,
        // and not compromised again.
        all.retain(|stop| stop.selection != *selection || (stop.compromise && !compromise));
        // A login that was begun before this one ends neither.
        let same = all.iter_mut().filter(|stop| stop.selection == *selection);
        same.for_each(|stop| stop.number = number);
        let stop = Stop {
            selection: selection.clone(),
            compromise,
            number,
            lifted: BTreeSet::new(),
        };
        all.push(stop);
        self.any.store(true, Ordering::Release);
    }

    /// What the disk should say of this selection now; nothing where it is not compromised.
    pub(super) fn row(&self, selection: &Selection) -> Option<Vec<u8>> {
        let all = self.read();
        let mut compromises = all.iter().filter(|stop| stop.compromise);
        let stop = compromises.find(|stop| stop.selection == *selection);
        stop.map(Stop::content)
    }

    /// All that stand, in the order of their names.
    pub(super) fn list(&self) -> Vec<Stopped> {
        let all = self.read();
        let each = all.iter().map(|stop| Stopped {
            selection: stop.selection.clone(),
            compromise: stop.compromise,
            returned: stop.lifted.iter().cloned().collect(),
        });
        let mut each: Vec<_> = each.collect();
        each.sort_by(|a, b| (&a.selection, a.compromise).cmp(&(&b.selection, b.compromise)));
        each
    }

    /// Whether nothing may be lent to this agent for this service.
    pub(super) fn cover(&self, service: &ServiceName, agent: &AgentName) -> bool {
        self.any.load(Ordering::Acquire) && self.read().iter().any(|s| s.covers(service, agent))
    }

    /// Whether only a fresh grant brings this back.
    pub(super) fn compromised(&self, service: &ServiceName, agent: &AgentName) -> bool {
        let all = self.read();
        let mut covering = all.iter().filter(|stop| stop.covers(service, agent));
        covering.any(|stop| stop.compromise)
    }

    /// The number of the last stop. A login that begins now remembers it.
    pub(super) fn epoch(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Whether this was stopped after that moment.
    pub(super) fn since(&self, epoch: u64, grant: &GrantId) -> bool {
        let all = self.read();
        let mut later = all.iter().filter(|stop| stop.number > epoch);
        later.any(|stop| stop.covers(&grant.service, &grant.agent))
    }

    /// A grant has come back by a fresh login or the operator's word. A stop of one agent is not ended by a grant that all
    /// ride on, and one that is newer than `epoch` not by a login that began then. Whose rows have changed, and whether anything
    /// was lifted.
    pub(super) fn lift(&self, grant: &GrantId, epoch: Option<u64>) -> (Vec<Selection>, bool) {
        let (mut changes, mut lifted) = (Vec::new(), false);
        let mut all = self.write();
        all.retain_mut(|stop| {
            if epoch.is_some_and(|epoch| stop.number > epoch) {
                return true;
            }
            if stop.is_all_of(grant) {
                lifted = true;
                if stop.compromise {
                    changes.push(stop.selection.clone());
                }
                return false;
            }
            let shared = grant.agent.is_everyone() && stop.selection.agent.is_none();
            let own = stop.selection.covers(&grant.service, &grant.agent);
            if stop.selection.is_about(&grant.service)
                && (own || shared)
                && stop.lifted.insert(grant.clone())
            {
                lifted = true;
                if stop.compromise {
                    changes.push(stop.selection.clone());
                }
            }
            true
        });
        self.any.store(!all.is_empty(), Ordering::Release);
        (changes, lifted)
    }

    /// Ends every plain stop. What they were, but for those that a compromise covers whole.
    pub(super) fn lift_plain(&self) -> Vec<Selection> {
        let mut all = self.write();
        let plain = all.extract_if(.., |stop| !stop.compromise);
        let mut plain: Vec<_> = plain.map(|stop| stop.selection).collect();
        let whole = |stop: &Stop, of: &Selection| stop.selection == *of && stop.lifted.is_empty();
        plain.retain(|selection| !all.iter().any(|stop| whole(stop, selection)));
        self.any.store(!all.is_empty(), Ordering::Release);
        plain
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Stop>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Stop>> {
        self.all.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(service: &str, agent: &str) -> Selection {
        Selection::of_row(&format!("{service}/{agent}")).unwrap()
    }

    fn grant(service: &str, agent: &str) -> GrantId {
        GrantId {
            service: ServiceName::new(service).unwrap(),
            agent: AgentName::new(agent).unwrap_or_else(|_| AgentName::everyone()),
        }
    }

    fn covered(stops: &Stops, service: &str, agent: &str) -> bool {
        let grant = grant(service, agent);
        stops.cover(&grant.service, &grant.agent)
    }

    #[test]
    fn a_stop_covers_its_selection_and_nothing_else() {
        // Selection; then what is covered of (a, x), (a, y), (b, x), (b, y).
        for (service, agent, covers) in [
            ("*", "*", [true; 4]),
            ("a", "*", [true, true, false, false]),
            ("*", "x", [true, false, true, false]),
            ("b", "y", [false, false, false, true]),
        ] {
            let stops = Stops::default();
            assert!(!covered(&stops, "a", "x"));
            stops.add(&selection(service, agent), false);
            let pairs = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")];
            assert_eq!(pairs.map(|(s, a)| covered(&stops, s, a)), covers);
            assert_eq!(stops.lift_plain().len(), 1);
            assert!(pairs.iter().all(|(s, a)| !covered(&stops, s, a)));
        }
    }

    #[test]
    fn a_grant_that_comes_back_takes_its_part_of_a_stop_alone() {
        let stops = Stops::default();
        stops.add(&selection("*", "*"), true);
        stops.add(&selection("*", "x"), false);
        stops.lift(&grant("a", "y"), None);
        assert!(!covered(&stops, "a", "y") && covered(&stops, "a", "z"));
        // A shared login is for all of its service, but not for the agent that was stopped by name.
        stops.lift(&grant("b", "*"), None);
        assert!(!covered(&stops, "b", "y") && covered(&stops, "b", "x"));
        stops.lift(&grant("b", "x"), None);
        assert!(!covered(&stops, "b", "x") && covered(&stops, "a", "x"));
        assert_eq!(stops.lift_plain().len(), 1);
        assert!(covered(&stops, "a", "x"), "the compromise goes on");
    }

    #[test]
    fn a_later_plain_stop_does_not_soften_a_compromise() {
        let stops = Stops::default();
        stops.add(&selection("a", "*"), true);
        let before = stops.epoch();
        stops.add(&selection("a", "*"), false);
        assert!(stops.lift_plain().is_empty());
        assert!(stops.since(before, &grant("a", "x")));
        assert!(!stops.since(stops.epoch(), &grant("a", "x")));
    }

    #[test]
    fn a_plain_stop_does_not_make_a_compromise_of_what_came_back_from_one() {
        let stops = Stops::default();
        stops.add(&selection("a", "*"), true);
        stops.lift(&grant("a", "y"), None);
        stops.add(&selection("a", "*"), false);
        let a = ServiceName::new("a").unwrap();
        let compromised = |agent: &str| stops.compromised(&a, &grant("a", agent).agent);
        assert!(covered(&stops, "a", "y") && !compromised("y") && compromised("x"));
        // The plain one has no row, and its end leaves that of the compromise alone.
        let (changes, lifted) = stops.lift(&grant("a", "y"), None);
        assert!(changes.is_empty() && lifted);
        stops.add(&selection("a", "*"), false);
        assert_eq!(stops.lift_plain(), [selection("a", "*")]);
        assert!(!covered(&stops, "a", "y") && covered(&stops, "a", "x"));
        // A further compromise is of everything again.
        stops.add(&selection("a", "*"), false);
        stops.add(&selection("a", "*"), true);
        assert!(stops.lift_plain().is_empty() && compromised("y"));
    }

    #[test]
    fn a_login_ends_no_stop_that_is_newer_than_it() {
        let stops = Stops::default();
        stops.add(&selection("a", "*"), true);
        let begun = Some(stops.epoch());
        stops.add(&selection("*", "x"), false);
        stops.lift(&grant("a", "x"), begun);
        assert!(covered(&stops, "a", "x") && covered(&stops, "a", "y"));
        stops.lift(&grant("a", "*"), begun);
        assert!(covered(&stops, "a", "x") && !covered(&stops, "a", "y"));
        stops.lift(&grant("a", "x"), Some(stops.epoch()));
        assert!(!covered(&stops, "a", "x"));
        // The same selection once more: the login ends neither of the two.
        stops.add(&selection("b", "*"), true);
        let begun = Some(stops.epoch());
        stops.add(&selection("b", "*"), false);
        assert!(!stops.lift(&grant("b", "*"), begun).1);
        assert!(covered(&stops, "b", "y"));
    }

    #[test]
    fn a_compromise_outlives_the_process_also_as_a_damaged_row() {
        let stops = Stops::default();
        stops.add(&selection("c", "*"), false);
        assert_eq!(stops.row(&selection("c", "*")), None);
        stops.add(&selection("a", "*"), true);
        let (changes, lifted) = stops.lift(&grant("a", "y"), None);
        assert!(lifted);
        assert_eq!(changes, [selection("a", "*")]);
        let (name, content) = ("a/*", stops.row(&changes[0]).unwrap());
        let again = Stops::restored([(name, content.as_slice())].into_iter());
        assert!(covered(&again, "a", "x") && !covered(&again, "a", "y"));
        assert!(!covered(&again, "c", "x"));
        for damaged in [&b""[..], b"\x02", b"\x01a/y\nb", b"\x01\xff"] {
            let again = Stops::restored([(name, damaged)].into_iter());
            assert!(covered(&again, "a", "y") && !covered(&again, "b", "y"));
        }
        let nameless = Stops::restored([("?", &b"\x01"[..])].into_iter());
        assert!(covered(&nameless, "b", "y"));
    }
}
