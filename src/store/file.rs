//! The store in its file. Every call may wait for the disk: call it where waiting harms nobody.

use std::fs::File;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::error::{Lost, StoreError, Why};
use super::folder::{Folder, Identity};
use super::image::Image;
use super::seal::{Sealer, StoreKey, random};
use super::witness::{self, Witness};
use super::{ROW_MAX, RowId, Settings};

/// Room that is set aside beyond the present length, for a write that must not fail: the longest row, and its part of
/// two heads.
const SLACK: usize = ROW_MAX + 1024;

/// An open store. Locked against other processes until it is dropped.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    folder: Folder,
    /// Holds the lock and the witness.
    lock: File,
    key: StoreKey,
    sealer: Sealer,
    image: Image,
    /// The file that was read or written last; `None` before the first write.
    identity: Option<Identity>,
    /// Room for a write that must not fail because the disk is full.
    room: Option<Room>,
    rekeyed: bool,
}

/// What was read, and with which of two keys.
enum Found {
    Current((Image, Sealer, Lost)),
    Stale((Image, Sealer, Lost)),
}

/// Whether the note of the last write could be read, and fits what was found.
///
/// The keys are that of the file and the other one, `stale` says that the former is the previous one. A file is sealed
/// anew first and then the note, so a note by the previous key beside a file by the present one is what a crash in
/// between leaves. The other way round there was a newer file, and somebody put this one back.
fn witnessed(
    lock: &mut File,
    (key, other): (&StoreKey, Option<&StoreKey>),
    stale: bool,
    (image, sealer): (&Image, &Sealer),
) -> Result<bool, Why> {
    match (witness::read(lock, key)?, other) {
        (Witness::Seen { salt, sequence }, _) => {
            if salt != *sealer.salt() || sequence > image.sequence {
                return Err(Why::RolledBack);
            }
            Ok(true)
        }
        (Witness::Illegible, Some(other)) => match witness::read(lock, other)? {
            Witness::Seen { sequence, .. } if !stale && sequence < image.sequence => Ok(true),
            Witness::Seen { .. } => Err(Why::RolledBack),
            Witness::Illegible | Witness::Nothing => Ok(false),
        },
        (Witness::Illegible | Witness::Nothing, _) => Ok(false),
    }
}

/// Room that was set aside, and how many bytes.
#[derive(Debug)]
struct Room {
    file: File,
    length: u64,
}

impl Store {
    /// Opens a store, or begins one where there is no file. What could not be read comes with it.
    ///
    /// # Errors
    /// [`StoreError`] where the file, its folder, its mode or the key is not as it must be, where another process has
    /// it, and where it is older than it should be. Nothing was changed then.
    pub fn open(settings: Settings) -> Result<(Self, Lost), StoreError> {
        let path = settings.path.clone();
        Self::opened(settings).map_err(|why| StoreError { path, why })
    }

    fn opened(settings: Settings) -> Result<(Self, Lost), Why> {
        let Settings {
            path,
            key,
            previous,
        } = settings;
        let folder = Folder::of(&path)?;
        let mut lock = folder.lock()?;
        let Some((bytes, identity)) = folder.read()? else {
            if witness::read(&mut lock, &key)? != Witness::Nothing {
                return Err(Why::Gone);
            }
            let sealer = Sealer::new(&key, random()?)?;
            let image = Image::empty();
            let mut store = Self::new(path, folder, lock, key, (image, sealer), None);
            // Whether this disk takes a file is found out now, not at the first login.
            store.commit(Image::empty(), true)?;
            return Ok((store, Lost::default()));
        };
        let read = match (Image::read(&bytes, &key), &previous) {
            (Err(Why::WrongKey), Some(previous)) => Image::read(&bytes, previous).map(Found::Stale),
            (read, _) => read.map(Found::Current),
        };
        let read = read?;
        let stale = matches!(read, Found::Stale(_));
        let (Found::Current((image, sealer, mut lost)) | Found::Stale((image, sealer, mut lost))) =
            read;
        let keys = match &previous {
            Some(previous) if stale => (previous, Some(&key)),
            previous => (&key, previous.as_ref()),
        };
        lost.witness = !witnessed(&mut lock, keys, stale, (&image, &sealer))?;
        let next = stale
            .then(|| image.sealed_anew(&sealer, &key))
            .transpose()?;
        let mut store = Self::new(path, folder, lock, key, (image, sealer), Some(identity));
        match next {
            Some((next, sealer)) => {
                store.sealer = sealer;
                store.commit(next, true)?;
                store.rekeyed = true;
            }
            None => store.note()?,
        }
        Ok((store, lost))
    }

