use std::collections::VecDeque;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::credential::BoxFuture;
use crate::vocab::Clock;

/// Flips: the first answers once each, the last one for ever.
struct Flip {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

impl Resolve for Flip {
    fn lookup<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = match answers.len() {
            1 => answers[0].clone(),
            _ => answers.pop_front().unwrap(),
        };
        Box::pin(async move { Ok(answer) })
    }
}

fn flip(answers: &[&[&str]]) -> Arc<Flip> {
    let parse = |list: &&[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
    Arc::new(Flip {
        answers: Mutex::new(answers.iter().map(parse).collect()),
        asked: AtomicUsize::new(0),
    })
}

async fn dial(
    flip: &Arc<Flip>,
    own: &[SocketAddr],
    host: &str,
    port: u16,
    allow_private: bool,
) -> Result<IpAddr, UpstreamError> {
    let dialer = Dialer::new(flip.clone(), own.to_vec());
    let host = Host::parse(host).unwrap();
    let to = Destination {
        name: &host,
        host: &host,
        port,
        allow_private,
        asker: Asker::Tunnels,
    };
    let progress = Progress::default();
    let stream = dialer.connect(&to, &progress).await?;
    assert!(stream.tcp().nodelay().unwrap());
    Ok(stream.tcp().peer_addr().unwrap().ip())
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Whether anybody knocked.
async fn knocked(listener: &TcpListener) -> bool {
    timeout(Duration::from_millis(50), listener.accept())
        .await
        .is_ok()
}

#[tokio::test]
async fn forbidden_addresses_are_not_dialled() {
    let (listener, port) = listener().await;
    let prohibited = Err(UpstreamError::AddressProhibited);
    let nobody = flip(&[&["127.0.0.1"]]);
    // Literals, also where private addresses are allowed.
    for host in ["127.0.0.1", "[::1]", "10.0.0.5", "100.64.0.1"] {
        assert_eq!(
            dial(&nobody, &[], host, port, false).await,
            prohibited,
            "{host}"
        );
    }
    for host in [
        "169.254.169.254",
        "[fd00:ec2::254]",
        "168.63.129.16",
        "100.100.100.200",
        "[::ffff:127.0.0.1]",
        "[2002:7f00:1::]",
        "[64:ff9b::a9fe:a9fe]",
        "0.0.0.0",
        "[::]",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        assert_eq!(
            dial(&nobody, &[], host, port, true).await,
            prohibited,
            "{host}"
        );
    }
    assert_eq!(
        nobody.asked.load(Ordering::SeqCst),
        0,
        "a literal is not looked up"
    );
    // Names that answer with them.
    for answer in [
        "127.0.0.1",
        "10.0.0.5",
        "100.64.0.1",
        "0.0.0.0",
        "240.0.0.1",
        "::ffff:127.0.0.1",
    ] {
        let flip = flip(&[&[answer]]);
        assert_eq!(
            dial(&flip, &[], "localhost", port, false).await,
            prohibited,
            "{answer}"
        );
    }
    assert!(!knocked(&listener).await);
}

#[tokio::test]
async fn rebinding_gains_nothing() {
    let (listener, port) = listener().await;
    let flip = flip(&[&["192.88.99.1", "255.255.255.255"], &["127.0.0.1"]]);
    let first = dial(&flip, &[], "wild.test", port, true).await;
    assert_eq!(first, Err(UpstreamError::AddressProhibited));
    assert_eq!(flip.asked.load(Ordering::SeqCst), 1);
    assert!(!knocked(&listener).await);
}

#[tokio::test]
async fn the_first_answer_is_the_one_that_is_dialled() {
    let (_listener, port) = listener().await;
    let flip = flip(&[&["127.0.0.1"], &["127.0.0.9"]]);
    let dialled = dial(&flip, &[], "api.test", port, true).await;
    assert_eq!(dialled, Ok("127.0.0.1".parse().unwrap()));
    assert_eq!(flip.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn bad_answers_among_good_ones_are_dropped() {
    let (_listener, port) = listener().await;
    let flip = flip(&[&["::ffff:10.0.0.1", "169.254.169.254", "127.0.0.1"]]);
    let dialled = dial(&flip, &[], "api.test", port, true).await;
    assert_eq!(dialled, Ok("127.0.0.1".parse().unwrap()));
}

#[tokio::test]
async fn the_next_address_is_tried() {
    let (_listener, port) = listener().await;
    let flip = flip(&[&["127.0.0.8", "127.0.0.1"]]);
    let dialled = dial(&flip, &[], "api.test", port, true).await;
    assert_eq!(dialled, Ok("127.0.0.1".parse().unwrap()));
    let nobody = self::flip(&[&["127.0.0.8", "127.0.0.9"]]);
    let refused = dial(&nobody, &[], "api.test", port, true).await;
    assert_eq!(refused, Err(UpstreamError::Unreachable));
}

#[tokio::test]
async fn own_listeners_are_never_dialled() {
    let (listener, port) = listener().await;
    let everywhere: SocketAddr = format!("0.0.0.0:{port}").parse().unwrap();
    let both: SocketAddr = format!("[::]:{port}").parse().unwrap();
    let flip = flip(&[&["127.0.0.1"]]);
    for own in [listener.local_addr().unwrap(), everywhere, both] {
        for host in ["127.0.0.1", "api.test"] {
            let dialled = dial(&flip, &[own], host, port, true).await;
            assert_eq!(dialled, Err(UpstreamError::SelfConnect));
        }
    }
    assert!(!knocked(&listener).await);
    let other: SocketAddr = "0.0.0.0:9".parse().unwrap();
    assert!(dial(&flip, &[other], "api.test", port, true).await.is_ok());
}

/// An address of this machine other than loopback, where it has one.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("198.51.100.1:9").ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_loopback() && !source.is_unspecified()).then_some(source)
}

#[tokio::test]
async fn a_listener_on_all_addresses_is_ours_on_each_of_them() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    let mut all: Vec<IpAddr> = ["127.0.0.1", "127.1.2.3"]
        .map(|ip| ip.parse().unwrap())
        .into();
    match outer_address() {
        Some(outer) => all.push(outer),
        None => println!("skipped: no outer address"),
    }
    for ip in all {
        assert!(is_local(ip), "{ip}");
        let answer = ip.to_string();
        let flip = flip(&[&[&answer]]);
        let dialled = dial(&flip, &[own], "api.test", own.port(), true).await;
        // A container's own address may be one that is never dialled anyway.
        assert!(
            matches!(
                dialled,
                Err(UpstreamError::SelfConnect | UpstreamError::AddressProhibited)
            ),
            "{ip}"
        );
    }
    assert!(!is_local("45.33.32.10".parse().unwrap()));
    assert!(!knocked(&listener).await);
}

#[tokio::test]
async fn a_silent_address_costs_a_quarter_of_a_second() {
    // A queue for one, and it is taken: the kernel drops what comes after.
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.7:0".parse().unwrap()).unwrap();
    let full = full.listen(0).unwrap();
    let port = full.local_addr().unwrap().port();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        let connect = TcpStream::connect(("127.0.0.7", port));
        held.extend(timeout(Duration::from_millis(200), connect).await);
    }
    let flip = flip(&[&["127.0.0.7", "127.0.0.7", "127.0.0.1"]]);
    let clock = Clock::system();
    let began = clock.now();
    let dialled = dial(&flip, &[], "api.test", port, true).await;
    assert_eq!(dialled, Ok("127.0.0.1".parse().unwrap()));
    let took = clock.now().since(began);
    assert!(took >= HEAD_START && took < HEAD_START * 4, "{took:?}");
    drop(listener);
}

#[tokio::test]
async fn four_thousand_answers_are_eight_attempts() {
    let many: Vec<String> = (0..4000u32)
        .map(|i| format!("127.9.{}.{}", i / 250, i % 250 + 1))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let flip = flip(&[&many]);
    let (_listener, port) = listener().await;
    let clock = Clock::system();
    let began = clock.now();
    let dialled = dial(&flip, &[], "api.test", port, true).await;
    assert_eq!(dialled, Err(UpstreamError::Unreachable));
    assert!(clock.now().since(began) < Duration::from_secs(2));
}

#[tokio::test]
async fn a_listener_on_all_addresses_is_known_by_its_answer() {
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let own = listener.local_addr().unwrap();
    let dialer = Dialer::new(flip(&[&["127.0.0.1"]]), vec![own]);
    let stream = TcpStream::connect(("127.0.0.1", own.port())).await.unwrap();
    let judged = dialer.refuse_ourselves(&stream);
    assert_eq!(judged, Err(UpstreamError::SelfConnect));
}

#[tokio::test]
async fn no_answer_is_an_error_of_the_name() {
    let flip = flip(&[&[]]);
    let dialled = dial(&flip, &[], "api.test", 443, true).await;
    assert_eq!(dialled, Err(UpstreamError::Dns));
    let silent = Dialer::new(flip, Vec::new());
    drop(silent);
}

#[test]
fn families_alternate() {
    let parse = |list: &[&str]| {
        list.iter()
            .map(|ip| ip.parse().unwrap())
            .collect::<Vec<IpAddr>>()
    };
    let mixed = alternate_families(parse(&["::1", "::2", "::3", "1.1.1.1", "1.1.1.2"]));
    assert_eq!(mixed, parse(&["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"]));
    assert_eq!(alternate_families(parse(&["1.1.1.1"])), parse(&["1.1.1.1"]));
}
