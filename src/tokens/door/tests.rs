//! Door, worker and keeper together, with a scripted issuer and a clock that stands still unless turned.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use super::super::issuer::tests::{FakeIssuer, Notebook, Seen, granted, oauth, refused};
use super::super::settings::{ClientAuth, CredentialSettings, Grant, IssuerSettings, Redirect};
use super::super::transport::Transport;
use super::*;
use crate::upstream::{IssuerError, TargetSettings};
use crate::vocab::{Secret, WallTime};

mod revoked;

struct OneLine(Arc<FakeIssuer>);

impl Lines for OneLine {
    fn open(&self, _: &IssuerSettings) -> Option<Arc<dyn Transport>> {
        Some(Arc::<FakeIssuer>::clone(&self.0) as Arc<dyn Transport>)
    }

    fn to_api(&self, _: &TargetSettings) -> Option<Arc<dyn Transport>> {
        Some(Arc::<FakeIssuer>::clone(&self.0) as Arc<dyn Transport>)
    }
}

struct House {
    door: Arc<Door>,
    fake: Arc<FakeIssuer>,
    notes: Arc<Notebook>,
    clock: Clock,
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

fn settings() -> Settings {
    let key = CredentialSettings::Header {
        name: "x-api-key".parse().unwrap(),
        value: Secret::new("canary-key".into()),
    };
    Settings {
        services: vec![
            (name("items"), CredentialSettings::Oauth(Box::new(oauth()))),
            (name("llm"), key),
            (name("open"), CredentialSettings::Nothing),
            (
                name("fixed"),
                CredentialSettings::Bearer(Secret::new("canary-bearer".into())),
            ),
        ],
    }
}

fn house() -> House {
    let (house, worker) = still_house();
    drop(tokio::spawn(worker.run()));
    house
}

/// A house whose worker has not begun.
fn still_house() -> (House, Worker) {
    let fake = FakeIssuer::new();
    let notes = Arc::new(Notebook::default());
    let clock = Clock::manual(WallTime(1_700_000_000_000));
    let (door, worker) = assemble(
        settings(),
        clock.clone(),
        Arc::new(OneLine(Arc::clone(&fake))),
        Arc::<Notebook>::clone(&notes),
        Arc::default(),
        1,
    )
    .unwrap();
    let house = House {
        door,
        fake,
        notes,
        clock,
    };
    (house, worker)
}

impl House {
    async fn lend(&self, service: &str, scopes: &str) -> Result<Lease, Unavailable> {
        self.door
            .lend(
                &name(service),
                &AgentName::fallback(),
                &ScopeSet::parse(scopes).unwrap(),
                Generation(1),
            )
            .await
    }
}

#[tokio::test]
async fn five_hundred_cold_requests_are_one_token_request() {
    let house = house();
    *house.fake.delay.lock().unwrap() = Duration::from_millis(30);
    let leases = join_all((0..500).map(|_| house.lend("items", "a"))).await;
    let ids: Vec<u64> = leases
        .iter()
        .map(|l| l.as_ref().unwrap().facts().id)
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(house.fake.tokens().len(), 1);
    let lease = house.lend("items", "a").await.unwrap();
    assert_eq!(lease.facts().binding, Binding::Dpop);
    assert!(lease.thumbprint().is_some());
    assert_eq!(house.notes.count("Issued"), 1);
    house.lend("items", "b").await.unwrap();
    assert_eq!(house.fake.tokens().len(), 2);
}

#[tokio::test]
async fn static_credentials_need_no_worker() {
    let (house, worker) = still_house();
    drop(worker);
    for (service, binding) in [
        ("llm", Binding::Static),
        ("open", Binding::None),
        ("fixed", Binding::Bearer),
    ] {
        let lease = house.lend(service, "").await.unwrap();
        assert_eq!(lease.facts().binding, binding);
        assert_eq!(lease.facts().expires, None);
        let again = house.lend(service, "").await.unwrap();
        assert_eq!(lease.facts().id, again.facts().id);
        assert!(!format!("{lease:?}").contains("canary"));
    }
    let cold = house.lend("items", "a").await.unwrap_err();
    assert_eq!(cold.code, Code::Draining);
}

#[tokio::test]
async fn an_asker_who_leaves_does_not_end_the_fetch() {
    let house = house();
    *house.fake.delay.lock().unwrap() = Duration::from_millis(20);
    let left = tokio::time::timeout(Duration::from_millis(5), house.lend("items", "a")).await;
    assert!(left.is_err());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(house.door.status().len(), 1);
    house.lend("items", "a").await.unwrap();
    assert_eq!(house.fake.tokens().len(), 1);
}

#[tokio::test]
async fn nobody_waits_longer_than_the_limit_and_the_token_still_comes() {
    let (mut house, worker) = still_house();
    Arc::get_mut(&mut house.door).unwrap().wait = Duration::from_millis(20);
    drop(tokio::spawn(worker.run()));
    *house.fake.delay.lock().unwrap() = Duration::from_millis(60);
    let refusal = house.lend("items", "a").await.unwrap_err();
    assert_eq!(refusal.code, Code::AsTimeout);
    assert_eq!(refusal.retry_after, Some(Duration::from_secs(1)));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(house.lend("items", "a").await.is_ok());
    assert_eq!(house.fake.tokens().len(), 1);
}

#[tokio::test]
async fn an_issuer_that_hangs_is_given_up() {
    let (house, mut worker) = still_house();
    worker.patience = Duration::from_millis(20);
    drop(tokio::spawn(worker.run()));
    *house.fake.delay.lock().unwrap() = Duration::from_mins(1);
    let refusal = house.lend("items", "a").await.unwrap_err();
    assert_eq!(refusal.code, Code::AsTimeout);
    assert_eq!(house.door.status()[0].trouble, Some(Code::AsTimeout));
}

#[tokio::test]
async fn a_fetch_that_panics_harms_nobody_else() {
    let house = house();
    house.fake.always(|seen| {
        assert!(
            !seen.form["scope"].contains("bomb"),
            "a defect in the fetch"
        );
        Ok(granted(&json!({})))
    });
    let refusal = house.lend("items", "bomb").await.unwrap_err();
    assert_eq!(refusal.code, Code::Internal);
    assert!(house.lend("items", "a").await.is_ok());
}

#[tokio::test]
async fn a_refusal_reaches_everybody_and_is_remembered() {
    let house = house();
    house.fake.always(|_| Ok(refused(400, "invalid_client")));
    let all = join_all((0..50).map(|_| house.lend("items", "a"))).await;
    for refusal in all {
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal.code, Code::ClientMisconfigured);
        assert_eq!(refusal.oauth_error, Some("invalid_client"));
    }
    house.lend("items", "a").await.unwrap_err();
    assert_eq!(house.fake.tokens().len(), 1);
    assert_eq!(
        house.door.status()[0].trouble,
        Some(Code::ClientMisconfigured)
    );
    house.fake.always(|_| Ok(granted(&json!({}))));
    house.clock.advance(Duration::from_secs(2));
    house.lend("items", "a").await.unwrap();
    assert_eq!(house.door.status()[0].trouble, None);
}

