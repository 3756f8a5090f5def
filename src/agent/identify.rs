//! Who calls: by what the connection shows of its other end, and by `Proxy-Authorization`. Each way has a function of its
//! own; whatever is shown must name an agent, and all of it the same one.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{constant_time, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::PROXY_AUTHORIZATION;

use super::account::{Accounts, Cluster, ServiceAccount};
use super::certificate::{Certificate, CertificateName};
use super::watch::WatchSettings;
use crate::vocab::{AgentName, WallTime};

/// The agents of an installation. Empty: the one agent `default`, for callers on this machine.
#[derive(Clone, Default)]
pub struct Settings {
    /// Named agents.
    pub agents: Vec<AgentCredential>,
    /// Whose service accounts are taken.
    pub cluster: Option<Cluster>,
    /// What is usual for those who are watched.
    pub watches: BTreeMap<AgentName, WatchSettings>,
}

impl Settings {
    /// Whether this agent is known by a listener of its own and by nothing else.
    #[must_use]
    pub fn only_placed(&self, name: &AgentName) -> bool {
        let mut all = self.agents.iter();
        all.any(|agent| agent.name == *name && matches!(agent.known_by, KnownBy::Listener))
    }
}

/// One agent, and how it is known.
#[derive(Clone)]
pub struct AgentCredential {
    /// Its name.
    pub name: AgentName,
    /// What names it.
    pub known_by: KnownBy,
}

/// How an agent is known.
#[derive(Clone, PartialEq, Eq)]
pub enum KnownBy {
    /// The client certificate of its connection.
    Certificate(CertificateName),
    /// A transparent listener of its own, and nothing else. Others may have one besides.
    Listener,
    /// The token of a service account.
    ServiceAccount(ServiceAccount),
    /// SHA-256 of its proxy token; the token itself is not kept.
    Token([u8; 32]),
    /// The user whose process connects to a unix socket.
    User(u32),
}

impl KnownBy {
    /// Keeps the hash of a token.
    #[must_use]
    pub fn token(token: &str) -> Self {
        Self::Token(sha256(token))
    }

    /// The word of the configuration.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Certificate(_) => "mtls",
            Self::Listener => "listener",
            Self::ServiceAccount(_) => "kubernetes",
            Self::Token(_) => "token",
            Self::User(_) => "peer_uid",
        }
    }
}

/// A caller that was identified. Made by [`Agents::identify`] and [`Agents::placed`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent(AgentName);

impl Agent {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &AgentName {
        &self.0
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why nobody was identified: for the audit alone. The caller is told the same whatever it was, so that a guesser learns
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proxy does not know this agent")]
pub enum Unauthenticated {
    /// Nothing was shown that could name anybody.
    Absent,
    /// A token is signed in a way that its key is not for, or that is no signature.
    Algorithm,
    /// A token or a client certificate is over.
    Expired,
    /// A signature is not that of the key that was named: a token's, or that of a handshake.
    Forged,
    /// `Proxy-Authorization` stands twice, or is neither Basic nor Bearer; or a token is no token of a cluster.
    Malformed,
    /// A token of the cluster that is for no service account, or for two.
    NoServiceAccount,
    /// The time of a token or a client certificate has not come.
    NotYetValid,
    /// A service account of a known namespace that is no agent.
    OtherAccount,
    /// What was shown names two agents.
    OtherAgent,
    /// A service account of a namespace that no agent is in.
    OtherNamespace,
    /// The right service account, in another pod or bound to none.
    OtherPod,
    /// A client certificate that names no agent.
    UnknownCertificate,
    /// A transparent listener of an agent that is not among those who may call (any more).
    UnknownListener,
    /// A token names a key that the cluster has not published.
    UnknownKey,
    /// No agent has this token, or not the one that it was sent for.
    UnknownToken,
    /// Nothing else was shown, and no agent is this user.
    UnknownUser,
    /// A client certificate that none of the listener's roots leads to, or that is not for this.
    UntrustedCertificate,
    /// A service account's token that is meant for somebody else.
    WrongAudience,
    /// A token of another cluster.
    WrongIssuer,
}

impl Unauthenticated {
    /// The word in audit lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Algorithm => "algorithm",
            Self::Expired => "expired",
            Self::Forged => "forged",
            Self::Malformed => "malformed",
            Self::NoServiceAccount => "no_service_account",
            Self::NotYetValid => "not_yet_valid",
            Self::OtherAccount => "other_account",
            Self::OtherAgent => "other_agent",
            Self::OtherNamespace => "other_namespace",
            Self::OtherPod => "other_pod",
            Self::UnknownCertificate => "unknown_certificate",
            Self::UnknownListener => "unknown_listener",
            Self::UnknownKey => "unknown_key",
            Self::UnknownToken => "unknown_token",
            Self::UnknownUser => "unknown_user",
            Self::UntrustedCertificate => "untrusted_certificate",
            Self::WrongAudience => "wrong_audience",
            Self::WrongIssuer => "wrong_issuer",
        }
    }
}

