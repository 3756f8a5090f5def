//! From a name to a TCP connection: one lookup, a check of every answer, and the checked address is the one dialled.
//!
//! A name that answers with a public address first and a private one later (DNS rebinding) gains nothing, because
//! nobody asks a second time for the same connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::address::admitted;
use super::error::UpstreamError;
use crate::credential::BoxFuture;
use crate::vocab::Host;
use crate::vocab::variant::{Variant, broken, overhear};

/// Longest wait for the resolver, within the deadline of the whole.
const LOOKUP_MAX: Duration = Duration::from_secs(3);
/// Addresses that are tried for one connection.
const ADDRESSES_MAX: usize = 8;
/// What one address gets at least, before the next is tried.
const ATTEMPT_MIN: Duration = Duration::from_millis(250);

/// Where addresses come from. One call is one question: implementations must not ask again by themselves later.
pub trait Resolve: Send + Sync {
    /// All addresses of a name, the preferred one first.
    fn lookup<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn lookup<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = lookup_host((name, 0)).await?;
            Ok(found.map(|socket| socket.ip()).collect())
        })
    }
}

/// What is to be dialled.
pub(super) struct Destination<'a> {
    pub(super) host: &'a Host,
    pub(super) port: u16,
    pub(super) allow_private: bool,
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
    resolver: Arc<dyn Resolve>,
    own_listeners: Vec<SocketAddr>,
}

impl Dialer {
    pub(super) fn new(resolver: Arc<dyn Resolve>, own_listeners: Vec<SocketAddr>) -> Self {
        Self {
            resolver,
            own_listeners,
        }
    }

    /// Connects. The caller ends it after `deadline` and learns from `progress` what it was waiting for.
    pub(super) async fn connect(
        &self,
        to: &Destination<'_>,
        deadline: Duration,
        progress: &Progress,
    ) -> Result<TcpStream, UpstreamError> {
        progress.0.store(true, Ordering::Relaxed);
        let mut addresses = self.addresses(to).await?;
        if let Host::Name(name) = to.host
            && broken(Variant::Rebinding)
        {
            let again = self.resolver.lookup(name).await;
            addresses = again.map_err(|_| UpstreamError::Dns)?;
        }
        progress.0.store(false, Ordering::Relaxed);
        self.first_that_answers(&addresses, to.port, deadline).await
    }

    /// The addresses that may be dialled. Names are asked for once; literals are not asked for at all.
    async fn addresses(&self, to: &Destination<'_>) -> Result<Vec<IpAddr>, UpstreamError> {
        let found = match to.host {
            Host::Ip(ip) => vec![*ip],
            Host::Name(name) => timeout(LOOKUP_MAX, self.resolver.lookup(name))
                .await
                .map_err(|_| UpstreamError::DnsTimeout)?
                .inspect_err(|error| overhear(|| format!("{name}: {error}")))
                .map_err(|_| UpstreamError::Dns)?,
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

    /// Tries the addresses in order; a silent one costs its share of the deadline, not all of it.
    async fn first_that_answers(
        &self,
        addresses: &[IpAddr],
        port: u16,
        deadline: Duration,
    ) -> Result<TcpStream, UpstreamError> {
        let tries = addresses.len().min(ADDRESSES_MAX);
        let share = deadline / u32::try_from(tries).unwrap_or(1).max(1);
        let mut last = UpstreamError::Unreachable;
        for ip in addresses.iter().take(tries) {
            let attempt = TcpStream::connect(SocketAddr::new(*ip, port));
            match timeout(share.max(ATTEMPT_MIN), attempt).await {
                Ok(Ok(stream)) => {
                    self.refuse_ourselves(&stream)?;
                    stream
                        .set_nodelay(true)
                        .map_err(|_| UpstreamError::Unreachable)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => {
                    overhear(|| format!("{ip}: {error}"));
                    last = UpstreamError::Unreachable;
                }
                Err(_) => last = UpstreamError::ConnectTimeout,
            }
        }
        Err(last)
    }

    /// Whether an address is known to be ours before anything is sent to it.
    fn is_own(&self, address: SocketAddr) -> bool {
        self.own_listeners.iter().any(|own| {
            let everywhere = own.ip().is_unspecified() && address.ip().is_loopback();
            own.port() == address.port() && (own.ip() == address.ip() || everywhere)
        })
    }

    /// A listener on all addresses also answers on the machine's outer ones, which we do not know. A connection to
    /// oneself shows: the kernel takes the destination as the source.
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
