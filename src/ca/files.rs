//! Files in one folder: opened relative to the folder's descriptor, never through a symbolic link, written whole or
//! not at all. Somebody who can write beside us must not be able to choose what we read or where we write.

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::error::CaError;
use super::random;

/// Owner alone.
pub(super) const SECRET: Mode = Mode::from_raw_mode(0o600);
/// Everybody may read.
pub(super) const PUBLIC: Mode = Mode::from_raw_mode(0o644);
/// Owner alone, folder.
pub(super) const SECRET_DIR: Mode = Mode::from_raw_mode(0o700);
/// Everybody may look in.
pub(super) const PUBLIC_DIR: Mode = Mode::from_raw_mode(0o755);

/// No key is larger; a larger file is not one.
const SECRET_MAX: usize = 64 * 1024;
/// No chain is larger, even where a certificate carries thousands of names as constraints.
const PUBLIC_MAX: usize = 2 * 1024 * 1024;
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// What to do with a file of the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// Leave it and report [`CaError::Exists`]. Only under [`Folder::locked`].
    Keep,
    /// Put the new one in its place, atomically.
    Replace,
}

/// A folder, held open so that a swap of its path cannot move us elsewhere.
pub(super) struct Folder(OwnedFd);

impl Folder {
    /// Opens a folder that exists; `None` where it does not. Its own name may not be a symbolic link.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, CaError> {
        // Without the slash at the end that would make the system follow a link after all.
        let path: PathBuf = path.components().collect();
        match rustix::fs::openat(CWD, &path, directory_flags(), Mode::empty()) {
            Ok(fd) => Ok(Some(Self(fd))),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => Err(CaError::Folder {
                what: "is a symbolic link or no folder at all; name the folder itself",
            }),
            Err(error) => Err(failed("the folder", error)),
        }
    }

    /// Opens a folder, making it and its parents where they do not exist. An existing one keeps its mode: it may be a
    /// mount that is not ours to change.
    pub(super) fn create(path: &Path, mode: Mode) -> Result<Self, CaError> {
        if let Some(folder) = Self::open(path)? {
            return Ok(folder);
        }
        DirBuilder::new()
            .recursive(true)
            .mode(mode.as_raw_mode())
            .create(path)
            .map_err(|error| CaError::Io {
                file: "the folder",
                kind: error.kind(),
            })?;
        let folder = Self::open(path)?.ok_or(CaError::Missing { file: "the folder" })?;
        // The process's umask may have taken bits from the mode.
        rustix::fs::fchmod(&folder.0, mode).map_err(|error| failed("the folder", error))?;
        Ok(folder)
    }

    /// Refuses a folder in which somebody else could put keys for us to find, or swap ours.
    pub(super) fn guarded(self) -> Result<Self, CaError> {
        let owner = self.stat()?.st_uid;
        if !ours(owner) {
            return Err(CaError::Folder {
                what: "belongs to another user; it has to be ours or root's",
            });
        }
        if self.others_may_write()? {
            return Err(CaError::Folder {
                what: "may be written by anybody; use one inside it, which will be made",
            });
        }
        Ok(self)
    }

    /// Whether everybody on the machine may put files here.
    pub(super) fn others_may_write(&self) -> Result<bool, CaError> {
        Ok(self.stat()?.st_mode & 0o002 != 0)
    }

    /// Opens or makes a folder inside this one and gives it exactly this mode. A symbolic link in its place is refused.
    pub(super) fn subfolder(&self, name: &str, mode: Mode) -> Result<Self, CaError> {
        match rustix::fs::mkdirat(&self.0, name, mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(failed("the agents' folder", error)),
        }
        let fd = rustix::fs::openat(&self.0, name, directory_flags(), Mode::empty())
            .map_err(|error| failed("the agents' folder", error))?;
        rustix::fs::fchmod(&fd, mode).map_err(|error| failed("the agents' folder", error))?;
        Ok(Self(fd))
    }

    /// Runs `work` while no other process of ours creates files here.
    pub(super) fn locked<T>(
        &self,
        work: impl FnOnce() -> Result<T, CaError>,
    ) -> Result<T, CaError> {
        let mut tries = 0;
        loop {
            match rustix::fs::flock(&self.0, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if tries < LOCK_TRIES => {
                    tries += 1;
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(Errno::WOULDBLOCK) => return Err(CaError::Busy),
                Err(error) => return Err(failed("the folder", error)),
            }
        }
        let done = work();
        let released = rustix::fs::flock(&self.0, FlockOperation::Unlock);
        released.map_err(|error| failed("the folder", error))?;
        done
    }

    /// Reads a secret: a regular file of ours or root's that nobody else may touch. `None` where there is none.
    pub(super) fn read_secret(
        &self,
        file: &'static str,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, CaError> {
        let Some((fd, stat)) = self.open_regular(file)? else {
            return Ok(None);
        };
        // In a folder that others may write to, a key that they planted is a key that they know.
        if !ours(stat.st_uid) {
            return Err(CaError::Foreign { file });
        }
        let mode = stat.st_mode & 0o7777;
        if mode & 0o077 != 0 {
            return Err(CaError::Exposed { file, mode });
        }
        read_all(fd, file, SECRET_MAX).map(Some)
    }

    /// Reads a public file. `None` where there is none.
    pub(super) fn read_public(&self, file: &'static str) -> Result<Option<Vec<u8>>, CaError> {
        match self.open_regular(file)? {
            Some((fd, _)) => {
                read_all(fd, file, PUBLIC_MAX).map(|mut bytes| Some(std::mem::take(&mut *bytes)))
            }
            None => Ok(None),
        }
    }

    /// Writes a file whole: a temporary one beside it, synced, then renamed.
    pub(super) fn place(
        &self,
        file: &'static str,
        mode: Mode,
        bytes: &[u8],
        existing: Existing,
    ) -> Result<(), CaError> {
        let temporary = match existing {
            // The lock is held, so what bears this name is what a crash left behind: a key must not lie about.
            Existing::Keep => format!(".{file}.new"),
            Existing::Replace => format!(".{file}.{:016x}", u64::from_be_bytes(random()?)),
        };
        if existing == Existing::Keep && self.has(file)? {
            return Err(CaError::Exists { file });
        }
        match rustix::fs::unlinkat(&self.0, &*temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(file, error)),
        }
        let written = self
            .write_new(&temporary, file, mode, bytes)
            .and_then(|()| {
                rustix::fs::renameat(&self.0, &*temporary, &self.0, file)
                    .and_then(|()| rustix::fs::fsync(&self.0))
                    .map_err(|error| failed(file, error))
            });
        if written.is_err() {
            // What matters is the first error; this one would only say that nothing is left to remove.
            rustix::fs::unlinkat(&self.0, &*temporary, AtFlags::empty()).ok();
        }
        written
    }

    /// Whether anything bears the name, a dangling symbolic link included.
    pub(super) fn has(&self, file: &'static str) -> Result<bool, CaError> {
        match rustix::fs::statat(&self.0, file, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(failed(file, error)),
        }
    }

    fn stat(&self) -> Result<Stat, CaError> {
        rustix::fs::fstat(&self.0).map_err(|error| failed("the folder", error))
    }

    fn write_new(
        &self,
        temporary: &str,
        file: &'static str,
        mode: Mode,
        bytes: &[u8],
    ) -> Result<(), CaError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.0, temporary, flags, mode)
            .map_err(|error| failed(file, error))?;
        rustix::fs::fchmod(&fd, mode).map_err(|error| failed(file, error))?;
        let mut open = File::from(fd);
        open.write_all(bytes)
            .and_then(|()| open.sync_all())
            .map_err(|error| CaError::Io {
                file,
                kind: error.kind(),
            })
    }

    fn open_regular(&self, file: &'static str) -> Result<Option<(OwnedFd, Stat)>, CaError> {
        // NONBLOCK: a named pipe planted here would otherwise hold us for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(&self.0, file, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => return Err(CaError::NotRegular { file }),
            Err(error) => return Err(failed(file, error)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|error| failed(file, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(CaError::NotRegular { file });
        }
        Ok(Some((fd, stat)))
    }
}

/// Reads a whole file of at most `limit` bytes, into memory that is wiped when dropped.
pub(super) fn read_all(
    fd: OwnedFd,
    file: &'static str,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, CaError> {
    // Allocated once: a buffer that grows leaves its earlier copies behind unwiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit + 1));
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    File::from(fd)
        .take(bound)
        .read_to_end(&mut bytes)
        .map_err(|error| CaError::Io {
            file,
            kind: error.kind(),
        })?;
    if bytes.len() > limit {
        return Err(CaError::Corrupt {
            file,
            what: "it is far too large",
        });
    }
    Ok(bytes)
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// Root can do as it likes to us anyway.
fn ours(owner: u32) -> bool {
    owner == 0 || owner == rustix::process::geteuid().as_raw()
}

fn failed(file: &'static str, error: Errno) -> CaError {
    CaError::Io {
        file,
        kind: io::Error::from(error).kind(),
    }
}
