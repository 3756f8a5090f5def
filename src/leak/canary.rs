//! The values that are looked for.

use super::needle::Needles;
use crate::vocab::Secret;

/// Shortest value. A shorter one stands in files by chance, in one encoding or another.
const MIN: usize = 8;
/// Longest value, in bytes.
const MAX: usize = 16 * 1024;
/// Most values in one search.
const COUNT_MAX: usize = 1000;

/// A value that must not be found, and what it is called in reports.
pub struct Canary {
    /// Where the value was given, for people.
    pub name: String,
    /// The value.
    pub value: Secret<Vec<u8>>,
}

/// Why a value cannot be looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCanary {
    /// None was given.
    #[error("no value to look for; give --canary, --canaries or --from-env")]
    None,
    /// It would be found by chance.
    #[error("{0}: a value of fewer than {MIN} bytes would be found by chance")]
    Short(String),
    /// It is too long.
    #[error("{0}: a value may have {MAX} bytes")]
    Long(String),
    /// There are too many.
    #[error("a search is for {COUNT_MAX} values at most")]
    Many,
}

/// All values of a search, in all their forms.
pub struct Canaries {
    pub(super) names: Vec<String>,
    pub(super) needles: Needles,
}

impl Canaries {
    /// Prepares a search.
    ///
    /// # Errors
    /// [`BadCanary`].
    pub fn new(all: &[Canary]) -> Result<Self, BadCanary> {
        if all.is_empty() {
            return Err(BadCanary::None);
        }
        if all.len() > COUNT_MAX {
            return Err(BadCanary::Many);
        }
        for canary in all {
            match canary.value.expose().len() {
                0..MIN => return Err(BadCanary::Short(canary.name.clone())),
                MIN..=MAX => {}
                _ => return Err(BadCanary::Long(canary.name.clone())),
            }
        }
        let values: Vec<&[u8]> = all.iter().map(|c| c.value.expose().as_slice()).collect();
        Ok(Self {
            names: all.iter().map(|canary| canary.name.clone()).collect(),
            needles: Needles::of(&values).ok_or(BadCanary::Many)?,
        })
    }
}
