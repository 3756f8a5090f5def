//! Scheme, host and port, parsed once and canonical from then on.
//!
//! Every comparison of destinations in the house is an `==` on [`Authority`]. The parsers are narrow on purpose: what
//! two programs could read in two ways (user info, numeric hosts, zone identifiers, odd ports) is refused here, so
//! that the name that policy judged, the name that was dialled and the name in the proof are one.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::clock::put;

/// The two schemes that tokenward carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Clear text; never with a credential.
    Http,
    /// TLS.
    Https,
}

impl Scheme {
    /// The scheme's text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// 80 or 443.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A host: a DNS name in lower case without a trailing dot (A-labels only), or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// An address that stood in the authority literally.
    Ip(IpAddr),
    /// A DNS name.
    Name(Arc<str>),
}

/// Why a text is not an authority. Carries no part of the text: the text is the agent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The host is empty, too long, or holds characters or labels that DNS names do not have.
    #[error(
        "not a host name: lower-case letters, digits and hyphens in labels of 1 to 63, at most 253 in all; write an internationalised name in its xn-- form"
    )]
    Host,
    /// A numeric host that is not a canonical dotted quad, or an IPv6 literal with a zone.
    #[error("not an address in canonical form")]
    Address,
    /// The port is missing or not a decimal number from 1 to 65535.
    #[error("a port from 1 to 65535 in plain decimal is needed")]
    Port,
    /// User information before the host.
    #[error("user information has no place here")]
    UserInfo,
}

impl Host {
    /// Reads a host without port; IPv6 in brackets.
    ///
    /// # Errors
    /// [`AuthorityError`] where it is neither a DNS name in ASCII nor an address in canonical form.
    pub fn parse(text: &str) -> Result<Self, AuthorityError> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(AuthorityError::Address)?;
            return inner
                .parse::<Ipv6Addr>()
                .map(|a| Self::Ip(a.into()))
                .map_err(|_| AuthorityError::Address);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > 253 {
            return Err(AuthorityError::Host);
        }
        for label in name.split('.') {
            let plain = label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
            if !plain
                || label.is_empty()
                || label.len() > 63
                || label.starts_with('-')
                || label.ends_with('-')
            {
                return Err(AuthorityError::Host);
            }
        }
        // A last label that looks like a number makes resolvers read an address in octal, hex or fewer parts.
        let last = name.rsplit('.').next().unwrap_or_default();
        let numeric = last.bytes().all(|b| b.is_ascii_digit())
            || last.starts_with("0x")
            || last.starts_with("0X");
        if numeric {
            return name
                .parse::<Ipv4Addr>()
                .map(|a| Self::Ip(a.into()))
                .map_err(|_| AuthorityError::Address);
        }
        Ok(Self::Name(name.to_ascii_lowercase().into()))
    }

    /// The DNS name, where it is one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Ip(_) => None,
            Self::Name(name) => Some(name),
        }
    }

    /// The address, where it is one.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Name(_) => None,
        }
    }
}

/// As in a URI: IPv6 in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// Scheme, host and port of a destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority {
    scheme: Scheme,
    host: Host,
    port: u16,
}

impl Authority {
    /// Puts parts together that are canonical already.
    #[must_use]
    pub fn new(scheme: Scheme, host: Host, port: u16) -> Self {
        Self { scheme, host, port }
    }

    /// Reads `host:port` as CONNECT carries it (RFC 9110 §9.3.6): the port is not optional.
    ///
    /// # Errors
    /// [`AuthorityError`] naming the part that is not canonical.
    pub fn parse_connect(text: &str) -> Result<Self, AuthorityError> {
        match split(text)? {
            (host, Some(port)) => Ok(Self::new(Scheme::Https, Host::parse(host)?, port)),
            (_, None) => Err(AuthorityError::Port),
        }
    }

    /// Reads a `Host` field or `:authority` (RFC 9110 §7.2): a missing port is the scheme's own.
    ///
    /// # Errors
    /// [`AuthorityError`] naming the part that is not canonical.
    pub fn parse(scheme: Scheme, text: &str) -> Result<Self, AuthorityError> {
        let (host, port) = split(text)?;
        Ok(Self::new(
            scheme,
            Host::parse(host)?,
            port.unwrap_or_else(|| scheme.default_port()),
        ))
    }

    /// Whether a `Host` field or `:authority` names this destination under its scheme; as if it were parsed and compared.
    ///
    /// # Errors
    /// [`AuthorityError`] where it is not canonical.
    pub fn is_named(&self, text: &str) -> Result<bool, AuthorityError> {
        // Most clients write what this would print, and then there is nothing to take apart.
        let exactly = self.host.name().is_some_and(|name| {
            text.strip_prefix(name).is_some_and(|rest| {
                if rest.is_empty() {
                    self.port == self.scheme.default_port()
                } else {
                    split(text).is_ok_and(|(_, port)| port == Some(self.port))
                        && rest.starts_with(':')
                }
            })
        });
        Ok(exactly || Self::parse(self.scheme, text)? == *self)
    }

    /// The scheme.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The same destination under another scheme.
    #[must_use]
    pub fn with_scheme(&self, scheme: Scheme) -> Self {
        Self {
            scheme,
            host: self.host.clone(),
            port: self.port,
        }
    }

    /// `scheme://host[:port]`, the default port left out: an origin (RFC 6454 §6.2).
    #[must_use]
    pub fn origin(&self) -> String {
        let mut text = String::with_capacity(64);
        text.push_str(self.scheme.as_str());
        text.push_str("://");
        self.write_to(&mut text);
        text
    }