#[tokio::test]
async fn two_hundred_reports_are_one_new_token() {
    let house = house();
    let lease = house.lend("items", "a").await.unwrap();
    for _ in 0..200 {
        house.door.report(&lease, Feedback::InvalidToken);
    }
    let next = house.lend("items", "a").await.unwrap();
    assert_ne!(next.facts().id, lease.facts().id);
    assert_eq!(house.fake.tokens().len(), 2);
    house.door.report(&lease, Feedback::InvalidToken);
    let same = house.lend("items", "a").await.unwrap();
    assert_eq!(same.facts().id, next.facts().id);
    house.door.report(&next, Feedback::InvalidTokenAgain);
    let rest = house.lend("items", "a").await.unwrap_err();
    assert_eq!(rest.code, Code::UpstreamRejectedCredential);
    assert_eq!(rest.retry_after, Some(Duration::from_secs(30)));
    assert_eq!(house.fake.tokens().len(), 2);
}

#[tokio::test]
async fn an_expired_token_is_never_lent() {
    let house = house();
    let first = house.lend("items", "a").await.unwrap();
    house.clock.advance(Duration::from_secs(600));
    house.fake.always(|_| Err(IssuerError::Unreachable));
    assert_eq!(
        house.lend("items", "a").await.unwrap_err().code,
        Code::AsUnavailable
    );
    house.fake.always(|_| Ok(granted(&json!({}))));
    house.clock.advance(Duration::from_secs(1));
    let second = house.lend("items", "a").await.unwrap();
    assert_ne!(first.facts().id, second.facts().id);
}

