use tower::ServiceExt as _;

use super::kit::*;
use crate::credential::{
    Armed, Bench, InstanceKey, Intent, Lease, LeaseFacts, PlaceholderMode, Placeholders, Slot,
    Stamp, Wire, attach, strip,
};
use crate::proof::{HtuProfile, Jti};
use crate::upstream::*;
use crate::vocab::{Binding, GrantId, RequestPath, ScopeSet, Secret};

/// What the exchange does between a permit and the wire, with a fixed credential.
fn arm(connection: Connection, authority: &Authority) -> Armed<Connection> {
    let (agent, service) = (AgentName::fallback(), ServiceName::new("items").unwrap());
    let instance = InstanceKey::new(&Secret::new(vec![7; 32]));
    let name = http::HeaderName::from_static("x-api-key");
    let slot = Slot::Header(name.clone());
    let bench = Bench {
        agent: &agent,
        service: &service,
        slot: &slot,
        mode: PlaceholderMode::Optional,
        placeholders: &Placeholders::new(&instance, []),
        pseudonym: "tokenward-1",
        guarded: true,
        cookies: &[],
    };
    let (parts, ()) = http::Request::new(()).into_parts();
    let path = RequestPath::parse("/v1").unwrap();
    let head = strip(&parts, path, None, Intent::Plain, &bench)
        .unwrap()
        .head;
    let facts = LeaseFacts {
        id: 1,
        grant: GrantId { service, agent },
        binding: Binding::Static,
        scopes: ScopeSet::default(),
        expires: None,
        cancel: tokio_util::sync::CancellationToken::new(),
    };
    let lease = Lease::fixed(facts, name, &Secret::new("secret-1".into())).unwrap();
    let wire = Wire {
        version: connection.version(),
        authority,
        htu: &HtuProfile::default(),
        pseudonym: "tokenward-1",
        expects: false,
        cookie: None,
    };
    let stamp = Stamp {
        nonce: None,
        iat: 0,
        jti: Jti::from_random([1; 16]),
    };
    attach(&head, nothing(), &lease, connection, &wire, Some(stamp)).unwrap()
}

#[tokio::test]
async fn an_armed_request_goes_out_as_it_is() {
    let world = World::new();
    let server = Server::http1(Some(world.ca.server("api.test", &[])), |head| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}",
            head.len()
        )
    })
    .await;
    let endpoint = world.endpoint(&server);
    let connection = world.connect("default", &endpoint).await.unwrap();
    let authority = Authority::parse(Scheme::Https, "api.test").unwrap();
    let reply = Client.oneshot(arm(connection, &authority)).await.unwrap();
    assert_eq!(reply.response.status(), 200);
    let head = read(reply).await.unwrap();
    assert!(head.starts_with("GET /v1 HTTP/1.1\r\n"), "{head}");
    for line in ["host: api.test\r\n", "x-api-key: secret-1\r\n"] {
        assert!(head.contains(line), "{head}");
    }
}
