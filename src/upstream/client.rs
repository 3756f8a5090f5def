//! Sends an armed request on the connection that it was armed for, and judges what went wrong.
//!
//! Nothing is ever sent a second time here: a second attempt needs a new proof. What the exchange needs to know for
//! that is told with the error: whether the request was provably not processed.

use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use tower::Service;

use super::connection::{Connection, Http1Line, Http2Line, Line};
use super::reply::Reply;
use super::stream::{Mark, Meter};
use crate::credential::{Armed, BodyError, BoxFuture, OutBody};
use crate::vocab::Code;
use crate::wire::Asked;

/// Told of each interim answer (RFC 9110 §15.2) that comes before the answer. Goes with the request as a note. hyper tells
/// of them on HTTP/1.1 only.
#[derive(Clone)]
pub struct WhenInterim(Arc<ToldOf>);

type ToldOf = dyn Fn(StatusCode, &HeaderMap) + Send + Sync;

impl WhenInterim {
    /// Calls `told`, from the connection's own task: at most eight times, with heads of at most 64 KiB together.
    pub fn new(told: impl Fn(StatusCode, &HeaderMap) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }
}

/// What went wrong with a request that was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendFailure {
    /// The request's body ended early.
    #[error("the request's body ended early")]
    Body(BodyError),
    /// The connection or stream ended before the reply's head.
    #[error("the connection ended before the reply")]
    Closed,
    /// The request cannot be written as it is.
    #[error("the request cannot be written")]
    Internal,
    /// The reply's head broke the rules of HTTP, or our bounds.
    #[error("the reply broke the rules of HTTP")]
    Protocol,
}

/// Why there is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub struct SendError {
    /// What went wrong.
    pub failure: SendFailure,
    /// The request was provably not processed: nothing of it was written, or the server said so (REFUSED_STREAM, or a
    /// stream above the last one of a GOAWAY; RFC 9113 §8.7).
    pub unprocessed: bool,
    /// The connection had been idle before and died without a byte of the reply. Most likely the server closed it at
    /// that very moment (RFC 9112 §9.3.1); an idempotent request may be sent again.
    pub reused_idle_died: bool,
}

impl SendError {
    /// What the agent is told.
    #[must_use]
    pub fn code(&self) -> Code {
        match self.failure {
            SendFailure::Body(BodyError::Agent) => Code::BadRequest,
            SendFailure::Body(BodyError::Secret) => Code::SecretInRequest,
            SendFailure::Body(BodyError::Stalled) => Code::RequestTimeout,
            SendFailure::Body(BodyError::Cancelled) => Code::ServiceRevoked,
            SendFailure::Body(BodyError::Upstream) | SendFailure::Closed => Code::UpstreamReset,
            SendFailure::Internal => Code::Internal,
            SendFailure::Protocol => Code::UpstreamProtocolError,
        }
    }
}

/// The seam at which tests put another upstream: takes armed requests and nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct Client;

impl Service<Armed<Connection>> for Client {
    type Response = Reply;
    type Error = SendError;
    type Future = BoxFuture<'static, Result<Reply, SendError>>;

    /// Always ready: what had to be waited for was the connection, and the request holds it.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, armed: Armed<Connection>) -> Self::Future {
        let (connection, request) = armed.into_parts();
        send(connection, request)
    }
}

/// Sends a request on a connection. Dropping the future closes an HTTP/1.1 connection, and resets an HTTP/2 stream.
pub(super) fn send(
    connection: Connection,
    mut request: Request<OutBody>,
) -> BoxFuture<'static, Result<Reply, SendError>> {
    let fate = Arc::new(Fate::default());
    let when_interim = request.extensions_mut().remove::<WhenInterim>();
    let mut request = request.map(|body| Outgoing {
        body,
        fate: fate.clone(),
    });
    if let Some(WhenInterim(told)) = when_interim {
        hyper::ext::on_informational(&mut request, move |interim| {
            told(interim.status(), interim.headers());
        });
    }
    match connection.into_line() {
        Some(Line::Http1(line)) => Box::pin(send_http1(line, request, fate)),
        Some(Line::Http2(line)) => Box::pin(send_http2(line, request, fate)),
        None => Box::pin(std::future::ready(Err(SendError {
            failure: SendFailure::Internal,
            unprocessed: true,
            reused_idle_died: false,
        }))),
    }
}

