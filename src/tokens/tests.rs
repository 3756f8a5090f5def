//! The whole room against the rehearsal's strict issuer, over TLS sockets, through the public door.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::{
    AssertionAudience, ClientAuth, CredentialSettings, Deps, Door, Grant, HealthSettings,
    IssuerSettings, OauthSettings, Settings, start,
};
use crate::audit::{self, Audit, SinkSettings, WhenFull};
use crate::credential::{Lease, Source, Unavailable};
use crate::metrics::Metrics;
use crate::policy::{
    AgentSettings, Decision, Effect, Facts, HostPattern, Permit, Rule, ServiceSettings, Snapshot,
};
use crate::rehearsal::{Failure, MetadataFault, NonceMode, Options, Rehearsal, Seen, Service};
use crate::upstream::{ConnectTo, PoolLimits, Roots, TargetSettings, Upstream, UpstreamSettings};
use crate::vocab::{
    AgentName, Authority, Binding, Clock, Code, Generation, Host, RequestPath, Scheme, ScopeSet,
    Secret, ServiceName,
};

struct House {
    rehearsal: Rehearsal,
    door: Arc<Door>,
    metrics: Metrics,
    audit_file: PathBuf,
    writer: Option<audit::Writer>,
    permit: Permit,
    _folder: tempfile::TempDir,
}

impl House {
    async fn new(client: &str, change: impl FnOnce(&mut OauthSettings)) -> Self {
        Self::with(Options::default(), client, change).await
    }

    async fn with(options: Options, client: &str, change: impl FnOnce(&mut OauthSettings)) -> Self {
        let rehearsal = Rehearsal::start(options).await.unwrap();
        let mut oauth = settings(&rehearsal, client);
        change(&mut oauth);
        let folder = tempfile::tempdir().unwrap();
        let audit_file = folder.path().join("audit.jsonl");
        let clock = Clock::system();
        let (audit, writer) = Audit::start(
            audit::Settings {
                sink: SinkSettings::File(audit_file.clone()),
                capacity: 1024,
                when_full: WhenFull::Refuse,
            },
            clock.clone(),
        )
        .unwrap();
        let metrics = Metrics::new().unwrap();
        let upstream = Upstream::new(
            UpstreamSettings {
                roots: Roots::of([], &[]),
                own_listeners: Vec::new(),
                limits: PoolLimits::default(),
                parent: None,
            },
            clock.clone(),
        );
        let deps = Deps {
            clock,
            audit,
            metrics: metrics.clone(),
            upstream,
            store: None,
        };
        let services = vec![(name(), CredentialSettings::Oauth(Box::new(oauth)))];
        let (door, worker) = start(Settings { services }, deps).unwrap();
        drop(tokio::spawn(worker.run()));
        Self {
            rehearsal,
            door,
            metrics,
            audit_file,
            writer: Some(writer),
            permit: permit(),
            _folder: folder,
        }
    }

    async fn lease(&self) -> Result<Lease, Unavailable> {
        self.door.lease(&self.permit).await
    }

    fn asked(&self) -> Vec<Seen> {
        let mut seen = self.rehearsal.seen_by(Service::Issuer);
        seen.retain(|seen| seen.method == "POST" && seen.path.ends_with("/token"));
        seen
    }

    /// Ends the room and gives everything that it wrote.
    async fn written(mut self) -> String {
        let metrics = self.metrics.encode();
        drop(self.door);
        // The worker lets go of the audit when it has seen that the door is gone.
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.writer.take().unwrap().finish().unwrap();
        metrics + &std::fs::read_to_string(&self.audit_file).unwrap()
    }
}

fn name() -> ServiceName {
    ServiceName::new("items").unwrap()
}

