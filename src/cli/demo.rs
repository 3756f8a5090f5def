//! `demo`: the whole job on one machine, shown and checked. It exits 0 only if every step was observed, and each
//! `--sabotage` makes one of them impossible.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use http::Method;
use serde_json::json;

use super::args::{Args, Sabotage};
use super::serve::data_runtime;
use super::{Failure, out};
use crate::app::{self, Running};
use crate::audit;
use crate::config::{self, SecretReading};
use crate::rehearsal::{Answer, Call, Caller, CallerError, Options, Rehearsal, Seen, Service};
use crate::vocab::Clock;

/// The variable in which the demo's agent finds its placeholder.
const VARIABLE: &str = "ITEMS_TOKEN";
const HOST: &str = "api.rehearsal.test";

pub(super) fn demo(args: &Args, sabotage: Option<Sabotage>) -> Result<ExitCode, Failure> {
    let folder = Folder::new()?;
    let mut story = Story {
        json: args.json,
        failed: 0,
    };
    data_runtime()?.block_on(async {
        let stage = Stage::set(&folder.0, sabotage).await?;
        stage.allowed(&mut story).await?;
        stage.denied(&mut story).await?;
        stage.stolen(&mut story).await?;
        let audit_file = folder.0.join("audit.jsonl");
        stage.running.shut_down().await;
        recorded(&audit_file, &mut story)?;
        stage.rehearsal.stop().await;
        Ok::<(), Failure>(())
    })?;
    story.end()
}

/// What is told, and whether it was true.
struct Story {
    json: bool,
    failed: usize,
}

impl Story {
    fn tell(&self, text: &str) {
        if !self.json {
            out::data(&format!("{text}\n"));
        }
    }

    fn observe(&mut self, what: &str, seen: bool) {
        self.failed += usize::from(!seen);
        if self.json {
            out::data(&format!("{}\n", json!({ "observed": seen, "what": what })));
        } else {
            out::data(&format!(
                "  {} {what}\n",
                if seen { "[ok]    " } else { "[FAILED]" }
            ));
        }
    }

    fn end(self) -> Result<ExitCode, Failure> {
        if self.failed > 0 {
            return Err(Failure(format!(
                "{} of the demo's observations did not hold",
                self.failed
            )));
        }
        self.tell("\nEvery step was observed. The agent never held the token, and the token is worth nothing without the key.");
        Ok(ExitCode::SUCCESS)
    }
}

/// Everything that plays a part.
struct Stage {
    rehearsal: Rehearsal,
    running: Running,
    agent: Caller,
    placeholder: String,
}

impl Stage {
    async fn set(folder: &Path, sabotage: Option<Sabotage>) -> Result<Self, Failure> {
        let rehearsal = Rehearsal::start(Options::default())
            .await
            .map_err(Failure::of)?;
        if sabotage == Some(Sabotage::ApiDpop) {
            rehearsal.controls().api(|api| api.trusting = true);
        }
        let file = write_configuration(folder, &rehearsal, sabotage)?;
        let plan = config::load(&file, SecretReading::Resolve).map_err(Failure::of)?;
        let running = app::start(plan, Clock::system())
            .await
            .map_err(Failure::of)?;
        let proxy = *running
            .proxies()
            .first()
            .ok_or_else(|| Failure("the proxy has no address".into()))?;
        let agent = if sabotage == Some(Sabotage::Strip) {
            // Around the proxy: nobody strips what the agent sends.
            Caller::direct(rehearsal.api_addr(), rehearsal.ca_pem())
        } else {
            let ca = std::fs::read_to_string(&running.trust().ca).map_err(Failure::of)?;
            Caller::through(proxy, &ca)
        };
        let agent = agent.map_err(Failure::of)?;
        let environment = running.seats().first().map(|seat| &seat.environment);
        let placeholder = environment
            .and_then(|variables| variables.iter().find(|(name, _)| name == VARIABLE))
            .map(|(_, value)| value.clone())
            .ok_or_else(|| Failure("the agent has no placeholder".into()))?;
        Ok(Self {
            rehearsal,
            running,
            agent,
            placeholder,
        })
    }