/// What a connection shows of who is at its other end, before anything is said.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    /// Whether it comes from this machine, so that it may be the agent without a name.
    pub local: bool,
    /// The user whose process connected to a unix socket, by the word of the system; none elsewhere, or where the system
    /// does not say.
    pub user: Option<u32>,
    /// The client certificate that was verified in its handshake.
    pub certificate: Option<Arc<Certificate>>,
}

/// Who may call.
pub struct Agents {
    settings: Settings,
    users: BTreeMap<u32, AgentName>,
    certificates: Vec<(AgentName, CertificateName)>,
    accounts: Option<Accounts>,
}

impl Agents {
    /// Takes the configured agents.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut users = BTreeMap::new();
        let mut certificates = Vec::new();
        let mut accounts = Vec::new();
        for agent in &settings.agents {
            let name = agent.name.clone();
            match &agent.known_by {
                KnownBy::Certificate(of) => certificates.push((name, of.clone())),
                KnownBy::ServiceAccount(account) => accounts.push((name, account.clone())),
                KnownBy::Listener | KnownBy::Token(_) => {}
                KnownBy::User(user) => drop(users.insert(*user, name)),
            }
        }
        let cluster = settings.cluster.clone();
        let cluster = cluster.filter(|_| !accounts.is_empty());
        Self {
            users,
            certificates,
            accounts: cluster.map(|cluster| Accounts::new(cluster, accounts)),
            settings,
        }
    }

    /// What is usual for those who are watched.
    #[must_use]
    pub fn watches(&self) -> &BTreeMap<AgentName, WatchSettings> {
        &self.settings.watches
    }

    /// The agents whose proof counts no more where `next` take these ones' place: those that are gone or known by something
    /// else, and service accounts where their cluster has another issuer, or a key of it is gone.
    #[must_use]
    pub fn withdrawn_in(&self, next: &Self) -> Vec<AgentName> {
        if self.settings.agents.is_empty() {
            let named = !next.settings.agents.is_empty();
            return named.then(AgentName::fallback).into_iter().collect();
        }
        let cluster = match (&self.settings.cluster, &next.settings.cluster) {
            (Some(before), Some(after)) => after.takes_all_of(before),
            (before, _) => before.is_none(),
        };
        let counts = |agent: &&AgentCredential| {
            let mut all = next.settings.agents.iter();
            let same = all.any(|new| new.name == agent.name && new.known_by == agent.known_by);
            same && (cluster || !matches!(agent.known_by, KnownBy::ServiceAccount(_)))
        };
        let all = self.settings.agents.iter();
        let gone = all.filter(|agent| !counts(agent));
        gone.map(|agent| agent.name.clone()).collect()
    }

    /// Names the caller of a redirected connection, which has no credential of its own: by the agent whose listener it
    /// came to, or as `default` where no agent is named and the caller sits on the same machine.
    ///
    /// # Errors
    /// [`Unauthenticated`], also where the listener's agent is not among those who may call (any more).
    pub fn placed(
        &self,
        listener: Option<&AgentName>,
        local: bool,
    ) -> Result<Agent, Unauthenticated> {
        let all = &self.settings.agents;
        if all.is_empty() {
            let other = listener.is_some_and(|name| *name != AgentName::fallback());
            return if local && !other {
                Ok(Agent(AgentName::fallback()))
            } else {
                Err(Unauthenticated::Absent)
            };
        }
        let name = listener.ok_or(Unauthenticated::Absent)?;
        let known = all.iter().any(|agent| agent.name == *name);
        let caller = known.then(|| Agent(name.clone()));
        caller.ok_or(Unauthenticated::UnknownListener)
    }

    /// Names the caller by what its connection and its `Proxy-Authorization` show, or as `default` where no agent is named
    /// and the caller sits on the same machine.
    ///
    /// # Errors
    /// [`Unauthenticated`].
    pub fn identify(
        &self,
        connection: &Connection,
        fields: &HeaderMap,
        now: WallTime,
    ) -> Result<Agent, Unauthenticated> {
        if self.settings.agents.is_empty() {
            return if connection.local {
                Ok(Agent(AgentName::fallback()))
            } else {
                Err(Unauthenticated::Absent)
            };
        }
        let by_user = connection.user.and_then(|user| self.users.get(&user));
        let certificate = connection.certificate.as_deref();
        let certificate = certificate.map(|shown| self.by_certificate(shown, now));
        let shown = Shown::read(fields)?;
        let shown = shown.map(|shown| self.by_credential(&shown, now));
        let named = same([by_user, certificate.transpose()?, shown.transpose()?])?;
        named.map(|name| Agent(name.clone())).ok_or_else(|| {
            let nobody = connection.user.filter(|_| !self.users.is_empty());
            nobody.map_or(Unauthenticated::Absent, |_| Unauthenticated::UnknownUser)
        })
    }

    /// The agent that a client certificate names. Who shows one that is no agent's does not get in by other ways.
    fn by_certificate(
        &self,
        shown: &Certificate,
        now: WallTime,
    ) -> Result<&AgentName, Unauthenticated> {
        shown.holds(now.seconds())?;
        let all = self.certificates.iter();
        let mut named = all
            .filter(|(_, name)| shown.is(name))
            .map(|(agent, _)| agent);
        match (named.next(), named.next()) {
            (Some(agent), None) => Ok(agent),
            (Some(_), Some(_)) => Err(Unauthenticated::OtherAgent),
            (None, _) => Err(Unauthenticated::UnknownCertificate),
        }
    }

    /// The agent that `Proxy-Authorization` names.
    fn by_credential(&self, shown: &Shown, now: WallTime) -> Result<&AgentName, Unauthenticated> {
        let hash = sha256(&shown.token);
        let found = self.by_token(shown, &hash);
        match (&self.accounts, found) {
            (Some(accounts), None) if shown.is_compact() => {
                let name = accounts.identify(&shown.token, hash, now.seconds())?;
                let meant = shown.is_for(name).then_some(name);
                meant.ok_or(Unauthenticated::OtherAgent)
            }
            (_, found) => found.ok_or(Unauthenticated::UnknownToken),
        }
    }

    /// The agent that has a token of this hash.
    fn by_token(&self, shown: &Shown, hash: &[u8; 32]) -> Option<&AgentName> {
        let mut found = None;
        // Every entry is compared, so the time tells nothing about which agents exist.
        for agent in &self.settings.agents {
            let KnownBy::Token(of) = &agent.known_by else {
                continue;
            };
            let same = constant_time::verify_slices_are_equal(hash, of).is_ok();
            if same && shown.is_for(&agent.name) {
                found = Some(&agent.name);
            }
        }
        found
    }
}

