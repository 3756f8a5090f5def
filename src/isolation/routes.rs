//! The network of a cell: its loopback is up, and every address is one of its own. rtnetlink(7), written by hand, because it
//! is three messages.

use std::io;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// The loopback is the first interface of every network namespace.
const LOOPBACK: u32 = 1;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

const IFF_UP: u32 = 1;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_BOOT: u8 = 3;
const RT_SCOPE_HOST: u8 = 254;
const RTN_LOCAL: u8 = 2;
const RTA_OIF: u16 = 4;

/// Address families as the kernel numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4 = 2,
    V6 = 10,
}

/// Sets the network of the calling process's namespace up. Answers whether it has IPv6; where it has none, nothing can be
/// sent over it either.
///
/// # Errors
/// The system's.
pub(super) fn lay() -> io::Result<bool> {
    ask(&link_up())?;
    ask(&everything_is_local(Family::V4))?;
    match ask(&everything_is_local(Family::V6)) {
        Ok(()) => Ok(true),
        Err(error) => {
            let code = error.raw_os_error();
            let absent = [
                rustix::io::Errno::OPNOTSUPP,
                rustix::io::Errno::AFNOSUPPORT,
                rustix::io::Errno::NODEV,
                rustix::io::Errno::INVAL,
                rustix::io::Errno::ACCESS,
            ];
            if absent.iter().any(|e| code == Some(e.raw_os_error())) {
                return Ok(false);
            }
            Err(error)
        }
    }
}

/// Sends one request and reads what became of it.
fn ask(request: &[u8]) -> io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // Protocol 0, which is NETLINK_ROUTE.
        None,
    )?;
    rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
    rustix::net::send(&socket, request, SendFlags::empty())?;
    let mut answer = [0; 1024];
    let (read, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
    outcome(&answer[..read])
}

/// The error code of an acknowledgement: 0, or the negative of the system's.
fn outcome(answer: &[u8]) -> io::Result<()> {
    let kind = answer
        .get(4..6)
        .and_then(|b| Some(u16::from_ne_bytes(b.try_into().ok()?)));
    let code = answer
        .get(16..20)
        .and_then(|b| Some(i32::from_ne_bytes(b.try_into().ok()?)));
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn link_up() -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend(0_u16.to_ne_bytes());
    for word in [LOOPBACK, IFF_UP, IFF_UP] {
        body.extend(word.to_ne_bytes());
    }
    message(RTM_NEWLINK, 0, &body)
}

/// `local default dev lo`.
fn everything_is_local(family: Family) -> Vec<u8> {
    let (prefix, source, service) = (0, 0, 0);
    let mut body = vec![
        family as u8,
        prefix,
        source,
        service,
        RT_TABLE_LOCAL,
        RTPROT_BOOT,
        RT_SCOPE_HOST,
        RTN_LOCAL,
    ];
    body.extend(0_u32.to_ne_bytes());
    body.extend(8_u16.to_ne_bytes());
    body.extend(RTA_OIF.to_ne_bytes());
    body.extend(LOOPBACK.to_ne_bytes());
    message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &body)
}

/// nlmsghdr and a body whose length is a multiple of four.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
    // A number and a sender: there is one request on a socket, and the kernel knows whose it is.
    message.extend(1_u32.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_lengths_that_they_tell() {
        for request in [
            link_up(),
            everything_is_local(Family::V4),
            everything_is_local(Family::V6),
        ] {
            let told = u32::from_ne_bytes(request[..4].try_into().unwrap());
            assert_eq!(usize::try_from(told).unwrap(), request.len());
            assert_eq!(request.len() % 4, 0);
        }
        assert_eq!(link_up().len(), 32);
        assert_eq!(everything_is_local(Family::V4).len(), 36);
    }

    #[test]
    fn an_answer_that_is_no_acknowledgement_is_a_failure() {
        let mut answer = vec![0; 36];
        answer[4] = 2;
        assert!(outcome(&answer).is_ok());
        answer[16..20].copy_from_slice(&(-1_i32).to_ne_bytes());
        assert_eq!(outcome(&answer).unwrap_err().raw_os_error(), Some(1));
        answer[4] = 3;
        assert!(outcome(&answer).is_err());
        assert!(outcome(&answer[..10]).is_err());
        assert!(outcome(&[]).is_err());
    }
}
