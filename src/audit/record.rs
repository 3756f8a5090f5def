//! The handle that rooms hold, and the record of one request.

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{self, OwnedPermit, Sender};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::calm::{self, Calm};
use super::chain::Chain;
use super::sink::{AuditError, Outlet, Settings, WhenFull, outlet};
use super::tail::Tail;
use super::writer::{self, Shared, Writer};
use super::{Event, RequestFacts, Verdict};
use crate::vocab::variant::{Variant, broken};
use crate::vocab::{Clock, Code, RequestId, WallTime};

/// Bounds of the queue's length, whatever the configuration says.
const CAPACITY_MAX: usize = 1 << 20;

/// Takes records and events. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    queue: Sender<Entry>,
    /// Behind the queue: whoever goes last rings when its hold on the queue is gone.
    shared: Arc<Ringing>,
    when_full: WhenFull,
    clock: Clock,
    /// Held for the look at one number, never while a line is written.
    calm: Arc<Mutex<Calm>>,
}

/// There is no place for a line, or the sink takes none: the request must not use a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no room for the audit line")]
pub struct AuditUnavailable;

impl AuditUnavailable {
    /// What the agent is told.
    #[must_use]
    pub fn code(self) -> Code {
        Code::AuditUnavailable
    }
}

impl Audit {
    /// Opens the sink and starts the thread that writes.
    ///
    /// # Errors
    /// [`AuditError`] where the sink cannot be opened or its end is not an audit line of ours.
    pub fn start(settings: Settings, clock: Clock) -> Result<(Self, Writer), AuditError> {
        let outlet = outlet(&settings.sink)?;
        Self::with_outlet(outlet, &settings, clock, None)
    }

    pub(super) fn with_outlet(
        outlet: Box<dyn Outlet>,
        settings: &Settings,
        clock: Clock,
        retry: Option<Duration>,
    ) -> Result<(Self, Writer), AuditError> {
        let (queue, entries) = mpsc::channel(settings.capacity.clamp(1, CAPACITY_MAX));
        let shared = Arc::new(Shared::default());
        let writer = writer::start(entries, outlet, Arc::clone(&shared), clock.clone(), retry)?;
        let audit = Self {
            queue,
            shared: Arc::new(Ringing(shared)),
            when_full: settings.when_full,
            clock,
            calm: Arc::default(),
        };
        Ok((audit, writer))
    }

    /// Opens the record of a request and reserves the place of its line now: behind this call a credential may be
    /// used, for the line can no longer be refused its place.
    ///
    /// # Errors
    /// [`AuditUnavailable`] where there is no place or the sink takes no lines, unless that is only to be counted.
    pub fn open(&self, id: RequestId) -> Result<Record, AuditUnavailable> {
        let refuse = self.when_full == WhenFull::Refuse;
        if refuse && self.failed() {
            return Err(AuditUnavailable);
        }
        let place = self.queue.clone().try_reserve_owned().ok();
        if refuse && place.is_none() {
            return Err(AuditUnavailable);
        }
        Ok(Record {
            id,
            facts: Box::default(),
            place,
            shared: Arc::clone(&self.shared),
            clock: self.clock.clone(),
        })
    }

    /// Writes an event. Never waits: one that finds no place is counted. Of what anybody can cause (failed
    /// authentication), ten lines a minute are written for each party; how many were not, is said with the next one.
    pub fn event(&self, event: Event) {
        if let Some(about) = calm::about(&event) {
            let mut calm = self.calm.lock().unwrap_or_else(PoisonError::into_inner);
            let (admitted, held) = calm.admit(self.clock.now(), &about);
            drop(calm);
            if let Some(count) = held {
                let (event, who, of) = about;
                let about = if of.is_empty() {
                    who
                } else {
                    format!("{who} {of}")
                };
                self.write(Event::Suppressed {
                    event,
                    about,
                    count,
                });
            }
            if !admitted {
                return;
            }
        }
        self.write(event);
    }

    fn write(&self, event: Event) {
        let entry = Entry::Event(self.clock.wall(), Box::new(event));
        if self.queue.try_send(entry).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::AcqRel);
        }
        self.shared.ring();
    }

    /// Waits until every line that came before this call is written (not synced: it outlives the process, and a power cut
    /// perhaps not). Not longer than `most`, and not at all where the queue is full.
    pub async fn written(&self, most: Duration) {
        let (done, written) = oneshot::channel();
        if self.queue.try_send(Entry::Mark(done)).is_ok() {
            self.shared.ring();
            // An error means that the thread is gone; then nothing more will be written.
            drop(timeout(most, written).await);
        }
    }

    /// Wakes the audit thread for the lines of requests, many at a time. To be run on the runtime that carries requests,
    /// for as long as that lives; without it each line wakes the thread.
    pub fn herald(&self) -> impl Future<Output = ()> + Send + use<> {
        writer::herald(Arc::clone(&self.shared.0))
    }

    /// Follows the lines that are written from now on. `None`: too many do.
    #[must_use]
    pub fn follow(&self) -> Option<Tail> {
        self.shared.followers.enter()
    }

    /// How many lines were never written. Noted in the file as well, once it takes lines again.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Acquire)
    }

    /// Whether the sink takes no lines at the moment.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit")
            .field("failed", &self.failed())
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
    }
}

/// The record of one request. Its line is written when it is dropped, and only then: also when the agent vanishes,
/// the task is cancelled or panics. Whoever holds it last decides when a request has ended.
pub struct Record {
    id: RequestId,
    facts: Box<RequestFacts>,
    /// None where lines are only counted and there was no room.
    place: Option<OwnedPermit<Entry>>,
    shared: Arc<Ringing>,
    clock: Clock,
}

impl Record {
    /// The request's name.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// What is known of the request.
    pub fn facts(&mut self) -> &mut RequestFacts {
        &mut self.facts
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if broken(Variant::AuditGap) && self.facts.decision == Verdict::Refused {
            return;
        }
        let Some(place) = self.place.take() else {
            self.shared.dropped.fetch_add(1, Ordering::AcqRel);
            return;
        };
        let mut facts = std::mem::take(&mut self.facts);
        facts.bound();
        let queue = place.send(Entry::Request(self.clock.wall(), self.id, facts));
        drop(queue);
        self.shared.herald();
    }
}

/// What all handles and records hold: when the last of them goes, the thread has nothing to wait for.
struct Ringing(Arc<Shared>);

impl Deref for Ringing {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Ringing {
    fn drop(&mut self) {
        self.ring();
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({})", self.id)
    }
}

/// A line on its way to the audit thread, which does the rest of the work.
pub(super) enum Entry {
    Event(WallTime, Box<Event>),
    Request(WallTime, RequestId, Box<RequestFacts>),
    /// No line: somebody waits for those before it.
    Mark(oneshot::Sender<()>),
}

impl Entry {
    /// Puts its line behind the text, or gives back who waits for that.
    pub(super) fn seal(self, chain: &mut Chain, text: &mut String) -> Option<oneshot::Sender<()>> {
        let (time, name, members) = match self {
            Self::Event(time, event) => (time, event.name(), event.members()),
            Self::Request(time, id, facts) => (time, "request", facts.members(id)),
            Self::Mark(done) => return Some(done),
        };
        chain.seal(text, time, name, &members);
        None
    }
}
