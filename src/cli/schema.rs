//! `schema`: the JSON Schema of the configuration, for editors.

use std::process::ExitCode;

use super::{Failure, out};
use crate::config;

#[expect(clippy::unnecessary_wraps, reason = "all verbs have one shape")]
pub(super) fn schema() -> Result<ExitCode, Failure> {
    out::data(&(config::schema() + "\n"));
    Ok(ExitCode::SUCCESS)
}