    fn call(&self, method: Method, target: &str) -> Call {
        Call::new(method, target).field("authorization", &format!("Bearer {}", self.placeholder))
    }

    async fn ask(&self, method: Method, target: &str) -> Result<Answer, Failure> {
        match self
            .agent
            .call(HOST, 443, true, self.call(method, target))
            .await
        {
            Ok(answer) => Ok(answer),
            Err(CallerError::Refused(answer)) => Ok(*answer),
            Err(error) => Err(Failure::of(error)),
        }
    }

    /// What the API received last.
    fn received(&self) -> Option<Seen> {
        self.rehearsal.seen_by(Service::Api).into_iter().next_back()
    }

    async fn allowed(&self, story: &mut Story) -> Result<(), Failure> {
        story.tell("1. An agent that holds only a placeholder calls an API that takes DPoP-bound tokens only.\n");
        story.tell(&format!("   agent sent     GET https://{HOST}/v1/items"));
        story.tell(&format!(
            "                  Authorization: Bearer {}",
            self.placeholder
        ));
        let answer = self.ask(Method::GET, "/v1/items").await?;
        let received = self.received();
        let authorization = received
            .as_ref()
            .and_then(|r| r.header("authorization"))
            .unwrap_or_default();
        let scheme = authorization.split(' ').next().unwrap_or_default();
        let proof = received
            .as_ref()
            .and_then(|r| r.proof.clone())
            .unwrap_or_default();
        story.tell(&format!(
            "   API received   Authorization: {scheme} [an access token that the agent never saw]"
        ));
        story.tell(&format!(
            "                  DPoP: [proof for htm={} htu={} jti={}]",
            proof["htm"], proof["htu"], proof["jti"]
        ));
        story.tell(&format!("   agent got      {}\n", answer.status));
        story.observe("the API accepted the call", answer.status == 200);
        story.observe("the API received a DPoP-bound token", scheme == "DPoP");
        story.observe(
            "the proof was made for this very request",
            proof["htm"] == "GET" && proof["htu"] == format!("https://{HOST}/v1/items"),
        );
        let everything = format!("{received:?}");
        story.observe(
            "the placeholder did not reach the API",
            received.is_some() && !everything.contains(&self.placeholder),
        );
        let token = authorization.split(' ').nth(1).unwrap_or("-");
        story.observe(
            "the token did not reach the agent",
            !answer.text().contains(token),
        );
        Ok(())
    }

    async fn denied(&self, story: &mut Story) -> Result<(), Failure> {
        story.tell("\n2. The same agent tries what no rule allows.\n");
        let before = self.rehearsal.seen().len();
        let answer = self.ask(Method::DELETE, "/v1/items/1").await?;
        let code = answer.code().unwrap_or_else(|| "none".into());
        story.tell(&format!(
            "   agent sent     DELETE https://{HOST}/v1/items/1"
        ));
        story.tell(&format!("   agent got      {} {code}\n", answer.status));
        story.observe(
            "the call was refused by policy",
            answer.status == 403 && code == "policy-denied",
        );
        story.observe(
            "neither the API nor the issuer heard of it",
            self.rehearsal.seen().len() == before,
        );
        Ok(())
    }

