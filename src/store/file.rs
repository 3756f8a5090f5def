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
    /// Room for the next write.
    reserved: Option<File>,
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
        let Settings { path, key } = settings;
        let folder = Folder::of(&path)?;
        let mut lock = folder.lock()?;
        let witness = witness::read(&mut lock, &key)?;
        let found = folder.read()?;
        let (image, sealer, mut lost, identity) = match found {
            Some((bytes, identity)) => {
                let (image, sealer, lost) = Image::read(&bytes, &key)?;
                (image, sealer, lost, Some(identity))
            }
            None if witness != Witness::Nothing => return Err(Why::Gone),
            None => {
                let sealer = Sealer::new(&key, random()?)?;
                (Image::empty(), sealer, Lost::default(), None)
            }
        };
        match witness {
            Witness::Seen { salt, sequence } => {
                if salt != *sealer.salt() || sequence > image.sequence {
                    return Err(Why::RolledBack);
                }
            }
            Witness::Illegible => lost.witness = true,
            Witness::Nothing => lost.witness = identity.is_some(),
        }
        let mut store = Self {
            path,
            folder,
            lock,
            key,
            sealer,
            image,
            identity,
            reserved: None,
        };
        if identity.is_none() {
            // Whether this disk takes a file is found out now, not at the first login.
            store.commit(Image::empty())?;
        } else {
            store.note()?;
        }
        Ok((store, lost))
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

    /// Writes a row; it is on the disk when this returns. `ahead`: room for one more write of any row is set aside as
    /// well, so that the write that follows does not fail because the disk is full.
    ///
    /// # Errors
    /// [`StoreError`]; the row is then what it was before, or, where the folder's entry could not be synced, the new
    /// one. Room that could not be set aside is an error too, after the row was written.
    pub fn put(&mut self, id: &RowId, content: &[u8], ahead: bool) -> Result<(), StoreError> {
        let done = self
            .image
            .with(&self.sealer, id, Some(content))
            .and_then(|next| self.commit(next))
            .and_then(|()| if ahead { self.reserve() } else { Ok(()) });
        self.named(done)
    }

    /// Removes a row; it is gone from the disk when this returns.
    ///
    /// # Errors
    /// As [`Store::put`].
    pub fn remove(&mut self, id: &RowId) -> Result<(), StoreError> {
        let done = self
            .image
            .with(&self.sealer, id, None)
            .and_then(|next| self.commit(next));
        self.named(done)
    }

    fn commit(&mut self, next: Image) -> Result<(), Why> {
        // Two processes can meet here only if somebody removed the lock file; the one that wrote last goes on.
        if self.folder.current()? != self.identity {
            return Err(Why::Replaced);
        }
        let bytes = next.write(&self.sealer)?;
        let (identity, synced) = self.folder.replace(self.reserved.take(), &bytes)?;
        self.identity = Some(identity);
        self.image = next;
        self.note()?;
        synced
    }

    fn reserve(&mut self) -> Result<(), Why> {
        let length = self.image.write(&self.sealer)?.len() + SLACK;
        let length = u64::try_from(length).map_err(|_| Why::TooLarge)?;
        self.reserved = Some(self.folder.reserve(length)?);
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
