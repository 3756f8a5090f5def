//! An address at an issuer: https, canonical host, a path that can be read one way only.

use std::sync::Arc;

use crate::vocab::{Authority, RequestPath, Scheme};

/// An https URL without user information and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::tokens) struct IssuerUrl {
    text: Arc<str>,
    authority: Authority,
    path: RequestPath,
    query: Option<Arc<str>>,
}

/// Why a text is no such URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an https URL without user information and fragment is needed")]
pub(in crate::tokens) struct BadUrl;

impl IssuerUrl {
    /// Reads `https://host[:port][/path][?query]`.
    pub(in crate::tokens) fn parse(text: &str) -> Result<Self, BadUrl> {
        let rest = text.strip_prefix("https://").ok_or(BadUrl)?;
        let plain = rest
            .bytes()
            .all(|b| matches!(b, 0x21..=0x7e) && !matches!(b, b'#' | b'\\' | b'"' | b'<' | b'>'));
        if !plain || text.len() > 2048 {
            return Err(BadUrl);
        }
        let (target, query) = match rest.split_once('?') {
            Some((target, query)) => (target, Some(query.into())),
            None => (rest, None),
        };
        let slash = target.find('/').unwrap_or(target.len());
        let (authority, path) = target.split_at(slash);
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            text: text.into(),
            authority: Authority::parse(Scheme::Https, authority).map_err(|_| BadUrl)?,
            path: RequestPath::parse(path).map_err(|_| BadUrl)?,
            query,
        })
    }

    /// The text as it was written.
    pub(in crate::tokens) fn as_str(&self) -> &str {
        &self.text
    }

    /// Host and port.
    pub(in crate::tokens) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The path, `/` where the text has none.
    pub(in crate::tokens) fn path(&self) -> &RequestPath {
        &self.path
    }

    /// Whether there is a query.
    pub(in crate::tokens) fn has_query(&self) -> bool {
        self.query.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_in_one_reading() {
        let url = IssuerUrl::parse("https://AS.test:8443/t/1?x=y").unwrap();
        assert_eq!(url.authority().origin(), "https://as.test:8443");
        assert_eq!(url.path().wire(), "/t/1");
        assert!(url.has_query());
        assert_eq!(
            IssuerUrl::parse("https://as.test").unwrap().path().wire(),
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
            assert!(IssuerUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