    async fn stolen(&self, story: &mut Story) -> Result<(), Failure> {
        story.tell("\n3. A thief has got hold of the access token and of a proof, and calls the API directly.\n");
        let taken = self
            .rehearsal
            .seen_by(Service::Api)
            .into_iter()
            .find(|r| r.status == Some(200));
        let authorization = taken
            .as_ref()
            .and_then(|r| r.header("authorization"))
            .unwrap_or("DPoP -")
            .to_owned();
        let proof = taken
            .as_ref()
            .and_then(|r| r.header("dpop"))
            .unwrap_or("-")
            .to_owned();
        let token = authorization.split(' ').nth(1).unwrap_or("-").to_owned();
        let thief = Caller::direct(self.rehearsal.api_addr(), self.rehearsal.ca_pem())
            .map_err(Failure::of)?;
        let bearer = format!("Bearer {token}");
        let attempts: [(&str, Vec<(&str, &str)>); 3] = [
            (
                "the token as a bearer token",
                vec![("authorization", &bearer)],
            ),
            (
                "the token without a proof",
                vec![("authorization", &authorization)],
            ),
            (
                "the token with the stolen proof",
                vec![("authorization", &authorization), ("dpop", &proof)],
            ),
        ];
        for (what, fields) in attempts {
            let call = fields
                .iter()
                .fold(Call::get("/v1/items"), |call, (name, value)| {
                    call.field(name, value)
                });
            let answer = thief
                .call(HOST, 443, false, call)
                .await
                .map_err(Failure::of)?;
            story.tell(&format!("   thief sent     {what}: {}", answer.status));
            story.observe(&format!("{what} was refused"), answer.status == 401);
        }
        Ok(())
    }
}

fn recorded(file: &Path, story: &mut Story) -> Result<(), Failure> {
    story.tell("\n4. Every decision is one line in a hash-chained audit file.\n");
    let text = std::fs::read_to_string(file).map_err(Failure::of)?;
    let requests = text
        .lines()
        .filter(|line| line.contains("\"event\":\"request\""))
        .count();
    let verified = audit::verify(text.as_bytes());
    story.observe(
        &format!(
            "the chain holds over {} lines, {requests} of them requests",
            text.lines().count()
        ),
        verified.is_ok() && requests >= 2,
    );
    Ok(())
}

fn write_configuration(
    folder: &Path,
    rehearsal: &Rehearsal,
    sabotage: Option<Sabotage>,
) -> Result<PathBuf, Failure> {
    let client = "svc-pkjwt";
    let key = rehearsal.client_key_pem(client).map_err(Failure::of)?;
    let kid = rehearsal.client_key_id(client).unwrap_or_default();
    let extra = if sabotage == Some(Sabotage::Deny) {
        "      - {allow: DELETE /v1/items/*, scopes: [\"items:read\"]}\n"
    } else {
        ""
    };
    let text = format!(
        "listen: {{proxy: \"127.0.0.1:0\"}}
runtime_dir: {folder}/run
audit: {{file: {folder}/audit.jsonl}}
issuers:
  rehearsal: {{url: \"{issuer}\", ca: {{file: ca.pem}}, connect: \"{issuer_addr}\", allow_private: true}}
services:
  items:
    hosts: [{HOST}]
    upstream: {{ca: {{file: ca.pem}}, connect: \"{api_addr}\", allow_private: true}}
    credential:
      oauth:
        issuer: rehearsal
        client_id: {client}
        client_auth: {{private_key_jwt: {{key: {{file: client.pem}}, kid: \"{kid}\"}}}}
        grant: client_credentials
        resource: \"{api}\"
    placeholder: {{variable: {VARIABLE}}}
    rules:
      - {{allow: GET /v1/items/**, scopes: [\"items:read\"]}}
{extra}",
        folder = folder.display(),
        issuer = rehearsal.issuer_url(),
        issuer_addr = rehearsal.issuer_addr(),
        api_addr = rehearsal.api_addr(),
        api = rehearsal.api_origin(),
    );
    let file = folder.join("tokenward.yaml");
    for (name, content) in [
        ("ca.pem", rehearsal.ca_pem()),
        ("client.pem", &key),
        ("tokenward.yaml", &text),
    ] {
        std::fs::write(folder.join(name), content).map_err(Failure::of)?;
    }
    Ok(file)
}

/// The demo's own folder: private, and gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        super::run::private_folder("tokenward-demo", 0o700).map(Self)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        super::run::remove_folder(&self.0);
    }
}
