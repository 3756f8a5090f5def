//! Who may send what where: the decision, and nothing but the decision.
//!
//! A [`Snapshot`] is built once from settings, is never changed, and answers two questions: whether an agent may
//! reach a destination at all ([`Snapshot::admits`], asked before a leaf certificate is minted) and whether one
//! request is allowed ([`Snapshot::decide`]). A yes is a [`Permit`], which only this room can make, so no later stage
//! can be reached without a decision.
//!
//! Knows nothing of sockets, HTTP messages, tokens, files and time. Methods are compared as RFC 9110 §9.1 says
//! (case-sensitively), paths in the form of [`RequestPath::compared`](crate::vocab::RequestPath::compared).
//!
//! Invariant: what no rule allows is denied, and one decision takes time linear in the path's length for each rule and
//! at most a fixed number of steps in all, whatever the agent sends: there is no regular expression and no backtracking
//! here, and where the steps do not suffice the request is refused.

mod alabel;
mod catalogue;
mod decide;
mod error;
mod explain;
mod pattern;
mod rule;
mod ruleset;
mod snapshot;

#[cfg(test)]
mod tests;

pub use catalogue::{HostPattern, PatternError, is_public_suffix};
pub use decide::{Admission, Decision, Denial, Facts, Pending, Permit};
pub use error::{Place, PolicyError};
pub use explain::{Explanation, Fix, Outcome, PolicyWarning};
pub use rule::{Effect, Rule, RuleError};
pub use ruleset::scopes_of;
pub use snapshot::{AgentSettings, ServiceSettings, Settings, Snapshot};