/// The one agent that is named, if any is. Two would each have half a proof.
fn same<const N: usize>(
    named: [Option<&AgentName>; N],
) -> Result<Option<&AgentName>, Unauthenticated> {
    let mut all = named.into_iter().flatten();
    let first = all.next();
    if all.all(|name| Some(name) == first) {
        Ok(first)
    } else {
        Err(Unauthenticated::OtherAgent)
    }
}

/// What `Proxy-Authorization` shows.
struct Shown {
    user: Option<String>,
    token: String,
}

impl Shown {
    /// `Basic name:token`, or `Bearer token`; `None` where the field is absent. Of two, another reader might believe the
    /// other.
    fn read(fields: &HeaderMap) -> Result<Option<Self>, Unauthenticated> {
        let mut lines = fields.get_all(PROXY_AUTHORIZATION).iter();
        let Some(value) = lines.next() else {
            return Ok(None);
        };
        let once = lines.next().is_none();
        let read = once.then(|| value.to_str().ok()).flatten();
        read.and_then(Self::parse)
            .map(Some)
            .ok_or(Unauthenticated::Malformed)
    }

    fn parse(value: &str) -> Option<Self> {
        let (scheme, rest) = value.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self {
                user: None,
                token: rest.to_owned(),
            });
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        let (user, token) = pair.split_once(':')?;
        Some(Self {
            user: Some(user.to_owned()),
            token: token.to_owned(),
        })
    }

    /// Whether it has the three parts of a compact JWS.
    fn is_compact(&self) -> bool {
        self.token.bytes().filter(|byte| *byte == b'.').count() == 2
    }

    /// Whether this agent is meant: Bearer means whoever has the token.
    fn is_for(&self, name: &AgentName) -> bool {
        self.user
            .as_deref()
            .is_none_or(|user| user == name.as_str())
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    out
}

#[cfg(test)]
mod tests;
