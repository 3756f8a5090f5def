//! One cookie as an API gives it: a `Set-Cookie` field (RFC 6265 §5.2), and where and how long it is good (§5.3).

use super::date;
use crate::credential::is_one_cookies_value;
use crate::policy;
use crate::vocab::{Authority, Host, Scheme, Secret};

/// Longest name and value together, in bytes; what is longer is not kept.
pub(super) const COOKIE_MAX: usize = 4096;
/// Longest value of an attribute, in bytes; a longer one counts as not there. A cookie without a path whose default is
/// longer is not kept.
const ATTRIBUTE_MAX: usize = 1024;
/// Longest that a cookie is kept, whatever it says: 400 days.
const AGE_MAX: i64 = 400 * 86_400;

/// A cookie in a jar.
pub(super) struct Cookie {
    pub(super) name: Box<[u8]>,
    /// `name=value`, as it is sent.
    pub(super) pair: Secret<Vec<u8>>,
    pub(super) domain: Domain,
    pub(super) path: Box<str>,
    secure: bool,
    /// Seconds since 1970; `None`: as long as the jar.
    pub(super) expires: Option<i64>,
}

/// The hosts that a cookie goes to. They are the service's in any case.
#[derive(PartialEq, Eq)]
pub(super) enum Domain {
    /// The one that gave it.
    Host(Host),
    /// This name, and those below it.
    Below(Box<str>),
}

/// Where a request goes, and when.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) authority: &'a Authority,
    pub(super) path: &'a str,
    /// Seconds since 1970.
    pub(super) now: i64,
}

/// The name that a `Set-Cookie` gives, as it stands there; `None`: it gives none.
pub(super) fn name_of(line: &[u8]) -> Option<&[u8]> {
    let pair = line.split(|b| *b == b';').next()?;
    let equals = pair.iter().position(|b| *b == b'=')?;
    let name = trim(pair.get(..equals)?);
    (!name.is_empty()).then_some(name)
}

/// Whether a `Set-Cookie` gives one cookie for every reader. Some take a comma for the beginning of the next field; only
/// a date has one.
pub(super) fn is_one(line: &[u8]) -> bool {
    let mut parts = line.split(|b| *b == b';');
    let pair = parts.next().unwrap_or_default();
    let mut pair = pair.splitn(2, |b| *b == b'=');
    let value = pair.nth(1).unwrap_or_default();
    is_one_cookies_value(trim(value)) && parts.all(is_one_attribute)
}

fn is_one_attribute(part: &[u8]) -> bool {
    let mut sides = part.splitn(2, |b| *b == b'=');
    let name = trim(sides.next().unwrap_or_default());
    let value = sides.next().unwrap_or_default();
    let commas = part.iter().filter(|b| **b == b',').count();
    let date = name.eq_ignore_ascii_case(b"expires") && !value.contains(&b'=');
    commas == 0 || (commas == 1 && date)
}

impl Cookie {
    /// Reads a `Set-Cookie` of an answer from this place. `None`: it is to be ignored.
    pub(super) fn read(line: &[u8], from: Place<'_>) -> Option<Self> {
        if line
            .iter()
            .any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f)
        {
            return None;
        }
        let name = name_of(line)?;
        let mut parts = line.split(|b| *b == b';');
        let pair = parts.next()?;
        let equals = pair.iter().position(|b| *b == b'=')?;
        let value = trim(pair.get(equals + 1..)?);
        if name.len() + value.len() > COOKIE_MAX {
            return None;
        }
        let attributes = Attributes::of(parts);
        let secure_origin = from.authority.scheme() == Scheme::Https;
        if attributes.secure && !secure_origin {
            return None;
        }
        let lower = name.to_ascii_lowercase();
        let promised = match lower.as_slice() {
            [b'_', b'_', b's', b'e', b'c', b'u', b'r', b'e', b'-', ..] => attributes.secure,
            [b'_', b'_', b'h', b'o', b's', b't', b'-', ..] => {
                let root = attributes.path.as_deref() == Some("/");
                attributes.secure && attributes.domain.is_none() && root
            }
            _ => true,
        };
        if !promised {
            return None;
        }
        let mut text = Vec::with_capacity(name.len() + 1 + value.len());
        text.extend_from_slice(name);
        text.push(b'=');
        text.extend_from_slice(value);
        let expires = attributes.expires(from.now);
        let path = attributes.path;
        let path = path.unwrap_or_else(|| default_path(from.path));
        if path.len() > ATTRIBUTE_MAX {
            // The agent's own path: an API's longer one did not count.
            return None;
        }
        Some(Self {
            name: name.into(),
            pair: Secret::new(text),
            domain: domain(attributes.domain, from.authority.host())?,
            path: path.into(),
            secure: attributes.secure,
            expires,
        })
    }

    /// Bytes that it takes in a jar beside its pair.
    pub(super) fn bytes(&self) -> usize {
        let domain = match &self.domain {
            Domain::Host(host) => host.name().map_or(0, str::len),
            Domain::Below(name) => name.len(),
        };
        self.name.len() + self.path.len() + domain
    }

    /// Whether it takes the place of another.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.name == other.name && self.domain == other.domain && self.path == other.path
    }

    /// Whether it is over.
    pub(super) fn is_over(&self, now: i64) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }

    /// Whether it goes with a request (RFC 6265 §5.4).
    pub(super) fn goes_to(&self, place: Place<'_>) -> bool {
        let host = place.authority.host();
        let named = match &self.domain {
            Domain::Host(only) => only == host,
            Domain::Below(name) => is_below(host, name),
        };
        let scheme = place.authority.scheme();
        named && path_matches(place.path, &self.path) && (!self.secure || scheme == Scheme::Https)
    }
}

