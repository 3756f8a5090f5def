//! Words that every room shares: names, authorities, paths, scopes, secrets, time and problem codes.
//!
//! No I/O, no async, no OAuth, no configuration. What stands here was parsed once and is canonical from then on.

mod authority;
mod binding;
mod clock;
mod code;
pub mod danger;
mod names;
mod path;
mod scope;
mod secret;
pub mod variant;

pub use authority::{Authority, AuthorityError, Host, Scheme};
pub use binding::Binding;
pub use clock::{Clock, Moment, Stopwatch, WallTime};
pub use code::{Code, Fault, ProxyError, Remedy};
pub use names::{AgentName, Generation, GrantId, NameError, RequestId, RuleName, ServiceName};
pub use path::{PathError, RequestPath};
pub use scope::{Scope, ScopeError, ScopeSet};
pub use secret::Secret;
