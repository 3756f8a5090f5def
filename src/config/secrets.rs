//! From a reference to the secret: an environment variable, a file, a command, or what a person has typed.
//!
//! Errors name the variable or the file, never what was found there, and not how long it was. Every read is bounded.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use zeroize::Zeroize;

use super::env::Environment;
use super::prompts::Answers;
use super::raw::SecretRef;
use crate::tokens::Supply;
use crate::vocab::{Clock, Moment, Secret};

/// Largest secret.
const SECRET_MAX: u64 = 64 * 1024;
const SECRET_ROOM: usize = 64 * 1024 + 1;
/// Longest run of an `exec` command.
const EXEC_LIMIT: Duration = Duration::from_secs(10);

/// What is wrong and what to do.
pub(super) struct Unreadable {
    pub(super) what: String,
    pub(super) remedy: &'static str,
}

impl Unreadable {
    fn new(what: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            what: what.into(),
            remedy,
        }
    }
}

/// Reads secrets that the file refers to, and the other files that it names.
pub(super) struct References<'a> {
    /// The directory of the configuration file, which relative paths start from.
    pub(super) base: &'a Path,
    pub(super) environment: &'a Environment,
    /// What was asked for at the start.
    pub(super) answers: &'a Answers,
    pub(super) exec_limit: Duration,
}

impl<'a> References<'a> {
    pub(super) fn new(base: &'a Path, environment: &'a Environment, answers: &'a Answers) -> Self {
        Self {
            base,
            environment,
            answers,
            exec_limit: EXEC_LIMIT,
        }
    }

    /// The same secret, to be read while we run. A variable and an answer do not change any more; files and commands do.
    pub(super) fn supply(&self, reference: &SecretRef) -> Supply {
        let (base, environment) = (self.base.to_owned(), self.environment.clone());
        let (limit, reference) = (self.exec_limit, reference.clone());
        let answers = self.answers.clone();
        let name = match &reference {
            SecretRef::Env(name) => format!("env {name}"),
            SecretRef::Exec(words) => format!("exec {words:?}"),
            SecretRef::File(path) => format!("file {}", self.path(path).display()),
            SecretRef::Prompt(text) => format!("prompt {text}"),
        };
        Supply::new(&name, move || {
            let again = References {
                base: &base,
                environment: &environment,
                answers: &answers,
                exec_limit: limit,
            };
            again.secret(&reference).ok()
        })
    }

    /// A path of the file, made absolute where the configuration's own path is.
    pub(super) fn path(&self, text: &str) -> PathBuf {
        self.base.join(text)
    }

    /// The secret itself, without one final newline.
    pub(super) fn secret(&self, reference: &SecretRef) -> Result<Secret<Vec<u8>>, Unreadable> {
        let mut found = match reference {
            SecretRef::Env(name) => self.variable(name)?,
            SecretRef::Exec(command) => self.output(command)?,
            SecretRef::File(path) => self.file(path, SECRET_MAX)?,
            SecretRef::Prompt(text) => {
                return self.answers.get(text).ok_or_else(|| {
                    Unreadable::new("nobody was asked for it", "restart tokenward, which asks")
                });
            }
        };
        if found.last() == Some(&b'\n') {
            found.pop();
            if found.last() == Some(&b'\r') {
                found.pop();
            }
        }
        if found.is_empty() {
            let what = match reference {
                SecretRef::Env(_) | SecretRef::Prompt(_) => "the value is empty".to_owned(),
                SecretRef::Exec(_) => "the command printed nothing".to_owned(),
                SecretRef::File(path) => format!("{} is empty", self.named(path)),
            };
            return Err(Unreadable::new(what, "put the secret there"));
        }
        Ok(Secret::new(found))
    }

    /// A file that the configuration names, secret or not.
    pub(super) fn file(&self, text: &str, most: u64) -> Result<Vec<u8>, Unreadable> {
        let read = File::open(self.path(text))
            .and_then(guarded)
            .and_then(|file| bounded(file, most));
        read.map_err(|error| {
            if error.kind() == io::ErrorKind::InvalidInput {
                let what = format!(
                    "{} may be written by anybody on this machine",
                    self.named(text)
                );
                return Unreadable::new(
                    what,
                    "chmod o-w it, and make sure that it still holds what it should",
                );
            }
            let why = match error.kind() {
                io::ErrorKind::NotFound => "does not exist",
                io::ErrorKind::PermissionDenied => "may not be read by this user",
                io::ErrorKind::IsADirectory => "is a directory",
                io::ErrorKind::FileTooLarge => "is too large",
                _ => "cannot be read",
            };
            Unreadable::new(
                format!("{} {why}", self.named(text)),
                "check the path; it is relative to the configuration file",
            )
        })
    }

