//! The transparent listener: connections that were made to somebody else, and that the system's rules led here.
//!
//! From the address that the agent dialled only the port is believed. The host is what the handshake names (RFC 6066 §3), or
//! `Host` where a request comes in clear; we resolve it ourselves, so no credential follows an address of the agent's
//! choice. A handshake that names no host is refused. So is a connection that was not redirected at all: it was made to the
//! listener, and what it asks for would lead back here.
//!
//! The caller is known by where it is, before a byte of it is believed: by the listener's own agent, or as `default` on
//! this machine where no agent is named. Refusals inside TLS are alerts, because there is no answer to write them in.

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::either::Either;

use super::accept::Doors;
use super::hello;
use super::intercept::HANDSHAKE_TIMEOUT;
use super::listener::{BACKLOG, Link, Listener};
use super::proxy::{Caller, Whose, ends};
use super::quota::Guest;
use super::stall::Stall;
use crate::agent::Agent;
use crate::audit::Event;
use crate::exchange::{AgentBody, Arrival, Door, Refusal, redirected_authority, watched};
use crate::policy::Admission;
use crate::vocab::{AgentName, Authority, Code, Host, Scheme};

/// How the system leads connections to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedirectMode {
    /// In a network in which every address is that machine's own, as in the cell of `run --isolate`: the socket's own address
    /// is where the connection was made to, and none of them leads back here. No configuration names it.
    Everywhere,
    /// NAT to an address of this machine (`redirect`). The kernel is asked where the connection was made to.
    Redirect,
    /// Without NAT (`tproxy`): the socket's own address is where the connection was made to. Takes `CAP_NET_ADMIN` or
    /// `CAP_NET_RAW` to bind.
    Tproxy,
}

impl RedirectMode {
    /// The word in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Everywhere => "everywhere",
            Self::Redirect => "redirect",
            Self::Tproxy => "tproxy",
        }
    }
}

/// One transparent listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransparentSettings {
    /// Where it listens.
    pub address: SocketAddr,
    /// How connections come to it.
    pub mode: RedirectMode,
    /// Whose they are; `None`: found out for each.
    pub agent: Option<AgentName>,
}

impl Listener {
    /// Binds a transparent listener. One of IPv6 takes IPv6 alone, whatever the system's default is.
    ///
    /// # Errors
    /// The system's; `PermissionDenied` where `tproxy` lacks its capability.
    pub fn transparent(settings: &TransparentSettings) -> io::Result<Self> {
        let address = settings.address;
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        match (settings.mode, address) {
            (RedirectMode::Everywhere | RedirectMode::Redirect, _) => {}
            (RedirectMode::Tproxy, SocketAddr::V4(_)) => socket.set_ip_transparent_v4(true)?,
            (RedirectMode::Tproxy, SocketAddr::V6(_)) => socket.set_ip_transparent_v6(true)?,
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG.into())?;
        Self::redirected(socket.into(), settings.mode, settings.agent.clone())
    }

    /// The same over a socket that listens already, in this network namespace or in another one: a socket stays in the
    /// one in which it was made.
    ///
    /// # Errors
    /// The system's.
    pub fn redirected(
        socket: StdListener,
        mode: RedirectMode,
        agent: Option<AgentName>,
    ) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let listener = TcpListener::from_std(socket)?;
        let bound = listener.local_addr()?;
        let way = Way { mode, agent, bound };
        Ok(Self::led(listener, way))
    }
}

/// How the connections of one listener were led to it.
pub(super) struct Way {
    mode: RedirectMode,
    agent: Option<AgentName>,
    bound: SocketAddr,
}

/// Where a connection was made to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Course {
    /// The port; never 0.
    port: u16,
    /// Whether only a program of this machine can have made it.
    local: bool,
}

/// Nobody redirected this connection.
#[derive(Debug, PartialEq, Eq)]
struct Astray;

impl Way {
    fn course(&self, stream: &TcpStream) -> Result<Course, Astray> {
        let local = stream.local_addr().map_err(|_| Astray)?;
        let original = match self.mode {
            RedirectMode::Everywhere | RedirectMode::Tproxy => local,
            RedirectMode::Redirect => original(stream, local)?,
        };
        self.judge(local, original)
    }

    /// `local`: the socket's own address.
    fn judge(&self, local: SocketAddr, original: SocketAddr) -> Result<Course, Astray> {
        let bound = self.bound;
        let ours = match self.mode {
            RedirectMode::Everywhere => false,
            // What was made to the listener has the listener's address on both sides of the translation.
            RedirectMode::Redirect => original == local,
            RedirectMode::Tproxy => {
                original.port() == bound.port()
                    && (original.ip() == bound.ip() || bound.ip().is_unspecified())
            }
        };
        if ours || original.port() == 0 {
            return Err(Astray);
        }
        Ok(Course {
            port: original.port(),
            // What is forwarded for others is translated to the address of its interface, never to loopback.
            local: match self.mode {
                RedirectMode::Everywhere => true,
                RedirectMode::Redirect => local.ip().is_loopback(),
                RedirectMode::Tproxy => false,
            },
        })
    }
}

