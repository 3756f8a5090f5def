//! The rules of one service, in the order in which they are asked.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::pattern::{Effort, Outline, atoms};
use super::rule::{Effect, Mention, Rule};
use crate::vocab::{RequestPath, ScopeSet};

/// What the rules say; the numbers are places in the list of rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    Allowed(usize),
    Denied(usize),
    Silent,
    /// The path is such that the rules could not all be asked within the bound of one decision.
    Unfinished,
}

/// The order in which a service's rules are asked, so that the first match decides: denies, then allows from the most
/// specific to the least.
#[derive(Debug)]
pub(super) struct Order {
    denies: Box<[usize]>,
    /// A rule that names methods beside `*` stands here twice, since its methods differ in specificity.
    allows: Box<[(Mention, usize)]>,
}

impl Order {
    pub(super) fn of(rules: &[Rule]) -> Self {
        // The text comes last, so that the answer does not depend on the order of the file.
        let specific_first = |one: &Rule, two: &Rule, methods: Ordering| {
            let paths = two.path().specificity(one.path());
            paths.then(methods).then_with(|| one.text().cmp(two.text()))
        };
        let (allows, mut denies): (Vec<_>, Vec<_>) =
            (0..rules.len()).partition(|&at| rules[at].effect() == Effect::Allow);
        denies.sort_by(|&one, &two| specific_first(&rules[one], &rules[two], Ordering::Equal));
        let mut allows: Vec<_> = allows
            .into_iter()
            .flat_map(|at| rules[at].mentions().map(move |how| (how, at)))
            .collect();
        allows.sort_by(|&(how, one), &(other_how, two)| {
            specific_first(&rules[one], &rules[two], other_how.cmp(&how))
        });
        Self {
            denies: denies.into(),
            allows: allows.into(),
        }
    }

    /// Judges one request by the rules that this is the order of.
    pub(super) fn judge(&self, rules: &[Rule], method: &str, path: &RequestPath) -> Judgement {
        let folded = atoms(path.compared());
        let inside = segments(&folded);
        // A server may cut parameters and a last slash off before it looks: a deny must not be evaded by them.
        let careless = if self.denies.is_empty() {
            Vec::new()
        } else {
            path.careless()
        };
        let careless: Vec<_> = careless.iter().map(|path| atoms(path)).collect();
        let careless: Vec<_> = careless.iter().map(|path| segments(path)).collect();
        let mut effort = Effort::new();
        let deny = self.denies.iter().find(|&&at| {
            let path = rules[at].path();
            let mut meant = |path_seen: &[&str]| path.matches(path_seen, &mut effort);
            rules[at].mention(method).is_some()
                && (meant(&inside) || careless.iter().any(|path| meant(path)))
        });
        if let Some(&at) = deny {
            return Judgement::Denied(at);
        }
        let allow = self.allows.iter().find(|&&(how, at)| {
            rules[at].mention(method) == Some(how) && rules[at].path().matches(&inside, &mut effort)
        });
        // A deny that was not asked to the end could have matched: no allow counts then.
        if effort.spent() {
            return Judgement::Unfinished;
        }
        allow.map_or(Judgement::Silent, |&(_, at)| Judgement::Allowed(at))
    }
}

/// The scopes of the rule that allows such a request; `None` where none does. For requests of our own, which are not
/// decided about; where they may go is the caller's business.
#[must_use]
pub fn scopes_of(rules: &[Rule], method: &str, path: &RequestPath) -> Option<ScopeSet> {
    match Order::of(rules).judge(rules, method, path) {
        Judgement::Allowed(at) => Some(rules[at].scopes().clone()),
        Judgement::Denied(_) | Judgement::Silent | Judgement::Unfinished => None,
    }
}

fn segments(path: &str) -> Vec<&str> {
    path.strip_prefix('/').unwrap_or(path).split('/').collect()
}

/// Pairs of allows, earlier place first, that one request could match with nothing to choose between them. Each later
/// rule is told once.
pub(super) fn ties(rules: &[Rule]) -> Vec<(usize, usize)> {
    let mut alike: HashMap<Vec<Outline<'_>>, Vec<usize>> = HashMap::new();
    let mut ties = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        if rule.effect() == Effect::Deny {
            continue;
        }
        let earlier = alike.entry(rule.path().outline()).or_default();
        let tie = earlier.iter().find(|&&other| {
            rule.methods_tie(&rules[other]) && rule.path().meets(rules[other].path())
        });
        ties.extend(tie.map(|&other| (other, at)));
        earlier.push(at);
    }
    ties
}
