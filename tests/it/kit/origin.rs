//! A TLS server for what the rehearsal does not play, such as gRPC: each connection is the test's own.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A body of the test's own.
pub(crate) type OwnBody = UnsyncBoxBody<Bytes, io::Error>;

/// A certificate for some names, below a CA of its own.
pub(crate) struct Identity {
    pub(crate) ca_pem: String,
    pub(crate) cert_pem: String,
    pub(crate) key_pem: String,
    key: KeyPair,
    cert: rcgen::Certificate,
}

impl Identity {
    pub(crate) fn of(names: &[&str]) -> Self {
        let mut above = CertificateParams::default();
        above.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_key = KeyPair::generate().unwrap();
        let ca = above.self_signed(&ca_key).unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::new(above, ca_key);
        let params = CertificateParams::new(names).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        Self {
            ca_pem: ca.pem(),
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            key,
            cert,
        }
    }

    /// TLS settings of a server that offers these protocols.
    pub(crate) fn acceptor(&self, alpn: &[&str]) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A server that lives as long as the test's runtime.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    pub(crate) ca_pem: String,
}

impl Origin {
    /// Every connection goes to `serve`.
    pub(crate) async fn raw<F>(
        name: &str,
        alpn: &[&str],
        serve: impl Fn(TlsStream<TcpStream>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let identity = Identity::of(&[name]);
        let acceptor = identity.acceptor(alpn);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = Arc::new(serve);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, serve) = (acceptor.clone(), serve.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        serve(stream).await;
                    }
                });
            }
        });
        Self {
            address,
            ca_pem: identity.ca_pem,
        }
    }

    /// Every request on HTTP/2 goes to `answer`.
    pub(crate) async fn http2<F>(
        name: &str,
        answer: impl Fn(Request<Incoming>) -> F + Send + Sync + Clone + 'static,
    ) -> Self
    where
        F: Future<Output = Response<OwnBody>> + Send + 'static,
    {
        Self::raw(name, &["h2"], move |stream| {
            let answer = answer.clone();
            async move {
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let connection = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                // How a connection ends is what its test is about, or nobody's concern.
                connection.await.ok();
            }
        })
        .await
    }

    /// `upstream` of a service that this server is.
    pub(crate) fn upstream(&self, folder: &std::path::Path) -> String {
        let file = folder.join("origin.pem");
        std::fs::write(&file, &self.ca_pem).unwrap();
        let (file, address) = (file.display(), self.address);
        format!("{{ca: {{file: \"{file}\"}}, connect: \"{address}\", allow_private: true}}")
    }
}
