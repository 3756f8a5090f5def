//! Tokens as a cluster makes them, and as an attacker does.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RsaEncoding,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

static RSA: LazyLock<RsaKeyPair> =
    LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());
static OTHER: LazyLock<RsaKeyPair> =
    LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn rsa_jwk(kid: &str, key: &RsaKeyPair) -> Value {
    let public = key.public_key();
    let number = |n: &[u8]| b64(n);
    let n = public.modulus();
    let e = public.exponent();
    json!({"kty": "RSA", "use": "sig", "kid": kid,
        "n": number(n.big_endian_without_leading_zero()),
        "e": number(e.big_endian_without_leading_zero())})
}

fn rsa_sign(key: &RsaKeyPair, with: &'static dyn RsaEncoding, input: &str) -> Vec<u8> {
    let mut signature = vec![0; key.public_modulus_len()];
    let random = SystemRandom::new();
    key.sign(with, &random, input.as_bytes(), &mut signature)
        .unwrap();
    signature
}

/// A key of a curve, as it is published and as it signs.
fn curve(name: &str, with: &'static EcdsaSigningAlgorithm) -> (Value, EcdsaKeyPair) {
    let pair = EcdsaKeyPair::generate(with).unwrap();
    let point = pair.public_key().as_ref()[1..].to_vec();
    let (x, y) = point.split_at(point.len() / 2);
    let jwk = json!({"kty": "EC", "crv": name, "kid": name, "x": b64(x), "y": b64(y)});
    (jwk, pair)
}

fn account(namespace: &str, name: &str) -> ServiceAccount {
    ServiceAccount {
        namespace: namespace.into(),
        name: name.into(),
        audience: "tokenward".into(),
        pod: None,
    }
}

fn cluster(keys: &[Value]) -> Cluster {
    let set = json!({ "keys": keys }).to_string();
    Cluster {
        issuer: ISSUER.into(),
        keys: ClusterKeys::parse(set.as_bytes()).unwrap(),
    }
}

/// `coder` is agents/coder, `pinned` is agents/pinned in its pod `pinned-0`.
fn accounts() -> Accounts {
    let name = |name: &str| AgentName::new(name).unwrap();
    let pinned = ServiceAccount {
        pod: Some("pinned-0".into()),
        ..account("agents", "pinned")
    };
    let agents = vec![
        (name("coder"), account("agents", "coder")),
        (name("pinned"), pinned),
    ];
    Accounts::new(cluster(&[rsa_jwk("r", &RSA)]), agents)
}

fn header() -> Value {
    json!({"alg": "RS256", "kid": "r"})
}

/// As the API server writes them.
fn claims() -> Value {
    json!({
        "aud": ["tokenward"],
        "exp": NOW + 3607,
        "iat": NOW - 60,
        "iss": ISSUER,
        "jti": "0a4a1f3c-3b6f-4f0e-9a53-5f5e4f6a7b8c",
        "kubernetes.io": {
            "namespace": "agents",
            "node": {"name": "n1", "uid": "5a1f3c3b-6f4f-0e9a-535f-5e4f6a7b8c0a"},
            "pod": {"name": "coder-5d4f", "uid": "1f3c3b6f-4f0e-9a53-5f5e-4f6a7b8c0a4a"},
            "serviceaccount": {"name": "coder", "uid": "3c3b6f4f-0e9a-535f-5e4f-6a7b8c0a4a1f"},
            "warnafter": NOW + 3000
        },
        "nbf": NOW - 60,
        "sub": "system:serviceaccount:agents:coder"
    })
}

/// The claims with one pointer set to something else, or taken away.
fn with(pointer: &str, value: impl Into<Option<Value>>) -> Value {
    let mut claims = claims();
    let (above, last) = pointer.rsplit_once('/').unwrap();
    let object = claims.pointer_mut(above).unwrap().as_object_mut().unwrap();
    match value.into() {
        Some(value) => drop(object.insert(last.into(), value)),
        None => drop(object.remove(last)),
    }
    claims
}

