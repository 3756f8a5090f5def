//! The decision in words, for whoever writes the rules. Agents never see this: it tells what is configured.

use std::fmt;

use super::decide::{Facts, Verdict};
use super::rule::{Effect, is_token};
use super::snapshot::Snapshot;
use crate::vocab::{
    AgentName, Authority, Code, RequestPath, RuleName, Scheme, ScopeSet, ServiceName,
};

/// What happens to a request, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Who asks.
    pub agent: AgentName,
    /// The service at the destination, where there is one for this agent.
    pub service: Option<ServiceName>,
    /// What happens.
    pub outcome: Outcome,
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is sent on.
    Allowed {
        /// The rule that allows it.
        rule: RuleName,
        /// The rule's place in the service's list, from 0.
        position: usize,
        /// The scopes that its token gets.
        scopes: ScopeSet,
    },
    /// It is refused.
    Refused {
        /// As the agent sees it.
        code: Code,
        /// The `deny` rule that matches, with its place in the service's list.
        rule: Option<(RuleName, usize)>,
        /// The change to the configuration or the request that would help.
        fix: Option<Fix>,
    },
    /// The destination is passed through blind; requests are not judged.
    Tunnelled,
}

/// What would let a refused request through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// Define the agent.
    AddAgent(AgentName),
    /// Put the host into some service's list.
    AddHost {
        /// The host's line.
        host: String,
        /// The service's port.
        port: u16,
    },
    /// Add a rule.
    AddRule {
        /// The service that lacks it.
        service: ServiceName,
        /// The line to add, as YAML: `allow: GET /v1/items/1`.
        line: String,
    },
    /// Let the agent use a service that exists.
    ListService {
        /// The agent.
        agent: AgentName,
        /// The service.
        service: ServiceName,
    },
    /// Remove or narrow a `deny`; no `allow` gets past it.
    NarrowDeny {
        /// The service.
        service: ServiceName,
        /// The rule.
        rule: RuleName,
    },
    /// Say that the service takes an escaped slash for a part of its segment.
    AdmitSlashes(ServiceName),
    /// Use https.
    UseTls,
}

/// In one sentence.
impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddAgent(agent) => write!(f, "define agent {agent} under `agents`"),
            Self::AddHost { host, port } => {
                write!(
                    f,
                    "add `{host}` to the `hosts` of a service with port {port}"
                )
            }
            Self::AddRule { service, line } => {
                write!(f, "add `{line}` to the `rules` of service {service}")
            }
            Self::ListService { agent, service } => {
                write!(f, "add {service} to the `services` of agent {agent}")
            }
            Self::NarrowDeny { service, rule } => {
                write!(
                    f,
                    "remove or narrow `{rule}` in the `rules` of service {service}"
                )
            }
            Self::AdmitSlashes(service) => write!(
                f,
                "set `escaped_slashes: literal` in service {service}, if it takes `%2F` for a part of a name"
            ),
            Self::UseTls => f.write_str("use https and the port of the service"),
        }
    }
}

/// What is allowed in a configuration but seldom meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyWarning {
    /// A rule of an OAuth service without scopes.
    #[error(
        "rule {} of service {service} (`{text}`) has no scopes, so its token gets whatever the issuer gives by default; add `scopes`", .rule + 1
    )]
    NoScopes {
        /// The service.
        service: ServiceName,
        /// The rule's place in the list.
        rule: usize,
        /// The rule.
        text: String,
    },
    /// A service that allows nothing.
    #[error("service {service} has no `allow`, so every request is refused; add a rule")]
    NothingAllowed {
        /// The service.
        service: ServiceName,
    },
    /// A service that no agent may use.
    #[error("no agent may use service {service}; add it to an agent's `services`, or remove it")]
    Unused {
        /// The service.
        service: ServiceName,
    },
}

