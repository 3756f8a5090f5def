//! Certificates and private keys, read so far that a wrong file is found now and not at the first handshake.

use std::net::IpAddr;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;

use super::Context;
use crate::config::SecretReading;
use crate::config::plan::CaPlan;
use crate::config::raw::{RawCa, RawFileRef, SecretRef};
use crate::vocab::{Host, Secret};

/// Largest file of certificates; the bundle of a distribution has a quarter of it.
const ROOTS_MAX: u64 = 1 << 20;

/// Certificates to trust in addition to the system's. Empty where files are not read.
pub(super) fn roots(
    key: &str,
    raw: Option<&RawFileRef>,
    it: &mut Context<'_>,
) -> Vec<CertificateDer<'static>> {
    let Some(path) = raw.and_then(|raw| raw.file.as_deref()) else {
        return Vec::new();
    };
    let key = format!("{key}.file");
    let Some(pem) = it.file(&key, path, ROOTS_MAX) else {
        return Vec::new();
    };
    let roots = certificates(&pem).filter(|roots| {
        let mut store = RootCertStore::empty();
        roots.iter().all(|root| store.add(root.clone()).is_ok())
    });
    roots.unwrap_or_else(|| {
        let what = "the file holds no certificates, or a broken one";
        let remedy = "it must hold certificates in PEM (BEGIN CERTIFICATE)";
        it.findings.error(&key, what, remedy);
        Vec::new()
    })
}

/// A private key that can sign. Empty where secrets are not read.
pub(super) fn private_key(
    key: &str,
    reference: &SecretRef,
    it: &mut Context<'_>,
) -> Secret<Vec<u8>> {
    one_line(key, reference, it);
    let Some(pem) = it.secret(key, reference) else {
        return Secret::new(Vec::new());
    };
    let usable = PrivateKeyDer::from_pem_slice(pem.expose())
        .is_ok_and(|der| aws_lc_rs::sign::any_supported_type(&der).is_ok());
    if !usable {
        let what = "not a private key in PEM";
        let remedy = "it must be an unencrypted EC, Ed25519 or RSA key (BEGIN PRIVATE KEY)";
        it.findings.error(key, what, remedy);
    }
    pem
}

/// A person types one line, and PEM has several.
pub(super) fn one_line(key: &str, reference: &SecretRef, it: &mut Context<'_>) {
    if matches!(reference, SecretRef::Prompt(_)) {
        let what = "a key in PEM has several lines, which nobody can type";
        it.findings.error(key, what, "give it with {file: PATH}");
    }
}

/// A file of certificates that is to be known by its content. Empty where it was not read, or could not be and a finding
/// says so.
pub(super) fn public(key: &str, raw: &RawFileRef, it: &mut Context<'_>) -> Vec<u8> {
    let path = raw.file.as_deref();
    let read = path.and_then(|path| it.file(&format!("{key}.file"), path, ROOTS_MAX));
    read.unwrap_or_default()
}

/// The interception CA.
pub(super) fn ca(raw: Option<&RawCa>, it: &mut Context<'_>) -> CaPlan {
    let Some(raw) = raw else {
        return CaPlan::Memory;
    };
    match (&raw.dir, &raw.cert, &raw.key) {
        (Some(dir), None, None) => CaPlan::Dir(it.path("ca.dir", dir)),
        (None, Some(cert), Some(key)) => given(cert, key, it),
        _ if it.findings.tainted("ca") => CaPlan::Memory,
        _ => {
            let what = "neither a directory nor a certificate with its key";
            let remedy = "write {dir: PATH} or {cert: {file: PATH}, key: {file: PATH}}";
            it.findings.error("ca", what, remedy);
            CaPlan::Memory
        }
    }
}

