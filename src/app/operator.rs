//! Where operators come in: made with care, for who can speak there can log in, rotate and revoke.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::error::StartError;
use super::hygiene;
use crate::admin::{Desk, DeskFacts, Entrance, EntranceDoor, Guard, Reload, Watcher};
use crate::audit::Audit;
use crate::config::{AdminAt, AdminPlan, Plan, StorePlan};
use crate::exchange::Exchange;
use crate::listen::{Alarm, SocketFile, server_tls, unix_socket};
use crate::metrics::Metrics;
use crate::tokens::{Door, Selection};
use crate::vocab::{Clock, GrantId};

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
                tracing::warn!(path = %path.display(), %error, "there is no admin socket: `login`, `status`, `rotate`, `revoke` and `reload` cannot reach this process");
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

/// Revokes what an agent is lent, as the verb does: nothing new is lent, what is open is cut, and the issuers are told.
pub(super) fn alarm(door: &Arc<Door>, exchange: &Arc<Exchange>) -> Alarm {
    // Weak: the exchange has it too.
    let (door, exchange) = (Arc::clone(door), Arc::downgrade(exchange));
    Arc::new(move |agent| {
        let Some(exchange) = exchange.upgrade() else {
            return;
        };
        let selection = Selection {
            service: None,
            agent: Some(agent.clone()),
        };
        door.stop(&selection, false);
        sever(&door, &exchange, &selection);
        let door = Arc::clone(&door);
        // Whoever asks `status` or reads the audit file learns what the issuers said.
        tokio::spawn(async move { drop(door.revoke(&selection, false).await) });
    })
}

/// Cuts what rides on a selection that the door has stopped. How many.
fn sever(door: &Arc<Door>, exchange: &Arc<Exchange>, selection: &Selection) -> usize {
    let (door, selection) = (Arc::clone(door), selection.clone());
    exchange.sever(Arc::new(move |service, agent| {
        selection.covers(service, agent) && door.stopped(service, agent)
    }))
}

/// What is spoken about there.
pub(super) fn desk(
    plan: &Plan,
    door: &Arc<Door>,
    exchange: Arc<Exchange>,
    reload: Reload,
    (audit, metrics, clock): (&Audit, &Metrics, &Clock),
) -> Desk {
    let closed = hygiene::standing();
    let facts = DeskFacts {
        agents: {
            let exchange = exchange.clone();
            Box::new(move || exchange.plan().snapshot().agents().cloned().collect())
        },
        renewed: {
            let exchange = exchange.clone();
            Arc::new(move |grant: &GrantId| {
                exchange.forget_sessions(|service, agent| {
                    let whose = grant.agent.is_everyone() || grant.agent == *agent;
                    grant.service == *service && whose
                });
            })
        },
        sever: {
            let door = Arc::clone(door);
            Box::new(move |selection| sever(&door, &exchange, selection))
        },
        reload,
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