fn of(namespace: &str, name: &str, pod: Option<&str>) -> Value {
    let mut claims = claims();
    claims["sub"] = json!(format!("system:serviceaccount:{namespace}:{name}"));
    claims["kubernetes.io"]["namespace"] = json!(namespace);
    claims["kubernetes.io"]["serviceaccount"]["name"] = json!(name);
    match pod {
        Some(pod) => claims["kubernetes.io"]["pod"]["name"] = json!(pod),
        None => drop(
            claims["kubernetes.io"]
                .as_object_mut()
                .unwrap()
                .remove("pod"),
        ),
    }
    claims
}

fn token_of(header: &str, claims: impl AsRef<[u8]>, sign: impl Fn(&str) -> Vec<u8>) -> String {
    let input = format!("{}.{}", b64(header), b64(claims));
    let signature = b64(sign(&input));
    format!("{input}.{signature}")
}

fn signed(header: &Value, claims: &Value) -> String {
    let sign = |input: &str| rsa_sign(&RSA, &RSA_PKCS1_SHA256, input);
    token_of(&header.to_string(), claims.to_string(), sign)
}

fn hash(token: &str) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, token.as_bytes());
    digest.as_ref().try_into().unwrap()
}

fn who(accounts: &Accounts, token: &str, now: i64) -> Result<String, Unauthenticated> {
    let found = accounts.identify(token, hash(token), now);
    found.map(|name| name.as_str().to_owned())
}

#[test]
fn the_token_of_a_pod_names_its_agent() {
    let accounts = accounts();
    let token = signed(&header(), &claims());
    for now in [NOW, NOW + 3607, NOW + 3607 + 29] {
        assert_eq!(who(&accounts, &token, now).as_deref(), Ok("coder"));
    }
    // Also of what is remembered.
    let over = NOW + 3607 + 30;
    assert_eq!(who(&accounts, &token, over), Err(Unauthenticated::Expired));
    let one = signed(&header(), &with("/aud", json!("tokenward")));
    assert_eq!(who(&accounts, &one, NOW).as_deref(), Ok("coder"));
    let several = signed(&header(), &with("/aud", json!(["https://x", "tokenward"])));
    assert_eq!(who(&accounts, &several, NOW).as_deref(), Ok("coder"));
    let unbound = signed(&header(), &of("agents", "coder", None));
    assert_eq!(who(&accounts, &unbound, NOW).as_deref(), Ok("coder"));
    let pinned = signed(&header(), &of("agents", "pinned", Some("pinned-0")));
    assert_eq!(who(&accounts, &pinned, NOW).as_deref(), Ok("pinned"));
    let typed = signed(
        &json!({"alg": "RS256", "kid": "r", "typ": "jwt"}),
        &claims(),
    );
    assert_eq!(who(&accounts, &typed, NOW).as_deref(), Ok("coder"));
}

#[test]
fn what_a_token_says_must_hold() {
    use Unauthenticated as Why;
    let cases = [
        (
            with("/aud", json!(["https://kubernetes.default.svc"])),
            Why::WrongAudience,
        ),
        (with("/aud", json!([])), Why::WrongAudience),
        (with("/aud", json!("tokenward2")), Why::WrongAudience),
        (with("/aud", None), Why::Malformed),
        (with("/aud", json!([1])), Why::Malformed),
        (
            with("/iss", json!("https://other.example")),
            Why::WrongIssuer,
        ),
        (
            with("/iss", json!("kubernetes/serviceaccount")),
            Why::WrongIssuer,
        ),
        (with("/iss", json!(format!("{ISSUER}/"))), Why::WrongIssuer),
        (with("/exp", json!(NOW - 30)), Why::Expired),
        (with("/exp", json!(i64::MIN)), Why::Expired),
        (with("/exp", None), Why::Malformed),
        (with("/exp", json!("1900000000")), Why::Malformed),
        (with("/exp", json!(1e30)), Why::Malformed),
        (with("/nbf", json!(NOW + 31)), Why::NotYetValid),
    ];
    let accounts = accounts();
    refused(&accounts, cases);
    let near = signed(&header(), &with("/nbf", json!(NOW + 30)));
    assert_eq!(who(&accounts, &near, NOW).as_deref(), Ok("coder"));
    assert_eq!(accounts.known.len(), 1);
}

