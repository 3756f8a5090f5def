//! One stream of bytes, window by window.

use std::collections::BTreeSet;
use std::io::{self, Read};

use super::canary::Canaries;
use super::view::VIEWS;

/// New bytes of one window.
const WINDOW: usize = 256 * 1024;
/// What a value may have grown by, written in two encodings one inside the other.
const GROWTH: usize = 36;
/// Longest overlap of two windows. It covers values of some 28 KiB in any two encodings.
const OVERLAP_MAX: usize = 1024 * 1024;
/// Most findings of one place; more say nothing new.
const FINDINGS_MAX: usize = 1000;

/// A value that was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, and what inside of it behind `!`.
    pub place: String,
    /// What the value is called.
    pub canary: String,
    /// How it was written: a form, and the encodings around it, the innermost first.
    pub form: String,
    /// Near which byte of the place, after unpacking.
    pub offset: u64,
}

/// Searches a stream to its end. How many bytes it has.
///
/// # Errors
/// The stream's own.
pub(super) fn scan(
    canaries: &Canaries,
    place: &str,
    stream: &mut dyn Read,
    findings: &mut Vec<Finding>,
) -> io::Result<u64> {
    in_windows(WINDOW, canaries, place, stream, findings)
}

/// The same in windows of this size.
pub(super) fn in_windows(
    size: usize,
    canaries: &Canaries,
    place: &str,
    stream: &mut dyn Read,
    findings: &mut Vec<Finding>,
) -> io::Result<u64> {
    let overlap = (canaries.needles.longest() * GROWTH).min(OVERLAP_MAX);
    let mut window = Vec::with_capacity(size + overlap);
    let (mut begin, mut total) = (0_u64, 0_u64);
    let mut told = BTreeSet::new();
    loop {
        let before = window.len();
        let read = stream
            .take(size as u64)
            .read_to_end(&mut window)
            .map(|read| read as u64);
        // What came before an error is looked at all the same.
        look(canaries, &window, &mut |number, form, at| {
            let new = told.len() < FINDINGS_MAX && told.insert((number, form.clone()));
            if new {
                findings.push(Finding {
                    place: place.to_owned(),
                    canary: canaries.names.get(number).cloned().unwrap_or_default(),
                    form,
                    offset: begin + at as u64,
                });
            }
        });
        total += read?;
        if window.len() == before {
            return Ok(total);
        }
        let gone = window.len().saturating_sub(overlap);
        window.drain(..gone);
        begin += gone as u64;
    }
}

/// Looks at one window: as it stands, through each view, and through each view of that.
fn look(canaries: &Canaries, window: &[u8], tell: &mut dyn FnMut(usize, String, usize)) {
    let needles = &canaries.needles;
    for (number, form, at) in needles.found(window) {
        tell(number, form.to_owned(), at);
    }
    for outer in VIEWS {
        let Some(once) = outer.of(window) else {
            continue;
        };
        for (number, form, at) in needles.found(&once) {
            tell(number, format!("{form} in {}", outer.name), at);
        }
        for inner in VIEWS {
            let Some(twice) = inner.of(&once) else {
                continue;
            };
            for (number, form, at) in needles.found(&twice) {
                let form = format!("{form} in {} in {}", inner.name, outer.name);
                tell(number, form, at);
            }
        }
    }
}
