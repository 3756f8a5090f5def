//! Assertions are read back with an independent verifier of the same library; keys are made for each run.

use josekit::jwk::KeyPair as _;
use josekit::jwk::alg::ec::{EcCurve, EcKeyPair};
use josekit::jwk::alg::rsapss::RsaPssKeyPair;
use josekit::jws::{JwsHeader, JwsVerifier};
use josekit::util::HashAlgorithm;
use serde_json::Value;

use super::*;

const OCCASION: Occasion<'static> = Occasion {
    now: 1_700_000_000,
    jti: "j1",
    issuer: "https://as.test",
    token_endpoint: "https://as.test/token",
    audience: AssertionAudience::Issuer,
    algorithms: None,
};

fn applied(auth: &ClientAuth, occasion: &Occasion<'_>) -> (String, HeaderMap) {
    let auth = Authenticator::new("agent proxy:1", auth).unwrap();
    let (mut form, mut headers) = (Form::new(), HeaderMap::new());
    auth.apply(&mut form, &mut headers, occasion, None).unwrap();
    (form.finish().expose().clone(), headers)
}

fn with_key(pem: Vec<u8>, kid: Option<&str>) -> ClientAuth {
    ClientAuth::PrivateKeyJwt {
        key_pem: Secret::new(pem),
        kid: kid.map(str::to_owned),
    }
}

fn assertion(form: &str) -> String {
    let (_, rest) = form.split_once("client_assertion=").unwrap();
    rest.split('&').next().unwrap().to_owned()
}

fn read(jws: &str, verifier: &dyn JwsVerifier) -> (Value, JwsHeader) {
    let (payload, header) = josekit::jws::deserialize_compact(jws, verifier).unwrap();
    (serde_json::from_slice(&payload).unwrap(), header)
}

#[test]
fn an_assertion_is_that_of_rfc_10070() {
    let pair = ES256.generate_key_pair().unwrap();
    let auth = with_key(pair.to_pem_private_key(), Some("k1"));
    let (form, headers) = applied(&auth, &OCCASION);
    assert!(headers.is_empty());
    assert!(form.starts_with(
        "client_id=agent+proxy%3A1&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion="
    ));
    let verifier = ES256.verifier_from_pem(pair.to_pem_public_key()).unwrap();
    let (claims, header) = read(&assertion(&form), &verifier);
    assert_eq!(header.token_type(), Some("client-authentication+jwt"));
    assert_eq!(header.algorithm(), Some("ES256"));
    assert_eq!(header.key_id(), Some("k1"));
    assert_eq!(
        claims,
        json!({
            "iss": "agent proxy:1", "sub": "agent proxy:1", "aud": "https://as.test", "jti": "j1",
            "iat": 1_700_000_000, "exp": 1_700_000_060,
        })
    );
}

#[test]
fn older_servers_get_the_token_endpoint_as_audience() {
    let pair = ES256.generate_key_pair().unwrap();
    let occasion = Occasion {
        audience: AssertionAudience::TokenEndpoint,
        ..OCCASION
    };
    let (form, _) = applied(&with_key(pair.to_pem_private_key(), None), &occasion);
    let verifier = ES256.verifier_from_pem(pair.to_pem_public_key()).unwrap();
    let (claims, header) = read(&assertion(&form), &verifier);
    assert_eq!(header.token_type(), Some("JWT"));
    assert_eq!(header.key_id(), None);
    assert_eq!(claims["aud"], "https://as.test/token");
}

#[test]
fn the_key_decides_the_algorithm() {
    let ec = EcKeyPair::generate(EcCurve::P384).unwrap();
    let ed = EdKeyPair::generate(EdCurve::Ed25519).unwrap();
    let rsa = RsaKeyPair::generate(2048).unwrap();
    let pss =
        RsaPssKeyPair::generate(2048, HashAlgorithm::Sha256, HashAlgorithm::Sha256, 32).unwrap();
    let lists_pss = [String::from("PS256")];
    let rows: [(Vec<u8>, Box<dyn JwsVerifier>, bool); 6] = [
        (
            ec.to_pem_private_key(),
            Box::new(ES384.verifier_from_pem(ec.to_pem_public_key()).unwrap()),
            false,
        ),
        (
            ec.to_traditional_pem_private_key(),
            Box::new(ES384.verifier_from_pem(ec.to_pem_public_key()).unwrap()),
            false,
        ),
        (
            ed.to_pem_private_key(),
            Box::new(EdDSA.verifier_from_pem(ed.to_pem_public_key()).unwrap()),
            false,
        ),
        (
            rsa.to_pem_private_key(),
            Box::new(RS256.verifier_from_pem(rsa.to_pem_public_key()).unwrap()),
            false,
        ),
        (
            rsa.to_traditional_pem_private_key(),
            Box::new(PS256.verifier_from_jwk(&rsa.to_jwk_public_key()).unwrap()),
            true,
        ),
        (
            pss.to_pem_private_key(),
            Box::new(PS256.verifier_from_pem(pss.to_pem_public_key()).unwrap()),
            false,
        ),
    ];
    for (pem, verifier, listed) in rows {
        let occasion = Occasion {
            algorithms: listed.then_some(&lists_pss[..]),
            ..OCCASION
        };
        let (form, _) = applied(&with_key(pem, None), &occasion);
        let (_, header) = read(&assertion(&form), verifier.as_ref());
        assert_eq!(header.algorithm(), Some(verifier.algorithm().name()));
    }
}

#[test]
fn what_is_no_usable_key_is_refused() {
    let small = RsaKeyPair::generate(1024).unwrap().to_pem_private_key();
    let curve = EcKeyPair::generate(EcCurve::Secp256k1).unwrap();
    let public = ES256.generate_key_pair().unwrap().to_pem_public_key();
    let goldilocks = EdKeyPair::generate(EdCurve::Ed448).unwrap();
    for pem in [
        small,
        curve.to_pem_private_key(),
        public,
        goldilocks.to_pem_private_key(),
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_vec(),
        b"{}".to_vec(),
        Vec::new(),
    ] {
        let auth = Authenticator::new("c", &with_key(pem, None));
        assert_eq!(auth.err(), Some(AuthError::Key));
    }
}

#[test]
fn basic_encodes_both_halves_first() {
    let auth = ClientAuth::SecretBasic(Secret::new("p:%+ \u{e9}".into()));
    let (form, headers) = applied(&auth, &OCCASION);
    assert_eq!(form, "");
    let value = &headers[header::AUTHORIZATION];
    assert!(value.is_sensitive());
    let pair = STANDARD
        .decode(value.to_str().unwrap().strip_prefix("Basic ").unwrap())
        .unwrap();
    assert_eq!(
        String::from_utf8(pair).unwrap(),
        "agent+proxy%3A1:p%3A%25%2B+%C3%A9"
    );
}

#[test]
fn one_method_a_request() {
    let post = ClientAuth::SecretPost(Secret::new("s&x".into()));
    let (form, headers) = applied(&post, &OCCASION);
    assert_eq!(form, "client_id=agent+proxy%3A1&client_secret=s%26x");
    assert!(headers.is_empty());
    let (form, headers) = applied(&ClientAuth::Nothing, &OCCASION);
    assert_eq!(form, "client_id=agent+proxy%3A1");
    assert!(headers.is_empty());
}