impl Snapshot {
    /// Says what [`Snapshot::decide`] would do and what would change it.
    #[must_use]
    pub fn explain(&self, facts: &Facts<'_>) -> Explanation {
        let (service, outcome) = match self.weigh(facts) {
            Verdict::Allowed(service, at) => {
                let rule = service.rule(at);
                let outcome = Outcome::Allowed {
                    rule: rule.name().clone(),
                    position: at,
                    scopes: rule.scopes().clone(),
                };
                (Some(service), outcome)
            }
            Verdict::Denied(service, at) => {
                let rule = service.rule(at).name().clone();
                let fix = Fix::NarrowDeny {
                    service: service.settings.name.clone(),
                    rule: rule.clone(),
                };
                let outcome = refused(Code::PolicyDenied, Some((rule, at)), Some(fix));
                (Some(service), outcome)
            }
            Verdict::NeverCarried(service) => {
                (service, refused(Code::MethodNotSupported, None, None))
            }
            Verdict::Silent(service) => {
                let fix = allow_line(facts.method, facts.path).map(|line| Fix::AddRule {
                    service: service.settings.name.clone(),
                    line,
                });
                (Some(service), refused(Code::PolicyDenied, None, fix))
            }
            Verdict::TwoPaths(service) => {
                let fix = Fix::AdmitSlashes(service.settings.name.clone());
                (Some(service), refused(Code::BadRequest, None, Some(fix)))
            }
            Verdict::Unfinished(service) => (Some(service), refused(Code::UriTooLong, None, None)),
            Verdict::Tunnel => (None, Outcome::Tunnelled),
            Verdict::Unreachable { code, service } => {
                let fix = match code {
                    Code::TlsRequired => Some(Fix::UseTls),
                    _ => self.way_to(facts.agent, facts.authority),
                };
                (service, refused(code, None, fix))
            }
        };
        Explanation {
            agent: facts.agent.clone(),
            service: service.map(|service| service.settings.name.clone()),
            outcome,
        }
    }

    /// What is allowed but seldom meant, for `check`.
    #[must_use]
    pub fn warnings(&self) -> Vec<PolicyWarning> {
        let mut warnings = Vec::new();
        for service in self.services() {
            let name = || service.name.clone();
            let mut allows = 0;
            for (at, rule) in service.rules.iter().enumerate() {
                if rule.effect() == Effect::Deny {
                    continue;
                }
                allows += 1;
                if service.oauth && rule.scopes().is_empty() {
                    warnings.push(PolicyWarning::NoScopes {
                        service: name(),
                        rule: at,
                        text: rule.name().to_string(),
                    });
                }
            }
            if allows == 0 {
                warnings.push(PolicyWarning::NothingAllowed { service: name() });
            }
            let used = |agent| self.services_of(agent).any(|own| own.name == service.name);
            if !self.agents().any(used) {
                warnings.push(PolicyWarning::Unused { service: name() });
            }
        }
        warnings
    }

    fn way_to(&self, agent: &AgentName, authority: &Authority) -> Option<Fix> {
        if self.reach(agent).is_none() {
            return Some(Fix::AddAgent(agent.clone()));
        }
        if let Some(service) = self.service_at(authority, |_| true) {
            return Some(Fix::ListService {
                agent: agent.clone(),
                service: service.settings.name.clone(),
            });
        }
        // Plain http can be had on port 80 only, and a tunnel is no place for rules.
        let possible = authority.scheme() == Scheme::Https || authority.port() == 80;
        (possible && !self.is_tunnel(authority.host(), authority.port())).then(|| Fix::AddHost {
            host: authority.host().to_string(),
            port: authority.port(),
        })
    }
}

fn refused(code: Code, rule: Option<(RuleName, usize)>, fix: Option<Fix>) -> Outcome {
    Outcome::Refused { code, rule, fix }
}

/// The narrowest rule for one request, as a line of YAML; none for what can never be a method.
fn allow_line(method: &str, path: &RequestPath) -> Option<String> {
    // In a rule, a method with these characters would be a list or a wildcard.
    if !is_token(method) || method.contains(['|', '*']) {
        return None;
    }
    // A rule cannot say an escaped slash; a `*` in its segment matches it.
    let mut rule = format!("{method} {}", path.compared().replace("%2F", "*"));
    // A path may hold `**` literally, which a rule cannot say; one `*` matches it.
    while rule.contains("**") {
        rule = rule.replace("**", "*");
    }
    // Plain YAML scalars do not begin with an indicator and do not end in a colon.
    let plain = rule.starts_with(|c: char| c.is_ascii_alphabetic()) && !rule.ends_with(':');
    Some(if plain {
        format!("allow: {rule}")
    } else {
        format!("allow: '{}'", rule.replace('\'', "''"))
    })
}
