//! The first process inside: mounts `/proc`, drops every capability, starts the command and gathers what dies.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus, pidfd_open};
use serde::{Deserialize, Serialize};

use super::channel;
use super::outside::Order;
use super::privileges;
use super::wall::FAILED;

/// The command was found and cannot be run.
const NOT_RUNNABLE: u8 = 126;
/// The command was not found.
const NOT_FOUND: u8 = 127;

/// What the first process says to whoever made the cell.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The command runs; a handle of its process comes with it.
    Started {
        /// Whether `/proc` shows the cell alone. It does not in containers that cover parts of theirs.
        own_proc: bool,
    },
    /// The command does not run, for this reason.
    NotStarted { why: String, code: u8 },
}

pub(super) fn run() -> ExitCode {
    ExitCode::from(live().unwrap_or(FAILED))
}

fn live() -> io::Result<u8> {
    let channel = super::wall::channel()?;
    let (order, mut descriptors): (Order, Vec<OwnedFd>) = channel::receive(&channel)?;
    let input = descriptors.pop().ok_or(io::ErrorKind::InvalidData)?;
    let started = prepare(&order).and_then(|own_proc| Ok((own_proc, start(&order, input)?)));
    let (own_proc, command) = match started {
        Ok(started) => started,
        Err((why, code)) => {
            channel::send(&channel, &Report::NotStarted { why, code }, &[])?;
            return Ok(code);
        }
    };
    let handle = pidfd_open(command, PidfdFlags::empty())?;
    channel::send(&channel, &Report::Started { own_proc }, &[handle.as_fd()])?;
    drop((channel, handle));
    gather(command)
}

/// Everything that must hold before the command starts. Answers whether `/proc` is the cell's own.
fn prepare(order: &Order) -> Result<bool, (String, u8)> {
    let failed = |step: &str, error: io::Error| (format!("{step}: {error}"), FAILED);
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    // Refused where the old one is covered in part. That one shows processes outside, none of which can be looked into:
    // they are of another user namespace.
    let own_proc = mount("proc", "/proc", "proc", flags, None).is_ok();
    if order.apart {
        rustix::process::setsid().map_err(|e| failed("leaving the terminal", e.into()))?;
    }
    privileges::drop_all().map_err(|e| failed("dropping capabilities", e))?;
    privileges::bind_to_parent().map_err(|e| failed("binding to the wall", e))?;
    privileges::close_to_others().map_err(|e| failed("closing the first process", e))?;
    // By its path, so that it is the one behind the covers.
    let directory = Path::new(&order.directory);
    std::env::set_current_dir(directory).map_err(|e| {
        failed(
            &format!("the folder {} cannot be entered", directory.display()),
            e,
        )
    })?;
    Ok(own_proc)
}

fn start(order: &Order, input: OwnedFd) -> Result<Pid, (String, u8)> {
    let environment = order.environment.iter();
    let spawned = Command::new(&order.program)
        .args(&order.arguments)
        .env_clear()
        .envs(environment.map(|(name, value): &(OsString, OsString)| (name, value)))
        .stdin(Stdio::from(input))
        .spawn();
    match spawned {
        Ok(child) => Ok(Pid::from_child(&child)),
        Err(error) => Err(not_started(&order.program, &error)),
    }
}

/// Why a program does not run, and the exit code that says so.
pub(super) fn not_started(program: &OsStr, error: &io::Error) -> (String, u8) {
    let code = if error.kind() == io::ErrorKind::NotFound {
        NOT_FOUND
    } else {
        NOT_RUNNABLE
    };
    (format!("{}: {error}", program.to_string_lossy()), code)
}

/// Waits for the command, and for whatever else ends as a child of the first process.
fn gather(command: Pid) -> io::Result<u8> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == command => return Ok(code(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The command's code, or 128 + n for signal n.
fn code(status: WaitStatus) -> u8 {
    let signal = status.terminating_signal().map(|n| 128 + n);
    let code = status.exit_status().or(signal);
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(FAILED)
}
