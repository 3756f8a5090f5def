//! What the steps of a request cost, each alone: deciding, stripping, attaching, signing, cleaning an answer; and a leaf.
//! By hand: `just benches`. Nothing is asserted; `docs/performance.md` says how they add up.

#![expect(
    clippy::expect_used,
    reason = "a bench ends where its own input is wrong"
)]
// Criterion's macro makes functions without a line about them.
#![allow(missing_docs, clippy::allow_attributes, reason = "criterion's macros")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{Request, Version};
use http_body_util::{BodyExt as _, Empty};
use tokenward::ca::{Leaves, Permitted, Root};
use tokenward::credential::{
    Bench, BodyError, Intent, Lease, LeaseFacts, OutBody, PlaceholderMode, Placeholders, Slot,
    Stamp, Stripped, Wire, attach, strip,
};
use tokenward::policy::{Effect, Facts, HostPattern, Rule, ServiceSettings, Settings, Snapshot};
use tokenward::proof::{HtuProfile, Jti, ProofClaims, ProofKey, Signer, ath};
use tokenward::vocab::{
    AgentName, Authority, Binding, Clock, Generation, GrantId, Host, RequestPath, Scheme, ScopeSet,
    Secret, ServiceName,
};

const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.bench.bench";

fn service() -> ServiceName {
    ServiceName::new("items").expect("a name")
}

fn authority() -> Authority {
    Authority::parse(Scheme::Https, "api.example").expect("an authority")
}

fn path() -> RequestPath {
    RequestPath::parse("/v1/items/4711").expect("a path")
}

/// What curl sends, and a placeholder.
fn request() -> http::request::Parts {
    let request = Request::get("/v1/items/4711")
        .header("host", "api.example")
        .header("user-agent", "curl/8.5.0")
        .header("accept", "*/*")
        .header("accept-encoding", "gzip, br")
        .header("content-type", "application/json")
        .header("authorization", "Bearer placeholder");
    request.body(()).expect("a request").into_parts().0
}

#[cfg(feature = "fuzzing")]
fn answer() -> http::HeaderMap {
    let response = http::Response::builder()
        .header("date", "Tue, 24 Nov 2026 15:00:00 GMT")
        .header("content-type", "application/json")
        .header("content-length", "1024")
        .header("cache-control", "no-store")
        .header("etag", "\"abc\"")
        .header("server", "nginx");
    response.body(()).expect("an answer").into_parts().0.headers
}

/// Work where heads are stripped.
fn at_the_bench<T>(work: impl FnOnce(&Bench<'_>) -> T) -> T {
    let (agent, service) = (AgentName::fallback(), service());
    work(&Bench {
        agent: &agent,
        service: &service,
        slot: &Slot::Authorization,
        mode: PlaceholderMode::Optional,
        placeholders: &Placeholders::default(),
        pseudonym: "tokenward-bench",
        guarded: true,
        cookies: &[],
    })
}

fn stripped() -> Stripped {
    at_the_bench(|bench| strip(&request(), path(), None, Intent::Plain, bench))
        .expect("nothing to refuse")
}

fn lease(binding: Binding) -> Lease {
    let facts = LeaseFacts {
        id: 1,
        grant: GrantId {
            service: service(),
            agent: AgentName::fallback(),
        },
        binding,
        scopes: ScopeSet::default(),
        expires: None,
        cancel: tokio_util::sync::CancellationToken::new(),
    };
    let token = Secret::new(TOKEN.to_owned());
    let lease = if binding == Binding::Dpop {
        let key = ProofKey::generate().expect("a key");
        Lease::dpop(facts, &token, Arc::new(key))
    } else {
        Lease::bearer(facts, &token)
    };
    lease.expect("a token")
}

fn nobody() -> OutBody {
    Empty::new()
        .map_err(|never| -> BodyError { match never {} })
        .boxed_unsync()
}

fn decide(c: &mut Criterion) {
    let service = ServiceSettings {
        name: service(),
        hosts: vec![HostPattern::parse("api.example").expect("a host")],
        scheme: Scheme::Https,
        port: 443,
        credentialed: true,
        oauth: true,
        escaped_slashes: false,
        rules: ["GET|HEAD /v1/items/**", "POST /v1/items", "GET /v1/users/*"]
            .map(|rule| Rule::parse(Effect::Allow, rule, ScopeSet::default()).expect("a rule"))
            .into(),
    };
    let snapshot = Snapshot::build(Settings {
        generation: Generation(1),
        services: vec![service],
        agents: Vec::new(),
        tunnel: Vec::new(),
    });
    let snapshot = snapshot.expect("a policy");
    let (agent, authority, path) = (AgentName::fallback(), authority(), path());
    let facts = Facts {
        agent: &agent,
        authority: &authority,
        method: "GET",
        path: &path,
    };
    c.bench_function("decide", |b| b.iter(|| snapshot.decide(black_box(&facts))));
}

fn strip_and_attach(c: &mut Criterion) {
    let parts = request();
    at_the_bench(|bench| {
        c.bench_function("strip", |b| {
            b.iter_batched(
                path,
                |path| strip(black_box(&parts), path, None, Intent::Plain, bench),
                BatchSize::SmallInput,
            );
        });
    });
    let (head, authority) = (stripped().head, authority());
    for binding in [Binding::Bearer, Binding::Dpop] {
        let lease = lease(binding);
        let wire = Wire {
            version: Version::HTTP_11,
            authority: &authority,
            htu: &HtuProfile::AsSent,
            pseudonym: "tokenward-bench",
            expects: false,
            cookie: None,
        };
        let stamp = || Stamp {
            nonce: None,
            iat: 1_800_000_000,
            jti: Jti::from_random([7; 16]),
        };
        c.bench_function(&format!("attach, {}", binding.as_str()), |b| {
            b.iter_batched(
                || (nobody(), stamp()),
                |(body, stamp)| attach(black_box(&head), body, &lease, (), &wire, Some(stamp)),
                BatchSize::SmallInput,
            );
        });
    }
}

fn proof(c: &mut Criterion) {
    let key = ProofKey::generate().expect("a key");
    let (jti, ath) = (Jti::from_random([7; 16]), ath(TOKEN));
    let claims = ProofClaims {
        htm: "GET",
        htu: "https://api.example/v1/items/4711",
        iat: 1_800_000_000,
        jti: &jti,
        ath: Some(&ath),
        nonce: None,
    };
    c.bench_function("proof", |b| b.iter(|| key.proof(black_box(&claims))));
}

fn leaf(c: &mut Criterion) {
    let clock = Clock::system();
    let root = Root::generate(&clock, &Permitted::Everything).expect("a root");
    // Every second name has been forgotten when it comes again, so each of these is signed for.
    let leaves = Leaves::new(root, clock, 1).expect("a leaf key");
    let names: Vec<Host> = (0..64)
        .map(|i| Host::parse(&format!("h{i}.api.example")).expect("a host"))
        .collect();
    let mut next = names.iter().cycle();
    c.bench_function("leaf", |b| {
        b.iter(|| next.next().map(|host| leaves.leaf(host)));
    });
}

#[cfg(feature = "fuzzing")]
fn guard(c: &mut Criterion) {
    c.bench_function("guard", |b| {
        b.iter_batched_ref(
            answer,
            tokenward::exchange::fuzzing::cleaned,
            BatchSize::SmallInput,
        );
    });
}

/// No room exports the guard; a feature does.
#[cfg(not(feature = "fuzzing"))]
fn guard(_: &mut Criterion) {}

criterion_group!(hot_path, decide, strip_and_attach, proof, guard, leaf);
criterion_main!(hot_path);
