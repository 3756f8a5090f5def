//! How access tokens are had and kept.
//!
//! The keeper decides (a pure state machine), the worker does (one task on the control runtime), the door lends (to
//! the hot path, through [`credential::Source`](crate::credential::Source)). Under `issuer` is everything that speaks
//! to an authorization server.
//!
//! It knows nothing of requests and their answers, of TLS interception and of configuration files. Serves RFC 6749,
//! RFC 7009, RFC 7523, RFC 8414, RFC 8707, RFC 9449 §5 and §8, RFC 10070. Invariant: what is lent is unexpired by both
//! clocks, carries the scopes that were asked for and is bound as configured; where that cannot be had, nothing is lent.

mod catalogue;
mod door;
mod failure;
mod issuer;
mod journal;
mod keeper;
mod settings;
mod shelf;
mod transport;
mod worker;

pub use catalogue::SetupError;
pub use door::{Door, GrantStatus};
pub use settings::{
    AssertionAudience, ClientAuth, CredentialSettings, IssuerSettings, OauthSettings, Settings,
};
pub use worker::Worker;
