//! Who may call, by what each is known, and which services it may use.

use std::collections::{BTreeMap, BTreeSet};

use super::services::Services;
use super::{Context, Origins, kubernetes, visible, watch};
use crate::agent::{AgentCredential, CertificateName, KnownBy, Settings, SpiffeId};
use crate::config::raw::{Named, RawAgent, RawAgentAuth, RawClientName, RawMisuse, SecretRef};
use crate::policy::AgentSettings;
use crate::vocab::{AgentName, Host, Secret, ServiceName};

/// Shortest token that is not worth a warning: 16 characters of base 62 hold 95 bits.
const TOKEN_MIN: usize = 16;
/// What stands in for an agent whose proof was not read: the hash of no token that could be found.
const UNREAD: KnownBy = KnownBy::Token([0; 32]);
/// The number of no user (-1 in C).
const NO_USER: u32 = u32::MAX;
/// Linux's overflow user: whoever comes from a user namespace in which it has no number here.
const NOBODY: u32 = 65_534;

/// All agents, for the rooms that need them.
#[derive(Default)]
pub(super) struct Agents {
    pub(super) agents: Settings,
    /// Those that are stopped where they misuse a placeholder.
    pub(super) quarantined: BTreeSet<AgentName>,
    pub(super) policy: Vec<AgentSettings>,
    pub(super) proxy_tokens: BTreeMap<AgentName, Secret<String>>,
    /// Positions of the entries of `services` lists.
    pub(super) origins: Origins,
}

/// The names that the file gives.
pub(super) fn names(raw: &Named<RawAgent>) -> BTreeSet<AgentName> {
    let names = raw.keys().filter_map(|text| AgentName::new(text).ok());
    names.collect()
}

/// Reads the agents. `placed`: those that a listener of their own names.
pub(super) fn compile(
    raw: Option<Named<RawAgent>>,
    placed: &BTreeSet<AgentName>,
    services: &Services,
    it: &mut Context<'_>,
) -> Agents {
    let mut agents = Agents::default();
    let Some(raw) = raw else {
        // No credential: who sits on this machine is `default`.
        agents.policy.push(AgentSettings {
            name: AgentName::fallback(),
            services: None,
        });
        return agents;
    };
    if raw.is_empty() {
        let remedy = "name an agent, or remove the key for the one agent `default`";
        it.findings.error("agents", "names nobody", remedy);
    }
    for (text, raw) in raw {
        let Ok(name) = AgentName::new(&text) else {
            let remedy = "use letters, digits, `-`, `_` and `.`, at most 64, beginning with a letter or digit";
            it.findings
                .error("agents", "an agent's name is not a name", remedy);
            continue;
        };
        let raw = raw.unwrap_or(RawAgent {
            auth: None,
            services: None,
            placeholder_misuse: None,
            watch: None,
        });
        let key = format!("agents.{name}");
        if raw.auth.is_none() && !placed.contains(&name) && !it.findings.tainted(&key) {
            let what = "nothing tells who this agent is";
            let remedy =
                "give it `auth: {token: …}`, or name it at a transparent listener of its own";
            it.findings.error(&key, what, remedy);
        }
        let known_by = match raw.auth {
            Some(auth) => known_by(&key, &name, auth, &mut agents, it),
            None => Some(KnownBy::Listener),
        };
        agents.agents.agents.push(AgentCredential {
            name: name.clone(),
            known_by: known_by.unwrap_or(UNREAD),
        });
        if let Some(usual) = raw.watch {
            let usual = watch::compile(&key, usual, it);
            agents.agents.watches.insert(name.clone(), usual);
        }
        if matches!(raw.placeholder_misuse, Some(RawMisuse::Revoke)) {
            agents.quarantined.insert(name.clone());
        }
        let wanted = raw
            .services
            .map(|list| services_of(&key, list, services, &mut agents.origins, it));
        agents.policy.push(AgentSettings {
            name,
            services: wanted,
        });
    }
    check_distinct(&agents.agents, it);
    check_domains(&agents.agents, it);
    agents
}

/// What names the agent. `None`: not read.
fn known_by(
    key: &str,
    name: &AgentName,
    auth: RawAgentAuth,
    agents: &mut Agents,
    it: &mut Context<'_>,
) -> Option<KnownBy> {
    match auth {
        RawAgentAuth::TokenSha256(hex) => {
            let hash = unhex(&hex);
            if hash.is_none() {
                let key = format!("{key}.auth.token_sha256");
                let remedy = "write the 64 hexadecimal digits that sha256sum prints";
                it.findings.error(&key, "not a SHA-256", remedy);
            }
            hash.map(KnownBy::Token)
        }
        RawAgentAuth::Kubernetes(raw) => {
            let account = kubernetes::account(&format!("{key}.auth.kubernetes"), raw, it)?;
            Some(KnownBy::ServiceAccount(account))
        }
        RawAgentAuth::Mtls(raw) => certificate_of(&format!("{key}.auth.mtls"), &raw, it),
        RawAgentAuth::PeerUid(user) => user_of(&format!("{key}.auth.peer_uid"), user, it),
        RawAgentAuth::Token(reference) => {
            let token = token(&format!("{key}.auth.token"), &reference, it)?;
            let known_by = KnownBy::token(token.expose());
            agents.proxy_tokens.insert(name.clone(), token);
            Some(known_by)
        }
    }
}

