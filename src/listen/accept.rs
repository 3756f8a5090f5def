//! Accepting connections: bounded in number, ended in order when the proxy drains.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::StartHandshake;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::clients;
use super::crowd::Crowd;
use super::hello;
use super::intercept::HANDSHAKE_TIMEOUT;
use super::listener::{Link, Listener, Peer};
use super::quota::{Guest, Quota, Quotas, Strangers};
use super::stall::Stall;
use super::tls::Interception;
use crate::agent::{Agent, Agents, Connection, Unauthenticated};
use crate::audit::Event;
use crate::ca::{CaError, Leaves};
use crate::exchange::{Door, Ending, Exchange};
use crate::metrics::Metrics;
use crate::vocab::{AgentName, Clock, Code};

/// How long to rest when the system has no room for another socket: at first, and at most.
const REST_FIRST: Duration = Duration::from_millis(10);
const REST_MOST: Duration = Duration::from_millis(500);
/// How long a connection may be silent where its source has too many.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a connection waits for the place of one that was closed for it.
const PLACE_TIMEOUT: Duration = Duration::from_secs(1);

/// Most times that a caller is named anew because a reload came in between.
const NAMING_MAX: usize = 3;

/// How long it may take to cut what did not end in time.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// What one listener and one agent may have open.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections of one agent, and of one source before it says which agent it is.
    pub per_agent: usize,
    /// Streams on one HTTP/2 connection.
    pub streams: u32,
    /// Requests of one agent in a second; CONNECTs are counted apart from what is asked inside.
    pub requests_per_second: u32,
    /// Leaf certificates that one agent may have made in a second; as many at once after a pause.
    pub certificates_per_second: u32,
    /// Bytes of a request's head.
    pub request_head: usize,
    /// How long a write may wait for an agent that reads nothing.
    pub write_stall: Duration,
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
    /// Time.
    pub clock: Clock,
    /// What may be open.
    pub limits: Limits,
    /// Revokes all that an agent is lent. Must not block.
    pub alarm: Alarm,
}

/// Told of an agent that is to be stopped.
pub type Alarm = Arc<dyn Fn(&AgentName) + Send + Sync>;

/// All doors of a proxy. They share their limits and their end.
pub struct Doors {
    pub(super) exchange: Arc<Exchange>,
    pub(super) agents: ArcSwap<Agents>,
    pub(super) leaves: Arc<Leaves>,
    pub(super) metrics: Metrics,
    pub(super) limits: Limits,
    pub(super) interception: Interception,
    pub(super) clock: Clock,
    pub(super) quotas: Quotas,
    pub(super) strangers: Strangers,
    pub(super) alarm: Alarm,
    connections: Arc<Semaphore>,
    crowd: Arc<Crowd>,
    pub(super) tasks: TaskTracker,
    pub(super) cut: CancellationToken,
    pub(super) draining: CancellationToken,
}

impl Doors {
    /// Puts the doors together; nothing listens yet.
    ///
    /// # Errors
    /// [`CaError::Signing`] where TLS cannot be set up.
    pub fn new(setup: DoorsSetup) -> Result<Arc<Self>, CaError> {
        let DoorsSetup {
            exchange,
            agents,
            leaves,
            metrics,
            clock,
            limits,
            alarm,
        } = setup;
        let Ending { tasks, cut } = exchange.ending().clone();
        let quotas = Quotas::new(limits);
        quotas.watch(agents.watches());
        Ok(Arc::new(Self {
            exchange,
            agents: ArcSwap::from_pointee(agents),
            leaves,
            metrics,
            limits,
            interception: Interception::new()?,
            clock,
            quotas,
            strangers: Strangers::new(),
            alarm,
            connections: Arc::new(Semaphore::new(limits.connections)),
            crowd: Crowd::new(limits.per_agent),
            tasks,
            cut,
            draining: CancellationToken::new(),
        }))
    }

    /// Replaces who may call. Open tunnels stay with the agent that opened them, while what it is known by is the same;
    /// where it is not, they end.
    pub fn replace_agents(&self, agents: Agents) {
        self.quotas.watch(agents.watches());
        let agents = Arc::new(agents);
        // Stored first: whoever is named by those of before finds that they were replaced, or its proof withdrawn.
        let before = self.agents.swap(agents.clone());
        let withdrawn = before.withdrawn_in(&agents);
        if !withdrawn.is_empty() {
            self.quotas.withdraw(&withdrawn);
            self.exchange.leave(&withdrawn);
        }
    }

