//! One hostile agent must not starve another: rates, connections, slow bodies, slow readers, floods.
//!
//! How long a window or a silence lasts is set for each test, and nothing here depends on how fast the machine is: what
//! is asserted is what happens, not when.

mod bodies;
mod doors;
mod frames;
mod handshakes;
mod memory;

use std::time::Duration;

use tokenward::exchange::BodyFloor;

use super::kit::{House, Setup, Svc};

/// Two agents with the same services.
fn two(line: &str) -> Setup {
    let mut setup = Setup::of([Svc::items(), Svc::keys()]).line(line);
    setup.agents = vec![("a", "items, keys"), ("b", "items, keys")];
    setup
}

/// 300 bytes in 300 milliseconds of waiting.
const FLOOR: BodyFloor = BodyFloor {
    rate: 1000,
    window: Duration::from_millis(300),
};

/// Counts of one metric's series, by what stands in its braces.
async fn series(house: &House, metric: &str, labels: &str) -> u64 {
    let text = house.metrics().await;
    let start = format!("{metric}{{{labels}}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |count| count.parse().unwrap())
}

/// How often something happened that somebody should look at.
async fn events(house: &House, kind: &str) -> u64 {
    let labels = format!("kind=\"{kind}\"");
    series(house, "tokenward_security_events_total", &labels).await
}
