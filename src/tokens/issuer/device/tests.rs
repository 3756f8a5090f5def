use serde_json::{Value, json};

use super::*;
use crate::tokens::issuer::tests::{Bench, granted, metadata, refused, reply};
use crate::tokens::settings::Grant;
use crate::vocab::{AgentName, ScopeSet, ServiceName};

fn grant() -> GrantId {
    GrantId {
        service: ServiceName::new("items").unwrap(),
        agent: AgentName::everyone(),
    }
}

fn bench() -> Bench {
    let bench = Bench::new(|settings| {
        settings.grant = Grant::DeviceCode {
            scopes: ScopeSet::parse("items:read").unwrap(),
        };
    });
    let mut document = metadata();
    document["device_authorization_endpoint"] = json!("https://as.test/device");
    *bench.fake.metadata.lock().unwrap() = Ok((200, document));
    bench
}

fn offer(change: &Value) -> IssuerReply {
    let mut document = json!({
        "device_code": "canary-dc",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://as.test/activate",
        "verification_uri_complete": "https://as.test/activate?user_code=WDJB-MJHT",
        "expires_in": 120,
        "interval": 5,
    });
    for (name, value) in change.as_object().unwrap() {
        document[name] = value.clone();
    }
    reply(200, &[], &document)
}

async fn begin(bench: &Bench, change: &Value) -> Result<Device, LoginError> {
    bench.fake.then(Ok(offer(change)));
    bench.client.begin_device(&grant(), 1, &bench.notes).await
}

#[tokio::test]
async fn what_cannot_be_shown_to_a_person_is_not_taken() {
    let bench = bench();
    let device = begin(&bench, &json!({})).await.unwrap();
    assert_eq!(device.user_code(), "WDJB-MJHT");
    assert_eq!(device.url(), "https://as.test/activate");
    assert_eq!(device.life(), Duration::from_secs(120));
    let long = begin(&bench, &json!({"expires_in": 86_400})).await.unwrap();
    assert_eq!(long.life(), LIFE_MAX);
    let quiet = begin(&bench, &json!({"interval": null})).await.unwrap();
    assert_eq!(quiet.interval, INTERVAL);
    let hasty = begin(&bench, &json!({"interval": 0})).await.unwrap();
    assert_eq!(hasty.interval, Duration::from_secs(1));
    for bad in [
        json!({"user_code": "\u{1b}[2J"}),
        json!({"user_code": "x".repeat(65)}),
        json!({"user_code": null}),
        json!({"verification_uri": "http://as.test/activate"}),
        json!({"verification_uri": "javascript:alert(1)"}),
        json!({"device_code": ""}),
        json!({"expires_in": null}),
    ] {
        let refused = begin(&bench, &bad).await.err();
        let code = LoginError::Unavailable(Code::AsUnavailable);
        assert_eq!(refused, Some(code), "{bad}");
    }
    let odd = json!({"verification_uri_complete": "file:///etc/passwd"});
    assert_eq!(begin(&bench, &odd).await.unwrap().complete(), None);
}

/// RFC 8628 §3.5: never sooner than the interval, five seconds more after each `slow_down`, twice as long after silence.
#[test]
fn the_pace_only_slows_down() {
    let mut pace = Pace(Duration::from_secs(5));
    let mut wait = |failure: Failure| pace.after(failure).map(|pause| pause.as_secs());
    let pending = Failure::because(Code::ApprovalPending, "authorization_pending");
    let slow = Failure::because(Code::AsUnavailable, "slow_down");
    let silent = Failure::from(Code::AsTimeout);
    let patient = Failure {
        retry_after: Some(Duration::from_secs(90)),
        ..Failure::from(Code::AsUnavailable)
    };
    let steps = [
        (pending, 5),
        (slow, 10),
        (pending, 10),
        (slow, 15),
        (silent, 30),
        (pending, 30),
        (silent, 60),
        (silent, 60),
        (patient, 90),
        (slow, 65),
    ];
    for (failure, seconds) in steps {
        assert_eq!(wait(failure), Ok(seconds), "{failure:?}");
    }
    for word in ["access_denied", "expired_token", "invalid_grant"] {
        let failure = Failure::because(Code::ReauthorizationRequired, word);
        assert_eq!(wait(failure), Err(LoginError::Refused(word)));
    }
}

#[tokio::test]
async fn the_issuer_is_asked_until_the_person_is_there() {
    let bench = bench();
    let device = begin(&bench, &json!({"interval": 1})).await.unwrap();
    bench.fake.then(Ok(refused(400, "authorization_pending")));
    bench
        .fake
        .then(Ok(granted(&json!({"refresh_token": "canary-rt"}))));
    let began = tokio::time::Instant::now();
    let answered = bench.client.await_device(&device, &bench.notes).await;
    assert!(matches!(answered, Ok(Answered::Device(_))));
    assert!(began.elapsed() >= Duration::from_secs(2));
    let asked = bench.fake.tokens();
    let last = asked.last().unwrap();
    let field = |name: &str| last.form.get(name).map(String::as_str);
    assert_eq!(
        field("grant_type"),
        Some("urn:ietf:params:oauth:grant-type:device_code")
    );
    assert_eq!(field("device_code"), Some("canary-dc"));
    assert!(last.proof().is_some());

    let over = begin(&bench, &json!({"expires_in": 0})).await.unwrap();
    let late = bench.client.await_device(&over, &bench.notes).await;
    assert_eq!(late.err(), Some(LoginError::Late));
    assert_eq!(bench.fake.tokens().len(), asked.len());
}

#[tokio::test]
async fn the_answer_becomes_the_grant_and_is_asked_for_once() {
    let bench = bench();
    let everyone = AgentName::everyone();
    let asker = AgentName::fallback();
    assert_eq!(bench.client.owner(&asker), asker);
    let scope = json!({"scope": "items:read", "refresh_token": "canary-rt"});
    let answer = Answered::Device(granted(&scope));
    bench.client.take_answer(&everyone, answer, u64::MAX);
    let before = bench.fake.tokens().len();
    let scopes = ScopeSet::parse("items:read").unwrap();
    let obtained = bench.client.obtain(&everyone, &scopes, &bench.notes).await;
    assert!(obtained.is_ok());
    assert_eq!(bench.fake.tokens().len(), before);
    assert!(bench.client.is_logged_in(&everyone));
    assert_eq!(bench.client.owner(&asker), everyone);
}
