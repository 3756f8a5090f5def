//! An address at an issuer: https, canonical host, a path that can be read one way only.

use crate::upstream::IssuerUrl;
use crate::vocab::{Authority, RequestPath};

/// A URL that can be called and that a proof can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tokens) struct Address {
    url: IssuerUrl,
    /// The path of `htu`; what two programs could read in two ways has none.
    path: RequestPath,
}

/// Why a text is no such address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an https URL without user information and fragment is needed")]
pub(in crate::tokens) struct BadAddress;

impl Address {
    /// Reads `https://host[:port][/path][?query]`.
    pub(in crate::tokens) fn parse(text: &str) -> Result<Self, BadAddress> {
        let url = IssuerUrl::parse(text).map_err(|_| BadAddress)?;
        let path = RequestPath::parse(url.path()).map_err(|_| BadAddress)?;
        Ok(Self { url, path })
    }

    /// The address as it is called.
    pub(in crate::tokens) fn url(&self) -> &IssuerUrl {
        &self.url
    }

    /// The text as it was written.
    pub(in crate::tokens) fn as_str(&self) -> &str {
        self.url.as_str()
    }

    /// Host and port.
    pub(in crate::tokens) fn authority(&self) -> &Authority {
        self.url.authority()
    }

    /// The path, `/` where the text has none.
    pub(in crate::tokens) fn path(&self) -> &RequestPath {
        &self.path
    }

    /// Whether there is a query.
    pub(in crate::tokens) fn has_query(&self) -> bool {
        self.url.path_and_query().contains('?')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_in_one_reading() {
        let url = Address::parse("https://AS.test:8443/t/1?x=y").unwrap();
        assert_eq!(url.authority().origin(), "https://as.test:8443");
        assert_eq!(url.path().wire(), "/t/1");
        assert!(url.has_query());
        assert_eq!(
            Address::parse("https://as.test").unwrap().path().wire(),
            "/"
        );
        for bad in [
            "http://as.test/",
            "https://",
            "https://u@as.test/",
            "https://as.test/#f",
            "https://as.test\\@evil.test/",
            "https://as.test/../x",
            "https://as.test/a b",
            "https://2130706433/",
            "ftp://as.test",
        ] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }
}