#[tokio::test]
async fn a_token_in_use_is_renewed_before_it_ends() {
    let house = house();
    let first = house.lend("items", "a").await.unwrap();
    house.clock.advance(Duration::from_secs(500));
    house.lend("items", "a").await.unwrap();
    // Any word to the worker makes it look at the clock.
    house.lend("items", "b").await.unwrap();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        if house.lend("items", "a").await.unwrap().facts().id != first.facts().id {
            return;
        }
    }
    panic!("not renewed");
}

#[tokio::test]
async fn status_tells_what_is_in_use_and_nothing_secret() {
    let house = house();
    let lease = house.lend("items", "a").await.unwrap();
    let status = house.door.status();
    assert_eq!(status.len(), 1);
    assert_eq!(status[0].lease, Some(lease.facts().id));
    assert_eq!(status[0].thumbprint.as_deref(), lease.thumbprint());
    assert_eq!(status[0].expires_in, Some(Duration::from_secs(600)));
    assert!(!format!("{status:?}").contains("canary"));
    let bindings: Vec<_> = house.door.bindings().into_iter().map(|(_, b)| b).collect();
    assert_eq!(
        bindings,
        [
            Binding::Bearer,
            Binding::Dpop,
            Binding::Static,
            Binding::None
        ]
    );
    let notes = house.notes.0.lock().unwrap().join("\n");
    assert!(!notes.contains("canary"), "{notes}");
}

#[tokio::test]
async fn a_reload_keeps_what_did_not_change() {
    let house = house();
    let kept = house.lend("items", "a").await.unwrap();
    let fixed = house.lend("fixed", "").await.unwrap();
    house.door.replace(settings(), Generation(2)).await.unwrap();
    assert_eq!(
        house.lend("items", "a").await.unwrap().facts().id,
        kept.facts().id
    );
    assert_eq!(
        house.lend("fixed", "").await.unwrap().facts().id,
        fixed.facts().id
    );
    assert_eq!(house.fake.tokens().len(), 1);
}

#[tokio::test]
async fn a_reload_ends_what_changed_and_refuses_old_permits_for_it() {
    let house = house();
    let old = house.lend("items", "a").await.unwrap();
    let mut changed = settings();
    let CredentialSettings::Oauth(oauth) = &mut changed.services[0].1 else {
        panic!("items is oauth")
    };
    oauth.client_auth = ClientAuth::SecretPost(Secret::new("new".into()));
    changed.services.remove(3);
    house.door.replace(changed, Generation(2)).await.unwrap();
    for service in ["items", "fixed"] {
        assert_eq!(
            house.lend(service, "a").await.unwrap_err().code,
            Code::ConfigChanged
        );
    }
    let (agent, scopes) = (AgentName::fallback(), ScopeSet::parse("a").unwrap());
    let new = house
        .door
        .lend(&name("items"), &agent, &scopes, Generation(2))
        .await
        .unwrap();
    assert_ne!(new.facts().id, old.facts().id);
    assert_ne!(new.thumbprint(), old.thumbprint());
    let seen: Vec<Seen> = house.fake.tokens();
    assert_eq!(seen[1].form["client_secret"], "new");
    assert_eq!(house.door.status().len(), 1);
}

