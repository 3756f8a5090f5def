//! tokenward: an egress proxy that lets AI agents call APIs without ever holding a credential.
//!
//! The crate is a house of rooms. A room may import only rooms with a smaller number, and never across the two
//! wings; `ARCHITECTURE.md` holds the table and `tests/walls.rs` reads it. From the floor to the roof:
//!
//! * floor: [`vocab`] (words), [`proof`] (DPoP, pure), [`policy`] (decisions, pure), [`wire`] (heads as bytes, pure),
//!   [`audit`], [`metrics`], [`leak`] (known values, wherever they stand), [`reflect`] (the same in what flows by, and taken out), [`agent`] (who calls), [`credential`] (what comes off a request and what goes on),
//!   [`upstream`] (dial, TLS, pool)
//! * data wing: [`ca`] (leaf certificates), [`exchange`] (the life of a request), [`listen`] (the doors)
//! * control wing: [`store`] (sealed rows in a file), [`tokens`] (how access tokens are had and kept), [`admin`] (health
//!   and metrics)
//! * roof: [`config`], `rehearsal`, [`app`], [`isolation`] (a cell for one command), [`cli`]

pub mod vocab;

pub mod audit;
pub mod leak;
pub mod metrics;
pub mod policy;
pub mod proof;
pub mod reflect;
pub mod wire;

pub mod agent;
pub mod credential;
pub mod upstream;

pub mod ca;
pub mod exchange;
pub mod listen;

pub mod admin;
pub mod store;
pub mod tokens;

pub mod config;
#[cfg(feature = "demo")]
pub mod rehearsal;

pub mod app;
pub mod isolation;

pub mod cli;
