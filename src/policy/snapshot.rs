//! The policy of one generation: built whole or not at all, never changed, swapped as one.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::alabel;
use super::catalogue::{Catalogue, Entry, HostPattern, has_underscore};
use super::error::PolicyError;
use super::rule::Rule;
use super::ruleset::{Judgement, Order, ties};
use crate::vocab::{
    AgentName, Authority, Generation, Host, RequestPath, Scheme, ServiceName, danger,
};

/// What a snapshot is built from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The number that the snapshot will carry.
    pub generation: Generation,
    /// All services. Their order means nothing.
    pub services: Vec<ServiceSettings>,
    /// All agents; none means the one agent of [`AgentName::fallback`], with all services.
    pub agents: Vec<AgentSettings>,
    /// Destinations that every agent may reach blind.
    pub tunnel: Vec<Authority>,
}

impl Settings {
    /// The services whose TLS is intercepted: their hosts need leaf certificates, and no others do.
    pub fn intercepted(&self) -> impl Iterator<Item = &ServiceSettings> {
        let services = self.services.iter();
        services.filter(|service| service.scheme == Scheme::Https)
    }
}

/// One service.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSettings {
    /// Its name.
    pub name: ServiceName,
    /// Its hosts.
    pub hosts: Vec<HostPattern>,
    /// `Http` only without credential and on port 80.
    pub scheme: Scheme,
    /// Its port.
    pub port: u16,
    /// Whether requests get a credential.
    pub credentialed: bool,
    /// Whether that credential is an OAuth token, so that scopes mean something.
    pub oauth: bool,
    /// Whether it takes an escaped slash for a part of its segment; otherwise such paths are refused.
    pub escaped_slashes: bool,
    /// Its rules. Their order means nothing.
    pub rules: Vec<Rule>,
}

/// One agent.
#[derive(Debug, Clone)]
pub struct AgentSettings {
    /// Its name.
    pub name: AgentName,
    /// The services that it may use; none means all, an empty list means no service.
    pub services: Option<Vec<ServiceName>>,
}

/// A service, ready to be asked.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) settings: ServiceSettings,
    order: Order,
}

impl Service {
    pub(super) fn judge(&self, method: &str, path: &RequestPath) -> Judgement {
        self.order.judge(&self.settings.rules, method, path)
    }

    pub(super) fn rule(&self, at: usize) -> &Rule {
        &self.settings.rules[at]
    }
}

/// Which services an agent may use, by their place in the snapshot.
#[derive(Debug)]
pub(super) enum Reach {
    All,
    Only(HashSet<usize>),
}

impl Reach {
    pub(super) fn includes(&self, service: usize) -> bool {
        match self {
            Self::All => true,
            Self::Only(services) => services.contains(&service),
        }
    }
}

/// An immutable policy.
#[derive(Debug)]
pub struct Snapshot {
    generation: Generation,
    services: Box<[Service]>,
    agents: BTreeMap<AgentName, Reach>,
    catalogue: Catalogue,
    tunnel: HashSet<(Host, u16)>,
}

impl Snapshot {
    /// Checks the settings as a whole.
    ///
    /// # Errors
    /// Every [`PolicyError`] in them, not only the first.
    pub fn build(settings: Settings) -> Result<Self, Vec<PolicyError>> {
        let mut errors = Vec::new();
        let agents = agents(&settings, &mut errors);
        let mut catalogue = Catalogue::default();
        let mut names = HashSet::new();
        let mut services = Vec::with_capacity(settings.services.len());
        for (at, service) in settings.services.into_iter().enumerate() {
            if !names.insert(service.name.clone()) {
                errors.push(PolicyError::DuplicateService {
                    service: service.name.clone(),
                });
            }
            let service = compile(service, &mut errors);
            for (host, pattern) in service.settings.hosts.iter().enumerate() {
                let entry = Entry {
                    service: at,
                    host,
                    port: service.settings.port,
                    scheme: service.settings.scheme,
                };
                catalogue.insert(pattern, entry);
            }
            services.push(service);
        }
        let snapshot = Self {
            generation: settings.generation,
            services: services.into(),
            agents,
            catalogue,
            tunnel: settings
                .tunnel
                .iter()
                .map(|authority| (authority.host().clone(), authority.port()))
                .collect(),
        };
        errors.extend(snapshot.overlaps());
        errors.extend(snapshot.tunnel_errors(&settings.tunnel));
        if errors.is_empty() {
            Ok(snapshot)
        } else {
            Err(errors)
        }
    }

