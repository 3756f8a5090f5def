//! What the program runs: every value read, every reference resolved, every default filled in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Answers, Problem, Question};
use crate::vocab::{AgentName, Host, Secret};
use crate::{agent, audit, exchange, listen, policy, store, tokens, upstream};

/// A configuration that can be run.
#[derive(Clone)]
pub struct Plan {
    /// Addresses on which agents reach the proxy.
    pub listen: ListenPlan,
    /// Address of health and metrics; `None`: off.
    pub health: Option<SocketAddr>,
    /// Where operators speak to the proxy; `None`: the configuration leaves it to the verb.
    pub admin: Option<AdminPlan>,
    /// Directory of what is public.
    pub runtime_dir: PathBuf,
    /// The interception CA.
    pub ca: CaPlan,
    /// Where refresh tokens and their keys outlive the process.
    pub store: StorePlan,
    /// Where audit lines go.
    pub audit: audit::Settings,
    /// Who may do what; it was built once, so it builds. Where no agent is named, `default` stands here.
    pub policy: policy::Settings,
    /// Who may call, by token; empty where no agent is named.
    pub agents: agent::Settings,
    /// Agents that are stopped where they misuse a placeholder.
    pub quarantined: BTreeSet<AgentName>,
    /// Proxy tokens whose values are known, for `env` and `run`. Empty under [`SecretReading::Skip`](super::SecretReading::Skip).
    pub proxy_tokens: BTreeMap<AgentName, Secret<String>>,
    /// How requests are carried.
    pub services: Vec<exchange::ServiceSettings>,
    /// How credentials are had. The secrets in it are empty unless they were read.
    pub tokens: tokens::Settings,
    /// The proxy through which everything leaves.
    pub parent: Option<upstream::ParentSettings>,
    /// Upper bounds.
    pub limits: LimitsPlan,
    /// What happens between SIGTERM and the end.
    pub drain: DrainPlan,
    /// Every environment variable from which the file reads a secret, sorted, each once.
    pub secret_variables: Vec<String>,
    /// What a person is asked at the start, in the order of the file.
    pub questions: Vec<Question>,
    /// What was answered, for the reloads to come.
    pub answers: Answers,
    /// What is worth a second thought.
    pub warnings: Vec<Problem>,
}

/// Where refresh tokens and their keys are kept.
#[derive(Debug, Clone)]
pub enum StorePlan {
    /// A sealed file. The key is `None` under [`SecretReading::Skip`](super::SecretReading::Skip).
    File {
        /// Its path.
        path: PathBuf,
        /// What it is sealed with.
        key: Option<store::StoreKey>,
        /// What it was sealed with before.
        previous: Option<store::StoreKey>,
    },
    /// Nowhere: they end with the process.
    Memory,
}

/// Where operators speak to the running proxy.
#[derive(Debug, Clone)]
pub struct AdminPlan {
    /// Where it listens.
    pub at: AdminAt,
    /// What a caller must show; on TCP there is one. Empty where secrets were not read.
    pub token: Option<Secret<String>>,
    /// What it speaks TLS with, on TCP.
    pub tls: Option<ListenerTls>,
    /// Without it nothing is started.
    pub required: bool,
}

/// Where the admin API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAt {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket, by its path.
    Unix(PathBuf),
}

/// Addresses on which agents reach the proxy.
#[derive(Debug, Clone)]
pub struct ListenPlan {
    /// Explicit proxy listeners, at least one.
    pub proxy: Vec<ProxyAddress>,
    /// Transparent listeners.
    pub transparent: Vec<listen::TransparentSettings>,
}

/// One address of the explicit proxy.
#[derive(Debug, Clone)]
pub struct ProxyAddress {
    /// Where it listens.
    pub at: ProxyAt,
    /// What it speaks TLS with; `None`: it is spoken to in clear.
    pub tls: Option<ListenerTls>,
}

/// Where a proxy listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxyAt {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// What a listener speaks TLS with; the parts fit together. Empty where secrets were not read.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// The certificate, and what is above it, in PEM.
    pub cert_pem: Vec<u8>,
    /// Its private key in PEM.
    pub key_pem: Secret<Vec<u8>>,
    /// The hosts that the certificate names, wildcards left out.
    pub hosts: Vec<Host>,
}

/// The interception CA.
#[derive(Debug, Clone)]
pub enum CaPlan {
    /// A directory that tokenward keeps.
    Dir(PathBuf),
    /// A certificate and key of the operator; they fit together.
    Given {
        /// The certificate, and what is above it, in PEM.
        cert_pem: Vec<u8>,
        /// Its private key in PEM.
        key_pem: Secret<Vec<u8>>,
    },
    /// New at each start, never written down.
    Memory,
}

/// Upper bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsPlan {
    /// Connections from agents.
    pub connections: usize,
    /// Connections of each agent.
    pub agent_connections: usize,
    /// Requests of each agent under way.
    pub agent_streams: usize,
    /// Requests of each agent in a second.
    pub agent_requests: u32,
    /// Leaf certificates made for one agent in a second.
    pub agent_certificates: u32,
    /// Slowest upload.
    pub body_floor: exchange::BodyFloor,
    /// Bytes in the head of a request.
    pub request_head: usize,
    /// Bytes of request bodies kept for a second attempt, all together.
    pub replay_total: usize,
}

/// What happens between SIGTERM and the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainPlan {
    /// How long requests under way may take to finish.
    pub timeout: Duration,
    /// How long new connections are still accepted.
    pub pre_stop: Duration,
}
