//! CONNECT: who calls and where to is settled before the tunnel opens.

use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::accept::Doors;
use super::proxy::{Caller, ends};
use super::quota::Guest;
use crate::exchange::{AgentBody, Door, Line, Refusal};
use crate::policy::Admission;
use crate::vocab::variant::{Variant, broken};
use crate::vocab::{Authority, Code, Scheme};

/// How long the tunnel may take to open after its answer was written.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

impl Doors {
    /// Answers one CONNECT. A head of HTTP/1.0 without any field is a CONNECT like another, and `Connection: close` on
    /// it does not end the tunnel.
    pub(super) async fn connect(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        agent: Result<Caller, Refusal>,
        guest: Arc<Guest>,
    ) -> Response<AgentBody> {
        // Authority form alone (RFC 9112 §3.2.3); hyper reads the others too.
        let uri = request.uri();
        let target = uri.authority().filter(|_| uri.scheme().is_none());
        let target = target.map_or("", http::uri::Authority::as_str);
        let authority =
            Authority::parse_connect(target).map_err(|_| Refusal::from(Code::BadRequest));
        if let Ok(authority) = &authority
            && broken(Variant::DialsFirst)
        {
            drop(self.exchange.dial_blind(authority).await);
        }
        let named = agent
            .as_ref()
            .ok()
            .map(|caller| caller.agent.name().clone());
        let agent = self
            .head_holds(&request)
            .and_then(|()| one_host(&request))
            .and(agent);
        let admitted = self.admit(agent, authority.as_ref());
        let upgrade = hyper::upgrade::on(&mut request);
        match admitted {
            Ok((caller, authority, Admission::Intercept(_))) => {
                let tasks = self.tasks.clone();
                tasks.spawn(async move {
                    if let Some(io) = opened(upgrade).await {
                        self.intercept(io, caller, authority).await;
                        drop(guest);
                    }
                });
                Response::new(AgentBody::empty())
            }
            Ok((caller, authority, Admission::Tunnel)) => {
                self.blind(&request, &caller, authority, upgrade, guest)
                    .await
            }
            Err(refusal) => match self.exchange.open(&request) {
                Ok(mut line) => {
                    let refusal = match (&named, &authority) {
                        (Some(agent), Ok(authority)) => {
                            let said = (request.headers(), None);
                            self.exchange
                                .goes_nowhere((agent, authority), said, refusal)
                        }
                        _ => refusal,
                    };
                    line.at(Door::Connect, named.as_ref(), authority.as_ref().ok());
                    let answer = self.exchange.refuse(line, &refusal);
                    // What may not stay open does not stay open unused.
                    ends(answer, &refusal)
                }
                Err(answer) => *answer,
            },
        }
    }

    fn admit(
        &self,
        caller: Result<Caller, Refusal>,
        authority: Result<&Authority, &Refusal>,
    ) -> Result<(Caller, Authority, Admission), Refusal> {
        let caller = caller?;
        self.usual(&caller, false)?;
        let authority = authority.map_err(Clone::clone)?;
        match self.exchange.admits(&caller.agent, authority) {
            Ok(admission) => Ok((caller, authority.clone(), admission)),
            Err(refusal) => {
                // A service of plain HTTP: some clients open a tunnel to it all the same, and speak in clear inside.
                let plain = authority.with_scheme(Scheme::Http);
                match self.exchange.admits(&caller.agent, &plain) {
                    Ok(admission) => Ok((caller, plain, admission)),
                    Err(_) => Err(refusal),
                }
            }
        }
    }

    /// A host that the configuration passes through blind: never a credential, and still checked and recorded.
    async fn blind(
        &self,
        request: &Request<Incoming>,
        caller: &Caller,
        authority: Authority,
        upgrade: OnUpgrade,
        guest: Arc<Guest>,
    ) -> Response<AgentBody> {
        let mut line = match self.exchange.open(request) {
            Ok(line) => line,
            Err(answer) => return *answer,
        };
        let agent = caller.agent.name();
        line.at(Door::Connect, Some(agent), Some(&authority));
        if let Err(refusal) = self.enter_blind(caller, &authority, &mut line) {
            return self.exchange.refuse(line, &refusal);
        }
        match self.exchange.dial_blind(&authority).await {
            Ok(upstream) => {
                let exchange = self.exchange.clone();
                self.tasks.spawn(async move {
                    if let Some(io) = opened(upgrade).await {
                        exchange.carry_blind(io, upstream, line).await;
                    }
                    drop(guest);
                });
                Response::new(AgentBody::empty())
            }
            Err(refusal) => self.exchange.refuse(line, &refusal),
        }
    }
}

impl Doors {
    /// Takes a blind tunnel's place among what is under way, where the end of its agent's proof finds it.
    pub(super) fn enter_blind(
        &self,
        caller: &Caller,
        authority: &Authority,
        line: &mut Line,
    ) -> Result<(), Refusal> {
        self.exchange
            .enter_blind(caller.agent.name(), authority, line)?;
        // Withdrawn a moment before, it was not found there.
        let over = caller.proof.is_cancelled();
        if over {
            Err(Code::ConfigChanged.into())
        } else {
            Ok(())
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
