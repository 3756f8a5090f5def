//! The configuration file: from text to a plan that can be run, or to every reason why not.
//!
//! The way of a file: `document` makes a tree with line numbers, `shape` checks the tree against the schema, serde
//! fills the types of `raw` (the file as written), and `compile` makes the [`Plan`] (what the program runs). Each
//! stage adds to the same findings, so one run names all mistakes.
//!
//! The room knows the settings of every other room and nothing of their work: it opens no socket and starts no task.
//! It is the only one that reads the environment, and it resolves references to secrets.
//!
//! Invariant: no message repeats a value of the file, a line of it, or anything found behind a reference.

mod compile;
mod document;
mod env;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod known;
mod plan;
mod problem;
mod prompts;
mod raw;
mod same;
mod schema;
mod secrets;
mod shape;
mod values;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::path::Path;

use serde::Deserialize;

pub use env::{Environment, environment};
pub use plan::{
    AdminAt, AdminPlan, CaPlan, DrainPlan, LimitsPlan, ListenPlan, ListenerTls, Plan, ProxyAddress,
    ProxyAt, StorePlan,
};
pub use problem::{Problem, Problems};
pub use prompts::{Answers, Ask, Question, Unanswered};
pub use schema::schema;

use problem::{Findings, Place};
use prompts::Prompts;
use raw::RawFile;
use secrets::References;

/// Largest configuration file.
const FILE_MAX: u64 = 1 << 20;

/// Which references to secrets are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretReading {
    /// All of them, and every other file that the configuration names: for `serve`, `run` and `check`.
    Resolve,
    /// The admin API's token and certificate alone: for verbs that speak to the running proxy. The plan cannot be served.
    Operator,
    /// None: nothing but the file itself and the public certificate of `ca.cert` is read, for verbs that only look at
    /// rules or certificates. The plan cannot be served.
    Skip,
}

/// Reads and compiles a configuration file. Blocks: it reads files and may run commands for up to ten seconds each.
/// Nobody is asked for anything: `{prompt: TEXT}` is refused.
///
/// # Errors
/// [`Problems`], every one of them with its line, its key, what is wrong and what to do.
pub fn load(path: &Path, secrets: SecretReading) -> Result<Plan, Problems> {
    load_in(path, secrets, &environment())
}

/// [`load`] with every secret; a person is asked where the file wants it, once the file was found to be well-formed.
///
/// # Errors
/// [`Problems`], as [`load`].
pub fn load_asking(path: &Path, ask: Ask<'_>) -> Result<Plan, Problems> {
    let prompts = Prompts::Ask(ask);
    read_plan(path, SecretReading::Resolve, prompts, &environment())
}

/// [`load`] with every secret, for a process that was started with these answers. A question that is new is refused.
///
/// # Errors
/// [`Problems`], as [`load`].
pub fn load_again(path: &Path, answers: &Answers) -> Result<Plan, Problems> {
    let prompts = Prompts::Kept(answers);
    read_plan(path, SecretReading::Resolve, prompts, &environment())
}

/// [`load`] with every secret but those that a person would be asked for. Not for serving: those places are empty.
///
/// # Errors
/// [`Problems`], as [`load`].
pub fn inspect(path: &Path) -> Result<Plan, Problems> {
    let (prompts, environment) = (Prompts::Leave, environment());
    read_plan(path, SecretReading::Resolve, prompts, &environment)
}

/// [`load`] in a given environment.
///
/// # Errors
/// [`Problems`], as [`load`].
pub fn load_in(
    path: &Path,
    secrets: SecretReading,
    environment: &Environment,
) -> Result<Plan, Problems> {
    let nobody = Answers::default();
    let prompts = match secrets {
        SecretReading::Resolve => Prompts::Kept(&nobody),
        SecretReading::Operator | SecretReading::Skip => Prompts::Leave,
    };
    read_plan(path, secrets, prompts, environment)
}

fn read_plan(
    path: &Path,
    secrets: SecretReading,
    prompts: Prompts<'_>,
    environment: &Environment,
) -> Result<Plan, Problems> {
    let mut findings = Findings::new(&path.display().to_string());
    let text = read(path, &mut findings);
    let base = path.parent().unwrap_or_else(|| Path::new(""));
    let plan = text.and_then(|text| {
        let reading = (secrets, prompts);
        plan(&text, base, reading, environment, &mut findings)
    });
    let warnings = findings.finish()?;
    // Without a plan there is a finding, so this never takes the default.
    let plan = plan.ok_or_else(|| Problems(Vec::new()))?;
    Ok(Plan { warnings, ..plan })
}

fn plan(
    text: &str,
    base: &Path,
    (secrets, prompts): (SecretReading, Prompts<'_>),
    environment: &Environment,
    findings: &mut Findings,
) -> Option<Plan> {
    let root = document::parse(text, findings)?;
    let schema = schema::root();
    let (checked, questions) = shape::check(&root, &schema, findings);
    let Ok(raw) = RawFile::deserialize(checked) else {
        // `shape` lets nothing through that serde refuses; its message could quote the file, so it is not shown.
        let what = "the file does not fit the schema";
        let remedy = "compare it with `tokenward schema`";
        findings.error_at(Place::START, "(file)", what, remedy);
        return None;
    };
    let answers = prompts::answers(&questions, prompts, findings);
    let references = References::new(base, environment, &answers);
    let plan = compile::compile(raw, references, secrets, findings);
    Some(Plan {
        questions,
        answers: answers.clone(),
        ..plan
    })
}

fn read(path: &Path, findings: &mut Findings) -> Option<String> {
    let bytes = File::open(path)
        .and_then(secrets::guarded)
        .and_then(|file| secrets::bounded(file, FILE_MAX));
    let refusal = match bytes {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) if text.starts_with('\u{feff}') => (
                "begins with a byte order mark",
                "save it as UTF-8 without one",
            ),
            Ok(text) if !text.contains('\0') => return Some(text),
            _ => ("is not a text in UTF-8", "save it as UTF-8"),
        },
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound => ("does not exist", "give its path with --config FILE"),
            io::ErrorKind::PermissionDenied => ("may not be read by this user", "check its mode"),
            io::ErrorKind::InvalidInput => (
                "may be written by anybody on this machine, who could then decide what agents may do",
                "chmod o-w it",
            ),
            io::ErrorKind::FileTooLarge => {
                ("is larger than 1 MiB", "it should have some kilobytes")
            }
            _ => ("cannot be read", "check that it is a file"),
        },
    };
    findings.error_at(Place::START, "(file)", refusal.0, refusal.1);
    None
}
