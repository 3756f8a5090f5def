//! Refresh tokens, from the login to the issuer's last word, with a real store under them.

use std::path::Path;

use serde_json::json;
use tempfile::TempDir;

use super::super::super::transport::Transport;
use super::super::tests::{FakeIssuer, Notebook, granted, oauth, refused, reply};
use super::*;
use crate::store::{self, Store, StoreKey};
use crate::tokens::Brought;
use crate::tokens::settings::FirstRefresh;
use crate::tokens::settings::Redirect;
use crate::tokens::stops::Selection;
use crate::upstream::IssuerError;
use crate::vocab::{Clock, WallTime};

struct Bench {
    fake: Arc<FakeIssuer>,
    client: Client,
    notes: Notebook,
}

fn open(dir: &Path) -> Lineages {
    let key = Secret::new("07".repeat(32).into_bytes());
    let settings = store::Settings {
        path: dir.join("store"),
        key: StoreKey::parse(&key).unwrap(),
        previous: None,
    };
    let (store, lost) = Store::open(settings).unwrap();
    Lineages::load(store, &lost.rows, &Notebook::default())
}

fn settings() -> OauthSettings {
    let redirect = Redirect {
        address: [127, 0, 0, 1].into(),
        port: None,
        path: "/callback".into(),
    };
    OauthSettings {
        grant: Grant::AuthorizationCode {
            redirect,
            scopes: scopes(),
        },
        resource: Some("https://api.test".into()),
        ..oauth()
    }
}

fn scopes() -> ScopeSet {
    ScopeSet::parse("a b").unwrap()
}

fn agent() -> AgentName {
    AgentName::fallback()
}

static AGENT: std::sync::LazyLock<AgentName> = std::sync::LazyLock::new(AgentName::fallback);

fn token(refresh: Option<&str>) -> IssuerReply {
    granted(&refresh.map_or_else(|| json!({}), |text| json!({ "refresh_token": text })))
}

/// A client as it is after a start with this store; `None`: memory.
fn bench(dir: Option<&Path>, change: impl FnOnce(&mut OauthSettings)) -> Bench {
    let mut settings = settings();
    change(&mut settings);
    let fake = FakeIssuer::new();
    let transport: Arc<dyn Transport> = Arc::<FakeIssuer>::clone(&fake);
    let clock = Clock::manual(WallTime(1_700_000_000_000));
    let issuer = Issuer::new(Arc::clone(&settings.issuer), transport, clock).unwrap();
    let service = ServiceName::new("items").unwrap();
    let client = Client::new(service, settings, Arc::new(issuer)).unwrap();
    let lineages = dir.map(open).unwrap_or_default();
    Bench {
        fake,
        client: client.with_lineages(Arc::new(lineages)),
        notes: Notebook::default(),
    }
}

impl Bench {
    fn log_in(&self) {
        let answered = Answered::Code(Brought {
            code: Secret::new("code".into()),
            verifier: Secret::new("verifier".into()),
            redirect_uri: "http://127.0.0.1:1/callback".into(),
        });
        self.client.take_answer(&agent(), answered, u64::MAX);
    }

    async fn obtain(&self) -> Result<Obtained, Failure> {
        self.client.obtain(&agent(), &scopes(), &self.notes).await
    }

    async fn code(&self) -> Code {
        self.obtain().await.err().unwrap().code
    }

    /// The refresh tokens that were sent.
    fn sent(&self) -> Vec<String> {
        let seen = self.fake.tokens().into_iter();
        seen.filter_map(|seen| seen.form.get("refresh_token").cloned())
            .collect()
    }
}