fn given(cert: &RawFileRef, key: &SecretRef, it: &mut Context<'_>) -> CaPlan {
    let pem = cert.file.as_deref().and_then(|path| match it.reading {
        SecretReading::Resolve => it.file("ca.cert.file", path, ROOTS_MAX),
        // It is public, and `ca show` prints it; whoever needs it will say that it is not there.
        SecretReading::Operator | SecretReading::Skip => it.references.file(path, ROOTS_MAX).ok(),
    });
    let key_pem = private_key("ca.key", key, it);
    let cert_pem = pem.unwrap_or_default();
    if it.reading == SecretReading::Resolve && !cert_pem.is_empty() && !it.findings.tainted("ca") {
        check_ca(&cert_pem, &key_pem, it);
    }
    CaPlan::Given { cert_pem, key_pem }
}

fn check_ca(cert_pem: &[u8], key_pem: &Secret<Vec<u8>>, it: &mut Context<'_>) {
    let is_ca = |chain: &Vec<CertificateDer<'_>>| {
        chain
            .first()
            .and_then(|first| x509_parser::parse_x509_certificate(first).ok())
            .is_some_and(|(_, certificate)| certificate.is_ca())
    };
    let Some(chain) = certificates(cert_pem).filter(is_ca) else {
        let what = "the file does not begin with the certificate of a CA";
        let remedy = "it must be in PEM, with the basic constraint CA";
        it.findings.error("ca.cert.file", what, remedy);
        return;
    };
    let fits = PrivateKeyDer::from_pem_slice(key_pem.expose()).is_ok_and(|der| {
        CertifiedKey::from_der(chain, der, &aws_lc_rs::default_provider()).is_ok()
    });
    if !fits {
        let what = "the key does not belong to the certificate";
        it.findings
            .error("ca.key", what, "give the key of `ca.cert`");
    }
}

/// A server's certificate chain and key, which fit together, and the hosts that it names. Empty where secrets are not
/// read.
pub(super) fn identity(
    key: &str,
    cert: &RawFileRef,
    private: &SecretRef,
    it: &mut Context<'_>,
) -> (Vec<u8>, Secret<Vec<u8>>, Vec<Host>) {
    let cert_key = format!("{key}.cert.file");
    let path = cert.file.as_deref();
    let cert_pem = path.and_then(|path| it.file(&cert_key, path, ROOTS_MAX));
    let key_pem = private_key(&format!("{key}.key"), private, it);
    let Some(cert_pem) = cert_pem else {
        return (Vec::new(), key_pem, Vec::new());
    };
    let Some(chain) = certificates(&cert_pem) else {
        let what = "the file holds no certificates, or a broken one";
        let remedy = "it must hold the listener's certificate and what is above it, in PEM (BEGIN CERTIFICATE)";
        it.findings.error(&cert_key, what, remedy);
        return (Vec::new(), key_pem, Vec::new());
    };
    let hosts = hosts(&chain);
    if hosts.is_empty() {
        let what = "the certificate names no host";
        let remedy = "agents look for the proxy's name or address among its alternative names";
        it.findings.warn(&cert_key, what, remedy);
    }
    let fits = PrivateKeyDer::from_pem_slice(key_pem.expose()).is_ok_and(|der| {
        CertifiedKey::from_der(chain, der, &aws_lc_rs::default_provider()).is_ok()
    });
    if !fits && !it.findings.tainted(&format!("{key}.key")) {
        let what = "the key does not belong to the certificate";
        it.findings
            .error(&format!("{key}.key"), what, "give the key of `cert`");
    }
    (cert_pem, key_pem, hosts)
}

/// The hosts that a certificate names, without wildcards.
fn hosts(chain: &[CertificateDer<'_>]) -> Vec<Host> {
    let read = chain.first();
    let read = read.and_then(|first| x509_parser::parse_x509_certificate(first).ok());
    let names = read.and_then(|(_, certificate)| {
        let names = certificate.subject_alternative_name().ok()??;
        let host = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Host::parse(name).ok(),
            GeneralName::IPAddress(bytes) => address(bytes).map(Host::Ip),
            _ => None,
        };
        Some(names.value.general_names.iter().filter_map(host).collect())
    });
    names.unwrap_or_default()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// All certificates of a PEM file; `None` where there is none or one is broken.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    read.ok().filter(|found| !found.is_empty())
}
