//! Whom we trust, and how we introduce ourselves: our own ClientHello, never a copy of the agent's.
//!
//! Verification is rustls's own and cannot be switched off. There is no early data (RFC 8446 §8: it can be replayed,
//! and a credential would travel in it) and no resumption (a ticket would tie the connections of two agents together
//! and skip the certificate).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, Der, ServerName};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connection::Protocol;
use super::error::{EndpointError, RootsError, UpstreamError};
use super::settings::{ConnectTo, TargetSettings};
use super::way::Way;
use crate::credential::Certificate;
use crate::vocab::Host;
use crate::vocab::variant::overhear;

/// Where distributions keep their bundle. Known paths only: `SSL_CERT_FILE` is anybody's to set.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/usr/local/share/certs/ca-root-nss.crt",
];

/// The authorities that may vouch for services, without those that must never.
#[derive(Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    /// Public keys of our own interception CA: also a renewed certificate of the same key is ours.
    forbidden: Arc<Vec<Der<'static>>>,
    bundle: Option<PathBuf>,
}

impl Roots {
    /// The distribution's bundle, found by path, without the `forbidden` ones: an operator who installed our
    /// interception CA for the agents' sake must not thereby make us believe its leaves.
    ///
    /// # Errors
    /// [`RootsError`] where no bundle with certificates is found.
    pub fn system(forbidden: &[CertificateDer<'_>]) -> Result<Self, RootsError> {
        for path in BUNDLES {
            let Ok(certificates) = CertificateDer::pem_file_iter(path) else {
                continue;
            };
            // A bundle may hold lines that are not certificates; what cannot be read is not trusted.
            let mut roots = Self::of(certificates.flatten(), forbidden);
            if !roots.store.is_empty() {
                roots.bundle = Some(path.into());
                return Ok(roots);
            }
        }
        Err(RootsError::NotFound)
    }

    /// The given certificates, without the `forbidden` ones.
    pub fn of(
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
        forbidden: &[CertificateDer<'_>],
    ) -> Self {
        let forbidden: Vec<_> = forbidden.iter().filter_map(public_key).collect();
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            let ours = public_key(&certificate).is_none_or(|key| forbidden.contains(&key));
            if !ours {
                // Old or odd roots that the library cannot read are left out, as every browser does.
                store.add_parsable_certificates([certificate]);
            }
        }
        Self {
            store: Arc::new(store),
            forbidden: Arc::new(forbidden),
            bundle: None,
        }
    }

    /// The file that the system's roots came from.
    #[must_use]
    pub fn bundle(&self) -> Option<&Path> {
        self.bundle.as_deref()
    }

    /// How many authorities are trusted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.store.is_empty()
    }

    /// These and some more.
    pub(super) fn and(
        &self,
        extra: &[CertificateDer<'static>],
    ) -> Result<Arc<RootCertStore>, EndpointError> {
        if extra.is_empty() {
            return Ok(self.store.clone());
        }
        let mut store = RootCertStore::clone(&self.store);
        for certificate in extra {
            let key = public_key(certificate).ok_or(EndpointError::BadRoot)?;
            if self.forbidden.contains(&key) {
                return Err(EndpointError::OwnRoot);
            }
            store
                .add(certificate.clone())
                .map_err(|_| EndpointError::BadRoot)?;
        }
        Ok(Arc::new(store))
    }
}

/// The SubjectPublicKeyInfo of a certificate; `None` where it cannot be read as a trust anchor.
fn public_key(certificate: &CertificateDer<'_>) -> Option<Der<'static>> {
    let mut one = RootCertStore::empty();
    one.add(certificate.clone().into_owned()).ok()?;
    let anchor = one.roots.pop()?;
    Some(anchor.subject_public_key_info)
}

/// How one service or issuer is reached. Compiled once, when the configuration is read.
pub struct Endpoint {
    id: u64,
    connect: Option<ConnectTo>,
    allow_private: bool,
    any: Arc<ClientConfig>,
    http1: Arc<ClientConfig>,
}

impl Endpoint {
    pub(super) fn compile(roots: &Roots, target: &TargetSettings) -> Result<Self, EndpointError> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let store = roots.and(&target.extra_roots)?;
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            connect: target.connect.clone(),
            allow_private: target.allow_private,
            any: config(store.clone(), &[b"h2", b"http/1.1"])?,
            http1: config(store, &[b"http/1.1"])?,
        })
    }

    /// Grows with every endpoint that is compiled.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn connect(&self) -> Option<&ConnectTo> {
        self.connect.as_ref()
    }

    pub(super) fn allow_private(&self) -> bool {
        self.allow_private
    }

    /// Runs the handshake. The name is the authority's, whatever address was dialled; a literal address goes without
    /// SNI (RFC 6066 §3) and must stand in the certificate as an address. Ours is shown to a server that asks.
    pub(super) async fn handshake(
        &self,
        host: &Host,
        need: Protocol,
        certificate: Option<&Certificate>,
        stream: Way,
    ) -> Result<TlsStream<Way>, UpstreamError> {
        let name = server_name(host)?;
        let http1_alone = matches!(need, Protocol::Http1 | Protocol::Http1First);
        let config = match need {
            // A server that knows HTTP/1.1 alone says so by its choice; offered HTTP/2 alone it would send an alert, which
            // looks like a certificate that it does not like.
            Protocol::Any | Protocol::Http2 => &self.any,
            Protocol::Http1 | Protocol::Http1First => &self.http1,
        };
        let config = match certificate {
            Some(certificate) => showing(config, certificate.handle()),
            None => config.clone(),
        };
        let connecting = TlsConnector::from(config).connect(name, stream);
        connecting.await.map_err(|error| {
            if http1_alone && speaks_none_of_these(&error) {
                UpstreamError::NoHttp1
            } else {
                failure(error)
            }
        })
    }
}

/// Whether the server said that it speaks nothing of what it was offered (RFC 7301 §3.2).
fn speaks_none_of_these(error: &std::io::Error) -> bool {
    let told = error.get_ref().and_then(|e| e.downcast_ref());
    let alert = AlertDescription::NoApplicationProtocol;
    told == Some(&rustls::Error::AlertReceived(alert))
}

/// The name that a certificate must have.
pub(super) fn server_name(host: &Host) -> Result<ServerName<'static>, UpstreamError> {
    match host {
        Host::Ip(ip) => Ok(ServerName::IpAddress((*ip).into())),
        Host::Name(name) => ServerName::try_from(name.to_string()).map_err(|_| UpstreamError::Tls),
    }
}

/// What a handshake that failed means: the certificate or the protocol, or the connection.
pub(super) fn failure(error: std::io::Error) -> UpstreamError {
    overhear(|| error.to_string());
    let judged = error.get_ref().is_some_and(|e| e.is::<rustls::Error>());
    if judged {
        UpstreamError::Tls
    } else {
        UpstreamError::Unreachable
    }
}

/// The same settings with an identity. Made for each connection: they are few, and an endpoint outlives certificates.
fn showing(config: &ClientConfig, key: &Arc<CertifiedKey>) -> Arc<ClientConfig> {
    let mut config = config.clone();
    let shown: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(key.clone()));
    config.client_auth_cert_resolver = shown;
    Arc::new(config)
}

pub(super) fn config(
    roots: Arc<RootCertStore>,
    alpn: &[&'static [u8]],
) -> Result<Arc<ClientConfig>, EndpointError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|_| EndpointError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    #[cfg(feature = "variants")]
    super::variant::trust_anybody(&mut config);
    Ok(Arc::new(config))
}
