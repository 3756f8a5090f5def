//! The cell as whoever runs the proxy sees it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;

use super::channel::{self, DESCRIPTORS_MAX};
use super::error::{CellError, Step as _};
use super::fence::Fence;
use super::first::Report;
pub use super::sockets::Sockets;
use super::wall::Reply;
use super::{Side, VERB};

/// How long making a cell, or starting its command, may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most ports: two families each, and the few others.
const PORTS_MAX: usize = DESCRIPTORS_MAX / 2 - 4;

/// What a cell is to be like.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outline {
    /// Ports on which every address is answered.
    pub ports: Vec<u16>,
    /// Files and folders that are covered; what is not there is covered when it comes.
    pub hidden: Vec<OsString>,
    /// Files that the command may read and not change.
    pub fixed: Vec<OsString>,
    /// Folders that stay although they lie under `/run`.
    pub kept: Vec<OsString>,
    /// Folders whose unix sockets are covered, whatever the kernel calls them.
    pub searched: Vec<OsString>,
}

/// What is to be run in a cell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The program, looked for in the `PATH` of its environment.
    pub program: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The folder in which it starts.
    pub directory: OsString,
    /// Whether it loses its terminal as the controlling one: it could type into it otherwise, on systems that allow that.
    pub apart: bool,
}

/// A cell in which nothing runs yet. Dropping it ends it.
pub struct Cell {
    wall: Wall,
    channel: StdUnixStream,
}

/// The process that is the wall; ended with the handle.
struct Wall(Child);

impl Drop for Wall {
    fn drop(&mut self) {
        // It may have ended by itself.
        if self.0.kill().is_ok() {
            drop(self.0.wait());
        }
    }
}

impl Cell {
    /// Makes a cell, and its sockets to be served. Blocks; must be called on a thread that lives as long as the cell.
    ///
    /// # Errors
    /// [`CellError`]; nothing is left behind.
    pub fn build(outline: &Outline) -> Result<(Self, Sockets), CellError> {
        if outline.ports.len() > PORTS_MAX {
            return Err(CellError::failed(
                "making the sockets",
                format!("services have more than {PORTS_MAX} different ports"),
            ));
        }
        let step = "starting the wall";
        let (channel, theirs) = StdUnixStream::pair().step(step)?;
        channel.set_read_timeout(Some(PATIENCE)).step(step)?;
        channel.set_write_timeout(Some(PATIENCE)).step(step)?;
        let wall = Command::new("/proc/self/exe")
            .arg0("tokenward")
            .args([VERB, Side::Wall.word()])
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .step(step)?;
        let cell = Self {
            wall: Wall(wall),
            channel,
        };
        channel::send(&cell.channel, outline, &[]).step(step)?;
        match channel::receive(&cell.channel).step("waiting for the wall")? {
            (Reply::Ready(purposes), sockets) => {
                let sockets = Sockets::sorted(&purposes, sockets).step("taking the sockets")?;
                Ok((cell, sockets))
            }
            (Reply::Failed(error), _) => Err(error),
        }
    }

    /// Starts the command, with this process's standard input, output and error. Blocks.
    ///
    /// # Errors
    /// [`CellError`]; the cell is at its end then.
    pub fn start(self, order: &Order) -> Result<Started, CellError> {
        let step = "starting the command";
        let Self { wall, channel } = self;
        channel::send(&channel, &(), &[]).step(step)?;
        if let (Reply::Failed(error), _) = channel::receive(&channel).step(step)? {
            return Err(error);
        }
        channel::send(&channel, order, &[io::stdin().as_fd()]).step(step)?;
        let (report, handles): (Report, _) = channel::receive(&channel).step(step)?;
        match report {
            Report::Started { own_proc } => {
                let handle = handles.into_iter().next();
                let command = handle.ok_or_else(|| CellError::failed(step, "no handle came"))?;
                let inmate = Inmate {
                    wall,
                    channel,
                    command,
                };
                Ok(Started::Runs { inmate, own_proc })
            }
            Report::NotStarted { why, code } => Ok(Started::Not { why, code }),
        }
    }
}

/// What became of an [`Order`].
pub enum Started {
    /// The command runs.
    Runs {
        /// It.
        inmate: Inmate,
        /// Whether `/proc` shows it the processes of its cell alone.
        own_proc: bool,
    },
    /// It does not, with what its caller's exit code is to be.
    Not {
        /// Why.
        why: String,
        /// 125, 126 or 127.
        code: u8,
    },
}

/// A command that runs in a cell. Dropping it ends both.
pub struct Inmate {
    wall: Wall,
    channel: StdUnixStream,
    command: OwnedFd,
}

impl Inmate {
    /// Sends the command a signal.
    ///
    /// # Errors
    /// The system's; the command may have ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(pidfd_send_signal(&self.command, signal)?)
    }

    /// Waits for the end of the command and of all that it has left behind. Its status is the command's: a code, 128 + n for
    /// a signal n. Nothing is lost where this is dropped.
    ///
    /// # Errors
    /// The system's.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let channel = self.channel.try_clone()?;
        channel.set_nonblocking(true)?;
        let mut channel = UnixStream::from_std(channel)?;
        // The wall holds its end as long as it lives, and says nothing more.
        let _end = channel.read(&mut [0; 1]).await?;
        self.wall.0.wait()
    }
}

/// What became of a command behind a fence.
pub enum Fenced {
    /// It runs; dropping the handle ends it.
    Runs(tokio::process::Child),
    /// It does not, with what its caller's exit code is to be.
    Not {
        /// Why.
        why: String,
        /// 125, 126 or 127.
        code: u8,
    },
}

/// Starts a command that can connect to one TCP port and read no hidden file, on a system without namespaces. Must be called
/// on a thread that lives as long as the command.
///
/// # Errors
/// [`CellError`]; nothing runs then.
pub async fn fence(outline: &Outline, port: u16, order: Order) -> Result<Fenced, CellError> {
    let step = "starting the command";
    let (channel, theirs) = StdUnixStream::pair().step(step)?;
    channel.set_read_timeout(Some(PATIENCE)).step(step)?;
    channel.set_write_timeout(Some(PATIENCE)).step(step)?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("tokenward")
        .args([VERB, Side::Fence.word()])
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(theirs)));
    let mut command = tokio::process::Command::from(command);
    let child = command.kill_on_drop(true).spawn().step(step)?;
    // It holds our end of theirs.
    drop(command);
    let fence = Fence {
        port,
        hidden: outline.hidden.clone(),
        order,
    };
    let told = tokio::task::spawn_blocking(move || {
        channel::send(&channel, &fence, &[io::stdin().as_fd()])?;
        channel::receive::<Report>(&channel)
    });
    match told.await.map_err(io::Error::other).step(step)? {
        Ok((Report::NotStarted { why, code }, _)) => Ok(Fenced::Not { why, code }),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Fenced::Runs(child)),
        Ok((Report::Started { .. }, _)) => Err(CellError::failed(step, "an answer out of turn")),
        Err(error) => Err(CellError::failed(step, error)),
    }
}
