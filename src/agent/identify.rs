//! Maps a proxy credential to an agent, in time that does not depend on how near a guess was.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use aws_lc_rs::{constant_time, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;

use super::watch::WatchSettings;
use crate::vocab::AgentName;

/// The agents of an installation. Empty: the one agent `default`, for callers on this machine.
#[derive(Clone, Default)]
pub struct Settings {
    /// Agents with a proxy token.
    pub agents: Vec<AgentCredential>,
    /// Agents that need none: they are known by the listener that is theirs alone.
    pub placed: BTreeSet<AgentName>,
    /// What is usual for those who are watched.
    pub watches: BTreeMap<AgentName, WatchSettings>,
}

impl Settings {
    /// Whether this agent is known by a listener of its own and by nothing else.
    #[must_use]
    pub fn only_placed(&self, name: &AgentName) -> bool {
        self.placed.contains(name) && self.agents.iter().all(|entry| entry.name != *name)
    }
}

/// One agent and the SHA-256 of its proxy token; the token itself is not kept.
#[derive(Clone)]
pub struct AgentCredential {
    /// Its name.
    pub name: AgentName,
    /// SHA-256 of its token.
    pub token_sha256: [u8; 32],
}

impl AgentCredential {
    /// Keeps the hash of a token.
    #[must_use]
    pub fn of(name: AgentName, token: &str) -> Self {
        Self {
            name,
            token_sha256: sha256(token),
        }
    }
}

/// A caller that was identified. Made by [`Agents::identify`] and [`Agents::placed`] alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent(AgentName);

impl Agent {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &AgentName {
        &self.0
    }
}

impl fmt::Display for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// No agent has this credential, or the caller may not do without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proxy does not know this agent")]
pub struct Unauthenticated;

/// Who may call.
#[derive(Clone)]
pub struct Agents(Settings);

impl Agents {
    /// Takes the configured agents.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self(settings)
    }

    /// What is usual for those who are watched.
    #[must_use]
    pub fn watches(&self) -> &BTreeMap<AgentName, WatchSettings> {
        &self.0.watches
    }

    /// Whether no agent is named.
    fn unnamed(&self) -> bool {
        self.0.agents.is_empty() && self.0.placed.is_empty()
    }

    /// Names the caller of a redirected connection, which has no credential of its own: by the agent whose listener it
    /// came to, or as `default` where no agent is named and the caller sits on the same machine.
    ///
    /// # Errors
    /// [`Unauthenticated`], also where the listener's agent is not among those who may call (any more).
    pub fn placed(
        &self,
        listener: Option<&AgentName>,
        local: bool,
    ) -> Result<Agent, Unauthenticated> {
        if self.unnamed() {
            let other = listener.is_some_and(|name| *name != AgentName::fallback());
            return if local && !other {
                Ok(Agent(AgentName::fallback()))
            } else {
                Err(Unauthenticated)
            };
        }
        let name = listener.ok_or(Unauthenticated)?;
        let mut with_token = self.0.agents.iter();
        let known = self.0.placed.contains(name) || with_token.any(|entry| entry.name == *name);
        known.then(|| Agent(name.clone())).ok_or(Unauthenticated)
    }

    /// Names the caller by its `Proxy-Authorization` value, or as `default` where no agent is named and the caller
    /// sits on the same machine.
    ///
    /// # Errors
    /// [`Unauthenticated`], whatever was wrong: the answer tells a guesser nothing.
    pub fn identify(
        &self,
        credential: Option<&HeaderValue>,
        local: bool,
    ) -> Result<Agent, Unauthenticated> {
        if self.unnamed() {
            return if local {
                Ok(Agent(AgentName::fallback()))
            } else {
                Err(Unauthenticated)
            };
        }
        let (user, token) = credential.and_then(read).ok_or(Unauthenticated)?;
        let hash = sha256(&token);
        let mut found = None;
        // Every entry is compared, so the time tells nothing about which agents exist.
        for entry in &self.0.agents {
            let same = constant_time::verify_slices_are_equal(&hash, &entry.token_sha256).is_ok();
            if same
                && user
                    .as_deref()
                    .is_none_or(|user| user == entry.name.as_str())
            {
                found = Some(&entry.name);
            }
        }
        found.map(|name| Agent(name.clone())).ok_or(Unauthenticated)
    }
}