#[tokio::test]
async fn a_login_goes_on_with_each_next_refresh_token_and_the_same_key() {
    let dir = TempDir::new().unwrap();
    let thumbprint = {
        let bench = bench(Some(dir.path()), |_| {});
        assert_eq!(bench.code().await, Code::ReauthorizationRequired);
        bench.log_in();
        bench.fake.then(Ok(token(Some("rt-1"))));
        let key = bench.obtain().await.unwrap().token.key.unwrap();
        bench.fake.then(Ok(token(Some("rt-2"))));
        bench.obtain().await.unwrap();
        bench.fake.then(Ok(token(None)));
        bench.obtain().await.unwrap();
        assert_eq!(bench.sent(), ["rt-1", "rt-2"]);
        let seen = bench.fake.tokens();
        let form = &seen.last().unwrap().form;
        assert_eq!(form["grant_type"], "refresh_token");
        assert_eq!(form["resource"], "https://api.test");
        assert!(!form.contains_key("scope") && seen[1].proof().is_some());
        key.thumbprint().to_owned()
    };
    // After a restart.
    let bench = bench(Some(dir.path()), |_| {});
    assert!(bench.client.is_logged_in(&agent()));
    bench.fake.then(Ok(token(Some("rt-3"))));
    let key = bench.obtain().await.unwrap().token.key.unwrap();
    assert_eq!(bench.sent(), ["rt-2"]);
    assert_eq!(key.thumbprint(), thumbprint);
    assert_eq!(bench.client.key(&agent()).unwrap().thumbprint(), thumbprint);
    assert_eq!(bench.notes.count("GrantInDoubt"), 0);
}

#[tokio::test]
async fn in_memory_a_login_ends_with_the_process_and_not_before() {
    let bench = bench(None, |_| {});
    bench.log_in();
    bench.fake.then(Ok(token(Some("rt-1"))));
    bench.obtain().await.unwrap();
    bench.fake.then(Ok(token(Some("rt-2"))));
    bench.obtain().await.unwrap();
    assert_eq!(bench.sent(), ["rt-1"]);
}

#[tokio::test]
async fn an_answer_that_is_refused_still_brings_the_next_refresh_token() {
    let dir = TempDir::new().unwrap();
    let bench = bench(Some(dir.path()), |_| {});
    bench.log_in();
    bench.fake.then(Ok(token(Some("rt-1"))));
    bench.obtain().await.unwrap();
    let weaker = json!({"token_type": "Bearer", "refresh_token": "rt-2"});
    bench.fake.then(Ok(granted(&weaker)));
    assert_eq!(bench.code().await, Code::DowngradeRefused);
    bench.fake.then(Ok(token(Some("rt-3"))));
    bench.obtain().await.unwrap();
    assert_eq!(bench.sent(), ["rt-1", "rt-2"]);
}

#[tokio::test]
async fn what_was_cut_off_is_tried_again_and_its_end_is_told_as_such() {
    let dir = TempDir::new().unwrap();
    {
        let bench = bench(Some(dir.path()), |_| {});
        bench.log_in();
        bench.fake.then(Ok(token(Some("rt-1"))));
        bench.obtain().await.unwrap();
        // No answer, an answer that is none, and a server in trouble: each may have rotated.
        bench.fake.then(Err(IssuerError::Timeout));
        assert_eq!(bench.code().await, Code::AsTimeout);
        bench
            .fake
            .then(Ok(reply(200, &[], &json!("not an object"))));
        assert_eq!(bench.code().await, Code::AsUnavailable);
        bench.fake.then(Ok(reply(503, &[], &json!({}))));
        assert_eq!(bench.code().await, Code::AsUnavailable);
        // Told once, not with each attempt of a long outage.
        assert_eq!(bench.notes.count("GrantInDoubt"), 1);
    }
    let bench = bench(Some(dir.path()), |_| {});
    let grant = bench.client.grant(&agent());
    assert_eq!(bench.client.lineages.in_doubt(), [grant]);
    bench.fake.then(Ok(refused(400, "invalid_grant")));
    assert_eq!(bench.code().await, Code::ReauthorizationRequired);
    assert_eq!(bench.sent(), ["rt-1"]);
    let told = bench.notes.0.lock().unwrap().join("\n");
    assert!(told.contains("RefusedInDoubt"), "{told}");
    // Refused once is refused for good: the issuer is not asked again, nor after the next start.
    assert_eq!(bench.code().await, Code::ReauthorizationRequired);
    assert_eq!(bench.sent().len(), 1);
    drop(bench);
    let again = self::bench(Some(dir.path()), |_| {});
    assert!(!again.client.is_logged_in(&agent()));
}

