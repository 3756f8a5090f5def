//! The place on loopback where the browser comes back after a login (RFC 8252 §7.3). It is open while one login waits.
//!
//! Anybody on this machine can call it, and so can every page that the person has open; so what is said there counts
//! only if it fits the login, and whatever does not fit changes nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Connections at one time. Browsers open some ahead; the oldest has the longest wait behind it.
const CONNECTIONS: usize = 16;
/// How long a head may take to arrive, and a connection may be silent.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest head.
const HEAD_MAX: usize = 16 * 1024;

/// Waits until `judge` takes the query of a GET of `path` for the awaited answer and makes something of it. Dropping
/// the future closes the place.
pub(super) async fn redirected<T: Send + 'static>(
    listener: TcpListener,
    path: String,
    judge: impl Fn(&str) -> Option<T> + Send + Sync + 'static,
) -> Option<T> {
    let (found, mut answer) = mpsc::channel(1);
    let place = Arc::new((path, judge, found));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            answer = answer.recv() => {
                // The browser should read its page.
                drop(tokio::time::timeout(HEAD_TIMEOUT, connections.join_next()).await);
                return answer;
            }
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < CONNECTIONS => {
                    connections.spawn(connection(stream, place.clone()));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "the redirect's listener could not accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
}

async fn connection<T, F>(stream: TcpStream, place: Arc<(String, F, mpsc::Sender<T>)>)
where
    T: Send + 'static,
    F: Fn(&str) -> Option<T> + Send + Sync + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &place);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the redirect ended early");
    }
}

fn answer<T>(
    request: &Request<Incoming>,
    (path, judge, found): &(String, impl Fn(&str) -> Option<T>, mpsc::Sender<T>),
) -> Response<Full<Bytes>> {
    if *request.method() != Method::GET || request.uri().path() != path {
        return page(StatusCode::NOT_FOUND, "nothing is here\n");
    }
    let what = judge(request.uri().query().unwrap_or_default());
    // A full channel: the login had its answer a moment ago.
    if what.is_some_and(|what| found.try_send(what).is_ok()) {
        let text = "tokenward has the answer; this window can be closed\n";
        return page(StatusCode::OK, text);
    }
    let text = "this does not belong to the login that is waiting\n";
    page(StatusCode::BAD_REQUEST, text)
}

/// A page that shows nothing of what it was asked with.
fn page(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn only_the_awaited_answer_ends_the_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let judge = |query: &str| query.strip_prefix("code=").map(str::to_owned);
        let waiting = tokio::spawn(redirected(listener, "/callback".to_owned(), judge));
        let ask = async |line: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("{line} HTTP/1.1\r\nHost: {address}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        // Browsers open connections that they never use.
        let _idle = TcpStream::connect(address).await.unwrap();
        for (line, status) in [
            ("GET /", "404"),
            ("GET /favicon.ico", "404"),
            ("GET /callback/", "404"),
            ("POST /callback?code=x", "404"),
            ("GET /callback", "400"),
            ("GET /callback?state=canary", "400"),
        ] {
            let answer = ask(line).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{line}: {answer}"
            );
            assert!(!answer.contains("canary"), "{answer}");
            assert!(!waiting.is_finished(), "{line}");
        }
        assert!(
            ask("GET /callback?code=x")
                .await
                .starts_with("HTTP/1.1 200 ")
        );
        assert_eq!(waiting.await.unwrap().as_deref(), Some("x"));
        assert!(
            TcpStream::connect(address).await.is_err(),
            "the place is still open"
        );
    }
}