/// What a client certificate must name.
fn certificate_of(key: &str, raw: &RawClientName, it: &mut Context<'_>) -> Option<KnownBy> {
    let (member, name, remedy) = match raw {
        RawClientName::Dns(text) => (
            "dns",
            Host::parse(text)
                .ok()
                .filter(|host| matches!(host, Host::Name(_)))
                .map(CertificateName::Dns),
            "write one name, without a wildcard",
        ),
        RawClientName::Sha256(text) => (
            "sha256",
            unhex(text).map(CertificateName::Fingerprint),
            "write the 64 hexadecimal digits that `openssl x509 -outform DER | sha256sum` prints",
        ),
        RawClientName::Spiffe(text) => (
            "spiffe",
            SpiffeId::parse(text).map(CertificateName::Spiffe),
            "write one such as spiffe://example.org/ns/agents/sa/coder",
        ),
    };
    if name.is_none() {
        let what = "no certificate can have this name";
        it.findings.error(&format!("{key}.{member}"), what, remedy);
    }
    name.map(KnownBy::Certificate)
}

/// A user of this machine, as the system names whoever connects to a unix socket.
fn user_of(key: &str, user: u32, it: &mut Context<'_>) -> Option<KnownBy> {
    match user {
        NO_USER | NOBODY => {
            let what = "the system gives this number to users that it cannot name";
            let remedy = "run the agent as a user of its own, and write that user's number";
            it.findings.error(key, what, remedy);
            return None;
        }
        0 => {
            let what = "whatever runs as root on this machine is this agent";
            it.findings
                .warn(key, what, "run the agent as a user of its own");
        }
        _ => {}
    }
    Some(KnownBy::User(user))
}

/// The agent's token, if it is read and can be sent in `Proxy-Authorization`.
fn token(key: &str, reference: &SecretRef, it: &mut Context<'_>) -> Option<Secret<String>> {
    let token = it.secret_text(key, reference, visible);
    let length = token.expose().len();
    if (1..TOKEN_MIN).contains(&length) {
        let what = "the token is short enough to be guessed";
        it.findings.warn(key, what, "use `openssl rand -hex 32`");
    }
    (length > 0).then_some(token)
}

fn services_of(
    key: &str,
    list: Vec<Option<String>>,
    services: &Services,
    origins: &mut Origins,
    it: &mut Context<'_>,
) -> Vec<ServiceName> {
    let mut found = Vec::new();
    let mut places = Vec::new();
    for (i, text) in list.into_iter().enumerate() {
        let Some(text) = text else { continue };
        let at = format!("{key}.services[{i}]");
        match ServiceName::new(&text) {
            Ok(name) if found.contains(&name) => {
                it.findings
                    .error(&at, "this service is listed twice", "remove one of the two");
            }
            // Policy would say the same, but not of a service that is there and has other mistakes.
            Ok(name) if services.refused.contains(&text) => drop(name),
            Ok(name) => {
                found.push(name);
                places.push(i);
            }
            Err(error) => {
                let remedy = "list names of `services`";
                it.findings.error(&at, &error.to_string(), remedy);
            }
        }
    }
    origins.insert(key.to_owned(), places);
    found
}

/// One proof for two names would make the audit's word for who did it worthless.
fn check_distinct(settings: &Settings, it: &mut Context<'_>) {
    for (i, one) in settings.agents.iter().enumerate() {
        let before = &settings.agents[..i];
        let what = before
            .iter()
            .find_map(|other| in_common(&one.known_by, &other.known_by));
        if let Some(what) = what {
            let key = format!("agents.{}.auth", one.name);
            it.findings.error(&key, what, "give each agent its own");
        }
    }
}

/// A CA of one trust domain could sign for the other: which root a certificate leads to is not looked at.
fn check_domains(settings: &Settings, it: &mut Context<'_>) {
    let ids = settings
        .agents
        .iter()
        .filter_map(|agent| match &agent.known_by {
            KnownBy::Certificate(CertificateName::Spiffe(id)) => Some((&agent.name, id)),
            _ => None,
        });
    let mut first = None;
    for (name, id) in ids {
        if id.domain() != *first.get_or_insert_with(|| id.domain()) {
            let key = format!("agents.{name}.auth.mtls.spiffe");
            let what = "another trust domain than that of an agent before: not supported yet";
            let remedy = "name agents of one trust domain";
            it.findings.error(&key, what, remedy);
        }
    }
}

/// What two agents could both be known by.
fn in_common(one: &KnownBy, other: &KnownBy) -> Option<&'static str> {
    let (same, what) = match (one, other) {
        (KnownBy::Certificate(a), KnownBy::Certificate(b)) => {
            (a == b, "another agent is known by the same certificate")
        }
        (KnownBy::ServiceAccount(a), KnownBy::ServiceAccount(b)) => (
            a.meets(b),
            "another agent is the same service account, in the same pod or in any",
        ),
        (KnownBy::Token(a), KnownBy::Token(b)) => {
            (a == b && *a != [0; 32], "another agent has the same token")
        }
        (KnownBy::User(a), KnownBy::User(b)) => (a == b, "another agent is the same user"),
        _ => (false, ""),
    };
    same.then_some(what)
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    let bytes: Vec<u8> = digits?
        .chunks_exact(2)
        .map(|pair| pair[0] * 16 + pair[1])
        .collect();
    (text.len() == 64).then_some(())?;
    bytes.try_into().ok()
}
