//! TLS towards agents: one set of settings, one configuration a host, and sessions that are good for their host alone.

use std::fmt;
use std::sync::Arc;

use quick_cache::sync::Cache;
use rustls::ServerConfig;
use rustls::server::{ServerSessionMemoryCache, StoresServerSessions};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::ca::CaError;
use crate::vocab::Host;

/// Configurations kept, one a host; as many as leaves. An agent may name hosts below a wildcard, so this is what
/// counting up names can make us hold, at some 2 KiB each.
const CONFIGS: usize = 1024;
/// TLS sessions remembered, all hosts together; some 400 bytes each.
const SESSIONS: usize = 4096;

/// What every handshake with an agent is made from.
pub(super) struct Interception {
    template: ServerConfig,
    sessions: Arc<ServerSessionMemoryCache>,
    configs: Cache<Host, Arc<ServerConfig>>,
}

impl Interception {
    /// # Errors
    /// The provider refuses its own defaults.
    pub(super) fn new() -> Result<Self, CaError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        // TLS 1.3 and 1.2, and nothing before (RFC 8996).
        let mut template = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|_| CaError::Signing)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Nobody));
        template.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // A replayed first flight would be a second request with our proof on it.
        template.max_early_data_size = 0;
        Ok(Self {
            template,
            sessions: ServerSessionMemoryCache::new(SESSIONS),
            configs: Cache::new(CONFIGS),
        })
    }

    /// The configuration of a host, if it is kept.
    pub(super) fn kept(&self, host: &Host) -> Option<Arc<ServerConfig>> {
        self.configs.get(host)
    }

    /// The configuration for a new leaf.
    pub(super) fn with(&self, host: &Host, leaf: Arc<CertifiedKey>) -> Arc<ServerConfig> {
        let mut config = self.template.clone();
        config.cert_resolver = Arc::new(SingleCertAndKey::from(leaf));
        config.session_storage = Arc::new(SessionsOf {
            host: host.to_string().into_bytes(),
            all: self.sessions.clone(),
        });
        let config = Arc::new(config);
        self.configs.insert(host.clone(), config.clone());
        config
    }
}

/// The template's certificate: none.
#[derive(Debug)]
struct Nobody;

impl rustls::server::ResolvesServerCert for Nobody {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// The sessions of one host among all: what was agreed for one is unknown to another, also where a client leaves out
/// the name that rustls would compare.
struct SessionsOf {
    host: Vec<u8>,
    all: Arc<ServerSessionMemoryCache>,
}

impl SessionsOf {
    /// No host has a zero byte, so no two (host, id) pairs meet.
    fn key(&self, id: &[u8]) -> Vec<u8> {
        [&self.host, &[0][..], id].concat()
    }
}

impl StoresServerSessions for SessionsOf {
    fn put(&self, id: Vec<u8>, session: Vec<u8>) -> bool {
        self.all.put(self.key(&id), session)
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.all.get(&self.key(id))
    }

    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.all.take(&self.key(id))
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl fmt::Debug for SessionsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionsOf")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_known_to_its_host_alone() {
        let all = ServerSessionMemoryCache::new(8);
        let of = |host: &str| SessionsOf {
            host: host.as_bytes().to_vec(),
            all: all.clone(),
        };
        let (x, y) = (of("x.test"), of("y.test"));
        assert!(x.put(vec![1], vec![42]));
        assert_eq!((y.get(&[1]), y.take(&[1])), (None, None));
        assert_eq!(x.get(&[1]), Some(vec![42]));
        assert_eq!(x.take(&[1]), Some(vec![42]));
        assert_eq!(x.take(&[1]), None);
    }
}