#[tokio::test]
async fn settings_that_cannot_work_change_nothing() {
    let house = house();
    let lease = house.lend("items", "a").await.unwrap();
    let with = |change: &dyn Fn(&mut super::super::settings::OauthSettings)| {
        let mut oauth = oauth();
        change(&mut oauth);
        Settings {
            services: vec![(name("items"), CredentialSettings::Oauth(Box::new(oauth)))],
        }
    };
    let bad = [
        with(&|o| o.binding = Binding::Mtls),
        with(&|o| o.parameters = vec![("scope".into(), "x".into())]),
        with(&|o| {
            o.client_auth = ClientAuth::PrivateKeyJwt {
                key_pem: Secret::new(b"canary".to_vec()),
                kid: None,
            };
        }),
        with(&|o| {
            o.issuer = Arc::new(IssuerSettings {
                url: "http://as.test".into(),
                ..(*o.issuer).clone()
            });
        }),
        Settings {
            services: vec![(
                name("items"),
                CredentialSettings::Bearer(Secret::new("canary\n".into())),
            )],
        },
    ];
    for settings in bad {
        let error = house
            .door
            .replace(settings, Generation(2))
            .await
            .unwrap_err();
        assert!(!error.to_string().contains("canary"), "{error}");
    }
    assert_eq!(
        house.lend("items", "a").await.unwrap().facts().id,
        lease.facts().id
    );
}

/// A house with a login for `a b`, whose issuer answers `scope` as this says.
async fn logged_in(
    change: impl FnOnce(&mut super::super::settings::OauthSettings),
    rule: impl Fn(&Seen) -> Result<crate::upstream::IssuerReply, IssuerError> + Send + Sync + 'static,
) -> House {
    let fake = FakeIssuer::new();
    let notes = Arc::new(Notebook::default());
    let clock = Clock::manual(WallTime(1_700_000_000_000));
    let mut client = oauth();
    client.grant = Grant::AuthorizationCode {
        redirect: Redirect {
            address: [127, 0, 0, 1].into(),
            port: None,
            path: "/callback".into(),
        },
        scopes: ScopeSet::parse("a b").unwrap(),
    };
    change(&mut client);
    let services = vec![(name("items"), CredentialSettings::Oauth(Box::new(client)))];
    let (door, worker) = assemble(
        Settings { services },
        clock.clone(),
        Arc::new(OneLine(Arc::clone(&fake))),
        Arc::<Notebook>::clone(&notes),
        Arc::default(),
        1,
    )
    .unwrap();
    drop(tokio::spawn(worker.run()));
    fake.always(rule);
    let house = House {
        door,
        fake,
        notes,
        clock,
    };
    let (_, client) = house.door.client(&name("items")).unwrap();
    if client.settings().grant.refreshes() {
        let answered = super::super::issuer::tests::answered();
        client.take_answer(&AgentName::fallback(), answered, u64::MAX);
        house.lend("items", "a b").await.unwrap();
    }
    house
}

