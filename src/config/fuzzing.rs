//! What fuzz targets ask of this room, see `fuzz/`. It decides nothing itself.

use std::path::Path;

use super::problem::{Findings, Problem};
use super::prompts::Prompts;
use super::{Environment, SecretReading, plan};

/// All that is wrong with a file of this text, no other file being there; `None` where it can be run.
#[must_use]
pub fn problems(text: &str) -> Option<Vec<Problem>> {
    let mut findings = Findings::new("file");
    let nowhere = Path::new("/nonexistent");
    let environment = Environment::of([]);
    let plan = plan(
        text,
        nowhere,
        (SecretReading::Skip, Prompts::Leave),
        &environment,
        &mut findings,
    );
    match (findings.finish(), plan) {
        (Err(problems), _) => Some(problems.0),
        (Ok(_), None) => Some(Vec::new()),
        (Ok(_), Some(_)) => None,
    }
}
