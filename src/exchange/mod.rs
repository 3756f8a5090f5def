//! The life of a request, from arrival to the last byte of the answer.
//!
//! [`Exchange::answer`] is the whole story; `story.rs` reads top to bottom like the list in ARCHITECTURE.md, and each
//! stage takes the type that only the stage before can make: [`Arrival`] → `Permit` → `BareHead` → `Lease` → `Armed` →
//! `Guarded`.
//!
//! The room knows nothing of OAuth, stores or configuration files, and not how the request came in: all doors yield an
//! [`Arrival`]. Invariants: one policy snapshot per request; every request ends in exactly one record; a failure of any
//! stage refuses; nothing is buffered without a bound.

mod arrival;
mod attempts;
mod blind;
mod body;
mod canary;
mod chance;
mod clocks;
mod cookies;
mod ending;
mod floor;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guard;
mod held;
mod interim;
mod kept;
mod live;
mod media;
mod messages;
mod outgoing;
mod plan;
mod record;
mod refusal;
mod respond;
mod sent;
mod settings;
mod shield;
mod stepup;
mod story;
mod taking;
mod upgrade;
#[cfg(feature = "variants")]
mod variant;
mod withheld;

pub use arrival::{Arrival, Door, absolute_authority, redirected_authority};
pub use body::AgentBody;
pub use canary::Quarantine;
pub use ending::Ending;
pub use floor::BodyFloor;
pub use interim::Interim;
pub use live::Severed;
pub use outgoing::Lent;
pub use plan::{Plan, PlanError};
pub use record::Line;
pub use refusal::Refusal;
pub use respond::{Form, respond};
pub use settings::{RequestGuard, ResponseGuard, ServiceSettings, SessionCookies, Timeouts};
pub use story::{Deps, Exchange};
pub use taking::watched;
#[cfg(feature = "variants")]
pub use variant::{Ride, riding};
