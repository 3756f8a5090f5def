//! `audit verify`: checks the hash chain of an audit file. `audit tail`: follows the lines of a running proxy.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::{Args, Decided};
use super::operate::Operator;
use super::serve::plan_without_secrets;
use super::{Failure, out};
use crate::audit;

/// Members of a line that say nothing to a person, or that stand elsewhere in what a person reads.
const UNSAID: [&str; 6] = ["time", "seq", "event", "prev", "hash", "request"];

pub(super) fn verify(args: &Args, file: &Path) -> Result<ExitCode, Failure> {
    let opened = File::open(file).map_err(|e| Failure(format!("{}: {e}", file.display())))?;
    match audit::verify(BufReader::new(opened)) {
        Ok(good) => {
            if args.json {
                out::data(&format!("{}\n", json!({ "ok": true, "lines": good.lines })));
            } else {
                out::data(&format!(
                    "{}: the chain holds over {} lines\n",
                    file.display(),
                    good.lines
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(broken) => {
            if args.json {
                out::data(&format!(
                    "{}\n",
                    json!({ "ok": false, "what": broken.to_string() })
                ));
            }
            Err(Failure(format!("{}: {broken}", file.display())))
        }
    }
}

pub(super) fn tail(
    args: &Args,
    agent: Option<&str>,
    service: Option<&str>,
    decision: Option<Decided>,
) -> Result<ExitCode, Failure> {
    let plan = plan_without_secrets(args)?;
    let agents = plan.policy.agents.iter().map(|known| known.name.as_str());
    let services = plan.policy.services.iter().map(|known| known.name.as_str());
    let agent = known("agent", agent, agents)?;
    let service = known("service", service, services)?;
    let decision = decision.map(|decision| match decision {
        Decided::Abandoned => "decision=abandoned".to_owned(),
        Decided::Allow => "decision=allow".to_owned(),
        Decided::Deny => "decision=deny".to_owned(),
    });
    let query: Vec<String> = [agent, service, decision].into_iter().flatten().collect();
    let proxy = Operator::need(args, &plan)?;
    proxy.follow(&format!("/v1/audit?{}", query.join("&")), |kind, data| {
        show(args, kind, data)
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A part of the query, if the configuration knows the name.
fn known<'a>(
    what: &str,
    name: Option<&str>,
    mut all: impl Iterator<Item = &'a str>,
) -> Result<Option<String>, Failure> {
    match name {
        None => Ok(None),
        Some(name) if all.any(|known| known == name) => Ok(Some(format!("{what}={name}"))),
        Some(name) => Err(Failure(format!("the configuration has no {what} {name:?}"))),
    }
}

/// Shows one event of the stream; `false`: nobody reads it any more.
fn show(args: &Args, kind: &str, data: &str) -> bool {
    if kind == "lost" {
        let lost: Value = serde_json::from_str(data).unwrap_or_default();
        out::say(&format!(
            "tokenward: {} lines were too many for this reader; the audit file has them",
            lost["lost"]
        ));
        return true;
    }
    if args.json {
        return out::data_read(&format!("{data}\n"));
    }
    let line: Value = serde_json::from_str(data).unwrap_or_default();
    out::data_read(&format!("{}\n", for_people(&line)))
}

/// One line for a person. What agents wrote was escaped when the line was made.
fn for_people(line: &Value) -> String {
    let word = |name: &str| match &line[name] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    // The day is that of the clock on the wall.
    let time = word("time");
    let time = time.get(11..23).unwrap_or(&time).to_owned();
    if line["event"] == "request" {
        let code = line["code"].as_str().map(|code| format!(" ({code})"));
        return format!(
            "{time} {} {} {} {}{} {}{} {} ms",
            word("decision"),
            word("agent"),
            word("method"),
            word("host"),
            word("path"),
            word("status"),
            code.unwrap_or_default(),
            word("duration_ms"),
        );
    }
    let members = line.as_object().into_iter().flatten();
    let members = members.filter(|(name, _)| !UNSAID.contains(&name.as_str()));
    let mut text = format!("{time} {}", word("event"));
    for (name, _) in members {
        text.push_str(&format!(" {name}={}", word(name)));
    }
    text
}
