//! Where agents knock: a TCP address or a unix socket, in clear or in TLS.
//!
//! A unix socket is made with its mode before anybody can connect, takes the place of one that a dead process left, and
//! of nothing else, and is removed when its listener ends.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixSocket, UnixStream};
use tokio_util::either::Either;

use super::crowd::Source;
use super::transparent::Way;
use crate::vocab::Secret;

/// Connections that may wait for us to accept them.
pub(super) const BACKLOG: u16 = 1024;

/// A place where agents knock.
pub struct Listener {
    socket: Socket,
    /// How its connections are spoken to; `None`: in clear.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// How its connections were led here; `None`: they were made to it, as to a proxy.
    pub(super) way: Option<Arc<Way>>,
}

enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        _file: SocketFile,
    },
}

/// A certificate and key that TLS cannot be spoken with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the certificate and key of a listener cannot be used")]
pub struct ListenerTlsError;

impl Listener {
    /// Binds a TCP address.
    ///
    /// # Errors
    /// The system's.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::of(Socket::Tcp(TcpListener::bind(address).await?)))
    }

    fn of(socket: Socket) -> Self {
        Self {
            socket,
            tls: None,
            way: None,
        }
    }

    /// A socket that listens already and gets connections that were made to other addresses.
    pub(super) fn led(listener: TcpListener, way: Way) -> Self {
        Self {
            way: Some(Arc::new(way)),
            ..Self::of(Socket::Tcp(listener))
        }
    }

    /// Makes a unix socket with this mode.
    ///
    /// # Errors
    /// The system's; `AddrInUse` where somebody listens there, `AlreadyExists` where something else than a socket is there.
    pub async fn unix(path: &Path, mode: u32) -> io::Result<Self> {
        let (listener, file) = unix_socket(path, mode).await?;
        let socket = Socket::Unix {
            listener,
            _file: file,
        };
        Ok(Self::of(socket))
    }

    /// The same in TLS, with a certificate chain and its key in PEM. HTTP/1.1 is all that is offered: a CONNECT of HTTP/2
    /// is not carried.
    ///
    /// # Errors
    /// [`ListenerTlsError`].
    pub fn in_tls(mut self, cert: &[u8], key: &Secret<Vec<u8>>) -> Result<Self, ListenerTlsError> {
        self.tls = Some(server_tls(cert, key)?);
        Ok(self)
    }

    /// The TCP address that was bound.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix { .. } => None,
        }
    }

    /// The next connection, and who is at its other end.
    pub(super) async fn accept(&self) -> io::Result<(Link, Peer)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY could not be set");
                }
                let peer = Peer {
                    source: Source::of(peer.ip()),
                    address: Some(peer.ip()),
                    local: peer.ip().to_canonical().is_loopback(),
                };
                Ok((Link::Left(stream), peer))
            }
            Socket::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                // Without credentials it is one source with all others like it.
                let user = stream.peer_cred().map_or(u32::MAX, |who| who.uid());
                let peer = Peer {
                    source: Source::user(user),
                    address: None,
                    local: true,
                };
                Ok((Link::Right(stream), peer))
            }
        }
    }
}

/// How TLS is spoken by a listener of ours, whoever it is for: with HTTP/1.1 and nothing else.
///
/// # Errors
/// [`ListenerTlsError`].
pub fn server_tls(
    cert: &[u8],
    key: &Secret<Vec<u8>>,
) -> Result<Arc<ServerConfig>, ListenerTlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
    let chain = chain.map_err(|_| ListenerTlsError)?;
    let key = PrivateKeyDer::from_pem_slice(key.expose()).map_err(|_| ListenerTlsError)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    // TLS 1.3 and 1.2, and nothing before (RFC 8996).
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| ListenerTlsError)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|_| ListenerTlsError)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer {
    pub(super) source: Source,
    /// Its address; none at a unix socket.
    pub(super) address: Option<IpAddr>,
    /// Whether it is on this machine, so that it may be the agent without a name.
    pub(super) local: bool,
}

/// Removes a socket on which nobody listens any more. Anything else is left alone.
async fn remove_stale(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there?,
    };
    if !there.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// Makes a unix socket with this mode, and what removes it at the end.
///
/// # Errors
/// As [`Listener::unix`].
pub async fn unix_socket(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path).await?;
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let file = SocketFile::of(path)?;
    // Nobody can connect before `listen`, so there is no moment in which it is open to more than its mode says.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok((socket.listen(BACKLOG.into())?, file))
}

/// The file of a socket of ours, removed when it is dropped.
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: a file that somebody else put there since stays.
    ours: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        let there = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            ours: (there.dev(), there.ino()),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let there = fs::symlink_metadata(&self.path);
        if there.is_ok_and(|there| (there.dev(), there.ino()) == self.ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "a unix socket could not be removed");
        }
    }
}

/// A connection, whatever it came over.
pub(super) type Link = Either<TcpStream, UnixStream>;

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    async fn kind(path: &Path) -> io::ErrorKind {
        let made = Listener::unix(path, 0o600).await;
        made.err()
            .map_or(io::ErrorKind::Other, |error| error.kind())
    }

    #[tokio::test]
    async fn a_socket_takes_the_place_of_a_dead_one_and_of_nothing_else() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("p.sock");
        // What a killed process leaves.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::unix(&path, 0o620).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o620);
        assert_eq!(kind(&path).await, io::ErrorKind::AddrInUse);
        assert!(UnixStream::connect(&path).await.is_ok());
        drop(listener);
        assert!(!path.exists());
        for make in [
            |path: &Path| fs::write(path, "mine").unwrap(),
            |path: &Path| fs::create_dir(path).unwrap(),
            |path: &Path| std::os::unix::fs::symlink("/nowhere", path).unwrap(),
        ] {
            make(&path);
            assert_eq!(kind(&path).await, io::ErrorKind::AlreadyExists);
            let there = fs::symlink_metadata(&path).unwrap();
            if there.is_dir() {
                fs::remove_dir(&path).unwrap();
            } else {
                fs::remove_file(&path).unwrap();
            }
        }
        assert_eq!(
            kind(&dir.path().join("no/p.sock")).await,
            io::ErrorKind::NotFound
        );
    }

    #[tokio::test]
    async fn a_file_that_is_not_ours_any_more_stays() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("p.sock");
        let listener = Listener::unix(&path, 0o600).await.unwrap();
        fs::remove_file(&path).unwrap();
        let other = Listener::unix(&path, 0o600).await.unwrap();
        drop(listener);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }
}