/// The destination before translation, as the kernel's connection tracking remembers it.
fn original(stream: &TcpStream, local: SocketAddr) -> Result<SocketAddr, Astray> {
    let socket = SockRef::from(stream);
    let address = if local.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    let address = address.ok().and_then(|address| address.as_socket());
    address.ok_or(Astray)
}

/// What becomes of a redirected handshake.
type Admitted = Result<(Caller, Authority, Admission), (Option<Authority>, Refusal)>;

impl Doors {
    /// Serves one connection of a transparent listener, until it ends.
    pub(super) async fn redirected(self: Arc<Self>, link: Link, way: &Way, guest: Arc<Guest>) {
        let course = match &link {
            Either::Left(stream) => way.course(stream),
            Either::Right(_) => Err(Astray),
        };
        let (Ok(course), Either::Left(stream)) = (course, link) else {
            return self.astray(&guest).await;
        };
        let mut first = [0];
        let peeked = timeout(HANDSHAKE_TIMEOUT, stream.peek(&mut first));
        let peeked = self.draining.run_until_cancelled(peeked).await;
        let first = match peeked {
            Some(Ok(Ok(1..))) => first[0],
            // A protocol in which the server speaks first, or a connection that was made in stock.
            Some(Err(_)) => {
                let caller = self.placed(course, way, &guest).await;
                let agent = caller.as_ref().ok().map(|caller| caller.agent.name());
                let door = Door::Transparent;
                return self
                    .exchange
                    .unread(Code::RequestTimeout, door, agent, None);
            }
            // Opened and left: nothing was asked.
            Some(Ok(_)) | None => return,
        };
        let caller = self.placed(course, way, &guest).await;
        let stream = Stall::new(Either::Left(stream), self.limits.write_stall);
        if hello::is_tls(first) {
            self.redirected_tls(stream, caller, course.port).await;
        } else {
            self.redirected_clear(stream, caller, course.port).await;
        }
        drop(guest);
    }

    /// A connection that was made to the listener itself: a loop, or a misunderstanding.
    async fn astray(&self, guest: &Guest) {
        self.metrics.security_event("transparent.not_redirected");
        tracing::info!(
            "a connection was made to a transparent listener itself and is refused: clients that know of the proxy use `listen.proxy`"
        );
        let counted = self.strangers.failed(guest.source, false, self.clock.now());
        if let Err(haste) = counted {
            tokio::time::sleep(haste.hold).await;
        }
        self.exchange
            .unread(Code::ProxyLoop, Door::Transparent, None, None);
    }

    /// Whose connection it is, counted among that agent's.
    async fn placed(&self, course: Course, way: &Way, guest: &Guest) -> Result<Caller, Refusal> {
        let named = self.named(|agents| agents.placed(way.agent.as_ref(), course.local));
        let (agent, quota, proof) = match named {
            Ok(named) => named,
            Err(why) => {
                let counted = self.strangers.failed(guest.source, false, self.clock.now());
                if let Err(haste) = counted {
                    self.metrics.security_event("auth.too_many_failures");
                    tokio::time::sleep(haste.hold).await;
                }
                return Err(Refusal::unknown(why));
            }
        };
        if let Err(refusal) = guest.claim(agent.name(), &quota) {
            self.metrics.security_event("agent.connections");
            return Err(refusal);
        }
        Ok(Caller {
            agent,
            quota,
            proof,
            from: guest.address,
            door: Door::Transparent,
        })
    }

