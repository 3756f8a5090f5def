//! A Kubernetes cluster and its service accounts.

use super::{Context, visible};
use crate::agent::{Cluster, ClusterKeys, KnownBy, ServiceAccount, Settings};
use crate::config::SecretReading;
use crate::config::raw::{RawCluster, RawServiceAccount};

/// Largest set of keys; one has some two KiB.
const KEYS_MAX: u64 = 256 << 10;
/// Longest issuer and audience.
const WORD_MAX: usize = 512;
/// Whom tokens are meant for where the file does not say.
const AUDIENCE: &str = "tokenward";
/// Longest label of DNS and longest name, which Kubernetes' names are made of.
const LABEL_MAX: usize = 63;
const NAME_MAX: usize = 253;

/// Reads the cluster, which must be there where an agent is a service account.
pub(super) fn cluster(
    raw: Option<RawCluster>,
    agents: &Settings,
    it: &mut Context<'_>,
) -> Option<Cluster> {
    let Some(raw) = raw else {
        let is_account = |known_by: &KnownBy| matches!(known_by, KnownBy::ServiceAccount(_));
        let account = agents
            .agents
            .iter()
            .find(|agent| is_account(&agent.known_by));
        if let Some(agent) = account.filter(|_| !it.findings.tainted("kubernetes")) {
            let key = format!("agents.{}.auth.kubernetes", agent.name);
            let what = "the file does not say which cluster's service accounts are meant";
            let remedy = "add kubernetes: {issuer: URL, keys: {file: jwks.json}} at its top";
            it.findings.error(&key, what, remedy);
        }
        return None;
    };
    let issuer = raw.issuer?;
    if !word(&issuer) {
        let remedy =
            "write what `kubectl get --raw /.well-known/openid-configuration` has as `issuer`";
        it.findings
            .error("kubernetes.issuer", "not an issuer", remedy);
    }
    let keys = raw.keys?.file?;
    Some(Cluster {
        issuer,
        keys: keys_of(&keys, it),
    })
}

/// The published keys; none where files are not read.
fn keys_of(path: &str, it: &mut Context<'_>) -> ClusterKeys {
    let key = "kubernetes.keys.file";
    let whole = it.path(key, path);
    it.watched.push(whole);
    if it.reading != SecretReading::Resolve {
        return ClusterKeys::default();
    }
    let Some(text) = it.file(key, path, KEYS_MAX) else {
        return ClusterKeys::default();
    };
    ClusterKeys::parse(&text).unwrap_or_else(|why| {
        let what = format!("the file cannot be used: {why}");
        let remedy = "write what `kubectl get --raw /openid/v1/jwks` prints";
        it.findings.error(key, &what, remedy);
        ClusterKeys::default()
    })
}

/// Reads a service account.
pub(super) fn account(
    key: &str,
    raw: RawServiceAccount,
    it: &mut Context<'_>,
) -> Option<ServiceAccount> {
    let mut name = |member: &str, text: Option<String>, most: usize| {
        let text = text?;
        if is_name(&text, most) {
            return Some(text);
        }
        let remedy = "write it as Kubernetes has it: small letters, digits, `-`, and dots where it may have them";
        let what = "no object of Kubernetes can have this name";
        it.findings.error(&format!("{key}.{member}"), what, remedy);
        None
    };
    let namespace = name("namespace", raw.namespace, LABEL_MAX);
    let account = name("service_account", raw.service_account, NAME_MAX);
    let pod = raw.pod.map(|pod| name("pod", Some(pod), NAME_MAX));
    let audience = raw.audience.unwrap_or_else(|| AUDIENCE.to_owned());
    if !word(&audience) {
        let remedy = "write what the projected volume has as `audience`";
        it.findings
            .error(&format!("{key}.audience"), "not an audience", remedy);
    }
    let pod = match pod {
        // A pod that was refused is not any pod.
        Some(None) => return None,
        Some(pod) => pod,
        None => None,
    };
    Some(ServiceAccount {
        namespace: namespace?,
        name: account?,
        audience,
        pod,
    })
}

fn word(text: &str) -> bool {
    visible(text) && text.len() <= WORD_MAX
}

/// RFC 1123 labels, joined by dots where there is room for more than one.
fn is_name(text: &str, most: usize) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let ends = |byte: Option<u8>| byte.is_some_and(inner);
        ends(label.bytes().next())
            && ends(label.bytes().last())
            && label.bytes().all(|byte| inner(byte) || byte == b'-')
    };
    let dots = most > LABEL_MAX || !text.contains('.');
    text.len() <= most && dots && text.split('.').all(label)
}
