//! `instance.key`: 32 random bytes that outlive restarts. Placeholders are derived from it, elsewhere.

use std::path::Path;

use zeroize::Zeroizing;

use super::error::CaError;
use super::files::{Existing, Folder, SECRET, SECRET_DIR};
use super::random;
use crate::vocab::Secret;

const FILE: &str = "instance.key";
const LENGTH: usize = 32;

/// Reads the instance key of a CA folder; makes folder and key where they do not exist yet.
///
/// # Errors
/// [`CaError`] where the file is open to others, is not a regular file, has another length than 32 bytes or cannot be
/// made. A damaged key is never replaced silently: with it every placeholder in an agent's environment would change.
pub fn load_or_create_instance_key(dir: &Path) -> Result<Secret<Vec<u8>>, CaError> {
    let folder = Folder::create(dir, SECRET_DIR)?.guarded()?;
    if let Some(key) = read(&folder)? {
        return Ok(key);
    }
    folder.locked(|| {
        // Another process may have been faster.
        if let Some(key) = read(&folder)? {
            return Ok(key);
        }
        let bytes = Zeroizing::new(random::<LENGTH>()?);
        let key = Secret::new(bytes.to_vec());
        folder.place(FILE, SECRET, key.expose(), Existing::Keep)?;
        Ok(key)
    })
}

fn read(folder: &Folder) -> Result<Option<Secret<Vec<u8>>>, CaError> {
    let Some(mut bytes) = folder.read_secret(FILE)? else {
        return Ok(None);
    };
    if bytes.len() != LENGTH {
        return Err(CaError::Corrupt {
            file: FILE,
            what: "exactly 32 bytes are expected",
        });
    }
    Ok(Some(Secret::new(std::mem::take(&mut *bytes))))
}