fn settings(rehearsal: &Rehearsal, client: &str) -> OauthSettings {
    let secret = || Secret::new(rehearsal.client_secret(client).unwrap().to_owned());
    let (client_auth, binding) = match client {
        "svc-basic" => (ClientAuth::SecretBasic(secret()), Binding::Dpop),
        "svc-post" => (ClientAuth::SecretPost(secret()), Binding::Dpop),
        "svc-bearer" => (ClientAuth::SecretBasic(secret()), Binding::Bearer),
        other => {
            let pem = rehearsal.client_key_pem(other).unwrap();
            let auth = ClientAuth::PrivateKeyJwt {
                key_pem: Secret::new(pem.into_bytes()),
                kid: rehearsal.client_key_id(other),
            };
            let refresh_only = other == "svc-refresh-only";
            let bindings = [Binding::Dpop, Binding::RefreshOnly];
            (auth, bindings[usize::from(refresh_only)])
        }
    };
    let address = rehearsal.issuer_addr();
    let target = TargetSettings {
        connect: Some(ConnectTo {
            host: Host::Ip(address.ip()),
            port: Some(address.port()),
        }),
        allow_private: true,
        extra_roots: CertificateDer::pem_slice_iter(rehearsal.ca_pem().as_bytes())
            .map(Result::unwrap)
            .collect(),
    };
    let issuer = IssuerSettings {
        url: rehearsal.issuer_url().to_owned(),
        target,
        assertion_audience: AssertionAudience::Issuer,
    };
    OauthSettings {
        issuer: Arc::new(issuer),
        client_id: client.to_owned(),
        client_auth,
        grant: Grant::ClientCredentials,
        resource: Some(rehearsal.api_origin().to_owned()),
        audience: None,
        parameters: Vec::new(),
        binding,
        max_token_age: Duration::from_mins(30),
        fapi: false,
        require_rotation: false,
        revoke_on_exit: false,
        any_scopes: false,
        health: HealthSettings::default(),
    }
}

/// What policy gives out for `GET https://api.test/x`.
fn permit() -> Permit {
    let scopes = ScopeSet::parse("items:read").unwrap();
    let service = ServiceSettings {
        name: name(),
        hosts: vec![HostPattern::parse("api.test").unwrap()],
        scheme: Scheme::Https,
        port: 443,
        credentialed: true,
        escaped_slashes: false,
        oauth: true,
        rules: vec![Rule::parse(Effect::Allow, "GET /x", scopes).unwrap()],
    };
    let agent = AgentName::fallback();
    let snapshot = Snapshot::build(crate::policy::Settings {
        generation: Generation(1),
        services: vec![service],
        agents: vec![AgentSettings {
            name: agent.clone(),
            services: None,
        }],
        tunnel: Vec::new(),
    })
    .unwrap();
    let facts = Facts {
        agent: &agent,
        authority: &Authority::parse(Scheme::Https, "api.test").unwrap(),
        method: "GET",
        path: &RequestPath::parse("/x").unwrap(),
    };
    match snapshot.decide(&facts) {
        Decision::Permit(permit) => permit,
        _ => panic!("the rule allows it"),
    }
}

#[tokio::test]
async fn every_way_to_authenticate_gets_the_token_that_is_configured() {
    for (client, binding) in [
        ("svc-pkjwt", Binding::Dpop),
        ("svc-basic", Binding::Dpop),
        ("svc-post", Binding::Dpop),
        ("svc-refresh-only", Binding::RefreshOnly),
        ("svc-bearer", Binding::Bearer),
    ] {
        let house = House::new(client, |_| {}).await;
        let lease = house.lease().await.unwrap();
        assert_eq!(lease.facts().binding, binding, "{client}");
        assert_eq!(lease.thumbprint().is_some(), binding == Binding::Dpop);
        assert_eq!(lease.facts().scopes.to_string(), "items:read");
        // One challenge for the first nonce, where proofs are sent.
        let requests = 1 + usize::from(binding != Binding::Bearer);
        assert_eq!(house.asked().len(), requests, "{client}");
        let text = house.written().await;
        assert!(text.contains("\"token.issued\""), "{text}");
        assert!(
            text.contains("tokenward_token_events_total{event=\"issued\",service=\"items\"} 1")
        );
    }
}

