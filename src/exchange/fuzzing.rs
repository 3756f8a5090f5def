//! What fuzz targets ask of this room, see `fuzz/`. It decides nothing itself.

use http::request;

use super::arrival::{Door, Meaning, judge};
use crate::vocab::{Authority, Code};

/// What a head means: its path, query and intent.
///
/// # Errors
/// The code that it is refused with.
pub fn judged(parts: &request::Parts, authority: &Authority, door: Door) -> Result<Meaning, Code> {
    judge(parts, authority, door).map_err(|refusal| refusal.code)
}
