//! A PKCS#12 trust store (RFC 7292) for Java, which reads no PEM.
//!
//! Neither encrypted nor authenticated: what is in it is public, and whoever could change the file could write a MAC under
//! a password that everybody knows. Java reads such a store with any password and with none.

use rustls_pki_types::CertificateDer;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OCTET_STRING: u8 = 0x04;
const BMP_STRING: u8 = 0x1e;
/// `[0] EXPLICIT`
const CONTENT: u8 = 0xa0;

/// `INTEGER 3`, the version of RFC 7292 §4.
const VERSION: &[u8] = &[0x02, 0x01, 0x03];
/// 1.2.840.113549.1.7.1 `data`
const DATA: &[u8] = &[
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01,
];
/// 1.2.840.113549.1.12.10.1.3 `certBag`
const CERT_BAG: &[u8] = &[
    0x06, 0x0b, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x0a, 0x01, 0x03,
];
/// 1.2.840.113549.1.9.22.1 `x509Certificate`
const X509_CERTIFICATE: &[u8] = &[
    0x06, 0x0a, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x16, 0x01,
];
/// 1.2.840.113549.1.9.20 `friendlyName`
const FRIENDLY_NAME: &[u8] = &[
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x14,
];
/// 2.16.840.1.113894.746875.1.1, Oracle's `trustedKeyUsage`: a certificate without it is none that Java trusts.
const TRUSTED_KEY_USAGE: &[u8] = &[
    0x06, 0x0c, 0x60, 0x86, 0x48, 0x01, 0x86, 0xf9, 0x66, 0xad, 0xca, 0x7b, 0x01, 0x01,
];
/// 2.5.29.37.0 `anyExtendedKeyUsage`
const ANY_USAGE: &[u8] = &[0x06, 0x04, 0x55, 0x1d, 0x25, 0x00];

/// A store of certificates that are trusted for every use. `certificates` are DER; each gets an alias of its own.
pub(super) fn trust_store(certificates: &[CertificateDer<'_>]) -> Vec<u8> {
    let bags: Vec<u8> = certificates
        .iter()
        .enumerate()
        .flat_map(|(number, certificate)| bag(certificate, &format!("root-{number}")))
        .collect();
    let safe = data(&element(SEQUENCE, &[&bags]));
    let authenticated = data(&element(SEQUENCE, &[&safe]));
    element(SEQUENCE, &[VERSION, &authenticated])
}

/// `ContentInfo` of the kind `data`.
fn data(content: &[u8]) -> Vec<u8> {
    let octets = element(OCTET_STRING, &[content]);
    element(SEQUENCE, &[DATA, &element(CONTENT, &[&octets])])
}

/// `SafeBag` with one certificate.
fn bag(certificate: &[u8], alias: &str) -> Vec<u8> {
    let octets = element(OCTET_STRING, &[certificate]);
    let value = element(SEQUENCE, &[X509_CERTIFICATE, &element(CONTENT, &[&octets])]);
    let letters: Vec<u8> = alias.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let mut attributes = [
        attribute(FRIENDLY_NAME, &element(BMP_STRING, &[&letters])),
        attribute(TRUSTED_KEY_USAGE, ANY_USAGE),
    ];
    // DER wants the members of a SET OF in the order of their bytes (X.690 §11.6).
    attributes.sort();
    element(
        SEQUENCE,
        &[
            CERT_BAG,
            &element(CONTENT, &[&value]),
            &element(SET, &[&attributes[0], &attributes[1]]),
        ],
    )
}

fn attribute(kind: &[u8], value: &[u8]) -> Vec<u8> {
    element(SEQUENCE, &[kind, &element(SET, &[value])])
}

/// Tag, length (X.690 §10.1) and contents.
fn element(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(length + 10);
    out.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let digits = &bytes[length.leading_zeros() as usize / 8..];
            // At most eight digits.
            out.push(0x80 | digits.len() as u8);
            out.extend_from_slice(digits);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_as_short_as_they_can_be() {
        for (length, head) in [
            (0, &[0x04, 0x00][..]),
            (127, &[0x04, 0x7f]),
            (128, &[0x04, 0x81, 0x80]),
            (255, &[0x04, 0x81, 0xff]),
            (256, &[0x04, 0x82, 0x01, 0x00]),
            (65536, &[0x04, 0x83, 0x01, 0x00, 0x00]),
        ] {
            let whole = element(OCTET_STRING, &[&vec![7; length]]);
            assert_eq!(&whole[..head.len()], head);
            assert_eq!(whole.len(), head.len() + length);
        }
    }

    /// Takes an element with this tag off the front and leaves the rest.
    fn take<'a>(from: &mut &'a [u8], tag: u8) -> &'a [u8] {
        assert_eq!(from[0], tag);
        let (digits, length) = match from[1] {
            short @ ..0x80 => (0, usize::from(short)),
            long => {
                let digits = usize::from(long & 0x7f);
                let value = |sum, digit: &u8| sum << 8 | usize::from(*digit);
                (digits, from[2..2 + digits].iter().fold(0, value))
            }
        };
        let (whole, rest) = from.split_at(2 + digits + length);
        *from = rest;
        &whole[2 + digits..]
    }

    /// What RFC 7292 puts around the bags.
    fn content<'a>(from: &mut &'a [u8]) -> &'a [u8] {
        let mut info = take(from, SEQUENCE);
        info = info.strip_prefix(DATA).unwrap();
        let mut octets = take(&mut info, CONTENT);
        assert!(info.is_empty());
        take(&mut octets, OCTET_STRING)
    }

    #[test]
    fn the_certificates_are_where_readers_look() {
        let [first, second] = [vec![0x30, 0x01, 0x01], vec![0x5a; 300]];
        let store = trust_store(&[first.clone().into(), second.clone().into()]);
        let mut rest = store.as_slice();
        let mut pfx = take(&mut rest, SEQUENCE).strip_prefix(VERSION).unwrap();
        let mut authenticated = content(&mut pfx);
        assert!(rest.is_empty() && pfx.is_empty());
        let mut safes = take(&mut authenticated, SEQUENCE);
        let mut safe = content(&mut safes);
        let mut bags = take(&mut safe, SEQUENCE);
        assert!(safes.is_empty() && safe.is_empty());
        for (number, wanted) in [first, second].into_iter().enumerate() {
            let mut bag = take(&mut bags, SEQUENCE).strip_prefix(CERT_BAG).unwrap();
            let mut value = take(&mut bag, CONTENT);
            let mut value = take(&mut value, SEQUENCE)
                .strip_prefix(X509_CERTIFICATE)
                .unwrap();
            let mut octets = take(&mut value, CONTENT);
            assert_eq!(take(&mut octets, OCTET_STRING), wanted);
            let mut attributes = take(&mut bag, SET);
            let mut usage = take(&mut attributes, SEQUENCE)
                .strip_prefix(TRUSTED_KEY_USAGE)
                .unwrap();
            assert_eq!(take(&mut usage, SET), ANY_USAGE);
            let mut name = take(&mut attributes, SEQUENCE)
                .strip_prefix(FRIENDLY_NAME)
                .unwrap();
            let alias: Vec<u8> = take(&mut take(&mut name, SET), BMP_STRING).to_vec();
            assert_eq!(alias.last(), Some(&(b'0' + u8::try_from(number).unwrap())));
            assert!(attributes.is_empty() && bag.is_empty());
        }
        assert!(bags.is_empty());
    }
}