#[test]
fn a_token_must_be_that_of_an_account_of_ours() {
    use Unauthenticated as Why;
    let cases = [
        (of("default", "coder", None), Why::OtherNamespace),
        (of("agents", "other", None), Why::OtherAccount),
        (of("agents", "pinned", Some("pinned-1")), Why::OtherPod),
        (of("agents", "pinned", None), Why::OtherPod),
        (with("/kubernetes.io", None), Why::NoServiceAccount),
        (with("/kubernetes.io", Value::Null), Why::NoServiceAccount),
        (with("/sub", json!("system:node:n1")), Why::NoServiceAccount),
        (with("/sub", json!("coder")), Why::NoServiceAccount),
        (
            with("/sub", json!("system:serviceaccount:agents:pinned")),
            Why::NoServiceAccount,
        ),
        (
            with("/sub", json!("system:serviceaccount:agents:coder:x")),
            Why::NoServiceAccount,
        ),
        (
            with("/sub", json!("system:serviceaccount:default:coder")),
            Why::NoServiceAccount,
        ),
        (
            with("/sub", json!("System:serviceaccount:agents:coder")),
            Why::NoServiceAccount,
        ),
        (with("/sub", None), Why::Malformed),
        (with("/kubernetes.io/namespace", None), Why::Malformed),
        (
            with("/kubernetes.io/serviceaccount", json!("coder")),
            Why::Malformed,
        ),
    ];
    let accounts = accounts();
    refused(&accounts, cases);
    assert_eq!(accounts.known.len(), 0);
}

/// Each time: nothing is remembered of a refusal.
fn refused<const N: usize>(accounts: &Accounts, cases: [(Value, Unauthenticated); N]) {
    for (claims, why) in cases {
        let token = signed(&header(), &claims);
        for _ in 0..2 {
            assert_eq!(who(accounts, &token, NOW), Err(why), "{claims}");
        }
    }
}

