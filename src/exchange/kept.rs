//! The request body between attempts: gone, kept whole in memory, or flowing.
//!
//! A body can be sent twice only if it was kept, and it is kept only where its length is declared and small, so that
//! memory per request and in all stays bounded (`replay_buffer`, 64 MiB) and a stream is never waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::body::{Progress, Upload, Watch};
use super::refusal::Refusal;
use crate::credential::{BodyError, OutBody, Slot};
use crate::vocab::Code;

/// Bytes kept for all requests together.
const REPLAY_TOTAL: usize = 64 * 1024 * 1024;

/// What bounds the memory of kept bodies.
#[derive(Clone)]
pub(super) struct ReplayBudget(Arc<Semaphore>);

impl ReplayBudget {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(REPLAY_TOTAL)))
    }

    fn reserve(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).ok()?;
        self.0.clone().try_acquire_many_owned(bytes).ok()
    }
}

/// A request body between attempts.
pub(super) enum Kept {
    Buffered {
        bytes: Bytes,
        _room: OwnedSemaphorePermit,
    },
    Empty,
    Streaming(Option<Incoming>),
}

impl Kept {
    /// Decides by the declared length; reads a small body whole.
    ///
    /// # Errors
    /// The agent broke off, or was slower than `idle` between two frames.
    pub(super) async fn of(
        mut body: Incoming,
        limit: usize,
        budget: &ReplayBudget,
        idle: Duration,
        progress: &Progress,
    ) -> Result<Self, Refusal> {
        if body.is_end_stream() {
            return Ok(Self::Empty);
        }
        let declared = body
            .size_hint()
            .exact()
            .filter(|length| *length <= limit as u64);
        let Some((length, room)) =
            declared.and_then(|length| Some((length, budget.reserve(length)?)))
        else {
            return Ok(Self::Streaming(Some(body)));
        };
        let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
        loop {
            let next = tokio::time::timeout(idle, body.frame())
                .await
                .map_err(|_| Code::RequestTimeout)?;
            let Some(frame) = next else { break };
            if let Ok(data) = frame.map_err(|_| Code::BadRequest)?.into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        progress.bytes.store(bytes.len() as u64, Ordering::Relaxed);
        Ok(Self::Buffered {
            bytes: bytes.freeze(),
            _room: room,
        })
    }

    /// Whether another attempt could send it.
    pub(super) fn can_be_sent(&self) -> bool {
        !matches!(self, Self::Streaming(None))
    }

    /// The body for the next attempt; `None` where it began to flow before and was not kept.
    pub(super) fn take(
        &mut self,
        slot: &Slot,
        cancel: &CancellationToken,
        idle: Duration,
        progress: &Arc<Progress>,
    ) -> Option<OutBody> {
        let never = |e: std::convert::Infallible| match e {};
        match self {
            Self::Buffered { bytes, .. } => Some(
                Full::new(bytes.clone())
                    .map_err(move |e| -> BodyError { never(e) })
                    .boxed_unsync(),
            ),
            Self::Empty => Some(
                Empty::new()
                    .map_err(move |e| -> BodyError { never(e) })
                    .boxed_unsync(),
            ),
            Self::Streaming(body) => {
                let watch = Watch::new(cancel.clone(), idle, None);
                body.take().map(|body| {
                    Upload::new(body, slot.clone(), watch, progress.clone()).boxed_unsync()
                })
            }
        }
    }
}
