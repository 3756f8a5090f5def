//! Logs on standard error: for people on a terminal, JSON elsewhere. Messages are fixed texts; values are fields.
//!
//! Where a proxy runs in this process, a thread of its own writes them: whoever reads our standard error may stop, and the
//! request that has something to say must not stop with them. What finds no room is counted, and the count is written
//! when there is room again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use super::args::{Args, Verb};
use super::out;
use crate::config;

/// Lines that may wait to be written, and the longest of them.
const WAITING: usize = 1024;
const LINE_MAX: usize = 16 * 1024;
/// How long the end waits for the last lines.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What was set up; to be ended, or the last lines may be missing.
pub(super) struct Log(Option<SyncSender<Entry>>);

enum Entry {
    Line(Vec<u8>),
    /// Answered when everything before it was written.
    End(SyncSender<()>),
}

/// Starts logging. `--log` wins over the environment; `run` and `demo` are quiet unless asked.
pub(super) fn start(args: &Args) -> Log {
    let quiet = !matches!(args.verb, Verb::Serve);
    let default = if quiet { "warn" } else { "info" };
    let wanted = args
        .log
        .clone()
        .or_else(|| config::environment().log_filter());
    let filter = wanted
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new(default));
    let for_people = out::person_reads() && !args.json;
    let proxy = matches!(args.verb, Verb::Run(_) | Verb::Serve);
    let (writer, log) = match proxy.then(|| behind_a_thread(for_people)).flatten() {
        Some(queue) => {
            let log = Log(Some(queue.lines.clone()));
            (BoxMakeWriter::new(move || queue.clone()), log)
        }
        None => (BoxMakeWriter::new(io::stderr), Log(None)),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    let started = if for_people {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    if started.is_err() {
        out::say("tokenward: logging is set up already");
    }
    log
}

impl Log {
    /// Waits for the last lines, for a moment: nobody may be reading.
    pub(super) fn end(self) {
        let (told, written) = sync_channel(1);
        let asked = self.0.map(|lines| lines.try_send(Entry::End(told)));
        if matches!(asked, Some(Ok(()))) {
            // Whether they were written in time or not: this is the end.
            let _written = written.recv_timeout(LAST_WORDS);
        }
    }
}

/// Where lines are put; each write is a whole one.
#[derive(Clone)]
struct Queue {
    lines: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
}

impl Write for Queue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let short = line.len() <= LINE_MAX;
        if !short || self.lines.try_send(Entry::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `None`: the system has no thread for it.
fn behind_a_thread(for_people: bool) -> Option<Queue> {
    let (lines, waiting) = sync_channel(WAITING);
    let lost = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&lost);
    let thread = thread::Builder::new().name("log".into());
    let started = thread.spawn(move || write_all(&waiting, &counted, for_people));
    started.is_ok().then_some(Queue { lines, lost })
}

fn write_all(waiting: &Receiver<Entry>, lost: &AtomicU64, for_people: bool) {
    for entry in waiting {
        let mut stderr = io::stderr();
        // Nobody can be told that nobody listens.
        let _written = match entry {
            Entry::Line(line) => {
                let missing = lost.swap(0, Ordering::Relaxed);
                if missing > 0 {
                    let _noted = stderr.write_all(note(missing, for_people).as_bytes());
                }
                stderr.write_all(&line)
            }
            Entry::End(told) => {
                // Whoever asked may have gone.
                let _heard = told.try_send(());
                Ok(())
            }
        };
    }
}

fn note(missing: u64, for_people: bool) -> String {
    let message = "log lines found no room and are lost";
    if for_people {
        format!("WARN {message} lines={missing}\n")
    } else {
        format!(
            "{}\n",
            json!({"level": "WARN", "message": message, "lines": missing})
        )
    }
}