#[test]
fn members_that_stand_twice_are_refused() {
    let text = claims().to_string();
    let doubled = [
        text.replacen("\"exp\":", "\"exp\":9000000000,\"exp\":", 1),
        text.replacen(
            "\"sub\":",
            "\"sub\":\"system:serviceaccount:agents:pinned\",\"sub\":",
            1,
        ),
        text.replacen("\"aud\":", "\"aud\":[],\"aud\":", 1),
        text.replacen("\"namespace\":", "\"namespace\":\"x\",\"namespace\":", 1),
    ];
    let sign = |input: &str| rsa_sign(&RSA, &RSA_PKCS1_SHA256, input);
    for claims in doubled {
        assert_ne!(claims, text);
        let token = token_of(&header().to_string(), &claims, sign);
        assert_eq!(
            who(&accounts(), &token, NOW),
            Err(Unauthenticated::Malformed)
        );
    }
    let token = token_of(r#"{"alg":"RS256","alg":"RS256","kid":"r"}"#, &text, sign);
    assert_eq!(
        who(&accounts(), &token, NOW),
        Err(Unauthenticated::Malformed)
    );
}

#[test]
fn the_header_chooses_nothing() {
    use Unauthenticated as Why;
    let own = rsa_jwk("r", &OTHER);
    let cases = [
        (json!({"alg": "none", "kid": "r"}), Why::Algorithm),
        (json!({"alg": "None", "kid": "r"}), Why::Algorithm),
        (json!({"alg": "", "kid": "r"}), Why::Algorithm),
        (json!({"alg": "rs256", "kid": "r"}), Why::Algorithm),
        (json!({"alg": "HS256", "kid": "r"}), Why::Algorithm),
        (json!({"alg": "PS256", "kid": "r"}), Why::Algorithm),
        (json!({"alg": "ES256", "kid": "r"}), Why::Algorithm),
        (json!({"alg": "RS512", "kid": "r"}), Why::Forged),
        (json!({"alg": "RS256", "kid": "x"}), Why::UnknownKey),
        (json!({"alg": "RS256"}), Why::UnknownKey),
        (json!({"alg": "RS256", "kid": "../../r"}), Why::UnknownKey),
        (
            json!({"alg": "RS256", "kid": "k".repeat(4000)}),
            Why::UnknownKey,
        ),
        (
            json!({"alg": "RS256", "kid": "k".repeat(8000)}),
            Why::Malformed,
        ),
        (json!({"alg": "RS256", "kid": ["r"]}), Why::Malformed),
        (json!({"kid": "r"}), Why::Malformed),
        (
            json!({"alg": "RS256", "kid": "r", "crit": ["exp"]}),
            Why::Malformed,
        ),
        (
            json!({"alg": "RS256", "kid": "r", "crit": Value::Null}),
            Why::Malformed,
        ),
        (
            json!({"alg": "RS256", "kid": "r", "typ": "at+jwt"}),
            Why::Malformed,
        ),
        // The key of whoever wrote them; all three are ignored, so the published key must have signed.
        (
            json!({"alg": "RS256", "kid": "x", "jwk": own, "jku": "https://evil.example/k", "x5u": "https://evil.example/c"}),
            Why::UnknownKey,
        ),
    ];
    for (header, why) in cases {
        let token = signed(&header, &claims());
        assert_eq!(who(&accounts(), &token, NOW), Err(why), "{header}");
    }
    let pointing =
        json!({"alg": "RS256", "kid": "r", "jku": "https://evil.example/k", "x5c": ["x"]});
    let token = signed(&pointing, &claims());
    assert_eq!(who(&accounts(), &token, NOW).as_deref(), Ok("coder"));
}

#[test]
fn a_forged_signature_is_none() {
    use Unauthenticated as Why;
    let text = claims().to_string();
    let head = header().to_string();
    let accounts = accounts();
    let refused =
        |token: &str, why: Why| assert_eq!(who(&accounts, token, NOW), Err(why), "{token}");
    // Another key under the same name, no signature, and one of another token.
    refused(
        &token_of(&head, &text, |input| {
            rsa_sign(&OTHER, &RSA_PKCS1_SHA256, input)
        }),
        Why::Forged,
    );
    refused(&token_of(&head, &text, |_| Vec::new()), Why::Forged);
    refused(
        &token_of(&head, &text, |_| rsa_sign(&RSA, &RSA_PKCS1_SHA256, "x")),
        Why::Forged,
    );
    // With the other padding.
    refused(
        &token_of(&head, &text, |input| rsa_sign(&RSA, &RSA_PSS_SHA256, input)),
        Why::Forged,
    );
    // The public key as a secret.
    let public = RSA.public_key().as_ref().to_vec();
    let secret = hmac::Key::new(hmac::HMAC_SHA256, &public);
    refused(
        &token_of(r#"{"alg":"HS256","kid":"r"}"#, &text, |input| {
            hmac::sign(&secret, input.as_bytes()).as_ref().to_vec()
        }),
        Why::Algorithm,
    );
    // Any one letter changed, anywhere.
    let token = signed(&header(), &claims());
    assert_eq!(who(&accounts, &token, NOW).as_deref(), Ok("coder"));
    for at in (0..token.len()).step_by(7) {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(who(&accounts, &changed, NOW).is_err(), "{at}");
    }
}

#[test]
fn a_member_that_nobody_reads_is_text_too() {
    let mut claims = claims().to_string().into_bytes();
    claims.truncate(claims.len() - 1);
    claims.extend_from_slice(b",\"more\":\"\xa2\"}");
    let sign = |input: &str| rsa_sign(&RSA, &RSA_PKCS1_SHA256, input);
    let token = token_of(&header().to_string(), &claims, sign);
    assert_eq!(
        who(&accounts(), &token, NOW),
        Err(Unauthenticated::Malformed)
    );
}