/// An agent whose own login has ended rides on the service's with the very request that found out.
#[tokio::test]
async fn an_own_login_that_ends_leaves_the_agent_that_of_the_service() {
    let count = std::sync::atomic::AtomicUsize::new(1);
    let ended = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let own = Arc::clone(&ended);
    let rule = move |seen: &Seen| {
        // The own login was the first, so its refresh token is the first one.
        let first = seen.form.get("refresh_token").is_some_and(|t| t == "rt-1");
        if first && own.load(std::sync::atomic::Ordering::SeqCst) {
            return Ok(refused(400, "invalid_grant"));
        }
        let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(granted(
            &json!({"refresh_token": format!("rt-{number}"), "access_token": format!("at-{number}")}),
        ))
    };
    let house = logged_in(|_| {}, rule).await;
    let shared = GrantId {
        service: name("items"),
        agent: AgentName::everyone(),
    };
    let (_, client) = house.door.client(&name("items")).unwrap();
    let answered = super::super::issuer::tests::answered();
    client.take_answer(&AgentName::everyone(), answered, u64::MAX);
    let key = house.door.shelf.catalogue.load().login_key(shared);
    let lease = house.door.wait_for(key.unwrap(), WAIT_MAX).await.unwrap();
    assert!(lease.facts().grant.agent.is_everyone());
    let lease = house.lend("items", "a b").await.unwrap();
    assert_eq!(lease.facts().grant.agent, AgentName::fallback());

    ended.store(true, std::sync::atomic::Ordering::SeqCst);
    house.clock.advance(Duration::from_secs(600));
    let lease = house.lend("items", "a b").await.unwrap();
    assert!(lease.facts().grant.agent.is_everyone());
    assert_eq!(house.notes.count("GrantDead"), 1);
    let told: Vec<_> = house.door.standing();
    let told: Vec<_> = told
        .iter()
        .map(|s| (s.grant.agent.is_everyone(), s.health))
        .collect();
    assert_eq!(told, [(true, "healthy")]);

    // A new login of its own is its own again.
    ended.store(false, std::sync::atomic::Ordering::SeqCst);
    let answered = super::super::issuer::tests::answered();
    client.take_answer(&AgentName::fallback(), answered, u64::MAX);
    let own = GrantId {
        service: name("items"),
        agent: AgentName::fallback(),
    };
    let key = house.door.shelf.catalogue.load().login_key(own).unwrap();
    let answered = Command::Answered(key.clone());
    house.door.commands.send(answered).await.unwrap();
    house.door.wait_for(key, WAIT_MAX).await.unwrap();
    let lease = house.lend("items", "a b").await.unwrap();
    assert_eq!(lease.facts().grant.agent, AgentName::fallback());
}

/// Rotates at each refresh; `scope` is what the answer says, `None` for nothing.
fn rotating(
    scope: Option<&'static str>,
) -> impl Fn(&Seen) -> Result<crate::upstream::IssuerReply, IssuerError> {
    let count = std::sync::atomic::AtomicUsize::new(1);
    move |_| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let mut more = json!({"refresh_token": format!("rt-{number}"), "access_token": format!("at-{number}")});
        if let Some(scope) = scope {
            more["scope"] = json!(scope);
        }
        Ok(granted(&more))
    }
}

fn asked_scopes(house: &House) -> Vec<String> {
    let seen = house.fake.tokens().into_iter();
    seen.map(|seen| seen.form.get("scope").cloned().unwrap_or_default())
        .collect()
}

#[tokio::test]
async fn five_hundred_requests_at_expiry_are_one_refresh() {
    let house = logged_in(|_| {}, rotating(None)).await;
    house.lend("items", "a").await.unwrap();
    house.clock.advance(Duration::from_secs(600));
    *house.fake.delay.lock().unwrap() = Duration::from_millis(30);
    let before = house.fake.tokens().len();
    let leases = join_all((0..500).map(|_| house.lend("items", "a"))).await;
    assert!(leases.iter().all(Result::is_ok));
    assert_eq!(house.fake.tokens().len(), before + 1);
}

#[tokio::test]
async fn rules_of_one_login_have_tokens_of_their_own() {
    let house = logged_in(|_| {}, rotating(None)).await;
    for _ in 0..2 {
        for scopes in ["a", "b"] {
            let lease = house.lend("items", scopes).await.unwrap();
            assert_eq!(lease.facts().scopes.to_string(), scopes);
        }
    }
    assert_eq!(asked_scopes(&house), ["", "a", "b"]);
    let both = join_all([house.lend("items", "a b"), house.lend("items", "a")]).await;
    assert!(both.iter().all(Result::is_ok));
    assert_eq!(house.fake.tokens().len(), 3);
}

#[tokio::test]
async fn an_issuer_that_ignores_scope_is_believed_and_one_token_serves_all() {
    let house = logged_in(|_| {}, rotating(Some("a b"))).await;
    for scopes in ["a", "b", "a b", "a"] {
        let lease = house.lend("items", scopes).await.unwrap();
        assert_eq!(lease.facts().scopes.to_string(), "a b");
    }
    assert_eq!(asked_scopes(&house), ["", "a"]);
    assert_eq!(house.door.status().len(), 1);
    // After a restart there is no whole token yet: the first one that comes takes that place.
    house.clock.advance(Duration::from_secs(601));
    house.lend("items", "b").await.unwrap();
    house.lend("items", "a").await.unwrap();
    assert_eq!(asked_scopes(&house), ["", "a", ""]);
}