    fn variable(&self, name: &str) -> Result<Vec<u8>, Unreadable> {
        if let Some(value) = self.environment.text(name) {
            return Ok(value.into_bytes());
        }
        // Somebody may have put the secret here instead of a name, so only what looks like a name is repeated.
        let usual = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        let what = if name.len() <= 64 && name.bytes().all(usual) {
            format!("the environment variable {name} is not set or empty")
        } else {
            "the environment variable named here is not set or empty".to_owned()
        };
        Err(Unreadable::new(what, "set it before tokenward starts"))
    }

    /// Runs the command without a shell, in a cleared environment: it must not depend on what the caller exported,
    /// and whoever can write to that environment must not be able to redirect it.
    fn output(&self, words: &[String]) -> Result<Vec<u8>, Unreadable> {
        let [program, arguments @ ..] = words else {
            return Err(Unreadable::new(
                "the command is empty",
                "write [CMD, ARG, ...]",
            ));
        };
        let program = if program.contains('/') {
            self.path(program)
        } else {
            PathBuf::from(program)
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        let started = command.spawn();
        let mut child = started.map_err(|_| {
            let remedy = "give the program's full path; PATH is not passed on";
            Unreadable::new("the command cannot be started", remedy)
        })?;
        let finished = finish(&mut child, self.exec_limit);
        if finished.is_none() {
            stop(&mut child);
        }
        finished.unwrap_or_else(|| {
            Err(Unreadable::new(
                "the command did not end in time",
                "it must print the secret and end within 10 seconds",
            ))
        })
    }

    fn named(&self, text: &str) -> String {
        let path = self.path(text);
        let shown = path.display().to_string();
        shown.chars().flat_map(char::escape_debug).collect()
    }
}

/// Waits for output and exit. `None`: the time is over.
fn finish(child: &mut Child, limit: Duration) -> Option<Result<Vec<u8>, Unreadable>> {
    let clock = Clock::system();
    let deadline: Moment = clock.now() + limit;
    let pipe = child.stdout.take()?;
    let (sender, receiver) = mpsc::channel();
    // Not joined: a grandchild that keeps the pipe open would hold us here. The channel is what is waited for.
    thread::spawn(move || sender.send(bounded(pipe, SECRET_MAX)).is_ok());
    let output = receiver.recv_timeout(limit).ok()?;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if clock.now() < deadline => thread::sleep(Duration::from_millis(5)),
            Ok(None) => return None,
            Err(_) => break None,
        }
    };
    Some(match (output, status) {
        (Ok(output), Some(status)) if status.success() => Ok(output),
        (Ok(mut output), _) => {
            output.zeroize();
            Err(Unreadable::new(
                "the command failed",
                "run it by hand with `env -i` to see why",
            ))
        }
        (Err(_), _) => Err(Unreadable::new(
            "the command printed more than 64 KiB",
            "it must print the secret alone",
        )),
    })
}

/// Ends the command and what it started.
fn stop(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let ended = group.is_some_and(|group| kill_process_group(group, Signal::KILL).is_ok());
    if !ended && child.kill().is_err() {
        return;
    }
    drop(child.wait());
}

/// Refuses a file that everybody on the machine may write: whoever does would choose our secrets and rules. Links are
/// followed, as mounted ConfigMaps and Secrets need it; what counts is the file at their end. Pipes and devices pass.
pub(super) fn guarded(file: File) -> io::Result<File> {
    let found = file.metadata()?;
    if found.is_file() && found.permissions().mode() & 0o002 != 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(file)
}

/// Everything, or an error where there is more than `most`.
pub(super) fn bounded(source: impl Read, most: u64) -> io::Result<Vec<u8>> {
    // Room for a whole secret at once: a growing buffer would leave copies behind.
    let mut found = Vec::with_capacity(SECRET_ROOM);
    source.take(most + 1).read_to_end(&mut found)?;
    if found.len() as u64 > most {
        found.zeroize();
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(found)
}
