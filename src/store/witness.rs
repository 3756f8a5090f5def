//! What the lock file says about the last write: which store it was and how many writes it has seen.
//!
//! It makes a rolled-back or vanished store noticed, as long as not both files were rolled back together. That much, and
//! no more, two files in one folder can do: whoever restores the whole folder restores the witness too.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use super::error::Why;
use super::folder::failed;
use super::seal::{Kind, Place, SALT_LEN, SEAL_LEN, Sealer, StoreKey};

const LEN: usize = 8 + SALT_LEN + SEAL_LEN;

/// The last write, as far as the lock file knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Witness {
    /// There was none.
    Nothing,
    /// There was one, and it cannot be read.
    Illegible,
    /// This one.
    Seen { salt: [u8; SALT_LEN], sequence: u64 },
}

/// Reads what the lock file says.
pub(super) fn read(file: &mut File, key: &StoreKey) -> Result<Witness, Why> {
    let mut bytes = Vec::new();
    let start = file.seek(SeekFrom::Start(0));
    start.map_err(|error| failed("reading the .lock file", error))?;
    let mut limited = Read::take(&mut *file, LEN as u64 + 1);
    limited
        .read_to_end(&mut bytes)
        .map_err(|error| failed("reading the .lock file", error))?;
    if bytes.is_empty() {
        return Ok(Witness::Nothing);
    }
    let sealer = sealer(key)?;
    let seen = || {
        let (sequence, sealed) = bytes.split_at_checked(8)?;
        let sequence = u64::from_be_bytes(sequence.try_into().ok()?);
        let salt = sealer.open(&place(sequence), sealed)?;
        let salt = salt.as_slice().try_into().ok()?;
        Some(Witness::Seen { salt, sequence })
    };
    Ok(seen().unwrap_or(Witness::Illegible))
}

/// Writes it. Not synced: after a power cut it may be older than the store, never newer.
pub(super) fn write(
    file: &mut File,
    key: &StoreKey,
    salt: &[u8; SALT_LEN],
    sequence: u64,
) -> Result<(), Why> {
    let mut bytes = sequence.to_be_bytes().to_vec();
    bytes.extend_from_slice(&sealer(key)?.seal(&place(sequence), salt)?);
    file.seek(SeekFrom::Start(0))
        .and_then(|_| file.write_all(&bytes))
        .map_err(|error| failed("writing the .lock file", error))
}

/// The witness must be legible without the store, so its key is not the store's.
fn sealer(key: &StoreKey) -> Result<Sealer, Why> {
    Sealer::new(key, [0; SALT_LEN])
}

fn place(version: u64) -> Place<'static> {
    Place {
        kind: Kind::Witness,
        row: None,
        version,
    }
}
