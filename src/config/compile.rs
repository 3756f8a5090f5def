//! From the file to the plan: values are read, references resolved, defaults filled in, and what contradicts itself
//! is found. Every mistake is reported, not the first one.

mod admin;
mod agents;
mod authentication;
mod authority;
mod carriage;
mod credentials;
mod grants;
mod health;
mod issuers;
mod kubernetes;
mod listeners;
mod parent;
mod pem;
mod profile;
mod rules;
mod services;
mod transparent;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use super::SecretReading;
use super::plan::{DrainPlan, LimitsPlan, Plan, StorePlan};
use super::problem::Findings;
use super::prompts::Answers;
use super::raw::{
    List, RawAgentLimits, RawAudit, RawDrain, RawDuration, RawFile, RawLimits, RawRate, RawSize,
    RawStore, RawWhenFull, SecretRef,
};
use super::secrets::{References, Unreadable};
use super::values;
use crate::exchange::BodyFloor;
use crate::store::StoreKey;
use crate::tokens::Supply;
use crate::vocab::{Authority, Generation, Secret};
use crate::{audit, policy};

/// Lines of the audit file that may wait for the disk.
const AUDIT_CAPACITY: usize = 8192;
/// Over how much waiting for the agent the rate of an upload is judged.
const BODY_WINDOW: Duration = Duration::from_secs(30);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What the parts of the compilation share.
struct Context<'a> {
    findings: &'a mut Findings,
    references: References<'a>,
    reading: SecretReading,
    /// Variables from which the file reads secrets.
    variables: BTreeSet<String>,
    /// Files that are to be read again when they change.
    watched: Vec<PathBuf>,
    /// Files from which it reads secrets.
    files: BTreeSet<PathBuf>,
}

/// Compiles a file. The plan is worth something only if no problem was found.
pub(super) fn compile(
    raw: RawFile,
    references: References<'_>,
    reading: SecretReading,
    findings: &mut Findings,
) -> Plan {
    let mut context = Context::new(findings, references, reading);
    let it = &mut context;
    let store = store(raw.store, it);
    let (listen, health, admin) =
        listeners::compile(raw.listen, raw.health.as_deref(), raw.admin, it);
    listeners::check_reach(&listen, raw.agents.is_some(), it);
    let named = raw.agents.as_ref().map(agents::names);
    transparent::check(&listen, named.as_ref(), it);
    let ca = pem::ca(raw.ca.as_ref(), it);
    let audit = audit_settings(raw.audit, it);
    let issuers = issuers::compile(raw.issuers.unwrap_or_default(), it);
    let (tunnel, tunnel_lines) = tunnels(raw.tunnel.as_ref(), it);
    check_destinations(raw.services.is_some() || !tunnel_lines.is_empty(), it);
    let services = services::compile(raw.services.unwrap_or_default(), issuers, it);
    let mut agents = agents::compile(raw.agents, &transparent::owners(&listen), &services, it);
    agents.agents.cluster = kubernetes::cluster(raw.kubernetes, &agents.agents, it);
    listeners::check_ways(&listen, &agents.agents, it);
    services::check_variables(&services, &agents, it);
    let policy = policy::Settings {
        generation: Generation(1),
        services: services.policy.clone(),
        agents: agents.policy.clone(),
        tunnel,
    };
    rules::check(&policy, &services, &agents, &tunnel_lines, it);
    authority::check(&ca, &policy, &services.origins, it);
    let parent = parent::compile(raw.parent_proxy, it);
    let runtime_dir = runtime_dir(raw.runtime_dir.as_deref(), it);
    Plan {
        listen,
        health,
        admin,
        runtime_dir,
        ca,
        store,
        audit,
        policy,
        agents: agents.agents,
        quarantined: agents.quarantined,
        proxy_tokens: agents.proxy_tokens,
        services: services.exchange,
        tokens: services.tokens,
        parent,
        limits: limits(raw.limits, it),
        drain: drain(raw.drain, it),
        secret_variables: context.variables.into_iter().collect(),
        watched: context.watched,
        secret_files: context.files.into_iter().collect(),
        questions: Vec::new(),
        answers: Answers::default(),
        warnings: Vec::new(),
    }
}

/// A file that leads nowhere is a mistake.
fn check_destinations(any: bool, it: &mut Context<'_>) {
    if !any {
        let remedy = "name at least one service";
        it.findings.error("services", "missing", remedy);
    }
}

fn runtime_dir(raw: Option<&str>, it: &mut Context<'_>) -> PathBuf {
    match raw {
        // Agents are told paths in it, and look from folders of their own.
        Some(dir) => {
            let dir = it.path("runtime_dir", dir);
            std::path::absolute(&dir).unwrap_or(dir)
        }
        None => it.references.environment.runtime_dir(),
    }
}

impl<'a> Context<'a> {
    fn new(findings: &'a mut Findings, references: References<'a>, reading: SecretReading) -> Self {
        Self {
            findings,
            references,
            reading,
            variables: BTreeSet::new(),
            watched: Vec::new(),
            files: BTreeSet::new(),
        }
    }
}

