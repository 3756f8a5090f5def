//! What the servers received, credentials included: the evidence of demo and tests. Bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use http::request::Parts;
use serde_json::Value;

use super::controls::Service;
use super::jose::Compact;

const KEPT: usize = 10_000;

/// One request as a server received it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// A number that grows by one with every request to any server.
    pub number: u64,
    /// The server.
    pub service: Service,
    /// The connection it came on; each has its own number.
    pub connection: u64,
    /// `HTTP/1.1` or `HTTP/2`.
    pub version: &'static str,
    /// The method.
    pub method: String,
    /// The `Host` field or `:authority`.
    pub authority: String,
    /// The path, byte for byte.
    pub path: String,
    /// The query.
    pub query: Option<String>,
    /// Every field line, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The claims of the proof in the `DPoP` field, not verified.
    pub proof: Option<Value>,
    /// The form that the token endpoint received.
    pub form: Vec<(String, String)>,
    /// The client or the token's client, once it is known.
    pub client: Option<String>,
    /// The status of the answer; none while there is none.
    pub status: Option<u16>,
    /// Why it was refused.
    pub note: Option<String>,
}

impl Seen {
    /// The first field line of this name (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Every field line of this name (lower case).
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

#[derive(Default)]
struct Log {
    next: u64,
    kept: VecDeque<Seen>,
}

/// The log that all servers write.
#[derive(Clone, Default)]
pub(super) struct SeenLog(Arc<Mutex<Log>>);

impl SeenLog {
    fn with<T>(&self, turn: impl FnOnce(&mut Log) -> T) -> T {
        turn(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn all(&self) -> Vec<Seen> {
        self.with(|log| log.kept.iter().cloned().collect())
    }

    pub(super) fn clear(&self) {
        self.with(|log| log.kept.clear());
    }

    /// Notes an arrival and returns the pen for what becomes of it.
    pub(super) fn arrived(&self, service: Service, connection: u64, head: &Parts) -> Visit {
        let headers = readable(&head.headers);
        let proof = headers
            .iter()
            .find(|(name, _)| name == "dpop")
            .and_then(|(_, text)| Compact::parse(text))
            .and_then(|proof| serde_json::from_slice(&proof.claims).ok());
        let number = self.with(|log| {
            log.next += 1;
            let number = log.next;
            if log.kept.len() >= KEPT {
                log.kept.pop_front();
            }
            log.kept.push_back(Seen {
                number,
                service,
                connection,
                version: if head.version == http::Version::HTTP_2 {
                    "HTTP/2"
                } else {
                    "HTTP/1.1"
                },
                method: head.method.to_string(),
                authority: authority(head),
                path: head.uri.path().to_owned(),
                query: head.uri.query().map(str::to_owned),
                headers,
                proof,
                form: Vec::new(),
                client: None,
                status: None,
                note: None,
            });
            number
        });
        Visit {
            log: self.clone(),
            number,
        }
    }
}

/// Field lines as text, in order of arrival.
pub(super) fn readable(headers: &http::HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect()
}

/// Whom the request names: `:authority` in HTTP/2, else `Host`.
pub(super) fn authority(head: &Parts) -> String {
    match head.uri.authority() {
        Some(authority) => authority.as_str().to_owned(),
        None => head
            .headers
            .get(http::header::HOST)
            .map(|host| String::from_utf8_lossy(host.as_bytes()).into_owned())
            .unwrap_or_default(),
    }
}

/// The pen for one entry of the log.
pub(super) struct Visit {
    log: SeenLog,
    number: u64,
}

impl Visit {
    fn write(&self, turn: impl FnOnce(&mut Seen)) {
        self.log.with(|log| {
            // Newest at the back, and only the newest are written.
            if let Some(seen) = log.kept.iter_mut().rev().find(|s| s.number == self.number) {
                turn(seen);
            }
        });
    }

    pub(super) fn answered(&self, status: u16) {
        self.write(|seen| seen.status = Some(status));
    }

    pub(super) fn note(&self, note: impl ToString) {
        self.write(|seen| seen.note = Some(note.to_string()));
    }

    pub(super) fn client(&self, client: &str) {
        self.write(|seen| seen.client = Some(client.to_owned()));
    }

    pub(super) fn form(&self, form: &[(String, String)]) {
        self.write(|seen| seen.form = form.to_vec());
    }
}