#[tokio::test]
async fn other_refusals_leave_the_refresh_token_as_it_was() {
    let bench = bench(None, |_| {});
    bench.log_in();
    bench.fake.then(Ok(token(Some("rt-1"))));
    bench.obtain().await.unwrap();
    for (status, error, code) in [
        (401, "invalid_client", Code::ClientMisconfigured),
        (429, "slow_down", Code::AsUnavailable),
    ] {
        bench.fake.then(Ok(refused(status, error)));
        assert_eq!(bench.code().await, code);
    }
    bench.fake.then(Ok(refused(400, "invalid_grant")));
    assert_eq!(bench.code().await, Code::ReauthorizationRequired);
    let told = bench.notes.0.lock().unwrap().join("\n");
    assert!(told.contains("ending: Refused }"), "{told}");
    assert_eq!(bench.notes.count("GrantInDoubt"), 0);
}

#[tokio::test]
async fn nothing_is_sent_that_cannot_be_written_down() {
    let dir = TempDir::new().unwrap();
    let bench = bench(Some(dir.path()), |_| {});
    bench.log_in();
    bench.fake.then(Ok(token(Some("rt-1"))));
    bench.obtain().await.unwrap();
    // Somebody put another file in the store's place; nothing can be written over it.
    std::fs::rename(dir.path().join("store"), dir.path().join("away")).unwrap();
    assert_eq!(bench.code().await, Code::AsUnavailable);
    assert!(bench.sent().is_empty());
    std::fs::rename(dir.path().join("away"), dir.path().join("store")).unwrap();
    bench.fake.then(Ok(token(Some("rt-2"))));
    bench.obtain().await.unwrap();
    assert_eq!(bench.sent(), ["rt-1"]);
}

#[tokio::test]
async fn a_refresh_token_whose_successor_was_read_is_never_sent_again() {
    let dir = TempDir::new().unwrap();
    let bench = Arc::new(bench(Some(dir.path()), |_| {}));
    bench.log_in();
    bench.fake.then(Ok(token(Some("rt-1"))));
    bench.obtain().await.unwrap();
    // The store goes away while the issuer answers: the answer is not used, and its refresh token not forgotten.
    let (path, away) = (dir.path().join("store"), dir.path().join("away"));
    let (from, to) = (path.clone(), away.clone());
    bench.fake.always(move |_| {
        std::fs::rename(&from, &to).unwrap();
        Ok(token(Some("rt-2")))
    });
    assert_eq!(bench.code().await, Code::AsUnavailable);
    std::fs::rename(&away, &path).unwrap();
    bench.fake.then(Ok(token(Some("rt-3"))));
    bench.obtain().await.unwrap();
    assert_eq!(bench.sent(), ["rt-1", "rt-2"]);
}

#[tokio::test]
async fn a_login_for_something_else_is_none() {
    let dir = TempDir::new().unwrap();
    {
        let bench = bench(Some(dir.path()), |_| {});
        bench.log_in();
        bench.fake.then(Ok(token(Some("rt-1"))));
        bench.obtain().await.unwrap();
    }
    let changes: [fn(&mut OauthSettings); 4] = [
        |s| s.client_id = "another".into(),
        |s| s.resource = None,
        |s| s.binding = Binding::Bearer,
        |s| s.audience = Some("https://api.test".into()),
    ];
    for change in changes {
        let other = bench(Some(dir.path()), change);
        assert_eq!(other.code().await, Code::ReauthorizationRequired);
        assert!(other.sent().is_empty());
    }
    assert!(
        bench(Some(dir.path()), |_| {})
            .client
            .is_logged_in(&agent())
    );
}

#[tokio::test]
async fn one_lineage_refreshes_once_at_a_time_and_others_wait_their_turn() {
    let dir = TempDir::new().unwrap();
    let bench = bench(Some(dir.path()), |_| {});
    bench.log_in();
    bench.fake.then(Ok(token(Some("rt-1"))));
    bench.obtain().await.unwrap();
    *bench.fake.delay.lock().unwrap() = Duration::from_millis(20);
    for number in 2..=6 {
        bench.fake.then(Ok(token(Some(&format!("rt-{number}")))));
    }
    let all = futures_util::future::join_all((0..5).map(|_| bench.obtain())).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(bench.sent(), ["rt-1", "rt-2", "rt-3", "rt-4", "rt-5"]);
    // Bounded: who waits too long is told so, and nothing was sent for them.
    *bench.fake.delay.lock().unwrap() = Duration::from_millis(200);
    let impatient = async {
        let patience = Duration::from_millis(50);
        let scopes = scopes();
        let limits = (patience, &CancellationToken::new());
        let late = bench
            .client
            .obtain_within(limits, &AGENT, &scopes, &bench.notes);
        late.await.err().map(|failure| failure.code)
    };
    let (first, late) = tokio::join!(bench.obtain(), impatient);
    assert!(first.is_ok());
    assert_eq!(late, Some(Code::AsTimeout));
    assert_eq!(bench.sent().len(), 6);
    assert_eq!(bench.notes.count("GrantInDoubt"), 0);
}

