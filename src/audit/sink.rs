//! Where lines go: standard output or a file, and where the chain in a file stands.

use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock, open};
use rustix::io::Errno;

use super::chain::{Chain, Fault, LINE_MAX, Torn, TornSum, read};

/// How much of a file's end is searched for its last line: room for it, and for what a crash left behind it.
const TAIL: u64 = 2 * LINE_MAX as u64;

/// How lines are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where they go.
    pub sink: SinkSettings,
    /// How many may wait to be written; requests that are under way count.
    pub capacity: usize,
    /// What happens when there is no room, or no line can be written.
    pub when_full: WhenFull,
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkSettings {
    /// Appended to this file, which is made with mode 0600 if it is not there.
    File(PathBuf),
    /// To standard output.
    Stdout,
}

/// What happens to a request that cannot have its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// It is carried, and its missing line is counted.
    Count,
    /// It is refused.
    #[default]
    Refuse,
}

/// Why lines cannot be kept. Names no path: the configuration does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The file's end is not an intact audit line, and not the work of a crash either.
    #[error("the audit file does not end in an audit line as it was written; move it away")]
    Foreign,
    /// The file cannot be opened.
    #[error("the audit file cannot be opened: {0}")]
    Open(io::ErrorKind),
    /// The file is a symbolic link, which could lead anywhere.
    #[error("the audit file is a symbolic link; give the file itself")]
    Symlink,
    /// The thread that writes cannot be started.
    #[error("the audit thread cannot be started: {0}")]
    Thread(io::ErrorKind),
    /// At the end some lines could not be written.
    #[error("some audit lines could not be written before the end")]
    Unwritten,
}

/// Takes bytes, in order. Calls may block: they are made on the audit thread only.
pub(super) trait Outlet: Send {
    /// Before a batch: keeps other writers out, and tells where the chain stands if that is news.
    /// `WouldBlock` means that another process is writing.
    fn acquire(&mut self) -> io::Result<Option<Resume>>;

    /// Writes some of the bytes and tells how many.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// After a batch, not between its parts.
    fn release(&mut self);

    /// At the end.
    fn sync(&mut self) -> io::Result<()>;
}

/// How to go on behind what is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resume {
    /// Where the chain stands, if the file knows better than we do.
    pub(super) chain: Option<Chain>,
    /// Whether the last line lacks its end.
    pub(super) line_end: bool,
    /// What to account for first.
    pub(super) torn: Option<Torn>,
}

pub(super) fn outlet(settings: &SinkSettings) -> Result<Box<dyn Outlet>, AuditError> {
    match settings {
        SinkSettings::File(path) => Ok(Box::new(FileOutlet::open(path)?)),
        SinkSettings::Stdout => {
            // A duplicate, past the library's own buffer: after an error it must be known how much went out.
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            stdout
                .map(|fd| Box::new(Plain(File::from(fd))) as Box<dyn Outlet>)
                .map_err(|e| AuditError::Open(e.kind()))
        }
    }
}

/// A stream: each process is a chain of its own.
struct Plain(File);

