//! What fuzz targets ask of this room, see `fuzz/`. It decides nothing itself.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::account::Accounts;
use super::{Certificate, Cluster, ClusterKeys, KeysError, ServiceAccount};
use crate::vocab::AgentName;

/// `iss` of the cluster.
pub const ISSUER: &str = "https://k";
/// The time at which tokens are judged, in seconds since 1970.
pub const NOW: i64 = 1_800_000_000;

static KEY: LazyLock<Option<EcdsaKeyPair>> =
    LazyLock::new(|| EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok());

static ACCOUNTS: LazyLock<Option<Accounts>> = LazyLock::new(accounts);

/// One agent, `a`: n/s, its tokens meant for `t`. The cluster's key is `k`, of ES256.
fn accounts() -> Option<Accounts> {
    let point = KEY.as_ref()?.public_key().as_ref().get(1..)?;
    let (x, y) = point.split_at_checked(32)?;
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    let set = format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"k","x":"{x}","y":"{y}"}}]}}"#);
    let account = ServiceAccount {
        namespace: "n".to_owned(),
        name: "s".to_owned(),
        audience: "t".to_owned(),
        pod: None,
    };
    let cluster = Cluster {
        issuer: ISSUER.to_owned(),
        keys: ClusterKeys::parse(set.as_bytes()).ok()?,
    };
    let agent = AgentName::new("a").ok()?;
    Some(Accounts::new(cluster, vec![(agent, account)]))
}

/// A token with these bytes as header and claims, signed by the cluster.
#[must_use]
pub fn signed(header: &[u8], claims: &[u8]) -> Option<String> {
    let (header, claims) = (
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(claims),
    );
    let input = format!("{header}.{claims}");
    let random = SystemRandom::new();
    let signature = KEY.as_ref()?.sign(&random, input.as_bytes()).ok()?;
    Some(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// Whether a token names the agent; otherwise the reason.
///
/// # Errors
/// The reason, as audit lines have it.
pub fn account(token: &str) -> Result<(), &'static str> {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    let accounts = ACCOUNTS.as_ref().ok_or("no cluster")?;
    let found = accounts.identify(token, hash, NOW);
    found.map(drop).map_err(super::Unauthenticated::as_str)
}

/// Whether a set of keys can be used.
///
/// # Errors
/// Why not.
pub fn keys(text: &[u8]) -> Result<(), KeysError> {
    ClusterKeys::parse(text).map(drop)
}

/// What a certificate says, as words.
#[must_use]
pub fn certificate(der: &[u8]) -> String {
    format!("{:?}", Certificate::read(der))
}
