//! How the three processes talk: one message at a time over a pair of unix sockets, with descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest message: an environment and a command line are at most 2 MiB, and JSON writes a byte as up to four.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// Most descriptors with one message; the kernel takes 253.
pub(super) const DESCRIPTORS_MAX: usize = 200;

/// Sends one message.
///
/// # Errors
/// The system's; `InvalidInput` for more than a message holds.
pub(super) fn send(
    mut channel: &UnixStream,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    if body.len() > MESSAGE_MAX || descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut room);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let head = length.to_be_bytes();
    let sent = sendmsg(
        channel.as_fd(),
        &[IoSlice::new(&head)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent != head.len() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    channel.write_all(&body)
}

/// Receives one message; what comes with it is closed by a later `exec`.
///
/// # Errors
/// The system's; `UnexpectedEof` where the other side is gone.
pub(super) fn receive<T: DeserializeOwned>(
    mut channel: &UnixStream,
) -> io::Result<(T, Vec<OwnedFd>)> {
    let mut head = [0; 4];
    let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let got = recvmsg(
        channel.as_fd(),
        &mut [IoSliceMut::new(&mut head)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    )?;
    if got.bytes != head.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    let length = usize::try_from(u32::from_be_bytes(head)).map_err(io::Error::other)?;
    if length > MESSAGE_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    channel.read_exact(&mut body)?;
    Ok((serde_json::from_slice(&body)?, descriptors))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn a_message_and_its_descriptors_arrive_together() {
        let (here, there) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        (&file).write_all(b"seen").unwrap();
        send(&here, &("first", 1), &[file.as_fd(), here.as_fd()]).unwrap();
        send(&here, &"second", &[]).unwrap();
        let (message, mut descriptors): ((String, u8), _) = receive(&there).unwrap();
        assert_eq!((message, descriptors.len()), (("first".into(), 1), 2));
        let length = File::from(descriptors.remove(0)).metadata().unwrap().len();
        assert_eq!(length, 4);
        assert_eq!(receive::<String>(&there).unwrap().0, "second");
        drop((here, descriptors));
        let gone = receive::<String>(&there).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_length_that_nobody_would_send_is_refused() {
        let (mut here, there) = UnixStream::pair().unwrap();
        here.write_all(&u32::MAX.to_be_bytes()).unwrap();
        let refused = receive::<String>(&there).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }
}
