//! Nobody reads what `serve` writes: its log, and then its audit lines as well. The classic hang of a sidecar.

use std::time::Duration;

use http::StatusCode;
use tokenward::audit;
use tokenward::rehearsal::{Call, Session};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use super::kit::{API, KEYS, PATIENCE, Served, Setup, Written, ask, eventually};

/// A pipe has room for 64 KiB; so many log lines at `trace` are more.
const REQUESTS: usize = 300;
/// More lines than may wait for the audit file.
const LINES: usize = 9000;

const FAST: &str = "limits: {per_agent: {requests_per_second: 1000000}}";

async fn session(served: &Served, host: &str) -> Session {
    served.agent().open(host, 443, true).await.unwrap()
}

async fn get(session: &mut Session, target: &str) -> StatusCode {
    let answer = timeout(PATIENCE, session.send(Call::get(target))).await;
    answer.expect("the data path hangs").unwrap().status
}

/// Reads a pipe to its end, or until nothing has come for a while.
async fn drained(pipe: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut all = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    while let Ok(Ok(read @ 1..)) = timeout(Duration::from_secs(1), pipe.read(&mut piece)).await {
        all.extend_from_slice(&piece[..read]);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_nothing() {
    let mut served = Served::piped(Setup::usual().line(FAST), "trace").await;
    let (_stdout, mut stderr) = served.pipes();
    let mut session = session(&served, API).await;
    for _ in 0..REQUESTS {
        assert_eq!(get(&mut session, "/v1/items").await, 200);
    }
    // A decision of policy, and a request of another agent's connection, go on as well.
    assert_eq!(get(&mut session, "/v1/items/1/secrets").await, 403);
    let answer = ask(&served.agent(), KEYS, false, Call::get("/v1/items")).await;
    assert_eq!(answer.status, 200);
    let file = served.folder.path().join("audit.jsonl");
    let written = || Written::read(&file).requests().len() == REQUESTS + 2;
    eventually("the audit lines", written).await;
    let log = String::from_utf8(drained(&mut stderr).await).unwrap();
    assert!(log.contains("are lost"), "the log was never blocked");
    // Read again, it says again what happens.
    assert_eq!(get(&mut session, "/v1/items").await, 200);
    assert!(!drained(&mut stderr).await.is_empty());
    assert!(served.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_comes_though_nobody_reads() {
    let setup = Setup::usual().line(FAST);
    let mut served = Served::piped(setup, "trace").await;
    let (_stdout, _stderr) = served.pipes();
    let mut session = session(&served, API).await;
    for _ in 0..REQUESTS {
        assert_eq!(get(&mut session, "/v1/items").await, 200);
    }
    drop(session);
    assert!(served.terminate().await.success());
}

/// Sends requests on several connections until one is refused, or so many have passed.
async fn flood(served: &Served) -> (usize, Option<String>) {
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let mut session = session(served, KEYS).await;
        tasks.push(tokio::spawn(async move {
            for passed in 0..LINES / 8 {
                let answer = timeout(PATIENCE, session.send(Call::get("/v1/items"))).await;
                let answer = answer.expect("the data path hangs").unwrap();
                if answer.status != 200 {
                    return (passed, answer.code());
                }
            }
            (LINES / 8, None)
        }));
    }
    let mut all = (0, None);
    for task in tasks {
        let (passed, code) = task.await.unwrap();
        all = (all.0 + passed, code.or(all.1));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_lines_that_nobody_reads_stop_credentials_and_not_the_proxy() {
    let mut setup = Setup::usual().line(FAST);
    setup.audit = Some("{when_full: refuse}");
    let mut served = Served::piped(setup, "error").await;
    let (mut stdout, _stderr) = served.pipes();
    let (passed, code) = flood(&served).await;
    // What found a place was carried; then there is none, and the agent is told so at once.
    assert!(passed > 8000, "{passed}");
    assert_eq!(code.as_deref(), Some("audit-unavailable"));
    // Somebody reads again: the lines are there, each once, and requests go on.
    let mut text = drained(&mut stdout).await;
    let mut session = session(&served, KEYS).await;
    assert_eq!(get(&mut session, "/v1/items").await, 200);
    text.extend(drained(&mut stdout).await);
    let verified = audit::verify(text.as_slice()).unwrap();
    let requests = String::from_utf8(text).unwrap();
    let requests = requests.matches("\"event\":\"request\"").count();
    assert_eq!(requests, passed + 1, "{} lines", verified.lines);
    assert!(served.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_lines_that_nobody_reads_may_be_counted_instead() {
    let mut setup = Setup::usual().line(FAST);
    setup.audit = Some("{when_full: count}");
    let mut served = Served::piped(setup, "error").await;
    let (mut stdout, _stderr) = served.pipes();
    assert_eq!(flood(&served).await, (LINES, None));
    let text = String::from_utf8(drained(&mut stdout).await).unwrap();
    let mut session = session(&served, KEYS).await;
    assert_eq!(get(&mut session, "/v1/items").await, 200);
    let rest = String::from_utf8(drained(&mut stdout).await).unwrap();
    audit::verify(format!("{text}{rest}").as_bytes()).unwrap();
    // More than one line may tell of losses: the thread writes while the pipe has room, and loses again.
    let whole = format!("{text}{rest}");
    let losses = whole.lines().filter(|line| line.contains("audit.lost"));
    let losses = losses.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let lost: u64 = losses.map(|line| line["lost"].as_u64().unwrap()).sum();
    let told = whole.matches("\"event\":\"request\"").count();
    let lost = usize::try_from(lost).unwrap();
    assert!(lost > 0);
    assert_eq!(told + lost, LINES + 1);
    assert!(served.terminate().await.success());
}
