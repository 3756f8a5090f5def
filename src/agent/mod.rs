//! Who is calling. Identity comes from a proxy credential, which may be a token of Kubernetes, from a client
//! certificate, from the user at the other end of a unix socket, from the transparent listener that belongs to one agent,
//! or from the loopback interface where nobody is named; never from a header that the agent could set inside its tunnel,
//! and never from an address alone once agents are named.
//!
//! What is usual for an agent, by source, hour and rate, is judged here too (`watch`), purely.
//!
//! Knows nothing of services or rules, and does no I/O: keys and the time are given to it. Serves RFC 9110 §11.7
//! (`Proxy-Authorization`), RFC 7515, RFC 7517 and RFC 7519 (tokens of service accounts), and SPIFFE's X.509-SVID.

mod account;
mod certificate;
mod cluster;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod identify;
mod watch;

pub use account::{Cluster, ServiceAccount};
pub use certificate::{Certificate, CertificateName, SpiffeId};
pub use cluster::{ClusterKeys, KeysError};
pub use identify::{
    Agent, AgentCredential, Agents, Connection, KnownBy, Settings, Unauthenticated,
};
pub use watch::{
    Action, Finding, Hours, Network, Oddity, Sighting, Watch, WatchSettings, utc_offset,
};
