//! The ways to knock beside a TCP port in clear: unix sockets, and TLS. Whatever bounds the one bounds the others.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::kit::{
    API, House, Identity, PATIENCE, Raw, Setup, Written, agent_token, connect, exchange, get,
    house, shake,
};

fn mode(path: &Path) -> u32 {
    let metadata = fs::symlink_metadata(path).unwrap();
    assert!(metadata.file_type().is_socket());
    metadata.permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_knock_at_a_socket() {
    let identity = Identity::of(&["x.test"]);
    let listen = "[unix:p.sock, {address: unix:q.sock, mode: 0666}, {address: unix:t.sock, <TLS>}]";
    let house = house(Setup::usual(), listen, &identity).await;
    let at = |name: &str| house.folder.path().join(name);
    assert_eq!((mode(&at("p.sock")), mode(&at("q.sock"))), (0o600, 0o666));
    for name in ["p.sock", "q.sock"] {
        let stream = UnixStream::connect(at(name)).await.unwrap();
        assert_eq!(get(&house, stream, "").await, 200);
    }
    let stream = UnixStream::connect(at("t.sock")).await.unwrap();
    let stream = shake(stream, "x.test", &identity.ca_pem, &[])
        .await
        .unwrap();
    assert_eq!(get(&house, stream, "").await, 200);
    // No proxy variable can name a socket; the rest of the environment is there, and nothing that leads around the proxy.
    let environment = &house.running.seats()[0].environment;
    let value = |name: &str| {
        environment
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    };
    assert_eq!(
        (value("HTTPS_PROXY"), value("http_proxy"), value("NO_PROXY")),
        (None, None, Some(""))
    );
    assert!(value("ITEMS_TOKEN").is_some() && value("SSL_CERT_FILE").is_some());
    assert!(house.running.proxies().is_empty());
    let dir = house.folder.path().display().to_string();
    assert_eq!(house.running.listening()[0], format!("unix:{dir}/p.sock"));
    let paths = [at("p.sock"), at("q.sock"), at("t.sock")];
    let (
        audit,
        House {
            running,
            rehearsal,
            folder,
            ..
        },
    ) = (house.audit_file(), house);
    assert!(running.shut_down().await);
    assert!(
        paths.iter().all(|path| !path.exists()),
        "a socket was left behind"
    );
    let lines = Written::read(&audit).requests();
    assert!(
        lines.len() == 3 && lines.iter().all(|line| line["agent"] == "default"),
        "{lines:?}"
    );
    rehearsal.stop().await;
    drop(folder);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_is_taken_is_left_alone() {
    let identity = Identity::of(&["x.test"]);
    let first = house(Setup::usual(), "unix:p.sock", &identity).await;
    let file = first.folder.path().join("tokenward.yaml");
    let plan = tokenward::config::load(&file, tokenward::config::SecretReading::Resolve).unwrap();
    let refused = tokenward::app::start(plan.clone(), tokenward::vocab::Clock::system()).await;
    let refused = refused.err().unwrap().to_string();
    assert!(
        refused.contains("unix:") && refused.contains("p.sock"),
        "{refused}"
    );
    let stream = UnixStream::connect(first.folder.path().join("p.sock"))
        .await
        .unwrap();
    assert_eq!(get(&first, stream, "").await, 200);
    first.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_knock_in_tls() {
    let identity = Identity::of(&["proxy.test"]);
    let mut setup = Setup::usual();
    setup.agents = vec![("a", "items")];
    let listen = "[{address: 0.0.0.0:0, <TLS>}, 127.0.0.1:0]";
    let house = house(setup, listen, &identity).await;
    let address = house.proxy();
    let dial = async || {
        TcpStream::connect(("127.0.0.1", address.port()))
            .await
            .unwrap()
    };
    let tls = async |alpn: &[&str]| shake(dial().await, "proxy.test", &identity.ca_pem, alpn).await;
    let token = agent_token("a");
    let fields = format!("proxy-authorization: Bearer {token}\r\n");
    for alpn in [&[][..], &["http/1.1"], &["h2", "http/1.1"]] {
        let stream = tls(alpn).await.unwrap();
        let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(chosen, (!alpn.is_empty()).then(|| b"http/1.1".to_vec()));
        assert_eq!(get(&house, stream, &fields).await, 200);
    }
    // Nobody is `default` here, and no other protocol is spoken.
    let mut stream = tls(&[]).await.unwrap();
    assert_eq!(connect(&mut stream, "").await, 407);
    assert!(tls(&["h2"]).await.is_err());
    // The same limits hold: a head that nobody can read is refused with a document.
    let odd = "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n";
    let answer = exchange(tls(&[]).await.unwrap(), odd.as_bytes()).await;
    assert_eq!(
        (answer.status(), answer.code().as_str()),
        (400, "bad-request")
    );
    // Whoever does not speak TLS is not answered, and written down.
    let before = Written::read(&house.audit_file()).requests().len();
    let clear = exchange(
        dial().await,
        format!("CONNECT {API}:443 HTTP/1.0\r\n\r\n").as_bytes(),
    )
    .await;
    assert!(clear.0.is_empty());
    let refused = house.lines(before + 1).await.pop().unwrap();
    assert_eq!(refused["code"], "bad-request", "{refused}");
    // What its environment says: the scheme, the certificate's name, the agent's token.
    let url = house.variable("a", "HTTPS_PROXY");
    let ends = format!("@proxy.test:{}", address.port());
    assert!(
        url.starts_with("https://a:") && url.ends_with(&ends),
        "{url}"
    );
    let clear = TcpStream::connect(house.running.proxies()[1])
        .await
        .unwrap();
    assert_eq!(get(&house, clear, &fields).await, 200);
    assert_eq!(house.running.listening()[0], format!("https://{address}"));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_before_and_in_a_handshake_has_an_end() {
    let identity = Identity::of(&["proxy.test"]);
    let house = house(Setup::usual(), "{address: 127.0.0.1:0, <TLS>}", &identity).await;
    for bytes in [&b""[..], &[22, 3, 1, 0x10, 0, 1, 0, 0x0f, 0xfc]] {
        let mut stream = TcpStream::connect(house.proxy()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut rest = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut rest))
            .await
            .unwrap()
            .ok();
        assert_eq!(rest, b"");
    }
    house.end().await;
}

/// Silent connections are the first to go, at a socket and before a handshake as well.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_make_room_everywhere() {
    let identity = Identity::of(&["proxy.test"]);
    let setup = Setup::usual().line("limits: {connections: 2}");
    let listen = "[{address: 127.0.0.1:0, <TLS>}, unix:p.sock]";
    let house = house(setup, listen, &identity).await;
    let path = house.folder.path().join("p.sock");
    let silent = (
        UnixStream::connect(&path).await.unwrap(),
        TcpStream::connect(house.proxy()).await.unwrap(),
    );
    let stream = UnixStream::connect(&path).await.unwrap();
    assert_eq!(get(&house, stream, "").await, 200);
    let stream = TcpStream::connect(house.proxy()).await.unwrap();
    let stream = shake(stream, "proxy.test", &identity.ca_pem, &[])
        .await
        .unwrap();
    assert_eq!(get(&house, stream, "").await, 200);
    drop(silent);
    house.end().await;
}

/// A drain ends handshakes that have not ended, and its listeners.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_does_not_wait_for_handshakes() {
    let identity = Identity::of(&["proxy.test"]);
    let house = house(
        Setup::usual(),
        "[{address: 127.0.0.1:0, <TLS>}, unix:p.sock]",
        &identity,
    )
    .await;
    let mut waiting = TcpStream::connect(house.proxy()).await.unwrap();
    waiting.write_all(&[22, 3, 1, 0x10, 0]).await.unwrap();
    let metric = "tokenward_connections{listener=\"proxy\"} 1";
    for _ in 0..200 {
        if house.metrics().await.contains(metric) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    house.end().await;
    let mut rest = Vec::new();
    waiting.read_to_end(&mut rest).await.ok();
    assert_eq!(Raw(rest).status(), 0);
}
