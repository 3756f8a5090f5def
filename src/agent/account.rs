//! Kubernetes' service accounts as agents: a projected token, verified offline against the keys that the cluster has
//! published.
//!
//! A token is verified once; until it ends, its hash is remembered. Serves RFC 7515 (compact JWS), RFC 7519 and the advice of
//! RFC 8725: the key decides on the algorithm, `jku`, `x5u`, `jwk` and `x5c` are not looked at, extensions that must be
//! understood are refused, and so are members that stand twice.

use quick_cache::sync::Cache;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Unauthenticated;
use super::cluster::{ClusterKeys, base64url, present};
use crate::vocab::AgentName;

/// Longest token, in bytes; those of a cluster have some 1,200.
const TOKEN_MAX: usize = 8 * 1024;
/// How far the cluster's clock may be from ours, in seconds.
const LEEWAY: i64 = 30;
/// Verified tokens remembered; some 64 bytes each. One that is forgotten is verified anew.
const REMEMBERED: usize = 4096;
/// What `sub` begins with.
const SUBJECT: &str = "system:serviceaccount:";

/// Whose tokens are taken.
#[derive(Clone)]
pub struct Cluster {
    /// `iss` of its tokens.
    pub issuer: String,
    /// What it signs them with.
    pub keys: ClusterKeys,
}

impl Cluster {
    /// Whether every token that the one before took by its issuer and its keys would be taken still.
    #[must_use]
    pub fn takes_all_of(&self, before: &Self) -> bool {
        self.issuer == before.issuer && self.keys.have_all_of(&before.keys)
    }
}

/// A service account that is an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
    /// Whom its tokens must be meant for, so that what a pod shows to others is worth nothing here.
    pub audience: String,
    /// The pod that its tokens must be bound to, if that is asked for.
    pub pod: Option<String>,
}

impl ServiceAccount {
    /// Whether one token could be that of both.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        let pods = match (&self.pod, &other.pod) {
            (Some(one), Some(other)) => one == other,
            _ => true,
        };
        pods && self.namespace == other.namespace && self.name == other.name
    }
}

/// All agents that are service accounts of a cluster.
pub(super) struct Accounts {
    cluster: Cluster,
    agents: Vec<(AgentName, ServiceAccount)>,
    /// By SHA-256 of the token: which agent, and until when. It lives as long as the configuration, so a key that is
    /// withdrawn takes its tokens with it.
    known: Cache<[u8; 32], (usize, i64)>,
}

impl Accounts {
    pub(super) fn new(cluster: Cluster, agents: Vec<(AgentName, ServiceAccount)>) -> Self {
        Self {
            cluster,
            agents,
            known: Cache::new(REMEMBERED),
        }
    }

    /// Names the agent whose service account this token is for. `now`: seconds since 1970; `hash`: the token's SHA-256.
    pub(super) fn identify(
        &self,
        token: &str,
        hash: [u8; 32],
        now: i64,
    ) -> Result<&AgentName, Unauthenticated> {
        if let Some((agent, end)) = self.known.get(&hash) {
            let agent = self.agents.get(agent).filter(|_| now < end);
            return agent.map(|(name, _)| name).ok_or(Unauthenticated::Expired);
        }
        let claims = self.cluster.claims(token, now)?;
        let agent = self.owner(&claims)?;
        let end = claims.exp.saturating_add(LEEWAY);
        self.known.insert(hash, (agent, end));
        Ok(&self.agents[agent].0)
    }

    /// The place of the agent that these claims name.
    fn owner(&self, claims: &Claims) -> Result<usize, Unauthenticated> {
        let bound = claims.account()?;
        let mut why = Unauthenticated::OtherNamespace;
        for (place, (_, account)) in self.agents.iter().enumerate() {
            if account.namespace != bound.namespace {
                continue;
            }
            // The nearest miss is what is told: no two agents have one account and one pod.
            let miss = if account.name != bound.serviceaccount.name {
                Unauthenticated::OtherAccount
            } else if !claims.aud.holds(&account.audience) {
                Unauthenticated::WrongAudience
            } else if account.pod.is_some() && account.pod.as_ref() != bound.pod_name() {
                Unauthenticated::OtherPod
            } else {
                return Ok(place);
            };
            if why == Unauthenticated::OtherNamespace || miss != Unauthenticated::OtherAccount {
                why = miss;
            }
        }
        Err(why)
    }
}

/// What is read of the header (RFC 7515 §4.1). The rest is ignored, above all what would say where a key is.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

/// What is read of the claims.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: i64,
    nbf: Option<i64>,
    #[serde(rename = "kubernetes.io")]
    bound: Option<Bound>,
}

/// One or several (RFC 7519 §4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    Many(Vec<String>),
    One(String),
}

/// What Kubernetes says of the token beyond its subject.
#[derive(Deserialize)]
struct Bound {
    namespace: String,
    serviceaccount: Named,
    pod: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl Audience {
    fn holds(&self, audience: &str) -> bool {
        match self {
            Self::Many(all) => all.iter().any(|one| one == audience),
            Self::One(one) => one == audience,
        }
    }
}

impl Bound {
    fn pod_name(&self) -> Option<&String> {
        self.pod.as_ref().map(|pod| &pod.name)
    }
}

impl Claims {
    /// The service account, which both the subject and Kubernetes' own claim name.
    fn account(&self) -> Result<&Bound, Unauthenticated> {
        let bound = self.bound.as_ref();
        let bound = bound.ok_or(Unauthenticated::NoServiceAccount)?;
        let named = self.sub.strip_prefix(SUBJECT);
        let named = named.and_then(|rest| rest.split_once(':'));
        if named == Some((&bound.namespace, &bound.serviceaccount.name)) {
            Ok(bound)
        } else {
            Err(Unauthenticated::NoServiceAccount)
        }
    }
}

/// A part of a token, which is JSON in UTF-8 (RFC 8259 §8.1), also where nobody reads it.
fn json<T: DeserializeOwned>(part: &str) -> Option<T> {
    let text = String::from_utf8(base64url(part)?).ok()?;
    serde_json::from_str(&text).ok()
}

impl Cluster {
    /// The claims of a token that this cluster has signed and that is good at `now`, in seconds since 1970.
    fn claims(&self, token: &str, now: i64) -> Result<Claims, Unauthenticated> {
        use Unauthenticated::Malformed;
        if token.len() > TOKEN_MAX {
            return Err(Malformed);
        }
        let (input, signature) = token.rsplit_once('.').ok_or(Malformed)?;
        let (header, payload) = input.split_once('.').ok_or(Malformed)?;
        let header: Header = json(header).ok_or(Malformed)?;
        let typed = header.typ.as_deref();
        if header.crit || typed.is_some_and(|typ| !typ.eq_ignore_ascii_case("JWT")) {
            return Err(Malformed);
        }
        let signature = base64url(signature).ok_or(Malformed)?;
        let kid = header.kid.as_deref().unwrap_or_default();
        let named = (header.alg.as_str(), kid);
        self.keys.verify(named, input.as_bytes(), &signature)?;
        // Nothing of the payload was looked at so far.
        let claims: Claims = json(payload).ok_or(Malformed)?;
        if claims.iss != self.issuer {
            return Err(Unauthenticated::WrongIssuer);
        }
        if now >= claims.exp.saturating_add(LEEWAY) {
            return Err(Unauthenticated::Expired);
        }
        if claims
            .nbf
            .is_some_and(|nbf| now < nbf.saturating_sub(LEEWAY))
        {
            return Err(Unauthenticated::NotYetValid);
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests;
