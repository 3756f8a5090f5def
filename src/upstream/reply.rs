//! A reply, and the connection that it came on until the reply has ended.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::connection::Line;
use crate::credential::BodyError;

/// What the service answered. The head is as it came, hop-by-hop fields and all; filtering is the exchange's affair.
/// A 101 can be taken over by `hyper::upgrade::on`, whether or not it was asked for.
#[derive(Debug)]
pub struct Reply {
    /// Head and body.
    pub response: Response<ReplyBody>,
}

impl Reply {
    pub(super) fn new(response: Response<Incoming>, line: Line) -> Self {
        // After a 101 the connection speaks another protocol; it never carries a request again.
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let line = (!upgraded).then_some(line);
        let response = response.map(|incoming| {
            let mut body = ReplyBody { incoming, line };
            if body.incoming.is_end_stream() {
                body.finish();
            }
            body
        });
        Self { response }
    }
}

/// The body of a reply. Read to its clean end it sets its connection free; dropped before, it closes an HTTP/1.1
/// connection and resets an HTTP/2 stream. A body that ends early is an error, never an end.
pub struct ReplyBody {
    incoming: Incoming,
    line: Option<Line>,
}

impl ReplyBody {
    fn finish(&mut self) {
        if let Some(Line::Http1(line)) = self.line.take() {
            line.give_back();
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.incoming).poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                // Nobody may ask again after the last byte or the trailers, so the end is noticed here.
                if frame.is_trailers() || this.incoming.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => {
                this.line = None;
                Poll::Ready(Some(Err(BodyError::Upstream)))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl std::fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplyBody").finish_non_exhaustive()
    }
}
