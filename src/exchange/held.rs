//! A body that waits to be asked for (RFC 9110 §10.1.1).
//!
//! A body that streams can be sent once. Where the API may well answer the head alone, by a demand for another nonce or
//! by the refusal that the agent itself wants to hear first, its first byte waits: for a 100, for the answer, or for a
//! moment, because many servers never say 100. What was not asked for can still be sent with the next attempt.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

use super::body::Upload;
use crate::credential::BodyError;

/// Where a body waits.
pub(super) struct Gate {
    waiting: Mutex<Waiting>,
    sender: AtomicWaker,
}

struct Waiting {
    /// Gone when it flows, or when it was taken back.
    body: Option<Incoming>,
    asked: bool,
}

impl Gate {
    pub(super) fn new(body: Incoming) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::new(Waiting {
                body: Some(body),
                asked: false,
            }),
            sender: AtomicWaker::new(),
        })
    }

    /// The API asks for the body.
    pub(super) fn open(&self) {
        self.waiting().asked = true;
        self.sender.wake();
    }

    /// Whether the body is still whole.
    pub(super) fn holds(&self) -> bool {
        self.waiting().body.is_some()
    }

    /// The body, if it is still whole; whoever would have sent it sends nothing any more.
    pub(super) fn take_back(&self) -> Option<Incoming> {
        let body = self.waiting().body.take();
        self.sender.wake();
        body
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // A flag and a body: what a panic left is one of their states.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the upload of a body when it may flow.
pub(super) type Begin = Box<dyn Fn(Incoming) -> Upload + Send>;

/// The body of one attempt: silent, and then the upload.
pub(super) struct Held {
    gate: Arc<Gate>,
    begin: Begin,
    flowing: Option<Upload>,
    /// How long it waits, from when its head was written.
    patience: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    hint: SizeHint,
    version: Version,
}

impl Held {
    /// A body that waits at `gate` for this long, and goes out on a connection of this version.
    pub(super) fn new(gate: Arc<Gate>, begin: Begin, patience: Duration, version: Version) -> Self {
        let hint = gate.waiting().body.as_ref().map(Body::size_hint);
        Self {
            gate,
            begin,
            flowing: None,
            patience,
            timer: None,
            hint: hint.unwrap_or_default(),
            version,
        }
    }
}

impl Body for Held {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(upload) = &mut this.flowing {
            return Pin::new(upload).poll_frame(cx);
        }
        this.gate.sender.register(cx.waker());
        let patience = this.patience;
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        let waited = timer.as_mut().poll(cx).is_ready();
        let mut waiting = this.gate.waiting();
        if waiting.body.is_none() {
            // It was taken back. A stream ends here; on HTTP/1.1 the answer may still be read, and the connection, whose
            // request never ends, carries no other.
            return if this.version == Version::HTTP_2 {
                Poll::Ready(Some(Err(BodyError::Cancelled)))
            } else {
                Poll::Pending
            };
        }
        if !waiting.asked && !waited {
            return Poll::Pending;
        }
        let body = waiting.body.take();
        drop(waiting);
        this.timer = None;
        match body.map(&this.begin) {
            Some(upload) => Pin::new(this.flowing.insert(upload)).poll_frame(cx),
            None => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        let flowing = self.flowing.as_ref();
        flowing.is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let flowing = self.flowing.as_ref();
        flowing.map_or(self.hint, Body::size_hint)
    }
}