/// `Basic name:token`, or `Bearer token`.
fn read(value: &HeaderValue) -> Option<(Option<String>, String)> {
    let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some((None, rest.to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
    let (user, token) = pair.split_once(':')?;
    Some((Some(user.to_owned()), token.to_owned()))
}

fn sha256(text: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents() -> Agents {
        let of =
            |name: &str, token: &str| AgentCredential::of(AgentName::new(name).unwrap(), token);
        Agents::new(Settings {
            agents: vec![of("coder", "t0ken"), of("writer", "o:ther")],
            ..Settings::default()
        })
    }

    fn basic(pair: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).unwrap()
    }

    #[test]
    fn a_token_names_its_agent() {
        let agents = agents();
        let who = |value: &HeaderValue| agents.identify(Some(value), false).map(|a| a.to_string());
        assert_eq!(who(&basic("coder:t0ken")).unwrap(), "coder");
        assert_eq!(who(&basic("writer:o:ther")).unwrap(), "writer");
        assert_eq!(
            who(&HeaderValue::from_static("Bearer t0ken")).unwrap(),
            "coder"
        );
        assert_eq!(
            who(&HeaderValue::from_static("bearer o:ther")).unwrap(),
            "writer"
        );
    }

    #[test]
    fn whatever_else_is_nobody() {
        let agents = agents();
        for value in [
            basic("coder:wrong"),
            basic("writer:t0ken"),
            basic("t0ken"),
            basic(":t0ken"),
            HeaderValue::from_static("Bearer"),
            HeaderValue::from_static("Basic !!!"),
            HeaderValue::from_static("DPoP t0ken"),
            HeaderValue::from_bytes(b"Bearer \xff").unwrap(),
        ] {
            assert_eq!(
                agents.identify(Some(&value), true),
                Err(Unauthenticated),
                "{value:?}"
            );
        }
        assert_eq!(agents.identify(None, true), Err(Unauthenticated));
    }

    #[test]
    fn a_place_names_its_agent() {
        let name = |text: &str| AgentName::new(text).unwrap();
        let mut settings = agents().0;
        settings.placed.insert(name("mute"));
        let agents = Agents::new(settings);
        let who = |listener: Option<&str>, local| {
            let listener = listener.map(name);
            let found = agents.placed(listener.as_ref(), local);
            found.map(|agent| agent.to_string())
        };
        assert_eq!(who(Some("coder"), false).unwrap(), "coder");
        assert_eq!(who(Some("mute"), false).unwrap(), "mute");
        assert_eq!(who(Some("gone"), true), Err(Unauthenticated));
        assert_eq!(who(Some("default"), true), Err(Unauthenticated));
        assert_eq!(who(None, true), Err(Unauthenticated));
        let agents = Agents::new(Settings::default());
        let default = name("default");
        assert_eq!(agents.placed(None, true).unwrap().name(), &default);
        let named = agents.placed(Some(&default), true).unwrap();
        assert_eq!(named.name(), &default);
        assert_eq!(agents.placed(None, false), Err(Unauthenticated));
        assert_eq!(agents.placed(Some(&default), false), Err(Unauthenticated));
        assert_eq!(agents.placed(Some(&name("x")), true), Err(Unauthenticated));
    }

    #[test]
    fn an_agent_without_a_token_is_not_named_by_one() {
        let mut settings = Settings::default();
        settings.placed.insert(AgentName::new("mute").unwrap());
        let agents = Agents::new(settings);
        assert_eq!(agents.identify(None, true), Err(Unauthenticated));
        let empty = basic("mute:");
        assert_eq!(agents.identify(Some(&empty), true), Err(Unauthenticated));
    }

    #[test]
    fn without_named_agents_loopback_is_default_and_nothing_else_is() {
        let agents = Agents::new(Settings::default());
        assert_eq!(
            agents.identify(None, true).unwrap().name(),
            &AgentName::fallback()
        );
        assert_eq!(agents.identify(None, false), Err(Unauthenticated));
    }
}
