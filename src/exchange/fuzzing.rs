//! What fuzz targets ask of this room, see `fuzz/`. It decides nothing itself.

use http::{HeaderMap, request};

use super::arrival::{Door, Meaning, judge};
use super::guard;
use crate::vocab::{Authority, Code};

/// What a head means: its path, query and intent.
///
/// # Errors
/// The code that it is refused with.
pub fn judged(parts: &request::Parts, authority: &Authority, door: Door) -> Result<Meaning, Code> {
    judge(parts, authority, door).map_err(|refusal| refusal.code)
}

/// Takes off the head of an authenticated answer what its agent must not get; for the bench.
pub fn cleaned(headers: &mut HeaderMap) {
    guard::clean(headers, true);
}
