//! The request body between attempts: gone, kept whole in memory, or flowing.
//!
//! A body can be sent twice only if it was kept, and it is kept only where its length is declared and small, so that
//! memory per request and in all stays bounded (`replay_buffer`, `limits.replay_total`) and a stream is never waited
//! for. Where the total is used up, a body is sent on as it comes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Version;
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::body::{Pace, Progress, Upload, Watch};
use super::floor::{BodyFloor, FloorMeter};
use super::held::{Gate, Held};
use super::refusal::Refusal;
use crate::credential::{BodyError, OutBody};
use crate::vocab::Code;

/// What bounds the memory of kept bodies.
#[derive(Clone)]
pub(super) struct ReplayBudget(Arc<Semaphore>);

impl ReplayBudget {
    /// Room for `total` bytes of all requests together.
    pub(super) fn new(total: usize) -> Self {
        Self(Arc::new(Semaphore::new(total.min(Semaphore::MAX_PERMITS))))
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
    /// It streams, and waited to be asked for.
    Waiting(Arc<Gate>),
}

/// A body that is to wait until it is asked for.
#[derive(Clone, Copy)]
pub(super) struct Wait {
    /// How long.
    pub(super) patience: Duration,
    /// Of the connection that it goes out on.
    pub(super) version: Version,
}

/// A body for one attempt, and where it waits.
pub(super) type Outgoing = (OutBody, Option<Arc<Gate>>);

/// How long an agent may take with its body.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// Longest silence between two pieces.
    pub(super) idle: Duration,
    /// Slowest body that is kept.
    pub(super) floor: BodyFloor,
    /// Whether a body that streams may be slower: silence is part of what it says.
    pub(super) unhurried: bool,
}

impl Kept {
    /// Decides by the declared length; reads a small body whole.
    ///
    /// # Errors
    /// The agent broke off, or was slower than its `patience` allows.
    pub(super) async fn of(
        mut body: Incoming,
        limit: usize,
        budget: &ReplayBudget,
        patience: Patience,
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
        let bytes = whole(&mut body, length, patience).await?;
        progress.bytes.store(bytes.len() as u64, Ordering::Relaxed);
        Ok(Self::Buffered {
            bytes: bytes.freeze(),
            _room: room,
        })
    }

    /// Whether another attempt could send it.
    pub(super) fn can_be_sent(&self) -> bool {
        match self {
            Self::Buffered { .. } | Self::Empty => true,
            Self::Streaming(body) => body.is_some(),
            Self::Waiting(gate) => gate.holds(),
        }
    }

    /// Whether it streams and nothing of it was sent, so that it could wait.
    pub(super) fn can_wait(&self) -> bool {
        matches!(self, Self::Streaming(Some(_)) | Self::Waiting(_)) && self.can_be_sent()
    }

    /// Whether it waits still.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Self::Waiting(gate) if gate.holds())
    }

    /// The answer came before the body was asked for: it is not sent any more, and what was waiting is let go.
    pub(super) fn forgo(&mut self) {
        if let Self::Waiting(gate) = self {
            drop(gate.take_back());
        }
    }

    /// The body for the next attempt; `None` where it began to flow before and was not kept.
    pub(super) fn take(
        &mut self,
        cancel: &CancellationToken,
        patience: Patience,
        progress: &Arc<Progress>,
        wait: Option<Wait>,
    ) -> Option<Outgoing> {
        if let Self::Waiting(gate) = self {
            *self = Self::Streaming(gate.take_back());
        }
        let never = |e: std::convert::Infallible| match e {};
        let body = match self {
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
                let (cancel, progress) = (cancel.clone(), progress.clone());
                let begin = move |body| {
                    let watch = Watch::new(cancel.clone(), patience.idle, None);
                    let pace = Pace::new((!patience.unhurried).then_some(patience.floor));
                    Upload::new(body, watch, pace, progress.clone())
                };
                let body = body.take()?;
                if let Some(wait) = wait {
                    let gate = Gate::new(body);
                    *self = Self::Waiting(gate.clone());
                    let held =
                        Held::new(gate.clone(), Box::new(begin), wait.patience, wait.version);
                    return Some((held.boxed_unsync(), Some(gate)));
                }
                Some(begin(body).boxed_unsync())
            }
            Self::Waiting(_) => None,
        };
        Some((body?, None))
    }
}

/// Reads a small body whole. Whether it comes in pieces of a byte or stays away: `idle` and the floor end both.
async fn whole(body: &mut Incoming, length: u64, patience: Patience) -> Result<BytesMut, Refusal> {
    let mut bytes = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
    let mut meter = FloorMeter::new(patience.floor);
    let mut silent_since = Instant::now();
    loop {
        let waits_since = Instant::now();
        let silence_left = patience.idle.saturating_sub(silent_since.elapsed());
        let next = tokio::time::timeout(silence_left.min(meter.left()), body.frame()).await;
        let waited = waits_since.elapsed();
        let Ok(next) = next else {
            if !meter.came(waited, 0) || silent_since.elapsed() >= patience.idle {
                return Err(Code::RequestTimeout.into());
            }
            continue;
        };
        let Some(frame) = next else {
            return Ok(bytes);
        };
        let data = frame.map_err(|_| Code::BadRequest)?.into_data();
        let data = data.unwrap_or_default();
        if !meter.came(waited, data.len()) {
            return Err(Code::RequestTimeout.into());
        }
        bytes.extend_from_slice(&data);
        silent_since = Instant::now();
    }
}
