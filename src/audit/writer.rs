//! The audit thread: the only one that touches the sink, so that a full disk or a stopped reader of our standard
//! output holds up this thread and no request.
//!
//! It is woken by a bell. Rung for each line, it would take the processor from the request whose answer is just going out, and
//! on a busy machine from many; so requests leave it to the [`Herald`], a task of their own runtime that rings once for
//! all lines of one round. Nothing waits for time to pass.
//!
//! Numbers and hashes are given here, in the order of writing. After an error nothing is thrown away: the batch stays
//! where it was, to the byte, and is tried again each second; what comes meanwhile waits in the bounded queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc as std_mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::chain::{Chain, Torn};
use super::line::Members;
use super::record::Entry;
use super::sink::{AuditError, Outlet, Resume};
use super::tail::Followers;
use crate::vocab::Clock;

/// Most lines that are written in one go.
const BATCH: usize = 256;
/// Most rounds of the runtime that one wake serves.
const ROUNDS: usize = 8;
/// Room for an ordinary line.
const LINE_ROOM: usize = 1024;
/// Room that is kept from one batch to the next.
const BATCH_ROOM: usize = 16 * LINE_ROOM;
/// Between two attempts after an error.
const RETRY: Duration = Duration::from_secs(1);
/// Between two attempts while another process writes, or while a pipe is full.
const BUSY: Duration = Duration::from_millis(5);
/// How long the end may take.
const DRAIN: Duration = Duration::from_secs(2);

/// What handles and the thread know of each other.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The sink does not take lines at the moment.
    pub(super) failed: AtomicBool,
    /// Lines that nobody will read.
    pub(super) dropped: AtomicU64,
    /// Who is told of what was written.
    pub(super) followers: Followers,
    /// Wakes the thread; rung behind what was put into the queue.
    bell: Notify,
    /// Wakes the herald.
    lines: Notify,
    /// Whether a herald lives.
    heralded: AtomicBool,
    /// Lines of requests so far, for the herald to see whether more are coming.
    told: AtomicU64,
}

impl Shared {
    /// There is something to write, or nobody left who could send it: the thread looks at once.
    pub(super) fn ring(&self) {
        self.bell.notify_one();
    }

    /// A request's line is in the queue: the thread looks as soon as those tasks have had their turn that are ready now.
    pub(super) fn herald(&self) {
        if self.heralded.load(Ordering::Acquire) {
            self.told.fetch_add(1, Ordering::Relaxed);
            self.lines.notify_one();
        } else {
            self.ring();
        }
    }
}

/// Rings for the audit thread, on behalf of the runtime that it is polled on. While it lives, lines of requests are left
/// to it; when it is dropped, they ring for themselves.
struct Herald(Arc<Shared>);

impl Drop for Herald {
    fn drop(&mut self) {
        self.0.heralded.store(false, Ordering::Release);
        self.0.ring();
    }
}

/// Rings once for all lines that come while tasks have their turn. Runs for as long as it is polled.
pub(super) async fn herald(shared: Arc<Shared>) {
    shared.heralded.store(true, Ordering::Release);
    let herald = Herald(shared);
    loop {
        herald.0.lines.notified().await;
        // Behind whatever is ready: first the answers go out, and those who finish now are written with the others. A
        // runtime that is never idle comes back to us after some dozen tasks all the same. As long as each round brings
        // lines of its own, the next is looked at too; one that brings none is the last, so nobody waits for time to pass.
        let mut told = 0;
        for _ in 0..ROUNDS {
            let so_far = herald.0.told.load(Ordering::Relaxed);
            if so_far == told {
                break;
            }
            told = so_far;
            tokio::task::yield_now().await;
        }
        herald.0.ring();
    }
}

/// The audit thread. Dropped without [`Writer::finish`] it ends by itself, and nobody learns whether all was written.
#[derive(Debug)]
pub struct Writer {
    stop: oneshot::Sender<()>,
    done: std_mpsc::Receiver<Result<(), AuditError>>,
}

impl Writer {
    /// Writes what waits, waits briefly for requests that are still under way, and ends. Blocks for up to three
    /// seconds: call it when the runtimes have stopped, or where blocking is allowed.
    ///
    /// # Errors
    /// [`AuditError::Unwritten`] where lines are lost.
    pub fn finish(self) -> Result<(), AuditError> {
        // The thread may have ended already, its queue being closed: then there is nobody to tell.
        let _told = self.stop.send(());
        // Not a join: a write to a pipe that nobody reads never returns, and must not keep us from exiting.
        self.done
            .recv_timeout(DRAIN + Duration::from_secs(1))
            .unwrap_or(Err(AuditError::Unwritten))
    }
}

/// Starts the thread.
pub(super) fn start(
    queue: mpsc::Receiver<Entry>,
    outlet: Box<dyn Outlet>,
    shared: Arc<Shared>,
    clock: Clock,
    retry: Option<Duration>,
) -> Result<Writer, AuditError> {
    let kind = |e: io::Error| AuditError::Thread(e.kind());
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(kind)?;
    let (stop, stopped) = oneshot::channel();
    let (report, done) = std_mpsc::channel();
    let pen = Pen {
        queue,
        outlet,
        shared,
        clock,
        retry: retry.unwrap_or(RETRY),
        chain: Chain::start(),
        waiting: Vec::with_capacity(BATCH),
        batch: Vec::new(),
        written: 0,
        marks: Vec::new(),
        noted: 0,
    };
    thread::Builder::new()
        .name("audit".to_owned())
        .spawn(move || {
            let result = work(&runtime, pen, stopped);
            // Nobody listens where the writer was dropped.
            let _reported = report.send(result);
        })
        .map_err(kind)?;
    Ok(Writer { stop, done })
}

