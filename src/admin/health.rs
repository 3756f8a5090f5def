//! The health listener: three paths, HTTP/1.1, GET only.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::audit::Audit;
use crate::metrics::Metrics;
use crate::vocab::{Clock, WallTime};

/// Connections to this listener at one time.
const CONNECTIONS: usize = 64;
/// How long a scraper's request may take to arrive.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of a request.
const HEAD_MAX: usize = 16 * 1024;

/// What readiness depends on.
#[derive(Clone)]
pub struct Readiness {
    audit: Audit,
    clock: Clock,
    ca_not_after: WallTime,
    stage: Arc<AtomicU8>,
}

/// It starts, and what agents need may not be there yet.
const STARTING: u8 = 0;
const OPEN: u8 = 1;
const DRAINING: u8 = 2;

impl Readiness {
    /// Ready from [`open`](Self::open) on, as long as lines can be written, the CA is valid and nothing drains.
    #[must_use]
    pub fn new(audit: Audit, clock: Clock, ca_not_after: WallTime) -> Self {
        Self {
            audit,
            clock,
            ca_not_after,
            stage: Arc::new(AtomicU8::new(STARTING)),
        }
    }

    /// All that agents need is there. What drains already stays so.
    pub fn open(&self) {
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        let changed = self
            .stage
            .compare_exchange(STARTING, OPEN, success, failure);
        tracing::debug!(opened = changed.is_ok(), "readiness was asked for");
    }

    /// From now on not ready: traffic goes elsewhere while what is here comes to its end.
    pub fn drain(&self) {
        self.stage.store(DRAINING, Ordering::SeqCst);
    }

    /// Why traffic should not be sent here.
    fn obstacle(&self) -> Option<&'static str> {
        let stage = self.stage.load(Ordering::SeqCst);
        if stage == STARTING {
            Some("starting")
        } else if stage == DRAINING {
            Some("draining")
        } else if self.audit.failed() {
            Some("audit lines cannot be written")
        } else if self.clock.wall() >= self.ca_not_after {
            Some("the interception CA has expired")
        } else {
            None
        }
    }
}

/// What the health listener shows.
#[derive(Clone)]
pub struct Health {
    /// Whether traffic should come here.
    pub readiness: Readiness,
    /// What was counted.
    pub metrics: Metrics,
    /// For the counters that the audit room keeps itself.
    pub audit: Audit,
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, health: Health) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = health.clone();
                tokio::spawn(async move {
                    connection(stream, health).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the health listener could not accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, health: Health) {
    let service = service_fn(move |request| {
        let answer = answer(&request, &health);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a health connection ended early");
    }
}

fn answer(request: &Request<Incoming>, health: &Health) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    if came_from_an_agent(request) {
        return text(StatusCode::FORBIDDEN, "not by way of the proxy\n".into());
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => match health.readiness.obstacle() {
            None => text(StatusCode::OK, "ok\n".into()),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        "/metrics" => {
            health.metrics.audit_dropped(health.audit.dropped());
            text(StatusCode::OK, health.metrics.encode())
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "known paths: /livez /readyz /metrics\n".into(),
        ),
    }
}

/// Our own addresses are never dialled, but a translator in between can make one of another. What tokenward sends says
/// so in `Via` (RFC 9110 §7.6.3), and an agent cannot take that off.
pub(super) fn came_from_an_agent<B>(request: &Request<B>) -> bool {
    let hops = request.headers().get_all(header::VIA).iter();
    hops.filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|hop| hop.split_ascii_whitespace().nth(1))
        .any(|name| name.starts_with("tokenward-"))
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
