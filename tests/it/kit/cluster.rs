//! A cluster's API server, as far as tokens of service accounts go.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokenward::vocab::Clock;

/// `iss` of its tokens.
pub(crate) const CLUSTER: &str = "https://kubernetes.default.svc.cluster.local";

/// What signs tokens.
pub(crate) struct Cluster {
    kid: &'static str,
    key: KeyPair,
}

impl Cluster {
    /// With a key of its own, under this name.
    pub(crate) fn with_key(kid: &'static str) -> Self {
        let key = KeyPair::generate(KeySize::Rsa2048).unwrap();
        Self { kid, key }
    }

    /// What `kubectl get --raw /openid/v1/jwks` prints.
    pub(crate) fn jwks(&self) -> String {
        let public = self.key.public_key();
        let n = b64(public.modulus().big_endian_without_leading_zero());
        let e = b64(public.exponent().big_endian_without_leading_zero());
        let kid = self.kid;
        json!({"keys": [{"use": "sig", "kty": "RSA", "alg": "RS256", "kid": kid, "n": n, "e": e}]})
            .to_string()
    }

    /// The claims of a pod's projected token that is good for an hour.
    pub(crate) fn claims(namespace: &str, account: &str) -> Value {
        let now = Clock::system().wall().seconds();
        json!({
            "aud": ["tokenward"], "exp": now + 3607, "iat": now, "nbf": now, "iss": CLUSTER,
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
            "kubernetes.io": {
                "namespace": namespace,
                "pod": {"name": format!("{account}-0"), "uid": "1f3c3b6f-4f0e-9a53-5f5e-4f6a7b8c0a4a"},
                "serviceaccount": {"name": account, "uid": "3c3b6f4f-0e9a-535f-5e4f-6a7b8c0a4a1f"},
            }
        })
    }

    /// Signs claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": "RS256", "kid": self.kid}).to_string();
        let input = format!("{}.{}", b64(header), b64(claims.to_string()));
        let mut signature = vec![0; self.key.public_modulus_len()];
        let random = SystemRandom::new();
        let signed = self
            .key
            .sign(&RSA_PKCS1_SHA256, &random, input.as_bytes(), &mut signature);
        signed.unwrap();
        format!("{input}.{}", b64(signature))
    }

    /// A pod's token.
    pub(crate) fn token(&self, namespace: &str, account: &str) -> String {
        self.sign(&Self::claims(namespace, account))
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
