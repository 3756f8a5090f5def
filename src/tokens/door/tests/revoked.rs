//! What the operator ends, at an issuer that answers late, and how it comes back.

use super::*;
use crate::tokens::issuer::tests::reply;
use crate::tokens::issuer::{Device, LoginError};
use crate::tokens::revoking::Fate;
use crate::tokens::settings::{AssertionAudience, Grant};
use crate::tokens::stops::Selection;

fn everything() -> Selection {
    Selection::default()
}

fn of(service: Option<&str>, agent: Option<&str>) -> Selection {
    Selection {
        service: service.map(name),
        agent: agent.map(|agent| AgentName::new(agent).unwrap()),
    }
}

/// What the issuer was told to forget, in order.
fn told(house: &House) -> Vec<String> {
    let seen = house.fake.at("/revoke").into_iter();
    seen.map(|seen| seen.form["token"].clone()).collect()
}

async fn code(house: &House, service: &str, scopes: &str) -> Code {
    house.lend(service, scopes).await.unwrap_err().code
}

#[tokio::test]
async fn a_compromised_login_comes_back_by_a_fresh_one_with_another_key() {
    let house = logged_in(|_| {}, rotating(None)).await;
    if let Ok((_, document)) = &mut *house.fake.metadata.lock().unwrap() {
        document["authorization_endpoint"] = json!("https://as.test/authorize");
        document["code_challenge_methods_supported"] = json!(["S256"]);
    }
    // By then the metadata is read again.
    house.clock.advance(Duration::from_hours(25));
    house.lend("items", "a").await.unwrap();
    let old = house.lend("items", "b").await.unwrap();
    let grant = GrantId {
        service: name("items"),
        agent: AgentName::fallback(),
    };
    let begin = async || {
        let uri = "http://127.0.0.1:1/callback".to_owned();
        house.door.begin_login(grant.clone(), uri).await.unwrap()
    };
    let early = begin().await;
    assert!(!early.url().contains("prompt"));

    let report = house.door.revoke(&everything(), true).await.grants;
    let items = &report[0];
    assert_eq!((items.back, items.still_stored), (Return::Login, false));
    assert!(
        items
            .tokens
            .iter()
            .all(|(_, fate)| *fate == Fate::Confirmed)
    );
    // The newest refresh token first, and then each access token that is not over.
    let told_now = told(&house);
    assert_eq!(told_now[0], "rt-3");
    let mut access = told_now[1..].to_vec();
    access.sort();
    assert_eq!(access, ["at-2", "at-3"]);
    assert_eq!(code(&house, "items", "a").await, Code::ServiceRevoked);
    assert!(old.facts().cancel.is_cancelled());
    assert_eq!(house.door.resume().await, 0);
    assert_eq!(code(&house, "items", "a").await, Code::ServiceRevoked);
    house.door.bring_back(Some(&name("items")), None).await;
    assert_eq!(code(&house, "items", "a").await, Code::ServiceRevoked);

    let answered = super::super::super::issuer::tests::answered;
    let late = house.door.finish_login(&early, answered()).await;
    assert_eq!(late, Err(LoginError::Unavailable(Code::ServiceRevoked)));
    let fresh = begin().await;
    assert!(
        fresh.url().contains("prompt=login&max_age=0"),
        "{}",
        fresh.url()
    );
    house.door.finish_login(&fresh, answered()).await.unwrap();
    let new = house.lend("items", "a b").await.unwrap();
    assert_ne!(new.thumbprint(), old.thumbprint());
    assert!(!begin().await.url().contains("prompt"));
    let seen = house.fake.tokens();
    assert_eq!(
        seen.last().unwrap().form["grant_type"],
        "authorization_code"
    );
}

#[tokio::test]
async fn what_an_issuer_was_about_to_give_is_handed_back() {
    let house = house();
    *house.fake.delay.lock().unwrap() = Duration::from_millis(50);
    let waiting = tokio::spawn({
        let door = Arc::clone(&house.door);
        async move {
            let (service, agent) = (name("items"), AgentName::fallback());
            let scopes = ScopeSet::parse("a").unwrap();
            door.lend(&service, &agent, &scopes, Generation(1)).await
        }
    });
    eventually(&house, || house.fake.tokens().len() == 1).await;
    let report = house
        .door
        .revoke(&of(Some("items"), None), false)
        .await
        .grants;
    assert_eq!(report[0].tokens, []);
    let refused = waiting.await.unwrap().unwrap_err();
    assert_eq!(refused.code, Code::ServiceRevoked);
    eventually(&house, || told(&house).len() == 1).await;
    assert_eq!(house.door.status(), []);
    assert_eq!(house.door.resume().await, 1);
    house.lend("items", "a").await.unwrap();
}