impl Context<'_> {
    /// Reads a secret where secrets are wanted. `None`: it was not read, or could not be and a finding says so.
    fn secret(&mut self, key: &str, reference: &SecretRef) -> Option<Secret<Vec<u8>>> {
        self.note(reference);
        if self.reading != SecretReading::Resolve {
            return None;
        }
        if let SecretRef::Prompt(text) = reference {
            // Where there is none, nobody was asked, or a finding says why there is no answer.
            return self.references.answers.get(text);
        }
        let read = self.references.secret(reference);
        self.or_report(key, read)
    }

    /// Remembers where a secret comes from.
    fn note(&mut self, reference: &SecretRef) {
        match reference {
            SecretRef::Env(name) => drop(self.variables.insert(name.clone())),
            SecretRef::File(path) => {
                let path = self.references.path(path);
                self.files
                    .insert(std::path::absolute(&path).unwrap_or(path));
            }
            SecretRef::Exec(_) | SecretRef::Prompt(_) => {}
        }
    }

    /// Where a secret is to be read again and again.
    fn supply(&mut self, reference: &SecretRef) -> Supply {
        self.note(reference);
        self.references.supply(reference)
    }

    /// Reads a secret that is text. Empty where it was not read.
    fn secret_text(
        &mut self,
        key: &str,
        reference: &SecretRef,
        fits: fn(&str) -> bool,
    ) -> Secret<String> {
        let Some(bytes) = self.secret(key, reference) else {
            return Secret::new(String::new());
        };
        text(&bytes, fits).unwrap_or_else(|| {
            let what = "the secret holds characters that cannot be sent";
            self.findings
                .error(key, what, "it must be one line of printable ASCII");
            Secret::new(String::new())
        })
    }

    /// Reads a file that holds no secret. `None`: not read, or reported.
    fn file(&mut self, key: &str, path: &str, most: u64) -> Option<Vec<u8>> {
        if self.reading != SecretReading::Resolve {
            return None;
        }
        let read = self.references.file(path, most);
        self.or_report(key, read)
    }

    /// A path that the file gives, from the file's own directory on.
    fn path(&mut self, key: &str, text: &str) -> PathBuf {
        if text.is_empty() {
            self.findings
                .error(key, "an empty path", "name a path or remove the key");
        }
        self.references.path(text)
    }

    fn or_report<T>(&mut self, key: &str, read: Result<T, Unreadable>) -> Option<T> {
        read.map_err(|error| self.findings.error(key, &error.what, error.remedy))
            .ok()
    }

    /// A time span within bounds, or its default.
    fn span(
        &mut self,
        key: &str,
        raw: Option<RawDuration>,
        default: Duration,
        (least, most): (Duration, Duration),
    ) -> Duration {
        let Some(RawDuration(text)) = raw else {
            return default;
        };
        let Some(span) = values::duration(&text) else {
            let remedy = "write a whole number with ms, s, m or h, such as 90s";
            self.findings.error(key, "not a time span", remedy);
            return default;
        };
        if (least..=most).contains(&span) {
            return span;
        }
        let (least, most) = (values::show(least), values::show(most));
        let remedy = format!("write a span from {least} to {most}");
        self.findings.error(key, "out of range", &remedy);
        default
    }

    /// A size within bounds, or its default.
    fn size(
        &mut self,
        key: &str,
        raw: Option<RawSize>,
        default: usize,
        (least, most): (usize, usize),
    ) -> usize {
        let Some(RawSize(text)) = raw else {
            return default;
        };
        let Some(size) = values::size(&text) else {
            let remedy = "write a whole number with B, KiB or MiB, such as 64KiB";
            self.findings.error(key, "not a size", remedy);
            return default;
        };
        if (least..=most).contains(&size) {
            return size;
        }
        let (least, most) = (least >> 10, most >> 10);
        let remedy = format!("write a size from {least}KiB to {most}KiB");
        self.findings.error(key, "out of range", &remedy);
        default
    }

    /// Bytes in a second, within bounds, or their default.
    fn rate(
        &mut self,
        key: &str,
        raw: Option<RawRate>,
        default: usize,
        (least, most): (usize, usize),
    ) -> usize {
        let Some(RawRate(text)) = raw else {
            return default;
        };
        let Some(rate) = text.strip_suffix("/s").and_then(values::size) else {
            let remedy = "write a whole number with B/s, KiB/s or MiB/s, such as 100B/s";
            self.findings.error(key, "not a rate", remedy);
            return default;
        };
        if (least..=most).contains(&rate) {
            return rate;
        }
        let remedy = format!("write a rate from {least}B/s to {}KiB/s", most >> 10);
        self.findings.error(key, "out of range", &remedy);
        default
    }
}

/// A secret as text, if it is text that fits.
fn text(bytes: &Secret<Vec<u8>>, fits: fn(&str) -> bool) -> Option<Secret<String>> {
    let text = std::str::from_utf8(bytes.expose()).ok()?;
    fits(text).then(|| Secret::new(text.to_owned()))
}

