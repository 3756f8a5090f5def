//! The root: makes, loads, saves it, and signs with it.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose,
    PublicKeyData,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::constraints::{NameConstraints, Permitted, extension};
use super::error::CaError;
use super::files::{Existing, Folder, PUBLIC, SECRET, SECRET_DIR};
use super::key::{KEY_FILE, RootKey};
use super::leaf;
use super::pem;
use super::{random, serial, utc};
use crate::vocab::{Clock, Secret, WallTime};

pub(super) const CERTIFICATE_FILE: &str = "ca.pem";
/// Ten years. Ending an installation's trust is done by removing the root, not by waiting.
const LIFE: Duration = Duration::from_secs(3652 * 24 * 60 * 60);
/// An agent's clock may run behind ours.
pub(super) const BACKDATED: Duration = Duration::from_secs(60 * 60);
/// No chain of a CA is longer; each certificate is sent in every handshake.
pub(super) const CHAIN_MAX: usize = 8;

/// The interception CA. Its private key cannot be had from it, only signatures.
pub struct Root {
    issuer: Issuer<'static, RootKey>,
    /// The CA's certificate, then the certificates above it that were given with it.
    chain: Vec<CertificateDer<'static>>,
    constraints: NameConstraints,
    not_before: WallTime,
    not_after: WallTime,
}

impl Root {
    /// Makes a new P-256 root that lives ten years.
    ///
    /// Where `permitted` names hosts, the certificate carries them as name constraints (RFC 5280 §4.2.1.10): agents
    /// then refuse what it signs for any other host, even if the key is stolen. Each DNS name stands for itself and
    /// what is below it.
    ///
    /// # Errors
    /// [`CaError`] where there are too many hosts, or randomness or signing fails.
    pub fn generate(clock: &Clock, permitted: &Permitted) -> Result<Self, CaError> {
        let key = RootKey::generate()?;
        let now = clock.wall();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // The number tells one installation's root from another's in a list of trusted certificates.
        let number = u32::from_be_bytes(random()?);
        params
            .distinguished_name
            .push(DnType::CommonName, format!("tokenward CA {number:08x}"));
        params.serial_number = Some(serial()?);
        params.not_before = utc(WallTime(now.0.saturating_sub(millis(BACKDATED))))?;
        params.not_after = utc(now + LIFE)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.name_constraints = extension(permitted)?;
        let certificate = params.self_signed(&key).map_err(|_| CaError::Signing)?;
        Self::assemble(vec![certificate.into()], key)
    }

    /// Takes a CA that the operator made: PEM certificate, followed by the certificates above it where it is not
    /// self-signed, and PEM private key (PKCS#8, SEC1 or PKCS#1; not encrypted).
    ///
    /// # Errors
    /// [`CaError`] where a part cannot be read, the key belongs to another certificate, or the certificate may not sign.
    pub fn from_pem(certificate: &[u8], key: &Secret<Vec<u8>>) -> Result<Self, CaError> {
        let chain = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .filter(|chain| (1..=CHAIN_MAX).contains(&chain.len()))
            .ok_or(CaError::Corrupt {
                file: CERTIFICATE_FILE,
                what: "a PEM certificate is expected",
            })?;
        Self::assemble(chain, RootKey::from_pem(key.expose())?)
    }

    /// Loads `ca.key` and `ca.pem` from a folder.
    ///
    /// # Errors
    /// [`CaError::Missing`] where one of them is not there; others where the key file is open to others, a file is a
    /// symbolic link, or one is damaged.
    pub fn load(dir: &Path) -> Result<Self, CaError> {
        const MISSING: CaError = CaError::Missing { file: KEY_FILE };
        let folder = Folder::open(dir)?.ok_or(MISSING)?.guarded()?;
        Self::read(&folder)?.ok_or(MISSING)
    }

    /// Writes `ca.key` (0600) and `ca.pem` (0644) into a folder, which is made (0700) where it does not exist.
    ///
    /// # Errors
    /// [`CaError::Exists`] where one of them is there: a root that agents trust is never overwritten.
    pub fn save(&self, dir: &Path) -> Result<(), CaError> {
        let folder = Folder::create(dir, SECRET_DIR)?.guarded()?;
        folder.locked(|| self.write(&folder))
    }

    /// Puts `ca.key` and `ca.pem` in the place of those that are there. Agents that trust the old root have to be given
    /// the new one, so this is for an operator who asked for it in so many words.
    ///
    /// # Errors
    /// [`CaError`] where the folder cannot be trusted or written.
    pub fn replace(&self, dir: &Path) -> Result<(), CaError> {
        let folder = Folder::create(dir, SECRET_DIR)?.guarded()?;
        // A crash between the two leaves a key and a certificate that do not fit, which is refused at the next start.
        folder.locked(|| self.place(&folder, Existing::Replace))
    }

