//! `status` and `rotate`: how grants stand, and new keys and tokens for them.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::Args;
use super::operate::Operator;
use super::serve::plan_without_secrets;
use super::{Failure, out};

pub(super) fn status(args: &Args) -> Result<ExitCode, Failure> {
    let proxy = Operator::need(args, &plan_without_secrets(args)?)?;
    let standing = proxy.call("GET", "/v1/status", None)?.body;
    if args.json {
        out::data(&format!("{standing:#}\n"));
    } else {
        out::data(&for_people(&standing));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn rotate(
    args: &Args,
    service: Option<&str>,
    agent: Option<&str>,
) -> Result<ExitCode, Failure> {
    let proxy = Operator::need(args, &plan_without_secrets(args)?)?;
    let wish = json!({"service": service, "agent": agent});
    let done = proxy.call("POST", "/v1/rotate", Some(&wish))?.body;
    let (grants, restored) = (list(&done["grants"]), list(&done["restored"]));
    if args.json {
        out::data(&format!("{done:#}\n"));
    } else if grants.is_empty() && restored.is_empty() {
        out::data("nothing to rotate: no grant has a key or a token yet\n");
    } else {
        for back in restored {
            let whose = selected(back);
            out::data(&format!("{whose}: it was revoked and is lent again\n"));
        }
        for grant in grants {
            out::data(&format!("{}: {}\n", named(grant), what_was_done(grant)));
        }
    }
    let good = |grant: &Value| grant["renewed"] == true && grant["key"] != "failed";
    if grants.iter().all(good) {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Failure(
            "not every grant was renewed; those tokens stay in use as long as they last".into(),
        ))
    }
}

fn what_was_done(grant: &Value) -> String {
    let tokens = match (grant["tokens"].as_u64(), grant["renewed"] == true) {
        (Some(0) | None, _) => "no tokens in use",
        (_, true) => "new tokens",
        (_, false) => "the tokens could not be replaced and stay in use",
    };
    let key = match grant["key"].as_str() {
        Some("new") => "new key",
        Some("needs_login") => {
            "the key stays: its refresh token is bound to it, and a new key needs a new login (`tokenward login`)"
        }
        Some("failed") => "the new key could not be written down, the old one stays",
        _ => "no key of ours",
    };
    format!("{tokens}; {key}")
}

fn for_people(standing: &Value) -> String {
    let mut text = String::new();
    let mut line = |words: String| {
        text.push_str(&words);
        text.push('\n');
    };
    let grants = list(&standing["grants"]);
    if grants.is_empty() {
        line("no grant has been asked for yet".into());
    }
    for grant in grants {
        let word = |name: &str| grant[name].as_str().unwrap_or_default();
        line(format!(
            "{}: {}; {}, binding {}",
            named(grant),
            word("health"),
            word("grant"),
            word("binding")
        ));
        for token in list(&grant["tokens"]) {
            line(format!("  {}", token_for_people(token)));
        }
    }
    for service in list(&standing["services"]) {
        let word = |name: &str| service[name].as_str().unwrap_or_default();
        let name = word("service");
        if !grants.iter().any(|grant| grant["service"] == name) {
            let (binding, revoked) = (word("binding"), service["revoked"] == true);
            let revoked = if revoked { ", revoked" } else { "" };
            line(format!("{name}: no grant, binding {binding}{revoked}"));
        }
    }
    for stop in list(&standing["stopped"]) {
        line(stop_for_people(stop));
    }
    let pending = list(&standing["logins"]);
    for login in pending.iter().filter(|login| login["state"] == "pending") {
        line(format!("{}: a login waits for a person", named(login)));
    }
    for (name, holds) in standing["protections"].as_object().into_iter().flatten() {
        let holds = if *holds == true {
            "holds"
        } else {
            "DOES NOT HOLD"
        };
        line(format!("protection {name}: {holds}"));
    }
    text
}

fn stop_for_people(stop: &Value) -> String {
    let mut words = format!("{}: revoked", selected(stop));
    if stop["compromise"] == true {
        words.push_str(", compromised");
    }
    let back: Vec<String> = list(&stop["came_back"]).iter().map(selected).collect();
    if !back.is_empty() {
        words.push_str(&format!("; came back since: {}", back.join(", ")));
    }
    words
}

/// What a revocation is about.
fn selected(selection: &Value) -> String {
    let service = selection["service"].as_str().unwrap_or("all services");
    match selection["agent"].as_str() {
        Some(agent) => format!("{service} (agent {agent})"),
        None => format!("{service} (all agents)"),
    }
}

fn token_for_people(token: &Value) -> String {
    let scopes: Vec<&str> = list(&token["scopes"])
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let mut words = vec![if scopes.is_empty() {
        "no scopes".to_owned()
    } else {
        scopes.join(" ")
    }];
    if let Some(key) = token["thumbprint"].as_str() {
        words.push(format!("key {key}"));
    }
    if let Some(age) = token["age"].as_u64() {
        words.push(format!("{age} s old"));
    }
    if let Some(left) = token["expires_in"].as_u64() {
        words.push(format!("expires in {left} s"));
    }
    if let Some(ago) = token["checked"]["ago"].as_u64() {
        let word = |name: &str| token["checked"][name].as_str().unwrap_or_default();
        words.push(match (word("by"), word("outcome")) {
            ("", outcome) => format!("checked {ago} s ago: {outcome}"),
            (by, outcome) => format!("checked {ago} s ago by {by}: {outcome}"),
        });
    }
    if let Some(code) = token["code"].as_str() {
        words.push(format!("trouble: {code}"));
    }
    words.join(", ")
}

pub(super) fn named(grant: &Value) -> String {
    let service = grant["service"].as_str().unwrap_or_default();
    match grant["agent"].as_str() {
        Some(agent) => format!("{service}/{agent}"),
        None => format!("{service} (shared)"),
    }
}

pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
