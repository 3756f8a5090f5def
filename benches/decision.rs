//! What one decision costs against a thousand rules, in the worst cases that are known. By hand: `cargo bench --bench
//! decision`. Nothing is asserted: the bound itself is a number of steps, which `src/policy/tests/rules.rs` holds.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench prints what its own clock says, and ends where its own input is wrong"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use tokenward::policy::{Effect, Facts, HostPattern, Rule, ServiceSettings, Settings, Snapshot};
use tokenward::vocab::{
    AgentName, Authority, Generation, RequestPath, Scheme, ScopeSet, ServiceName,
};

const ROUNDS: u32 = 200;

fn main() {
    let many = |rule: fn(usize) -> String| (0..1000).map(rule).collect::<Vec<_>>();
    let deep = "/a".repeat(4000);
    let long = format!("/{}x/end7", "ab".repeat(4000));
    for (what, rules, path) in [
        (
            "4,000 segments, 1,000 rules below *",
            many(|i| format!("/*/*/*/b{i}/**")),
            deep.clone(),
        ),
        (
            "4,000 segments, 1,000 literals",
            many(|i| format!("{}/b{i}", "/a".repeat(400))),
            deep,
        ),
        (
            "8 kB in one segment, 1,000 globs",
            many(|i| format!("/*abab{i}*x/*end{i}")),
            long,
        ),
        (
            "an ordinary path, 1,000 globs",
            many(|i| format!("/v1/*abab{i}*/x")),
            "/v1/items/1".into(),
        ),
        (
            "an ordinary path, 1,000 literals",
            many(|i| format!("/v1/items/{i}")),
            "/v1/items/999".into(),
        ),
    ] {
        println!("{what}: {:?}", measure(&rules, &path));
    }
}

/// The time of one decision.
fn measure(rules: &[String], path: &str) -> Duration {
    let rule =
        |path: &String| Rule::parse(Effect::Allow, &format!("GET {path}"), ScopeSet::default());
    let service = ServiceSettings {
        name: ServiceName::new("items").expect("a name"),
        hosts: vec![HostPattern::parse("api.example").expect("a host")],
        scheme: Scheme::Https,
        port: 443,
        credentialed: true,
        escaped_slashes: false,
        oauth: true,
        rules: rules
            .iter()
            .map(|path| rule(path).expect("a rule"))
            .collect(),
    };
    let settings = Settings {
        generation: Generation(1),
        services: vec![service],
        agents: Vec::new(),
        tunnel: Vec::new(),
    };
    let snapshot = Snapshot::build(settings).expect("a policy");
    let path = RequestPath::parse(path).expect("a path");
    let facts = Facts {
        agent: &AgentName::fallback(),
        authority: &Authority::parse(Scheme::Https, "api.example").expect("an authority"),
        method: "GET",
        path: &path,
    };
    let began = Instant::now();
    for _ in 0..ROUNDS {
        black_box(snapshot.decide(black_box(&facts)));
    }
    began.elapsed() / ROUNDS
}
