//! `login`: a person logs in for a service's grant, in the running proxy or straight into the file store.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::{Args, LoginWish};
use super::operate::Operator;
use super::run::{PrivateDir, make_private};
use super::serve::{close_process, config_path, data_runtime, plan_without_secrets};
use super::{Failure, out, terminal};
use crate::admin::Shown;
use crate::app;
use crate::config::{self, CaPlan, Plan, StorePlan};
use crate::tokens::{CredentialSettings, Settings};
use crate::vocab::{AgentName, Clock, GrantId, ServiceName};

pub(super) fn login(args: &Args, wish: &LoginWish) -> Result<ExitCode, Failure> {
    let plan = plan_without_secrets(args)?;
    let grant = grant_of(&plan, wish)?;
    if let Some(proxy) = Operator::find(args, &plan)? {
        return through(&proxy, args, wish, &grant);
    }
    if matches!(plan.store, StorePlan::Memory) {
        return Err(Failure(
            "no proxy runs with this configuration, and with `store: memory` a login would end with this command; \
             start `tokenward serve` first, or use `store: {file: …}`"
                .into(),
        ));
    }
    into_store(args, wish, grant)
}

/// The grant that is meant, if the configuration has it.
fn grant_of(plan: &Plan, wish: &LoginWish) -> Result<GrantId, Failure> {
    let service = ServiceName::new(&wish.service).ok();
    let service = service.filter(|name| credential(&plan.tokens, name).is_some());
    let service = service.ok_or_else(|| {
        Failure(format!(
            "the configuration has no service {:?}",
            wish.service
        ))
    })?;
    match credential(&plan.tokens, &service) {
        Some(CredentialSettings::Oauth(oauth)) if oauth.grant.by_login() => {}
        _ => {
            return Err(Failure(format!(
                "service {service}: nobody logs in for its credential; `login` is for `grant: authorization_code` and `grant: device_code`"
            )));
        }
    }
    let agent = match &wish.agent {
        None => AgentName::everyone(),
        Some(name) => {
            let known = plan.policy.agents.iter().map(|agent| &agent.name);
            let agent = AgentName::new(name).ok();
            let agent = agent.filter(|agent| known.clone().any(|one| one == agent));
            agent.ok_or_else(|| Failure(format!("the configuration has no agent {name:?}")))?
        }
    };
    Ok(GrantId { service, agent })
}

fn credential<'a>(settings: &'a Settings, service: &ServiceName) -> Option<&'a CredentialSettings> {
    let mut services = settings.services.iter();
    services.find_map(|(name, credential)| (name == service).then_some(credential))
}

/// The running proxy does it; we show what it says and wait.
fn through(
    proxy: &Operator,
    args: &Args,
    wish: &LoginWish,
    grant: &GrantId,
) -> Result<ExitCode, Failure> {
    let body = json!({
        "service": wish.service,
        "agent": wish.agent,
        "device": wish.device,
    });
    let begun = proxy.call("POST", "/v1/logins", Some(&body))?.body;
    show(args, wish, grant, &begun);
    let id = begun["id"].as_str().unwrap_or_default();
    let ended = proxy.call("GET", &format!("/v1/logins/{id}?wait=1"), None)?;
    match ended.body["state"].as_str() {
        Some("done") => Ok(done(args, grant)),
        _ => {
            let why = ended.body["error"].as_str();
            Err(Failure(format!(
                "{}: {}",
                grant.service,
                why.unwrap_or("nobody logged in")
            )))
        }
    }
}

/// No proxy runs: the file store is opened here, and another process that has it open says no.
fn into_store(args: &Args, wish: &LoginWish, grant: GrantId) -> Result<ExitCode, Failure> {
    close_process();
    let mut plan =
        config::load_asking(&config_path(args)?, &mut terminal::ask).map_err(Failure::of)?;
    let private = PrivateDir::new()?;
    make_private(&mut plan, &private.0)?;
    plan.listen.proxy.clear();
    plan.ca = CaPlan::Memory;
    // The end of this process is not the end of the login.
    for (_, credential) in &mut plan.tokens.services {
        if let CredentialSettings::Oauth(oauth) = credential {
            oauth.revoke_on_exit = false;
        }
    }
    data_runtime()?.block_on(async {
        let running = app::start(plan, Clock::system()).await;
        let running = running.map_err(Failure::of)?;
        let shown = |shown: &Shown| show(args, wish, &grant, &as_json(shown));
        let logging_in = running.log_in_anew(grant.clone(), wish.device, shown);
        let ended = tokio::select! {
            ended = logging_in => ended.map_err(|error| Failure(format!("{}: {error}", grant.service))),
            _ = tokio::signal::ctrl_c() => Err(Failure("nobody logged in".into())),
        };
        running.shut_down().await;
        ended.map(|()| done(args, &grant))
    })
}

fn as_json(shown: &Shown) -> Value {
    json!({
        "url": shown.url,
        "user_code": shown.user_code,
        "url_complete": shown.complete,
        "expires_in": shown.life.as_secs(),
    })
}

/// The URL stands alone on its line, and so does the code.
fn show(args: &Args, wish: &LoginWish, grant: &GrantId, begun: &Value) {
    if args.json {
        let mut line = begun.clone();
        line["service"] = json!(grant.service.as_str());
        out::data(&format!("{line}\n"));
    } else {
        let text = |name: &str| begun[name].as_str();
        let url = text("url").unwrap_or_default();
        out::say(&format!("tokenward: {}: to log in, open", grant.service));
        out::data(&format!("{url}\n"));
        if let Some(code) = text("user_code") {
            out::say("and type there");
            out::data(&format!("{code}\n"));
        }
        if let Some(complete) = text("url_complete") {
            out::say("or open");
            out::data(&format!("{complete}\n"));
        }
    }
    // A device's login is for another device.
    if !wish.no_browser && begun["user_code"].is_null() {
        open_browser(begun["url"].as_str().unwrap_or_default());
    }
}

/// Where a person sits at a screen of this machine, the URL opens by itself. Nobody is told where that is not so.
fn open_browser(url: &str) {
    if !out::person_reads() || !config::environment().has_screen() {
        return;
    }
    let opener = if cfg!(target_os = "macos") {
        "open"
    } else {
        "xdg-open"
    };
    let quiet = std::process::Stdio::null;
    let started = std::process::Command::new(opener)
        .arg(url)
        .stdin(quiet())
        .stdout(quiet())
        .stderr(quiet())
        .spawn();
    if started.is_err() {
        tracing::debug!("no browser could be opened");
    }
}

fn done(args: &Args, grant: &GrantId) -> ExitCode {
    let agent = (!grant.agent.is_everyone()).then(|| grant.agent.as_str());
    if args.json {
        let line = json!({"state": "done", "service": grant.service.as_str(), "agent": agent});
        out::data(&format!("{line}\n"));
    } else {
        let whose = agent.map_or_else(
            || "all its agents".to_owned(),
            |agent| format!("agent {agent}"),
        );
        out::say(&format!(
            "tokenward: {}: logged in, for {whose}",
            grant.service
        ));
    }
    ExitCode::SUCCESS
}
