//! Who calls: proxy tokens, what one agent may not do with what is another's, and placeholders.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokenward::rehearsal::{Call, Caller, CallerError};

use crate::kit::{
    API, Auth, Credential, House, KEYS, Raw, Setup, Svc, agent_token, ask, claims, refused, speak,
    token_of,
};

/// `coder` and `writer` share the DPoP API; the keys are `writer`'s alone.
fn two_agents() -> Setup {
    let mut setup = Setup::of([Svc::items(), Svc::keys()]);
    setup.agents = vec![("coder", "items"), ("writer", "items, keys")];
    setup
}

async fn connect(house: &House, host: &str, credential: &str) -> Raw {
    let bytes = format!(
        "CONNECT {host}:443 HTTP/1.1\r\nhost: {host}:443\r\n{credential}connection: close\r\n\r\n"
    );
    speak(house.proxy(), bytes.as_bytes()).await
}

fn basic(pair: &str) -> String {
    format!("proxy-authorization: Basic {}\r\n", STANDARD.encode(pair))
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_calls_without_a_name() {
    let house = two_agents().start().await;
    // Of wrong ones a source may try five at once.
    let other = two_agents().start().await;
    let token = agent_token("coder");
    for credential in [
        String::new(),
        basic("coder:wrong"),
        basic(&format!("writer:{token}")),
        basic(&format!(":{token}")),
        "proxy-authorization: Bearer wrong\r\n".to_owned(),
        "proxy-authorization: Negotiate YII=\r\n".to_owned(),
        format!("authorization: Bearer {token}\r\n"),
    ] {
        let answer = connect(&house, API, &credential).await;
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (407, "agent-unauthenticated")
        );
        let text = answer.text();
        assert!(
            text.contains("proxy-authenticate: Basic realm=\"tokenward\""),
            "{text}"
        );
        let absolute = format!(
            "GET https://{API}/v1/items HTTP/1.1\r\nhost: {API}\r\n{credential}connection: close\r\n\r\n"
        );
        assert_eq!(
            speak(other.proxy(), absolute.as_bytes()).await.status(),
            407
        );
    }
    for house in [house, other] {
        assert!(house.rehearsal.seen().is_empty());
        let written = house.end().await;
        assert_eq!(written.of("auth.agent_failed").len(), 7);
        assert!(written.requests().iter().all(|l| l.get("agent").is_none()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_and_bearer_name_an_agent() {
    let house = two_agents().start().await;
    let token = agent_token("coder");
    for credential in [
        basic(&format!("coder:{token}")),
        format!("proxy-authorization: Bearer {token}\r\n"),
        format!("Proxy-Authorization: bearer {token}\r\n"),
    ] {
        let tunnel = house
            .tunnel_by(&format!(
                "CONNECT {API}:443 HTTP/1.1\r\nhost: {API}:443\r\n{credential}\r\n"
            ))
            .await;
        drop(house.handshake(tunnel, API, "h2").await.unwrap());
    }
    let answer = ask(&house.named("coder"), API, true, Call::get("/v1/items")).await;
    assert_eq!(answer.status, 200);
    for seen in house.rehearsal.seen() {
        assert!(!format!("{seen:?}").contains(&token));
    }
    assert_eq!(house.end().await.only()["agent"], "coder");
}

/// The environment's proxy URL carries the token, escaped as URLs are.
#[tokio::test(flavor = "multi_thread")]
async fn each_agent_is_given_its_own_environment() {
    let house = two_agents().start().await;
    let escaped = agent_token("coder").replace('/', "%2F").replace(':', "%3A");
    let url = house.variable("coder", "https_proxy");
    assert_eq!(url, format!("http://coder:{escaped}@{}", house.proxy()));
    let names = |agent: &str| -> Vec<String> {
        let seats = house.running.seats();
        let seat = seats.iter().find(|s| s.agent.as_str() == agent).unwrap();
        seat.environment
            .iter()
            .map(|(name, _)| name.clone())
            .collect()
    };
    assert!(names("writer").contains(&"KEYS_TOKEN".to_owned()));
    assert!(!names("coder").contains(&"KEYS_TOKEN".to_owned()));
    assert_ne!(
        house.variable("coder", "ITEMS_TOKEN"),
        house.variable("writer", "ITEMS_TOKEN")
    );
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_cannot_use_the_services_of_another() {
    let house = two_agents().start().await;
    refused(
        &ask(&house.named("coder"), KEYS, true, Call::get("/v1/items")).await,
        403,
        "destination-denied",
    );
    assert!(house.at_static().is_empty());
    let answer = ask(&house.named("writer"), KEYS, true, Call::get("/v1/items")).await;
    assert_eq!(answer.status, 200);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placeholder_works_for_its_owner_alone() {
    let house = two_agents().start().await;
    let coder = house.named("coder");
    let bearer = |placeholder: &str| {
        Call::get("/v1/items").field("authorization", &format!("Bearer {placeholder}"))
    };
    // Of another agent, of another service, and both.
    for (agent, variable) in [("writer", "ITEMS_TOKEN"), ("writer", "KEYS_TOKEN")] {
        let foreign = house.variable(agent, variable);
        for h2 in [false, true] {
            refused(
                &ask(&coder, API, h2, bearer(&foreign)).await,
                403,
                "placeholder-mismatch",
            );
            let in_key = Call::get("/v1/items").field("x-api-key", &foreign);
            refused(
                &ask(&coder, API, h2, in_key).await,
                403,
                "placeholder-mismatch",
            );
            let basic = format!("Basic {}", STANDARD.encode(format!("git:{foreign}")));
            let in_basic = Call::get("/v1/items").field("authorization", &basic);
            refused(
                &ask(&coder, API, h2, in_basic).await,
                403,
                "placeholder-mismatch",
            );
            let in_query = Call::get(&format!("/v1/items?api_key={foreign}"));
            refused(
                &ask(&coder, API, h2, in_query).await,
                403,
                "placeholder-mismatch",
            );
        }
    }
    let own = house.variable("writer", "ITEMS_TOKEN");
    let writer = house.named("writer");
    let call = Call::get("/v1/items").field("x-api-key", &own);
    refused(
        &ask(&writer, KEYS, true, call).await,
        403,
        "placeholder-mismatch",
    );
    assert!(house.rehearsal.seen().is_empty());
    // In a body it is text like another.
    assert_eq!(
        ask(
            &coder,
            API,
            true,
            bearer(&house.variable("coder", "ITEMS_TOKEN"))
        )
        .await
        .status,
        200
    );
    let foreign = house.variable("writer", "ITEMS_TOKEN");
    let post =
        Call::new(http::Method::POST, "/v1/items").bytes(format!("{{\"prompt\":\"{foreign}\"}}"));
    let answer = ask(&coder, API, true, post).await;
    assert!(answer.text().contains(&foreign), "{}", answer.text());
    let written = house.end().await;
    assert_eq!(written.of("placeholder.misused").len(), 17);
    assert!(!written.text.contains(&foreign));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_agent_has_tokens_and_keys_of_its_own() {
    let house = two_agents().start().await;
    for agent in ["coder", "writer"] {
        let caller = house.named(agent);
        for _ in 0..2 {
            let answer = ask(&caller, API, true, Call::get("/v1/items")).await;
            assert_eq!(answer.status, 200);
        }
    }
    let served: Vec<_> = house
        .at_api()
        .into_iter()
        .filter(|s| s.status == Some(200))
        .collect();
    let key = |i: usize| {
        claims(token_of(&served[i]))["cnf"]["jkt"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(served.len(), 4);
    assert_eq!(
        (key(0), token_of(&served[0])),
        (key(1), token_of(&served[1]))
    );
    assert_eq!(
        (key(2), token_of(&served[2])),
        (key(3), token_of(&served[3]))
    );
    assert_ne!(key(0), key(2));
    assert_ne!(token_of(&served[0]), token_of(&served[2]));
    // Not even a connection is shared.
    assert_ne!(served[0].connection, served[2].connection);
    assert_eq!(served[0].connection, served[1].connection);
    let (coders, writers) = (key(0), key(2));
    let written = house.end().await;
    for line in written.requests() {
        let own = if line["agent"] == "coder" {
            &coders
        } else {
            &writers
        };
        assert_eq!(line["jkt"], own.as_str());
    }
    assert_eq!(written.of("token.issued").len(), 2);
}

/// Two agents with different scopes on one host.
#[tokio::test(flavor = "multi_thread")]
async fn agents_may_have_different_services_on_one_host() {
    let mut reader =
        Svc::items().with(Credential::oauth("svc-reader", Auth::PrivateKeyJwt, "dpop"));
    reader.name = "reader";
    reader.rules = vec![r#"{allow: "GET /v1/items/**", scopes: ["items:read"]}"#.into()];
    let mut setup = Setup::of([Svc::items(), reader]);
    setup.agents = vec![("coder", "items"), ("guest", "reader")];
    let house = setup.start().await;
    let post = || Call::new(http::Method::POST, "/v1/items").bytes("{}");
    let (coder, guest) = (house.named("coder"), house.named("guest"));
    assert_eq!(ask(&coder, API, true, post()).await.status, 201);
    refused(&ask(&guest, API, true, post()).await, 403, "policy-denied");
    assert_eq!(
        ask(&guest, API, true, Call::get("/v1/items")).await.status,
        200
    );
    let clients: Vec<_> = house
        .at_api()
        .into_iter()
        .filter_map(|s| s.client)
        .collect();
    assert_eq!(clients.last().map(String::as_str), Some("svc-reader"));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_placeholder_must_be_shown() {
    let mut items = Svc::items();
    items.more = vec![
        r#"placeholder: {variable: ITEMS_TOKEN, shape: "sk-test-{random:32}", mode: required}"#
            .into(),
    ];
    let house = Setup::of([items]).start().await;
    let placeholder = house.variable("default", "ITEMS_TOKEN");
    assert!(
        placeholder.starts_with("sk-test-") && placeholder.len() == 40,
        "{placeholder}"
    );
    refused(&house.get("/v1/items").await, 403, "placeholder-required");
    let wrong = Call::get("/v1/items").field(
        "authorization",
        "Bearer sk-test-00000000000000000000000000000000",
    );
    refused(&house.ask(true, wrong).await, 403, "placeholder-required");
    assert!(house.rehearsal.seen().is_empty());
    for (name, value) in [
        ("authorization", format!("Bearer {placeholder}")),
        ("authorization", format!("DPoP {placeholder}")),
        (
            "authorization",
            format!("Basic {}", STANDARD.encode(format!("x:{placeholder}"))),
        ),
        ("x-api-key", placeholder.clone()),
    ] {
        let call = Call::get("/v1/items").field(name, &value);
        assert_eq!(house.ask(true, call).await.status, 200, "{name}");
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_named_agents_everybody_here_is_default() {
    let house = House::start().await;
    // A credential that nobody asked for changes nothing.
    for agent in [house.agent(), house.named("whoever")] {
        assert_eq!(
            ask(&agent, API, true, Call::get("/v1/items")).await.status,
            200
        );
    }
    let lines = house.end().await.requests();
    assert!(lines.iter().all(|line| line["agent"] == "default"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_has_a_share_and_no_more() {
    let mut setup = two_agents().line("limits: {per_agent: {connections: 2, streams: 3}}");
    setup.agents[0].1 = "items";
    let house = setup.start().await;
    let coder = house.named("coder");
    let held = [
        coder.open(API, 443, true).await.unwrap(),
        coder.open(API, 443, true).await.unwrap(),
    ];
    let Err(CallerError::Refused(answer)) = coder.open(API, 443, true).await else {
        panic!("a third connection was let in");
    };
    refused(&answer, 429, "agent-rate-limited");
    assert!(answer.headers.contains_key("retry-after"));
    // Another agent has its own share.
    assert_eq!(
        ask(&house.named("writer"), API, true, Call::get("/v1/items"))
            .await
            .status,
        200
    );
    drop(held);
    let free = |caller: Caller| async move {
        for _ in 0..200 {
            if let Ok(session) = caller.open(API, 443, true).await {
                return session;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("a closed connection still counts")
    };
    let mut session = free(coder).await;
    assert_eq!(
        session.send(Call::get("/v1/items")).await.unwrap().status,
        200
    );
    drop(session);
    house.end().await;
}