#[tokio::test]
async fn no_deadline_cuts_a_refresh_between_sending_and_writing() {
    let dir = TempDir::new().unwrap();
    {
        let bench = bench(Some(dir.path()), |_| {});
        bench.log_in();
        bench.fake.then(Ok(token(Some("rt-1"))));
        bench.obtain().await.unwrap();
        *bench.fake.delay.lock().unwrap() = Duration::from_millis(120);
        bench.fake.then(Ok(token(Some("rt-2"))));
        let patience = Duration::from_millis(60);
        let late = bench
            .client
            .obtain_within(
                (patience, &CancellationToken::new()),
                &AGENT,
                &scopes(),
                &bench.notes,
            )
            .await;
        assert!(late.is_ok(), "the answer was thrown away");
    }
    let bench = bench(Some(dir.path()), |_| {});
    assert!(bench.client.lineages.in_doubt().is_empty());
    bench.obtain().await.unwrap();
    assert_eq!(bench.sent(), ["rt-2"]);
}

#[tokio::test]
async fn only_what_was_sent_without_an_answer_is_in_doubt() {
    let bench = bench(None, |_| {});
    bench.log_in();
    bench.fake.then(Ok(token(Some("rt-1"))));
    bench.obtain().await.unwrap();
    let none: Vec<GrantId> = Vec::new();
    // Never connected, or asked for a nonce that was not given: the refresh token is as good as it was.
    for outcome in [
        Err(IssuerError::Connect),
        Err(IssuerError::ConnectTimeout),
        Err(IssuerError::Tls),
        Ok(refused(400, "use_dpop_nonce")),
    ] {
        bench.fake.then(outcome);
        bench.code().await;
        assert_eq!(bench.client.lineages.in_doubt(), none);
    }
    // Sent and lost; a 429 after it does not say that the first one was not used.
    bench.fake.then(Err(IssuerError::Unreachable));
    bench.code().await;
    bench.fake.then(Ok(refused(429, "slow_down")));
    bench.code().await;
    assert_eq!(bench.client.lineages.in_doubt().len(), 1);
    bench.fake.then(Ok(refused(400, "invalid_grant")));
    bench.code().await;
    let told = bench.notes.0.lock().unwrap().join("\n");
    assert!(told.contains("RefusedInDoubt"), "{told}");
}

#[tokio::test]
async fn a_refresh_asks_for_less_and_believes_what_it_gets() {
    let bench = bench(None, |_| {});
    bench.log_in();
    bench.fake.then(Ok(token(Some("rt-1"))));
    bench.obtain().await.unwrap();
    let less = ScopeSet::parse("a").unwrap();
    let all = scopes();
    assert_eq!(bench.client.asked(&AGENT, &less), &less);
    for whole in [
        ScopeSet::default(),
        ScopeSet::parse("a z").unwrap(),
        all.clone(),
    ] {
        assert_eq!(bench.client.asked(&AGENT, &whole), &all);
    }
    for (granted, carried) in [
        (None, Ok("a")),
        (Some("a"), Ok("a")),
        (Some("b a"), Ok("a b")),
        (Some("a b c"), Err(Code::ScopeDenied)),
        (Some("b"), Err(Code::ScopeDenied)),
    ] {
        let said = granted.map_or_else(|| json!({}), |scope| json!({ "scope": scope }));
        bench.fake.then(Ok(super::super::tests::granted(&said)));
        let had = bench.client.obtain(&AGENT, &less, &bench.notes).await;
        let had = had.map(|had| had.token.scopes.to_string());
        assert_eq!(
            had.map_err(|f| f.code),
            carried.map(str::to_owned),
            "{granted:?}"
        );
    }
    assert_eq!(bench.fake.tokens().last().unwrap().form["scope"], "a");
    // Twice seen that a refresh ends the token before it: one token for everything from now on.
    assert!(!bench.client.note_ended(&AGENT));
    assert!(bench.client.note_ended(&AGENT));
    assert_eq!(bench.client.asked(&AGENT, &less), &all);
}

