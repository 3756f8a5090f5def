//! Writing PEM (RFC 7468), in one allocation: a buffer that grew would leave parts of a key behind in freed memory.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Octets in a line of 64 characters (RFC 7468 §2).
const LINE: usize = 48;

/// One certificate.
pub(super) fn certificate(der: &[u8]) -> String {
    encode("CERTIFICATE", der)
}

/// One object under its label.
pub(super) fn encode(label: &str, der: &[u8]) -> String {
    let lines = der.len().div_ceil(LINE);
    let mut text = String::with_capacity(lines * 65 + 2 * label.len() + 64);
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for line in der.chunks(LINE) {
        STANDARD.encode_string(line, &mut text);
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn what_is_written_reads_back_and_never_grew() {
        for length in [1, 47, 48, 49, 96, 1000] {
            let der = vec![0xa5; length];
            let text = certificate(&der);
            assert_eq!(
                *CertificateDer::from_pem_slice(text.as_bytes()).unwrap(),
                *der
            );
            assert!(text.lines().all(|line| line.len() <= 64));
            let lines = length.div_ceil(48);
            assert_eq!(text.capacity(), lines * 65 + 2 * "CERTIFICATE".len() + 64);
        }
    }
}
