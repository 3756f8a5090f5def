//! Tokens that come too fast: an issuer that gives out short lives without saying so, an API that refuses what is good, or a
//! fault of ours. Pure: it counts what was had, and says when that is out of proportion.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::keeper::Key;
use crate::vocab::Moment;

/// What is looked at together.
const WINDOW: Duration = Duration::from_mins(10);
/// So many times what the tokens' lives explain is too much,
const TIMES: u32 = 3;
/// and so few are never.
const LEAST: u32 = 6;
/// Most tokens of one entry that are remembered.
const KEPT: usize = 64;

/// What was had lately, by entry; as many as the keeper has.
#[derive(Default)]
pub(super) struct Pattern(BTreeMap<Key, Lately>);

#[derive(Default)]
struct Lately {
    at: VecDeque<Moment>,
    /// The longest life that one of them was given.
    life: Duration,
    told: Option<Moment>,
}

/// Too many tokens in ten minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excess {
    pub(super) had: u32,
    pub(super) expected: u32,
}

impl Pattern {
    /// A token was had that lives so long. [`Excess`] where there were too many, once in ten minutes.
    pub(super) fn issued(&mut self, now: Moment, key: &Key, life: Duration) -> Option<Excess> {
        let lately = self.0.entry(key.clone()).or_default();
        lately.at.retain(|at| now.since(*at) < WINDOW);
        if lately.at.is_empty() {
            lately.life = Duration::ZERO;
        }
        if lately.at.len() >= KEPT {
            lately.at.pop_front();
        }
        lately.at.push_back(now);
        lately.life = lately.life.max(life);
        // Renewals begin at three quarters of a life, and something may have begun the window.
        let each = (lately.life * 3 / 4).max(Duration::from_secs(1));
        let fits = WINDOW.as_secs() / each.as_secs().max(1);
        let expected = u32::try_from(fits).unwrap_or(u32::MAX).saturating_add(1);
        let had = u32::try_from(lately.at.len()).unwrap_or(u32::MAX);
        let most = expected.saturating_mul(TIMES).max(LEAST - 1);
        let told = lately.told.is_some_and(|at| now.since(at) < WINDOW);
        if had <= most || told {
            return None;
        }
        lately.told = Some(now);
        Some(Excess { had, expected })
    }

    /// Nothing is kept of this entry any more.
    pub(super) fn forgotten(&mut self, key: &Key) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{AgentName, GrantId, ScopeSet, ServiceName};

    fn key() -> Key {
        Key {
            edition: 1,
            grant: GrantId {
                service: ServiceName::new("items").unwrap(),
                agent: AgentName::fallback(),
            },
            scopes: ScopeSet::default(),
        }
    }

    /// What is told of tokens of this life that come at this distance, for an hour.
    fn told(life: u64, every: u64) -> Vec<Excess> {
        let mut pattern = Pattern::default();
        let times = (0..3600 / every).map(|i| Moment(0) + Duration::from_secs(i * every));
        let life = Duration::from_secs(life);
        times
            .filter_map(|now| pattern.issued(now, &key(), life))
            .collect()
    }

    #[test]
    fn what_the_lives_explain_is_not_told() {
        for (life, every) in [(300, 225), (45, 33), (1800, 1350), (60, 30), (1800, 240)] {
            assert_eq!(told(life, every), [], "{life} {every}");
        }
    }

    #[test]
    fn what_they_do_not_explain_is_told_once_in_ten_minutes() {
        let all = told(1800, 20);
        assert_eq!(all.len(), 6, "{all:?}");
        assert_eq!(
            all[0],
            Excess {
                had: 6,
                expected: 1
            }
        );
        assert!(all[1..].iter().all(|excess| excess.had > 5));
    }
}
