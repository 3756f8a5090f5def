//! Who is calling. Identity comes from a proxy credential, from the listener that belongs to one agent, or from the loopback
//! interface, never from a header that
//! the agent could set inside its tunnel, and never from an address alone once agents are named.
//!
//! What is usual for an agent, by source, hour and rate, is judged here too (`watch`), purely.
//!
//! Knows nothing of services or rules. Serves RFC 9110 §11.7 (`Proxy-Authorization`).

mod identify;
mod watch;

pub use identify::{Agent, AgentCredential, Agents, Settings, Unauthenticated};
pub use watch::{
    Action, Finding, Hours, Network, Oddity, Sighting, Watch, WatchSettings, utc_offset,
};