#[tokio::test]
async fn an_issuer_that_does_not_rotate_is_told_once_and_refused_where_that_is_wanted() {
    for required in [false, true] {
        let bench = bench(None, |s| s.require_rotation = required);
        bench.log_in();
        bench.fake.then(Ok(token(Some("rt-1"))));
        bench.obtain().await.unwrap();
        for same in [None, Some("rt-1"), None] {
            bench.fake.then(Ok(token(same)));
            let code = bench.obtain().await.err().map(|failure| failure.code);
            assert_eq!(code, required.then_some(Code::ClientMisconfigured));
        }
        assert_eq!(bench.sent(), ["rt-1", "rt-1", "rt-1"]);
        assert_eq!(bench.notes.count("NotRotated"), 1);
        let handed_back = bench.fake.at("/revoke").len();
        assert_eq!(handed_back, if required { 3 } else { 0 });
        bench.fake.then(Ok(token(Some("rt-2"))));
        assert!(bench.obtain().await.is_ok());
    }
}

fn configured(text: &str) -> impl FnOnce(&mut OauthSettings) {
    let token = FirstRefresh(Secret::new(text.to_owned()));
    |settings| {
        settings.grant = Grant::RefreshToken {
            token,
            scopes: scopes(),
        };
    }
}

/// Why the grant of all agents brings no token.
async fn obtained_by_all(bench: &Bench) -> Option<Code> {
    let (everyone, scopes) = (AgentName::everyone(), scopes());
    let obtained = bench.client.obtain(&everyone, &scopes, &bench.notes).await;
    obtained.err().map(|failure| failure.code)
}

/// A refresh token of the configuration begins one lineage, once: what came of it counts after a restart, also that it is
/// dead; and another one in the configuration begins anew.
#[tokio::test]
async fn a_configured_refresh_token_is_sent_once() {
    let dir = TempDir::new().unwrap();
    let everyone = AgentName::everyone();
    let sent = |bench: &Bench| -> Vec<String> {
        let asked = bench.fake.tokens().into_iter();
        asked
            .map(|seen| seen.form["refresh_token"].clone())
            .collect()
    };
    let first = bench(Some(dir.path()), configured("rt-0"));
    assert_eq!(first.client.owner(&agent()), everyone);
    first.fake.then(Ok(token(Some("rt-1"))));
    first.fake.then(Ok(token(Some("rt-2"))));
    for _ in 0..2 {
        assert_eq!(obtained_by_all(&first).await, None);
    }
    assert_eq!(sent(&first), ["rt-0", "rt-1"]);
    // It may be for more than our rules want, so what is wanted is said.
    let asked = first.fake.tokens();
    assert!(asked.iter().all(|seen| seen.form["scope"] == "a b"));
    drop(first);

    let second = bench(Some(dir.path()), configured("rt-0"));
    second.fake.then(Ok(refused(400, "invalid_grant")));
    let over = Some(Code::ReauthorizationRequired);
    assert_eq!(obtained_by_all(&second).await, over);
    assert_eq!(obtained_by_all(&second).await, over);
    assert_eq!(sent(&second), ["rt-2"]);
    drop(second);

    let third = bench(Some(dir.path()), configured("rt-0"));
    assert_eq!(obtained_by_all(&third).await, over);
    assert!(sent(&third).is_empty());
    drop(third);

    let other = bench(Some(dir.path()), configured("rt-new"));
    other.fake.then(Ok(token(None)));
    assert_eq!(obtained_by_all(&other).await, None);
    assert_eq!(sent(&other), ["rt-new"]);
}

