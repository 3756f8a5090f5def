//! Logs on standard error: for people on a terminal, JSON elsewhere. Messages are fixed texts; values are fields.
//!
//! Where a proxy runs in this process, a thread of its own writes them: whoever reads our standard error may stop, and the
//! request that has something to say must not stop with them. What finds no room is counted, and the count is written
//! when there is room again.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
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
/// How long the end waits for the last lines, and how often it looks for room.
const LAST_WORDS: Duration = Duration::from_secs(1);
const LAST_LOOK: Duration = Duration::from_millis(5);

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
    let proxy = matches!(args.verb, Verb::Run { .. } | Verb::Serve);
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
        let Some(lines) = self.0 else { return };
        let (told, written) = sync_channel(1);
        let (mut end, mut left) = (Entry::End(told), LAST_WORDS);
        while let Err(TrySendError::Full(again)) = lines.try_send(end) {
            if left.is_zero() {
                return;
            }
            end = again;
            left = left.saturating_sub(LAST_LOOK);
            thread::sleep(LAST_LOOK);
        }
        // Whether they were written in time or not: this is the end.
        let _written = written.recv_timeout(left);
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
    let started =
        thread.spawn(move || write_all(&waiting, &counted, for_people, &mut io::stderr()));
    started.is_ok().then_some(Queue { lines, lost })
}

fn write_all(
    waiting: &Receiver<Entry>,
    lost: &AtomicU64,
    for_people: bool,
    place: &mut impl Write,
) {
    for entry in waiting {
        let missing = lost.swap(0, Ordering::Relaxed);
        if missing > 0 {
            // Nobody can be told that nobody listens.
            let _noted = place.write_all(note(missing, for_people).as_bytes());
        }
        match entry {
            Entry::Line(line) => {
                let _written = place.write_all(&line);
            }
            Entry::End(told) => {
                // Whoever asked may have gone.
                let _heard = told.try_send(());
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What a log with this much room in its queue writes. The last line is longer than a line may be.
    fn written(room: usize) -> String {
        let (lines, waiting) = sync_channel(room);
        let lost = Arc::<AtomicU64>::default();
        let mut queue = Queue {
            lines: lines.clone(),
            lost: Arc::clone(&lost),
        };
        queue.write_all(b"first\n").unwrap();
        queue.write_all(b"second\n").unwrap();
        let long = queue.write(&vec![b'x'; LINE_MAX + 1]).unwrap();
        assert_eq!(long, LINE_MAX + 1);
        drop(queue);
        let writer = thread::spawn(move || {
            let mut place = Vec::new();
            // The end has to wait for room where there is none.
            thread::sleep(2 * LAST_LOOK);
            write_all(&waiting, &lost, true, &mut place);
            String::from_utf8(place).unwrap()
        });
        Log(Some(lines)).end();
        writer.join().unwrap()
    }

    #[test]
    fn what_is_lost_is_counted_to_the_end_and_the_end_waits_for_room() {
        let note = |lines| format!("WARN log lines found no room and are lost lines={lines}\n");
        assert_eq!(written(8), format!("{}first\nsecond\n", note(1)));
        assert_eq!(written(1), format!("{}first\n", note(2)));
    }

    #[test]
    fn a_loss_is_told_though_no_line_follows() {
        let (lines, waiting) = sync_channel(1);
        let lost = Arc::new(AtomicU64::new(3));
        let (told, heard) = sync_channel(1);
        lines.send(Entry::End(told)).unwrap();
        drop(lines);
        let mut place = Vec::new();
        write_all(&waiting, &lost, false, &mut place);
        heard.recv().unwrap();
        let line: serde_json::Value = serde_json::from_slice(&place).unwrap();
        assert_eq!(line["lines"], 3);
    }
}