    /// Loads the root of a folder, or makes one for the permitted hosts and saves it there.
    ///
    /// # Errors
    /// As [`Root::load`]; what exists and cannot be used is an error, never a reason to make a new root.
    pub fn load_or_create(
        dir: &Path,
        clock: &Clock,
        permitted: &Permitted,
    ) -> Result<Self, CaError> {
        let folder = Folder::create(dir, SECRET_DIR)?.guarded()?;
        // Under the lock from the start: between the two files of another process there is a moment with only one.
        folder.locked(|| match Self::read(&folder)? {
            Some(root) => Ok(root),
            None => {
                let root = Self::generate(clock, permitted)?;
                root.write(&folder)?;
                Ok(root)
            }
        })
    }

    /// The CA's certificate.
    #[must_use]
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        // `assemble` made sure of the first; an empty one would match no trust store.
        static NOTHING: CertificateDer<'static> = CertificateDer::from_slice(&[]);
        self.chain.first().unwrap_or(&NOTHING)
    }

    /// The CA's certificate and what was given above it, as PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.chain.iter().map(|der| pem::certificate(der)).collect()
    }

    /// For which hosts agents accept what it signs.
    #[must_use]
    pub fn constraints(&self) -> &NameConstraints {
        &self.constraints
    }

    /// When the certificate ends.
    #[must_use]
    pub fn not_after(&self) -> WallTime {
        self.not_after
    }

    /// When the certificate begins.
    pub(super) fn not_before(&self) -> WallTime {
        self.not_before
    }

    /// Signs a leaf and puts the chain together as the agent gets it.
    pub(super) fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let leaf = params
            .signed_by(key, &self.issuer)
            .map_err(|_| CaError::Signing)?;
        let mut chain = vec![leaf.into()];
        // A self-signed root is in the agent's trust store or nowhere (RFC 8446 §4.4.2); an intermediate has to be sent.
        if self.chain.len() > 1 {
            chain.extend(self.chain.iter().cloned());
        }
        Ok(chain)
    }

    fn read(folder: &Folder) -> Result<Option<Self>, CaError> {
        let key = folder.read_secret(KEY_FILE)?;
        let certificate = folder.read_public(CERTIFICATE_FILE)?;
        match (key, certificate) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(CaError::Missing { file: KEY_FILE }),
            (Some(_), None) => Err(CaError::Missing {
                file: CERTIFICATE_FILE,
            }),
            (Some(mut key), Some(certificate)) => {
                let key = Secret::new(std::mem::take(&mut *key));
                Self::from_pem(&certificate, &key).map(Some)
            }
        }
    }

    fn write(&self, folder: &Folder) -> Result<(), CaError> {
        if folder.has(CERTIFICATE_FILE)? {
            return Err(CaError::Exists {
                file: CERTIFICATE_FILE,
            });
        }
        self.place(folder, Existing::Keep)
    }

    fn place(&self, folder: &Folder, existing: Existing) -> Result<(), CaError> {
        let key = self.issuer.key().to_pem();
        folder.place(KEY_FILE, SECRET, key.as_bytes(), existing)?;
        let certificate = self.certificate_pem();
        folder.place(CERTIFICATE_FILE, PUBLIC, certificate.as_bytes(), existing)
    }

    fn assemble(chain: Vec<CertificateDer<'static>>, key: RootKey) -> Result<Self, CaError> {
        const DAMAGED: CaError = CaError::Corrupt {
            file: CERTIFICATE_FILE,
            what: "the certificate inside the PEM cannot be read",
        };
        let der = chain.first().ok_or(DAMAGED)?.clone();
        let (rest, certificate) = X509Certificate::from_der(&der).map_err(|_| DAMAGED)?;
        if !rest.is_empty() {
            return Err(DAMAGED);
        }
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(CaError::Mismatch);
        }
        if !may_sign(&certificate).ok_or(DAMAGED)? {
            return Err(CaError::NotCa);
        }
        if certificate
            .subject()
            .iter()
            .any(|rdn| rdn.iter().count() != 1)
        {
            return Err(CaError::Subject);
        }
        let validity = certificate.validity();
        let root = Self {
            issuer: Issuer::from_ca_cert_der(&der, key).map_err(|_| DAMAGED)?,
            constraints: NameConstraints::of_chain(&chain)?,
            not_before: wall(validity.not_before.timestamp()),
            not_after: wall(validity.not_after.timestamp()),
            chain,
        };
        // Names are re-encoded on the way into a leaf. Where the bytes come out different every handshake would fail
        // far from here (RFC 5280 §6.1.3 (a)(4)), so try it once.
        if leaf::issuer_name(&root)? == certificate.subject().as_raw() {
            Ok(root)
        } else {
            Err(CaError::Subject)
        }
    }
}

/// Says which root and until when; nothing of the key.
impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root")
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// RFC 5280 §4.2.1.9 and §4.2.1.3: a CA, and where it states a key usage, one that signs certificates. `None` where an
/// extension is malformed.
fn may_sign(certificate: &X509Certificate<'_>) -> Option<bool> {
    let ca = certificate
        .basic_constraints()
        .ok()?
        .is_some_and(|basic| basic.value.ca);
    let usage = certificate
        .key_usage()
        .ok()?
        .is_none_or(|usage| usage.value.key_cert_sign());
    Some(ca && usage)
}

fn wall(seconds: i64) -> WallTime {
    WallTime(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