#[tokio::test]
async fn servers_from_before_rfc_10070_are_met_by_a_switch() {
    let options = Options {
        legacy_assertions: true,
        ..Options::default()
    };
    let house = House::with(options.clone(), "svc-pkjwt", |oauth| {
        oauth.issuer = Arc::new(IssuerSettings {
            assertion_audience: AssertionAudience::TokenEndpoint,
            ..(*oauth.issuer).clone()
        });
    });
    assert!(house.await.lease().await.is_ok());
    let house = House::with(options, "svc-pkjwt", |_| {}).await;
    assert_eq!(
        house.lease().await.unwrap_err().code,
        Code::ClientMisconfigured
    );
}

#[tokio::test]
async fn an_issuer_under_a_path_is_found() {
    let options = Options {
        issuer_path: "/tenant".into(),
        ..Options::default()
    };
    let house = House::with(options, "svc-pkjwt", |_| {}).await;
    assert!(house.lease().await.is_ok());
}

#[tokio::test]
async fn nonces_that_are_good_once_cost_one_challenge_in_all() {
    let house = House::new("svc-pkjwt", |_| {}).await;
    house
        .rehearsal
        .controls()
        .issuer(|issuer| issuer.nonces = NonceMode::SingleUse);
    for _ in 0..3 {
        let lease = house.lease().await.unwrap();
        house
            .door
            .report(&lease, crate::credential::Feedback::InvalidToken);
        // Only so many refusals in a row are believed.
        if house.lease().await.is_err() {
            break;
        }
    }
    let challenged = house
        .asked()
        .iter()
        .filter(|s| s.status == Some(400))
        .count();
    assert_eq!(challenged, 1);
}

#[tokio::test]
async fn what_the_issuer_does_wrong_has_a_code_and_no_token() {
    type Turn = fn(&mut crate::rehearsal::IssuerSettings);
    let table: [(Turn, Code); 12] = [
        (
            |i| i.token_type = Some("Bearer".into()),
            Code::DowngradeRefused,
        ),
        (
            |i| i.token_type = Some("N_A".into()),
            Code::DowngradeRefused,
        ),
        (|i| i.wrong_jkt = true, Code::BindingMismatch),
        (
            |i| i.scope = Some("items:read items:admin".into()),
            Code::ScopeDenied,
        ),
        (|i| i.duplicate_members = true, Code::AsUnavailable),
        (|i| i.always_challenge = true, Code::AsUnavailable),
        (
            |i| i.metadata = Some(MetadataFault::WrongIssuer),
            Code::AsMetadataInvalid,
        ),
        (
            |i| i.metadata = Some(MetadataFault::DuplicateMembers),
            Code::AsMetadataInvalid,
        ),
        (
            |i| i.metadata = Some(MetadataFault::HttpTokenEndpoint),
            Code::AsMetadataInvalid,
        ),
        (
            |i| i.metadata = Some(MetadataFault::Algorithms(vec!["EdDSA".into()])),
            Code::UnsupportedDpopAlg,
        ),
        (
            |i| i.metadata = Some(MetadataFault::Huge),
            Code::AsUnavailable,
        ),
        (
            |i| i.expires_in = crate::rehearsal::ExpiresIn::Said(serde_json::json!(-1)),
            Code::AsUnavailable,
        ),
    ];
    for (at, (turn, code)) in table.into_iter().enumerate() {
        let house = House::new("svc-pkjwt", |_| {}).await;
        house.rehearsal.controls().issuer(turn);
        let refusal = house.lease().await.unwrap_err();
        assert_eq!(refusal.code, code, "row {at}");
        let text = house.written().await;
        assert!(text.contains("\"token.request_failed\""), "row {at}");
        assert!(!text.contains("\"token.issued\""), "row {at}");
    }
}

