//! Has policy judge the whole, and puts its complaints on the right lines.

use super::agents::Agents;
use super::services::{Services, report};
use super::{Context, Origins};
use crate::policy::{self, Place, PolicyWarning, Snapshot};

/// Builds the policy once. What it complains about becomes findings.
pub(super) fn check(
    settings: &policy::Settings,
    services: &Services,
    agents: &Agents,
    tunnels: &[usize],
    it: &mut Context<'_>,
) {
    let key_of = |place: Place| match place {
        Place::Agent(name) => format!("agents.{name}"),
        Place::AgentService(name, at) => {
            let list = format!("agents.{name}");
            let at = origin(&agents.origins, &list, at);
            format!("{list}.services[{at}]")
        }
        Place::Host(name, at) => listed(services, format!("services.{name}.hosts"), at),
        Place::Port(name) => format!("services.{name}.port"),
        Place::Rule(name, at) => listed(services, format!("services.{name}.rules"), at),
        Place::Service(name) => format!("services.{name}"),
        Place::Tunnel(at) => format!("tunnel[{}]", tunnels.get(at).copied().unwrap_or(at)),
    };
    match Snapshot::build(settings.clone()) {
        Err(errors) => {
            for error in errors {
                let key = key_of(error.place());
                if !already_known(&key, &error, it) {
                    report(&key, &error.to_string(), it);
                }
            }
        }
        Ok(snapshot) => {
            for warning in snapshot.warnings() {
                let text = warning.to_string();
                let (what, remedy) = text.split_once("; ").unwrap_or((&text, "look again"));
                it.findings.warn(&key_of(place_of(&warning)), what, remedy);
            }
        }
    }
}

fn place_of(warning: &PolicyWarning) -> Place {
    match warning {
        PolicyWarning::NoScopes { service, rule, .. } => Place::Rule(service.clone(), *rule),
        PolicyWarning::NothingAllowed { service } | PolicyWarning::Unused { service } => {
            Place::Service(service.clone())
        }
    }
}

/// Whether a complaint only follows from something that was refused before.
fn already_known(key: &str, error: &policy::PolicyError, it: &Context<'_>) -> bool {
    match error {
        policy::PolicyError::NoHosts { .. } => it.findings.tainted(&format!("{key}.hosts")),
        policy::PolicyError::ScopesWithoutOauth { service, .. } => it
            .findings
            .tainted(&format!("services.{service}.credential")),
        _ => false,
    }
}

fn listed(services: &Services, list: String, at: usize) -> String {
    let at = origin(&services.origins, &list, at);
    format!("{list}[{at}]")
}

fn origin(origins: &Origins, list: &str, at: usize) -> usize {
    let places = origins.get(list).and_then(|places| places.get(at));
    places.copied().unwrap_or(at)
}
