//! The response guard over real sockets: an API that gives back what it was sent, in every place and many disguises.

use std::io::Write as _;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use tempfile::TempDir;
use tokenward::config::{self, SecretReading};
use tokenward::rehearsal::{Call, Rehearsal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::kit::{
    Auth, Credential, House, Origin, PATIENCE, Raw, Setup, Svc, WebSocket, eventually, read_head,
    token_of,
};

const HOST: &str = "mirror.test";

/// What the mirror answers, from the path and the credential that came: pieces, each written when there is a permit.
type Answers = fn(&str, &str) -> Vec<Vec<u8>>;

/// An API that answers with what it was sent.
async fn mirror(answers: Answers, pace: Option<Arc<Semaphore>>) -> Origin {
    Origin::raw(HOST, &["http/1.1"], move |stream| {
        speak(stream, answers, pace.clone())
    })
    .await
}

async fn speak(mut stream: TlsStream<TcpStream>, answers: Answers, pace: Option<Arc<Semaphore>>) {
    let head = read_head(&mut stream).await.text();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
    let key = field("x-api-key: ").unwrap_or_default().to_owned();
    for piece in answers(&path, &key) {
        if let Some(pace) = &pace {
            pace.acquire().await.unwrap().forget();
        }
        if stream.write_all(&piece).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
    stream.shutdown().await.ok();
}

/// A house in front of a mirror, with one more line for the service.
async fn house(answers: Answers, line: &str, pace: Option<Arc<Semaphore>>) -> House {
    let rehearsal = Rehearsal::start(tokenward::rehearsal::Options::default())
        .await
        .unwrap();
    let folder = TempDir::new().unwrap();
    let origin = mirror(answers, pace).await;
    let service = Svc {
        host: HOST.into(),
        credential: Credential::ApiKey,
        upstream: Some(origin.upstream(folder.path())),
        ..Svc::keys().line(line)
    };
    Setup::of([service]).start_in(folder, rehearsal).await
}

async fn get(house: &House, path: &str) -> Raw {
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {HOST}\r\nte: trailers\r\nconnection: close, te\r\n\r\n"
    );
    house.speak_inside(HOST, &head).await
}

fn each(text: &str, write: impl Fn(u8) -> String) -> String {
    text.bytes().map(write).collect()
}

/// A text as software writes it.
fn written(form: &str, key: &str) -> String {
    match form {
        "base64" => STANDARD.encode(format!("user:{key}")),
        "base64url" => URL_SAFE_NO_PAD.encode(key),
        "hex" => each(key, |b| format!("{b:02x}")),
        "HEX" => each(key, |b| format!("{b:02X}")),
        "percent" => each(key, |b| format!("%{b:02X}")),
        "json" => each(key, |b| format!("\\u{b:04x}")),
        "html" => each(key, |b| format!("&#{b};")),
        "json-base64" => each(&STANDARD.encode(key), |b| format!("\\u{b:04x}")),
        _ => key.to_owned(),
    }
}

const FORMS: [&str; 9] = [
    "raw",
    "base64",
    "base64url",
    "hex",
    "HEX",
    "percent",
    "json",
    "html",
    "json-base64",
];

fn with_length(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\n{fields}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn chunk(text: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat()
}

/// `/PLACE/FORM`.
fn everywhere(path: &str, key: &str) -> Vec<Vec<u8>> {
    let mut parts = path.trim_start_matches('/').split('/');
    let (place, form) = (parts.next().unwrap(), parts.next().unwrap());
    let text = written(form, key);
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-mirror\r\n\r\n";
    match place {
        "body" => vec![with_length("", format!("before {text} after").as_bytes())],
        "chunks" => {
            let (a, b) = text.split_at(text.len() / 2);
            let mut pieces = vec![
                chunked.as_bytes().to_vec(),
                chunk(b"before "),
                chunk(a.as_bytes()),
            ];
            pieces.extend([chunk(b.as_bytes()), chunk(b" after"), b"0\r\n\r\n".to_vec()]);
            pieces
        }
        "header" => vec![with_length(&format!("x-mirror: {text}\r\n"), b"none")],
        "location" => vec![
            format!("HTTP/1.1 302 {key}\r\nlocation: /v1?t={text}\r\ncontent-length: 0\r\n\r\n")
                .into(),
        ],
        "trailer" => vec![
            chunked.into(),
            chunk(b"body"),
            format!("0\r\nx-mirror: {text}\r\n\r\n").into(),
        ],
        "hint" => vec![
            format!("HTTP/1.1 103 Early Hints\r\nlink: </{text}>; rel=preload\r\n\r\n").into(),
            with_length("", b"none"),
        ],
        _ => vec![with_length("", b"what?")],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_went_out_comes_back() {
    let house = house(everywhere, "response_guard: redact", None).await;
    let key = house.rehearsal.api_key().to_owned();
    let places = ["body", "chunks", "header", "location", "trailer", "hint"];
    for place in places {
        for form in FORMS {
            let answer = get(&house, &format!("/{place}/{form}")).await;
            let text = answer.text();
            let what = format!("{place}, {form}: {text}");
            assert!([200, 103, 302].contains(&answer.status()), "{what}");
            for form in FORMS {
                let written = written(form, &key);
                let written = written.trim_end_matches('=');
                // Chunks are cut in the middle.
                assert!(!text.contains(&written[..written.len() / 2]), "{what}");
            }
        }
    }
    let placeholder = house.variable("default", "KEYS_TOKEN");
    let text = get(&house, "/body/raw").await.text();
    let length = "before  after".len() + key.len();
    assert!(
        text.contains(&format!("content-length: {length}")),
        "{text}"
    );
    let shown = &placeholder[..placeholder.len().min(key.len())];
    assert!(text.contains(&format!("before {shown}")), "{text}");
    let metrics = house.metrics().await;
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("tokenward_redactions_total{service=\"keys\"} "));
    let all = places.len() * FORMS.len() + 1;
    assert_eq!(count, Some(all.to_string().as_str()), "{metrics}");
    let written = house.end().await;
    let events = written.of("credential.reflected");
    assert_eq!(events.len(), all);
    assert_eq!(events[0]["service"], "keys");
    assert!(!written.text.contains(&key));
}

fn names(path: &str, key: &str) -> Vec<Vec<u8>> {
    let text = written(path.trim_start_matches('/'), key);
    let head = format!("HTTP/1.1 200 OK\r\nX-{text}: 1\r\ntransfer-encoding: chunked\r\n\r\n");
    let end = format!("0\r\nY-{text}-Z: 1\r\n\r\n");
    vec![head.into(), chunk(b"body"), end.into()]
}

/// A parser takes the capitals from names, not the meaning.
#[tokio::test(flavor = "multi_thread")]
async fn no_name_of_a_field_says_it() {
    let house = house(names, "response_guard: redact", None).await;
    let key = house.rehearsal.api_key().to_owned();
    assert!(key.contains(|letter: char| letter.is_ascii_uppercase()));
    let forms = ["raw", "base64url", "hex", "HEX", "percent"];
    for form in forms {
        let answer = get(&house, &format!("/{form}")).await;
        let text = answer.text().to_ascii_lowercase();
        let said = written(form, &key).to_ascii_lowercase();
        assert!(
            answer.status() == 200 && text.contains("body") && !text.contains(&said),
            "{text}"
        );
    }
    let written = house.end().await;
    assert_eq!(written.of("credential.reflected").len(), forms.len());
}

fn packed(coding: &str, text: &[u8]) -> Vec<u8> {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    match coding {
        "gzip" => {
            let mut out = GzEncoder::new(Vec::new(), Compression::default());
            out.write_all(text).unwrap();
            out.finish().unwrap()
        }
        "deflate" => {
            let mut out = ZlibEncoder::new(Vec::new(), Compression::default());
            out.write_all(text).unwrap();
            out.finish().unwrap()
        }
        "raw-deflate" => {
            let mut out = DeflateEncoder::new(Vec::new(), Compression::default());
            out.write_all(text).unwrap();
            out.finish().unwrap()
        }
        "zstd" => {
            ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
        }
        "gzip, zstd" => packed("zstd", &packed("gzip", text)),
        // The key in a block that is not compressed: RFC 7932 §9.2.
        "br" => {
            let bits = (u32::try_from(text.len() - 1).unwrap() << 4) | (1 << 20);
            [&bits.to_le_bytes()[..3], text, &[3]].concat()
        }
        _ => text.to_vec(),
    }
}

/// The content of a chunked body.
fn dechunked(mut body: &str) -> String {
    let mut content = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        content.push_str(&rest[..size]);
        body = rest[size..].strip_prefix("\r\n").unwrap_or_default();
        if size == 0 {
            break;
        }
    }
    content
}

/// `/CODING`, cut in the middle; `/x/…` for what cannot be searched.
fn coded(path: &str, key: &str) -> Vec<Vec<u8>> {
    let path = path.trim_start_matches('/').replace("%20", " ");
    let text = format!("{}{key}{}", "before ".repeat(900), " after".repeat(900));
    let fields =
        |coding: &str| format!("content-encoding: {coding}\r\netag: \"a\"\r\ndigest: x\r\n");
    let whole = match path.as_str() {
        "x/unknown" => with_length("content-encoding: x-foo\r\n", text.as_bytes()),
        "x/partial" => {
            let head = "HTTP/1.1 206 Partial\r\ncontent-range: bytes 0-3/9\r\ncontent-length: 4\r\n\r\nabcd";
            head.into()
        }
        "x/ranges" => with_length(
            "content-type: multipart/byteranges; boundary=x\r\n",
            b"--x--",
        ),
        "x/messages" => with_length("grpc-encoding: gzip\r\n", b"...."),
        "x/damaged" => with_length(&fields("gzip"), b"this is no gzip at all"),
        "x/bomb" => with_length(&fields("gzip"), &packed("gzip", &vec![0; 32 << 20])),
        "raw-deflate" => with_length(&fields("deflate"), &packed("raw-deflate", text.as_bytes())),
        coding => with_length(&fields(coding), &packed(coding, text.as_bytes())),
    };
    let (a, b) = whole.split_at(whole.len() - 20);
    vec![a.to_vec(), b.to_vec()]
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_answers_are_searched_too() {
    let house = house(coded, "max_stream_age: 60s", None).await;
    let key = house.rehearsal.api_key().to_owned();
    for coding in [
        "gzip",
        "deflate",
        "raw-deflate",
        "br",
        "zstd",
        "gzip,%20zstd",
    ] {
        let text = get(&house, &format!("/{coding}")).await.text();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            !head.contains("content-encoding") && !head.contains("digest"),
            "{head}"
        );
        assert!(
            head.contains("etag: W/\"a\"") && head.contains("chunked"),
            "{coding}: {head}"
        );
        assert!(
            !dechunked(body).contains(&key)
                && body.contains("before ")
                && body.ends_with("0\r\n\r\n"),
            "{coding}"
        );
        let whole = format!("{}{}", "before ".repeat(900), " after".repeat(900));
        assert_eq!(dechunked(body).len(), whole.len() + key.len(), "{coding}");
        assert_eq!(dechunked(body).matches("after").count(), 900, "{coding}");
    }
    for path in ["unknown", "partial", "ranges", "messages"] {
        let answer = get(&house, &format!("/x/{path}")).await;
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (502, "response-unscannable"),
            "{path}"
        );
    }
    for path in ["damaged", "bomb"] {
        let answer = get(&house, &format!("/x/{path}")).await;
        assert!(
            !answer.text().ends_with("0\r\n\r\n") && answer.0.len() < 9 << 20,
            "{path}"
        );
    }
    house.end().await;
}

/// `/near` differs in one letter; `/zip` is compressed.
fn harmless(path: &str, key: &str) -> Vec<Vec<u8>> {
    let near = format!("{}!", &key[..key.len() - 1]);
    let text = format!("{near} 100% \\u0041 &amp; {}\n", STANDARD.encode(&near)).repeat(300);
    vec![match path {
        "/zip" => with_length(
            "content-encoding: gzip\r\n",
            &packed("gzip", text.as_bytes()),
        ),
        "/part" => {
            b"HTTP/1.1 206 Partial\r\ncontent-range: bytes 0-3/9\r\ncontent-length: 4\r\n\r\nabcd"
                .to_vec()
        }
        "/same" => with_length("", key.as_bytes()),
        "/token" => {
            let json = r#"{"access_token":"a","token_type":"Bearer"}"#;
            with_length(
                "content-type: application/json; charset=utf-8\r\n",
                json.as_bytes(),
            )
        }
        _ => with_length("etag: \"a\"\r\n", text.as_bytes()),
    }]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_nothing_keeps_every_byte() {
    let house = house(harmless, "response_guard: redact", None).await;
    let key = house.rehearsal.api_key().to_owned();
    let answer = get(&house, "/near").await.text();
    let expected = String::from_utf8(harmless("/near", &key).remove(0)).unwrap();
    let body = |text: &str| text.split_once("\r\n\r\n").unwrap().1.to_owned();
    assert_eq!(body(&answer), body(&expected));
    assert!(answer.contains("etag: \"a\"\r\n") && answer.contains("content-length: "));
    let unpacked = get(&house, "/zip").await.text();
    assert!(!unpacked.contains("content-encoding") && unpacked.contains(&body(&expected)[..4000]));
    let token = get(&house, "/token").await;
    assert_eq!(
        (token.status(), token.code().as_str()),
        (502, "token-response-withheld")
    );
    let written = house.end().await;
    assert!(written.of("credential.reflected").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_block_or_not_look() {
    let blocked = house(everywhere, "response_guard: block", None).await;
    for path in ["/body/raw", "/header/hex", "/location/percent"] {
        let answer = get(&blocked, path).await;
        assert_eq!(
            (answer.status(), answer.code().as_str()),
            (502, "credential-reflected"),
            "{path}"
        );
    }
    let late = get(&blocked, "/chunks/raw").await;
    assert!(!late.text().ends_with("0\r\n\r\n"), "{}", late.text());
    let written = blocked.end().await;
    assert_eq!(written.of("credential.reflected").len(), 4);

    let open = house(harmless, "response_guard: off", None).await;
    let key = open.rehearsal.api_key().to_owned();
    assert!(get(&open, "/same").await.text().ends_with(&key));
    assert_eq!(get(&open, "/part").await.status(), 206);
    let zip = get(&open, "/zip").await;
    assert!(zip.text().contains("content-encoding: gzip"));
    assert!(open.end().await.of("credential.reflected").is_empty());
}

fn events(_: &str, key: &str) -> Vec<Vec<u8>> {
    let (a, b) = key.split_at(key.len() / 2);
    vec![
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec(),
        chunk(b"data: {\"delta\": \"first\\n\"}\n\n"),
        chunk(format!("data: {a}").as_bytes()),
        chunk(format!("{b} end\n\n").as_bytes()),
        b"0\r\n\r\n".to_vec(),
    ]
}

/// An event waits for nothing: the next one is written when it has come.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_leaves_at_once() {
    let pace = Arc::new(Semaphore::new(2));
    let house = house(events, "response_guard: redact", Some(pace.clone())).await;
    let key = house.rehearsal.api_key().to_owned();
    let mut tls = house.inside(HOST).await;
    let head = format!("GET /x HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    let first = async {
        while !String::from_utf8_lossy(&seen).contains("first\\n\"}\n\n") {
            assert!(tls.read_buf(&mut seen).await.unwrap() > 0);
        }
    };
    timeout(PATIENCE, first).await.unwrap();
    pace.add_permits(3);
    timeout(PATIENCE, tls.read_to_end(&mut seen))
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(seen).unwrap();
    assert!(
        !text.contains(&key[..key.len() / 2]) && text.contains(" end\n\n"),
        "{text}"
    );
    house.end().await;
}

/// Token and proof of a DPoP service, on both protocols.
#[tokio::test(flavor = "multi_thread")]
async fn neither_token_nor_proof_comes_back() {
    let house = House::start().await;
    for h2 in [false, true] {
        let answer = house.ask(h2, Call::get("/v1/echo")).await;
        assert_eq!(answer.status, 200);
        let seen = house.at_api().pop().unwrap();
        let (token, proof) = (
            token_of(&seen).to_owned(),
            seen.header("dpop").unwrap().to_owned(),
        );
        let text = answer.text();
        assert!(text.contains("DPoP tw-"), "{text}");
        assert!(!text.contains(&token) && !text.contains(&proof), "{text}");
    }
    let written = house.end().await;
    assert_eq!(written.of("credential.reflected").len(), 2);
}

/// An API that remembers every token it was sent, and says them all. `/refused` takes the second one; `/stream` says them
/// when there is a permit.
async fn remember(
    mut stream: TlsStream<TcpStream>,
    known: Arc<Mutex<Vec<String>>>,
    pace: Arc<Semaphore>,
) {
    let head = read_head(&mut stream).await.text();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let token = head
        .lines()
        .find_map(|line| line.strip_prefix("authorization: Bearer "));
    let all = || {
        let mut known = known.lock().unwrap();
        if let Some(token) = token.filter(|token| !known.iter().any(|known| known == token)) {
            known.push(token.to_owned());
        }
        known.join(" ")
    };
    let said = all();
    let answer = match path {
        "/refused" if !said.contains(' ') => with_length("", b"")
            .to_vec()
            .strip_prefix(b"HTTP/1.1 200 OK\r\n")
            .map(|rest| {
                let head =
                    "HTTP/1.1 401 No\r\nwww-authenticate: Bearer error=\"invalid_token\"\r\n";
                [head.as_bytes(), rest].concat()
            }),
        "/stream" => {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let first = [head.as_bytes(), &chunk(b"data: open\n\n")].concat();
            stream.write_all(&first).await.unwrap();
            stream.flush().await.unwrap();
            pace.acquire().await.unwrap().forget();
            let rest = [
                chunk(format!("data: {}\n\n", all()).as_bytes()),
                b"0\r\n\r\n".to_vec(),
            ];
            Some(rest.concat())
        }
        _ => Some(with_length("", said.as_bytes())),
    };
    stream.write_all(&answer.unwrap()).await.ok();
    stream.shutdown().await.ok();
}

/// A token that is lent no more is good until its end, and one that came later is better still.
#[tokio::test(flavor = "multi_thread")]
async fn no_other_token_of_the_grant_passes() {
    let rehearsal = Rehearsal::start(tokenward::rehearsal::Options::default())
        .await
        .unwrap();
    let folder = TempDir::new().unwrap();
    let (known, pace) = (
        Arc::new(Mutex::new(Vec::new())),
        Arc::new(Semaphore::new(0)),
    );
    let origin = Origin::raw(HOST, &["http/1.1"], {
        let (known, pace) = (known.clone(), pace.clone());
        move |stream| remember(stream, known.clone(), pace.clone())
    })
    .await;
    let service = Svc {
        host: HOST.into(),
        upstream: Some(origin.upstream(folder.path())),
        ..Svc::plain().with(Credential::oauth("svc-bearer", Auth::Basic, "bearer"))
    };
    let house = Setup::of([service]).start_in(folder, rehearsal).await;

    let mut long = house.inside(HOST).await;
    let head = format!("GET /stream HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    long.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    let first = async {
        while !String::from_utf8_lossy(&seen).contains("open") {
            assert!(long.read_buf(&mut seen).await.unwrap() > 0);
        }
    };
    timeout(PATIENCE, first).await.unwrap();
    let refused = get(&house, "/refused").await;
    let later = get(&house, "/all").await;
    pace.add_permits(1);
    timeout(PATIENCE, long.read_to_end(&mut seen))
        .await
        .unwrap()
        .unwrap();
    let known = known.lock().unwrap().clone();
    assert!(known.len() >= 2, "{known:?}");
    for text in [
        refused.text(),
        later.text(),
        String::from_utf8(seen).unwrap(),
    ] {
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert!(text.contains("tw-"), "{text}");
        assert!(
            !known.iter().any(|token| text.contains(token)),
            "{text} {known:?}"
        );
    }
    house.end().await;
}

fn socket(_: &str, key: &str) -> Vec<Vec<u8>> {
    let head = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
                sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let frame = |first: u8, text: &str| {
        let mut frame = vec![first, u8::try_from(text.len()).unwrap()];
        frame.extend_from_slice(text.as_bytes());
        frame
    };
    let (a, b) = key.split_at(key.len() / 2);
    vec![
        head.into(),
        frame(0x81, "hello"),
        frame(0x01, &format!("it is {a}")),
        frame(0x80, b),
        frame(0x82, &written("hex", key)),
        frame(0xc1, "compressed, which nobody agreed on"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_websocket_are_searched() {
    let house = house(socket, "response_guard: redact", None).await;
    let key = house.rehearsal.api_key().to_owned();
    let mut socket = WebSocket::open(house.inside(HOST).await, HOST, "")
        .await
        .ok()
        .unwrap();
    assert_eq!(socket.hear().await.unwrap(), (0x81, b"hello".to_vec()));
    let (first, a) = socket.hear().await.unwrap();
    let (last, b) = socket.hear().await.unwrap();
    let (binary, c) = socket.hear().await.unwrap();
    assert_eq!((first, last, binary), (0x01, 0x80, 0x82));
    let text = String::from_utf8([a, b].concat()).unwrap();
    assert!(
        text.starts_with("it is tw-") && text.len() == 6 + key.len(),
        "{text}"
    );
    assert_ne!(c, written("hex", &key).into_bytes());
    // A frame that says to be compressed cannot be searched: 1008, and the end.
    assert_eq!(
        socket.hear().await.unwrap(),
        (0x88, 1008_u16.to_be_bytes().to_vec())
    );
    assert!(socket.hear().await.is_err());
    let written = house.end().await;
    assert_eq!(written.of("credential.reflected").len(), 1);
}

fn halves_of_a_frame(_: &str, key: &str) -> Vec<Vec<u8>> {
    let mut all = socket("", key);
    all.truncate(1);
    let length = u8::try_from(6 + key.len()).unwrap();
    all.push([&[0x81, length], &b"it is "[..]].concat());
    all.push(key.into());
    all
}

/// A close frame inside another frame would be taken for its text.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_websocket_ends_without_a_word_inside_a_frame() {
    let pace = Arc::new(Semaphore::new(2));
    let line = "response_guard: block";
    let house = house(halves_of_a_frame, line, Some(pace.clone())).await;
    let length = u8::try_from(6 + house.rehearsal.api_key().len()).unwrap();
    let mut tls = house.inside(HOST).await;
    let head = format!(
        "GET /x HTTP/1.1\r\nhost: {HOST}\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    );
    tls.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut tls).await.status(), 101);
    let said = [&[0x81, length], &b"it is "[..]].concat();
    let mut seen = vec![0; said.len()];
    timeout(PATIENCE, tls.read_exact(&mut seen))
        .await
        .unwrap()
        .unwrap();
    pace.add_permits(1);
    let rest = timeout(PATIENCE, tls.read_to_end(&mut seen)).await;
    rest.unwrap().unwrap();
    assert_eq!(seen, said);
    let written = house.end().await;
    assert_eq!(written.of("credential.reflected").len(), 1);
}

fn slow_json(_: &str, _: &str) -> Vec<Vec<u8>> {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n";
    vec![head.into(), b"{}".to_vec()]
}

/// An answer that waits for its first piece when a changed file ends it says that, and not that somebody revoked.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_waits_ends_with_its_reason() {
    let pace = Arc::new(Semaphore::new(1));
    let house = house(slow_json, "response_guard: redact", Some(pace.clone())).await;
    let mut tls = house.inside(HOST).await;
    let head = format!("GET /x HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    tls.write_all(head.as_bytes()).await.unwrap();
    eventually("the head", || pace.available_permits() == 0).await;
    let file = house.folder.path().join("tokenward.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replace(r#""* /**""#, r#""* /other/**""#);
    std::fs::write(&file, text).unwrap();
    let plan = config::load(&file, SecretReading::Resolve).unwrap();
    let done = house.running.reload(plan).await.unwrap();
    assert_eq!(done.ended, 1);
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, tls.read_to_end(&mut answer)).await;
    read.unwrap().unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.contains(" 503 ") && answer.contains("config-changed"),
        "{answer}"
    );
    house.end().await;
}

/// The API never sees that a part was asked for, nor a coding that is given out late.
#[tokio::test(flavor = "multi_thread")]
async fn parts_are_not_asked_for() {
    let house = House::start().await;
    let call = Call::get("/v1/echo")
        .field("range", "bytes=0-3")
        .field("accept-encoding", "zstd, br");
    let answer = house.ask(true, call).await;
    assert_eq!(answer.status, 200);
    let seen = house.at_api().pop().unwrap();
    assert_eq!(
        (seen.header("range"), seen.header("accept-encoding")),
        (None, Some("br"))
    );
    house.end().await;
}
