//! Accepting connections: bounded in number, ended in order when the proxy drains.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use quick_cache::sync::Cache;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::{Agent, Agents};
use crate::ca::Leaves;
use crate::exchange::{Ending, Exchange};
use crate::metrics::Metrics;
use crate::vocab::{AgentName, Code, Host};

/// TLS configurations kept, one per host; as many as leaves.
const CONFIGS: usize = 10_000;
/// How long to rest when the system has no room for another socket.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// How long it may take to cut what did not end in time.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// What one listener and one agent may have open.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Tunnels of one agent.
    pub per_agent: usize,
    /// Streams on one HTTP/2 connection.
    pub streams: u32,
    /// Bytes of a request's head.
    pub request_head: usize,
}

/// What doors are built from.
pub struct DoorsSetup {
    /// Who carries requests.
    pub exchange: Arc<Exchange>,
    /// Who may call.
    pub agents: Agents,
    /// Certificates for intercepted hosts.
    pub leaves: Arc<Leaves>,
    /// What is counted.
    pub metrics: Metrics,
    /// What may be open.
    pub limits: Limits,
}

/// All doors of a proxy. They share their limits and their end.
pub struct Doors {
    pub(super) exchange: Arc<Exchange>,
    pub(super) agents: ArcSwap<Agents>,
    pub(super) leaves: Arc<Leaves>,
    pub(super) metrics: Metrics,
    pub(super) limits: Limits,
    pub(super) configs: Cache<Host, Arc<ServerConfig>>,
    connections: Arc<Semaphore>,
    shares: Mutex<HashMap<AgentName, Arc<Semaphore>>>,
    pub(super) tasks: TaskTracker,
    pub(super) cut: CancellationToken,
    pub(super) draining: CancellationToken,
}

impl Doors {
    /// Puts the doors together; nothing listens yet.
    #[must_use]
    pub fn new(setup: DoorsSetup) -> Arc<Self> {
        let DoorsSetup {
            exchange,
            agents,
            leaves,
            metrics,
            limits,
        } = setup;
        let Ending { tasks, cut } = exchange.ending().clone();
        Arc::new(Self {
            exchange,
            agents: ArcSwap::from_pointee(agents),
            leaves,
            metrics,
            limits,
            configs: Cache::new(CONFIGS),
            connections: Arc::new(Semaphore::new(limits.connections)),
            shares: Mutex::default(),
            tasks,
            cut,
            draining: CancellationToken::new(),
        })
    }

    /// Replaces who may call; open tunnels stay with the agent that opened them.
    pub fn replace_agents(&self, agents: Agents) {
        self.agents.store(Arc::new(agents));
    }

    /// Accepts connections of one listener until the drain begins.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.draining.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.clone().take(stream, peer),
                Err(error) => {
                    // Most often no file descriptor is left; a loop without rest would burn the processor.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
    }

    /// Takes one connection, or closes it at once where the limit is reached.
    fn take(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Ok(room) = self.connections.clone().try_acquire_owned() else {
            self.metrics.security_event("connections.limit");
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            let _counted = self.metrics.connection("proxy");
            self.proxy_connection(stream, peer, room).await;
        });
    }

    /// One tunnel's share of what its agent may have open.
    pub(super) fn share(&self, agent: &Agent) -> Result<OwnedSemaphorePermit, Code> {
        // Keyed by names from the configuration, so the map cannot grow by what callers send.
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = shares
            .entry(agent.name().clone())
            .or_insert_with(|| Arc::new(Semaphore::new(self.limits.per_agent)));
        share
            .clone()
            .try_acquire_owned()
            .map_err(|_| Code::AgentRateLimited)
    }

    /// Stops accepting, lets every exchange that has begun come to its end, and answers whether all did in time. What
    /// did not is cut, so that it has its line too.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.draining.cancel();
        self.tasks.close();
        let finished = tokio::time::timeout(limit, self.tasks.wait()).await.is_ok();
        if !finished {
            self.cut.cancel();
            let cut = tokio::time::timeout(CUT_TIMEOUT, self.tasks.wait()).await;
            tracing::debug!(all = cut.is_ok(), "what did not end in time was cut");
        }
        finished
    }
}
