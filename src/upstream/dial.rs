//! From a name to a TCP connection: one lookup, a check of every answer, and the checked address is the one dialled.
//!
//! A name that answers with a public address first and a private one later (DNS rebinding) gains nothing, because
//! nobody asks a second time for the same connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::address::admitted;
use super::error::UpstreamError;
use super::lookup::{Asker, Lookups, Resolve};
use super::parent::Parent;
use super::way::Way;
use crate::vocab::Host;
use crate::vocab::variant::{Variant, broken, overhear};

/// Addresses that are tried for one connection.
const ADDRESSES_MAX: usize = 8;
/// How long an address may be silent before the next is tried beside it (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// What is to be dialled.
pub(super) struct Destination<'a> {
    /// What it is called; the same as `host` where nothing else is dialled in its place.
    pub(super) name: &'a Host,
    pub(super) host: &'a Host,
    pub(super) port: u16,
    pub(super) allow_private: bool,
    pub(super) asker: Asker,
}

/// How far it came: whether the resolver is being waited for.
#[derive(Default)]
pub(super) struct Progress(AtomicBool);

impl Progress {
    /// What to say when the deadline has passed.
    pub(super) fn timed_out(&self) -> UpstreamError {
        if self.0.load(Ordering::Relaxed) {
            UpstreamError::DnsTimeout
        } else {
            UpstreamError::ConnectTimeout
        }
    }
}

/// Dials, and refuses to.
pub(super) struct Dialer {
    lookups: Lookups,
    own_listeners: Vec<SocketAddr>,
    parent: Option<Arc<Parent>>,
}

impl Dialer {
    pub(super) fn new(resolver: Arc<dyn Resolve>, own_listeners: Vec<SocketAddr>) -> Self {
        Self {
            lookups: Lookups::new(resolver),
            own_listeners,
            parent: None,
        }
    }

    /// The same, and everything goes through this proxy.
    pub(super) fn through(mut self, parent: Option<Arc<Parent>>) -> Self {
        self.parent = parent;
        self
    }

    /// Connects. The caller ends it after its deadline and learns from `progress` what it was waiting for.
    pub(super) async fn connect(
        &self,
        to: &Destination<'_>,
        progress: &Progress,
    ) -> Result<Way, UpstreamError> {
        match &self.parent {
            Some(parent) if !parent.excepts(to.name, to.host) => {
                self.by_parent(parent, to, progress).await
            }
            _ => self.direct(to, progress).await.map(Way::from),
        }
    }

    /// Through the parent proxy. A literal address is judged as ever; a name is the proxy's to look up, but for those
    /// that mean the machine that looks them up (RFC 6761 §6.3).
    async fn by_parent(
        &self,
        parent: &Parent,
        to: &Destination<'_>,
        progress: &Progress,
    ) -> Result<Way, UpstreamError> {
        match to.host {
            Host::Ip(ip) if !admitted(*ip, to.allow_private) => {
                return Err(UpstreamError::AddressProhibited);
            }
            Host::Ip(ip) if self.is_own(SocketAddr::new(*ip, to.port)) => {
                return Err(UpstreamError::SelfConnect);
            }
            Host::Name(name) if is_localhost(name) && !to.allow_private => {
                return Err(UpstreamError::AddressProhibited);
            }
            _ => {}
        }
        let proxy = Destination {
            name: &parent.host,
            host: &parent.host,
            port: parent.port,
            allow_private: true,
            asker: to.asker.clone(),
        };
        let stream = self.direct(&proxy, progress).await;
        let stream = stream.map_err(|error| match error {
            // The operator's mistake, not the agent's attempt.
            UpstreamError::AddressProhibited | UpstreamError::SelfConnect => {
                tracing::error!("the parent proxy is at an address that is never dialled");
                UpstreamError::Unreachable
            }
            error => error,
        })?;
        parent.tunnel(stream, to.host, to.port).await
    }

    /// Looks up and dials.
    async fn direct(
        &self,
        to: &Destination<'_>,
        progress: &Progress,
    ) -> Result<TcpStream, UpstreamError> {
        progress.0.store(true, Ordering::Relaxed);
        let mut addresses = self.addresses(to).await?;
        if let Host::Name(name) = to.host
            && broken(Variant::Rebinding)
        {
            addresses = self.lookups.addresses(&to.asker, name).await?;
        }
        progress.0.store(false, Ordering::Relaxed);
        self.first_that_answers(&addresses, to.port).await
    }