#[tokio::test]
async fn what_fails_on_the_way_has_a_code_and_leaves_no_trace() {
    let oauth = |status, error: &str| Failure::OAuth {
        status,
        error: error.into(),
    };
    let table = [
        (
            Failure::Html {
                status: 200,
                canary: "canary-html".into(),
            },
            Code::AsUnavailable,
        ),
        (
            Failure::Redirect {
                status: 307,
                to: "https://evil.test/token".into(),
            },
            Code::AsMetadataInvalid,
        ),
        (Failure::Huge { bytes: 100_000 }, Code::AsUnavailable),
        (Failure::DropBeforeAnswer, Code::AsUnavailable),
        (Failure::DropAfterHead, Code::AsUnavailable),
        (
            Failure::Status {
                status: 503,
                retry_after: Some("7".into()),
            },
            Code::AsUnavailable,
        ),
        (oauth(400, "invalid_grant"), Code::ReauthorizationRequired),
        (oauth(401, "invalid_client"), Code::ClientMisconfigured),
        (oauth(400, "canary_error"), Code::ClientMisconfigured),
    ];
    for (failure, code) in table {
        let house = House::new("svc-pkjwt", |_| {}).await;
        let path = house.rehearsal.token_endpoint();
        let path = path.rsplit_once('/').unwrap().1;
        house.rehearsal.controls().fail_path(
            Service::Issuer,
            &format!("/{path}"),
            9,
            failure.clone(),
        );
        let refusal = house.lease().await.unwrap_err();
        assert_eq!(refusal.code, code, "{failure:?}");
        if matches!(failure, Failure::Status { .. }) {
            assert_eq!(refusal.retry_after, Some(Duration::from_secs(7)));
        }
        assert!(!house.written().await.contains("canary"), "{failure:?}");
    }
}

#[tokio::test]
async fn an_issuer_that_we_do_not_trust_gets_nothing() {
    let house = House::new("svc-post", |oauth| {
        let mut issuer = (*oauth.issuer).clone();
        issuer.target.extra_roots.clear();
        oauth.issuer = Arc::new(issuer);
    })
    .await;
    assert_eq!(house.lease().await.unwrap_err().code, Code::AsTlsError);
    assert!(house.rehearsal.seen().is_empty());
}

#[tokio::test]
async fn an_issuer_at_a_private_address_needs_leave() {
    let house = House::new("svc-post", |oauth| {
        let mut issuer = (*oauth.issuer).clone();
        issuer.target.allow_private = false;
        oauth.issuer = Arc::new(issuer);
    })
    .await;
    assert_eq!(house.lease().await.unwrap_err().code, Code::AsUnavailable);
    assert!(house.rehearsal.seen().is_empty());
}

#[tokio::test]
async fn an_issuer_whose_clock_is_off_is_understood() {
    let house = House::new("svc-post", |_| {}).await;
    house
        .rehearsal
        .controls()
        .site(Service::Issuer, |site| site.clock_skew = 300);
    assert!(house.lease().await.is_ok());
    let text = house.written().await;
    assert!(text.contains("tokenward_clock_offset_seconds{service=\"items\"}"));
}

#[tokio::test]
async fn nothing_secret_is_written() {
    let house = House::new("svc-post", |_| {}).await;
    let secret = house
        .rehearsal
        .client_secret("svc-post")
        .unwrap()
        .to_owned();
    let lease = house.lease().await.unwrap();
    let jkt = lease.thumbprint().unwrap().to_owned();
    let proofs: Vec<String> = house
        .asked()
        .iter()
        .filter_map(|seen| seen.header("dpop").map(str::to_owned))
        .collect();
    assert_eq!(proofs.len(), 2);
    let text = house.written().await;
    assert!(text.contains(&jkt));
    for canary in proofs.iter().chain([&secret]) {
        assert!(!text.contains(canary.as_str()));
    }
}
