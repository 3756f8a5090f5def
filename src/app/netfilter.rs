//! The rules of the system that lead an agent's connections to a transparent listener, and let nothing else of it out.
//!
//! What they are made from is a [`Ground`]: a shape, the listeners of the configuration, the ports that its services have, and
//! the resolvers of the machine. From it come two texts, for `nft` and, as legacy, for `iptables-restore`; making them is pure.
//! Both families are always covered: one without a listener is rejected as a whole.

mod host;
mod legacy;
mod nft;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

pub use host::{NetfilterError, Seen, apply, remove, resolvers};
pub use legacy::Family;

use crate::config::{Plan, ProxyAt};
use crate::listen::{RedirectMode, TransparentSettings};
use crate::vocab::Authority;

/// The table of nftables, which is ours alone.
const TABLE: &str = "tokenward";
/// What marks the connections that tokenward itself has opened, and with TPROXY the packets that are led to it; also the
/// number of the routing table for those.
const MARK: u32 = 0x7477;
/// Longest name of an interface.
const INTERFACE_MAX: usize = 15;

/// Where tokenward stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// In the agent's own network: all that does not belong to this group is the agent's.
    Sidecar {
        /// The group of tokenward, which no agent may have.
        gid: u32,
    },
    /// On the machine through which agents reach others: all that comes in by this interface is an agent's.
    Gateway {
        /// Its name.
        interface: String,
    },
}

/// What rules are made from.
#[derive(Debug, Clone)]
pub struct Ground {
    shape: Shape,
    tproxy: bool,
    v4: Option<SocketAddr>,
    v6: Option<SocketAddr>,
    ports: BTreeSet<u16>,
    resolvers: BTreeSet<IpAddr>,
    /// Where `listen.proxy` can be reached from elsewhere.
    proxies: BTreeSet<SocketAddr>,
}

/// Why there are no rules for this configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroundError {
    /// The name would be read as something else.
    #[error("--interface: not the name of an interface; write it as `ip link` shows it")]
    Interface,
    /// Group 0 is that of everything that starts as root.
    #[error(
        "--exempt-gid: 0 would exempt every program of root; give tokenward a group of its own"
    )]
    Root,
    /// No listener fits.
    #[error("listen.transparent: no address for this shape; write {0}")]
    Nowhere(&'static str),
    /// It is not clear which listener is meant.
    #[error(
        "listen.transparent: {0} and {1} would both fit; rules for several agents are not supported yet: keep one address of each family for this shape and mode"
    )]
    Several(SocketAddr, SocketAddr),
    /// TPROXY cannot see what a machine sends itself.
    #[error(
        "--tproxy with --shape sidecar: not supported yet; redirect does the same there, and takes no capability"
    )]
    SidecarTproxy,
}

