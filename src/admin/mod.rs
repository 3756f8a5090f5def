//! Health and metrics for operators: `/livez`, `/readyz`, `/metrics`. Nothing secret, nothing that an agent could not
//! know, no state that a request could change.
//!
//! Liveness says that the event loop turns. Readiness says that policy is loaded, the CA can sign and audit lines can
//! be written; an issuer that is down does not make us unready, or one service would take all agents with it.

//! Besides, while a login waits, the place where the browser comes back.

mod health;
mod redirect;

pub use health::{Health, Readiness, serve};
pub use redirect::redirected;