#[tokio::test]
async fn a_refresh_under_way_does_not_bring_a_login_back() {
    let house = logged_in(|_| {}, rotating(None)).await;
    house.clock.advance(Duration::from_secs(600));
    *house.fake.delay.lock().unwrap() = Duration::from_millis(50);
    let before = house.fake.tokens().len();
    let waiting = tokio::spawn({
        let door = Arc::clone(&house.door);
        async move {
            let (service, agent) = (name("items"), AgentName::fallback());
            let scopes = ScopeSet::parse("a").unwrap();
            door.lend(&service, &agent, &scopes, Generation(1)).await
        }
    });
    eventually(&house, || house.fake.tokens().len() == before + 1).await;
    house.door.revoke(&of(None, Some("default")), false).await;
    waiting.await.unwrap().unwrap_err();
    // The one that was sent, and the one that came.
    eventually(&house, || {
        let told = told(&house);
        told.contains(&"rt-1".into())
            && told.contains(&"rt-2".into())
            && told.contains(&"at-2".into())
    })
    .await;
    house.door.resume().await;
    assert_eq!(
        code(&house, "items", "a").await,
        Code::ReauthorizationRequired
    );
}

#[tokio::test]
async fn an_agent_that_rides_on_a_shared_grant_is_stopped_alone() {
    let house = logged_in(|_| {}, rotating(None)).await;
    // The agent's own login ends; that of all takes its place.
    house.door.revoke(&of(Some("items"), None), false).await;
    house.door.resume().await;
    let (edition, _) = house.door.client(&name("items")).unwrap();
    let everyone = GrantId {
        service: name("items"),
        agent: AgentName::everyone(),
    };
    let answered = super::super::super::issuer::tests::answered();
    let begun = (edition, house.door.lineages.stops().epoch());
    let client = house.door.take(&everyone, begun, answered).ok().unwrap();
    house.door.finish(&everyone, begun, client).await.unwrap();
    let lend = async |agent: &str| {
        let (service, agent) = (name("items"), AgentName::new(agent).unwrap());
        let scopes = ScopeSet::parse("a b").unwrap();
        house
            .door
            .lend(&service, &agent, &scopes, Generation(1))
            .await
    };
    let shared = lend("other").await.unwrap();
    assert_eq!(lend("default").await.unwrap().facts().id, shared.facts().id);
    let before = told(&house);
    let foreseen = house.door.foresee(&of(None, Some("default")), false).await;
    let report = house
        .door
        .revoke(&of(None, Some("default")), false)
        .await
        .grants;
    assert_eq!(foreseen, report);
    assert!(report[0].rides && report[0].tokens.is_empty());
    assert_eq!(
        lend("default").await.unwrap_err().code,
        Code::ServiceRevoked
    );
    assert_eq!(lend("other").await.unwrap().facts().id, shared.facts().id);
    assert!(!shared.facts().cancel.is_cancelled());
    assert_eq!(told(&house), before);
}

/// The issuer refuses a refresh token that had worked: tokens of the login are given up, and the next login has a new key.
#[tokio::test]
async fn a_refresh_token_that_somebody_else_has_used_ends_everything_of_its_login() {
    let house = logged_in(|_| {}, rotating(None)).await;
    let old = house.lend("items", "a b").await.unwrap();
    house.fake.always(|_| Ok(refused(400, "invalid_grant")));
    assert_eq!(
        code(&house, "items", "a").await,
        Code::ReauthorizationRequired
    );
    eventually(&house, || house.notes.count("Suspected") == 1).await;
    assert_eq!(
        code(&house, "items", "a b").await,
        Code::ReauthorizationRequired
    );
    house.fake.always(rotating(None));
    let (edition, _) = house.door.client(&name("items")).unwrap();
    let grant = GrantId {
        service: name("items"),
        agent: AgentName::fallback(),
    };
    let answered = super::super::super::issuer::tests::answered();
    let client = house
        .door
        .take(&grant, (edition, 0), answered)
        .ok()
        .unwrap();
    house
        .door
        .finish(&grant, (edition, 0), client)
        .await
        .unwrap();
    let new = house.lend("items", "a b").await.unwrap();
    assert_ne!(new.thumbprint(), old.thumbprint());
}

