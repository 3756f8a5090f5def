//! The folder of a store: files are opened relative to it, never through a symbolic link, and only if they are this
//! user's alone. Somebody who can write beside us must not choose what we read or where we write.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::FILE_MAX;
use super::error::Why;

/// What is added to the store's name: the next state while it is written, and room that was set aside.
const NEXT: &str = ".new";
const ROOM: &str = ".room";

const OURS: Mode = Mode::from_raw_mode(0o600);

/// Which file stands at a name.
pub(super) type Identity = (u64, u64);

/// The folder, held open, and the name of the store in it.
#[derive(Debug)]
pub(super) struct Folder {
    fd: OwnedFd,
    name: OsString,
}

impl Folder {
    /// Opens the folder of this path, making it where it does not exist.
    pub(super) fn of(path: &Path) -> Result<Self, Why> {
        let name = path.file_name().ok_or(Why::Mode("the path"))?.to_owned();
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.map_or_else(|| PathBuf::from("."), Path::to_path_buf);
        if !parent.exists() {
            use std::os::unix::fs::DirBuilderExt as _;
            let mut builder = std::fs::DirBuilder::new();
            let new: Vec<PathBuf> = parent
                .ancestors()
                .take_while(|a| !a.exists())
                .map(Path::to_path_buf)
                .collect();
            let made = builder.recursive(true).mode(0o700).create(&parent);
            made.map_err(|error| failed("making the folder", error))?;
            sync_entries(&new)?;
        }
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY;
        let fd = rustix::fs::openat(CWD, &parent, flags, Mode::empty());
        let fd = fd.map_err(|error| failed("opening the folder", error))?;
        let stat =
            rustix::fs::fstat(&fd).map_err(|error| failed("looking at the folder", error))?;
        // In a sticky folder, such as /tmp, others can add files but not replace ours.
        if stat.st_mode & 0o022 != 0 && stat.st_mode & 0o1000 == 0 {
            return Err(Why::Folder);
        }
        Ok(Self { fd, name })
    }

    fn beside(&self, suffix: &str) -> OsString {
        let mut name = self.name.clone();
        name.push(suffix);
        name
    }

    /// Opens and locks the file that says whose the store is. It stays for good: a lock on a name that comes and goes
    /// could be held twice.
    pub(super) fn lock(&self) -> Result<File, Why> {
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file = self
            .open(&self.beside(".lock"), flags, "the .lock file")?
            .ok_or(Why::Mode("the .lock file"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(Errno::WOULDBLOCK) => Err(Why::InUse),
            Err(error) => Err(failed("locking", error)),
        }
    }

    /// The store's bytes and which file they came from; `None` where there is none.
    pub(super) fn read(&self) -> Result<Option<(Vec<u8>, Identity)>, Why> {
        let Some(file) = self.open(&self.name, OFlags::RDONLY, "the file")? else {
            return Ok(None);
        };
        let identity = identity(&file)?;
        let mut bytes = Vec::new();
        let most = u64::try_from(FILE_MAX).unwrap_or(u64::MAX);
        let mut limited = (&file).take(most + 1);
        let read = limited.read_to_end(&mut bytes);
        read.map_err(|error| failed("reading", error))?;
        if bytes.len() > FILE_MAX {
            return Err(Why::Other);
        }
        Ok(Some((bytes, identity)))
    }

    /// Which file stands at the store's name now.
    pub(super) fn current(&self) -> Result<Option<Identity>, Why> {
        match rustix::fs::statat(&self.fd, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(failed("looking at the file", error)),
        }
    }

    /// Takes room for a write of this length, so that it will not fail for want of it. The file that holds the room.
    pub(super) fn reserve(&self, length: u64) -> Result<File, Why> {
        let file = self.fresh(ROOM)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(file),
            // This file system cannot set room aside, so the room is written.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let zeros = io::copy(&mut io::repeat(0).take(length), &mut &file);
                zeros
                    .and_then(|_| file.sync_all())
                    .map_err(|error| failed("taking room", error))?;
                Ok(file)
            }
            Err(error) => Err(failed("taking room", error)),
        }
    }

    /// Puts these bytes in the store's place: whole and on the disk, or not at all. Which file stands there then, and
    /// whether the folder's entry is on the disk as well. `room`: what [`Folder::reserve`] set aside.
    pub(super) fn replace(
        &self,
        room: Option<File>,
        bytes: &[u8],
    ) -> Result<(Identity, Result<(), Why>), Why> {
        let (name, file) = match room {
            Some(file) => (ROOM, file),
            None => (NEXT, self.fresh(NEXT)?),
        };
        let identity = write(file, bytes).inspect_err(|_| {
            // On a full disk a half-written file would take what little there is.
            let removed = rustix::fs::unlinkat(&self.fd, self.beside(name), AtFlags::empty());
            if let Err(error) = removed {
                tracing::debug!(%error, "a half-written file stays beside the store");
            }
        })?;
        rustix::fs::renameat(&self.fd, self.beside(name), &self.fd, &self.name)
            .map_err(|error| failed("renaming", error))?;
        let synced =
            rustix::fs::fsync(&self.fd).map_err(|error| failed("writing the folder", error));
        Ok((identity, synced))
    }

    /// A new empty file beside the store.
    fn fresh(&self, suffix: &str) -> Result<File, Why> {
        let name = self.beside(suffix);
        match rustix::fs::unlinkat(&self.fd, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed("removing an old file beside the store", error)),
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        self.open(&name, flags, "the new file beside the store")?
            .ok_or(Why::Mode("the new file beside the store"))
    }

    /// Opens a file that must be a plain one, ours and nobody else's.
    fn open(&self, name: &OsStr, flags: OFlags, what: &'static str) -> Result<Option<File>, Why> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = match rustix::fs::openat(&self.fd, name, flags, OURS) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO) => return Err(Why::Mode(what)),
            Err(error) => return Err(failed("opening", error)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|error| failed("looking at the file", error))?;
        let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let owned = stat.st_uid == rustix::process::geteuid().as_raw();
        if !plain || !owned || stat.st_mode & 0o777 != 0o600 || stat.st_nlink != 1 {
            return Err(Why::Mode(what));
        }
        Ok(Some(fd.into()))
    }
}

/// Makes these bytes the whole content, on the disk.
fn write(mut file: File, bytes: &[u8]) -> Result<Identity, Why> {
    let length = u64::try_from(bytes.len()).map_err(|_| Why::TooLarge)?;
    file.rewind()
        .and_then(|()| file.write_all(bytes))
        .and_then(|()| file.set_len(length))
        .and_then(|()| file.sync_all())
        .map_err(|error| failed("writing", error))?;
    identity(&file)
}

/// Folders that were just made are on the disk as well, otherwise a power cut takes the store with them and nothing is
/// left that could miss it.
fn sync_entries(made: &[PathBuf]) -> Result<(), Why> {
    for folder in made.iter().filter_map(|made| made.parent()) {
        let folder = if folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            folder
        };
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| failed("writing the folder above", error))?;
    }
    Ok(())
}

fn identity(file: &File) -> Result<Identity, Why> {
    let stat = rustix::fs::fstat(file).map_err(|error| failed("looking at the file", error))?;
    Ok((stat.st_dev, stat.st_ino))
}

pub(super) fn failed(what: &'static str, error: impl Into<io::Error>) -> Why {
    Why::Io {
        what,
        why: error.into().kind(),
    }
}