#[tokio::test]
async fn an_issuer_that_ends_the_last_token_with_each_refresh_gets_by_with_one() {
    let house = logged_in(|_| {}, rotating(None)).await;
    for _ in 0..2 {
        let a = house.lend("items", "a").await.unwrap();
        house.lend("items", "b").await.unwrap();
        // The API refuses the first one: the second refresh has ended it.
        house.door.report(&a, Feedback::InvalidToken);
        drop(house.lend("items", "a").await);
        let b = house.lend("items", "b").await.unwrap();
        house.door.report(&b, Feedback::InvalidToken);
        drop(house.lend("items", "b").await);
        house.clock.advance(Duration::from_secs(31));
    }
    let before = house.fake.tokens().len();
    for scopes in ["a", "b", "a b"] {
        let lease = house.lend("items", scopes).await.unwrap();
        assert_eq!(lease.facts().scopes.to_string(), "a b");
    }
    assert!(house.fake.tokens().len() <= before + 1);
    assert_eq!(house.door.status().len(), 1);
}

#[tokio::test]
async fn a_refresh_under_way_at_the_end_is_kept_and_nothing_new_begins() {
    let house = logged_in(|_| {}, rotating(None)).await;
    *house.fake.delay.lock().unwrap() = Duration::from_millis(150);
    let asking = house.lend("items", "a");
    let closing = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        house.door.close().await;
    };
    let (asked, ()) = tokio::join!(asking, closing);
    assert!(asked.is_ok(), "{asked:?}");
    let (_, client) = house.door.client(&name("items")).unwrap();
    assert!(client.is_logged_in(&AgentName::fallback()));
    let late = house.lend("items", "b").await.unwrap_err();
    assert_eq!(late.code, Code::Draining);
    assert!(house.door.status().is_empty(), "nothing stays in memory");
    assert!(house.fake.at("/revoke").is_empty());
    house.door.close().await;
}

#[tokio::test]
async fn at_the_end_the_refresh_token_is_revoked_and_then_what_came_of_it() {
    let house = logged_in(|o| o.revoke_on_exit = true, rotating(None)).await;
    house.lend("items", "a").await.unwrap();
    house.door.close().await;
    let revoked: Vec<(String, String)> = house
        .fake
        .at("/revoke")
        .into_iter()
        .map(|seen| {
            (
                seen.form["token_type_hint"].clone(),
                seen.form["token"].clone(),
            )
        })
        .collect();
    assert_eq!(revoked[0], ("refresh_token".into(), "rt-2".into()));
    let mut access: Vec<&str> = revoked[1..].iter().map(|(_, token)| &**token).collect();
    access.sort_unstable();
    assert_eq!(access, ["at-1", "at-2"]);
    assert_eq!(house.notes.count("Revoked"), 3);
    let (_, client) = house.door.client(&name("items")).unwrap();
    assert!(!client.is_logged_in(&AgentName::fallback()));
}

#[tokio::test]
async fn a_session_that_nobody_uses_ends_and_leaves_no_key() {
    let change = |o: &mut super::super::settings::OauthSettings| {
        o.grant = Grant::ClientCredentials;
        o.revoke_on_exit = true;
    };
    let house = logged_in(change, |_| Ok(granted(&json!({"expires_in": 3600})))).await;
    let first = house.lend("items", "a").await.unwrap();
    house.clock.advance(Duration::from_mins(9));
    let same = house.lend("items", "a").await.unwrap();
    assert_eq!(first.facts().id, same.facts().id);
    house.clock.advance(Duration::from_mins(10));
    eventually(&house, || house.fake.at("/revoke").len() == 1).await;
    assert_eq!(house.notes.count("Revoked"), 1);
    assert!(house.door.status().is_empty());
    let second = house.lend("items", "a").await.unwrap();
    assert_ne!(first.thumbprint(), second.thumbprint());
    house.door.close().await;
    assert_eq!(house.fake.at("/revoke").len(), 2);
}

