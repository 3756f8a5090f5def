//! An authority, servers that follow a script, and a way out that trusts the authority.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::credential::{BodyError, BoxFuture, OutBody};
use crate::upstream::client::send;
use crate::upstream::*;
use crate::vocab::{AgentName, Authority, Clock, Host, Scheme, ServiceName, WallTime};

pub(super) const SOON: Duration = Duration::from_secs(3);

pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
pub(super) type BoxIo = Box<dyn Io>;

/// A certificate authority.
pub(super) struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    pub(super) fn new() -> Self {
        Self::with_key(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap())
    }

    pub(super) fn with_key(key: KeyPair) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(super) fn server(&self, name: &str, alpn: &[&str]) -> Arc<ServerConfig> {
        self.server_with(alpn, &|params| {
            params.subject_alt_names = CertificateParams::new(vec![name.to_owned()])
                .unwrap()
                .subject_alt_names;
        })
    }

    /// A certificate of a client, in PEM.
    pub(super) fn sign(&self, params: CertificateParams, key: &KeyPair) -> String {
        params.signed_by(key, &self.0).unwrap().pem()
    }

    pub(super) fn server_with(
        &self,
        alpn: &[&str],
        change: &dyn Fn(&mut CertificateParams),
    ) -> Arc<ServerConfig> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        server_config(certificate.der().clone(), &key, alpn)
    }
}

pub(super) fn server_config(
    certificate: CertificateDer<'static>,
    key: &KeyPair,
    alpn: &[&str],
) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A listener whose connections are handed to a script, with their number from 0.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) accepted: Arc<AtomicUsize>,
    pub(super) shaken: Arc<AtomicUsize>,
}

impl Server {
    pub(super) async fn start<F, Fut>(tls: Option<Arc<ServerConfig>>, script: F) -> Self
    where
        F: Fn(BoxIo, usize) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            accepted: Arc::default(),
            shaken: Arc::default(),
        };
        let (accepted, shaken) = (server.accepted.clone(), server.shaken.clone());
        let script = Arc::new(script);
        drop(tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                // As real servers do: what was written is on its way when the connection is closed.
                tcp.set_nodelay(true).unwrap();
                let number = accepted.fetch_add(1, Ordering::SeqCst);
                let (tls, shaken, script) = (tls.clone(), shaken.clone(), script.clone());
                drop(tokio::spawn(async move {
                    let io: BoxIo = match tls {
                        None => Box::new(tcp),
                        Some(config) => match TlsAcceptor::from(config).accept(tcp).await {
                            Ok(stream) => Box::new(stream),
                            Err(_) => return,
                        },
                    };
                    shaken.fetch_add(1, Ordering::SeqCst);
                    script(io, number).await;
                }));
            }
        }));
        server
    }

    /// A server of HTTP/1.1 that asks for a certificate and answers every request with its `x5t#S256`, or `none`.
    pub(super) async fn naming_clients(ca: &Ca, name: &str) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .allow_unauthenticated()
                .build()
                .unwrap();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca.0).unwrap();
        let der = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], der)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            accepted: Arc::default(),
            shaken: Arc::default(),
        };
        let accepted = server.accepted.clone();
        drop(tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let acceptor = acceptor.clone();
                drop(tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let shown = stream.get_ref().1.peer_certificates();
                    let named = shown.map_or_else(
                        || "none".to_owned(),
                        |chain| URL_SAFE_NO_PAD.encode(digest(&SHA256, &chain[0])),
                    );
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{named}",
                        named.len()
                    );
                    let mut io: BoxIo = Box::new(stream);
                    while read_head(&mut io).await.is_some() {
                        if io.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }));
            }
        }));
        server
    }

    /// A server of HTTP/1.1 that answers every request head by `answer`, on kept connections.
    pub(super) async fn http1<F>(tls: Option<Arc<ServerConfig>>, answer: F) -> Self
    where
        F: Fn(&str) -> String + Send + Sync + 'static,
    {
        let answer = Arc::new(answer);
        Self::start(tls, move |mut io, _| {
            let answer = answer.clone();
            async move {
                while let Some(head) = read_head(&mut io).await {
                    let text = answer(&head);
                    if io.write_all(text.as_bytes()).await.is_err() {
                        return;
                    }
                    if text.to_ascii_lowercase().contains("connection: close") {
                        drop(io.shutdown().await);
                        return;
                    }
                }
            }
        })
        .await
    }

    pub(super) fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(super) fn handshakes(&self) -> usize {
        self.shaken.load(Ordering::SeqCst)
    }
}