/// A confidential client's refresh token is not bound to a key (RFC 9449 §5): the key can be replaced, and the store has
/// the new one. A public client's is, and keeps its key.
#[tokio::test]
async fn a_key_is_replaced_where_the_refresh_token_is_not_bound_to_it() {
    let confidential = |settings: &mut OauthSettings| {
        settings.client_auth = ClientAuth::SecretBasic(Secret::new("s".to_owned()));
    };
    let dir = TempDir::new().unwrap();
    let first = bench(Some(dir.path()), confidential);
    first.log_in();
    first.fake.then(Ok(token(Some("rt-1"))));
    let key = first.obtain().await.unwrap().token.key.unwrap();
    assert_eq!(
        first.client.renew_key(&agent(), &first.notes).await,
        Ok(true)
    );
    drop(first);
    let second = bench(Some(dir.path()), confidential);
    second.fake.then(Ok(token(Some("rt-2"))));
    let other = second.obtain().await.unwrap().token.key.unwrap();
    assert_ne!(key.thumbprint(), other.thumbprint());

    let public = bench(None, |_| {});
    public.log_in();
    public.fake.then(Ok(token(Some("rt-1"))));
    let key = public.obtain().await.unwrap().token.key.unwrap();
    assert_eq!(
        public.client.renew_key(&agent(), &public.notes).await,
        Ok(false)
    );
    public.fake.then(Ok(token(Some("rt-2"))));
    let same = public.obtain().await.unwrap().token.key.unwrap();
    assert_eq!(key.thumbprint(), same.thumbprint());
}

/// A login that brought less than was asked for leaves the one before it in force.
#[tokio::test]
async fn a_partial_consent_changes_nothing() {
    let bench = bench(None, |_| {});
    bench.log_in();
    bench.fake.then(Ok(token(Some("rt-1"))));
    assert!(bench.obtain().await.is_ok());
    bench.log_in();
    let part = json!({"scope": "a", "refresh_token": "rt-part"});
    bench.fake.then(Ok(granted(&part)));
    assert_eq!(bench.code().await, Code::ScopeDenied);
    bench.fake.then(Ok(token(Some("rt-2"))));
    assert!(bench.obtain().await.is_ok());
    let asked = bench.fake.tokens();
    assert_eq!(asked.last().unwrap().form["refresh_token"], "rt-1");
}

/// Between the operator's stop and the end of its grants.
#[tokio::test]
async fn nothing_is_fetched_for_a_grant_that_is_stopped_but_by_a_fresh_login() {
    let own = bench(None, |s| s.grant = Grant::ClientCredentials);
    own.obtain().await.unwrap();
    own.client
        .lineages
        .stops()
        .add(&Selection::default(), false);
    own.client.seize(None).await;
    assert_eq!(own.code().await, Code::ServiceRevoked);
    assert_eq!(own.fake.tokens().len(), 1);
    let login = bench(None, |_| {});
    login
        .client
        .lineages
        .stops()
        .add(&Selection::default(), true);
    login.log_in();
    login.fake.then(Ok(token(Some("rt-1"))));
    login.obtain().await.unwrap();
}

/// The grant is ended on another thread, just before its refresh token is kept.
#[tokio::test]
async fn what_is_handed_back_does_not_stay_as_a_login() {
    let dir = TempDir::new().unwrap();
    let bench = bench(Some(dir.path()), |_| {});
    let reply = token(Some("rt-1"));
    let metadata = bench.client.metadata(&bench.notes).await.unwrap();
    let errand = Errand {
        agent: &agent(),
        scopes: &scopes(),
        means: &Means::Ourselves,
        metadata: &metadata,
        key: None,
        certificate: None,
        journal: &bench.notes,
    };
    let began = bench.client.endings_of(&agent());
    bench.client.seize(None).await;
    let (lineages, grant) = (&bench.client.lineages, bench.client.grant(&agent()));
    let keep = async |refresh: &str| {
        let refresh = Secret::new(refresh.into());
        let begun = lineages.begin(&grant, &bench.client.print, refresh, None);
        begun.await.unwrap();
    };
    keep("rt-1").await;
    let gone = bench.client.still_wanted(&errand, began, &reply).await;
    assert_eq!(gone.err().map(|f| f.code), Some(Code::ServiceRevoked));
    assert!(!bench.client.is_logged_in(&agent()));
    let told: Vec<_> = bench.fake.at("/revoke").into_iter().collect();
    assert_eq!(told[0].form["token"], "rt-1");
    // A fresh login that stands there by then is none of its business.
    keep("rt-2").await;
    let gone = bench.client.still_wanted(&errand, began, &reply).await;
    assert!(gone.is_err() && bench.client.is_logged_in(&agent()));
}