fn work(
    runtime: &Runtime,
    mut pen: Pen,
    mut stopped: oneshot::Receiver<()>,
) -> Result<(), AuditError> {
    runtime.block_on(async {
        pen.until(&mut stopped).await;
        pen.drain().await
    })
}

struct Pen {
    queue: mpsc::Receiver<Entry>,
    outlet: Box<dyn Outlet>,
    shared: Arc<Shared>,
    clock: Clock,
    retry: Duration,
    chain: Chain,
    /// Taken off the queue, without number yet.
    waiting: Vec<Entry>,
    /// Numbered and on its way out; written up to `written`.
    batch: Vec<u8>,
    written: usize,
    /// Who waits for this batch; fewer than it has entries.
    marks: Vec<oneshot::Sender<()>>,
    /// How many dropped lines the file knows of.
    noted: u64,
}

impl Pen {
    /// Writes until it is told to stop or nobody is left who could send.
    async fn until(&mut self, stopped: &mut oneshot::Receiver<()>) {
        let shared = Arc::clone(&self.shared);
        loop {
            let more = self.take();
            if !self.waiting.is_empty() {
                tokio::select! {
                    biased;
                    _ = &mut *stopped => return,
                    () = self.flush() => continue,
                }
            }
            if !more {
                return;
            }
            tokio::select! {
                biased;
                _ = &mut *stopped => return,
                () = shared.bell.notified() => {}
            }
        }
    }

    /// Takes a batch off the queue, without asking to be woken by what comes later. `false`: nothing comes any more.
    fn take(&mut self) -> bool {
        while self.waiting.len() < BATCH {
            match self.queue.try_recv() {
                Ok(entry) => self.waiting.push(entry),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    /// Takes no new lines, but those whose place is reserved.
    async fn drain(&mut self) -> Result<(), AuditError> {
        self.queue.close();
        let all = timeout(DRAIN, async {
            self.flush().await;
            while self.queue.recv_many(&mut self.waiting, BATCH).await > 0 {
                self.flush().await;
            }
        });
        if all.await.is_err() {
            self.shared.failed.store(true, Ordering::Release);
            return Err(AuditError::Unwritten);
        }
        self.outlet.sync().map_err(|_| AuditError::Unwritten)
    }

    /// Writes all that waits, however often it must be tried. May be cancelled between attempts: nothing is lost.
    async fn flush(&mut self) {
        while let Err(error) = self.attempt() {
            let pause = if error.kind() == io::ErrorKind::WouldBlock {
                BUSY
            } else {
                // Once for each failure, however often it is tried again.
                if !self.shared.failed.swap(true, Ordering::AcqRel) {
                    tracing::error!(
                        error = %error.kind(),
                        "audit lines cannot be written; it is tried again until they are"
                    );
                }
                self.retry
            };
            sleep(pause).await;
        }
        if self.shared.failed.load(Ordering::Acquire) {
            self.shared.failed.store(false, Ordering::Release);
            tracing::info!("audit lines are written again");
        }
    }

    fn attempt(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            if self.waiting.is_empty() {
                return Ok(());
            }
            let news = self.outlet.acquire()?;
            self.compose(news);
        }
        while let Some(rest) = self.batch.get(self.written..).filter(|r| !r.is_empty()) {
            match self.outlet.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.shared.followers.tell(&self.batch);
        self.batch.clear();
        self.batch.shrink_to(BATCH_ROOM);
        self.written = 0;
        self.outlet.release();
        for mark in self.marks.drain(..) {
            // Whoever waited may have gone.
            let _told = mark.send(());
        }
        Ok(())
    }

    /// Turns what waits into sealed lines, behind what the sink says is there.
    fn compose(&mut self, news: Option<Resume>) {
        // What was written left its room behind.
        let mut text = String::from_utf8(std::mem::take(&mut self.batch)).unwrap_or_default();
        text.reserve(LINE_ROOM * self.waiting.len());
        let now = self.clock.wall();
        if let Some(news) = news {
            if news.line_end {
                text.push('\n');
            }
            if let Some(chain) = news.chain {
                self.chain = chain;
            }
            if let Some(torn) = news.torn {
                self.chain
                    .seal(&mut text, now, Torn::EVENT, &torn.members());
            }
        }
        let dropped = self.shared.dropped.load(Ordering::Acquire);
        if dropped > self.noted {
            let mut members = Members::default();
            members.number("lost", dropped - self.noted);
            self.chain.seal(&mut text, now, "audit.lost", &members);
            self.noted = dropped;
        }
        for entry in self.waiting.drain(..) {
            self.marks.extend(entry.seal(&mut self.chain, &mut text));
        }
        self.batch = text.into_bytes();
    }
}

#[cfg(test)]
mod tests;
