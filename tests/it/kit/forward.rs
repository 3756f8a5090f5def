//! A corporate proxy: CONNECT and nothing else, and a memory of who asked for what.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::origin::Identity;
use super::raw::read_head;

/// What it does with a CONNECT.
#[derive(Clone)]
pub(crate) enum Manner {
    /// Opens the tunnel; names that are not listed are taken for addresses.
    Opens(HashMap<String, SocketAddr>),
    /// Says this and closes.
    Says(String),
    /// Says this, keeps the connection and carries nothing.
    Holds(String),
}

/// A proxy that lives as long as the test's runtime.
pub(crate) struct Forward {
    pub(crate) address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Forward {
    /// One that is spoken to in clear, or in TLS as this identity.
    pub(crate) async fn start(manner: Manner, identity: Option<&Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let acceptor = identity.map(|identity| identity.acceptor(&["http/1.1"]));
        let memory = heads.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (manner, memory) = (manner.clone(), memory.clone());
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    match acceptor {
                        None => carry(stream, manner, memory).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                carry(stream, manner, memory).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, heads }
    }

    /// The heads that it was sent.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    /// The destinations that it was asked for.
    pub(crate) fn targets(&self) -> Vec<String> {
        let target = |head: &String| head.split(' ').nth(1).unwrap().to_owned();
        self.heads().iter().map(target).collect()
    }
}

async fn carry(
    mut agent: impl AsyncRead + AsyncWrite + Unpin,
    manner: Manner,
    heads: Arc<Mutex<Vec<String>>>,
) {
    let head = read_head(&mut agent).await.text();
    let Some(target) = head.split(' ').nth(1).map(str::to_owned) else {
        return;
    };
    heads.lock().unwrap().push(head);
    let known = match manner {
        Manner::Says(text) => {
            agent.write_all(text.as_bytes()).await.ok();
            return;
        }
        Manner::Holds(text) => {
            agent.write_all(text.as_bytes()).await.ok();
            return std::future::pending().await;
        }
        Manner::Opens(known) => known,
    };
    let name = target.rsplit_once(':').unwrap().0;
    let address = known.get(name).copied();
    let Some(address) = address.or_else(|| target.parse().ok()) else {
        agent
            .write_all(b"HTTP/1.1 502 No such host\r\n\r\n")
            .await
            .ok();
        return;
    };
    let mut origin = TcpStream::connect(address).await.unwrap();
    agent
        .write_all(b"HTTP/1.1 200 Connection established\r\nvia: 1.1 corp\r\n\r\n")
        .await
        .ok();
    // Either side may end as it likes.
    tokio::io::copy_bidirectional(&mut agent, &mut origin)
        .await
        .ok();
}
