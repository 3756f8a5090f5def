//! What goes wrong with a store, in one line for the operator.

use std::io;
use std::path::PathBuf;

use super::RowId;

/// What went wrong, and with which file.
#[derive(Debug, thiserror::Error)]
#[error("store {path}: {why}", path = .path.display())]
pub struct StoreError {
    /// The store's file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: Why,
}

/// What went wrong. Names no row and no content.
#[derive(Debug, thiserror::Error)]
pub enum Why {
    /// Neither copy of the head can be read with the right key.
    #[error(
        "the file is damaged beyond use; restore it, or remove it with its .lock file and log in again"
    )]
    Damaged,
    /// The folder lets others in.
    #[error("others may write into its folder; chmod go-w the folder, or choose another")]
    Folder,
    /// A file that was there is gone.
    #[error(
        "the file is gone and its .lock file says that there was one; restore it, or remove the .lock file to begin anew"
    )]
    Gone,
    /// Another process has it.
    #[error("another process uses it; a store belongs to one process")]
    InUse,
    /// The system said no.
    #[error("{what} failed: {why}")]
    Io {
        /// Which step.
        what: &'static str,
        /// The system's word.
        why: io::ErrorKind,
    },
    /// The file may be touched by others, or is no plain file.
    #[error("{0} must be a plain file of this user with mode 0600")]
    Mode(&'static str),
    /// It is some other file.
    #[error("the file is not a store of tokenward's")]
    Other,
    /// The system gives no random numbers.
    #[error("no random numbers to be had")]
    Randomness,
    /// The file at the path is no longer the one that was opened.
    #[error("the file was replaced while it was in use; nothing more is written")]
    Replaced,
    /// The file is older than what was written last.
    #[error(
        "the file is older than the last one written here (a restored copy?): refresh tokens in it may be used up; \
         remove the .lock file to use it all the same"
    )]
    RolledBack,
    /// A bound was reached.
    #[error("a bound of the store was reached")]
    TooLarge,
    /// The key opens nothing here.
    #[error(
        "the key is not the one that this store was sealed with; if you changed it, give the one before as `previous_key`"
    )]
    WrongKey,
}

/// What could not be read at the start. The rest works.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lost {
    /// Rows that are damaged: their names are known, their contents are not.
    pub rows: Vec<RowId>,
    /// One of the two copies of the head is damaged.
    pub head: bool,
    /// The note of the last write cannot be read, so a rolled-back file would not have been noticed.
    pub witness: bool,
}

impl Lost {
    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && !self.head && !self.witness
    }
}
