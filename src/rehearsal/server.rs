//! Sockets: a port per server that can be left and taken again, TLS, HTTP/1.1 and HTTP/2, and the faults that
//! concern every server alike. Knows nothing of tokens.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use http::header::{CONTENT_LENGTH, DATE, HeaderName, LOCATION, RETRY_AFTER};
use http::request::Parts;
use http::{Request, Response};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::controls::{Failure, Service};
use super::reply::{self, Body, Cut};
use super::seen::{Visit, authority};
use super::stage::Stage;
use super::tls::Offers;
use super::{api, fixed, issuer};

static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// What a request may do to its own connection.
#[derive(Clone)]
pub(super) struct Wire {
    number: u64,
    /// Cuts it at once.
    pub(super) cut: CancellationToken,
    /// Ends it gracefully.
    close: CancellationToken,
}

/// The accept loop of a server that is up.
struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// A server with its port.
pub(super) struct Site {
    service: Service,
    address: SocketAddr,
    /// Bound, never listening: keeps the port ours while the server is down, and connections to it refused.
    _reserved: TcpSocket,
    /// How requests may name this server, without the default port.
    authorities: Vec<String>,
    offers: Offers,
    stage: Arc<Stage>,
    running: Mutex<Option<Running>>,
}

/// Takes a free port and keeps it.
pub(super) fn reserve() -> io::Result<(TcpSocket, SocketAddr)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    let address = socket.local_addr()?;
    Ok((socket, address))
}

impl Site {
    pub(super) fn new(
        service: Service,
        (reserved, address): (TcpSocket, SocketAddr),
        authorities: Vec<String>,
        offers: Offers,
        stage: Arc<Stage>,
    ) -> Arc<Self> {
        Arc::new(Self {
            service,
            address,
            _reserved: reserved,
            authorities,
            offers,
            stage,
            running: Mutex::new(None),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens, where it does not already.
    pub(super) fn bring_up(self: &Arc<Self>) -> io::Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.is_some() {
            return Ok(());
        }
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseport(true)?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        let listener = socket.listen(1024)?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(self).accept(listener, stop.clone()));
        *running = Some(Running { stop, task });
        Ok(())
    }

    /// Stops listening and cuts every connection.
    pub(super) async fn take_down(&self) {
        if let Some(running) = self.cut_all() {
            // It fails only where the runtime is ending.
            running.task.await.ok();
        }
    }

    fn cut_all(&self) -> Option<Running> {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        running.inspect(|running| running.stop.cancel())
    }

    /// As [`Site::take_down`], without waiting.
    pub(super) fn abandon(&self) {
        drop(self.cut_all());
    }

    async fn accept(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let site = Arc::clone(&self);
                    let cut = stop.child_token();
                    tokio::spawn(async move {
                        let wire = Wire {
                            number: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
                            cut: cut.clone(),
                            close: CancellationToken::new(),
                        };
                        cut.run_until_cancelled(site.connection(stream, wire)).await
                    });
                }
                // Out of file descriptors, most likely: others must end first.
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, wire: Wire) {
        stream.set_nodelay(true).ok();
        let alpn = self.stage.controls.site_now(self.service).alpn;
        let acceptor = TlsAcceptor::from(self.offers.config(alpn));
        let handshake = tokio::time::timeout(Duration::from_secs(10), acceptor.accept(stream));
        let Ok(Ok(stream)) = handshake.await else {
            return;
        };
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let close = wire.close.clone();
        let service = service_fn(move |request| {
            let (site, wire) = (Arc::clone(&self), wire.clone());
            async move { site.answer(request, wire).await }
        });
        let io = TokioIo::new(stream);
        // Clients that hang up are part of many a test: how a connection ended is nobody's concern. Biased, so that
        // a connection asked to close knows it before it sees the answer.
        if h2 {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(4 << 20)
                .serve_connection(io, service);
            let mut connection = pin!(connection);
            tokio::select! {
                biased;
                () = close.cancelled() => connection.as_mut().graceful_shutdown(),
                ended = connection.as_mut() => return drop(ended),
            }
            connection.await.ok();
        } else {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(io, service)
                .with_upgrades();
            let mut connection = pin!(connection);
            tokio::select! {
                biased;
                () = close.cancelled() => connection.as_mut().graceful_shutdown(),
                ended = connection.as_mut() => return drop(ended),
            }
            connection.await.ok();
        }
    }

