//! Rows that outlive the process: sealed one by one, in one file that belongs to one process.
//!
//! It knows names, versions and bytes. It does not know OAuth, requests, the configuration, or what a row means. AES-256
//! in Galois/Counter Mode (NIST SP 800-38D) from aws-lc-rs seals rows; HKDF (RFC 5869) derives the file's key.
//!
//! What always holds: a row is handed out only if it is the newest that was written under that name in this file; a
//! write is on the disk, whole, when it returns, or the file is as it was; nothing is in the clear but a random salt, a
//! counter and lengths. No byte of a damaged file leads to a panic, and nothing that is lost is lost silently.

mod error;
mod file;
mod folder;
mod image;
mod seal;
#[cfg(test)]
mod tests;
mod witness;

use std::path::PathBuf;

pub use error::{Lost, StoreError, Why};
pub use file::Store;
pub use seal::{BadKey, StoreKey};

/// Where a file store is and what it is sealed with.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The file. Beside it lie `<path>.lock`, which stays, `<path>.new`, which comes and goes, and `<path>.room`, which
    /// holds room for a write that must not fail.
    pub path: PathBuf,
    /// What the rows are sealed with.
    pub key: StoreKey,
    /// What they were sealed with before. A store that only this key opens is sealed anew with the other one.
    pub previous: Option<StoreKey>,
}

/// What a row is about. Part of what is sealed with it: a row of one kind or name never opens as another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    /// The kind of row, a number that is never given to another kind.
    pub kind: u8,
    /// Its name among its kind, at most 255 bytes.
    pub name: String,
}

/// Most rows. Their names come from the configuration, so this is a backstop.
pub const ROWS_MAX: usize = 4096;
/// Longest content of a row, in bytes.
pub const ROW_MAX: usize = 64 * 1024;
/// Largest file, in bytes.
const FILE_MAX: usize = 64 * 1024 * 1024;
