//! The operator's socket: who may speak there, what is said, and what never is.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};
use tokenward::rehearsal::Call;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::kit::{API, Served, Setup, ask, code, err, out, run, tokenward};

/// One raw request; status and body.
async fn speak(path: &Path, request: &str) -> (u16, Value) {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

fn post(target: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// The only socket in the state directory.
fn socket(home: &Path) -> std::path::PathBuf {
    let folder = home.join("state/tokenward/admin");
    assert_eq!(
        fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
        0o700
    );
    let mut all = fs::read_dir(folder).unwrap();
    let path = all.next().unwrap().unwrap().path();
    assert!(all.next().is_none());
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_rotation_over_the_socket() {
    let mut served = Served::start(Setup::usual(), "info").await;
    let agent = served.agent();
    let get = || ask(&agent, API, true, Call::get("/v1/items"));
    assert_eq!(get().await.status, 200);
    let path = socket(served.folder.path());
    let status = async |words: &[&str]| {
        let done = run(&mut served.verb(words)).await;
        assert_eq!(code(&done), 0, "{}", err(&done));
        out(&done)
    };
    let before: Value = serde_json::from_str(&status(&["status", "--json"]).await).unwrap();
    let grant = &before["grants"][0];
    assert_eq!(grant["health"], "healthy");
    assert_eq!(grant["binding"], "dpop");
    assert_eq!(grant["agent"], "default");
    let key = |status: &Value| status["grants"][0]["tokens"][0]["thumbprint"].clone();
    assert!(key(&before).is_string());
    assert_eq!(before["protections"]["no_core"], true);
    let people = status(&["status"]).await;
    assert!(people.contains("items/default: healthy"), "{people}");

    let rotated = status(&["rotate", "--service", "items", "--json"]).await;
    let rotated: Value = serde_json::from_str(&rotated).unwrap();
    assert_eq!(rotated["grants"][0]["key"], "new");
    assert_eq!(rotated["grants"][0]["renewed"], true);
    let after: Value = serde_json::from_str(&status(&["status", "--json"]).await).unwrap();
    assert_ne!(key(&before), key(&after));
    assert_eq!(get().await.status, 200);
    assert!(served.file("audit.jsonl").contains("key.rotated"));

    // No token is ever said.
    let seen = served.rehearsal.seen();
    let tokens = seen.iter().filter_map(|s| s.header("authorization"));
    let tokens = tokens.filter_map(|value| value.strip_prefix("DPoP "));
    let said = format!("{before}{after}{rotated}{people}");
    assert!(tokens.clone().count() > 0);
    for token in tokens {
        assert!(!said.contains(token));
    }
    assert!(served.terminate().await.success());
    assert!(!path.exists());
    let done = run(&mut served.verb(&["status"])).await;
    assert_eq!(code(&done), 1);
    assert!(err(&done).contains("no proxy runs"), "{}", err(&done));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_asked_for_properly_is_refused() {
    let mut served = Served::start(Setup::usual(), "info").await;
    let path = socket(served.folder.path());
    let large = post(
        "/v1/rotate",
        &format!("{{\"service\": \"{}\"}}", "x".repeat(20_000)),
    );
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 404),
        ("GET /v1/rotate HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 405),
        (
            "GET /v1/logins/1 HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            404,
        ),
        (
            "GET /v1/status HTTP/1.1\r\nHost: x\r\nVia: 1.1 tokenward-abcdefgh\r\n\r\n".to_owned(),
            403,
        ),
        (post("/v1/rotate", "[]"), 400),
        (post("/v1/rotate", "{\"service\": 7}"), 400),
        (post("/v1/rotate", "{\"services\": \"items\"}"), 400),
        (post("/v1/rotate", "{\"service\": \"nowhere\"}"), 404),
        (post("/v1/rotate", "{\"agent\": \"nobody\"}"), 404),
        (post("/v1/logins", "{}"), 400),
        (post("/v1/logins", "{\"service\": \"items\"}"), 409),
        (large, 400),
    ] {
        let (got, body) = speak(&path, &request).await;
        assert_eq!(got, status, "{request:.60}: {body}");
        assert!(body["detail"].is_string() && body["status"] == status);
    }
    let (got, body) = speak(&path, "GET /v1/logins HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!((got, body), (200, json!([])));
    let done = run(&mut served.verb(&["login", "items"])).await;
    assert_eq!(code(&done), 1);
    assert!(err(&done).contains("nobody logs in"), "{}", err(&done));
    assert!(served.terminate().await.success());
}

/// Who can write to the folder could put a socket of theirs there.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_open_to_others_is_no_place_for_the_socket() {
    let rehearsal =
        tokenward::rehearsal::Rehearsal::start(tokenward::rehearsal::Options::default());
    let rehearsal = rehearsal.await.unwrap();
    let home = tempfile::TempDir::new().unwrap();
    let config = Setup::usual().write(home.path(), &rehearsal);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        format!("{text}admin: {{listen: 'unix:open/a.sock'}}\n"),
    )
    .unwrap();
    let open = home.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let failed = run(tokenward(home.path()).arg("serve")).await;
    assert_eq!(code(&failed), 1);
    let said = err(&failed);
    assert!(said.contains("admin") && said.contains("0700"), "{said}");
    assert!(!open.join("a.sock").exists());
}
