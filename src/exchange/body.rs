//! Bodies on their way through: watched for silence, age and cancellation, counted, and never collected.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::floor::{BodyFloor, FloorMeter};
use super::guard;
use super::record::Line;
use super::shield::Searched;
use super::taking::Owed;
use crate::credential::{self, BodyError};
use crate::upstream::ReplyBody;

/// Ends a body that falls silent, grows too old, or whose lease is revoked.
pub(super) struct Watch {
    cancel: CancellationToken,
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    idle: Duration,
    silence: Option<Pin<Box<Sleep>>>,
    age: Option<Pin<Box<Sleep>>>,
}

impl Watch {
    pub(super) fn new(cancel: CancellationToken, idle: Duration, age: Option<Duration>) -> Self {
        let age = age.map(|span| Box::pin(sleep(span)));
        Self {
            cancel,
            cancelled: None,
            idle,
            silence: None,
            age,
        }
    }

    /// A frame moved: silence begins anew.
    pub(super) fn moved(&mut self) {
        if let Some(timer) = &mut self.silence {
            timer.as_mut().reset(Instant::now() + self.idle);
        }
    }

    /// Asked only while there is nothing to move, so a body that flows costs no timer.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Stop> {
        let cancelled = self
            .cancelled
            .get_or_insert_with(|| Box::pin(self.cancel.clone().cancelled_owned()));
        if cancelled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Stop::Cancelled);
        }
        let silence = self
            .silence
            .get_or_insert_with(|| Box::pin(sleep(self.idle)));
        if silence.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Stop::Silent);
        }
        match &mut self.age {
            Some(age) => age.as_mut().poll(cx).map(|()| Stop::Cancelled),
            None => Poll::Pending,
        }
    }

    /// Waits for a reason to end.
    pub(super) async fn end(&mut self) -> Stop {
        std::future::poll_fn(|cx| self.poll_end(cx)).await
    }

    /// Whether an exchange that never pauses must end all the same.
    fn ended(&self) -> bool {
        self.cancel.is_cancelled() || self.age.as_ref().is_some_and(|age| age.is_elapsed())
    }
}

/// Why a watch ended something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    Silent,
}

/// What the sender can see of an upload that is under way.
#[derive(Default)]
pub(super) struct Progress {
    /// Bytes that the agent has sent.
    pub(super) bytes: AtomicU64,
    /// Frames moved; a change means that the upstream is taking the body.
    pub(super) frames: AtomicU64,
    /// Credentials that interim answers held.
    pub(super) reflected: AtomicUsize,
    /// The body waits for the agent, not for the upstream.
    pub(super) waits_for_agent: AtomicBool,
}

/// Holds an upload to its floor: measures how long it waits for the agent.
pub(super) struct Pace {
    /// `None`: it may be as slow as it likes.
    meter: Option<FloorMeter>,
    waits_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(super) fn new(floor: Option<BodyFloor>) -> Self {
        Self {
            meter: floor.map(FloorMeter::new),
            waits_since: None,
            timer: None,
        }
    }

    /// Nothing is there, and the upstream would take it. Ready where the agent was too slow.
    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(meter) = &mut self.meter else {
            return Poll::Pending;
        };
        let mut begun = *self.waits_since.get_or_insert_with(|| {
            let now = Instant::now();
            if let Some(timer) = &mut self.timer {
                timer.as_mut().reset(now + meter.left());
            }
            now
        });
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep(meter.left())));
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if !meter.came(now - begun, 0) {
                return Poll::Ready(());
            }
            begun = now;
            self.waits_since = Some(now);
            timer.as_mut().reset(now + meter.left());
        }
        Poll::Pending
    }

    /// Bytes came. `false`: too few for the time that was waited.
    fn came(&mut self, bytes: usize) -> bool {
        let waited = self
            .waits_since
            .take()
            .map_or(Duration::ZERO, |t| t.elapsed());
        let meter = self.meter.as_mut();
        meter.is_none_or(|meter| meter.came(waited, bytes))
    }
}

/// The agent's body on its way to the upstream.
pub(super) struct Upload {
    inner: Incoming,
    watch: Watch,
    pace: Pace,
    progress: Arc<Progress>,
}

