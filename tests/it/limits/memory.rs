//! What slow agents make us hold.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokenward::rehearsal::{Alpn, Call, Service};
use tokio::time::{sleep, timeout};

use crate::kit::{KEYS, PATIENCE, Served, Setup, Svc};

/// Half a MiB for each of them, and the piece of an answer that is being searched.
const SLOW: usize = 200;
const MOST: u64 = SLOW as u64 * (512 + 64);

async fn served() -> Served {
    let served = Served::start(Setup::of([Svc::keys()]), "info").await;
    // What the first request loads is there before anything is measured.
    let answer = served
        .agent()
        .call(KEYS, 443, true, Call::get("/v1/items"))
        .await;
    assert_eq!(answer.unwrap().status, 200);
    served
}

/// Memory in KiB, once it has stopped to grow.
async fn settled(served: &Served) -> u64 {
    let settling = async {
        let mut before = served.memory();
        loop {
            sleep(Duration::from_millis(700)).await;
            let now = served.memory();
            if now <= before + 256 {
                return now;
            }
            before = now;
        }
    };
    timeout(PATIENCE * 2, settling).await.expect("it grows on")
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_read_slowly_wait_at_the_api() {
    for (h2, alpn) in [(true, Alpn::H2), (true, Alpn::H1), (false, Alpn::H2)] {
        let mut served = served().await;
        served
            .rehearsal
            .controls()
            .site(Service::Static, |s| s.alpn = alpn);
        let baseline = served.memory();
        let agent = served.agent();
        let shared = agent.open(KEYS, 443, true).await.unwrap();
        let stuck = join_all((0..SLOW).map(|_| async {
            let mut session = if h2 {
                shared.beside().unwrap()
            } else {
                agent.open(KEYS, 443, false).await.unwrap()
            };
            let call = Call::get("/v1/download?bytes=100000000");
            let response = session.start(call).await.unwrap();
            assert_eq!(response.status(), 200);
            (session, response)
        }))
        .await;
        let grown = settled(&served).await.saturating_sub(baseline);
        assert!(
            grown <= MOST,
            "{grown} KiB for {SLOW} readers: {h2} {alpn:?}"
        );
        drop(stuck);
        served.terminate().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_the_api_does_not_read_wait_at_the_agent() {
    for (h2, alpn) in [(true, Alpn::H2), (false, Alpn::H1)] {
        let mut served = served().await;
        served.rehearsal.controls().site(Service::Static, |s| {
            s.alpn = alpn;
            s.delay = Duration::from_secs(600);
        });
        let baseline = served.memory();
        let agent = served.agent();
        let shared = agent.open(KEYS, 443, true).await.unwrap();
        let sessions = join_all((0..SLOW).map(|_| async {
            if h2 {
                shared.beside().unwrap()
            } else {
                agent.open(KEYS, 443, false).await.unwrap()
            }
        }))
        .await;
        let uploads: Vec<_> = sessions
            .into_iter()
            .map(|mut session| {
                let piece = Bytes::from_static(&[b'x'; 1 << 16]);
                let endless = stream::repeat_with(move || Ok(Frame::data(piece.clone())));
                let mut call = Call::new(Method::POST, "/v1/upload");
                call.body = StreamBody::new(endless).boxed_unsync();
                tokio::spawn(async move { session.start(call).await.map(drop) })
            })
            .collect();
        let grown = settled(&served).await.saturating_sub(baseline);
        assert!(
            grown <= MOST,
            "{grown} KiB for {SLOW} uploads: {h2} {alpn:?}"
        );
        for upload in uploads {
            upload.abort();
        }
        served.signal(rustix::process::Signal::KILL);
        served.wait().await;
    }
}