/// What stands in a header without needing quotes and without spaces: a bearer token.
fn visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21..=0x7e))
}

/// What a header value may be: spaces inside, none around.
fn header_value(text: &str) -> bool {
    text.trim() == text && !text.is_empty() && text.bytes().all(|b| matches!(b, 0x20..=0x7e))
}

/// The destinations that pass blind, and which entry of the file each of them is.
fn tunnels(raw: Option<&List<String>>, it: &mut Context<'_>) -> (Vec<Authority>, Vec<usize>) {
    let mut found = (Vec::new(), Vec::new());
    for (i, text) in raw.into_iter().flatten().enumerate() {
        let Some(text) = text else { continue };
        let key = format!("tunnel[{i}]");
        if text.contains('*') {
            let what = "a tunnel never has a wildcard";
            it.findings
                .error(&key, what, "name each host with its port");
            continue;
        }
        match Authority::parse_connect(text) {
            Ok(authority) => {
                found.0.push(authority);
                found.1.push(i);
            }
            Err(error) => {
                let remedy = "write host:port";
                it.findings.error(&key, &error.to_string(), remedy);
            }
        }
    }
    found
}

fn store(raw: Option<RawStore>, it: &mut Context<'_>) -> StorePlan {
    let Some(RawStore::File(raw)) = raw else {
        return StorePlan::Memory;
    };
    let path = raw.path.map(|path| it.path("store.file.path", &path));
    let key = store_key("store.file.key", raw.key.as_ref(), it);
    let previous = store_key("store.file.previous_key", raw.previous_key.as_ref(), it);
    // Where a key of the file is missing, a finding says so.
    path.map_or(StorePlan::Memory, |path| StorePlan::File {
        path,
        key,
        previous,
    })
}

fn store_key(key: &str, reference: Option<&SecretRef>, it: &mut Context<'_>) -> Option<StoreKey> {
    let text = it.secret(key, reference?)?;
    let parsed = StoreKey::parse(&text).map_err(|what| {
        let remedy = "make one with `openssl rand -hex 32`; a passphrase is not one";
        it.findings.error(key, &what.to_string(), remedy);
    });
    parsed.ok()
}

fn audit_settings(raw: Option<RawAudit>, it: &mut Context<'_>) -> audit::Settings {
    let (file, when_full) = raw.map_or((None, None), |raw| (raw.file, raw.when_full));
    audit::Settings {
        sink: file.map_or(audit::SinkSettings::Stdout, |file| {
            audit::SinkSettings::File(it.path("audit.file", &file))
        }),
        capacity: AUDIT_CAPACITY,
        when_full: match when_full.unwrap_or(RawWhenFull::Refuse) {
            RawWhenFull::Count => audit::WhenFull::Count,
            RawWhenFull::Refuse => audit::WhenFull::Refuse,
        },
    }
}

fn limits(raw: Option<RawLimits>, it: &mut Context<'_>) -> LimitsPlan {
    let RawLimits {
        connections,
        per_agent,
        request_head,
        replay_total,
    } = raw.unwrap_or_default();
    let RawAgentLimits {
        connections: agent_connections,
        streams: agent_streams,
        requests_per_second,
        certificates_per_second,
        body_floor,
    } = per_agent.unwrap_or_default();
    let count =
        |n: Option<u32>, default: usize| n.and_then(|n| usize::try_from(n).ok()).unwrap_or(default);
    LimitsPlan {
        connections: count(connections, 10_000),
        agent_connections: count(agent_connections, 1024),
        agent_streams: count(agent_streams, 256),
        agent_requests: requests_per_second.unwrap_or(500),
        agent_certificates: certificates_per_second.unwrap_or(50),
        body_floor: BodyFloor {
            rate: it.rate("limits.per_agent.body_floor", body_floor, 100, (1, 1 << 20)),
            window: BODY_WINDOW,
        },
        // hyper's read buffer has no room for less than 8 KiB.
        request_head: it.size(
            "limits.request_head",
            request_head,
            64 << 10,
            (8 << 10, 1 << 20),
        ),
        replay_total: it.size(
            "limits.replay_total",
            replay_total,
            64 << 20,
            (64 << 10, 4 << 30),
        ),
    }
}

fn drain(raw: Option<RawDrain>, it: &mut Context<'_>) -> DrainPlan {
    let (timeout, pre_stop) = raw.map_or((None, None), |raw| (raw.timeout, raw.pre_stop));
    let bounds = (Duration::ZERO, DAY);
    DrainPlan {
        timeout: it.span("drain.timeout", timeout, Duration::from_secs(30), bounds),
        pre_stop: it.span("drain.pre_stop", pre_stop, Duration::ZERO, bounds),
    }
}

/// Positions in the file of what went into a list of the plan, by the name of its owner: entries that were refused
/// are holes, and later complaints must still point at the right line.
type Origins = BTreeMap<String, Vec<usize>>;
