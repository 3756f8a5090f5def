//! CONNECT: who calls and where to is settled before the tunnel opens.

use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::OwnedSemaphorePermit;

use super::accept::Doors;
use crate::agent::Agent;
use crate::exchange::{AgentBody, Door, Refusal};
use crate::policy::Admission;
use crate::vocab::{Authority, Code};

/// How long the tunnel may take to open after its answer was written.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a tunnel holds while it is open: its part of the listener's limit and of its agent's.
pub(super) struct Room {
    _connection: Arc<OwnedSemaphorePermit>,
    _share: OwnedSemaphorePermit,
}

impl Doors {
    /// Answers one CONNECT. A head of HTTP/1.0 without any field is a CONNECT like another, and `Connection: close` on
    /// it does not end the tunnel.
    pub(super) async fn connect(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        agent: Result<Agent, Refusal>,
        room: Arc<OwnedSemaphorePermit>,
    ) -> Response<AgentBody> {
        // Authority form alone (RFC 9112 §3.2.3); hyper reads the others too.
        let uri = request.uri();
        let target = uri.authority().filter(|_| uri.scheme().is_none());
        let target = target.map_or("", http::uri::Authority::as_str);
        let authority =
            Authority::parse_connect(target).map_err(|_| Refusal::from(Code::BadRequest));
        let named = agent.as_ref().ok().map(Agent::name).cloned();
        let agent = self
            .head_holds(&request)
            .and_then(|()| one_host(&request))
            .and(agent);
        let admitted = self.admit(agent, authority.as_ref());
        let upgrade = hyper::upgrade::on(&mut request);
        match admitted {
            Ok((agent, authority, Admission::Intercept(_), share)) => {
                let room = Room {
                    _connection: room,
                    _share: share,
                };
                let tasks = self.tasks.clone();
                tasks.spawn(async move {
                    if let Some(io) = opened(upgrade).await {
                        self.intercept(io, agent, authority, room).await;
                    }
                });
                Response::new(AgentBody::empty())
            }
            Ok((_, authority, Admission::Tunnel, share)) => {
                let room = Room {
                    _connection: room,
                    _share: share,
                };
                self.blind(&request, named.as_ref(), authority, upgrade, room)
                    .await
            }
            Err(refusal) => match self.exchange.open(&request) {
                Ok(mut line) => {
                    line.at(Door::Connect, named.as_ref(), authority.as_ref().ok());
                    self.exchange.refuse(line, &refusal)
                }
                Err(answer) => *answer,
            },
        }
    }

    fn admit(
        &self,
        agent: Result<Agent, Refusal>,
        authority: Result<&Authority, &Refusal>,
    ) -> Result<(Agent, Authority, Admission, OwnedSemaphorePermit), Refusal> {
        let agent = agent?;
        let authority = authority.map_err(Clone::clone)?;
        let admission = self.exchange.admits(&agent, authority)?;
        let share = self.share(&agent)?;
        Ok((agent, authority.clone(), admission, share))
    }

    /// A host that the configuration passes through blind: never a credential, and still checked and recorded.
    async fn blind(
        &self,
        request: &Request<Incoming>,
        agent: Option<&crate::vocab::AgentName>,
        authority: Authority,
        upgrade: OnUpgrade,
        room: Room,
    ) -> Response<AgentBody> {
        let mut line = match self.exchange.open(request) {
            Ok(line) => line,
            Err(answer) => return *answer,
        };
        line.at(Door::Connect, agent, Some(&authority));
        match self.exchange.dial_blind(&authority).await {
            Ok(upstream) => {
                let exchange = self.exchange.clone();
                self.tasks.spawn(async move {
                    if let Some(io) = opened(upgrade).await {
                        exchange.carry_blind(io, upstream, line).await;
                    }
                    drop(room);
                });
                Response::new(AgentBody::empty())
            }
            Err(refusal) => self.exchange.refuse(line, &refusal),
        }
    }
}

/// `Host` stands once, and in HTTP/1.1 it stands (RFC 9112 §3.2). What it says is not looked at: the target counts.
fn one_host(request: &Request<Incoming>) -> Result<(), Refusal> {
    let old = request.version() == Version::HTTP_10;
    match request.headers().get_all(HOST).iter().count() {
        1 => Ok(()),
        0 if old => Ok(()),
        _ => Err(Code::BadRequest.into()),
    }
}

async fn opened(upgrade: OnUpgrade) -> Option<TokioIo<hyper::upgrade::Upgraded>> {
    tokio::time::timeout(OPEN_TIMEOUT, upgrade)
        .await
        .ok()?
        .ok()
        .map(TokioIo::new)
}
