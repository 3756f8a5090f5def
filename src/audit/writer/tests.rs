use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;

use super::*;
use crate::audit::{
    Audit, AuditUnavailable, Event, Settings, SinkSettings, Verdict, WhenFull, verify,
};
use crate::vocab::{AgentName, Generation, RequestId, ServiceName, WallTime};

const ID: [u8; 16] = [9; 16];

fn settings(sink: SinkSettings, capacity: usize, when_full: WhenFull) -> Settings {
    Settings {
        sink,
        capacity,
        when_full,
    }
}

fn at(path: &Path) -> Settings {
    settings(SinkSettings::File(path.to_owned()), 64, WhenFull::Refuse)
}

fn clock() -> Clock {
    Clock::manual(WallTime(1_700_000_000_000))
}

fn started() -> Event {
    Event::Started {
        version: "0.1.0",
        generation: Generation(1),
    }
}

fn id() -> RequestId {
    RequestId::from_random(ID)
}

/// Waits for a condition of the audit thread.
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        thread::sleep(Duration::from_millis(5));
    }
    panic!("never: {what}");
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn verified(path: &Path) -> crate::audit::Verified {
    verify(io::BufReader::new(fs::File::open(path).unwrap())).unwrap()
}

fn temporary() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    (dir, path)
}

/// A sink that does as it is told, byte by byte.
#[derive(Default)]
struct Script {
    text: Vec<u8>,
    /// What the next writes answer; afterwards everything is taken.
    answers: VecDeque<io::Result<usize>>,
    broken: bool,
    batches: usize,
}

#[derive(Clone, Default)]
struct Scripted(Arc<Mutex<Script>>);

