//! The sockets of a cell: made inside, served from outside. A socket stays in the network in which it was made.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde::{Deserialize, Serialize};

/// Connections that may wait for us to accept them.
const BACKLOG: i32 = 1024;
/// Where names are asked for.
const NAMES: u16 = 53;

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    Proxy,
    Door,
    NamesTcp,
    NamesUdp,
}

/// All sockets of a cell.
#[derive(Debug)]
pub struct Sockets {
    /// The explicit proxy, on the cell's loopback.
    pub proxy: TcpListener,
    /// One for each port and family; their connections were made to any address.
    pub doors: Vec<TcpListener>,
    /// Where names are asked for, over TCP.
    pub names_tcp: Vec<TcpListener>,
    /// The same over UDP.
    pub names_udp: Vec<UdpSocket>,
}

/// Makes the sockets in the network of the calling process.
///
/// # Errors
/// The system's.
pub(super) fn make(ports: &[u16], with_v6: bool) -> io::Result<Vec<(Purpose, OwnedFd)>> {
    let anywhere = |port| {
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        [Some(v4), with_v6.then_some(v6)].into_iter().flatten()
    };
    let mut made = Vec::new();
    for address in anywhere(NAMES) {
        made.push((Purpose::NamesTcp, socket(address, SocketType::STREAM)?));
        made.push((Purpose::NamesUdp, socket(address, SocketType::DGRAM)?));
    }
    for address in ports.iter().flat_map(|port| anywhere(*port)) {
        made.push((Purpose::Door, socket(address, SocketType::STREAM)?));
    }
    // Last, so that the port that it is given is none of theirs.
    let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    made.push((Purpose::Proxy, socket(proxy, SocketType::STREAM)?));
    Ok(made)
}

fn socket(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// What is sent outside.
pub(super) fn parts(made: &[(Purpose, OwnedFd)]) -> (Vec<Purpose>, Vec<BorrowedFd<'_>>) {
    let purposes = made.iter().map(|(purpose, _)| *purpose).collect();
    (
        purposes,
        made.iter().map(|(_, socket)| socket.as_fd()).collect(),
    )
}

impl Sockets {
    /// What arrived outside. `None`: not what was promised.
    pub(super) fn sorted(purposes: &[Purpose], sockets: Vec<OwnedFd>) -> io::Result<Self> {
        if purposes.len() != sockets.len() {
            return Err(Errno::PROTO.into());
        }
        let (mut proxy, mut doors) = (None, Vec::new());
        let (mut names_tcp, mut names_udp) = (Vec::new(), Vec::new());
        for (purpose, socket) in purposes.iter().zip(sockets) {
            match purpose {
                Purpose::Proxy => proxy = Some(socket.into()),
                Purpose::Door => doors.push(socket.into()),
                Purpose::NamesTcp => names_tcp.push(socket.into()),
                Purpose::NamesUdp => names_udp.push(socket.into()),
            }
        }
        Ok(Self {
            proxy: proxy.ok_or(Errno::PROTO)?,
            doors,
            names_tcp,
            names_udp,
        })
    }
}
