//! The operator's socket: made with care, for who can speak to it can log in, rotate and revoke.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use super::error::StartError;
use super::hygiene;
use crate::admin::{Desk, DeskFacts, Reload};
use crate::config::{AdminPlan, Plan, StorePlan};
use crate::exchange::Exchange;
use crate::listen::{SocketFile, unix_socket};
use crate::tokens::Door;

/// Only the owner may connect.
const MODE: u32 = 0o600;

/// A socket that was made and is not served yet.
pub(super) struct AdminSocket {
    pub(super) listener: tokio::net::UnixListener,
    /// Removes it from the disk at the end.
    pub(super) file: SocketFile,
}

/// Makes the socket. Where the configuration does not ask for one, a place that has none is no reason not to start.
pub(super) async fn bind(plan: Option<&AdminPlan>) -> Result<Option<AdminSocket>, StartError> {
    let Some(plan) = plan else {
        return Ok(None);
    };
    match make(&plan.path).await {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if !plan.required => {
            tracing::warn!(path = %plan.path.display(), %error, "there is no admin socket: `login`, `status`, `rotate`, `revoke` and `reload` cannot reach this process");
            Ok(None)
        }
        Err(error) => Err(StartError::Admin {
            path: plan.path.display().to_string(),
            why: error.kind(),
        }),
    }
}

async fn make(path: &Path) -> io::Result<AdminSocket> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let found = fs::metadata(folder)?;
    let own = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
    // Whoever else may write there could put a socket of theirs in the place of ours.
    if !own || found.mode() & 0o077 != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (listener, file) = unix_socket(path, MODE).await?;
    Ok(AdminSocket { listener, file })
}

/// What is spoken about there.
pub(super) fn desk(plan: &Plan, door: &Arc<Door>, exchange: Arc<Exchange>, reload: Reload) -> Desk {
    let closed = hygiene::standing();
    let facts = DeskFacts {
        uid: rustix::process::geteuid().as_raw(),
        agents: {
            let exchange = exchange.clone();
            Box::new(move || exchange.plan().snapshot().agents().cloned().collect())
        },
        sever: {
            let door = Arc::clone(door);
            Box::new(move |selection| {
                let (door, selection) = (Arc::clone(&door), selection.clone());
                exchange.sever(Arc::new(move |service, agent| {
                    selection.covers(service, agent) && door.stopped(service, agent)
                }))
            })
        },
        reload,
        protections: vec![
            ("not_dumpable", closed.not_dumpable),
            ("no_core", closed.no_core),
        ],
        store: match plan.store {
            StorePlan::File { .. } => "file",
            StorePlan::Memory => "memory",
        },
    };
    Desk::new(Arc::clone(door), facts)
}
