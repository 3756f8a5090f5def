//! `explain`: what would happen to a request, and the line that would allow it. No network.

use std::process::ExitCode;

use http::Uri;
use serde_json::json;

use super::args::Args;
use super::serve::plan_without_secrets;
use super::{Failure, env, out};
use crate::config::Plan;
use crate::exchange::absolute_authority;
use crate::policy::{Explanation, Facts, Outcome};
use crate::vocab::{AgentName, RequestPath, ServiceName};

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
    let path = RequestPath::of_request(uri.path()).map_err(Failure::of)?;
    let snapshot = super::check::snapshot(&plan)?;
    let explanation = snapshot.explain(&Facts {
        agent: &agent,
        authority: &authority,
        method,
        path: &path,
    });
    let answer = Answer::of(explanation, &plan);
    out::data(&if args.json {
        answer.json()
    } else {
        answer.text(method, url)
    });
    Ok(if answer.allowed {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

/// What is printed, in one form or the other.
struct Answer {
    allowed: bool,
    verdict: &'static str,
    agent: AgentName,
    service: Option<ServiceName>,
    rule: Option<String>,
    scopes: Option<String>,
    binding: Option<&'static str>,
    remedy: Option<String>,
}

impl Answer {
    fn of(explanation: Explanation, plan: &Plan) -> Self {
        let Explanation {
            agent,
            service,
            outcome,
        } = explanation;
        let found = service
            .as_ref()
            .and_then(|name| plan.services.iter().find(|s| s.name == *name));
        let binding = found.map(|s| s.binding.as_str());
        let (allowed, verdict, rule, scopes, remedy) = match outcome {
            Outcome::Allowed { rule, scopes, .. } => {
                let scopes = (!scopes.is_empty()).then(|| scopes.to_string());
                (true, "allowed", Some(rule.to_string()), scopes, None)
            }
            Outcome::Refused { code, rule, fix } => {
                let rule = rule.map(|(rule, _)| rule.to_string());
                (
                    false,
                    code.as_str(),
                    rule,
                    None,
                    fix.map(|fix| fix.to_string()),
                )
            }
            Outcome::Tunnelled => (true, "tunnelled", None, None, None),
        };
        Self {
            allowed,
            verdict,
            agent,
            service,
            rule,
            scopes,
            binding,
            remedy,
        }
    }

    fn json(&self) -> String {
        let document = json!({
            "allowed": self.allowed,
            "verdict": self.verdict,
            "agent": self.agent.as_str(),
            "service": self.service.as_ref().map(ServiceName::as_str),
            "rule": self.rule,
            "scopes": self.scopes,
            "binding": self.binding,
            "remedy": self.remedy,
        });
        format!("{document:#}\n")
    }

    fn text(&self, method: &str, url: &str) -> String {
        let mut text = format!("{method} {url} by agent {}: {}\n", self.agent, self.verdict);
        let service = self.service.as_ref().map(ServiceName::as_str);
        let lines = [
            ("service", service),
            ("rule", self.rule.as_deref()),
            ("scopes", self.scopes.as_deref()),
            ("binding", self.binding),
            ("remedy", self.remedy.as_deref()),
        ];
        for (title, value) in lines {
            text.push_str(
                &value.map_or_else(String::new, |value| format!("  {title:<8} {value}\n")),
            );
        }
        text
    }
}