    /// The text of a `Host` field: the scheme's default port is left out.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(64);
        self.write_to(&mut text);
        text
    }

    /// Each request writes it several times, so the machinery of `format!` is left to hosts that are addresses.
    fn write_to(&self, out: &mut String) {
        match &self.host {
            Host::Name(name) => out.push_str(name),
            Host::Ip(_) => out.push_str(&self.host.to_string()),
        }
        if self.port == self.scheme.default_port() {
            return;
        }
        let mut digits = [b'0'; 5];
        put(&mut digits, self.port.into());
        let first = digits.iter().position(|digit| *digit != b'0');
        out.push(':');
        out.push_str(std::str::from_utf8(&digits[first.unwrap_or_default()..]).unwrap_or_default());
    }
}

/// As a `Host` field: the scheme's default port is left out.
impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// Splits host and port. A colon inside brackets belongs to the address.
fn split(text: &str) -> Result<(&str, Option<u16>), AuthorityError> {
    if text.contains('@') {
        return Err(AuthorityError::UserInfo);
    }
    let after_host = match text.strip_prefix('[') {
        Some(rest) => rest.find(']').ok_or(AuthorityError::Address)? + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text
        .split_at_checked(after_host)
        .ok_or(AuthorityError::Address)?;
    if rest.is_empty() {
        return Ok((host, None));
    }
    let digits = rest.strip_prefix(':').ok_or(AuthorityError::Port)?;
    let plain = !digits.is_empty()
        && digits.len() <= 5
        && digits.bytes().all(|b| b.is_ascii_digit())
        && !digits.starts_with('0');
    if !plain {
        return Err(AuthorityError::Port);
    }
    digits
        .parse::<u16>()
        .map(|port| (host, Some(port)))
        .map_err(|_| AuthorityError::Port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect(text: &str) -> Result<String, AuthorityError> {
        Authority::parse_connect(text).map(|a| format!("{} {}", a.host(), a.port()))
    }

    #[test]
    fn one_spelling_per_destination() {
        for text in ["api.test:443", "API.Test:443", "api.test.:443"] {
            assert_eq!(connect(text).unwrap(), "api.test 443");
        }
        assert_eq!(
            connect("[2606:4700:0::77]:8443").unwrap(),
            "[2606:4700::77] 8443"
        );
        assert_eq!(connect("192.0.2.7:443").unwrap(), "192.0.2.7 443");
        let with_default = Authority::parse(Scheme::Https, "api.test:443").unwrap();
        assert_eq!(
            with_default,
            Authority::parse(Scheme::Https, "api.test").unwrap()
        );
        assert_eq!(with_default.origin(), "https://api.test");
        assert_eq!(
            Authority::parse(Scheme::Https, "api.test:8443")
                .unwrap()
                .origin(),
            "https://api.test:8443"
        );
    }

    #[test]
    fn a_name_is_the_destinations_exactly_where_parsing_says_so() {
        let texts = [
            "api.test",
            "api.test:443",
            "api.test:8443",
            "API.Test:8443",
            "api.test.:8443",
            "api.test:",
            "api.test:08443",
            "api.test:8443 ",
            "api.test:8443:8443",
            "api.test:8443@evil.test",
            "api.test@evil.test:8443",
            "api.test.evil.test:8443",
            "api.testx:8443",
            "evil.test",
            "",
            "192.0.2.7:8443",
            "192.0.2.7",
            "[::1]:8443",
            "[::1]",
        ];
        for own in [
            "api.test:443",
            "api.test:8443",
            "192.0.2.7:8443",
            "[::1]:443",
        ] {
            let own = Authority::parse_connect(own).unwrap();
            for text in texts {
                let parsed = Authority::parse(own.scheme(), text).map(|named| named == own);
                assert_eq!(own.is_named(text), parsed, "{own} {text:?}");
            }
        }
    }

    #[test]
    fn what_can_be_read_two_ways_is_refused() {
        use AuthorityError as E;
        let table = [
            ("a.test", E::Port),
            ("a.test:", E::Port),
            ("a.test:0", E::Port),
            ("a.test:+443", E::Port),
            ("a.test:0x1bb", E::Port),
            ("a.test:0443", E::Port),
            ("a.test:99999", E::Port),
            ("a.test:443 ", E::Port),
            ("a.test:443:80", E::Port),
            ("a@b.test:443", E::UserInfo),
            ("a:443@b.test:443", E::UserInfo),
            ("a..test:443", E::Host),
            ("-a.test:443", E::Host),
            ("bücher.test:443", E::Host),
            ("a.test/:443", E::Host),
            ("a.test\0.b.test:443", E::Host),
            (":443", E::Host),
            ("2130706433:443", E::Address),
            ("0x7f000001:443", E::Address),
            ("0177.0.0.1:443", E::Address),
            ("127.1:443", E::Address),
            ("0:443", E::Address),
            ("[fe80::1%25eth0]:443", E::Address),
            ("[::1:443", E::Address),
            ("[::1]x:443", E::Port),
        ];
        for (text, error) in table {
            assert_eq!(connect(text), Err(error), "{text:?}");
        }
        assert_eq!(
            connect(&format!("{}.test:443", "a".repeat(64))),
            Err(E::Host)
        );
        assert_eq!(
            connect(&format!("{}:443", "a.".repeat(127) + "test")),
            Err(E::Host)
        );
    }
}