    async fn answer(&self, request: Request<Incoming>, wire: Wire) -> Result<Response<Body>, Cut> {
        let (head, body) = request.into_parts();
        let visit = self.stage.seen.arrived(self.service, wire.number, &head);
        let for_head = head.method == http::Method::HEAD;
        let mut response = self.respond(&visit, &wire, head, body).await?;
        if for_head {
            // hyper drops the body of an answer to HEAD in HTTP/1.1, but not in HTTP/2.
            let length = response.body().size_hint().exact();
            *response.body_mut() = reply::empty(200).into_body();
            if let Some(length) = length {
                response.headers_mut().insert(CONTENT_LENGTH, length.into());
            }
        }
        let settings = self.stage.controls.site_now(self.service);
        if settings.clock_skew != 0 {
            let now = u64::try_from(self.stage.now(self.service)).unwrap_or_default();
            let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now));
            reply::add(response.headers_mut(), DATE, &date);
        }
        visit.answered(response.status().as_u16());
        Ok(response)
    }

    async fn respond(
        &self,
        visit: &Visit,
        wire: &Wire,
        head: Parts,
        body: Incoming,
    ) -> Result<Response<Body>, Cut> {
        let named = authority(&head).to_ascii_lowercase();
        let named = named.strip_suffix(":443").unwrap_or(&named);
        if !self.authorities.iter().any(|own| own == named) {
            visit.note("the request names another server");
            return Ok(reply::empty(421));
        }
        let delay = self.stage.controls.site_now(self.service).delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let failure = self
            .stage
            .controls
            .failure_for(self.service, head.uri.path());
        if let Some(failure) = failure {
            visit.note("a fault was asked for");
            if let Some(response) = fail(failure, wire).await {
                return Ok(response);
            }
        }
        match self.service {
            Service::Api => api::answer(&self.stage, visit, wire, named, head, body).await,
            Service::Issuer => issuer::answer(&self.stage, visit, &head, body).await,
            Service::Static => fixed::answer(&self.stage, visit, wire, head, body).await,
        }
    }
}

/// Plays a fault. `None` where the true answer follows.
async fn fail(failure: Failure, wire: &Wire) -> Option<Response<Body>> {
    let with_field = |status, name: HeaderName, value: &str| {
        let mut response = reply::empty(status);
        reply::add(response.headers_mut(), name, value);
        response
    };
    Some(match failure {
        Failure::CloseAfter => {
            wire.close.cancel();
            // The connection must notice before it has the answer: HTTP/1.1 says so in the answer's head.
            tokio::task::yield_now().await;
            return None;
        }
        Failure::Delay(span) => {
            tokio::time::sleep(span).await;
            return None;
        }
        Failure::DropAfterHead => reply::torn(),
        Failure::DropBeforeAnswer => {
            wire.cut.cancel();
            std::future::pending().await
        }
        Failure::Hang => std::future::pending().await,
        Failure::Html { status, canary } => {
            let page = format!("<!doctype html><title>Error</title><p>{canary}</p>");
            reply::with(status, "text/html; charset=utf-8", page)
        }
        Failure::Huge { bytes } => {
            reply::streamed(200, "application/json", reply::Filler::new(b' ', bytes))
        }
        Failure::OAuth { status, error } => {
            reply::json(status, &serde_json::json!({"error": error}))
        }
        Failure::Redirect { status, to } => with_field(status, LOCATION, &to),
        Failure::Status {
            status,
            retry_after: Some(after),
        } => with_field(status, RETRY_AFTER, &after),
        Failure::Status { status, .. } => reply::empty(status),
    })
}
