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
