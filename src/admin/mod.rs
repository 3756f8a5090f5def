//! What operators speak to: health and metrics over HTTP, the admin socket, and the place where the browser of a login
//! comes back.
//!
//! Health (`/livez`, `/readyz`, `/metrics`): nothing secret, nothing that an agent could not know, no state that a request
//! could change. Liveness says that the event loop turns. Readiness says that policy is loaded, the CA can sign and audit
//! lines can be written; an issuer that is down does not make us unready, or one service would take all agents with it.
//!
//! The admin API: how grants stand, logins, rotation, revocation, reload, over a unix socket or TCP. Invariant: no answer
//! carries a token, a code or a key.

mod answer;
mod caller;
mod desk;
mod entrance;
mod guard;
mod health;
mod login;
mod logins;
mod redirect;
mod revoke;
mod routes;
mod tail;
mod watcher;

pub use caller::{Answered, Caller, Reach};
pub use desk::{Desk, DeskFacts, Reload};
pub use entrance::{Entrance, EntranceDoor};
pub use guard::Guard;
pub use health::{Health, Readiness, serve};
pub use login::{Begun, Shown, log_in};
pub use watcher::Watcher;
