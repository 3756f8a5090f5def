use std::time::Duration;

use super::kit::*;
use crate::credential::Certificate;
use crate::upstream::*;
use crate::vocab::Secret;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn two_agents_never_share_a_connection() {
    let world = World::new();
    let server = Server::http1(Some(world.ca.server("api.test", &[])), |_| OK.into()).await;
    let endpoint = world.endpoint(&server);
    assert!(!world.fetch("a", &endpoint).await.0);
    assert!(!world.fetch("b", &endpoint).await.0);
    assert!(world.fetch("a", &endpoint).await.0);
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_new_endpoint_means_new_connections() {
    let world = World::new();
    let server = Server::http1(Some(world.ca.server("api.test", &[])), |_| OK.into()).await;
    let old = world.endpoint(&server);
    assert!(!world.fetch("a", &old).await.0);
    let in_use = world.connect("a", &old).await.unwrap();
    assert!(in_use.reused());
    let new = world.endpoint(&server);
    assert!(!world.fetch("a", &new).await.0);
    // A request of the older generation is still carried, on connections that nobody keeps.
    drop(in_use);
    settle().await;
    assert!(!world.fetch("a", &old).await.0);
    assert!(!world.fetch("a", &old).await.0);
    assert!(world.fetch("a", &new).await.0);
}

#[tokio::test]
async fn connections_grow_old() {
    let world = World::new();
    let server = Server::http1(Some(world.ca.server("api.test", &[])), |_| OK.into()).await;
    let endpoint = world.endpoint(&server);
    world.fetch("a", &endpoint).await;
    world.clock.advance(Duration::from_secs(59));
    assert!(world.fetch("a", &endpoint).await.0);
    world.clock.advance(Duration::from_secs(60));
    assert!(!world.fetch("a", &endpoint).await.0);
}

#[tokio::test]
async fn what_is_kept_is_bounded() {
    let limits = PoolLimits {
        per_key: 2,
        idle: 3,
        ..PoolLimits::default()
    };
    let world = World::with(limits, Script::new(&[]));
    let server = Server::http1(Some(world.ca.server("api.test", &[])), |_| OK.into()).await;
    let endpoint = world.endpoint(&server);
    let mut kept = 0;
    for agent in ["a", "b"] {
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(world.connect(agent, &endpoint).await.unwrap());
        }
        drop(held);
        settle().await;
    }
    for agent in ["a", "b"] {
        let mut held = Vec::new();
        for _ in 0..3 {
            let found = world.connect(agent, &endpoint).await.unwrap();
            kept += usize::from(found.reused());
            held.push(found);
        }
        std::mem::forget(held);
    }
    assert_eq!(kept, 3);
}

#[tokio::test]
async fn connections_are_bounded_in_all() {
    let limits = PoolLimits {
        connections: 2,
        ..PoolLimits::default()
    };
    let world = World::with(limits, Script::new(&[]));
    let server = Server::http1(Some(world.ca.server("api.test", &[])), |_| OK.into()).await;
    let endpoint = world.endpoint(&server);
    let one = world.connect("a", &endpoint).await.unwrap();
    let two = world.connect("b", &endpoint).await.unwrap();
    let third = world.connect("c", &endpoint).await;
    assert_eq!(third.err(), Some(UpstreamError::Limit));
    // Kept ones make room for those who have none.
    drop((one, two));
    settle().await;
    assert!(world.connect("c", &endpoint).await.is_err());
    settle().await;
    assert!(world.connect("c", &endpoint).await.is_ok());
}

#[tokio::test]
async fn what_one_agent_leaves_behind_takes_no_place() {
    let limits = PoolLimits {
        connections: 8,
        ..PoolLimits::default()
    };
    let world = World::with(limits, Script::new(&[]));
    let server = Server::http1(Some(world.ca.server("api.test", &[])), |_| OK.into()).await;
    let endpoint = world.endpoint(&server);
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(world.connect("a", &endpoint).await.unwrap());
    }
    drop(held);
    settle().await;
    // Never at the bound: what is unused goes before that.
    for agent in ["b", "c", "d", "e"] {
        let one = world.connect(agent, &endpoint).await.unwrap();
        let two = world.connect(agent, &endpoint).await.unwrap();
        drop((one, two));
        settle().await;
    }
}

#[tokio::test]
async fn kept_connections_can_be_closed_by_owner() {
    let world = World::new();
    let server = Server::http1(Some(world.ca.server("api.test", &[])), |_| OK.into()).await;
    let endpoint = world.endpoint(&server);
    world.fetch("a", &endpoint).await;
    world.fetch("b", &endpoint).await;
    world
        .upstream
        .close_idle(|agent, service| agent.as_str() == "a" && service.as_str() == "items");
    assert!(!world.fetch("a", &endpoint).await.0);
    assert!(world.fetch("b", &endpoint).await.0);
}

#[tokio::test]
async fn what_was_in_use_while_its_owner_was_closed_is_not_kept() {
    let world = World::new();
    let server = Server::http1(Some(world.ca.server("api.test", &[])), |_| OK.into()).await;
    let endpoint = world.endpoint(&server);
    let in_use = world.connect("a", &endpoint).await.unwrap();
    world.upstream.close_idle(|_, _| true);
    let newer = world.connect("a", &endpoint).await.unwrap();
    drop(in_use);
    settle().await;
    assert!(!world.connect("a", &endpoint).await.unwrap().reused());
    drop(newer);
}