    /// The number of this policy.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The agents, by name.
    pub fn agents(&self) -> impl Iterator<Item = &AgentName> {
        self.agents.keys()
    }

    /// All services, as they were given.
    pub fn services(&self) -> impl Iterator<Item = &ServiceSettings> {
        self.services.iter().map(|service| &service.settings)
    }

    /// The services that an agent may use; none for an agent that does not exist.
    pub fn services_of(&self, agent: &AgentName) -> impl Iterator<Item = &ServiceSettings> {
        let reach = self.agents.get(agent);
        self.services
            .iter()
            .enumerate()
            .filter(move |(at, _)| reach.is_some_and(|reach| reach.includes(*at)))
            .map(|(_, service)| &service.settings)
    }

    pub(super) fn reach(&self, agent: &AgentName) -> Option<&Reach> {
        self.agents.get(agent)
    }

    pub(super) fn is_tunnel(&self, host: &Host, port: u16) -> bool {
        !self.tunnel.is_empty() && self.tunnel.contains(&(host.clone(), port))
    }

    /// The service at a destination, among those that `usable` lets through.
    pub(super) fn service_at(
        &self,
        authority: &Authority,
        usable: impl Fn(usize) -> bool,
    ) -> Option<&Service> {
        let entry = self.catalogue.find(authority.host(), |entry| {
            entry.port == authority.port()
                && entry.scheme == authority.scheme()
                && usable(entry.service)
                && self.may_be_named(entry.service, authority.host())
        })?;
        self.services.get(entry.service)
    }

    /// The agent's TLS service on a host, whatever its port.
    pub(super) fn tls_service_of(&self, host: &Host, reach: &Reach) -> Option<&Service> {
        let entry = self.catalogue.find(host, |entry| {
            entry.scheme == Scheme::Https
                && reach.includes(entry.service)
                && self.may_be_named(entry.service, host)
        })?;
        self.services.get(entry.service)
    }

    /// A wildcard would let the agent choose a name with an underscore; with a credential it may not. A label that only
    /// looks internationalised is nobody's.
    fn may_be_named(&self, service: usize, host: &Host) -> bool {
        let odd = has_underscore(host) && self.services[service].settings.credentialed;
        !odd && alabel::are_sound(host)
    }

    /// Pairs of hosts between which nothing decides, for some agent. Each host is reported once.
    fn overlaps(&self) -> Vec<PolicyError> {
        let mut errors = Vec::new();
        for (at, service) in self.services.iter().enumerate() {
            for (host, pattern) in service.settings.hosts.iter().enumerate() {
                let overlap = self.catalogue.rivals(pattern).find_map(|rival| {
                    let other = &self.services[rival.service].settings;
                    // An equal pattern finds itself from both sides; it is told at the later service.
                    let told_there =
                        rival.service > at && other.hosts.get(rival.host) == Some(pattern);
                    if rival.service == at || rival.port != service.settings.port || told_there {
                        return None;
                    }
                    let both = |reach: &Reach| reach.includes(at) && reach.includes(rival.service);
                    let agent = self.agents.iter().find(|(_, reach)| both(reach))?.0;
                    Some((agent, other, rival.host))
                });
                if let Some((agent, other, other_host)) = overlap {
                    errors.push(PolicyError::HostOverlap {
                        service: service.settings.name.clone(),
                        host,
                        pattern: pattern.clone(),
                        port: service.settings.port,
                        other: other.name.clone(),
                        other_pattern: other.hosts[other_host].clone(),
                        agent: agent.clone(),
                    });
                }
            }
        }
        errors
    }

