//! Puts the house together: the only room that sees both wings and introduces them to each other.
//!
//! Two runtimes: the control wing (tokens, health) has a thread of its own, so that neither a burst of requests delays
//! a token nor a slow issuer delays a request. Invariant: what `start` returned listens; what failed left nothing
//! behind that listens.

mod authority;
mod build;
mod changes;
mod control;
mod descriptors;
mod environment;
mod error;
mod hygiene;
mod login;
pub mod netfilter;
mod operator;
mod reload;
mod running;

pub use authority::{Custody, custody, permitted};
pub use build::start;
pub use changes::Changes;
pub use descriptors::raise_descriptors;
pub use environment::{Access, ProxyName, environment};
pub use error::StartError;
pub use hygiene::{Closed, close};
pub use reload::{ReloadError, ReloadWish, Reloaded};
pub use running::{Running, Seat};