/// What the attributes say; of two of one kind the last counts.
#[derive(Default)]
struct Attributes {
    domain: Option<String>,
    path: Option<String>,
    secure: bool,
    max_age: Option<i64>,
    date: Option<i64>,
}

impl Attributes {
    fn of<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut all = Self::default();
        for part in parts {
            let equals = part.iter().position(|b| *b == b'=');
            let (name, value) = match equals {
                Some(at) => part.split_at(at),
                None => (part, &b""[..]),
            };
            let value = trim(value.strip_prefix(b"=").unwrap_or_default());
            let Ok(value) = std::str::from_utf8(value) else {
                continue;
            };
            if value.len() > ATTRIBUTE_MAX {
                continue;
            }
            match trim(name).to_ascii_lowercase().as_slice() {
                b"domain" => {
                    let value = value.strip_prefix('.').unwrap_or(value);
                    all.domain = (!value.is_empty()).then(|| value.to_owned());
                }
                b"path" => all.path = value.starts_with('/').then(|| value.to_owned()),
                b"secure" => all.secure = true,
                b"max-age" => all.max_age = seconds(value).or(all.max_age),
                b"expires" => all.date = date::parse(value).or(all.date),
                _ => {}
            }
        }
        all
    }

    /// `Max-Age` is believed before `Expires`.
    fn expires(&self, now: i64) -> Option<i64> {
        let end = match self.max_age {
            Some(age) if age <= 0 => i64::MIN,
            Some(age) => now.saturating_add(age),
            None => self.date?,
        };
        Some(end.min(now.saturating_add(AGE_MAX)))
    }
}

/// A number of seconds; one that is too large for a number is as long as there is time.
fn seconds(value: &str) -> Option<i64> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let clipped = if value.starts_with('-') {
        i64::MIN
    } else {
        i64::MAX
    };
    plain.then(|| value.parse().unwrap_or(clipped))
}

/// Where a cookie goes; `None`: it is not for the host that gave it to say (RFC 6265 §5.3, 5 and 6).
fn domain(wanted: Option<String>, host: &Host) -> Option<Domain> {
    let own = || Some(Domain::Host(host.clone()));
    let Some(wanted) = wanted else { return own() };
    let wanted = Host::parse(&wanted).ok()?;
    let Host::Name(name) = &wanted else {
        return if wanted == *host { own() } else { None };
    };
    if policy::is_public_suffix(name) {
        return if wanted == *host { own() } else { None };
    }
    is_below(host, name).then(|| Domain::Below(name.as_ref().into()))
}

/// Whether a host is this name or one below it (RFC 6265 §5.1.3).
fn is_below(host: &Host, name: &str) -> bool {
    let Some(host) = host.name() else {
        return false;
    };
    let above = host.strip_suffix(name);
    above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
}

/// The folder of a path (RFC 6265 §5.1.4).
fn default_path(path: &str) -> String {
    let folder = path.rfind('/').and_then(|last| path.get(..last));
    let folder = folder.filter(|folder| folder.starts_with('/'));
    folder.unwrap_or("/").to_owned()
}

fn path_matches(path: &str, cookie: &str) -> bool {
    let Some(rest) = path.strip_prefix(cookie) else {
        return false;
    };
    rest.is_empty() || cookie.ends_with('/') || rest.starts_with('/')
}

pub(super) fn trim(text: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let begin = text.iter().take_while(|b| blank(b)).count();
    let text = text.get(begin..).unwrap_or_default();
    let end = text.iter().rev().take_while(|b| blank(b)).count();
    text.get(..text.len() - end).unwrap_or_default()
}
