//! Why settings are no policy. Written for whoever writes the configuration.

use super::catalogue::HostPattern;
use crate::vocab::{AgentName, ServiceName};

/// One mistake in the settings: what is wrong, then what to do, separated by one semicolon. [`PolicyError::place`]
/// says where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Two agents of one name.
    #[error("agent {agent} exists twice; rename or merge one of the two")]
    DuplicateAgent {
        /// The name.
        agent: AgentName,
    },
    /// Two services of one name.
    #[error("service {service} exists twice; rename or merge one of the two")]
    DuplicateService {
        /// The name.
        service: ServiceName,
    },
    /// One tunnel twice.
    #[error("tunnel {authority} is listed twice; remove one of the two lines")]
    DuplicateTunnel {
        /// The later one's place in the list.
        tunnel: usize,
        /// Host and port.
        authority: String,
    },
    /// One agent's host and port would belong to two services.
    #[error(
        "host {pattern} port {port} of service {service} overlaps {other_pattern} of service {other} for agent {agent}; remove one of the two hosts, or list only one of the services under the agent's `services`"
    )]
    HostOverlap {
        /// The service that stands later.
        service: ServiceName,
        /// The host's place in its list.
        host: usize,
        /// The host.
        pattern: HostPattern,
        /// The port of both.
        port: u16,
        /// The service that stands earlier.
        other: ServiceName,
        /// Its host.
        other_pattern: HostPattern,
        /// The first agent that may use both.
        agent: AgentName,
    },
    /// A service without hosts.
    #[error("service {service} has no hosts; add `hosts` with at least one name")]
    NoHosts {
        /// The service.
        service: ServiceName,
    },
    /// A credential over clear text.
    #[error(
        "service {service} would send its credential in clear text; use a TLS port, or `credential: none`"
    )]
    PlainCredential {
        /// The service.
        service: ServiceName,
    },
    /// Clear text on another port than 80.
    #[error(
        "service {service} speaks plain http on port {port}; plain http is carried on port 80 only"
    )]
    PlainPort {
        /// The service.
        service: ServiceName,
        /// The port.
        port: u16,
    },
    /// Port 0.
    #[error(
        "service {service} has port 0, which nothing can be reached at; write a port from 1 to 65535"
    )]
    PortZero {
        /// The service.
        service: ServiceName,
    },
    /// A credential for names that anybody can register.
    #[error(
        "host {pattern} of service {service} covers names that strangers can register, and they would receive the credential; name a registered domain, as in `*.api.example.com`, or exact hosts"
    )]
    PublicSuffix {
        /// The service.
        service: ServiceName,
        /// The host's place in its list.
        host: usize,
        /// The host.
        pattern: HostPattern,
    },
    /// Two `allow`s that one request can match and none of which is more specific.
    #[error(
        "rules {} and {} of service {service} (`{other_text}`, `{text}`) can match the same request and neither is more specific; merge them, or make the paths or methods of one differ", .other + 1, .rule + 1
    )]
    RuleTie {
        /// The service.
        service: ServiceName,
        /// The later rule's place in the list.
        rule: usize,
        /// The later rule.
        text: String,
        /// The earlier rule's place in the list.
        other: usize,
        /// The earlier rule.
        other_text: String,
    },
    /// Scopes where no token is asked for.
    #[error(
        "rule {} of service {service} (`{text}`) has scopes, but the service's credential is not OAuth; remove `scopes` and `step_up`", .rule + 1
    )]
    ScopesWithoutOauth {
        /// The service.
        service: ServiceName,
        /// The rule's place in the list.
        rule: usize,
        /// The rule.
        text: String,
    },
    /// A tunnel that is also a host of a service.
    #[error(
        "tunnel {authority} is also a host of service {service}, and what passes blind cannot get a credential; remove one of the two"
    )]
    TunnelIsService {
        /// The tunnel's place in the list.
        tunnel: usize,
        /// Host and port.
        authority: String,
        /// The service.
        service: ServiceName,
    },
    /// A credential for a name that is not a host name.
    #[error(
        "host {pattern} of service {service} has an underscore, and such names get no credential; use another name for the host, or `credential: none`"
    )]
    UnderscoreCredential {
        /// The service.
        service: ServiceName,
        /// The host's place in its list.
        host: usize,
        /// The host.
        pattern: HostPattern,
    },
    /// An agent's list names a service that does not exist.
    #[error(
        "agent {agent} lists service {service}, which does not exist; define it under `services`, or remove it from the agent"
    )]
    UnknownService {
        /// The agent.
        agent: AgentName,
        /// The name's place in the agent's list.
        index: usize,
        /// The name.
        service: ServiceName,
    },
}

/// Where in the settings a mistake stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An agent.
    Agent(AgentName),
    /// An entry of an agent's list of services.
    AgentService(AgentName, usize),
    /// An entry of a service's list of hosts.
    Host(ServiceName, usize),
    /// The port of a service.
    Port(ServiceName),
    /// An entry of a service's list of rules.
    Rule(ServiceName, usize),
    /// A service.
    Service(ServiceName),
    /// An entry of the list of tunnels.
    Tunnel(usize),
}

impl PolicyError {
    /// Where it stands; lists count from 0.
    #[must_use]
    pub fn place(&self) -> Place {
        match self {
            Self::DuplicateAgent { agent } => Place::Agent(agent.clone()),
            Self::DuplicateService { service } | Self::NoHosts { service } => {
                Place::Service(service.clone())
            }
            Self::DuplicateTunnel { tunnel, .. } | Self::TunnelIsService { tunnel, .. } => {
                Place::Tunnel(*tunnel)
            }
            Self::HostOverlap { service, host, .. }
            | Self::PublicSuffix { service, host, .. }
            | Self::UnderscoreCredential { service, host, .. } => {
                Place::Host(service.clone(), *host)
            }
            Self::PlainCredential { service }
            | Self::PlainPort { service, .. }
            | Self::PortZero { service } => Place::Port(service.clone()),
            Self::RuleTie { service, rule, .. }
            | Self::ScopesWithoutOauth { service, rule, .. } => Place::Rule(service.clone(), *rule),
            Self::UnknownService { agent, index, .. } => Place::AgentService(agent.clone(), *index),
        }
    }
}
