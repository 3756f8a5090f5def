//! `env`: what an agent needs, in the form that its starter reads.

use std::fs;
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::Failure;
use super::args::{Args, Format};
use super::serve::plan_without_secrets;
use crate::config::Plan;
use crate::vocab::AgentName;

pub(super) fn env(args: &Args, agent: Option<&str>, format: Format) -> Result<ExitCode, Failure> {
    let plan = plan_without_secrets(args)?;
    let agent = chosen(&plan, agent)?;
    // `serve` writes it: only it knows the port it got, and a CA that lives in memory.
    let file = plan
        .runtime_dir
        .join("agents")
        .join(agent.as_str())
        .join("env");
    let text = fs::read_to_string(&file).map_err(|e| {
        Failure(format!(
            "the environment of agent {agent} is not there ({}); start `tokenward serve` first, or use `tokenward run -- CMD`, which needs no running proxy",
            e.kind()
        ))
    })?;
    let variables = parse(&text);
    if !variables.iter().any(|(name, _)| name == "HTTPS_PROXY") {
        super::out::say(if plan.agents.only_placed(&agent) {
            "tokenward: this agent is known by its transparent listener alone: no proxy variable is set, its connections must be \
                 redirected there (`tokenward netfilter`)"
        } else {
            "tokenward: the proxy listens on a unix socket alone, which no proxy variable can name; give the agent a way \
                 to it, such as a forwarder on its own loopback, and set HTTPS_PROXY to that"
        });
    }
    let format = if args.json { Format::Json } else { format };
    super::out::data(&print(&variables, format));
    Ok(ExitCode::SUCCESS)
}

/// The agent that is meant: the named one, or the only one.
pub(super) fn chosen(plan: &Plan, named: Option<&str>) -> Result<AgentName, Failure> {
    let known: Vec<&AgentName> = plan.policy.agents.iter().map(|a| &a.name).collect();
    let list = || {
        known
            .iter()
            .map(|a| a.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    match (named, known.as_slice()) {
        (Some(name), _) => known
            .iter()
            .find(|agent| agent.as_str() == name)
            .map(|agent| (*agent).clone())
            .ok_or_else(|| {
                Failure(format!(
                    "no agent is called {name:?}; there are: {}",
                    list()
                ))
            }),
        (None, [only]) => Ok((*only).clone()),
        (None, _) => Err(Failure(format!(
            "which agent? name one with --agent: {}",
            list()
        ))),
    }
}

/// Prints variables in one of the forms.
pub(super) fn print(variables: &[(String, String)], format: Format) -> String {
    let quoted = |value: &str| format!("'{}'", value.replace('\'', "'\\''"));
    let lines = |line: &dyn Fn(&str, &str) -> String| {
        variables
            .iter()
            .map(|(name, value)| line(name, value) + "\n")
            .collect::<String>()
    };
    match format {
        Format::Sh => lines(&|n, v| format!("export {n}={}", quoted(v))),
        Format::Fish => lines(&|n, v| {
            format!(
                "set -gx {n} '{}'",
                v.replace('\\', "\\\\").replace('\'', "\\'")
            )
        }),
        Format::Powershell => lines(&|n, v| format!("$Env:{n} = '{}'", v.replace('\'', "''"))),
        Format::Dotenv => {
            lines(&|n, v| format!("{n}=\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\"")))
        }
        Format::Docker => lines(&|n, v| format!("--env {n}={}", quoted(v))),
        Format::Json => {
            let object: Map<String, Value> = variables
                .iter()
                .map(|(n, v)| (n.clone(), json!(v)))
                .collect();
            format!("{:#}\n", Value::Object(object))
        }
        Format::K8s => lines(&|n, v| format!("- name: {n}\n  value: {}", json!(v))),
    }
}

/// Reads the dotenv form back.
fn parse(text: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let (name, quoted) = line.split_once('=')?;
        let value = quoted.strip_prefix('"')?.strip_suffix('"')?;
        Some((
            name.to_owned(),
            value.replace("\\\"", "\"").replace("\\\\", "\\"),
        ))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_quotes_what_its_reader_would_expand() {
        let variables = [("A".to_owned(), "it's $x \"y\" \\z".to_owned())];
        assert_eq!(
            print(&variables, Format::Sh),
            "export A='it'\\''s $x \"y\" \\z'\n"
        );
        assert_eq!(
            print(&variables, Format::Fish),
            "set -gx A 'it\\'s $x \"y\" \\\\z'\n"
        );
        assert_eq!(
            print(&variables, Format::Powershell),
            "$Env:A = 'it''s $x \"y\" \\z'\n"
        );
        assert_eq!(parse(&print(&variables, Format::Dotenv)), variables);
        let back: Map<String, Value> =
            serde_json::from_str(&print(&variables, Format::Json)).unwrap();
        assert_eq!(back["A"], variables[0].1);
    }
}
