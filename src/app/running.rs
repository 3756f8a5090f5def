//! A proxy that listens, and how it ends.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::reload::{ReloadError, ReloadWish, ReloadWishes, Reloaded, Reloader};
use crate::admin::Readiness;
use crate::audit::{Audit, Event, Writer};
use crate::ca::TrustFiles;
use crate::config::{DrainPlan, Plan};
use crate::listen::{Doors, Listener, RedirectMode};
use crate::tokens::Door;
use crate::upstream::Upstream;
use crate::vocab::AgentName;

/// How long connections to upstreams may take to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What one agent is given.
pub struct Seat {
    /// Who.
    pub agent: AgentName,
    /// The variables of its environment.
    pub environment: Vec<(String, String)>,
}

/// A proxy at work.
pub struct Running {
    pub(super) reloader: Reloader,
    pub(super) wishes: ReloadWishes,
    pub(super) proxies: Vec<SocketAddr>,
    pub(super) transparent: Vec<SocketAddr>,
    pub(super) listening: Vec<String>,
    pub(super) health: Option<SocketAddr>,
    pub(super) admin: Option<SocketAddr>,
    pub(super) trust: TrustFiles,
    pub(super) seats: Vec<Seat>,
    pub(super) doors: Arc<Doors>,
    pub(super) door: Arc<Door>,
    pub(super) upstream: Upstream,
    pub(super) audit: Audit,
    pub(super) writer: Writer,
    pub(super) readiness: Readiness,
    pub(super) stop: CancellationToken,
    pub(super) control: JoinHandle<()>,
    pub(super) drain: DrainPlan,
}

impl Running {
    /// Where the proxy listens, as the proxy variables of agents would name it; sockets by their path.
    #[must_use]
    pub fn listening(&self) -> &[String] {
        &self.listening
    }

    /// The TCP addresses on which the proxy listens.
    #[must_use]
    pub fn proxies(&self) -> &[SocketAddr] {
        &self.proxies
    }

    /// The addresses to which connections may be redirected.
    #[must_use]
    pub fn transparent(&self) -> &[SocketAddr] {
        &self.transparent
    }

    /// Serves one more transparent listener, which somebody else has bound, perhaps in another network namespace. It ends
    /// with the others. Must be called inside the data runtime.
    ///
    /// # Errors
    /// The system's.
    pub fn serve_redirected(
        &self,
        socket: TcpListener,
        mode: RedirectMode,
        agent: Option<AgentName>,
    ) -> io::Result<()> {
        let listener = Listener::redirected(socket, mode, agent)?;
        self.doors.serve(listener);
        Ok(())
    }

    /// Where health and metrics are.
    #[must_use]
    pub fn health(&self) -> Option<SocketAddr> {
        self.health
    }

    /// Where the admin API is, where that is a TCP address.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The public trust files.
    #[must_use]
    pub fn trust(&self) -> &TrustFiles {
        &self.trust
    }

    /// What each agent is given.
    #[must_use]
    pub fn seats(&self) -> &[Seat] {
        &self.seats
    }

    /// The state of every grant.
    #[must_use]
    pub fn door(&self) -> &Arc<Door> {
        &self.door
    }

    /// Takes a new configuration into force, as a whole. Requests under way that are not allowed any more end.
    ///
    /// # Errors
    /// [`ReloadError`]; nothing has changed then.
    pub async fn reload(&self, next: Plan) -> Result<Reloaded, ReloadError> {
        self.reloader.reload(next).await
    }

    /// Waits until an operator wants the configuration to be read again. Nothing is lost where this is dropped.
    pub async fn reload_wish(&self) -> ReloadWish {
        self.wishes.next().await
    }

    /// Notes that a new configuration could not even be read; the one in force stays.
    pub async fn note_unreadable(&self) {
        self.reloader.note_unreadable().await;
    }

    /// Says that it is ready: whoever started it has put in place what agents need.
    pub fn open(&self) {
        self.readiness.open();
    }

    /// Ends in order: not ready, no new connections, exchanges finish, token fetches and sessions end, lines are written.
    /// Answers whether every exchange came to its end in time.
    pub async fn shut_down(self) -> bool {
        self.readiness.drain();
        tokio::time::sleep(self.drain.pre_stop).await;
        let finished = self.doors.drain(self.drain.timeout).await;
        // Before the connections to issuers go: a refresh under way must hear its answer.
        self.door.close().await;
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, self.upstream.drain()).await;
        tracing::debug!(closed = closed.is_ok(), "upstream connections closed");
        self.audit.event(Event::Stopped);
        self.stop.cancel();
        let (control, writer) = (self.control, self.writer);
        drop((self.doors, self.audit, self.reloader));
        let ended = tokio::task::spawn_blocking(move || {
            let written = writer.finish();
            (written, control.join().is_ok())
        });
        match ended.await {
            Ok((Ok(()), true)) => {}
            Ok((Err(error), _)) => tracing::error!(%error, "audit lines were lost at the end"),
            Ok((Ok(()), false)) | Err(_) => tracing::error!("the control thread ended in a panic"),
        }
        finished
    }
}
