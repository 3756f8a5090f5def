//! How many lines of one kind are worth writing: what fails a thousand times in a minute would hide everything else and
//! fill the disk. The metrics count every one.

use std::collections::HashMap;
use std::time::Duration;

use super::Event;
use crate::vocab::Moment;

/// Most lines of one kind about one party in one window.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_mins(1);
/// Most parties that are told apart; the names are those of the configuration. Beyond them nothing is held back.
const PARTIES: usize = 4096;

/// What a line is about: its event, and words that name the party.
pub(super) type About = (&'static str, String, String);

/// What was written lately.
#[derive(Debug, Default)]
pub(super) struct Calm(HashMap<About, Window>);

#[derive(Debug)]
struct Window {
    began: Moment,
    written: u32,
    held: u64,
}

impl Calm {
    /// Whether the line is to be written; how many were held back since the window before, where that is over.
    pub(super) fn admit(&mut self, now: Moment, about: &About) -> (bool, Option<u64>) {
        if !self.0.contains_key(about) && self.0.len() >= PARTIES {
            return (true, None);
        }
        let window = self.0.entry(about.clone()).or_insert(Window {
            began: now,
            written: 0,
            held: 0,
        });
        let mut told = None;
        if now.since(window.began) >= WINDOW {
            told = (window.held > 0).then_some(window.held);
            *window = Window {
                began: now,
                written: 0,
                held: 0,
            };
        }
        let admitted = window.written < LINES;
        if admitted {
            window.written += 1;
        } else {
            window.held += 1;
        }
        (admitted, told)
    }
}

/// What an event is about, if somebody outside can cause any number of it.
pub(super) fn about(event: &Event) -> Option<About> {
    Some(match event {
        Event::AgentAuthFailed { listener } => {
            (event.name(), (*listener).to_owned(), String::new())
        }
        Event::IssuerAuthFailed { grant, .. } => (
            event.name(),
            grant.agent.as_str().to_owned(),
            grant.service.as_str().to_owned(),
        ),
        Event::ApiRejected { agent, service, .. }
        | Event::SecretInRequest { agent, service, .. }
        | Event::StrangerCredential { agent, service, .. } => (
            event.name(),
            agent.as_str().to_owned(),
            service.as_str().to_owned(),
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_ten_lines_a_minute_and_a_number() {
        let mut calm = Calm::default();
        let about = ("auth.agent_failed", "proxy".to_owned(), String::new());
        let at = |ms: u64| Moment(0) + Duration::from_millis(ms);
        let written = (0..1000).filter(|i| calm.admit(at(*i), &about).0).count();
        assert_eq!(written, 10);
        // Another party is not held back by it.
        let other = ("auth.agent_failed", "gateway".to_owned(), String::new());
        assert_eq!(calm.admit(at(1000), &other), (true, None));
        assert_eq!(calm.admit(at(60_000), &about), (true, Some(990)));
        assert_eq!(calm.admit(at(60_001), &about), (true, None));
    }
}