    /// A connection that begins with a TLS handshake.
    async fn redirected_tls(
        self: Arc<Self>,
        mut io: Stall<Link>,
        caller: Result<Caller, Refusal>,
        port: u16,
    ) {
        let agent = caller.as_ref().ok().map(|caller| caller.agent.clone());
        let agent = agent.as_ref().map(Agent::name);
        let unread = |code, authority: Option<&Authority>| {
            self.exchange
                .unread(code, Door::Transparent, agent, authority);
        };
        let end = Instant::now() + HANDSHAKE_TIMEOUT;
        // For a host that passes blind; until that is known nobody can do without them.
        let mut taken = Vec::new();
        let read = hello::read_through(&mut io, |bytes| taken.extend_from_slice(bytes));
        let read = timeout_at(end, read);
        let hello = match self.draining.run_until_cancelled(read).await {
            Some(Ok(Ok(Some(hello)))) => hello,
            Some(Ok(Ok(None))) => return unread(Code::BadRequest, None),
            Some(Err(_)) => return unread(Code::RequestTimeout, None),
            Some(Ok(Err(_))) | None => return,
        };
        let host = hello.client_hello().server_name().map(Host::parse);
        let host = host.and_then(Result::ok);
        let authority = host.map(|host| Authority::new(Scheme::Https, host, port));
        let admitted = self.admit_named(caller, authority).await;
        match admitted {
            Ok((caller, authority, Admission::Intercept(_))) => {
                drop(taken);
                let shaken = Box::pin(self.shake((hello, io), &caller, &authority, end));
                if let Some(Some(stream)) = self.draining.run_until_cancelled(shaken).await {
                    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    self.clone()
                        .serve_tunnel(stream, h2, caller, authority)
                        .await;
                }
            }
            Ok((caller, authority, Admission::Tunnel)) => {
                drop(hello);
                self.redirected_blind(io, taken, &caller, &authority).await;
            }
            Err((authority, refusal)) => {
                unread(refusal.code, authority.as_ref());
                if let Some(why) = refusal.unauthenticated {
                    self.exchange.event(Event::AgentAuthFailed {
                        listener: Door::Transparent.as_str(),
                        reason: why.as_str(),
                    });
                }
                alert(&mut io, refusal.code).await;
            }
        }
    }

    /// Whether this agent may have a connection to the host that a handshake names.
    async fn admit_named(
        &self,
        caller: Result<Caller, Refusal>,
        authority: Option<Authority>,
    ) -> Admitted {
        let caller = match caller {
            Ok(caller) => caller,
            Err(refusal) => return Err((authority, refusal)),
        };
        let counted = self.paced(caller.quota.tunnel(self.clock.now())).await;
        let usual = counted.and_then(|()| self.usual(&caller, false));
        if let Err(refusal) = usual {
            return Err((authority, refusal));
        }
        let Some(authority) = authority else {
            self.metrics.security_event("transparent.no_name");
            return Err((None, Code::BadRequest.into()));
        };
        match self.exchange.admits(&caller.agent, &authority) {
            Ok(admission) => Ok((caller, authority, admission)),
            Err(refusal) => Err((Some(authority), refusal)),
        }
    }

    /// A host that the configuration passes through blind: we resolve and dial it ourselves, and hand on what was read.
    async fn redirected_blind(
        &self,
        mut io: Stall<Link>,
        taken: Vec<u8>,
        caller: &Caller,
        authority: &Authority,
    ) {
        let agent = caller.agent.name();
        let door = Door::Transparent;
        let line = self
            .exchange
            .open_unseen(door, Some(agent), Some(authority));
        let Some(mut line) = line else {
            return alert(&mut io, Code::AuditUnavailable).await;
        };
        let entered = self.enter_blind(caller, authority, &mut line);
        let dialled = match entered {
            Ok(()) => self.exchange.dial_blind(authority).await,
            Err(refusal) => Err(refusal),
        };
        match dialled {
            Ok(upstream) => {
                let (reader, writer) = tokio::io::split(io);
                let reader = io::Cursor::new(taken).chain(reader);
                let io = tokio::io::join(reader, writer);
                self.exchange.carry_blind(io, upstream, line).await;
            }
            Err(refusal) => {
                // There is nobody to whom the answer could be written.
                drop(self.exchange.refuse(line, &refusal));
                alert(&mut io, refusal.code).await;
            }
        }
    }

    /// A connection that begins with anything else: HTTP/1.1 in clear, or refused as none.
    async fn redirected_clear(
        self: Arc<Self>,
        io: Stall<Link>,
        caller: Result<Caller, Refusal>,
        port: u16,
    ) {
        let agent = caller.as_ref().ok().map(|caller| caller.agent.clone());
        let proof = caller
            .as_ref()
            .ok()
            .map(|caller| caller.proof.child_token());
        let proof = proof.unwrap_or_default();
        let caller = Arc::new(caller);
        let doors = self.clone();
        let service = service_fn(move |request| {
            let (doors, caller) = (doors.clone(), caller.clone());
            async move { Ok::<_, Infallible>(doors.in_clear(request, &caller, port).await) }
        });
        let served = self.serve_http1(io, service, Whose::Placed(agent));
        let served = proof.run_until_cancelled(watched(served)).await;
        tracing::debug!(
            withdrawn = served.is_none(),
            "a redirected connection has ended"
        );
    }