#[test]
fn what_is_no_token_is_refused() {
    let token = signed(&header(), &claims());
    let (input, _) = token.rsplit_once('.').unwrap();
    let cases = [
        String::new(),
        "..".into(),
        "a.b.c".into(),
        input.into(),
        format!("{token}.x"),
        format!("x.{token}"),
        format!("{token}="),
        format!("{token}\n"),
        token.replacen('.', " .", 1),
        format!("{}.{}", "x".repeat(TOKEN_MAX), "y.z"),
        token_of("[]", "{}", |_| vec![1]),
        token_of(&"[".repeat(5000), "{}", |_| vec![1]),
    ];
    for token in cases {
        assert_eq!(
            who(&accounts(), &token, NOW),
            Err(Unauthenticated::Malformed),
            "{token}"
        );
    }
}

#[test]
fn every_kind_of_key_signs_with_its_own_algorithm() {
    let agents = || vec![(AgentName::new("coder").unwrap(), account("agents", "coder"))];
    let random = SystemRandom::new();
    for (alg, name, with) in [
        ("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        ("ES512", "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
    ] {
        let (jwk, pair) = curve(name, with);
        let accounts = Accounts::new(cluster(&[jwk]), agents());
        let sign = |input: &str| {
            pair.sign(&random, input.as_bytes())
                .unwrap()
                .as_ref()
                .to_vec()
        };
        for claimed in ["ES256", "ES384", "ES512", "RS256"] {
            let header = json!({"alg": claimed, "kid": name}).to_string();
            let token = token_of(&header, claims().to_string(), sign);
            let expected = if claimed == alg {
                Ok("coder".to_owned())
            } else {
                Err(Unauthenticated::Algorithm)
            };
            assert_eq!(who(&accounts, &token, NOW), expected, "{name} as {claimed}");
        }
    }
    let rsa: [(&str, &'static dyn RsaEncoding); 3] = [
        ("RS256", &RSA_PKCS1_SHA256),
        ("RS384", &RSA_PKCS1_SHA384),
        ("RS512", &RSA_PKCS1_SHA512),
    ];
    let mut only = rsa_jwk("r", &RSA);
    only["alg"] = json!("RS256");
    let only = Accounts::new(cluster(&[only]), agents());
    for (alg, with) in rsa {
        let header = json!({"alg": alg, "kid": "r"}).to_string();
        let token = token_of(&header, claims().to_string(), |input| {
            rsa_sign(&RSA, with, input)
        });
        assert_eq!(
            who(&accounts(), &token, NOW).as_deref(),
            Ok("coder"),
            "{alg}"
        );
        // Where the set says which, it is that one.
        assert_eq!(who(&only, &token, NOW).is_ok(), alg == "RS256", "{alg}");
    }
}

#[test]
fn a_withdrawn_key_takes_its_tokens_with_it() {
    let token = signed(&header(), &claims());
    let before = accounts();
    assert!(who(&before, &token, NOW).is_ok());
    let after = Accounts::new(cluster(&[rsa_jwk("r2", &OTHER)]), before.agents);
    assert_eq!(who(&after, &token, NOW), Err(Unauthenticated::UnknownKey));
}

#[test]
fn one_account_is_one_agent() {
    let of = |name: &str, pod: Option<&str>| ServiceAccount {
        pod: pod.map(str::to_owned),
        ..account("agents", name)
    };
    assert!(of("a", None).meets(&of("a", None)));
    assert!(of("a", None).meets(&of("a", Some("p"))));
    assert!(of("a", Some("p")).meets(&of("a", Some("p"))));
    assert!(!of("a", Some("p")).meets(&of("a", Some("q"))));
    assert!(!of("a", None).meets(&of("b", None)));
    assert!(!account("x", "a").meets(&account("y", "a")));
}
