//! `check`: is the file right, and who can reach what.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::Args;
use super::serve::config_path;
use super::{Failure, out};
use crate::config::{self, Plan};
use crate::policy::{ServiceSettings, Snapshot};
use crate::vocab::AgentName;

pub(super) fn check(args: &Args) -> Result<ExitCode, Failure> {
    let path = config_path(args)?;
    let plan = match config::inspect(&path) {
        Ok(plan) => plan,
        Err(problems) => {
            if args.json {
                let list: Vec<String> = problems.iter().map(ToString::to_string).collect();
                out::data(&format!("{}\n", json!({ "ok": false, "problems": list })));
            }
            return Err(Failure::of(problems));
        }
    };
    let snapshot = snapshot(&plan)?;
    if args.json {
        out::data(&format!("{:#}\n", as_json(&plan, &snapshot)));
    } else {
        for warning in &plan.warnings {
            out::say(&format!("warning: {warning}"));
        }
        out::data(&for_people(&plan, &snapshot));
        for question in &plan.questions {
            out::say(&format!(
                "{}: not tried; `serve` and `run` ask for it on the terminal, with the words {:?}",
                question.keys.join(", "),
                question.text
            ));
        }
        out::say(
            "tokenward run: without --isolate the command can read what you can read, secret files included, and connect around the proxy",
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The policy of a plan.
pub(super) fn snapshot(plan: &Plan) -> Result<Snapshot, Failure> {
    Snapshot::build(plan.policy.clone()).map_err(|errors| {
        Failure(
            errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n"),
        )
    })
}

/// The binding of a service, in the word that status and audit use.
fn binding(plan: &Plan, service: &ServiceSettings) -> &'static str {
    plan.services
        .iter()
        .find(|s| s.name == service.name)
        .map_or("none", |s| s.binding.as_str())
}

/// How an agent is known; `None`: it is the one that needs no name.
fn auth(plan: &Plan, agent: &AgentName) -> Option<&'static str> {
    let agents = &plan.agents.agents;
    let found = agents.iter().find(|known| known.name == *agent);
    found.map(|known| known.known_by.as_str())
}

fn for_people(plan: &Plan, snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for agent in snapshot.agents() {
        let known = auth(plan, agent).unwrap_or("none: whatever runs on this machine");
        line(&mut text, &format!("agent {agent} (auth: {known})"));
        for service in snapshot.services_of(agent) {
            let hosts: Vec<String> = service
                .hosts
                .iter()
                .map(|h| format!("{h}:{}", service.port))
                .collect();
            line(
                &mut text,
                &format!(
                    "  {} ({}) at {}",
                    service.name,
                    binding(plan, service),
                    hosts.join(", ")
                ),
            );
            for rule in &service.rules {
                let scopes = if rule.scopes().is_empty() {
                    String::new()
                } else {
                    format!("  [{}]", rule.scopes())
                };
                line(&mut text, &format!("    {}{scopes}", rule.name()));
            }
        }
    }
    for host in &plan.policy.tunnel {
        line(
            &mut text,
            &format!(
                "everyone, blind and without credential: {}:{}",
                host.host(),
                host.port()
            ),
        );
    }
    text
}

fn line(text: &mut String, content: &str) {
    if writeln!(text, "{content}").is_err() {
        tracing::debug!("a line was lost");
    }
}

fn as_json(plan: &Plan, snapshot: &Snapshot) -> Value {
    let service = |service: &ServiceSettings| {
        json!({
            "service": service.name.as_str(),
            "binding": binding(plan, service),
            "port": service.port,
            "hosts": service.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "rules": service.rules.iter().map(|r| json!({ "rule": r.name().as_str(), "scopes": r.scopes().to_string() })).collect::<Vec<_>>(),
        })
    };
    let agent = |agent: &AgentName| {
        let services: Vec<Value> = snapshot.services_of(agent).map(service).collect();
        json!({ "agent": agent.as_str(), "auth": auth(plan, agent), "services": services })
    };
    json!({
        "ok": true,
        "agents": snapshot.agents().map(agent).collect::<Vec<_>>(),
        "tunnel": plan.policy.tunnel.iter().map(|a| format!("{}:{}", a.host(), a.port())).collect::<Vec<_>>(),
        "prompts": plan.questions.iter().map(|q| json!({ "text": q.text, "keys": q.keys })).collect::<Vec<_>>(),
        "warnings": plan.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