#[tokio::test]
async fn another_issuer_in_the_configuration_is_a_suspicion_and_another_key() {
    let house = logged_in(
        |o| o.client_auth = ClientAuth::SecretBasic(Secret::new("s".into())),
        rotating(None),
    )
    .await;
    let old = house.lend("items", "a b").await.unwrap();
    let (_, client) = house.door.client(&name("items")).unwrap();
    let mut changed = client.settings().clone();
    let mut issuer = (*changed.issuer).clone();
    issuer.assertion_audience = AssertionAudience::TokenEndpoint;
    changed.issuer = Arc::new(issuer);
    let services = vec![(name("items"), CredentialSettings::Oauth(Box::new(changed)))];
    house
        .door
        .replace(Settings { services }, Generation(2))
        .await
        .unwrap();
    eventually(&house, || house.notes.count("KeyRotated") == 1).await;
    assert_eq!(house.notes.count("Suspected"), 1);
    let (service, agent) = (name("items"), AgentName::fallback());
    let scopes = ScopeSet::parse("a b").unwrap();
    let new = house
        .door
        .lend(&service, &agent, &scopes, Generation(2))
        .await
        .unwrap();
    assert_ne!(new.thumbprint(), old.thumbprint());
}

/// What is not in the configuration at the moment of a compromise does not come back by being put there again.
#[tokio::test]
async fn a_compromise_of_everything_covers_what_the_configuration_lacks_just_now() {
    let house = logged_in(|_| {}, rotating(None)).await;
    let (_, client) = house.door.client(&name("items")).unwrap();
    let items = || CredentialSettings::Oauth(Box::new(client.settings().clone()));
    let fixed = |value: &str| CredentialSettings::Bearer(Secret::new(value.into()));
    let replace = async |services, generation| {
        let done = house
            .door
            .replace(Settings { services }, Generation(generation));
        done.await.unwrap();
    };
    let lend = async |service: &str, generation| {
        let (service, agent) = (name(service), AgentName::fallback());
        let scopes = ScopeSet::parse("a b").unwrap();
        let lent = house
            .door
            .lend(&service, &agent, &scopes, Generation(generation));
        lent.await.map(drop).map_err(|refusal| refusal.code)
    };
    let all = |value: &str| vec![(name("items"), items()), (name("fixed"), fixed(value))];
    replace(all("canary-bearer"), 2).await;
    lend("fixed", 2).await.unwrap();
    replace(vec![(name("open"), CredentialSettings::Nothing)], 3).await;
    let foreseen = house.door.foresee(&everything(), true).await;
    let mut report = house.door.revoke(&everything(), true).await.grants;
    // What was lent under that configuration is told to its issuer; nobody foresees it.
    assert_eq!(report[0].tokens, [("access_token", Fate::Confirmed)]);
    report.remove(0);
    assert_eq!(foreseen, report);
    let gone = report.iter().find(|one| one.how == "unconfigured").unwrap();
    assert_eq!(gone.grant.service, name("items"));
    replace(all("canary-bearer"), 4).await;
    assert_eq!(lend("fixed", 4).await, Err(Code::ServiceRevoked));
    // A login for all of the service does not bring the agent's own old one back.
    let everyone = AgentName::everyone();
    house
        .door
        .lift(
            &GrantId {
                service: name("items"),
                agent: everyone,
            },
            None,
        )
        .await;
    assert_eq!(lend("items", 4).await, Err(Code::ReauthorizationRequired));
    replace(all("another"), 5).await;
    lend("fixed", 5).await.unwrap();
}

