//! What is usual for an agent.

use super::Context;
use crate::agent::{Action, Hours, Network, WatchSettings, utc_offset};
use crate::config::raw::{OneOrMany, RawFactor, RawWatch, RawWatchAction};

/// Least and most that a usual rate may be multiplied by.
const FACTOR_MIN: f64 = 1.5;
const FACTOR_MAX: f64 = 1000.0;

/// Reads `agents.NAME.watch`.
pub(super) fn compile(agent: &str, raw: RawWatch, it: &mut Context<'_>) -> WatchSettings {
    let key = format!("{agent}.watch");
    let usual = raw.sources.is_some() || raw.hours.is_some() || raw.rate.is_some();
    if raw.action.is_some() && !usual && !it.findings.tainted(&key) {
        let what = "without `sources`, `hours` and `rate` nothing is unusual";
        let remedy = "say what is usual, or remove `action`";
        it.findings.error(&format!("{key}.action"), what, remedy);
    }
    if raw.timezone.is_some() && raw.hours.is_none() && !it.findings.tainted(&key) {
        let what = "without `hours` it means nothing";
        it.findings
            .error(&format!("{key}.timezone"), what, "remove it");
    }
    let mut sources = Vec::new();
    for (i, text) in raw.sources.into_iter().flatten().enumerate() {
        let Some(text) = text else { continue };
        match Network::parse(&text) {
            Some(network) => sources.push(network),
            None => {
                let remedy = "write one such as 10.0.0.0/8, with zeros behind the prefix, or an address; IPv4 as IPv4 and not as ::ffff:…";
                let at = format!("{key}.sources[{i}]");
                it.findings
                    .error(&at, "neither a network nor an address", remedy);
            }
        }
    }
    WatchSettings {
        sources,
        hours: hours(&key, raw.hours, it),
        offset: raw.timezone.map_or(0, |text| offset(&key, &text, it)),
        rate: raw.rate.and_then(|factor| rate(&key, &factor, it)),
        action: match raw.action {
            Some(RawWatchAction::Deny) => Action::Deny,
            Some(RawWatchAction::Revoke) => Action::Revoke,
            Some(RawWatchAction::Log) | None => Action::Log,
        },
    }
}

fn hours(key: &str, raw: Option<OneOrMany<String>>, it: &mut Context<'_>) -> Vec<Hours> {
    let listed: Vec<(String, String)> = match raw {
        None => Vec::new(),
        Some(OneOrMany::One(text)) => vec![(format!("{key}.hours"), text)],
        Some(OneOrMany::Many(many)) => {
            let numbered = many.into_iter().enumerate();
            numbered
                .filter_map(|(i, text)| Some((format!("{key}.hours[{i}]"), text?)))
                .collect()
        }
    };
    let mut found = Vec::new();
    for (key, text) in listed {
        match Hours::parse(&text) {
            Some(hours) => found.push(hours),
            None => {
                let remedy =
                    "write them as `Mon-Fri 08:00-18:00`; hours over midnight are two entries";
                it.findings.error(&key, "not hours of a week", remedy);
            }
        }
    }
    found
}

fn offset(key: &str, text: &str, it: &mut Context<'_>) -> i32 {
    let found = utc_offset(text);
    if found.is_none() {
        let what = "neither UTC nor an offset from it";
        let remedy = "write one such as \"+02:00\"; names of zones, and summer time, are not known";
        it.findings.error(&format!("{key}.timezone"), what, remedy);
    }
    found.unwrap_or_default()
}

fn rate(key: &str, RawFactor(text): &RawFactor, it: &mut Context<'_>) -> Option<f64> {
    let factor = text.strip_suffix('x').and_then(|text| text.parse().ok());
    let factor = factor.filter(|factor| (FACTOR_MIN..=FACTOR_MAX).contains(factor));
    if factor.is_none() {
        let remedy = "write one from 1.5x to 1000x, such as 5x";
        it.findings
            .error(&format!("{key}.rate"), "out of range", remedy);
    }
    factor
}