impl Scripted {
    fn with<T>(&self, f: impl FnOnce(&mut Script) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    fn start(&self, capacity: usize, when_full: WhenFull) -> (Audit, Writer) {
        Audit::with_outlet(
            Box::new(self.clone()),
            &settings(SinkSettings::Stdout, capacity, when_full),
            clock(),
            Some(Duration::from_millis(10)),
        )
        .unwrap()
    }

    fn text(&self) -> Vec<u8> {
        self.with(|s| s.text.clone())
    }
}

impl Outlet for Scripted {
    fn acquire(&mut self) -> io::Result<Option<Resume>> {
        self.with(|s| {
            s.batches += 1;
            Ok(None)
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.with(|s| {
            if s.broken {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let count = s.answers.pop_front().unwrap_or(Ok(bytes.len()))?;
            let count = count.min(bytes.len());
            s.text.extend_from_slice(&bytes[..count]);
            Ok(count)
        })
    }

    fn release(&mut self) {}

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_record_is_one_line_written_when_it_is_dropped() {
    let (_dir, path) = temporary();
    let (audit, writer) = Audit::start(at(&path), clock()).unwrap();
    let mut record = audit.open(id()).unwrap();
    assert_eq!(record.id(), id());
    record.facts().agent = Some(AgentName::fallback());
    record.facts().decision = Verdict::Allowed;
    audit.event(started());
    eventually("the event's line", || {
        fs::read_to_string(&path)
            .unwrap()
            .contains("process.started")
    });
    assert_eq!(lines(&path).len(), 1, "the request has not ended yet");
    drop(record);
    drop(audit.open(id()).unwrap());
    audit.event(Event::Stopped);
    writer.finish().unwrap();
    let found = lines(&path);
    let events: Vec<_> = found.iter().map(|l| l["event"].as_str().unwrap()).collect();
    assert_eq!(
        events,
        ["process.started", "request", "request", "process.stopped"]
    );
    assert_eq!(found[1]["decision"], "allowed");
    assert_eq!(found[1]["agent"], "default");
    assert_eq!(found[1]["time"], "2023-11-14T22:13:20.000Z");
    assert_eq!(found[1]["request"], id().to_string());
    assert_eq!(found[2]["decision"], "abandoned");
    assert_eq!(verified(&path).lines, 4);
    assert_eq!(audit.dropped(), 0);
}

#[test]
fn a_panicking_request_still_has_its_line() {
    let sink = Scripted::default();
    let (audit, writer) = sink.start(4, WhenFull::Refuse);
    let record = audit.open(id()).unwrap();
    let died = thread::spawn(move || {
        let _held = record;
        std::panic::resume_unwind(Box::new("dead"));
    });
    assert!(died.join().is_err());
    writer.finish().unwrap();
    assert_eq!(verify(&sink.text()[..]).unwrap().lines, 1);
}

#[tokio::test]
async fn who_waits_for_a_line_finds_it_written() {
    let sink = Scripted::default();
    let (audit, writer) = sink.start(8, WhenFull::Refuse);
    for lines in 1..=20 {
        audit.event(started());
        audit.written(Duration::from_secs(10)).await;
        assert_eq!(verify(&sink.text()[..]).unwrap().lines, lines);
    }
    // Nothing is waited for that does not come.
    sink.with(|s| s.broken = true);
    audit.event(started());
    audit.written(Duration::from_millis(20)).await;
    assert_eq!(verify(&sink.text()[..]).unwrap().lines, 20);
    sink.with(|s| s.broken = false);
    writer.finish().unwrap();
    assert_eq!(verify(&sink.text()[..]).unwrap().lines, 21);
    audit.written(Duration::from_secs(10)).await;
}

#[test]
fn a_full_queue_refuses_or_counts() {
    let sink = Scripted::default();
    let (audit, writer) = sink.start(2, WhenFull::Refuse);
    let held = (audit.open(id()).unwrap(), audit.open(id()).unwrap());
    assert_eq!(audit.open(id()).unwrap_err(), AuditUnavailable);
    audit.event(Event::Stopped);
    assert_eq!(audit.dropped(), 1);
    drop(held);
    eventually("room again", || audit.open(id()).is_ok());
    writer.finish().unwrap();
    let text = String::from_utf8(sink.text()).unwrap();
    assert!(text.contains(r#""event":"audit.lost","lost":1"#), "{text}");
    verify(text.as_bytes()).unwrap();

    let (audit, writer) = sink.start(1, WhenFull::Count);
    let first = audit.open(id()).unwrap();
    drop(audit.open(id()).unwrap());
    assert_eq!(audit.dropped(), 1);
    drop(first);
    writer.finish().unwrap();
}

#[test]
fn a_failing_sink_refuses_loses_nothing_and_recovers() {
    let sink = Scripted::default();
    let (audit, writer) = sink.start(8, WhenFull::Refuse);
    let open = audit.open(id()).unwrap();
    sink.with(|s| {
        s.answers
            .extend([Ok(10), Err(io::ErrorKind::Interrupted.into()), Ok(1)]);
        s.answers.push_back(Err(io::ErrorKind::StorageFull.into()));
    });
    audit.event(started());
    eventually("half a line", || sink.text().len() == 11);
    sink.with(|s| s.broken = true);
    eventually("failure", || audit.failed());
    assert_eq!(audit.open(id()).unwrap_err(), AuditUnavailable);
    drop(open);
    sink.with(|s| s.broken = false);
    eventually("recovery", || !audit.failed());
    drop(audit.open(id()).unwrap());
    writer.finish().unwrap();
    assert_eq!(verify(&sink.text()[..]).unwrap().lines, 3);
    assert_eq!(audit.dropped(), 0);
}

#[test]
fn a_failing_sink_may_be_counted_instead() {
    let sink = Scripted::default();
    sink.with(|s| s.broken = true);
    let (audit, writer) = sink.start(2, WhenFull::Count);
    for _ in 0..600 {
        drop(audit.open(id()).unwrap());
    }
    eventually("failure", || audit.failed());
    assert!(audit.dropped() > 0);
    sink.with(|s| s.broken = false);
    eventually("recovery", || !audit.failed());
    audit.event(Event::Stopped);
    writer.finish().unwrap();
    let text = String::from_utf8(sink.text()).unwrap();
    // The loss may be told in several lines: each tells what was lost since the one before.
    let told = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let lost: u64 = told.filter_map(|line| line["lost"].as_u64()).sum();
    assert_eq!(lost, audit.dropped());
    verify(text.as_bytes()).unwrap();
}

#[test]
fn a_full_disk_is_a_failure() {
    let device = settings(SinkSettings::File("/dev/full".into()), 8, WhenFull::Refuse);
    let (audit, writer) = Audit::start(device, clock()).unwrap();
    assert!(!audit.failed());
    audit.event(Event::Stopped);
    eventually("failure", || audit.failed());
    assert!(audit.open(id()).is_err());
    assert_eq!(writer.finish(), Err(AuditError::Unwritten));
}

#[test]
fn a_busy_sink_is_no_failure() {
    let sink = Scripted::default();
    sink.with(|s| {
        s.answers
            .extend((0..3).map(|_| Err(io::ErrorKind::WouldBlock.into())));
    });
    let (audit, writer) = sink.start(4, WhenFull::Refuse);
    audit.event(Event::Stopped);
    eventually("the line", || !sink.text().is_empty());
    assert!(!audit.failed());
    writer.finish().unwrap();
}

#[test]
fn finish_does_not_wait_for_ever_for_an_open_request() {
    let sink = Scripted::default();
    let (audit, writer) = sink.start(4, WhenFull::Refuse);
    let stuck = audit.open(id()).unwrap();
    assert_eq!(writer.finish(), Err(AuditError::Unwritten));
    assert!(audit.open(id()).is_err(), "nobody writes any more");
    drop(stuck);
}

#[test]
fn many_lines_are_written_together() {
    let sink = Scripted::default();
    sink.with(|s| {
        s.answers
            .extend((0..20).map(|_| Err(io::ErrorKind::WouldBlock.into())));
    });
    let (audit, writer) = sink.start(1000, WhenFull::Refuse);
    for _ in 0..500 {
        drop(audit.open(id()).unwrap());
    }
    writer.finish().unwrap();
    assert_eq!(verify(&sink.text()[..]).unwrap().lines, 500);
    assert!(sink.with(|s| s.batches) < 50);
}

#[test]
fn the_file_is_private_and_never_a_link() {
    let (dir, path) = temporary();
    let (_audit, writer) = Audit::start(at(&path), clock()).unwrap();
    writer.finish().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600);

    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    Audit::start(at(&path), clock())
        .unwrap()
        .1
        .finish()
        .unwrap();
    assert_eq!(mode(&path), 0o644, "nobody else writes");

    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    let refused = |path: &Path| Audit::start(at(path), clock()).unwrap_err();
    assert_eq!(refused(&link), AuditError::Symlink);
    let dangling = dir.path().join("dangling");
    symlink(dir.path().join("target"), &dangling).unwrap();
    assert_eq!(refused(&dangling), AuditError::Symlink);
    assert!(!dir.path().join("target").exists());
    assert!(matches!(refused(dir.path()), AuditError::Open(_)));
    assert_eq!(
        refused(&dir.path().join("no/file")),
        AuditError::Open(io::ErrorKind::NotFound)
    );
}

#[test]
fn a_restart_continues_the_chain() {
    let (_dir, path) = temporary();
    for _ in 0..3 {
        let (audit, writer) = Audit::start(at(&path), clock()).unwrap();
        audit.event(started());
        audit.event(Event::Stopped);
        writer.finish().unwrap();
    }
    let verified = verified(&path);
    assert_eq!((verified.lines, verified.torn), (6, 0));
    assert_eq!(lines(&path)[5]["seq"], 6);
}

#[test]
fn what_a_crash_left_is_closed_and_noted() {
    let (_dir, path) = temporary();
    let once = || {
        let (audit, writer) = Audit::start(at(&path), clock()).unwrap();
        audit.event(Event::Stopped);
        writer.finish().unwrap();
    };
    once();
    let intact = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{intact}{{\"time\":\"2026")).unwrap();
    once();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(&intact), "nothing is overwritten");
    assert!(text.contains("\n{\"time\":\"2026\n"));
    assert!(text.contains(r#""event":"audit.torn","torn_bytes":13"#));
    assert_eq!(verified(&path).torn, 1);
    // A line that lacks only its end is no loss.
    fs::write(&path, text.trim_end()).unwrap();
    once();
    assert_eq!((verified(&path).lines, verified(&path).torn), (4, 1));
}

#[test]
fn an_edited_end_and_another_programs_file_are_not_continued() {
    let (_dir, path) = temporary();
    let (audit, writer) = Audit::start(at(&path), clock()).unwrap();
    audit.event(Event::Stopped);
    writer.finish().unwrap();
    let edited = fs::read_to_string(&path).unwrap().replace("2023", "2024");
    for text in [edited.as_str(), "root:x:0:0\n"] {
        fs::write(&path, text).unwrap();
        let error = Audit::start(at(&path), clock()).unwrap_err();
        assert_eq!(error, AuditError::Foreign);
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "left as it was");
    }
}

#[test]
fn several_processes_share_one_chain() {
    let (_dir, path) = temporary();
    let handles: Vec<_> = (0..3)
        .map(|_| Audit::start(at(&path), clock()).unwrap())
        .collect();
    thread::scope(|scope| {
        for (audit, _) in &handles {
            scope.spawn(|| {
                for _ in 0..100 {
                    eventually("room", || audit.open(id()).is_ok());
                }
            });
        }
    });
    let dropped: u64 = handles.iter().map(|(audit, _)| audit.dropped()).sum();
    for (_, writer) in handles {
        writer.finish().unwrap();
    }
    assert_eq!((verified(&path).lines, dropped), (300, 0));
}

#[test]
fn a_file_cut_under_us_shows_it() {
    let (_dir, path) = temporary();
    let (audit, writer) = Audit::start(at(&path), clock()).unwrap();
    audit.event(started());
    eventually("a line", || !fs::read(&path).unwrap().is_empty());
    eventually("no batch under way", || {
        thread::sleep(Duration::from_millis(20));
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(0)
            .is_ok()
    });
    audit.event(Event::Stopped);
    writer.finish().unwrap();
    let broken = verify(io::BufReader::new(fs::File::open(&path).unwrap())).unwrap_err();
    assert_eq!(broken.what, crate::audit::Damage::Beginning);
}

#[test]
fn a_hostile_request_forges_no_line() {
    let (_dir, path) = temporary();
    let (audit, writer) = Audit::start(at(&path), clock()).unwrap();
    let mut record = audit.open(id()).unwrap();
    record.facts().service = Some(ServiceName::new("items").unwrap());
    record.facts().path = "/a\"}\n{\"time\":\"\u{1b}[2J".repeat(1000);
    record.facts().method = "G\",\"decision\":\"allowed".to_owned();
    drop(record);
    writer.finish().unwrap();
    let text = fs::read(&path).unwrap();
    assert_eq!(text.iter().filter(|b| **b == b'\n').count(), 1);
    assert!(text.iter().all(|b| *b == b'\n' || matches!(b, b' '..=b'~')));
    assert_eq!(lines(&path)[0]["decision"], "abandoned");
    assert_eq!(verified(&path).lines, 1);
}

#[test]
fn handles_dropped_without_finish_end_the_thread() {
    let sink = Scripted::default();
    let (audit, writer) = sink.start(4, WhenFull::Refuse);
    audit.event(Event::Stopped);
    drop(audit);
    assert_eq!(writer.done.recv_timeout(Duration::from_secs(5)), Ok(Ok(())));
    assert_eq!(verify(&sink.text()[..]).unwrap().lines, 1);
}

/// A runtime that a herald serves, with everything on one thread.
fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_herald_rings_once_for_all_that_is_ready() {
    let sink = Scripted::default();
    let (audit, writer) = sink.start(1000, WhenFull::Refuse);
    one_thread().block_on(async {
        tokio::spawn(audit.herald());
        tokio::task::yield_now().await;
        for _ in 0..5 {
            for _ in 0..20 {
                drop(audit.open(id()).unwrap());
            }
            // Nobody has told the thread so far.
            tokio::task::yield_now().await;
        }
        let written = || verify(&sink.text()[..]).unwrap().lines;
        while written() < 100 {
            sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(sink.with(|s| s.batches) <= 10);
    writer.finish().unwrap();
}

#[test]
fn without_its_herald_a_line_rings_for_itself() {
    let sink = Scripted::default();
    let (audit, writer) = sink.start(8, WhenFull::Refuse);
    let runtime = one_thread();
    runtime.block_on(async {
        tokio::spawn(audit.herald());
        tokio::task::yield_now().await;
        // A line that the herald was told of and did not come to announce.
        drop(audit.open(id()).unwrap());
    });
    drop(runtime);
    eventually("the first line", || !sink.text().is_empty());
    let first = sink.text().len();
    drop(audit.open(id()).unwrap());
    eventually("the second line", || sink.text().len() > first);
    writer.finish().unwrap();
}
