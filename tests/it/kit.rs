//! What every test needs: a rehearsal, a proxy that was started from a file, agents, and what was written down.

mod cluster;
mod forward;
mod knock;
mod origin;
mod process;
mod raw;
mod schema;
mod setup;
mod ws;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokenward::app::Running;
use tokenward::audit;
use tokenward::rehearsal::{Answer, Call, Caller, CallerError, Rehearsal, Seen, Service};

pub(crate) use cluster::{CLUSTER, Cluster};
pub(crate) use forward::{Forward, Manner};
pub(crate) use knock::{connect, get, house, shake};
pub(crate) use origin::{Identity, Origin, OwnBody};
pub(crate) use process::{Served, code, err, free_port, out, run, tokenward};
pub(crate) use raw::{Raw, Tls, exchange, read_head, speak};
pub(crate) use schema::misfits;
pub(crate) use setup::{Auth, Credential, Setup, Svc, agent_token};
pub(crate) use ws::WebSocket;

/// The host of the API that takes DPoP-bound tokens only.
pub(crate) const API: &str = "api.rehearsal.test";
/// The hosts of the API that takes fixed keys and bearer tokens.
pub(crate) const KEYS: &str = "static.rehearsal.test";
pub(crate) const PLAIN: &str = "plain.rehearsal.test";

/// How long a test waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A proxy at work between its agents and the rehearsal.
pub(crate) struct House {
    pub(crate) rehearsal: Rehearsal,
    pub(crate) running: Running,
    pub(crate) ca: String,
    pub(crate) folder: TempDir,
}

impl House {
    /// The usual house: one agent, three services.
    pub(crate) async fn start() -> Self {
        Setup::usual().start().await
    }

    pub(crate) fn proxy(&self) -> SocketAddr {
        self.running.proxies()[0]
    }

    /// The agent of a house without named agents.
    pub(crate) fn agent(&self) -> Caller {
        Caller::through(self.proxy(), &self.ca).unwrap()
    }

    /// A named agent with its token.
    pub(crate) fn named(&self, name: &str) -> Caller {
        self.agent().named(name, &agent_token(name))
    }

    /// Sends one request on a new connection.
    pub(crate) async fn ask(&self, h2: bool, call: Call) -> Answer {
        ask(&self.agent(), API, h2, call).await
    }

    /// GETs a path of the DPoP API on a new connection.
    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.ask(true, Call::get(target)).await
    }

    /// What an agent finds in one of its variables.
    pub(crate) fn variable(&self, agent: &str, name: &str) -> String {
        let seats = self.running.seats();
        let seat = seats.iter().find(|s| s.agent.as_str() == agent).unwrap();
        let found = seat.environment.iter().find(|(n, _)| n == name);
        found.unwrap().1.clone()
    }

    /// What the DPoP API received.
    pub(crate) fn at_api(&self) -> Vec<Seen> {
        self.rehearsal.seen_by(Service::Api)
    }

    /// What the API for fixed keys received.
    pub(crate) fn at_static(&self) -> Vec<Seen> {
        self.rehearsal.seen_by(Service::Static)
    }

    /// The token requests that the issuer received.
    pub(crate) fn token_requests(&self) -> Vec<Seen> {
        let mut seen = self.rehearsal.seen_by(Service::Issuer);
        seen.retain(|s| s.method == "POST");
        seen
    }

    /// Asks the health listener.
    pub(crate) async fn health(&self, path: &str) -> Raw {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        speak(self.running.health().unwrap(), request.as_bytes()).await
    }

    pub(crate) async fn metrics(&self) -> String {
        self.health("/metrics").await.text()
    }

    pub(crate) fn audit_file(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }

    /// The request lines written so far, once there are `count` of them.
    pub(crate) async fn lines(&self, count: usize) -> Vec<Value> {
        let read = || Written::read(&self.audit_file()).requests();
        eventually("the audit lines", || read().len() >= count).await;
        read()
    }

    /// Ends the proxy in order and tells what it wrote down; its chain must hold.
    pub(crate) async fn end(self) -> Written {
        let file = self.audit_file();
        assert!(self.running.shut_down().await, "an exchange did not end");
        self.rehearsal.stop().await;
        Written::read(&file)
    }
}

/// Sends one request on a new connection; a refused CONNECT is an answer too.
pub(crate) async fn ask(agent: &Caller, host: &str, h2: bool, call: Call) -> Answer {
    match agent.call(host, 443, h2, call).await {
        Ok(answer) => answer,
        Err(CallerError::Refused(answer)) => *answer,
        Err(error) => panic!("no answer of {host}: {error}"),
    }
}

/// An answer must be this refusal, in the form of RFC 9457.
#[track_caller]
pub(crate) fn refused(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status.as_u16(), answer.code().as_deref()),
        (status, Some(code)),
        "{}",
        answer.text()
    );
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    let details = format!("details=\"{code}\"");
    let line = answer.headers["proxy-status"].to_str().unwrap();
    assert!(line.starts_with("tokenward; error=") && line.contains(&details));
}

/// Waits for something that must happen soon.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(waited.is_ok(), "{what} did not come");
}

/// Every jti that the servers received; none may stand there twice.
pub(crate) fn distinct_proofs(seen: &[Seen]) -> usize {
    let all: Vec<_> = seen
        .iter()
        .filter_map(|s| s.proof.as_ref())
        .map(|p| p["jti"].as_str().unwrap().to_owned())
        .collect();
    let distinct: BTreeSet<_> = all.iter().collect();
    assert_eq!(distinct.len(), all.len(), "a jti was used twice");
    all.len()
}

/// The claims of a JWT, unverified.
pub(crate) fn claims(token: &str) -> Value {
    use base64::Engine as _;
    let part = token.split('.').nth(1).unwrap();
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(part)
        .unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

/// The access token that a request had.
pub(crate) fn token_of(seen: &Seen) -> &str {
    let line = seen.header("authorization").unwrap();
    line.split_once(' ').unwrap().1
}

/// Why nobody was identified, in the order of the lines.
pub(crate) fn reasons(written: &Written) -> Vec<String> {
    let failed = written.of("auth.agent_failed");
    let reasons = failed.iter().map(|line| line["reason"].as_str().unwrap());
    reasons.map(str::to_owned).collect()
}

/// What the proxy wrote down.
pub(crate) struct Written {
    pub(crate) text: String,
    pub(crate) lines: Vec<Value>,
}

impl Written {
    /// Reads an audit file whose chain must hold.
    pub(crate) fn read(file: &std::path::Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        // The last line may be half written while the proxy runs.
        let whole = text.rfind('\n').map_or(0, |at| at + 1);
        let text = text[..whole].to_owned();
        audit::verify(text.as_bytes()).unwrap();
        let lines = text.lines().map(|l| serde_json::from_str(l).unwrap());
        Self {
            lines: lines.collect(),
            text,
        }
    }

    /// The lines of one event.
    pub(crate) fn of(&self, event: &str) -> Vec<Value> {
        let lines = self.lines.iter().filter(|l| l["event"] == event);
        lines.cloned().collect()
    }

    pub(crate) fn requests(&self) -> Vec<Value> {
        self.of("request")
    }

    /// The one request that was made.
    pub(crate) fn only(&self) -> Value {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{}", self.text);
        requests[0].clone()
    }
}
