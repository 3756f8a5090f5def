//! Which service a host belongs to.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use crate::vocab::variant::{Variant, broken};
use crate::vocab::{AuthorityError, Host, Scheme};

/// Why a text is not a host pattern: what is wrong, then what to do, separated by one semicolon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// `*` or `**` alone.
    #[error("a wildcard over every host is not supported; name a domain, as in `*.api.example`")]
    Everything,
    /// Not a host name and not an address.
    #[error(
        "not a host name in ASCII and not a canonical address; write the name as DNS has it, internationalised ones in their xn-- form"
    )]
    Host(AuthorityError),
    /// A port, or an IPv6 address without brackets.
    #[error(
        "a port does not belong here; write it as `port` of the service, and an IPv6 address in brackets"
    )]
    Port,
    /// A scheme, a path or user information.
    #[error("this is more than a host name; write the name alone, without scheme and path")]
    Url,
    /// A `*` that is not the whole first label, or before an address.
    #[error(
        "a wildcard can only be the whole first label of a name; write `*.x` for one label or `**.x` for any depth"
    )]
    Wildcard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Reach {
    AnyDepth,
    Exact,
    OneLabel,
}

/// Hosts that a service answers for: `api.x`, `*.x` (one label more), `**.x` (one label or more).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPattern {
    reach: Reach,
    /// The host, or what stands behind the wildcard.
    base: Host,
}

impl HostPattern {
    /// Reads a pattern; case and a trailing dot do not matter.
    ///
    /// # Errors
    /// [`PatternError`] saying what is wrong and what to write instead.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if matches!(text, "*" | "**" | "*." | "**.") {
            return Err(PatternError::Everything);
        }
        if text.contains(['/', '@', '?', '#']) {
            return Err(PatternError::Url);
        }
        if text.contains(':') && !text.starts_with('[') || text.contains("]:") {
            return Err(PatternError::Port);
        }
        let (reach, base) = if let Some(base) = text.strip_prefix("**.") {
            (Reach::AnyDepth, base)
        } else if let Some(base) = text.strip_prefix("*.") {
            (Reach::OneLabel, base)
        } else {
            (Reach::Exact, text)
        };
        if base.contains('*') {
            return Err(PatternError::Wildcard);
        }
        let base = Host::parse(base).map_err(PatternError::Host)?;
        if reach != Reach::Exact && base.name().is_none() {
            return Err(PatternError::Wildcard);
        }
        Ok(Self { reach, base })
    }

    /// The host, where the pattern is one host.
    #[must_use]
    pub fn exact_name(&self) -> Option<&Host> {
        (self.reach == Reach::Exact).then_some(&self.base)
    }

    /// The host, or the name behind the wildcard: no host that the pattern covers is outside it.
    #[must_use]
    pub fn base(&self) -> &Host {
        &self.base
    }

    /// A host that the pattern covers; the base itself where a label more would be too long for a name.
    #[must_use]
    pub fn sample(&self) -> Host {
        match self.reach {
            Reach::Exact => self.base.clone(),
            Reach::AnyDepth | Reach::OneLabel => {
                Host::parse(&format!("x.{}", self.base)).unwrap_or_else(|_| self.base.clone())
            }
        }
    }

    /// Whether the pattern covers the host.
    #[must_use]
    pub fn covers(&self, host: &Host) -> bool {
        match self.reach {
            Reach::Exact => self.base == *host,
            Reach::OneLabel => parents(host).next() == self.base.name(),
            Reach::AnyDepth => parents(host).any(|parent| Some(parent) == self.base.name()),
        }
    }

    /// Whether strangers can own names that the wildcard covers: it stands over a public suffix (`co.uk`,
    /// `github.io`, an unknown top level) or over a name of which every child is one (`*.compute.amazonaws.com`).
    pub(super) fn over_public_suffix(&self) -> bool {
        let Some(base) = self.base.name() else {
            return false;
        };
        self.reach != Reach::Exact
            && (is_public_suffix(base) || is_public_suffix(&format!("x.{base}")))
    }

    pub(super) fn has_underscore(&self) -> bool {
        has_underscore(&self.base)
    }
}

