//! Bodies that wait to be asked for, and answers that come before the answer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use tempfile::TempDir;
use tokenward::rehearsal::{Alpn, Call, Failure, NonceMode, Rehearsal, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::kit::{
    Credential, House, Origin, Raw, Setup, Svc, distinct_proofs, eventually, read_head,
};

const HOST: &str = "waits.test";
/// Longer than what is kept for a second attempt.
const LENGTH: usize = 100_000;

/// What the origin was sent, one text for each connection and each turn of it.
type Heard = Arc<Mutex<Vec<String>>>;

/// What the origin does when it has a head.
#[derive(Clone, Copy)]
enum Manner {
    /// Says this, then reads the body, then 200.
    Asks(&'static str),
    /// Says this alone.
    Answers(&'static str),
    /// Says this, whatever is asked, in pieces that end where two pipes stand.
    Says(&'static str),
}

/// Reads what there is to read, for a moment.
async fn overhear(stream: &mut TlsStream<TcpStream>) -> usize {
    let mut bytes = vec![0; 16 * 1024];
    let read = timeout(Duration::from_millis(150), stream.read(&mut bytes)).await;
    read.map_or(0, |read| read.unwrap_or(0))
}

async fn speak(mut stream: TlsStream<TcpStream>, manner: Manner, heard: Heard) {
    loop {
        let head = read_head(&mut stream).await.text().to_lowercase();
        if head.is_empty() {
            return;
        }
        let expects = head.contains("expect: 100-continue\r\n");
        let note = |what: String| heard.lock().unwrap().push(what);
        let (says, reads) = match manner {
            Manner::Asks(says) => (says, true),
            Manner::Answers(says) => (says, false),
            Manner::Says(says) => {
                for piece in says.split("||") {
                    stream.write_all(piece.as_bytes()).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                continue;
            }
        };
        let early = if expects {
            overhear(&mut stream).await
        } else {
            0
        };
        note(format!("expects={expects} early={early}"));
        if reads || expects {
            let says = if reads && !expects { "" } else { says };
            stream.write_all(says.as_bytes()).await.unwrap();
        }
        if reads {
            let length = head.split("content-length: ").nth(1).unwrap();
            let length = length.split('\r').next().unwrap().parse().unwrap();
            let mut body: Vec<u8> = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            note("whole".into());
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await
                .unwrap();
        } else {
            let late = overhear(&mut stream).await;
            note(format!("late={late}"));
        }
    }
}

async fn house(manner: Manner) -> (House, Heard) {
    let heard = Heard::default();
    let origin = Origin::raw(HOST, &["http/1.1"], {
        let heard = heard.clone();
        move |stream| speak(stream, manner, heard.clone())
    })
    .await;
    let folder = TempDir::new().unwrap();
    let service = Svc {
        name: "waits",
        host: HOST.into(),
        credential: Credential::Nothing,
        rules: vec![r#"{allow: "* /**"}"#.into()],
        more: Vec::new(),
        upstream: Some(origin.upstream(folder.path())),
    };
    let setup = Setup::of([service]);
    let rehearsal = Rehearsal::start(setup.options.clone()).await.unwrap();
    (setup.start_in(folder, rehearsal).await, heard)
}

fn head(length: usize) -> String {
    format!(
        "POST /a HTTP/1.1\r\nhost: {HOST}\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
    )
}

/// Sends the head, and the body when it is asked for. How often it was, and the answer.
async fn wait_and_send(house: &House) -> (usize, Raw) {
    let mut tls = house.inside(HOST).await;
    tls.write_all(head(LENGTH).as_bytes()).await.unwrap();
    let mut asked = 0;
    loop {
        let answer = read_head(&mut tls).await;
        if answer.status() >= 200 || answer.status() == 0 {
            return (asked, answer);
        }
        if matches!(answer.status(), 102 | 103) {
            continue;
        }
        assert_eq!(answer.status(), 100, "{}", answer.text());
        asked += 1;
        tls.write_all(&vec![b'x'; LENGTH]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_is_asked_whether_it_wants_the_body() {
    for says in [
        "HTTP/1.1 100 Continue\r\n\r\n",
        // Interim answers of another kind are no permission, and are not the answer.
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
        // Many a server never says it. The body is not kept back for that.
        "",
        "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n",
    ] {
        let (house, heard) = house(Manner::Asks(says)).await;
        let (asked, answer) = wait_and_send(&house).await;
        assert_eq!((asked, answer.status()), (1, 200), "{says:?}");
        assert_eq!(
            *heard.lock().unwrap(),
            ["expects=true early=0", "whole"],
            "{says:?}"
        );
        let line = house.end().await.only();
        assert_eq!(line["bytes_in"], LENGTH, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_before_it_is_sent_is_never_sent() {
    let says = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno";
    let (house, heard) = house(Manner::Answers(says)).await;
    for n in 1..=2 {
        let (asked, answer) = wait_and_send(&house).await;
        assert_eq!((asked, answer.status()), (0, 413));
        // Each on a connection of its own: the first one's request never ended.
        let turns = || heard.lock().unwrap().len() == 2 * n;
        eventually("the origin's turn", turns).await;
    }
    let expected = ["expects=true early=0", "late=0"].repeat(2);
    assert_eq!(*heard.lock().unwrap(), expected);
    house.end().await;
}

/// The agent's own expectation is the agent's to give up; ours is ours.
#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_knows_no_expectation_is_asked_without_one() {
    let says = "HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n";
    let (house, heard) = house(Manner::Answers(says)).await;
    let (asked, answer) = wait_and_send(&house).await;
    assert_eq!((asked, answer.status()), (0, 417));
    let turns = || heard.lock().unwrap().len() == 2;
    eventually("the origin's turn", turns).await;
    assert_eq!(*heard.lock().unwrap(), ["expects=true early=0", "late=0"]);
    assert_eq!(house.end().await.only()["attempts"], 1);

    let house = House::start().await;
    let fault = Failure::Status {
        status: 417,
        retry_after: None,
    };
    let controls = house.rehearsal.controls();
    controls.api(|api| api.nonces = NonceMode::Off);
    controls.fail(Service::Api, 1, fault);
    let upload = Call::new(Method::POST, "/v1/upload").bytes(vec![b'x'; 300_000]);
    let answer = house.ask(false, upload).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = house.at_api();
    let expected: Vec<_> = seen.iter().map(|s| s.header("expect")).collect();
    assert_eq!(expected, [Some("100-continue"), None]);
    assert_eq!(distinct_proofs(&seen), 2);
    house.end().await;
}

/// What is read whole before it is sent is not waited for, and who does not wait is not made to.
#[tokio::test(flavor = "multi_thread")]
async fn only_bodies_that_flow_wait() {
    let (house, heard) = house(Manner::Asks("")).await;
    let mut tls = house.inside(HOST).await;
    let plain = head(LENGTH).replace("expect: 100-continue\r\n", "");
    tls.write_all(plain.as_bytes()).await.unwrap();
    tls.write_all(&vec![b'x'; LENGTH]).await.unwrap();
    assert_eq!(read_head(&mut tls).await.status(), 200);
    assert_eq!(*heard.lock().unwrap(), ["expects=false early=0", "whole"]);
    drop(tls);
    heard.lock().unwrap().clear();
    let mut tls = house.inside(HOST).await;
    tls.write_all(head(4).as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut tls).await.status(), 100);
    tls.write_all(b"body").await.unwrap();
    let begun = || !heard.lock().unwrap().is_empty();
    eventually("the small body", begun).await;
    assert_eq!(heard.lock().unwrap()[0], "expects=false early=0");
    assert_eq!(read_head(&mut tls).await.status(), 200);
    drop(tls);
    house.end().await;
}

/// The first upload of all finds no nonce. It waits, the challenge comes, and the body is sent once, with the proof that
/// the API wants.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_flows_survives_the_first_challenge() {
    for alpn in [Alpn::H1, Alpn::H2] {
        for h2 in [false, true] {
            let house = House::start().await;
            let controls = house.rehearsal.controls();
            controls.site(Service::Api, |site| site.alpn = alpn);
            controls.api(|api| api.early_answer = true);
            let upload = || Call::new(Method::POST, "/v1/upload").bytes(vec![b'x'; 300_000]);
            let answer = house.ask(h2, upload()).await;
            assert_eq!(answer.status, 200, "{alpn:?} {h2} {}", answer.text());
            assert!(answer.text().contains("\"length\":300000"));
            let seen = house.at_api();
            let statuses: Vec<_> = seen.iter().map(|s| s.status).collect();
            assert_eq!(statuses, [Some(401), Some(200)]);
            assert_eq!(seen[0].header("expect"), Some("100-continue"));
            assert_eq!(seen[1].header("expect"), None);
            assert_eq!(distinct_proofs(&seen), 2);
            // From then on nothing waits.
            assert_eq!(house.ask(h2, upload()).await.status, 200);
            assert_eq!(house.at_api().last().unwrap().header("expect"), None);
            house.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_that_wants_no_nonce_is_asked_once_and_never_again() {
    let house = House::start().await;
    house
        .rehearsal
        .controls()
        .api(|api| api.nonces = NonceMode::Off);
    for expected in [Some("100-continue"), None] {
        let upload = Call::new(Method::POST, "/v1/upload").bytes(vec![b'x'; 300_000]);
        let answer = house.ask(false, upload).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(house.at_api().last().unwrap().header("expect"), expected);
    }
    assert_eq!(house.at_api().len(), 2);
    house.end().await;
}

/// Everything that comes until the connection is silent for a moment or ends.
async fn everything(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut all = Vec::new();
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(Ok(read @ 1..)) =
        timeout(Duration::from_millis(500), stream.read(&mut bytes)).await
    {
        all.extend_from_slice(&bytes[..read]);
    }
    String::from_utf8(all).unwrap()
}

const SAID: &str = "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\
    link: </a>; rel=preload\r\nlink: </b>\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_before_the_answer_reaches_the_agent_without_what_is_ours() {
    for says in [
        "HTTP/1.1 102 Anything At All\r\n\r\n||HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\
            Proxy-Status: x\r\nContent-Length: 5\r\nConnection: x-hop\r\nX-Hop: 1\r\nDPoP-Nonce: n\r\n\r\n||\
            HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        // All in one packet.
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\r\n\
            HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ] {
        let (house, _) = house(Manner::Says(says)).await;
        let ask = format!("GET /a HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
        let mut tls = house.inside(HOST).await;
        // Two at once, then one: what belongs to an answer stands before that answer.
        for asked in [2, 1] {
            tls.write_all(ask.repeat(asked).as_bytes()).await.unwrap();
            let all = everything(&mut tls).await;
            let answers: Vec<&str> = all.split_inclusive("\r\n\r\nok").collect();
            assert_eq!(answers.len(), asked, "{all}");
            for answer in answers {
                let final_head = answer.strip_prefix(SAID);
                assert!(
                    final_head.is_some_and(|head| head.starts_with("HTTP/1.1 200 OK\r\n")),
                    "{all}"
                );
            }
        }
        // HTTP/1.0 knows none.
        let mut tls = house.inside(HOST).await;
        let old = ask.replace("HTTP/1.1", "HTTP/1.0");
        tls.write_all(old.as_bytes()).await.unwrap();
        let all = everything(&mut tls).await;
        assert!(all.starts_with("HTTP/1.0 200 OK\r\n"), "{all}");
        house.end().await;
    }
}