    /// One request in clear: its `Host` names the destination.
    async fn in_clear(
        &self,
        request: Request<Incoming>,
        caller: &Result<Caller, Refusal>,
        port: u16,
    ) -> Response<AgentBody> {
        let caller = match caller {
            Ok(caller) => {
                let counted = self.paced(caller.quota.request(self.clock.now())).await;
                counted.map(|()| caller)
            }
            Err(refusal) => Err(refusal.clone()),
        };
        let mut line = match self.exchange.open(&request) {
            Ok(line) => line,
            Err(answer) => return *answer,
        };
        let door = Door::Transparent;
        let authority = redirected_authority(request.headers(), port);
        let agent = caller.as_ref().ok().map(|caller| caller.agent.name());
        line.at(door, agent, authority.as_ref().ok());
        let holds = self.head_holds(&request);
        let arrival = holds.and(caller).and_then(|caller| {
            self.usual(caller, true)?;
            let agent = caller.agent.clone();
            let authority = authority?;
            match self.admitted(&agent, &authority, &request)? {
                Admission::Intercept(_) => Arrival::new(agent, authority, door, request),
                // A blind host is reached through its own TLS only; in clear there is nothing to pass through.
                Admission::Tunnel => Err(Code::TlsRequired.into()),
            }
        });
        match arrival {
            Ok(arrival) => Box::pin(self.exchange.answer(arrival, line)).await,
            Err(refusal) => ends(self.exchange.refuse(line, &refusal), &refusal),
        }
    }
}

/// Ends a handshake with the alert that comes nearest to the reason.
async fn alert<I: AsyncWrite + Unpin>(io: &mut I, code: Code) {
    let told = match code {
        Code::BadRequest | Code::DestinationDenied => hello::refuse_name(io).await,
        Code::AgentUnknown | Code::AnomalyDenied | Code::ServiceRevoked => {
            hello::refuse_access(io).await
        }
        _ => hello::refuse_for_now(io).await,
    };
    tracing::debug!(told = told.is_ok(), "a redirected handshake was refused");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(mode: RedirectMode, bound: &str) -> Way {
        Way {
            mode,
            agent: None,
            bound: bound.parse().unwrap(),
        }
    }

    /// Mode, where the listener was bound, the socket's own address, where the connection was made to, what comes of it.
    const COURSES: &str = "
        redirect 127.0.0.1:15001 127.0.0.1:15001 10.0.0.9:443     443,here
        redirect [::1]:15001     [::1]:15001     [fd77::2]:80     80,here
        redirect 0.0.0.0:15001   10.0.0.1:15001  10.0.0.9:443     443,far
        redirect 0.0.0.0:15001   127.0.0.1:15001 127.0.0.1:15001  astray
        redirect 127.0.0.1:15001 127.0.0.1:15001 10.0.0.9:0       astray
        tproxy   127.0.0.1:15001 10.0.0.9:443    10.0.0.9:443     443,far
        tproxy   127.0.0.1:15001 127.0.0.1:15001 127.0.0.1:15001  astray
        tproxy   127.0.0.1:15001 10.0.0.9:15001  10.0.0.9:15001   15001,far
        tproxy   0.0.0.0:15001   10.0.0.9:15001  10.0.0.9:15001   astray
        tproxy   [::]:15001      [fd77::2]:443   [fd77::2]:443    443,far
        anywhere 0.0.0.0:443     192.0.2.7:443   192.0.2.7:443    443,here
        anywhere 0.0.0.0:443     127.0.0.1:443   127.0.0.1:443    443,here
    ";

    #[test]
    fn what_was_made_to_the_listener_was_not_redirected() {
        for row in COURSES.lines().filter(|row| !row.trim().is_empty()) {
            let words: Vec<&str> = row.split_whitespace().collect();
            let mode = match words[0] {
                "anywhere" => RedirectMode::Everywhere,
                "tproxy" => RedirectMode::Tproxy,
                _ => RedirectMode::Redirect,
            };
            let judged =
                way(mode, words[1]).judge(words[2].parse().unwrap(), words[3].parse().unwrap());
            let judged = judged.map_or_else(
                |_| "astray".to_owned(),
                |course| {
                    let from = if course.local { "here" } else { "far" };
                    format!("{},{from}", course.port)
                },
            );
            assert_eq!(judged, words[4], "{row}");
        }
    }

    #[tokio::test]
    async fn a_plain_connection_is_astray() {
        let settings = TransparentSettings {
            address: "127.0.0.1:0".parse().unwrap(),
            mode: RedirectMode::Redirect,
            agent: None,
        };
        let listener = Listener::transparent(&settings).unwrap();
        let _agent = TcpStream::connect(listener.address().unwrap())
            .await
            .unwrap();
        let (link, _) = listener.accept().await.unwrap();
        let way = listener.way.as_ref().unwrap();
        let Either::Left(stream) = link else {
            panic!("a TCP connection");
        };
        assert_eq!(way.course(&stream), Err(Astray));
    }
}
