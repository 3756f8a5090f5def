//! `revoke` and `reload`: the operator's word to the running proxy, and what it answers.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::{Args, RevokeWish};
use super::operate::Operator;
use super::status::{list, named};
use super::{Failure, out};

pub(super) fn revoke(args: &Args, wish: &RevokeWish) -> Result<ExitCode, Failure> {
    let proxy = Operator::need_whatever_the_file(args)?;
    let body = json!({
        "service": wish.service,
        "agent": wish.agent,
        "all": wish.all,
        "compromise": wish.compromise,
        "dry_run": wish.dry_run,
    });
    let done = proxy.call("POST", "/v1/revoke", Some(&body))?.body;
    if args.json {
        out::data(&format!("{done:#}\n"));
    } else {
        out::data(&for_people(&done));
    }
    let stored = list(&done["grants"])
        .iter()
        .any(|grant| grant["still_stored"] == true);
    if stored {
        return Err(Failure(
            "a refresh token could not be taken off the disk: `store.file` is not writable, and a restart would find it".into(),
        ));
    }
    if done["remembered"] == false {
        return Err(Failure(
            "the compromise holds now, but a restart would forget it: `store.file` is not writable. Make it so and revoke once more".into(),
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn reload(args: &Args) -> Result<ExitCode, Failure> {
    // What is wrong with the file is the proxy's to say.
    let proxy = Operator::need_whatever_the_file(args)?;
    let done = proxy.call("POST", "/v1/reload", Some(&json!({})))?.body;
    if args.json {
        out::data(&format!("{done:#}\n"));
    } else {
        out::data(&format!("generation {} is in force\n", done["generation"]));
        if done["restored"].as_u64() > Some(0) {
            out::data("what was revoked without --compromise is lent again\n");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn for_people(done: &Value) -> String {
    let mut text = String::new();
    let dry = done["dry_run"] == true;
    for grant in list(&done["grants"]) {
        let issuer = at_the_issuer(grant, dry);
        let back = comes_back(grant);
        let stopped = if dry { "would be stopped" } else { "stopped" };
        text.push_str(&format!("{}: {stopped}; {issuer}; {back}\n", whose(grant)));
    }
    if text.is_empty() {
        text.push_str("nothing to revoke: no service has a credential\n");
    }
    match done["cut"].as_u64() {
        Some(cut) => text.push_str(&format!("{cut} exchanges under way were cut\n")),
        None => text.push_str("nothing was changed (--dry-run)\n"),
    }
    text
}

fn whose(grant: &Value) -> String {
    let name = named(grant);
    if grant["grant"] == "static" && grant["agent"].is_null() {
        return grant["service"].as_str().unwrap_or_default().to_owned();
    }
    name
}

/// What the issuer knows, in words.
fn at_the_issuer(grant: &Value, dry: bool) -> String {
    if grant["grant"] == "static" {
        return "a fixed credential, which only its API can revoke".into();
    }
    if grant["grant"] == "unconfigured" {
        return "its refresh token: destroyed, NOT REVOKED at its issuer, because the configuration lacks it".into();
    }
    if grant["shared_goes_on"] == true {
        return "its service's grant is shared and goes on for the other agents".into();
    }
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for token in list(&grant["tokens"]) {
        let word = |name: &str| token[name].as_str().unwrap_or_default();
        *counts.entry((word("issuer"), word("kind"))).or_default() += 1;
    }
    if counts.is_empty() {
        return "it has no tokens".into();
    }
    let each = counts.into_iter().map(|((fate, kind), many)| {
        let tokens = match (kind, many) {
            ("refresh_token", _) => "the refresh token".to_owned(),
            (_, 1) => "1 access token".to_owned(),
            (_, many) => format!("{many} access tokens"),
        };
        let fate = match fate {
            "confirmed" => "revoked, the issuer confirms",
            "pending" if dry => "to be revoked at the issuer",
            "pending" => "NOT CONFIRMED YET: the issuer is tried again until it answers",
            "impossible" => "NOT REVOCABLE: the issuer takes no revocation, it stays good there until it expires",
            _ => "NOT REVOKED at the issuer",
        };
        format!("{tokens}: {fate}")
    });
    each.collect::<Vec<_>>().join("; ")
}

fn comes_back(grant: &Value) -> String {
    let service = grant["service"].as_str().unwrap_or_default();
    let agent = grant["agent"].as_str();
    let agent = agent.map_or_else(String::new, |agent| format!(" --agent {agent}"));
    match grant["comes_back_by"].as_str() {
        Some("login") => format!("comes back by `tokenward login {service}{agent}`"),
        Some("rotate") => format!("comes back by `tokenward rotate --service {service}{agent}`"),
        Some("new_value") => "comes back with another value in the configuration".into(),
        _ => "comes back by `tokenward reload`".into(),
    }
}
