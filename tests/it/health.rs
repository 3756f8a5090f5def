//! Tokens in use are asked after, what was revoked behind our back is replaced before an agent's call fails, and the audit
//! file alone tells the whole life of a token.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokenward::config::Plan;
use tokenward::rehearsal::{Call, Introspection, Rehearsal, Service};
use tokenward::tokens::CredentialSettings;

use crate::kit::{API, Auth, Credential, House, Setup, Svc, Written, eventually};

/// As often as no file lets anybody ask.
const INTERVAL: Duration = Duration::from_millis(400);

fn hasty(plan: &mut Plan) {
    for (_, credential) in &mut plan.tokens.services {
        if let CredentialSettings::Oauth(oauth) = credential {
            oauth.health.interval = INTERVAL;
        }
    }
}

/// A house whose tokens are asked after every 400 ms, by an issuer of this kind, which was called once.
async fn warm(items: Svc, issuer: Option<Introspection>) -> House {
    let mut setup = Setup::of([items]);
    setup.tune = hasty;
    let rehearsal = Rehearsal::start(setup.options.clone()).await.unwrap();
    rehearsal.controls().issuer(|i| i.introspection = issuer);
    let house = setup
        .start_in(tempfile::TempDir::new().unwrap(), rehearsal)
        .await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    house
}

fn probed() -> Svc {
    Svc::items().line("health: {probe: GET /v1/items}")
}

fn written(house: &House) -> Written {
    Written::read(&house.audit_file())
}

/// Checks that ended so.
fn checks(written: &Written, by: &str, outcome: &str) -> usize {
    let all = written.of("token.health");
    let of = all
        .iter()
        .filter(|l| l["by"] == by && l["outcome"] == outcome);
    of.count()
}

fn refused_at_api(house: &House) -> usize {
    let seen = house.at_api();
    seen.iter().filter(|s| s.status == Some(401)).count()
}