impl Upload {
    pub(super) fn new(inner: Incoming, watch: Watch, pace: Pace, progress: Arc<Progress>) -> Self {
        Self {
            inner,
            watch,
            pace,
            progress,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if this.watch.ended() {
            return Poll::Ready(Some(Err(BodyError::Cancelled)));
        }
        let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
            this.progress.waits_for_agent.store(true, Ordering::Relaxed);
            if this.pace.poll_waiting(cx).is_ready() {
                return Poll::Ready(Some(Err(BodyError::Stalled)));
            }
            return match ready!(this.watch.poll_end(cx)) {
                Stop::Cancelled => Poll::Ready(Some(Err(BodyError::Cancelled))),
                Stop::Silent => Poll::Ready(Some(Err(BodyError::Stalled))),
            };
        };
        this.watch.moved();
        this.progress
            .waits_for_agent
            .store(false, Ordering::Relaxed);
        this.progress.frames.fetch_add(1, Ordering::Relaxed);
        let data = frame.as_ref().and_then(|f| f.as_ref().ok()?.data_ref());
        if !this.pace.came(data.map_or(0, Bytes::len)) && data.is_some() {
            return Poll::Ready(Some(Err(BodyError::Stalled)));
        }
        Poll::Ready(match frame {
            Some(Ok(frame)) => Some(Ok(outgoing(frame, &this.progress))),
            Some(Err(_)) => Some(Err(BodyError::Agent)),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Counts a frame; of an agent's trailers little remains.
fn outgoing(frame: Frame<Bytes>, progress: &Progress) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(trailers) => Frame::trailers(credential::strip_trailers(trailers)),
        Err(frame) => {
            let length = frame.data_ref().map_or(0, Bytes::len);
            progress.bytes.fetch_add(length as u64, Ordering::Relaxed);
            frame
        }
    }
}

/// A body on its way to the agent: an answer of our own, or the upstream's after the guard.
pub struct AgentBody(Kind);

enum Kind {
    Whole(Option<Bytes>, Option<Owed>),
    Stream(Box<Download>),
}

/// How long an agent may take with an answer of our own.
const OWN_ANSWER: Duration = Duration::from_secs(60);

/// An upstream's body that passed the guard.
pub(super) struct Flow {
    pub(super) inner: ReplyBody,
    pub(super) watch: Watch,
    pub(super) credentialed: bool,
    /// `None`: nothing is looked for in it.
    pub(super) searched: Option<Box<Searched>>,
}

/// A flow with its audit line, which is written when the body ends or is dropped.
struct Download {
    flow: Flow,
    line: Line,
    owed: Option<Owed>,
}

/// A piece of an answer on its way to the agent. Its exchange keeps its place among those of its agent until the last
/// piece was written: an agent that lets answers pile up in our send buffers has no more of them than places.
struct Piece {
    bytes: Bytes,
    _place: Arc<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AgentBody {
    /// No bytes.
    #[must_use]
    pub fn empty() -> Self {
        Self(Kind::Whole(None, None))
    }

    /// These bytes.
    #[must_use]
    pub fn whole(bytes: Bytes) -> Self {
        Self(Kind::Whole(Some(bytes), Some(Owed::within(OWN_ANSWER))))
    }

    pub(super) fn stream(flow: Flow, mut line: Line) -> Self {
        // A body that was never there is not asked for its end: HEAD, 204, 304.
        let mut owed = None;
        if flow.is_end_stream() {
            line.completed();
        } else {
            owed = Some(Owed::within(flow.watch.idle));
        }
        Self(Kind::Stream(Box::new(Download { flow, line, owed })))
    }

    #[cfg(test)]
    pub(super) async fn text(self) -> String {
        let Kind::Whole(bytes, _) = self.0 else {
            panic!("a streamed body")
        };
        String::from_utf8(bytes.unwrap_or_default().to_vec()).unwrap()
    }
}

impl Body for AgentBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Whole(bytes, owed) => {
                *owed = None;
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            Kind::Stream(download) => download.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes, _) => bytes.is_none(),
            Kind::Stream(download) => download.flow.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes, _) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Kind::Stream(download) => download.flow.size_hint(),
        }
    }
}

impl Download {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { flow, line, owed } = self;
        if flow.watch.ended() {
            line.cut();
            return Poll::Ready(Some(Err(BodyError::Cancelled)));
        }
        let Poll::Ready(frame) = flow.poll(line, cx) else {
            if let Some(owed) = owed {
                owed.taken();
            }
            ready!(flow.watch.poll_end(cx));
            line.cut();
            return Poll::Ready(Some(Err(BodyError::Cancelled)));
        };
        flow.watch.moved();
        let frame = frame.map(|frame| frame.map(|frame| flow.passed(frame, line)));
        if let Some(owed) = owed {
            owed.given();
        }
        match &frame {
            Some(Err(_)) => line.cut(),
            Some(Ok(_)) if !flow.is_end_stream() => {}
            Some(Ok(_)) | None => line.completed(),
        }
        Poll::Ready(frame)
    }
}

impl Flow {
    fn poll(
        &mut self,
        line: &mut Line,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.searched {
            Some(searched) => searched.poll(&mut self.inner, line, cx),
            None => Pin::new(&mut self.inner).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        let searched = self.searched.as_ref();
        searched.map_or_else(
            || self.inner.is_end_stream(),
            |searched| searched.is_end_stream(&self.inner),
        )
    }

    fn size_hint(&self) -> SizeHint {
        let searched = self.searched.as_ref();
        searched.map_or_else(
            || self.inner.size_hint(),
            |searched| searched.size_hint(&self.inner),
        )
    }

    fn passed(&self, frame: Frame<Bytes>, line: &mut Line) -> Frame<Bytes> {
        match frame.into_trailers() {
            Ok(mut trailers) => {
                guard::clean_trailers(&mut trailers, self.credentialed);
                Frame::trailers(trailers)
            }
            Err(frame) => {
                line.sent(frame.data_ref().map_or(0, Bytes::len));
                match line.place() {
                    Some(place) => frame.map_data(|bytes| {
                        let _place = place.clone();
                        Bytes::from_owner(Piece { bytes, _place })
                    }),
                    None => frame,
                }
            }
        }
    }
}