impl Ground {
    /// Finds the listeners of a configuration that this shape leads to.
    ///
    /// # Errors
    /// [`GroundError`].
    pub fn of(
        plan: &Plan,
        shape: Shape,
        tproxy: bool,
        resolvers: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self, GroundError> {
        let services = plan.policy.services.iter().map(|service| service.port);
        let blind = plan.policy.tunnel.iter().map(Authority::port);
        let ports = services.chain(blind);
        let mut ground =
            Self::from_parts(&plan.listen.transparent, ports, shape, tproxy, resolvers)?;
        let proxies = plan.listen.proxy.iter().filter_map(|proxy| match proxy.at {
            ProxyAt::Tcp(address) => Some(address),
            ProxyAt::Unix { .. } => None,
        });
        ground.proxies = proxies.filter(|at| !at.ip().is_loopback()).collect();
        Ok(ground)
    }

    fn from_parts(
        listeners: &[TransparentSettings],
        ports: impl Iterator<Item = u16>,
        shape: Shape,
        tproxy: bool,
        resolvers: impl IntoIterator<Item = IpAddr>,
    ) -> Result<Self, GroundError> {
        match &shape {
            Shape::Sidecar { .. } if tproxy => return Err(GroundError::SidecarTproxy),
            Shape::Sidecar { gid: 0 } => return Err(GroundError::Root),
            Shape::Gateway { interface } if !is_interface(interface) => {
                return Err(GroundError::Interface);
            }
            Shape::Sidecar { .. } | Shape::Gateway { .. } => {}
        }
        let fits = |listener: &&TransparentSettings| fits(listener, &shape, tproxy);
        let fitting: Vec<SocketAddr> = listeners.iter().filter(fits).map(|l| l.address).collect();
        let v4 = only(fitting.iter().filter(|address| address.is_ipv4()))?;
        let v6 = only(fitting.iter().filter(|address| address.is_ipv6()))?;
        if fitting.is_empty() {
            return Err(GroundError::Nowhere(match (&shape, tproxy) {
                (Shape::Sidecar { .. }, _) => "`transparent: [127.0.0.1:15001, \"[::1]:15001\"]`",
                (Shape::Gateway { .. }, false) => {
                    "`transparent: [{address: 0.0.0.0:15001, agent: NAME}, {address: \"[::]:15001\", agent: NAME}]`"
                }
                (Shape::Gateway { .. }, true) => {
                    "`transparent: [{address: 127.0.0.1:15001, mode: tproxy, agent: NAME}, {address: \"[::1]:15001\", mode: tproxy, agent: NAME}]`"
                }
            }));
        }
        Ok(Self {
            shape,
            tproxy,
            v4,
            v6,
            ports: ports.chain([80, 443]).collect(),
            // A resolver on this machine is within reach without a rule.
            resolvers: resolvers
                .into_iter()
                .filter(|ip| !ip.is_loopback())
                .collect(),
            proxies: BTreeSet::new(),
        })
    }

    /// The families for which no listener is there, so that all of them is rejected.
    #[must_use]
    pub fn unserved(&self) -> Vec<&'static str> {
        let missing = [("IPv4", self.v4), ("IPv6", self.v6)];
        let missing = missing
            .into_iter()
            .filter(|(_, listener)| listener.is_none());
        missing.map(|(family, _)| family).collect()
    }

    /// Whether marked packets must be routed to this machine itself.
    #[must_use]
    pub fn tproxy(&self) -> bool {
        self.tproxy
    }

    /// Text for `nft -f -`. It takes the place of what was there in one transaction.
    #[must_use]
    pub fn nft(&self) -> String {
        nft::text(self)
    }

    /// Text for `iptables-restore --noflush`, or `ip6tables-restore`, where `saved` (what `…-save` shows, or nothing) stands.
    #[must_use]
    pub fn legacy(&self, family: Family, saved: &str) -> String {
        legacy::text(self, family, saved)
    }

    fn listener(&self, family: Family) -> Option<SocketAddr> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// The address, where it is not every one, and the port of each proxy listener that this family reaches.
    fn doors(&self, family: Family) -> impl Iterator<Item = (Option<IpAddr>, u16)> {
        let of = move |at: &&SocketAddr| {
            // Such a listener may take both.
            let every = at.is_ipv6() && at.ip().is_unspecified();
            every || at.is_ipv6() == (family == Family::V6)
        };
        let named = |at: &SocketAddr| (!at.ip().is_unspecified()).then(|| at.ip());
        self.proxies
            .iter()
            .filter(of)
            .map(move |at| (named(at), at.port()))
    }

    fn resolvers(&self, family: Family) -> impl Iterator<Item = &IpAddr> {
        let of = move |ip: &&IpAddr| ip.is_ipv6() == (family == Family::V6);
        self.resolvers.iter().filter(of)
    }
}

/// Whether the rules of this shape can lead to this listener.
fn fits(listener: &TransparentSettings, shape: &Shape, tproxy: bool) -> bool {
    let ip = listener.address.ip();
    if (listener.mode == RedirectMode::Tproxy) != tproxy {
        return false;
    }
    match shape {
        // What is redirected on its way out arrives at loopback, and what is redirected on its way in at the interface.
        Shape::Sidecar { .. } => ip.is_loopback() || ip.is_unspecified(),
        Shape::Gateway { .. } => tproxy || !ip.is_loopback(),
    }
}

fn only<'a>(
    mut found: impl Iterator<Item = &'a SocketAddr>,
) -> Result<Option<SocketAddr>, GroundError> {
    match (found.next(), found.next()) {
        (Some(first), Some(second)) => Err(GroundError::Several(*first, *second)),
        (first, _) => Ok(first.copied()),
    }
}

fn is_interface(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"._-@".contains(&b);
    (1..=INTERFACE_MAX).contains(&name.len()) && name.bytes().all(fits)
}

#[cfg(test)]
mod tests;
