//! `profile: fapi2`, rule by rule (FAPI 2.0 Security Profile §5.3.3 and §5.4): what the configuration refuses, what the start
//! refuses, and what goes to the issuer.

use std::fs;
use std::path::Path;

use josekit::jwk::alg::ec::{EcCurve, EcKeyPair};
use josekit::jwk::alg::ed::{EdCurve, EdKeyPair};
use josekit::jwk::alg::rsa::RsaKeyPair;
use tempfile::TempDir;
use tokenward::app;
use tokenward::config::{self, SecretReading};
use tokenward::rehearsal::{Call, Options, Rehearsal};
use tokenward::vocab::Clock;

use crate::kit::{API, Auth, Credential, Setup, Svc, ask, claims};

const PROFILE: &str = ", profile: fapi2";

/// A service by that profile, as it should be.
fn fapi() -> Svc {
    Svc::items().with(Credential::Oauth {
        client: "svc-pkjwt",
        auth: Auth::PrivateKeyJwt,
        binding: "dpop",
        more: PROFILE,
    })
}

/// What the configuration says to a file that was changed like this.
fn said(folder: &Path, text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    let file = folder.join("tokenward.yaml");
    fs::write(&file, text.replace(from, to)).unwrap();
    config::load(&file, SecretReading::Resolve)
        .map(|_| String::new())
        .unwrap_or_else(|problems| problems.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rule_that_the_configuration_decides_is_kept() {
    let rehearsal = Rehearsal::start(Options::default()).await.unwrap();
    let folder = TempDir::new().unwrap();
    let file = Setup::of([fapi()]).write(folder.path(), &rehearsal);
    let text = fs::read_to_string(file).unwrap();
    let jwt = text.split("client_auth: ").nth(1).unwrap();
    let jwt = format!("client_auth: {}", jwt.split(", grant").next().unwrap());
    let code = "grant: authorization_code";
    for (rule, from, to, word) in [
        (
            "R-162 bound tokens",
            "binding: dpop",
            "binding: bearer",
            "oauth.binding: profile fapi2",
        ),
        (
            "R-162 bound tokens",
            "binding: dpop",
            "binding: refresh_only",
            "oauth.binding: profile fapi2",
        ),
        (
            "R-163 a key",
            &*jwt,
            "client_auth: {secret_basic: {file: svc-basic.secret}}",
            "oauth.client_auth: profile fapi2",
        ),
        (
            "R-163 a key",
            &jwt,
            "client_auth: {secret_post: {file: svc-basic.secret}}",
            "oauth.client_auth: profile fapi2",
        ),
        (
            "R-163 a key",
            &jwt,
            "client_auth: none",
            "oauth.client_auth: profile fapi2",
        ),
        (
            "R-163 a key",
            &jwt,
            "client_auth: {kubernetes: {token: {file: api.key}}}",
            "oauth.client_auth: profile fapi2",
        ),
        (
            "R-163 audience",
            "allow_private: true}\nservices",
            "allow_private: true, assertion_audience: token_endpoint}\nservices",
            "oauth.issuer: profile fapi2",
        ),
        (
            "R-164 a code",
            "grant: client_credentials",
            "grant: device_code",
            "oauth.grant: profile fapi2",
        ),
        (
            "R-164 S256",
            "grant: client_credentials",
            "grant: authorization_code, pkce: false",
            "oauth.pkce: unknown key",
        ),
        (
            "R-164 parameters",
            "grant: client_credentials",
            "grant: authorization_code, parameters: {code_challenge_method: plain}",
            "cannot be set here",
        ),
        (
            "R-165 metadata",
            "issuers:\n  rehearsal: {",
            "issuers:\n  rehearsal: {token_endpoint: \"https://x.test/t\", ",
            "issuers.rehearsal.token_endpoint: unknown key",
        ),
    ] {
        let said = said(folder.path(), &text, from, to);
        assert!(said.contains(word), "{rule}: {to}: {said}");
        // Without the profile the first ones are the operator's business.
        let free = text.replace(PROFILE, "");
        let free = self::said(folder.path(), &free, from, to);
        assert_eq!(
            free.is_empty(),
            word.contains("profile"),
            "{rule}: {to}: {free}"
        );
    }
    // What it does allow.
    for (from, to) in [
        ("grant: client_credentials", code),
        (
            "grant: client_credentials",
            "grant: {refresh_token: {file: api.key}}",
        ),
        (
            "grant: client_credentials",
            "grant: {jwt_bearer: {key: {file: svc-pkjwt.pem}, subject: alice}}",
        ),
    ] {
        assert_eq!(said(folder.path(), &text, from, to), "", "{to}");
    }
    rehearsal.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_its_algorithms_sign() {
    let (ec, rsa) = (
        |curve| EcKeyPair::generate(curve).unwrap().to_pem_private_key(),
        RsaKeyPair::generate,
    );
    let ed = EdKeyPair::generate(EdCurve::Ed25519).unwrap();
    for (name, pem, profile, wanted) in [
        ("P-256", ec(EcCurve::P256), PROFILE, Some("ES256")),
        ("P-384", ec(EcCurve::P384), PROFILE, None),
        ("P-384", ec(EcCurve::P384), "", Some("ES384")),
        ("P-521", ec(EcCurve::P521), PROFILE, None),
        ("Ed25519", ed.to_pem_private_key(), PROFILE, Some("EdDSA")),
        (
            "RSA",
            rsa(2048).unwrap().to_pem_private_key(),
            PROFILE,
            Some("PS256"),
        ),
        (
            "RSA, 1024 bits",
            rsa(1024).unwrap().to_pem_private_key(),
            PROFILE,
            None,
        ),
    ] {
        let rehearsal = Rehearsal::start(Options::default()).await.unwrap();
        let folder = TempDir::new().unwrap();
        let file = Setup::of([fapi()]).write(folder.path(), &rehearsal);
        let text = fs::read_to_string(&file).unwrap().replace(PROFILE, profile);
        fs::write(&file, text).unwrap();
        fs::write(folder.path().join("svc-pkjwt.pem"), pem).unwrap();
        let Ok(plan) = config::load(&file, SecretReading::Resolve) else {
            assert_eq!(wanted, None, "{name}");
            continue;
        };
        let Ok(running) = app::start(plan, Clock::system()).await else {
            assert_eq!(wanted, None, "{name}");
            continue;
        };
        // The issuer knows another key by this name, so it refuses; what it was shown is what counts.
        let ca = fs::read_to_string(&running.trust().ca).unwrap();
        let agent = tokenward::rehearsal::Caller::through(running.proxies()[0], &ca).unwrap();
        drop(ask(&agent, API, true, Call::get("/v1/items")).await);
        let seen = rehearsal.seen_by(tokenward::rehearsal::Service::Issuer);
        let asked = seen.iter().find(|seen| seen.method == "POST").unwrap();
        let assertion = asked
            .form
            .iter()
            .find(|(name, _)| name == "client_assertion");
        let head = assertion.unwrap().1.split('.').next().unwrap();
        // The reader of claims takes the second part.
        let head = claims(&format!(".{head}"));
        assert_eq!(head["alg"].as_str(), wanted, "{name}");
        running.shut_down().await;
        rehearsal.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_request_by_the_profile_is_that_of_the_profile() {
    let mut setup = Setup::of([fapi()]);
    setup.options.issuer_path = "/tenant".into();
    let house = setup.start().await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    for asked in house.token_requests() {
        let value = |name: &str| {
            asked
                .form
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.clone())
        };
        let shown = claims(&value("client_assertion").unwrap());
        // the issuer's identifier, as one text and nothing else.
        assert_eq!(shown["aud"], house.rehearsal.issuer_url());
        assert!(shown["exp"].as_i64().unwrap() - shown["iat"].as_i64().unwrap() <= 60);
        assert!(value("client_secret").is_none() && asked.header("authorization").is_none());
        // bound, also while the issuer wants a nonce.
        assert!(asked.header("dpop").is_some());
    }
    // found by its well-known address.
    let seen = house
        .rehearsal
        .seen_by(tokenward::rehearsal::Service::Issuer);
    assert!(
        seen[0]
            .path
            .starts_with("/.well-known/oauth-authorization-server"),
        "{}",
        seen[0].path
    );
    assert!(
        house
            .at_api()
            .iter()
            .all(|seen| seen.header("authorization").unwrap().starts_with("DPoP "))
    );
    house.end().await;
}