/// Whether strangers can own names below this one: it is a public suffix, or nobody knows it as anything else.
#[must_use]
pub fn is_public_suffix(name: &str) -> bool {
    psl::domain_str(name).is_none()
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reach {
            Reach::AnyDepth => "**.",
            Reach::Exact => "",
            Reach::OneLabel => "*.",
        })?;
        self.base.fmt(f)
    }
}

/// Underscores are no host names (RFC 1123 §2.1); certificates and resolvers treat them in different ways, so no
/// credential goes there.
pub(super) fn has_underscore(host: &Host) -> bool {
    host.name().is_some_and(|name| name.contains('_'))
}

/// What stands behind each dot of a name, longest first. Cutting at dots is what keeps `evilwild.test` out of
/// `*.wild.test`.
fn parents(host: &Host) -> impl Iterator<Item = &str> {
    let cut = |name: &str| name.find('.').map(|dot| dot + 1);
    let name = host.name();
    std::iter::successors(
        name.and_then(|name| Some(&name[cut(name)?..])),
        move |name| Some(&name[cut(name)?..]),
    )
}

/// One pattern of one service in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// The service's place in the snapshot.
    pub(super) service: usize,
    /// The pattern's place in the service's list.
    pub(super) host: usize,
    pub(super) port: u16,
    pub(super) scheme: Scheme,
}

/// All host patterns, by the text they are compared with. Addresses and names share an index: no name looks like an
/// address, since [`Host`] tells them apart by the last label.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    exact: Index,
    one_label: Index,
    any_depth: Index,
}

type Index = HashMap<Box<str>, Vec<Entry>>;

impl Catalogue {
    pub(super) fn insert(&mut self, pattern: &HostPattern, entry: Entry) {
        let index = match pattern.reach {
            Reach::AnyDepth => &mut self.any_depth,
            Reach::Exact => &mut self.exact,
            Reach::OneLabel => &mut self.one_label,
        };
        index
            .entry(key(&pattern.base).into())
            .or_default()
            .push(entry);
    }

    /// The first acceptable entry for a host: exact, then `*.`, then `**.`. Acceptance carries the agent, so an exact
    /// host of a service that the agent may not use hides nothing from it.
    pub(super) fn find(&self, host: &Host, accept: impl Fn(&Entry) -> bool) -> Option<Entry> {
        let pick = |index: &Index, key: &str| {
            let entries = index.get(key)?;
            entries.iter().find(|entry| accept(entry)).copied()
        };
        if broken(Variant::SuffixWithoutDot) {
            let ends = key(host);
            let mut ends = ends.char_indices().map(|(at, _)| &ends[at..]);
            return ends.find_map(|end| {
                let wild = pick(&self.one_label, end).or_else(|| pick(&self.any_depth, end));
                pick(&self.exact, end).or(wild)
            });
        }
        pick(&self.exact, &key(host))
            .or_else(|| pick(&self.one_label, parents(host).next()?))
            .or_else(|| parents(host).find_map(|parent| pick(&self.any_depth, parent)))
    }

    /// Entries of the same kind that could cover a host of this pattern, the pattern's own among them: those between
    /// which nothing decides.
    pub(super) fn rivals(&self, pattern: &HostPattern) -> impl Iterator<Item = Entry> {
        let index = match pattern.reach {
            Reach::AnyDepth => &self.any_depth,
            Reach::Exact => &self.exact,
            Reach::OneLabel => &self.one_label,
        };
        // `**.a.x` lies within `**.x`: the wider ones are found from the narrower.
        let wider = parents(&pattern.base).filter(|_| pattern.reach == Reach::AnyDepth);
        index
            .get(&*key(&pattern.base))
            .into_iter()
            .chain(wider.filter_map(|parent| index.get(parent)))
            .flatten()
            .copied()
    }
}

