//! What only a broken variant does: see `vocab/variant.rs`.

use std::borrow::Cow;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::vocab::variant::{Variant, broken};

/// Takes whatever certificate comes.
pub(super) fn trust_anybody(config: &mut ClientConfig) {
    if broken(Variant::TrustsAnyCertificate) {
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(Anybody));
    }
}

/// Whether heads are written with two ends.
pub(super) fn misframes() -> bool {
    broken(Variant::FramingKept)
}

/// Gives a chunked head a length besides, in the place and the size of its last `via`: hyper writes only one of the two.
pub(super) fn misframed(bytes: &[u8]) -> Cow<'_, [u8]> {
    let text = String::from_utf8_lossy(bytes);
    let via = text.find("\r\nvia: ").filter(|_| {
        misframes() && text.is_ascii() && text.contains("\r\ntransfer-encoding: chunked\r\n")
    });
    let Some(start) = via.map(|at| at + 2) else {
        return Cow::Borrowed(bytes);
    };
    let length = text[start..].find("\r\n").unwrap_or_default();
    let mut bytes = bytes.to_vec();
    let field = format!("{:<length$}", "content-length: 4");
    if field.len() == length {
        bytes[start..start + length].copy_from_slice(field.as_bytes());
    }
    Cow::Owned(bytes)
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
