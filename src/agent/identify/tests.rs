//! Every way to be known, alone and mixed.

use http::HeaderValue;

use super::*;

const CODER: u32 = 1001;

fn name(name: &str) -> AgentName {
    AgentName::new(name).unwrap()
}

/// `coder` and `writer` have tokens, `local` is a user.
fn agents() -> Agents {
    let of = |text: &str, known_by| AgentCredential {
        name: name(text),
        known_by,
    };
    Agents::new(Settings {
        agents: vec![
            of("coder", KnownBy::token("t0ken")),
            of("writer", KnownBy::token("o:ther")),
            of("local", KnownBy::User(CODER)),
        ],
        ..Settings::default()
    })
}

fn here() -> Connection {
    Connection {
        local: true,
        ..Connection::default()
    }
}

fn user(user: u32) -> Connection {
    Connection {
        user: Some(user),
        ..here()
    }
}

fn fields(values: &[HeaderValue]) -> HeaderMap {
    let name = || PROXY_AUTHORIZATION;
    values.iter().map(|value| (name(), value.clone())).collect()
}

fn basic(pair: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair))).unwrap()
}

fn who(connection: &Connection, values: &[HeaderValue]) -> Result<String, Unauthenticated> {
    let found = agents().identify(connection, &fields(values), WallTime(0));
    found.map(|agent| agent.to_string())
}

#[test]
fn a_token_names_its_agent() {
    let bearer = HeaderValue::from_static;
    for (value, expected) in [
        (basic("coder:t0ken"), "coder"),
        (basic("writer:o:ther"), "writer"),
        (bearer("Bearer t0ken"), "coder"),
        (bearer("bearer o:ther"), "writer"),
    ] {
        assert_eq!(
            who(&Connection::default(), &[value]).as_deref(),
            Ok(expected)
        );
    }
}

#[test]
fn whatever_else_is_nobody() {
    use Unauthenticated::{Absent, Malformed, UnknownToken};
    let cases = [
        (basic("coder:wrong"), UnknownToken),
        (basic("writer:t0ken"), UnknownToken),
        (basic("t0ken"), Malformed),
        (basic(":t0ken"), UnknownToken),
        (HeaderValue::from_static("Bearer"), Malformed),
        (HeaderValue::from_static("Basic !!!"), Malformed),
        (HeaderValue::from_static("DPoP t0ken"), Malformed),
        (HeaderValue::from_bytes(b"Bearer \xff").unwrap(), Malformed),
    ];
    for (value, why) in cases {
        // A wrong credential is not forgiven for a right user.
        for connection in [here(), user(CODER)] {
            assert_eq!(
                who(&connection, std::slice::from_ref(&value)),
                Err(why),
                "{value:?}"
            );
        }
    }
    assert_eq!(who(&here(), &[]), Err(Absent));
    let twice = [basic("coder:t0ken"), basic("coder:t0ken")];
    for connection in [here(), user(CODER)] {
        assert_eq!(who(&connection, &twice), Err(Malformed));
    }
}

#[test]
fn a_user_names_its_agent() {
    assert_eq!(who(&user(CODER), &[]).as_deref(), Ok("local"));
    // Nobody else is it: neither root, nor whom the system cannot name, nor a user without an entry.
    for other in [0, 1000, 65_534, u32::MAX] {
        assert_eq!(who(&user(other), &[]), Err(Unauthenticated::UnknownUser));
        // They may show a token.
        assert_eq!(
            who(&user(other), &[basic("coder:t0ken")]).as_deref(),
            Ok("coder")
        );
    }
}

#[test]
fn what_is_shown_must_name_one_agent() {
    assert_eq!(
        who(&user(CODER), &[basic("coder:t0ken")]),
        Err(Unauthenticated::OtherAgent)
    );
}

#[test]
fn without_named_agents_loopback_is_default_and_nothing_else_is() {
    let agents = Agents::new(Settings::default());
    for connection in [here(), user(0)] {
        assert_eq!(
            agents
                .identify(&connection, &fields(&[basic("a:b")]), WallTime(0))
                .unwrap()
                .name(),
            &AgentName::fallback()
        );
    }
    assert_eq!(
        agents.identify(&Connection::default(), &HeaderMap::new(), WallTime(0)),
        Err(Unauthenticated::Absent)
    );
}

#[test]
fn a_place_names_its_agent() {
    let mut settings = agents().settings;
    settings.agents.push(AgentCredential {
        name: name("mute"),
        known_by: KnownBy::Listener,
    });
    assert!(settings.only_placed(&name("mute")) && !settings.only_placed(&name("coder")));
    let named = Agents::new(settings);
    let who = |agents: &Agents, listener: Option<&str>, local| {
        let listener = listener.map(name);
        let found = agents.placed(listener.as_ref(), local);
        found.map(|agent| agent.to_string())
    };
    let (absent, unknown) = (Unauthenticated::Absent, Unauthenticated::UnknownListener);
    assert_eq!(who(&named, Some("coder"), false).unwrap(), "coder");
    assert_eq!(who(&named, Some("mute"), false).unwrap(), "mute");
    assert_eq!(who(&named, Some("gone"), true), Err(unknown));
    assert_eq!(who(&named, Some("default"), true), Err(unknown));
    assert_eq!(who(&named, None, true), Err(absent));
    let alone = Agents::new(Settings::default());
    assert_eq!(who(&alone, None, true).unwrap(), "default");
    assert_eq!(who(&alone, Some("default"), true).unwrap(), "default");
    for (listener, local) in [(None, false), (Some("default"), false), (Some("x"), true)] {
        assert_eq!(who(&alone, listener, local), Err(absent));
    }
}

#[test]
fn an_agent_with_nothing_but_a_listener_is_not_named_by_a_token() {
    let agents = Agents::new(Settings {
        agents: vec![AgentCredential {
            name: name("mute"),
            known_by: KnownBy::Listener,
        }],
        ..Settings::default()
    });
    let shown = |values: &[HeaderValue]| agents.identify(&here(), &fields(values), WallTime(0));
    assert_eq!(shown(&[]), Err(Unauthenticated::Absent));
    assert_eq!(shown(&[basic("mute:")]), Err(Unauthenticated::UnknownToken));
}
