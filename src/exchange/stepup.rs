//! Step-up: an API says that a request needs more scope than its token has (RFC 6750 §3.1).
//!
//! A challenge can only ask. What it gets is within what the request's rule allows, and not often: an API that asks for
//! ever more cannot have tokens fetched without end. What was granted is remembered, so that each request of the
//! rule does not begin with a refusal.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::policy::Permit;
use crate::proof::Challenge;
use crate::vocab::{AgentName, Moment, RuleName, ScopeSet, ServiceName};

/// Most step-ups of one rule and agent within [`SPAN`].
const STEPS: usize = 2;
/// So long a step-up counts and is remembered.
const SPAN: Duration = Duration::from_hours(1);
/// Most rules and agents that are remembered. They are those of the configuration; this is a backstop, and beyond it there
/// is no step-up.
const ENTRIES_MAX: usize = 4096;

/// What was asked for and granted lately.
#[derive(Default)]
pub(super) struct StepUps(Mutex<HashMap<Place, Steps>>);

/// Whose step-up, and of which rule.
type Place = (AgentName, ServiceName, RuleName);

#[derive(Default)]
struct Steps {
    at: VecDeque<Moment>,
    scopes: ScopeSet,
}

/// Why a challenge leads nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Useless {
    /// It asks for more than the rule allows.
    BeyondPolicy,
    /// The token has all of that already.
    NothingNew,
    /// The issuer did not give it.
    NotGranted,
    /// The rule's step-ups are used up for now.
    TooOften,
    /// What it asks for cannot be read.
    Unreadable,
}

impl Useless {
    /// The word in audit lines.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::BeyondPolicy => "beyond_policy",
            Self::NothingNew => "nothing_new",
            Self::NotGranted => "not_granted",
            Self::TooOften => "too_often",
            Self::Unreadable => "unreadable",
        }
    }
}

/// The scopes that a challenge asks for; the whole ceiling where it names none.
pub(super) fn asked(challenges: &[Challenge], permit: &Permit) -> Result<ScopeSet, Useless> {
    let insufficient = challenges
        .iter()
        .find(|c| c.param("error") == Some("insufficient_scope"));
    match insufficient.and_then(|c| c.param("scope")) {
        Some(text) => ScopeSet::parse(text).map_err(|_| Useless::Unreadable),
        None => Ok(permit.ceiling().cloned().unwrap_or_default()),
    }
}

impl StepUps {
    /// The permit with what its rule was granted within the last hour; `None` where that is nothing. Costs nothing where the
    /// rule allows no step-up.
    pub(super) fn remembered(&self, permit: &Permit, now: Moment) -> Option<Permit> {
        permit.ceiling()?;
        let all = self.all();
        let steps = all.get(&place(permit))?;
        let last = steps.at.back().filter(|at| now.since(**at) < SPAN);
        last.and_then(|_| permit.raised(&steps.scopes))
    }

    /// The permit that a challenge is answered with. It counts from here on, whatever comes of it.
    ///
    /// # Errors
    /// [`Useless`]: the challenge leads nowhere.
    pub(super) fn raise(
        &self,
        permit: &Permit,
        held: &ScopeSet,
        asked: &ScopeSet,
        now: Moment,
    ) -> Result<Permit, Useless> {
        let raised = permit.raised(asked).ok_or(Useless::BeyondPolicy)?;
        if asked.is_within(held) {
            return Err(Useless::NothingNew);
        }
        let mut all = self.all();
        if all.len() >= ENTRIES_MAX {
            all.retain(|_, steps| steps.at.back().is_some_and(|at| now.since(*at) < SPAN));
        }
        if all.len() >= ENTRIES_MAX {
            return Err(Useless::TooOften);
        }
        let steps = all.entry(place(permit)).or_default();
        steps.at.retain(|at| now.since(*at) < SPAN);
        if steps.at.is_empty() {
            steps.scopes = ScopeSet::default();
        }
        // Another request of the rule was a moment faster: its token is there.
        let known = asked.is_within(&steps.scopes);
        if !known && steps.at.len() >= STEPS {
            return Err(Useless::TooOften);
        }
        if !known {
            steps.at.push_back(now);
            steps.scopes = steps.scopes.union(asked);
        }
        Ok(raised)
    }

    /// The issuer did not give it: the rule's requests go on with what they had. The step counts all the same.
    pub(super) fn forget(&self, permit: &Permit) {
        if let Some(steps) = self.all().get_mut(&place(permit)) {
            steps.scopes = ScopeSet::default();
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Place, Steps>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(permit: &Permit) -> Place {
    (
        permit.agent().clone(),
        permit.service().clone(),
        permit.rule().clone(),
    )
}

/// What RFC 9470 §3 lets an API say about the login that it wants: `acr_values` and `max_age`, bounded, and nothing that a
/// terminal would act on.
pub(super) fn wanted_login(challenges: &[Challenge]) -> (Vec<String>, Option<u64>) {
    const VALUES: usize = 8;
    let wants = |c: &&Challenge| c.param("error") == Some("insufficient_user_authentication");
    let Some(challenge) = challenges.iter().find(wants) else {
        return (Vec::new(), None);
    };
    let plain =
        |value: &&str| value.len() <= 128 && value.bytes().all(|b| matches!(b, 0x21..=0x7e));
    let values = challenge.param("acr_values").unwrap_or_default();
    let values = values.split(' ').filter(|value| !value.is_empty());
    let values = values.filter(plain).take(VALUES).map(str::to_owned);
    let age = challenge.param("max_age").and_then(|age| age.parse().ok());
    (values.collect(), age)
}

#[cfg(test)]
mod tests;
