//! The wall: makes the cell's namespaces, network, sockets and covers, starts the first process inside and waits for it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{getegid, geteuid};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::channel;
use super::covers::{self, Covers};
use super::error::{CellError, Step as _};
use super::outside::Outline;
use super::sockets::{self, Purpose};
use super::{Side, VERB, privileges, routes};

/// What the command's exit code cannot be told apart from: we ourselves failed.
pub(super) const FAILED: u8 = 125;
/// How many mount namespaces there may be below the cell's user namespace; the cell's own counts.
const MOUNT_NAMESPACES: &str = "/proc/sys/user/max_mnt_namespaces";
/// How often the covers are looked at.
const MENDING: Duration = Duration::from_millis(200);

/// What the wall says to whoever started it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The sockets come with it, in this order.
    Ready(Vec<Purpose>),
    Failed(CellError),
}

pub(super) fn run() -> ExitCode {
    match stand() {
        Ok(code) => ExitCode::from(code),
        // Whoever waits sees the end of the channel.
        Err(_) => ExitCode::from(FAILED),
    }
}

/// The channel, which came as standard input: the one descriptor whose number everybody knows.
pub(super) fn channel() -> io::Result<UnixStream> {
    let channel = rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?;
    Ok(UnixStream::from(channel))
}

fn stand() -> io::Result<u8> {
    let channel = channel()?;
    let (outline, _): (Outline, _) = channel::receive(&channel)?;
    let built = build(&outline);
    let (covers, sockets) = match built {
        Ok(built) => built,
        Err(error) => {
            channel::send(&channel, &Reply::Failed(error), &[])?;
            return Ok(FAILED);
        }
    };
    let (purposes, descriptors) = sockets::parts(&sockets);
    channel::send(&channel, &Reply::Ready(purposes), &descriptors)?;
    // Whoever holds a listening socket keeps its port taken.
    drop(sockets);
    // The proxy makes files of its own meanwhile, and the command must not see them for a moment.
    let ((), _) = channel::receive(&channel)?;
    if let Err(error) = covers.mend() {
        channel::send(&channel, &Reply::Failed(error), &[])?;
        return Ok(FAILED);
    }
    channel::send(&channel, &Reply::Ready(Vec::new()), &[])?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut held = Vec::new();
        // They are for the command: the terminal tells it as well, and whoever starts us passes on the others.
        for kind in [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::terminate(),
        ] {
            held.push(signal(kind)?);
        }
        // Our own end stays open: whoever made the cell knows by its closing that we are gone.
        let first = first(channel.try_clone()?)?;
        wait(first, &covers).await
    })
}

/// Makes everything that stands around the command.
fn build(outline: &Outline) -> Result<(Covers, Vec<(Purpose, OwnedFd)>), CellError> {
    privileges::bind_to_parent().step("binding the cell to this process")?;
    // As long as this is the system's network.
    let paths = |all: &[OsString]| -> Vec<PathBuf> { all.iter().map(PathBuf::from).collect() };
    let (kept, searched) = (paths(&outline.kept), paths(&outline.searched));
    let mut hidden =
        covers::sockets(&kept, &searched).step("listing the sockets of this machine")?;
    hidden.extend(paths(&outline.hidden));
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    leave()?;
    let map = |file: &str, text: &str| {
        fs::write(format!("/proc/self/{file}"), text).building("mapping your user")
    };
    map("setgroups", "deny")?;
    // The same numbers inside as outside, so that files keep their owner.
    map("uid_map", &format!("{uid} {uid} 1"))?;
    map("gid_map", &format!("{gid} {gid} 1"))?;
    privileges::bind_to_parent().step("binding the cell to this process")?;
    privileges::close_to_others().step("closing the wall")?;
    let with_v6 = routes::lay().building("laying the routes")?;
    let sockets = sockets::make(&outline.ports, with_v6).building("making the sockets")?;
    let covers = Covers::lay(hidden, &kept, uid)?;
    covers::fix(&paths(&outline.fixed))?;
    // A cover hangs on a place in the tree of mounts. Whoever had a tree of its own could carry a hidden folder to where none is.
    fs::write(MOUNT_NAMESPACES, "0").building("forbidding mounts inside")?;
    privileges::lend().step("lending capabilities")?;
    privileges::bind_to_parent().step("binding the cell to this process")?;
    Ok((covers, sockets))
}

/// Leaves every namespace that matters.
fn leave() -> Result<(), CellError> {
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS;
    #[expect(
        deprecated,
        reason = "what is unsafe about its successor is CLONE_FILES, which is not among the flags"
    )]
    rustix::thread::unshare(flags).building("leaving the namespaces of this system")
}

/// Starts the first process inside, which speaks over the channel from here on.
fn first(channel: UnixStream) -> io::Result<Child> {
    let mut command = std::process::Command::new("/proc/self/exe");
    command
        .arg0("tokenward")
        .args([VERB, Side::First.word()])
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(channel)));
    Command::from(command).kill_on_drop(true).spawn()
}

async fn wait(mut first: Child, covers: &Covers) -> io::Result<u8> {
    let mut looks = tokio::time::interval(MENDING);
    loop {
        tokio::select! {
            status = first.wait() => {
                let status = status?;
                let code = status.code().or_else(|| status.signal().map(|n| 128 + n));
                return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED));
            }
            _ = looks.tick() => if covers.mend().is_err() {
                // What cannot be covered must not be seen: the end of the first process is the end of all.
                first.kill().await?;
                return Ok(FAILED);
            },
        }
    }
}