impl Outlet for Plain {
    fn acquire(&mut self) -> io::Result<Option<Resume>> {
        Ok(None)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn release(&mut self) {}

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file that other tokenward processes may append to as well (`run` uses one file per user). Each batch is written
/// under a lock and behind whatever the others wrote, so that there is one chain and not a braid of several.
struct FileOutlet {
    file: File,
    /// The file's length, as it was found and as it grew by what we wrote since; none where it is no file that has one.
    length: Option<u64>,
    /// The length after our last batch; none before the first.
    end: Option<u64>,
}

impl FileOutlet {
    fn open(path: &Path) -> Result<Self, AuditError> {
        let flags = OFlags::RDWR
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::CLOEXEC
            | OFlags::NOCTTY
            | OFlags::NOFOLLOW;
        let file = open(path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| match e {
            Errno::LOOP => AuditError::Symlink,
            other => AuditError::Open(io::Error::from(other).kind()),
        })?;
        let mut outlet = Self {
            file: File::from(file),
            length: None,
            end: None,
        };
        let kind = |e: io::Error| AuditError::Open(e.kind());
        let metadata = outlet.file.metadata().map_err(kind)?;
        if metadata.is_file() {
            no_other_writers(&outlet.file, &metadata).map_err(kind)?;
        }
        // A file that cannot be continued is better refused at start than at the first request.
        match outlet.acquire() {
            Err(e) if e.kind() == io::ErrorKind::InvalidData => return Err(AuditError::Foreign),
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(kind(e)),
            _ => outlet.unlock(),
        }
        Ok(outlet)
    }

    fn unlock(&self) {
        // The lock also goes with the descriptor, and an unlock of our own descriptor does not fail.
        let _unlocked = flock(&self.file, FlockOperation::Unlock);
    }

    fn resume(&mut self) -> io::Result<Option<Resume>> {
        let metadata = self.file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let length = metadata.len();
        self.length = Some(length);
        let resume = match self.end {
            Some(end) if end == length => return Ok(None),
            // Somebody cut it. Our chain goes on regardless: `verify` must see that lines are missing.
            Some(end) if end > length => Resume {
                chain: None,
                line_end: length > 0 && read_tail(&self.file, length, 1)? != b"\n",
                torn: None,
            },
            _ => {
                let tail = read_tail(&self.file, length, TAIL)?;
                let whole = tail.len() as u64 == length;
                resume(&tail, whole).ok_or(io::ErrorKind::InvalidData)?
            }
        };
        Ok(Some(resume))
    }
}

impl Outlet for FileOutlet {
    fn acquire(&mut self) -> io::Result<Option<Resume>> {
        flock(&self.file, FlockOperation::NonBlockingLockExclusive)?;
        self.resume().inspect_err(|_| self.unlock())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        // It goes to the end, and the lock keeps the others out: there is no need to look where that is now.
        self.length = self.length.map(|length| length + count as u64);
        Ok(count)
    }

    fn release(&mut self) {
        self.end = self.length;
        self.unlock();
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.file.sync_data() {
            // Devices and pipes have nothing to sync.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
            other => other,
        }
    }
}

/// Whoever may write the file may forge the chain. Reading is left as the operator set it: log shippers need it.
fn no_other_writers(file: &File, metadata: &Metadata) -> io::Result<()> {
    let mode = Mode::from_raw_mode(metadata.mode());
    let others = Mode::WGRP | Mode::WOTH;
    if mode.intersects(others) {
        fchmod(file, mode & Mode::from_raw_mode(0o777) & !others)?;
    }
    Ok(())
}

fn read_tail(file: &File, length: u64, max: u64) -> io::Result<Vec<u8>> {
    let take = length.min(max);
    let mut tail = vec![0; usize::try_from(take).unwrap_or_default()];
    file.read_exact_at(&mut tail, length - take)?;
    Ok(tail)
}

/// Where the chain stands in a file that ends in `tail`; none where that end is neither intact nor torn. A last line
/// that is sealed but does not verify was edited: going on behind it would bury that.
fn resume(tail: &[u8], whole: bool) -> Option<Resume> {
    let line_end = tail.last().is_some_and(|b| *b != b'\n');
    let text = tail.strip_suffix(b"\n").unwrap_or(tail);
    let mut torn_from = text.len();
    for line in text.rsplit(|b| *b == b'\n') {
        let start = torn_from - line.len();
        match read(line) {
            Ok(link) => {
                let chain = Chain {
                    seq: link.seq,
                    hash: link.hash,
                };
                let torn = text.get(torn_from + 1..).map(sum);
                return Some(Resume {
                    chain: Some(chain),
                    line_end,
                    torn,
                });
            }
            Err(Fault::Unsealed) => torn_from = start.saturating_sub(1),
            Err(Fault::Hash | Fault::Form) => return None,
        }
    }
    // No line at all: a new file, or one whose very first line was torn. Anything else is somebody else's file.
    let begun = whole && (text.is_empty() || text.starts_with(br#"{"time":""#));
    begun.then(|| Resume {
        chain: Some(Chain::start()),
        line_end,
        torn: (!tail.is_empty()).then(|| sum(text)),
    })
}

fn sum(text: &[u8]) -> Torn {
    let mut sum = TornSum::new();
    text.split(|b| *b == b'\n').for_each(|piece| sum.add(piece));
    sum.finish()
}

#[cfg(test)]
mod tests {
    use super::super::line::Members;
    use super::*;
    use crate::vocab::WallTime;

    fn lines(n: usize) -> (Chain, String) {
        let mut chain = Chain::start();
        let mut text = String::new();
        for _ in 0..n {
            chain.seal(&mut text, WallTime(0), "x", &Members::default());
        }
        (chain, text)
    }

    #[test]
    fn a_clean_end_is_continued() {
        let (chain, text) = lines(3);
        let clean = Resume {
            chain: Some(chain),
            line_end: false,
            torn: None,
        };
        assert_eq!(resume(text.as_bytes(), true), Some(clean));
        let new = resume(b"", true).unwrap();
        assert_eq!((new.chain, new.torn), (Some(Chain::start()), None));
    }

    #[test]
    fn a_whole_line_without_its_end_gets_one() {
        let (chain, text) = lines(2);
        let found = resume(text.trim_end().as_bytes(), true).unwrap();
        assert_eq!(found.chain, Some(chain));
        assert!(found.line_end);
        assert_eq!(found.torn, None);
    }

    #[test]
    fn what_a_crash_left_is_accounted_for() {
        let (chain, text) = lines(2);
        for (left, bytes) in [
            ("{\"ti", 4),
            ("{\"ti\n", 4),
            ("{\"ti\n{\"x", 8),
            ("\n", 0),
            ("\0\0\0", 3),
        ] {
            let found = resume(format!("{text}{left}").as_bytes(), true).unwrap();
            assert_eq!(found.chain.as_ref(), Some(&chain), "{left:?}");
            assert_eq!(found.line_end, !left.ends_with('\n'));
            assert_eq!(found.torn.unwrap().bytes, bytes, "{left:?}");
        }
        let first = resume(br#"{"time":"20"#, true).unwrap();
        assert_eq!(first.chain, Some(Chain::start()));
        assert_eq!(first.torn.unwrap().bytes, 11);
    }

    #[test]
    fn another_programs_file_and_an_edited_end_are_refused() {
        let (_, text) = lines(2);
        let edited = text.replace("\"seq\":2", "\"seq\":3");
        for foreign in [
            "root:x:0:0::/root:/bin/sh\n",
            "hello",
            "\n\nhello\n",
            edited.as_str(),
        ] {
            assert_eq!(resume(foreign.as_bytes(), true), None, "{foreign:?}");
        }
        assert_eq!(resume(br#"{"time":"cut off in front"#, false), None);
    }
}