/// Reads up to the empty line; `None` at the end of the stream.
pub(super) async fn read_head(io: &mut BoxIo) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

/// A resolver that gives prepared answers, the last one for ever, and counts the questions.
#[derive(Default)]
pub(super) struct Script {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    pub(super) asked: AtomicUsize,
}

impl Script {
    pub(super) fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |list: &&[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
        Arc::new(Self {
            answers: Mutex::new(answers.iter().map(parse).collect()),
            asked: AtomicUsize::new(0),
        })
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Resolve for Script {
    fn lookup<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = match answers.len() {
            0 => Err(io::Error::other("no such name")),
            1 => Ok(answers[0].clone()),
            _ => Ok(answers.pop_front().unwrap()),
        };
        Box::pin(async move { answer })
    }
}

pub(super) struct World {
    pub(super) ca: Ca,
    pub(super) clock: Clock,
    pub(super) upstream: Upstream,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(PoolLimits::default(), Script::new(&[]))
    }

    pub(super) fn with(limits: PoolLimits, resolver: Arc<dyn Resolve>) -> Self {
        let ca = Ca::new();
        let clock = Clock::manual(WallTime(1_700_000_000_000));
        let settings = UpstreamSettings {
            roots: Roots::of([ca.certificate()], &[]),
            own_listeners: Vec::new(),
            limits,
            parent: None,
        };
        let upstream = Upstream::with_resolver(settings, resolver, clock.clone());
        Self {
            ca,
            clock,
            upstream,
        }
    }

    pub(super) fn endpoint(&self, server: &Server) -> Arc<Endpoint> {
        self.upstream.endpoint(&target(server.address)).unwrap()
    }

    pub(super) async fn connect(
        &self,
        agent: &str,
        endpoint: &Arc<Endpoint>,
    ) -> Result<Connection, UpstreamError> {
        self.connect_as(agent, "https://api.test", endpoint, Protocol::Any)
            .await
    }

    pub(super) async fn connect_as(
        &self,
        agent: &str,
        origin: &str,
        endpoint: &Arc<Endpoint>,
        need: Protocol,
    ) -> Result<Connection, UpstreamError> {
        let (scheme, host) = origin.split_once("://").unwrap();
        let scheme = if scheme == "http" {
            Scheme::Http
        } else {
            Scheme::Https
        };
        let key = Key::new(
            AgentName::new(agent).unwrap(),
            ServiceName::new("items").unwrap(),
            Authority::parse(scheme, host).unwrap(),
        );
        let pool = &self.upstream.0.pool;
        pool.checkout(&key, endpoint, need, SOON).await
    }

    /// Connects, sends a GET and reads the whole reply.
    pub(super) async fn fetch(&self, agent: &str, endpoint: &Arc<Endpoint>) -> (bool, String) {
        let connection = self.connect(agent, endpoint).await.unwrap();
        let reused = connection.reused();
        let reply = get(connection).await.unwrap();
        let body = read(reply).await.unwrap();
        settle().await;
        (reused, body)
    }
}

pub(super) fn target(address: SocketAddr) -> TargetSettings {
    TargetSettings {
        connect: Some(ConnectTo {
            host: Host::Ip(address.ip()),
            port: Some(address.port()),
        }),
        allow_private: true,
        extra_roots: Vec::new(),
    }
}

/// Gives the tasks of a finished exchange time to put the connection back.
pub(super) async fn settle() {
    tokio::time::sleep(Duration::from_millis(30)).await;
}

pub(super) fn nothing() -> OutBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn request(connection: &Connection, method: &str, body: OutBody) -> Request<OutBody> {
    let http2 = connection.version() == Version::HTTP_2;
    let target = if http2 { "https://api.test/v1" } else { "/v1" };
    let builder = Request::builder()
        .method(method)
        .uri(target)
        .version(connection.version());
    let builder = if http2 {
        builder
    } else {
        builder.header("host", "api.test")
    };
    builder.body(body).unwrap()
}

pub(super) async fn get(connection: Connection) -> Result<Reply, SendError> {
    let request = request(&connection, "GET", nothing());
    send(connection, request).await
}

pub(super) async fn read(reply: Reply) -> Result<String, BodyError> {
    let mut body = reply.response.into_body();
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    Ok(String::from_utf8(whole).unwrap())
}