async fn send_http1(
    mut line: Box<Http1Line>,
    request: Request<Outgoing>,
    fate: Arc<Fate>,
) -> Result<Reply, SendError> {
    let asked = Asked {
        head_only: *request.method() == Method::HEAD,
        switch: request.headers().contains_key(header::UPGRADE),
    };
    if !line.wire.meter.ask(asked) {
        // Its peer said something unasked a moment ago.
        return Err(SendError {
            failure: SendFailure::Closed,
            unprocessed: true,
            reused_idle_died: false,
        });
    }
    let mark = line.wire.meter.mark();
    match line.wire.sender.try_send_request(request).await {
        Ok(response) => Ok(Reply::new(response, Line::Http1(line))),
        Err(error) => {
            let recovered = error.message().is_some();
            let meter = &line.wire.meter;
            let unprocessed = recovered || meter.silent_since(mark);
            Err(judge(
                error.error(),
                &fate,
                unprocessed,
                line.reused,
                meter,
                mark,
            ))
        }
    }
}

async fn send_http2(
    line: Http2Line,
    request: Request<Outgoing>,
    fate: Arc<Fate>,
) -> Result<Reply, SendError> {
    let shared = line.shared.clone();
    let mark = shared.meter.mark();
    let mut sender = shared.sender.clone();
    match sender.try_send_request(request).await {
        Ok(response) => Ok(Reply::new(response, Line::Http2(line))),
        Err(error) => {
            let recovered = error.message().is_some();
            let unprocessed = recovered || disclaimed(error.error());
            if recovered || connection_is_gone(error.error()) {
                // It may take a moment until hyper's task has seen its end: another attempt must not meet it again.
                shared.limit.store(0, Ordering::Release);
            }
            let meter = &shared.meter;
            Err(judge(
                error.error(),
                &fate,
                unprocessed,
                line.was_idle,
                meter,
                mark,
            ))
        }
    }
}

fn judge(
    error: &hyper::Error,
    fate: &Fate,
    unprocessed: bool,
    was_idle: bool,
    meter: &Meter,
    mark: Mark,
) -> SendError {
    let failure = match fate.body_error() {
        Some(body) => SendFailure::Body(body),
        None if meter.broken() || error.is_parse() || peer_misbehaved(error) => {
            SendFailure::Protocol
        }
        None if error.is_user() && !error.is_body_write_aborted() => SendFailure::Internal,
        None => SendFailure::Closed,
    };
    let died = failure == SendFailure::Closed;
    SendError {
        failure,
        unprocessed,
        reused_idle_died: died && was_idle && meter.unanswered_since(mark),
    }
}

/// Whether the server said that it has not processed the stream (RFC 9113 §8.7). hyper hands the reason up as the
/// source of its error only, and its type is not ours to name: what it prints as is all there is. Errors of a stream
/// carry no text of the peer's; a GOAWAY's debug data comes last and is not looked at.
fn disclaimed(error: &hyper::Error) -> bool {
    let Some(source) = error.source() else {
        return false;
    };
    let text = source.to_string();
    let refused = "stream error received: refused stream before processing any application logic";
    // h2 gives a stream this error only when its number is above the GOAWAY's last one.
    text == refused || text.starts_with("connection error received: ")
}

/// Whether it was not this stream alone that ended.
fn connection_is_gone(error: &hyper::Error) -> bool {
    let of_stream = |text: String| text.starts_with("stream error ");
    let stream_alone = error
        .source()
        .is_some_and(|source| of_stream(source.to_string()));
    !stream_alone && !error.is_user() && !error.is_body_write_aborted()
}

/// Whether our side of HTTP/2 ended the stream or connection because the peer broke the protocol.
fn peer_misbehaved(error: &hyper::Error) -> bool {
    error.source().is_some_and(|source| {
        let text = source.to_string();
        text.starts_with("connection error detected: ")
            || text.starts_with("stream error detected: ")
    })
}

/// How the request's body ended, for the one who sent it: hyper tells an aborted body and a lost connection apart on
/// HTTP/1.1 only.
#[derive(Default)]
pub(super) struct Fate(AtomicU8);

impl Fate {
    fn note(&self, error: BodyError) {
        let mark = match error {
            BodyError::Agent => 1,
            BodyError::Cancelled => 2,
            BodyError::Upstream => 3,
            BodyError::Stalled => 4,
            BodyError::Secret => 5,
        };
        self.0.store(mark, Ordering::Release);
    }

    fn body_error(&self) -> Option<BodyError> {
        match self.0.load(Ordering::Acquire) {
            1 => Some(BodyError::Agent),
            2 => Some(BodyError::Cancelled),
            3 => Some(BodyError::Upstream),
            4 => Some(BodyError::Stalled),
            5 => Some(BodyError::Secret),
            _ => None,
        }
    }
}

/// A request's body on the wire.
pub(super) struct Outgoing {
    body: OutBody,
    fate: Arc<Fate>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(error))) = &frame {
            self.fate.note(*error);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