    fn new(
        path: PathBuf,
        folder: Folder,
        lock: File,
        key: StoreKey,
        (image, sealer): (Image, Sealer),
        identity: Option<Identity>,
    ) -> Self {
        Self {
            path,
            folder,
            lock,
            key,
            sealer,
            image,
            identity,
            room: None,
            rekeyed: false,
        }
    }

    /// Whether it was sealed with the previous key when it was opened, and with the present one since then.
    #[must_use]
    pub fn was_rekeyed(&self) -> bool {
        self.rekeyed
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// How many writes it has seen.
    #[must_use]
    pub fn sequence(&self) -> u64 {
        self.image.sequence
    }

    /// Every row of one kind that can be read.
    #[must_use]
    pub fn rows(&self, kind: u8) -> Vec<(RowId, Zeroizing<Vec<u8>>)> {
        let names = self.image.names().filter(|id| id.kind == kind);
        names
            .filter_map(|id| Some((id.clone(), self.image.get(&self.sealer, id)?)))
            .collect()
    }

    /// Writes a row; it is on the disk when this returns. `ahead`: the write may fail, and leaves the room that was set
    /// aside to those that may not.
    ///
    /// # Errors
    /// [`StoreError`]; the row is then what it was before, or, where the folder's entry could not be synced, the new
    /// one.
    pub fn put(&mut self, id: &RowId, content: &[u8], ahead: bool) -> Result<(), StoreError> {
        let next = self.image.with(&self.sealer, id, Some(content));
        let done = next.and_then(|next| self.commit(next, ahead));
        self.named(done)
    }

    /// Removes a row; it is gone from the disk when this returns.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn remove(&mut self, id: &RowId) -> Result<(), StoreError> {
        let next = self.image.with(&self.sealer, id, None);
        let done = next.and_then(|next| self.commit(next, false));
        self.named(done)
    }

    /// Sets room aside for one more write of any row, so that it does not fail because the disk is full. Room that is
    /// there already is enough.
    ///
    /// # Errors
    /// [`StoreError`] where there is none to be had.
    pub fn reserve(&mut self) -> Result<(), StoreError> {
        let done = self.take_room();
        self.named(done)
    }

    fn commit(&mut self, next: Image, ahead: bool) -> Result<(), Why> {
        // Two processes can meet here only if somebody removed the lock file; the one that wrote last goes on.
        if self.folder.current()? != self.identity {
            return Err(Why::Replaced);
        }
        let bytes = next.write(&self.sealer)?;
        let (identity, synced) = match self.folder.replace(None, &bytes) {
            // The room is used where nothing else is left, so that it is still there for whoever comes next.
            Err(error) if !ahead => {
                let room = self.room.take().ok_or(error)?;
                self.folder.replace(Some(room.file), &bytes)?
            }
            done => done?,
        };
        self.identity = Some(identity);
        self.image = next;
        // A witness that is newer than the store would make the next start refuse it.
        synced?;
        self.note()
    }

    fn take_room(&mut self) -> Result<(), Why> {
        let length = self.image.write(&self.sealer)?.len() + SLACK;
        let length = u64::try_from(length).map_err(|_| Why::TooLarge)?;
        if self.room.as_ref().is_some_and(|room| room.length >= length) {
            return Ok(());
        }
        self.room = None;
        let file = self.folder.reserve(length)?;
        self.room = Some(Room { file, length });
        Ok(())
    }

    fn note(&mut self) -> Result<(), Why> {
        let (salt, sequence) = (*self.sealer.salt(), self.image.sequence);
        witness::write(&mut self.lock, &self.key, &salt, sequence)
    }

    fn named<T>(&self, done: Result<T, Why>) -> Result<T, StoreError> {
        done.map_err(|why| StoreError {
            path: self.path.clone(),
            why,
        })
    }
}
