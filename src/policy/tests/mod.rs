//! The room as its callers see it.

mod build;
mod explain;
mod hosts;
mod properties;
mod rules;

use super::*;
use crate::vocab::{AgentName, Authority, Generation, RequestPath, Scheme, ScopeSet, ServiceName};

fn agent(name: &str) -> AgentName {
    AgentName::new(name).unwrap()
}

fn service_name(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn https(text: &str) -> Authority {
    Authority::parse(Scheme::Https, text).unwrap()
}

fn http(text: &str) -> Authority {
    Authority::parse(Scheme::Http, text).unwrap()
}

/// Reads `allow GET /a` or `deny * /b`.
fn rule(text: &str) -> Rule {
    scoped(text, "")
}

fn scoped(text: &str, scopes: &str) -> Rule {
    let (effect, text) = text.split_once(' ').unwrap();
    let effect = match effect {
        "allow" => Effect::Allow,
        "deny" => Effect::Deny,
        other => panic!("{other}"),
    };
    Rule::parse(effect, text, ScopeSet::parse(scopes).unwrap()).unwrap()
}

/// An OAuth service on port 443.
fn service(name: &str, hosts: &[&str], rules: &[&str]) -> ServiceSettings {
    ServiceSettings {
        name: service_name(name),
        hosts: hosts
            .iter()
            .map(|host| HostPattern::parse(host).unwrap())
            .collect(),
        scheme: Scheme::Https,
        port: 443,
        credentialed: true,
        escaped_slashes: false,
        oauth: true,
        rules: rules.iter().map(|text| rule(text)).collect(),
    }
}

fn without_credential(mut service: ServiceSettings) -> ServiceSettings {
    service.credentialed = false;
    service.oauth = false;
    service
}

fn may_use(name: &str, services: &[&str]) -> AgentSettings {
    AgentSettings {
        name: agent(name),
        services: Some(services.iter().map(|name| service_name(name)).collect()),
    }
}

fn settings(services: Vec<ServiceSettings>) -> Settings {
    Settings {
        generation: Generation(7),
        services,
        agents: Vec::new(),
        tunnel: Vec::new(),
    }
}

fn snapshot(services: Vec<ServiceSettings>) -> Snapshot {
    Snapshot::build(settings(services)).unwrap()
}

fn ask(snapshot: &Snapshot, who: &str, authority: &Authority, request: &str) -> Decision {
    let (method, path) = request.split_once(' ').unwrap();
    snapshot.decide(&Facts {
        agent: &agent(who),
        authority,
        method,
        path: &RequestPath::parse(path).unwrap(),
    })
}

/// The rule that allows a request of the agent `default` to `api.test`, or the code and rule of the refusal.
fn outcome(snapshot: &Snapshot, request: &str) -> String {
    word(ask(snapshot, "default", &https("api.test"), request))
}

fn word(decision: Decision) -> String {
    match decision {
        Decision::Permit(permit) => permit.rule().to_string(),
        Decision::Denied(Denial { code, rule, .. }) => match rule {
            Some(rule) => format!("{code} by {rule}"),
            None => code.to_string(),
        },
        Decision::NeedsBody(never) => match never {},
    }
}