    /// Names a caller, with what ends when its proof is withdrawn. Where who may call was replaced meanwhile it is named
    /// anew; where that goes on and on, what it opens is over at once.
    pub(super) fn named(
        &self,
        name: impl Fn(&Agents) -> Result<Agent, Unauthenticated>,
    ) -> Result<(Agent, Arc<Quota>, CancellationToken), Unauthenticated> {
        for _ in 0..NAMING_MAX {
            let agents = self.agents.load_full();
            let agent = name(&agents)?;
            let quota = self.quotas.of(agent.name());
            let proof = quota.proof();
            if Arc::ptr_eq(&agents, &self.agents.load()) {
                return Ok((agent, quota, proof));
            }
        }
        let agent = name(&self.agents.load())?;
        let quota = self.quotas.of(agent.name());
        let over = CancellationToken::new();
        over.cancel();
        Ok((agent, quota, over))
    }

    /// Accepts connections of one listener until the drain begins, on a task of its own that the drain waits for.
    pub fn serve(self: &Arc<Self>, listener: Listener) {
        self.tasks.spawn(self.clone().accept(listener));
    }

    async fn accept(self: Arc<Self>, listener: Listener) {
        let mut rest = REST_FIRST;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.draining.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    rest = REST_FIRST;
                    self.clone().take(stream, peer, &listener);
                }
                Err(error) => {
                    // Most often no file descriptor is left; a loop without rest would burn the processor.
                    tracing::warn!(%error, "a connection could not be accepted");
                    self.metrics.security_event("connections.accept_failed");
                    tokio::time::sleep(rest).await;
                    rest = (rest * 2).min(REST_MOST);
                }
            }
        }
    }

    /// Takes one connection. Where all places are taken it gets that of the one that has been silent longest, and is
    /// closed at once where none is silent.
    fn take(self: Arc<Self>, link: Link, peer: Peer, listener: &Listener) {
        let (tls, way) = (listener.tls.clone(), listener.way.clone());
        let place = self.connections.clone().try_acquire_owned().ok();
        if place.is_none() {
            self.metrics.security_event("connections.limit");
            if !self.crowd.cut_oldest() {
                return;
            }
        }
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            // At most one waits for each that was cut, so those who wait are no more than the places.
            let Some(place) = self.place(place).await else {
                return;
            };
            let label = way.as_ref().map_or("proxy", |_| "transparent");
            let _counted = self.metrics.connection(label);
            let (ticket, crowded) = self.crowd.enter(peer.source);
            if crowded {
                self.metrics.security_event("connections.silent");
            }
            let (cut, number) = (ticket.cut(), ticket.number());
            let guest = Arc::new(Guest::new((peer.source, peer.address), place, ticket));
            let served = async {
                if let Some(way) = way {
                    return Box::pin(self.clone().redirected(link, &way, guest)).await;
                }
                let stream = Stall::new(link, self.limits.write_stall);
                self.clone().greet(stream, tls, peer.shown, guest).await;
            };
            tokio::select! {
                () = served => {}
                () = cut.notified() => {}
                never = self.sweep(number) => match never {},
            }
        });
    }

    /// Speaks TLS first where the listener does. Whatever bounds a connection in clear bounds it as well, from its first
    /// byte on.
    async fn greet(
        self: Arc<Self>,
        mut stream: Stall<Link>,
        tls: Option<Arc<ServerConfig>>,
        mut shown: Connection,
        guest: Arc<Guest>,
    ) {
        let Some(config) = tls else {
            return self.proxy_connection(stream, shown, guest).await;
        };
        let shaken = async {
            let hello = hello::read(&mut stream).await.ok()?;
            let Some(hello) = hello else {
                self.exchange
                    .unread(Code::BadRequest, Door::Absolute, None, None);
                return None;
            };
            let accept = StartHandshake::from_parts(hello, stream).into_stream(config);
            let accepted = accept.await;
            accepted.inspect_err(|error| self.unshaken(error)).ok()
        };
        let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, shaken);
        let shaken = self.draining.run_until_cancelled(shaken).await;
        if let Some(Ok(Some(stream))) = shaken {
            shown.certificate = clients::shown(stream.get_ref().1);
            self.proxy_connection(stream, shown, guest).await;
        }
    }

    /// Notes a handshake that failed. Who was refused for a certificate was one who did not say who calls.
    fn unshaken(&self, error: &io::Error) {
        tracing::info!(%error, "a TLS handshake with an agent failed");
        if let Some(why) = clients::refused(error) {
            self.exchange.event(Event::AgentAuthFailed {
                listener: "handshake",
                reason: why.as_str(),
            });
        }
    }

    /// Looks once whether a connection that has been silent for a while is one too many.
    async fn sweep(&self, number: u64) -> Infallible {
        tokio::time::sleep(SILENCE).await;
        for _ in 0..self.crowd.sweep(number) {
            self.metrics.security_event("connections.silent");
        }
        std::future::pending().await
    }

    async fn place(&self, place: Option<OwnedSemaphorePermit>) -> Option<OwnedSemaphorePermit> {
        if place.is_some() {
            return place;
        }
        let waiting = self.connections.clone().acquire_owned();
        tokio::time::timeout(PLACE_TIMEOUT, waiting)
            .await
            .ok()?
            .ok()
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
