//! Sockets that somebody made elsewhere, in place of those that `listen` names.

use std::net::TcpListener as StdListener;

use super::build::Sockets;
use super::environment::ProxyName;
use super::error::StartError;
use crate::listen::{Listener, NameSockets, RedirectMode};
use crate::vocab::AgentName;

/// Sockets of one agent, in a network of its own, which listen already.
pub struct Inlets {
    /// Whose they are.
    pub agent: AgentName,
    /// The explicit proxy.
    pub proxy: StdListener,
    /// Each takes the connections of one port, to whatever address.
    pub doors: Vec<StdListener>,
    /// Where names are asked for.
    pub names: NameSockets,
}

impl Sockets {
    /// None of their addresses is one of ours: they are of another network.
    pub(super) fn given(inlets: Inlets) -> Result<Self, StartError> {
        let proxy = Listener::given(inlets.proxy)?;
        let address = proxy.address();
        let door = |socket| {
            let agent = Some(inlets.agent.clone());
            Listener::redirected(socket, RedirectMode::Everywhere, agent)
        };
        let doors = inlets.doors.into_iter().map(door);
        Ok(Self {
            proxy_addresses: address.into_iter().collect(),
            proxy_name: address.map(|address| ProxyName::of(address, None)),
            shown: address.iter().map(ToString::to_string).collect(),
            proxies: vec![proxy],
            transparent: doors.collect::<Result<_, _>>()?,
            transparent_addresses: Vec::new(),
            health: Vec::new(),
            admin: None,
            own: Vec::new(),
            names: Some((inlets.agent, inlets.names)),
        })
    }
}