/// Waits while the worker works; each round gives it a reason to look at the clock.
async fn eventually(house: &House, done: impl Fn() -> bool) {
    for _ in 0..4000 {
        if done() {
            return;
        }
        drop(house.door.commands.send(Command::Look).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not come to that");
}

#[tokio::test]
async fn a_token_that_the_issuer_takes_for_longer_than_we_use_it_is_revoked_then() {
    let change = |o: &mut super::super::settings::OauthSettings| o.grant = Grant::ClientCredentials;
    let count = std::sync::atomic::AtomicUsize::new(1);
    let each_its_own = move |_: &Seen| {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let token = format!("at-{number}");
        Ok(granted(
            &json!({"expires_in": 86_400, "access_token": token}),
        ))
    };
    let house = logged_in(change, each_its_own).await;
    house.lend("items", "a").await.unwrap();
    house.clock.advance(Duration::from_secs(1440));
    house.lend("items", "a").await.unwrap();
    eventually(&house, || house.fake.tokens().len() == 2).await;
    assert!(
        house.fake.at("/revoke").is_empty(),
        "requests may still be on it"
    );
    house.clock.advance(Duration::from_secs(360));
    eventually(&house, || house.fake.at("/revoke").len() == 1).await;
    assert_eq!(house.fake.at("/revoke")[0].form["token"], "at-1");
    // An issuer that gives out the same token again: it is still in use.
    let house = logged_in(change, |_| Ok(granted(&json!({"expires_in": 86_400})))).await;
    house.lend("items", "a").await.unwrap();
    house.clock.advance(Duration::from_secs(1440));
    house.lend("items", "a").await.unwrap();
    eventually(&house, || house.fake.tokens().len() == 2).await;
    house.clock.advance(Duration::from_secs(360));
    house.lend("items", "a").await.unwrap();
    house.lend("items", "b").await.unwrap();
    assert!(house.fake.at("/revoke").is_empty());
    // One that goes on as a login does is left alone: some issuers end the login with it (RFC 7009 §2.1).
    let long = |_: &Seen| {
        Ok(granted(
            &json!({"expires_in": 86_400, "refresh_token": "rt"}),
        ))
    };
    let house = logged_in(|_| {}, long).await;
    house.clock.advance(Duration::from_secs(1801));
    house.lend("items", "a b").await.unwrap();
    house.clock.advance(Duration::from_secs(1801));
    house.lend("items", "a b").await.unwrap();
    assert!(house.fake.at("/revoke").is_empty());
}

#[tokio::test]
async fn what_was_in_doubt_at_the_start_is_pursued_through_an_outage() {
    let house = logged_in(|_| {}, rotating(None)).await;
    let (_, client) = house.door.client(&name("items")).unwrap();
    house.clock.advance(Duration::from_secs(601));
    house.fake.always(|_| Err(IssuerError::Unreachable));
    house.lend("items", "a b").await.unwrap_err();
    let fake = Arc::clone(&house.fake);
    // A worker that begins with this lineage, and no agent that asks.
    let (door, mut worker) = assemble(
        Settings {
            services: vec![(
                name("items"),
                CredentialSettings::Oauth(Box::new(client.settings().clone())),
            )],
        },
        house.clock.clone(),
        Arc::new(OneLine(Arc::clone(&fake))),
        Arc::<Notebook>::clone(&house.notes),
        Arc::clone(&house.door.lineages),
        2,
    )
    .unwrap();
    assert_eq!(worker.unsettled.len(), 1);
    worker.patience = Duration::from_secs(1);
    drop(tokio::spawn(worker.run()));
    let other = House {
        door,
        fake: Arc::clone(&fake),
        notes: Arc::clone(&house.notes),
        clock: house.clock.clone(),
    };
    let sent = fake.tokens().len();
    eventually(&other, || fake.tokens().len() > sent).await;
    fake.always(rotating(None));
    house.clock.advance(Duration::from_secs(1));
    eventually(&other, || {
        !other.door.status().is_empty() && other.door.status()[0].lease.is_some()
    })
    .await;
}
