//! One leaf: a certificate for exactly one host, valid for a day, with the process's one leaf key.
//!
//! All leaves share one P-256 key, which never leaves the process: a stolen leaf key would be the same loss as a stolen
//! process, and a key per host would cost a third more of each mint.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroize as _;

use super::error::CaError;
use super::root::{BACKDATED, Root};
use super::{serial, utc};
use crate::vocab::{Host, WallTime};

/// Together with the hour that it is dated back, a day.
const LIFE: Duration = Duration::from_secs(23 * 60 * 60);
/// RFC 5280 appendix A.1, ub-common-name.
const COMMON_NAME_MAX: usize = 64;

/// The key of all leaves: the public half for the certificates, the signer for rustls.
pub(super) struct LeafKey {
    public: rcgen::SubjectPublicKeyInfo,
    signer: Arc<dyn SigningKey>,
}

impl LeafKey {
    pub(super) fn generate() -> Result<Self, CaError> {
        let mut pair = KeyPair::generate().map_err(|_| CaError::Signing)?;
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let signer = rustls::crypto::aws_lc_rs::default_provider()
            .key_provider
            .load_private_key(der)
            .map_err(|_| CaError::Signing)?;
        let public = rcgen::SubjectPublicKeyInfo::from_der(&pair.subject_public_key_info())
            .map_err(|_| CaError::Signing)?;
        pair.zeroize();
        Ok(Self { public, signer })
    }
}

/// A leaf with the span in which it is handed out.
#[derive(Clone)]
pub(super) struct Minted {
    pub(super) certified: Arc<CertifiedKey>,
    not_before: WallTime,
    renew_at: WallTime,
}

impl Minted {
    /// Whether half of its life is still ahead. A clock that was set back behind its beginning counts as stale too.
    pub(super) fn is_fresh(&self, now: WallTime) -> bool {
        self.not_before <= now && now < self.renew_at
    }
}

/// Signs a leaf for `host` alone, inside the root's own validity and name constraints: one outside would be refused by
/// agents, and would be a mistake that we had signed.
pub(super) fn mint(
    root: &Root,
    key: &LeafKey,
    host: &Host,
    now: WallTime,
) -> Result<Minted, CaError> {
    if !root.constraints().permit(host) {
        return Err(CaError::NotPermitted);
    }
    if now >= root.not_after() {
        return Err(CaError::Expired);
    }
    if now < root.not_before() {
        return Err(CaError::NotYetValid);
    }
    let early = u64::try_from(BACKDATED.as_millis()).unwrap_or(u64::MAX);
    let not_before = WallTime(now.0.saturating_sub(early)).max(root.not_before());
    let not_after = (now + LIFE).min(root.not_after());
    let half = not_after.0.saturating_sub(now.0) / 2;
    let params = parameters(host, not_before, not_after)?;
    let chain = root.sign(&params, &key.public)?;
    Ok(Minted {
        certified: Arc::new(CertifiedKey::new(chain, Arc::clone(&key.signer))),
        not_before,
        renew_at: WallTime(now.0.saturating_add(half)),
    })
}

/// The issuer's name as it comes out in a leaf, in DER.
pub(super) fn issuer_name(root: &Root) -> Result<Vec<u8>, CaError> {
    let host = Host::parse("probe.invalid").map_err(|_| CaError::Signing)?;
    let key = KeyPair::generate().map_err(|_| CaError::Signing)?;
    let params = parameters(&host, root.not_before(), root.not_after())?;
    let chain = root.sign(&params, &key)?;
    let leaf = chain.first().ok_or(CaError::Signing)?;
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| CaError::Signing)?;
    Ok(leaf.issuer().as_raw().to_vec())
}

fn parameters(
    host: &Host,
    not_before: WallTime,
    not_after: WallTime,
) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    // Clients compare the alternative name only (RFC 9525 §6.3); the common name is for people. OpenSSL holds it
    // against DNS name constraints where no DNS name stands beside it, so an address has none. An empty subject makes
    // the alternative name critical (RFC 5280 §4.2.1.6).
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![match host {
        Host::Name(name) => {
            if name.len() <= COMMON_NAME_MAX {
                params
                    .distinguished_name
                    .push(DnType::CommonName, name.to_string());
            }
            SanType::DnsName(name.to_string().try_into().map_err(|_| CaError::Signing)?)
        }
        Host::Ip(ip) => SanType::IpAddress(*ip),
    }];
    params.serial_number = Some(serial()?);
    params.not_before = utc(not_before)?;
    params.not_after = utc(not_after)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