fn key(host: &Host) -> Cow<'_, str> {
    host.name()
        .map_or_else(|| Cow::Owned(host.to_string()), Cow::Borrowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        HostPattern::parse(text).unwrap()
    }

    #[test]
    fn one_spelling_per_pattern() {
        for (text, canonical) in [
            ("API.X.example.", "api.x.example"),
            ("*.X.example", "*.x.example"),
            ("**.x.example", "**.x.example"),
            ("xn--bcher-kva.test", "xn--bcher-kva.test"),
            ("192.0.2.7", "192.0.2.7"),
            ("[2001:db8:0::1]", "[2001:db8::1]"),
        ] {
            assert_eq!(pattern(text).to_string(), canonical);
        }
        assert_eq!(
            pattern("a.test").exact_name(),
            Some(&Host::parse("a.test").unwrap())
        );
        assert_eq!(pattern("*.a.test").exact_name(), None);
    }

    #[test]
    fn what_is_not_a_pattern_says_what_to_write() {
        use PatternError as E;
        for (text, error) in [
            ("*", E::Everything),
            ("**", E::Everything),
            ("*.", E::Everything),
            ("https://a.test", E::Url),
            ("a.test/v1", E::Url),
            ("b@a.test", E::Url),
            ("a.test:443", E::Port),
            ("*.a.test:443", E::Port),
            ("[::1]:443", E::Port),
            ("::1", E::Port),
            ("a.*.test", E::Wildcard),
            ("a*.test", E::Wildcard),
            ("***.test", E::Wildcard),
            ("*.*.test", E::Wildcard),
            ("**a.test", E::Wildcard),
            ("*.10.0.0.1", E::Wildcard),
            ("", E::Host(AuthorityError::Host)),
            ("bücher.test", E::Host(AuthorityError::Host)),
            ("a..test", E::Host(AuthorityError::Host)),
            ("a b.test", E::Host(AuthorityError::Host)),
            ("0177.0.0.1", E::Host(AuthorityError::Address)),
        ] {
            let said = error.to_string();
            assert_eq!(said.matches("; ").count(), 1, "{said}");
            assert_eq!(HostPattern::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn wildcards_count_labels() {
        for (text, host, covers) in [
            ("*.wild.test", "a.wild.test", true),
            ("*.wild.test", "wild.test", false),
            ("*.wild.test", "xwild.test", false),
            ("*.wild.test", "evilwild.test", false),
            ("*.wild.test", "a.b.wild.test", false),
            ("**.wild.test", "a.wild.test", true),
            ("**.wild.test", "a.b.c.wild.test", true),
            ("**.wild.test", "wild.test", false),
            ("**.wild.test", "evilwild.test", false),
            ("**.wild.test", "a.wild.test.evil.test", false),
            ("api.test", "api.test.evil.test", false),
            ("api.test", "xn--api.test", false),
            ("api.test", "192.0.2.7", false),
            ("**.test", "192.0.2.7", false),
        ] {
            let host = Host::parse(host).unwrap();
            assert_eq!(pattern(text).covers(&host), covers, "{text} {host}");
            let mut catalogue = Catalogue::default();
            let entry = Entry {
                service: 0,
                host: 0,
                port: 443,
                scheme: Scheme::Https,
            };
            catalogue.insert(&pattern(text), entry);
            assert_eq!(catalogue.find(&host, |_| true).is_some(), covers, "{text}");
        }
    }

    #[test]
    fn names_that_strangers_can_own() {
        for (text, public) in [
            ("*.com", true),
            ("**.com", true),
            ("*.co.uk", true),
            ("*.github.io", true),
            ("*.test", true),
            ("*.kawasaki.jp", true),
            ("*.x.co.uk", false),
            ("**.x.example", false),
            ("api.x.com", false),
            ("localhost", false),
            ("com", false),
        ] {
            assert_eq!(pattern(text).over_public_suffix(), public, "{text}");
        }
    }
}
