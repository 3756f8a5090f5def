//! What the configuration says about carrying requests to one service.

use std::time::Duration;

use crate::credential::{PlaceholderSettings, Slot};
use crate::proof::HtuProfile;
use crate::upstream::TargetSettings;
use crate::vocab::{Binding, ServiceName};

/// How requests to one service are carried.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSettings {
    /// Its name.
    pub name: ServiceName,
    /// Where its credential goes.
    pub slot: Slot,
    /// What ties its credential to a key; for the records of requests that got no lease.
    pub binding: Binding,
    /// How to reach it.
    pub target: TargetSettings,
    /// What the agent holds instead of the credential.
    pub placeholder: PlaceholderSettings,
    /// How the service compares `htu`.
    pub htu: HtuProfile,
    /// How long to wait for it.
    pub timeouts: Timeouts,
    /// Largest request body that is kept for a second attempt, in bytes.
    pub replay_buffer: usize,
    /// Longest life of one exchange; `None` has no limit.
    pub max_stream_age: Option<Duration>,
    /// What becomes of answers that hold the credential.
    pub response_guard: ResponseGuard,
    /// What becomes of requests that hold a live secret.
    pub request_guard: RequestGuard,
    /// What becomes of cookies, where it has a credential.
    pub session_cookies: SessionCookies,
}

/// What becomes of requests that hold a live secret of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RequestGuard {
    /// They are refused; a body that has begun to flow is broken off.
    Block,
    /// Nobody looks.
    #[default]
    Off,
}

/// What becomes of the cookies of a service with a credential: a session that the credential opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum SessionCookies {
    /// They stay here, and go out again with the agent's next requests.
    #[default]
    Keep,
    /// They are dropped, either way.
    Drop,
    /// Those with these names pass, either way; the others are dropped.
    Pass(Vec<Box<str>>),
}

impl SessionCookies {
    /// The names of those that pass.
    pub(super) fn passing(&self) -> &[Box<str>] {
        match self {
            Self::Pass(names) => names,
            Self::Keep | Self::Drop => &[],
        }
    }
}

/// What becomes of answers that hold the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ResponseGuard {
    /// It is overwritten by the placeholder.
    #[default]
    Redact,
    /// The answer is refused; one that was begun is broken off.
    Block,
    /// Nobody looks.
    Off,
}

/// How long to wait for a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, DNS and TLS included.
    pub connect: Duration,
    /// For the head of the answer, from the moment the request was written.
    pub first_byte: Duration,
    /// Between two pieces of a body, either way.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(3),
            first_byte: Duration::from_secs(60),
            idle: Duration::from_secs(300),
        }
    }
}
