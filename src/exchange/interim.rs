//! Interim answers (RFC 9110 §15.2) on their way from an API to an agent that speaks HTTP/1.1.
//!
//! hyper writes no interim answers but its own 100, so the connection does it (`listen/watched.rs`), at a moment when
//! hyper has nothing left to write: between two answers. A 100 never comes this way: that word is hyper's, said when
//! the body is read. What stands here is bounded, and is for the one request that waits for its answer.

use std::future::poll_fn;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use tokio::time::timeout;

use super::body::Progress;
use super::guard::clean;
use super::shield::{watched, without};
use crate::credential::Lease;

/// Most bytes that wait to be written. What has no room is not passed on: an agent that does not read is owed nothing
/// that it could not do without.
const WAITING_MAX: usize = 16 * 1024;
/// How long an answer waits for what goes before it.
const SAID_WITHIN: Duration = Duration::from_secs(1);

/// What must not stand in the interim answers to one attempt.
pub(super) struct Cleaning {
    pub(super) credentialed: bool,
    /// What went out; `None`: nobody looks for it.
    pub(super) lease: Option<Lease>,
    pub(super) proof: Option<HeaderValue>,
    /// What stands in for it.
    pub(super) fill: Option<Arc<str>>,
    /// Where finds are counted: the answer itself tells of them.
    pub(super) progress: Arc<Progress>,
}

impl Cleaning {
    fn search(&self, headers: &mut HeaderMap) {
        let Some(lease) = &self.lease else { return };
        let watched = watched(
            std::slice::from_ref(lease),
            self.proof.as_slice(),
            self.fill.as_ref(),
        );
        let hits = without(&watched, headers);
        self.progress.reflected.fetch_add(hits, Ordering::Relaxed);
    }
}

/// What one connection has to say before the answer that is awaited on it.
#[derive(Clone, Default)]
pub struct Interim(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// A request waits for its answer.
    open: bool,
    waiting: BytesMut,
    /// Whoever writes to the connection.
    writer: Option<Waker>,
    /// Whoever has the answer.
    answerer: Option<Waker>,
}

impl Interim {
    /// A request came up; its answer may be announced.
    pub fn open(&self) {
        self.state().open = true;
    }

    /// The answer is there. What was said before it may have come in the same packet, and goes first; where the agent does
    /// not take it for a second, it is dropped.
    pub async fn close(&self) {
        let said = poll_fn(|cx| {
            let mut state = self.state();
            if state.waiting.is_empty() {
                return Poll::Ready(());
            }
            state.answerer = Some(cx.waker().clone());
            Poll::Pending
        });
        if !self.state().waiting.is_empty() && timeout(SAID_WITHIN, said).await.is_err() {
            tracing::debug!("an agent does not take what goes before its answer");
        }
        *self.state() = State::default();
    }

    /// What is to be written now. The writer is woken when there is more.
    pub fn take(&self, cx: &Context<'_>) -> Bytes {
        let mut state = self.state();
        if !state.open {
            return Bytes::new();
        }
        if state.waiting.is_empty() {
            let known = state.writer.as_ref();
            if known.is_none_or(|known| !known.will_wake(cx.waker())) {
                state.writer = Some(cx.waker().clone());
            }
            return Bytes::new();
        }
        let words = state.waiting.split().freeze();
        let answerer = state.answerer.take();
        drop(state);
        if let Some(answerer) = answerer {
            answerer.wake();
        }
        words
    }

    /// Passes one on, cleaned as an answer is.
    pub(super) fn pass(&self, status: StatusCode, headers: &HeaderMap, cleaning: &Cleaning) {
        let ours = [StatusCode::CONTINUE, StatusCode::SWITCHING_PROTOCOLS];
        if !status.is_informational() || ours.contains(&status) {
            return;
        }
        let head = written(status, headers, cleaning);
        let mut state = self.state();
        if !state.open || state.waiting.len() + head.len() > WAITING_MAX {
            return;
        }
        state.waiting.extend_from_slice(&head);
        let writer = state.writer.take();
        drop(state);
        if let Some(writer) = writer {
            writer.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A head as it stands on the wire (RFC 9112 §4). The phrase is ours: the API's may say anything.
fn written(status: StatusCode, headers: &HeaderMap, cleaning: &Cleaning) -> BytesMut {
    let mut headers = headers.clone();
    clean(&mut headers, cleaning.credentialed);
    cleaning.search(&mut headers);
    // There is no content (RFC 9110 §15.2), and a length would make some readers wait for it (§8.6).
    headers.remove(header::CONTENT_LENGTH);
    let phrase = status.canonical_reason().unwrap_or_default();
    let mut head = BytesMut::from(format!("HTTP/1.1 {} {phrase}\r\n", status.as_str()).as_bytes());
    for (name, value) in &headers {
        head.put_slice(name.as_str().as_bytes());
        head.put_slice(b": ");
        head.put_slice(value.as_bytes());
        head.put_slice(b"\r\n");
    }
    head.put_slice(b"\r\n");
    head
}
