//! Certificates made at start by a CA that lives as long as the rehearsal, and the TLS settings of the servers.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use super::RehearsalError;
use super::controls::Alpn;
use crate::vocab::{Clock, WallTime};

const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The rehearsal's own CA.
pub(super) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
    clock: Clock,
}

impl Ca {
    pub(super) fn generate(clock: &Clock) -> Result<Self, RehearsalError> {
        let mut params = dated(Vec::new(), clock)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "tokenward rehearsal CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            pem: certificate.pem(),
            der: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            clock: clock.clone(),
        })
    }

    pub(super) fn pem(&self) -> &str {
        &self.pem
    }

    /// TLS for a server of these names and of 127.0.0.1.
    pub(super) fn offers(&self, names: &[String]) -> Result<Offers, RehearsalError> {
        let mut sans = names.to_vec();
        sans.push("127.0.0.1".into());
        let mut params = dated(sans, &self.clock)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "tokenward rehearsal");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain = vec![certificate.der().clone(), self.der.clone()];
        let config = |alpn: &[&[u8]]| -> Result<Arc<ServerConfig>, RehearsalError> {
            let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let mut config =
                ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                    .with_safe_default_protocol_versions()?
                    .with_no_client_auth()
                    .with_single_cert(chain.clone(), private)?;
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            Ok(Arc::new(config))
        };
        Ok(Offers {
            both: config(&[b"h2", b"http/1.1"])?,
            h1: config(&[b"http/1.1"])?,
            h2: config(&[b"h2"])?,
        })
    }
}

fn dated(names: Vec<String>, clock: &Clock) -> Result<CertificateParams, RehearsalError> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    let now = clock.wall();
    // A day of slack: a test's client may have its own idea of time.
    let yesterday = WallTime(now.0.saturating_sub(24 * 3600 * 1000));
    params.not_before = stamp(yesterday)?;
    params.not_after = stamp(now + LIFE)?;
    Ok(params)
}

fn stamp(at: WallTime) -> Result<OffsetDateTime, RehearsalError> {
    OffsetDateTime::from_unix_timestamp(at.seconds()).map_err(|_| RehearsalError::Clock)
}

/// One certificate, offered with three lists of protocols.
pub(super) struct Offers {
    both: Arc<ServerConfig>,
    h1: Arc<ServerConfig>,
    h2: Arc<ServerConfig>,
}

impl Offers {
    pub(super) fn config(&self, alpn: Alpn) -> Arc<ServerConfig> {
        Arc::clone(match alpn {
            Alpn::Both => &self.both,
            Alpn::H1 => &self.h1,
            Alpn::H2 => &self.h2,
        })
    }
}
