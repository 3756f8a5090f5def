//! `explain`: what would happen to a request, and the line that would allow it. No network.

use std::process::ExitCode;

use http::Uri;
use serde_json::json;

use super::args::Args;
use super::serve::plan_without_secrets;
use super::{Failure, env, out};
use crate::exchange::absolute_authority;
use crate::policy::{Facts, Outcome, Snapshot};
use crate::vocab::RequestPath;

pub(super) fn explain(
    args: &Args,
    method: &str,
    url: &str,
    agent: Option<&str>,
) -> Result<ExitCode, Failure> {
    let plan = plan_without_secrets(args)?;
    let agent = env::chosen(&plan, agent)?;
    let bad = || Failure("the URL is not one; write it like https://api.example/v1/items".into());
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let authority = absolute_authority(&uri).map_err(|_| bad())?;
    let path = RequestPath::parse(uri.path()).map_err(Failure::of)?;
    let snapshot = Snapshot::build(plan.policy.clone()).map_err(|errors| {
        Failure(
            errors
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n"),
        )
    })?;
    let explanation = snapshot.explain(&Facts {
        agent: &agent,
        authority: &authority,
        method,
        path: &path,
    });

    let service = explanation.service.as_ref();
    let binding = service
        .and_then(|name| plan.services.iter().find(|s| s.name == *name))
        .map(|s| s.binding.as_str());
    let name = service.map_or("none", |s| s.as_str());
    let (allowed, verdict, rule, scopes, fix) = match &explanation.outcome {
        Outcome::Allowed { rule, scopes, .. } => (
            true,
            "allowed",
            Some(rule.to_string()),
            scopes.to_string(),
            None,
        ),
        Outcome::Refused { code, rule, fix } => {
            let rule = rule.as_ref().map(|(rule, _)| rule.to_string());
            (
                false,
                code.as_str(),
                rule,
                String::new(),
                fix.as_ref().map(ToString::to_string),
            )
        }
        Outcome::Tunnelled => (true, "tunnelled", None, String::new(), None),
    };
    if args.json {
        let document = json!({
            "allowed": allowed, "verdict": verdict, "agent": agent.as_str(), "service": service.map(|s| s.as_str()),
            "rule": rule, "scopes": scopes, "binding": binding, "remedy": fix,
        });
        out::data(&format!("{document:#}\n"));
    } else {
        let mut text = format!("{method} {url} by agent {agent}: {verdict}\n  service  {name}\n");
        for (title, value) in [
            ("rule", rule),
            ("scopes", (!scopes.is_empty()).then_some(scopes)),
        ] {
            if let Some(value) = value {
                text.push_str(&format!("  {title:<8} {value}\n"));
            }
        }
        if let Some(binding) = binding.filter(|_| allowed) {
            text.push_str(&format!("  binding  {binding}\n"));
        }
        if let Some(fix) = fix {
            text.push_str(&format!("  remedy   {fix}\n"));
        }
        out::data(&text);
    }
    Ok(if allowed {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}
