//! Where operators come in: a unix socket that only our own user and root may use, or a TCP address where a token is shown.
//!
//! The proxy never dials either: it knows no unix sockets, and a TCP address of ours is among those that it dials for
//! nobody. What says that it came by way of a proxy of ours is refused all the same.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, TcpListener as StdTcpListener};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::desk::{ARRIVAL_TIMEOUT, Desk};
use super::guard::Guard;

/// Connections at one time. One holds its place for ten seconds at most before its request is there, so on loopback a
/// program of this machine can keep operators waiting; on a unix socket it cannot.
const CONNECTIONS: usize = 64;
/// Longest head of a request.
const HEAD_MAX: usize = 16 * 1024;
/// How long to rest when the system has no room for another socket.
const REST: Duration = Duration::from_millis(50);

/// A place that was bound and is not served yet.
pub struct Entrance {
    /// What listens.
    pub door: EntranceDoor,
    /// What a caller must bring.
    pub guard: Guard,
}

/// What listens. The sockets do not block, and belong to no runtime yet.
pub enum EntranceDoor {
    /// A TCP address, in clear on loopback or in TLS.
    Tcp(StdTcpListener, Option<Arc<ServerConfig>>),
    /// A unix socket; only this user and root may connect.
    Unix(StdUnixListener, u32),
}

impl Desk {
    /// Serves until the task is dropped.
    ///
    /// # Errors
    /// The system's, where the socket cannot be served.
    pub async fn serve(self, entrance: Entrance) -> io::Result<()> {
        let host = Host {
            desk: Arc::new(self),
            guard: Arc::new(entrance.guard),
        };
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        match entrance.door {
            EntranceDoor::Tcp(listener, tls) => {
                let tls = tls.map(TlsAcceptor::from);
                host.tcp(TcpListener::from_std(listener)?, tls, room).await;
            }
            EntranceDoor::Unix(listener, uid) => {
                host.unix(UnixListener::from_std(listener)?, uid, room)
                    .await;
            }
        }
        Ok(())
    }
}

/// What each connection is given.
#[derive(Clone)]
struct Host {
    desk: Arc<Desk>,
    guard: Arc<Guard>,
}

impl Host {
    async fn unix(self, listener: UnixListener, uid: u32, room: Arc<Semaphore>) {
        while let Ok(place) = room.clone().acquire_owned().await {
            match listener.accept().await {
                // The mode of the socket says so as well; but a mode can be changed, and a folder be mounted elsewhere.
                Ok((stream, _))
                    if stream
                        .peer_cred()
                        .is_ok_and(|who| who.uid() == uid || who.uid() == 0) =>
                {
                    tokio::spawn(self.clone().connection(stream, None, place));
                }
                Ok(_) => {
                    tracing::warn!("another user's process was turned away at the admin socket");
                }
                Err(error) => rest(&error).await,
            }
        }
    }

    async fn tcp(self, listener: TcpListener, tls: Option<TlsAcceptor>, room: Arc<Semaphore>) {
        while let Ok(place) = room.clone().acquire_owned().await {
            let (stream, local) = match listener.accept().await {
                Ok((stream, _)) => match stream.local_addr() {
                    Ok(local) => (stream, local.ip().to_canonical()),
                    Err(_) => continue,
                },
                Err(error) => {
                    rest(&error).await;
                    continue;
                }
            };
            let host = self.clone();
            let Some(tls) = tls.clone() else {
                tokio::spawn(host.connection(stream, Some(local), place));
                continue;
            };
            tokio::spawn(async move {
                match tokio::time::timeout(ARRIVAL_TIMEOUT, tls.accept(stream)).await {
                    Ok(Ok(stream)) => host.connection(stream, Some(local), place).await,
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "a TLS handshake with an operator failed");
                    }
                    Err(_) => tracing::debug!("a TLS handshake with an operator took too long"),
                }
            });
        }
    }

    /// One connection, for one request.
    async fn connection<I>(self, io: I, local: Option<IpAddr>, place: OwnedSemaphorePermit)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let place = Arc::new(place);
        let service = service_fn(|request| {
            let (host, place) = (self.clone(), Arc::clone(&place));
            async move {
                Ok::<_, Infallible>(match host.guard.admits(&request, local) {
                    Ok(()) => host.desk.answer(request, &place).await,
                    Err(objection) => host.desk.object(objection),
                })
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(ARRIVAL_TIMEOUT)
            .max_buf_size(HEAD_MAX)
            .keep_alive(false)
            .serve_connection(TokioIo::new(io), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "an admin connection ended early");
        }
        drop(place);
    }
}

async fn rest(error: &io::Error) {
    tracing::warn!(%error, "the admin API could not accept a connection");
    tokio::time::sleep(REST).await;
}
