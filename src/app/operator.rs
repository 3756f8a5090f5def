//! Where operators come in: made with care, for who can speak there can log in and rotate.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::error::StartError;
use super::hygiene;
use crate::admin::{Desk, DeskFacts, Entrance, EntranceDoor, Guard, Watcher};
use crate::audit::Audit;
use crate::config::{AdminAt, AdminPlan, Plan, StorePlan};
use crate::exchange::Exchange;
use crate::listen::{SocketFile, server_tls, unix_socket};
use crate::metrics::Metrics;
use crate::tokens::Door;
use crate::vocab::Clock;

/// Only the owner may connect.
const MODE: u32 = 0o600;

/// A place that was bound and is not served yet.
pub(super) struct AdminSocket {
    pub(super) entrance: Entrance,
    /// The address, where it has one.
    pub(super) address: Option<SocketAddr>,
    /// Removes a unix socket from the disk at the end.
    pub(super) file: Option<SocketFile>,
}

/// Binds it. Where the configuration does not ask for a socket, a place that has none is no reason not to start.
pub(super) async fn bind(plan: Option<&AdminPlan>) -> Result<Option<AdminSocket>, StartError> {
    let Some(plan) = plan else {
        return Ok(None);
    };
    let tls = plan.tls.as_ref();
    let names = tls.map_or_else(Vec::new, |tls| tls.hosts.clone());
    let guard = Guard::new(plan.token.as_ref(), names);
    match &plan.at {
        AdminAt::Tcp(address) => {
            let tls = tls.map(|tls| server_tls(&tls.cert_pem, &tls.key_pem));
            let tls = tls.transpose().map_err(StartError::AdminTls)?;
            let bound = TcpListener::bind(address).await;
            let listener = bound.map_err(|why| StartError::Bind {
                what: "admin.listen",
                address: address.to_string(),
                why: why.kind(),
            })?;
            let address = listener.local_addr()?;
            // The socket was made on the data runtime; its events must arrive where it is served.
            let door = EntranceDoor::Tcp(listener.into_std()?, tls);
            Ok(Some(AdminSocket {
                entrance: Entrance { door, guard },
                address: Some(address),
                file: None,
            }))
        }
        AdminAt::Unix(path) => match make(path).await {
            Ok((door, file)) => Ok(Some(AdminSocket {
                entrance: Entrance { door, guard },
                address: None,
                file: Some(file),
            })),
            Err(error) if !plan.required => {
                tracing::warn!(path = %path.display(), %error, "there is no admin socket: `login`, `status` and `rotate` cannot reach this process");
                Ok(None)
            }
            Err(error) => Err(StartError::Admin {
                path: path.display().to_string(),
                why: error.kind(),
            }),
        },
    }
}

async fn make(path: &Path) -> io::Result<(EntranceDoor, SocketFile)> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    let found = fs::metadata(folder)?;
    let uid = rustix::process::geteuid().as_raw();
    let own = found.uid() == 0 || found.uid() == uid;
    // Whoever else may write there could put a socket of theirs in the place of ours.
    if !own || found.mode() & 0o077 != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let (listener, file) = unix_socket(path, MODE).await?;
    Ok((EntranceDoor::Unix(listener.into_std()?, uid), file))
}

/// What is spoken about there.
pub(super) fn desk(
    plan: &Plan,
    door: &Arc<Door>,
    exchange: Arc<Exchange>,
    (audit, metrics, clock): (&Audit, &Metrics, &Clock),
) -> Desk {
    let closed = hygiene::standing();
    let facts = DeskFacts {
        knows: Box::new(move |agent| {
            let plan = exchange.plan();
            plan.snapshot().agents().any(|known| known == agent)
        }),
        protections: vec![
            ("not_dumpable", closed.not_dumpable),
            ("no_core", closed.no_core),
            ("no_swap", closed.no_swap),
        ],
        store: match plan.store {
            StorePlan::File { .. } => "file",
            StorePlan::Memory => "memory",
        },
        watcher: Watcher::new(audit.clone(), metrics.clone(), clock.clone()),
    };
    Desk::new(Arc::clone(door), facts)
}
