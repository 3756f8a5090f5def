//! Bodies and answers, and reading a body within a bound. Knows no route.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Incoming;
use serde_json::Value;

/// The connection is to be cut, or was.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut")]
pub(super) struct Cut;

/// A body of any of the servers.
pub(super) type Body = UnsyncBoxBody<Bytes, Cut>;

/// An answer with a body.
pub(super) fn with(
    status: u16,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Body> {
    streamed(
        status,
        content_type,
        Full::new(body.into()).map_err(|e| match e {}),
    )
}

/// An answer whose body comes by and by.
pub(super) fn streamed(
    status: u16,
    content_type: &'static str,
    body: impl HttpBody<Data = Bytes, Error = Cut> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = code(status);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A JSON answer.
pub(super) fn json(status: u16, value: &Value) -> Response<Body> {
    with(status, "application/json", value.to_string())
}

/// An answer without a body.
pub(super) fn empty(status: u16) -> Response<Body> {
    let mut response = Response::new(Empty::new().map_err(|e| match e {}).boxed_unsync());
    *response.status_mut() = code(status);
    response
}

fn code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Adds a field line. A value that no field can carry is left out.
pub(super) fn add(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.append(name, value);
    }
}

/// A length of the same byte, announced in advance and never held in memory.
pub(super) struct Filler {
    left: u64,
    block: Bytes,
}

impl Filler {
    pub(super) fn new(byte: u8, length: u64) -> Self {
        Self {
            left: length,
            block: Bytes::from(vec![byte; 64 * 1024]),
        }
    }
}

impl HttpBody for Filler {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let size = usize::try_from(self.left).map_or(self.block.len(), |l| l.min(self.block.len()));
        self.left -= size as u64;
        Poll::Ready(Some(Ok(Frame::data(self.block.slice(..size)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// An answer that breaks off: it announces more than it has.
pub(super) fn torn() -> Response<Body> {
    let frames = stream::unfold(true, |first| async move {
        if first {
            return Some((Ok(Frame::data(Bytes::from_static(b"{\"torn\":"))), false));
        }
        // An error right behind the first bytes would take their place: hyper had not written them yet.
        tokio::time::sleep(Duration::from_millis(10)).await;
        Some((Err(Cut), false))
    });
    let mut response = streamed(200, "application/json", StreamBody::new(frames));
    add(response.headers_mut(), CONTENT_LENGTH, "1000");
    response
}

/// Reads a body of at most `limit` bytes, and its trailers.
///
/// # Errors
/// [`Cut`] where the peer breaks off or sends more.
pub(super) async fn read(mut body: Incoming, limit: usize) -> Result<(Vec<u8>, HeaderMap), Cut> {
    let (mut bytes, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame.map_err(|_| Cut)?.into_data() {
            Ok(data) if bytes.len() + data.len() > limit => return Err(Cut),
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok((bytes, trailers))
}

/// Reads a body to its end and keeps nothing.
pub(super) async fn drain(mut body: Incoming) {
    while let Some(Ok(_)) = body.frame().await {}
}
