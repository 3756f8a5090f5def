//! Client certificates as agents. Whoever ended the connection's TLS has verified the chain and that the other end has the
//! key; here stands what the certificate says of its holder.
//!
//! Serves RFC 5280 §4.2.1.6 (alternative names) and SPIFFE's X.509-SVID: one URI, a certificate that cannot sign others.

use aws_lc_rs::digest;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::Unauthenticated;
use crate::vocab::Host;

/// Longest SPIFFE ID and longest trust domain, in bytes.
const SPIFFE_MAX: usize = 2048;
const DOMAIN_MAX: usize = 255;

/// What a certificate names its holder by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateName {
    /// A name of DNS among its alternative names; wildcards name nobody.
    Dns(Host),
    /// SHA-256 of the whole certificate.
    Fingerprint([u8; 32]),
    /// The one URI of an X.509-SVID.
    Spiffe(SpiffeId),
}

/// A SPIFFE ID: `spiffe://trust-domain/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpiffeId {
    text: String,
    domain: usize,
}

impl SpiffeId {
    /// Reads one. There is one spelling for each, so they are compared as they stand.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("spiffe://")?;
        let (domain, path) = rest.split_once('/')?;
        let small = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let in_domain = |b: u8| small(b) || matches!(b, b'.' | b'-' | b'_');
        let in_path = |b: u8| in_domain(b) || b.is_ascii_uppercase();
        // No empty segment, so no slash at the end either, and none that a reader would resolve.
        let segment =
            |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(in_path);
        let holds = !domain.is_empty()
            && domain.len() <= DOMAIN_MAX
            && text.len() <= SPIFFE_MAX
            && domain.bytes().all(in_domain)
            && path.split('/').all(segment);
        holds.then(|| Self {
            text: text.to_owned(),
            domain: domain.len(),
        })
    }

    /// Its trust domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        let begin = "spiffe://".len();
        &self.text[begin..begin + self.domain]
    }
}

/// A verified certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    sha256: [u8; 32],
    dns: Vec<Host>,
    spiffe: Option<SpiffeId>,
    /// When it begins and ends, in seconds since 1970.
    life: (i64, i64),
}

impl Certificate {
    /// Reads a certificate in DER. One that cannot be read names nobody and is over.
    #[must_use]
    pub fn read(der: &[u8]) -> Self {
        let mut read = Self {
            sha256: [0; 32],
            dns: Vec::new(),
            spiffe: None,
            life: (i64::MAX, i64::MIN),
        };
        read.sha256
            .copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
        let Ok((rest, certificate)) = x509_parser::parse_x509_certificate(der) else {
            return read;
        };
        let Ok(names) = certificate.subject_alternative_name() else {
            return read;
        };
        if !rest.is_empty() {
            return read;
        }
        let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
        let host = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Host::parse(name).ok(),
            _ => None,
        };
        read.dns = names.iter().filter_map(host).collect();
        read.spiffe = spiffe(names).filter(|_| is_leaf(&certificate));
        let validity = certificate.validity();
        read.life = (
            validity.not_before.timestamp(),
            validity.not_after.timestamp(),
        );
        read
    }

    /// Whether it is good at `now`, in seconds since 1970. It was when the connection began; connections last, and
    /// sessions are taken up again.
    pub(super) fn holds(&self, now: i64) -> Result<(), Unauthenticated> {
        let (begins, ends) = self.life;
        if now > ends {
            Err(Unauthenticated::Expired)
        } else if now < begins {
            Err(Unauthenticated::NotYetValid)
        } else {
            Ok(())
        }
    }

    /// Whether this is its name.
    pub(super) fn is(&self, name: &CertificateName) -> bool {
        match name {
            CertificateName::Dns(host) => self.dns.contains(host),
            CertificateName::Fingerprint(hash) => self.sha256 == *hash,
            CertificateName::Spiffe(id) => self.spiffe.as_ref() == Some(id),
        }
    }
}

/// The SPIFFE ID among alternative names: the only URI, whatever other names there are.
fn spiffe(names: &[GeneralName<'_>]) -> Option<SpiffeId> {
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let first = uris.next()?;
    if uris.next().is_some() {
        return None;
    }
    SpiffeId::parse(first)
}

/// Whether it is for showing who one is, and not for signing other certificates (X.509-SVID §4 and §5.2).
fn is_leaf(certificate: &X509Certificate<'_>) -> bool {
    let usage = certificate.key_usage().ok().flatten();
    let usage = usage.is_some_and(|usage| {
        let usage = usage.value;
        usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign()
    });
    usage && certificate.basic_constraints().is_ok() && !certificate.is_ca()
}

#[cfg(test)]
mod tests;