#[tokio::test]
async fn a_sweep_closes_what_is_old_and_leaves_what_is_used() {
    let world = World::new();
    let server = Server::http1(Some(world.ca.server("api.test", &[])), |_| OK.into()).await;
    let endpoint = world.endpoint(&server);
    let pool = &world.upstream.0.pool;
    let in_use = world.connect("a", &endpoint).await.unwrap();
    pool.sweep();
    drop(in_use);
    settle().await;
    assert!(world.fetch("a", &endpoint).await.0);
    world.clock.advance(Duration::from_secs(61));
    pool.sweep();
    assert!(pool.is_empty());
    let closed = timeout(SOON, async {
        while pool.connections() > 0 {
            settle().await;
        }
    });
    closed.await.unwrap();
}

#[tokio::test]
async fn a_drain_waits_for_the_last_reply_and_keeps_nothing() {
    let world = World::new();
    let server = Server::http1(Some(world.ca.server("api.test", &[])), |_| OK.into()).await;
    let endpoint = world.endpoint(&server);
    world.fetch("a", &endpoint).await;
    let reply = get(world.connect("b", &endpoint).await.unwrap())
        .await
        .unwrap();
    let drain = world.upstream.drain();
    let mut drain = std::pin::pin!(drain);
    let waited = timeout(Duration::from_millis(100), &mut drain).await;
    assert!(waited.is_err());
    let refused = world.connect("a", &endpoint).await.err();
    assert_eq!(refused, Some(UpstreamError::Draining));
    assert_eq!(read(reply).await.unwrap(), "ok");
    timeout(SOON, drain).await.unwrap();
}

#[tokio::test]
async fn one_lookup_per_connection_and_none_for_a_kept_one() {
    let script = Script::new(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let world = World::with(PoolLimits::default(), script.clone());
    let server = Server::http1(None, |_| OK.into()).await;
    let settings = TargetSettings {
        allow_private: true,
        ..TargetSettings::default()
    };
    let endpoint = world.upstream.endpoint(&settings).unwrap();
    let origin = format!("http://api.test:{}", server.address.port());
    for _ in 0..3 {
        let found = world
            .connect_as("a", &origin, &endpoint, Protocol::Any)
            .await
            .unwrap();
        read(get(found).await.unwrap()).await.unwrap();
        settle().await;
    }
    assert_eq!((script.asked(), server.connections()), (1, 1));
}

#[tokio::test]
async fn deadlines_name_what_was_waited_for() {
    struct Never;
    impl Resolve for Never {
        fn lookup<'a>(
            &'a self,
            _: &'a str,
        ) -> crate::credential::BoxFuture<'a, std::io::Result<Vec<std::net::IpAddr>>> {
            Box::pin(std::future::pending())
        }
    }
    let world = World::with(PoolLimits::default(), Arc::new(Never));
    let pool = &world.upstream.0.pool;
    let key = Key::new(
        AgentName::fallback(),
        ServiceName::new("items").unwrap(),
        Authority::parse(Scheme::Https, "api.test").unwrap(),
    );
    let short = Duration::from_millis(100);
    let nowhere = TargetSettings::default();
    let endpoint = world.upstream.endpoint(&nowhere).unwrap();
    let waited = pool.checkout(&key, &endpoint, Protocol::Any, short);
    assert_eq!(waited.await.err(), Some(UpstreamError::DnsTimeout));
    let tunnel = world.upstream.tunnel(&key.authority, short).await;
    assert_eq!(tunnel.err(), Some(UpstreamError::DnsTimeout));

    // A server that accepts and then says nothing: the handshake is part of the deadline.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = target(listener.local_addr().unwrap());
    let endpoint = world.upstream.endpoint(&silent).unwrap();
    let waited = pool.checkout(&key, &endpoint, Protocol::Any, short);
    assert_eq!(waited.await.err(), Some(UpstreamError::ConnectTimeout));
}

#[test]
fn the_ways_out_can_be_awaited_on_any_thread() {
    fn sendable<T: Send>(_: &T) {}
    let check = |upstream: &Upstream, permit: &Permit, endpoint: &Arc<Endpoint>| {
        sendable(&upstream.connection(permit, endpoint, Protocol::Any, None, SOON));
        sendable(&upstream.drain());
    };
    let _ = check;
}

/// Two identities never share a connection, nor does one share with none; what a server is shown is what the
/// key says.
#[tokio::test]
async fn connections_are_kept_apart_by_certificate() {
    let world = World::new();
    let identity = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["client.test".to_owned()]).unwrap();
        let chain = world.ca.sign(params, &key);
        let pem = Secret::new(key.serialize_pem().into_bytes());
        Arc::new(Certificate::from_pem(chain.as_bytes(), &pem).unwrap())
    };
    let (one, two) = (identity(), identity());
    let server = Server::naming_clients(&world.ca, "api.test").await;
    let endpoint = world.endpoint(&server);
    let key = Key::new(
        AgentName::fallback(),
        ServiceName::new("items").unwrap(),
        Authority::parse(Scheme::Https, "api.test").unwrap(),
    );
    let pool = &world.upstream.0.pool;
    for (shown, connections) in [(Some(&one), 1), (Some(&two), 2), (None, 3), (Some(&one), 3)] {
        let key = key.clone().showing(shown);
        let connection = pool.checkout(&key, &endpoint, Protocol::Any, SOON).await;
        let reply = get(connection.unwrap()).await.unwrap();
        let named = read(reply).await.unwrap();
        assert_eq!(named, shown.map_or("none", |shown| shown.thumbprint()));
        settle().await;
        assert_eq!(server.connections(), connections);
    }
}
