//! A cell for one command: a network of its own with nothing behind it but sockets that somebody outside serves, files that
//! are covered, and no capability left.
//!
//! Three processes of this program, each started by the one before, because what has threads cannot leave its user
//! namespace, and a process namespace begins with the next child:
//!
//! 1. *outside* ([`Cell`]): in the process that runs the proxy. It gets the cell's listening sockets and serves them.
//! 2. *the wall* (`wall.rs`): makes the namespaces, the routes, the sockets and the covers, then waits. It keeps the
//!    capabilities of the cell, so that a cover that slipped can be put back, and nothing inside can reach it.
//! 3. *the first process inside* (`first.rs`): mounts `/proc`, drops every capability, starts the command and waits for it.
//!    When it ends, the kernel ends all that is left inside.
//!
//! In the cell every address is this machine's: the routes are local ones, so a connection to any address reaches the
//! listener of its port or is refused at once, and the listener's socket tells which address was meant. No packet filter
//! and no program of the system takes part.
//!
//! Where the system allows no namespaces, there is a [`fence()`], which is weaker.
//!
//! It knows nothing of the proxy, of its configuration or of requests. Invariants: the command starts only after everything
//! else has succeeded; descriptors that the command did not ask for do not reach it; whoever dies takes those inside along.

mod channel;
mod covers;
mod error;
mod fence;
mod first;
mod outside;
mod privileges;
mod routes;
mod sockets;
mod wall;

pub use error::CellError;
pub use outside::{Cell, Fenced, Inmate, Order, Outline, Sockets, Started, fence};

use std::process::ExitCode;

/// What this program is started with to be one side of a cell, before the word for the side.
pub const VERB: &str = "__isolate";

/// What a process of this program is for a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// Becomes the command, behind a fence.
    Fence,
    First,
    Wall,
}

impl Side {
    fn word(self) -> &'static str {
        match self {
            Self::Fence => "fence",
            Self::First => "first",
            Self::Wall => "wall",
        }
    }
}

/// Is the side that is called so. `None`: none is. Must be called while the process has one thread.
#[must_use]
pub fn inside(side: &str) -> Option<ExitCode> {
    let sides = [Side::Fence, Side::First, Side::Wall];
    let side = sides.into_iter().find(|known| known.word() == side)?;
    // What the caller of `run` left open would be a way around every wall: a folder outside, a socket.
    close_fds::set_fds_cloexec(3, &[]);
    Some(match side {
        Side::Fence => fence::run(),
        Side::First => first::run(),
        Side::Wall => wall::run(),
    })
}