    /// A tunnel counts as an exact host: it may be cut out of a wildcard, but not be somebody's exact host too.
    fn tunnel_errors(&self, tunnel: &[Authority]) -> Vec<PolicyError> {
        let mut errors = Vec::new();
        let mut seen = HashSet::new();
        for (at, authority) in tunnel.iter().enumerate() {
            let text = format!("{}:{}", authority.host(), authority.port());
            if !seen.insert(text.clone()) {
                errors.push(PolicyError::DuplicateTunnel {
                    tunnel: at,
                    authority: text,
                });
                continue;
            }
            let owner = self.services().find(|service| {
                let mut exact = service.hosts.iter().filter_map(HostPattern::exact_name);
                service.port == authority.port() && exact.any(|host| host == authority.host())
            });
            if let Some(service) = owner {
                errors.push(PolicyError::TunnelIsService {
                    tunnel: at,
                    authority: text,
                    service: service.name.clone(),
                });
            }
        }
        errors
    }
}

fn agents(settings: &Settings, errors: &mut Vec<PolicyError>) -> BTreeMap<AgentName, Reach> {
    if settings.agents.is_empty() {
        return BTreeMap::from([(AgentName::fallback(), Reach::All)]);
    }
    let places: HashMap<&ServiceName, usize> = settings
        .services
        .iter()
        .enumerate()
        .map(|(at, service)| (&service.name, at))
        .collect();
    let mut agents = BTreeMap::new();
    for agent in &settings.agents {
        let reach = match &agent.services {
            None => Reach::All,
            Some(listed) => {
                let mut only = HashSet::new();
                for (index, service) in listed.iter().enumerate() {
                    match places.get(service) {
                        Some(at) => {
                            only.insert(*at);
                        }
                        None => errors.push(PolicyError::UnknownService {
                            agent: agent.name.clone(),
                            index,
                            service: service.clone(),
                        }),
                    }
                }
                Reach::Only(only)
            }
        };
        if agents.insert(agent.name.clone(), reach).is_some() {
            errors.push(PolicyError::DuplicateAgent {
                agent: agent.name.clone(),
            });
        }
    }
    agents
}

/// Whether the pattern is a host that a build for tests sends credentials to in clear text.
fn over_plain_http(pattern: &HostPattern) -> bool {
    pattern.exact_name().is_some_and(danger::plain_http)
}

/// Checks one service by itself and sorts its rules.
fn compile(mut settings: ServiceSettings, errors: &mut Vec<PolicyError>) -> Service {
    // Whoever says OAuth means a credential: the checks below must not be avoided by saying half of it.
    settings.credentialed |= settings.oauth;
    let name = &settings.name;
    let service = || name.clone();
    if settings.hosts.is_empty() {
        errors.push(PolicyError::NoHosts { service: service() });
    }
    if settings.port == 0 {
        errors.push(PolicyError::PortZero { service: service() });
    }
    if settings.scheme == Scheme::Http {
        let dangerous = settings.hosts.iter().all(over_plain_http);
        if settings.credentialed && !dangerous {
            errors.push(PolicyError::PlainCredential { service: service() });
        } else if !dangerous && !matches!(settings.port, 0 | 80) {
            errors.push(PolicyError::PlainPort {
                service: service(),
                port: settings.port,
            });
        }
    }
    for (host, pattern) in settings.hosts.iter().enumerate() {
        if settings.credentialed && pattern.over_public_suffix() && !over_plain_http(pattern) {
            errors.push(PolicyError::PublicSuffix {
                service: service(),
                host,
                pattern: pattern.clone(),
            });
        }
        if settings.credentialed && pattern.has_underscore() {
            errors.push(PolicyError::UnderscoreCredential {
                service: service(),
                host,
                pattern: pattern.clone(),
            });
        }
    }
    check_rules(&settings, errors);
    Service {
        order: Order::of(&settings.rules),
        settings,
    }
}

fn check_rules(settings: &ServiceSettings, errors: &mut Vec<PolicyError>) {
    let text = |at: usize| settings.rules[at].name().to_string();
    for (at, rule) in settings.rules.iter().enumerate() {
        // Scopes that nobody asks for would read like a limit that does not exist.
        let asks = rule.ceiling().is_some() || !rule.scopes().is_empty();
        if asks && !settings.oauth {
            errors.push(PolicyError::ScopesWithoutOauth {
                service: settings.name.clone(),
                rule: at,
                text: text(at),
            });
        }
    }
    for (earlier, later) in ties(&settings.rules) {
        errors.push(PolicyError::RuleTie {
            service: settings.name.clone(),
            rule: later,
            text: text(later),
            other: earlier,
            other_text: text(earlier),
        });
    }
}
