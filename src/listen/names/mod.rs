//! Where an agent that has no other network asks for names. The hosts of its services have addresses that stand for them; no
//! other name exists, and nobody is asked about any: a query that left would carry what the agent wants to tell (A04).
//!
//! The addresses mean nothing. Whatever is sent to them reaches a transparent listener, which goes by the name that the
//! handshake or the request gives, and looks that up itself.

mod message;

use std::net::{TcpListener as StdListener, UdpSocket as StdSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

pub(super) use message::answer;

use super::accept::Doors;
use crate::vocab::AgentName;

/// Largest query. One question with all extensions in use is smaller.
const QUERY_MAX: usize = 4096;
/// Connections that ask at the same time; others wait to be accepted.
const ASKING_MAX: usize = 64;
/// How long a connection may be silent, and how long it may last in all.
const SILENCE: Duration = Duration::from_secs(5);
const LIFE: Duration = Duration::from_secs(60);
/// How long to rest when the system has no room for another socket.
const REST: Duration = Duration::from_millis(100);

/// Sockets on which one agent asks for names.
#[derive(Debug, Default)]
pub struct NameSockets {
    /// Those that listen.
    pub tcp: Vec<StdListener>,
    /// The others.
    pub udp: Vec<StdSocket>,
}

impl Doors {
    /// Answers on these sockets until the drain begins.
    ///
    /// # Errors
    /// The system's.
    pub fn serve_names(
        self: &Arc<Self>,
        agent: &AgentName,
        sockets: NameSockets,
    ) -> std::io::Result<()> {
        for socket in sockets.udp {
            socket.set_nonblocking(true)?;
            let socket = UdpSocket::from_std(socket)?;
            self.tasks
                .spawn(self.clone().answer_udp(socket, agent.clone()));
        }
        for socket in sockets.tcp {
            socket.set_nonblocking(true)?;
            let socket = TcpListener::from_std(socket)?;
            self.tasks
                .spawn(self.clone().answer_tcp(socket, agent.clone()));
        }
        Ok(())
    }

    async fn answer_udp(self: Arc<Self>, socket: UdpSocket, agent: AgentName) {
        let mut query = [0; QUERY_MAX];
        loop {
            let received = tokio::select! {
                received = socket.recv_from(&mut query) => received,
                () = self.draining.cancelled() => return,
            };
            let Ok((length, from)) = received else {
                // A port that nobody holds any more is reported here, too.
                tokio::task::yield_now().await;
                continue;
            };
            if let Some(answer) = self.answer_name(&query[..length], &agent)
                && let Err(error) = socket.send_to(&answer, from).await
            {
                tracing::debug!(%error, "an answer to a query for a name was not taken");
            }
        }
    }

    async fn answer_tcp(self: Arc<Self>, listener: TcpListener, agent: AgentName) {
        let places = Arc::new(Semaphore::new(ASKING_MAX));
        loop {
            let accepted = tokio::select! {
                accepted = async {
                    let place = places.clone().acquire_owned().await.ok();
                    (place, listener.accept().await)
                } => accepted,
                () = self.draining.cancelled() => return,
            };
            let (place, Ok((stream, _))) = accepted else {
                tokio::time::sleep(REST).await;
                continue;
            };
            let (doors, agent) = (self.clone(), agent.clone());
            self.tasks.spawn(async move {
                let asked = doors.answer_stream(stream, &agent);
                let asked = doors.draining.run_until_cancelled(asked);
                let _ended = tokio::time::timeout(LIFE, asked).await;
                drop(place);
            });
        }
    }

    /// Queries with their lengths before them (RFC 1035 §4.2.2), one after the other. `None`: it ended.
    async fn answer_stream(&self, mut stream: TcpStream, agent: &AgentName) -> Option<()> {
        loop {
            let read = async {
                let mut query = vec![0; usize::from(stream.read_u16().await.ok()?)];
                if query.len() > QUERY_MAX {
                    return None;
                }
                stream.read_exact(&mut query).await.ok()?;
                Some(query)
            };
            let query = tokio::time::timeout(SILENCE, read).await.ok()??;
            let answer = self.answer_name(&query, agent)?;
            let mut framed = u16::try_from(answer.len()).ok()?.to_be_bytes().to_vec();
            framed.extend(answer);
            let written = stream.write_all(&framed);
            tokio::time::timeout(SILENCE, written).await.ok()?.ok()?;
        }
    }

    fn answer_name(&self, query: &[u8], agent: &AgentName) -> Option<Vec<u8>> {
        let plan = self.exchange.plan();
        answer(query, |host| plan.snapshot().has_host(agent, host))
    }
}