/// A token that dies in secret is replaced before anybody's call meets that.
async fn replaced_in_time(items: Svc, issuer: Option<Introspection>, by: &str) {
    let house = warm(items, issuer).await;
    eventually("a check that says yes", || {
        checks(&written(&house), by, "active") > 0
    })
    .await;
    house.rehearsal.revoke_tokens();
    eventually("the token after it", || {
        written(&house).of("token.issued").len() == 2
    })
    .await;
    let before = refused_at_api(&house);
    for _ in 0..3 {
        assert_eq!(house.get("/v1/items").await.status, 200);
    }
    assert_eq!(refused_at_api(&house), before, "a call met the dead token");
    let metrics = house.metrics().await;
    for line in [
        r#"tokenward_token_health{service="items",state="healthy"} 1"#,
        r#"tokenward_token_events_total{event="found_inactive",service="items"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is missing in {metrics}");
    }
    let written = house.end().await;
    let dropped = written.of("token.dropped");
    assert_eq!(dropped.len(), 1, "{}", written.text);
    assert_eq!(dropped[0]["reason"], "inactive");
    assert_eq!(checks(&written, by, "inactive"), 1);
    assert!(written.of("token.rejected").is_empty());
    assert!(written.requests().iter().all(|l| l["status"] == 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_issuer_has_revoked_is_replaced_before_a_call_fails() {
    replaced_in_time(Svc::items(), Some(Introspection::Honest), "introspection").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_introspection_a_probe_finds_out() {
    replaced_in_time(probed(), None, "probe").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_refuses_to_be_asked_leaves_it_to_the_probe() {
    replaced_in_time(probed(), Some(Introspection::Refused), "probe").await;
}

/// The probe goes where agents go, carries the token of its route and a proof of its own each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_probe_is_a_request_like_an_agents() {
    let house = warm(probed(), None).await;
    let calls = house.at_api().len();
    eventually("some checks", || {
        checks(&written(&house), "probe", "active") >= 3
    })
    .await;
    let probes = house.at_api().split_off(calls);
    for seen in &probes {
        assert_eq!(
            (seen.method.as_str(), seen.path.as_str()),
            ("GET", "/v1/items")
        );
        assert!(seen.header("authorization").unwrap().starts_with("DPoP "));
        assert_eq!(seen.proof.as_ref().unwrap()["htm"], "GET");
    }
    // A probe leaves nobody's lease in use: what was lent was lent to requests.
    crate::kit::distinct_proofs(&house.rehearsal.seen_by(Service::Api));
    house.end().await;
}

/// An issuer that says no of every token costs two renewals, and no call.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_cannot_tell_ends_nothing() {
    let house = warm(Svc::items(), Some(Introspection::AlwaysNo)).await;
    eventually("the third no", || {
        checks(&written(&house), "introspection", "inactive") == 3
    })
    .await;
    for _ in 0..3 {
        assert_eq!(house.get("/v1/items").await.status, 200);
    }
    let line = r#"tokenward_token_health{service="items",state="unknown"} 1"#;
    let metrics = house.metrics().await;
    assert!(metrics.contains(line), "{metrics}");
    let written = house.end().await;
    assert_eq!(written.of("token.refreshed").len(), 2);
    assert!(written.of("token.dropped").is_empty());
    assert_eq!(written.of("token.issued").len(), 1);
}

/// An outage of the issuer changes nothing about tokens in use.
#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_that_is_away_changes_nothing() {
    let house = warm(Svc::items(), Some(Introspection::Honest)).await;
    house.rehearsal.take_down(Service::Issuer).await;
    eventually("checks without an answer", || {
        checks(&written(&house), "introspection", "unknown") >= 2
    })
    .await;
    assert_eq!(house.get("/v1/items").await.status, 200);
    let line = r#"tokenward_token_health{service="items",state="unknown"} 1"#;
    let metrics = house.metrics().await;
    assert!(metrics.contains(line), "{metrics}");
    let written = house.end().await;
    assert!(written.of("token.dropped").is_empty());
    assert_eq!(written.of("token.issued").len(), 1);
}

/// What the audit file says of one token.
#[derive(Debug, Default)]
struct Life {
    /// Event names in the order of the file; requests that went out with the token are `used`.
    story: Vec<String>,
    jkt: String,
    proofs: BTreeSet<String>,
}

/// Reads lives off the lines and nothing else.
fn lives(lines: &[Value]) -> BTreeMap<u64, Life> {
    let mut lives: BTreeMap<u64, Life> = BTreeMap::new();
    for line in lines {
        let Some(lease) = line["lease"].as_u64() else {
            continue;
        };
        let life = lives.entry(lease).or_default();
        let event = line["event"].as_str().unwrap();
        let word = match event {
            "request" => "used".to_owned(),
            "token.health" => format!("{event} {}", line["outcome"].as_str().unwrap()),
            _ => event.to_owned(),
        };
        life.story.push(word);
        if let Some(jkt) = line["jkt"].as_str().filter(|jkt| !jkt.is_empty()) {
            jkt.clone_into(&mut life.jkt);
        }
        let proofs = line["proofs"].as_array().into_iter().flatten();
        life.proofs
            .extend(proofs.map(|jti| jti.as_str().unwrap().to_owned()));
    }
    lives
}

/// Issued, used, health-checked, refreshed, revoked at the issuer, replaced, and given back at the end: all of that stands
/// in the audit file, and each request that the API saw belongs to one token's life by its proof.
#[tokio::test(flavor = "multi_thread")]
async fn the_audit_file_alone_tells_the_whole_life_of_a_token() {
    let client = Credential::Oauth {
        client: "svc-pkjwt",
        auth: Auth::PrivateKeyJwt,
        binding: "dpop",
        more: ", revoke_on_exit: true",
    };
    let mut setup = Setup::of([probed().with(client)]);
    setup.tune = hasty;
    let rehearsal = Rehearsal::start(setup.options.clone()).await.unwrap();
    // Renewals come after a little more than two seconds.
    rehearsal.controls().issuer(|i| i.token_life = 3);
    let folder = tempfile::TempDir::new().unwrap();
    let house = setup.start_in(folder, rehearsal).await;
    let called = async || assert_eq!(house.get("/v1/items").await.status, 200);
    called().await;
    eventually("a check", || {
        checks(&written(&house), "probe", "active") > 0
    })
    .await;
    eventually("a renewal", || {
        !written(&house).of("token.refreshed").is_empty()
    })
    .await;
    called().await;
    house.rehearsal.controls().issuer(|i| i.token_life = 300);
    house.rehearsal.revoke_tokens();
    eventually("a new token", || {
        written(&house).of("token.issued").len() == 2
    })
    .await;
    called().await;
    let seen = house.at_api();
    let written = house.end().await;

    let lives = lives(&written.lines);
    let told = |word: &str| {
        let with = lives
            .iter()
            .filter(|(_, l)| l.story.iter().any(|w| w == word));
        with.map(|(lease, _)| *lease).collect::<Vec<_>>()
    };
    // The first one was issued, used, found good; one that came of a refresh was found dead and dropped.
    let first = &lives[&told("token.issued")[0]];
    assert_eq!(first.story[0], "token.issued");
    assert_eq!(first.story[1], "used");
    assert!(first.story.contains(&"token.health active".to_owned()));
    let dead = told("token.dropped");
    assert_eq!(dead.len(), 1, "{lives:?}");
    let dead = &lives[&dead[0]];
    assert_eq!(dead.story[0], "token.refreshed");
    let last = &dead.story[dead.story.len() - 2..];
    assert_eq!(last, ["token.health inactive", "token.dropped"]);
    // What came after it was given back at the end.
    let after = &lives[&told("token.issued")[1]];
    assert!(after.story.contains(&"used".to_owned()), "{after:?}");
    assert_eq!(after.story.last().unwrap(), "token.revoked", "{after:?}");

    // The API's log, joined by proof: every request belongs to exactly one token, which is bound to the proof's key.
    let thumbprints: BTreeSet<&str> = lives.values().map(|l| l.jkt.as_str()).collect();
    assert_eq!(thumbprints.len(), 1, "one grant, one key");
    let mut joined = 0;
    for seen in seen {
        let jti = seen.proof.as_ref().unwrap()["jti"].as_str().unwrap();
        let owners = lives.values().filter(|l| l.proofs.contains(jti)).count();
        assert_eq!(owners, 1, "{jti} of {} {}", seen.method, seen.path);
        joined += 1;
    }
    let proofs: usize = lives.values().map(|l| l.proofs.len()).sum();
    assert!(joined >= 6 && proofs >= joined, "{joined} {proofs}");
    assert!(
        !written.text.contains("eyJ"),
        "a token stands in the audit file"
    );
}

/// `status` says who was asked, what was said, and when.
#[tokio::test(flavor = "multi_thread")]
async fn status_says_what_the_last_check_said() {
    let items = Svc::items().line("health: {interval: 5s, probe: GET /v1/items}");
    let mut served = crate::kit::Served::start(Setup::of([items]), "info").await;
    let agent = served.agent();
    let answer = crate::kit::ask(&agent, API, true, Call::get("/v1/items")).await;
    assert_eq!(answer.status, 200);
    eventually("a check", || {
        served.file("audit.jsonl").contains("token.health")
    })
    .await;
    let done = crate::kit::run(&mut served.verb(&["status", "--json"])).await;
    let status: Value = serde_json::from_str(&crate::kit::out(&done)).unwrap();
    let checked = &status["grants"][0]["tokens"][0]["checked"];
    assert_eq!(checked["by"], "probe");
    assert_eq!(checked["outcome"], "active");
    assert!(checked["ago"].as_u64().unwrap() < 60);
    let done = crate::kit::run(&mut served.verb(&["status"])).await;
    let people = crate::kit::out(&done);
    assert!(people.contains("by probe: active"), "{people}");
    assert!(served.terminate().await.success());
}