/// A reload that changes a service leaves tokens of the earlier edition at their issuer.
#[tokio::test]
async fn tokens_of_an_earlier_edition_of_a_service_are_revoked_too() {
    let house = house();
    house.lend("items", "a").await.unwrap();
    let mut changed = oauth();
    changed.audience = Some("another".into());
    let changed = CredentialSettings::Oauth(Box::new(changed));
    let replace = async |services, generation| {
        let done = house
            .door
            .replace(Settings { services }, Generation(generation));
        done.await.unwrap();
    };
    replace(vec![(name("items"), changed)], 2).await;
    let report = house
        .door
        .revoke(&of(Some("items"), None), false)
        .await
        .grants;
    assert_eq!(report[0].tokens, [("access_token", Fate::Confirmed)]);
    assert_eq!(told(&house).len(), 1);
    house.door.resume().await;
    // And those of a service that is gone.
    let (service, agent) = (name("items"), AgentName::fallback());
    let scopes = ScopeSet::parse("a").unwrap();
    let lent = house.door.lend(&service, &agent, &scopes, Generation(2));
    lent.await.unwrap();
    replace(Vec::new(), 3).await;
    let report = house.door.revoke(&everything(), false).await.grants;
    assert_eq!(report[0].tokens, [("access_token", Fate::Confirmed)]);
    assert_eq!(told(&house).len(), 2);
}

/// A house whose logins are made on another device.
async fn with_devices() -> House {
    let house = logged_in(
        |o| {
            o.grant = Grant::DeviceCode {
                scopes: ScopeSet::parse("a b").unwrap(),
            };
        },
        rotating(None),
    )
    .await;
    if let Ok((_, document)) = &mut *house.fake.metadata.lock().unwrap() {
        document["device_authorization_endpoint"] = json!("https://as.test/device");
    }
    house.clock.advance(Duration::from_hours(25));
    house
}

async fn device(house: &House) -> Arc<Device> {
    let offer = json!({
        "device_code": "dc", "user_code": "WDJB", "verification_uri": "https://as.test/activate",
        "expires_in": 600, "interval": 1,
    });
    let grant = GrantId {
        service: name("items"),
        agent: AgentName::fallback(),
    };
    // The token of before has ended, and nothing else is asked meanwhile.
    house.fake.then(Ok(reply(200, &[], &offer)));
    Arc::new(house.door.begin_device(grant).await.unwrap())
}

/// What a device's login brings stands in the answer to its question, so it is there before the login is finished.
#[tokio::test]
async fn tokens_of_a_device_login_that_comes_too_late_are_handed_back() {
    let house = with_devices().await;
    let begun = device(&house).await;
    let came = house.door.await_device(&begun).await.unwrap();
    house.door.revoke(&everything(), false).await;
    let late = house.door.finish_device(&begun, came).await;
    assert_eq!(late, Err(LoginError::Unavailable(Code::ServiceRevoked)));
    // That of the earlier login, and then what came too late.
    eventually(&house, || told(&house).len() == 3).await;
    assert_eq!(told(&house), ["rt-1", "rt-2", "at-2"]);
    house.door.resume().await;

    // Another configuration: they go to the client that asked.
    let begun = device(&house).await;
    let came = house.door.await_device(&begun).await.unwrap();
    let none = Settings {
        services: Vec::new(),
    };
    house.door.replace(none, Generation(2)).await.unwrap();
    let late = house.door.finish_device(&begun, came).await;
    assert_eq!(late, Err(LoginError::Unavailable(Code::ConfigChanged)));
    eventually(&house, || told(&house).len() == 5).await;
    assert_eq!(told(&house)[3..], ["rt-3", "at-3"]);
}

/// Taken, and not used when the revocation comes.
#[tokio::test]
async fn tokens_of_a_device_login_that_nobody_has_used_are_revoked_with_the_rest() {
    let house = with_devices().await;
    let begun = device(&house).await;
    let came = house.door.await_device(&begun).await.unwrap();
    let when = (begun.edition, begun.epoch);
    let client = house.door.take(&begun.grant, when, came.answered);
    let client = client.ok().unwrap();
    let report = house.door.revoke(&everything(), true).await.grants;
    assert_eq!(told(&house), ["rt-1", "rt-2", "at-2"]);
    assert_eq!(report[0].tokens.len(), 3);
    let late = house.door.finish(&begun.grant, when, client).await;
    assert_eq!(late, Err(LoginError::Unavailable(Code::ServiceRevoked)));
    assert_eq!(code(&house, "items", "a").await, Code::ServiceRevoked);
}