    /// The addresses that may be dialled. Names are asked for once; literals are not asked for at all.
    async fn addresses(&self, to: &Destination<'_>) -> Result<Vec<IpAddr>, UpstreamError> {
        let found = match to.host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) => self.lookups.addresses(&to.asker, name).await?,
        };
        if found.is_empty() {
            return Err(UpstreamError::Dns);
        }
        let mut good: Vec<IpAddr> = found
            .into_iter()
            .filter(|ip| admitted(*ip, to.allow_private))
            .collect();
        if good.is_empty() {
            return Err(UpstreamError::AddressProhibited);
        }
        good.retain(|ip| !self.is_own(SocketAddr::new(*ip, to.port)));
        if good.is_empty() {
            return Err(UpstreamError::SelfConnect);
        }
        Ok(alternate_families(good))
    }

    /// Tries the addresses in order. One that is silent costs the next a quarter of a second, one that refuses nothing;
    /// the first connection wins and the others are dropped.
    async fn first_that_answers(
        &self,
        addresses: &[IpAddr],
        port: u16,
    ) -> Result<TcpStream, UpstreamError> {
        let mut rest = addresses.iter().take(ADDRESSES_MAX).peekable();
        let mut tried = FuturesUnordered::new();
        loop {
            if let Some(ip) = rest.next() {
                let attempt = TcpStream::connect(SocketAddr::new(*ip, port));
                tried.push(async move {
                    attempt
                        .await
                        .inspect_err(|e| overhear(|| format!("{ip}: {e}")))
                });
            }
            let more = rest.peek().is_some();
            tokio::select! {
                biased;
                outcome = tried.next() => match outcome {
                    Some(Ok(stream)) => {
                        self.refuse_ourselves(&stream)?;
                        stream.set_nodelay(true).map_err(|_| UpstreamError::Unreachable)?;
                        return Ok(stream);
                    }
                    Some(Err(_)) => {}
                    None => return Err(UpstreamError::Unreachable),
                },
                () = sleep(HEAD_START), if more => {}
            }
        }
    }

    /// Whether an address is known to be ours before anything is sent to it.
    fn is_own(&self, address: SocketAddr) -> bool {
        self.own_listeners.iter().any(|own| {
            own.port() == address.port()
                && (own.ip() == address.ip()
                    || (own.ip().is_unspecified() && is_local(address.ip())))
        })
    }

    /// For what [`is_local`] cannot see: a connection to oneself mostly has the destination as its source.
    fn refuse_ourselves(&self, stream: &TcpStream) -> Result<(), UpstreamError> {
        let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else {
            return Err(UpstreamError::Unreachable);
        };
        let same_host = local.ip() == peer.ip();
        let ours = self
            .own_listeners
            .iter()
            .any(|own| own.ip().is_unspecified() && own.port() == peer.port());
        if local == peer || (same_host && ours) {
            return Err(UpstreamError::SelfConnect);
        }
        Ok(())
    }
}

/// Whether a name means the machine that looks it up, whichever that is.
fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// Whether an address is this machine's: a listener on all addresses answers there. The kernel lets us bind a socket to
/// our own addresses alone, unless it was told otherwise; then it is asked from where it would send. No packet leaves.
fn is_local(ip: IpAddr) -> bool {
    let (any, setting): (IpAddr, _) = match ip {
        IpAddr::V4(_) => (
            Ipv4Addr::UNSPECIFIED.into(),
            "/proc/sys/net/ipv4/ip_nonlocal_bind",
        ),
        IpAddr::V6(_) => (
            Ipv6Addr::UNSPECIFIED.into(),
            "/proc/sys/net/ipv6/ip_nonlocal_bind",
        ),
    };
    if ip.is_loopback() {
        return true;
    }
    let lax = std::fs::read_to_string(setting).is_ok_and(|text| text.trim() != "0");
    if !lax {
        return UdpSocket::bind((ip, 0)).is_ok();
    }
    let source = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip() == ip)
}

/// Keeps the resolver's order within a family and alternates between them (RFC 8305 §4), so that a machine with
/// broken IPv6 loses one attempt and not eight.
fn alternate_families(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let leader_is_v6 = addresses.first().is_some_and(IpAddr::is_ipv6);
    let (leaders, others): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|ip| ip.is_ipv6() == leader_is_v6);
    let mut leaders = leaders.into_iter();
    let mut others = others.into_iter();
    let mut mixed = Vec::new();
    loop {
        let pair = [leaders.next(), others.next()];
        if pair.iter().all(Option::is_none) {
            return mixed;
        }
        mixed.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests;
