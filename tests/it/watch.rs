//! What is unusual for an agent: from where it calls, and when. How often is judged by a synthetic clock, in the room.

use std::fs;

use tokenward::config::{self, SecretReading};
use tokenward::rehearsal::{Answer, Call};
use tokenward::vocab::Clock;

use super::kit::{API, House, PATIENCE, Setup, agent_token, ask, refused};

/// Two agents, the first watched like this.
fn setup(watch: &str) -> Setup {
    let mut setup = Setup::usual();
    for name in ["coder", "writer"] {
        let file: &'static str = if name == "coder" {
            "coder.token"
        } else {
            "writer.token"
        };
        setup.write_more.push((file, agent_token(name)));
    }
    setup.line(&format!(
        "agents:\n  coder: {{auth: {{token: {{file: coder.token}}}}, watch: {watch}}}\n  \
         writer: {{auth: {{token: {{file: writer.token}}}}}}"
    ))
}

async fn get(house: &House, agent: &str) -> Answer {
    ask(&house.named(agent), API, true, Call::get("/v1/items")).await
}

async fn reload(house: &House, from: &str, to: &str) {
    let file = house.folder.path().join("tokenward.yaml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(&file, text.replace(from, to)).unwrap();
    let plan = config::load(&file, SecretReading::Resolve).unwrap();
    house.running.reload(plan).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_source_is_refused_and_told_once_a_minute() {
    let watch = "{sources: [192.0.2.0/24], action: deny}";
    let house = setup(watch).start().await;
    for _ in 0..3 {
        refused(&get(&house, "coder").await, 403, "anomaly-denied");
    }
    assert_eq!(house.token_requests().len(), 0, "no token was asked for it");
    assert_eq!(get(&house, "writer").await.status, 200);
    let metrics = house.metrics().await;
    for counted in [
        "tokenward_security_events_total{kind=\"anomaly.source\"} 3",
        "tokenward_security_events_total{kind=\"anomaly.first_seen\"} 1",
    ] {
        assert!(metrics.contains(counted), "{counted}: {metrics}");
    }
    // The operator adds the network: it is usual from now on.
    reload(&house, "192.0.2.0/24", "127.0.0.0/8").await;
    assert_eq!(get(&house, "coder").await.status, 200);
    let written = house.end().await;
    let lines = written.of("anomaly.source");
    assert_eq!(lines.len(), 1, "{}", written.text);
    assert_eq!(
        (&lines[0]["agent"], &lines[0]["action"], &lines[0]["source"]),
        (&"coder".into(), &"deny".into(), &"127.0.0.1".into())
    );
    let requests = written.requests();
    let denied = requests
        .iter()
        .filter(|line| line["code"] == "anomaly-denied");
    let denied: Vec<_> = denied.collect();
    assert_eq!(denied.len(), 3);
    assert!(denied.iter().all(|line| line["agent"] == "coder"));
}

/// An hour of the day that is not now, in UTC.
fn other_hours() -> String {
    let hour = (Clock::system().wall().seconds() / 3600 + 12) % 24;
    format!("{hour:02}:00-{hour:02}:59")
}

#[tokio::test(flavor = "multi_thread")]
async fn other_hours_are_noted_or_refused_in_open_tunnels_too() {
    let watch = format!("{{hours: '{}', action: log}}", other_hours());
    let house = setup(&watch).start().await;
    let mut tunnel = house.named("coder").open(API, 443, true).await.unwrap();
    let asked = async |tunnel: &mut tokenward::rehearsal::Session| {
        tunnel.send(Call::get("/v1/items")).await.unwrap()
    };
    assert_eq!(asked(&mut tunnel).await.status, 200);
    reload(&house, "action: log", "action: deny").await;
    let answer = asked(&mut tunnel).await;
    refused(&answer, 403, "anomaly-denied");
    // By the clock of an agent on the other side of the world it is a usual hour.
    reload(&house, "action: deny", "action: deny, timezone: '+12:00'").await;
    assert_eq!(asked(&mut tunnel).await.status, 200);
    let lines = house.end().await.of("anomaly.hours");
    let actions: Vec<_> = lines.iter().map(|line| &line["action"]).collect();
    assert_eq!(actions, ["log", "deny"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_is_lent_can_be_revoked_for_it() {
    let watch = format!("{{hours: '{}', action: log}}", other_hours());
    let house = setup(&watch).start().await;
    // A stream is open when the hour turns out to be another.
    let mut tunnel = house.named("coder").open(API, 443, true).await.unwrap();
    let call = Call::get("/v1/stream?n=10000&ms=20");
    let open = tunnel.start(call).await.unwrap();
    assert_eq!(open.status(), 200);
    let reading = tokio::spawn(Answer::read(open));
    reload(&house, "action: log", "action: revoke").await;
    refused(&get(&house, "coder").await, 403, "anomaly-denied");
    // The stream is cut, and the other agent goes on.
    let cut = tokio::time::timeout(PATIENCE, reading).await;
    assert!(cut.unwrap().unwrap().is_err());
    assert_eq!(get(&house, "writer").await.status, 200);
    // At a usual hour again it is still revoked, until somebody lifts it.
    reload(
        &house,
        "action: revoke",
        "action: revoke, timezone: '+12:00'",
    )
    .await;
    refused(&get(&house, "coder").await, 403, "service-revoked");
    let written = house.end().await;
    let revoked = written.of("access.revoked");
    assert_eq!(revoked.len(), 1, "{}", written.text);
    assert_eq!(revoked[0]["agent"], "coder");
    let unusual = written.of("anomaly.hours");
    assert_eq!(unusual.last().unwrap()["action"], "revoke");
}
