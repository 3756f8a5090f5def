//! One rule: `METHODS PATH` and what it does.

use std::fmt;

use super::pattern::PathPattern;
use crate::vocab::{PathError, RequestPath, RuleName, ScopeSet};

/// What `*` stands for. Any other method must be named, so that a method that we never heard of is not carried by
/// accident.
const COMMON: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Longest method name, in bytes.
const METHOD_MAX: usize = 64;

/// Whether a rule lets requests through or holds them back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// What it matches is allowed, unless a `deny` matches too.
    Allow,
    /// What it matches is refused, whatever else matches.
    Deny,
}

impl Effect {
    /// The key under which the rule stands in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not a rule: what is wrong, then what to do, separated by one semicolon.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The path could be read as two paths.
    #[error(
        "the path has an empty segment, a dot segment, a backslash or an escaped slash, which rules cannot say; write the path as it is after resolution, and `*` for what has an escaped slash in it"
    )]
    AmbiguousPath,
    /// `**` somewhere else than as the last segment.
    #[error(
        "`**` can only be the last segment, as in `/v1/items/**`; use `*` for one segment or a part of one, or write one rule for each depth"
    )]
    DoubleStar,
    /// The path has characters that a URI path does not have.
    #[error(
        "the path has characters that no request path has, or a broken escape; percent-encode them"
    )]
    MalformedPath,
    /// Not a method name (RFC 9110 §9.1).
    #[error(
        "`{0}` is not a method; write `*` or method names joined by `|`, without spaces, as in `GET|HEAD`"
    )]
    Method(String),
    /// TRACE or CONNECT.
    #[error(
        "`{0}` is never carried, since TRACE would echo the credential and CONNECT would open a blind tunnel; remove it from the rule"
    )]
    NeverCarried(String),
    /// The path has a query or a fragment.
    #[error("the path has a `?` or `#`, and rules do not compare queries; remove that part")]
    Query,
    /// One method twice.
    #[error("`{0}` is named twice; name it once")]
    RepeatedMethod(String),
    /// Scopes on a `deny`.
    #[error("a deny rule asks for no token, so it cannot have scopes; remove `scopes`")]
    ScopesOnDeny,
    /// Not two words.
    #[error(
        "a rule is METHODS, a space and PATH; write it as in `GET|HEAD /v1/items/**` or `* /**`"
    )]
    Shape,
    /// The path does not begin with a slash.
    #[error("the path does not begin with `/`; write the path alone, without scheme and host")]
    Slash,
    /// The path is longer than any request's.
    #[error("the path is longer than 8 KiB, which no request's path is; shorten it")]
    TooLong,
}

/// How a rule comes to mention a method. Being named is more specific.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mention {
    Star,
    Named,
}

/// The methods of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Methods {
    star: bool,
    named: Box<[Box<str>]>,
}

impl Methods {
    fn parse(text: &str) -> Result<Self, RuleError> {
        let mut star = false;
        let mut named: Vec<Box<str>> = Vec::new();
        for method in text.split('|') {
            let seen = if method == "*" {
                std::mem::replace(&mut star, true)
            } else {
                check_method(method)?;
                let seen = named.iter().any(|known| **known == *method);
                named.push(method.into());
                seen
            };
            if seen {
                return Err(RuleError::RepeatedMethod(method.to_owned()));
            }
        }
        Ok(Self {
            star,
            named: named.into_boxed_slice(),
        })
    }

    /// Case-sensitive (RFC 9110 §9.1): `get` is another method than `GET`, to us and to the server.
    fn mention(&self, method: &str) -> Option<Mention> {
        if self.named.iter().any(|known| **known == *method) {
            Some(Mention::Named)
        } else {
            (self.star && COMMON.contains(&method)).then_some(Mention::Star)
        }
    }
}

fn check_method(method: &str) -> Result<(), RuleError> {
    if never_carried(method) {
        return Err(RuleError::NeverCarried(method.to_owned()));
    }
    // A lone `*` was taken before; a `*` inside a name is a token character (RFC 9110 §5.6.2) but meant as a glob.
    if is_token(method) && !method.contains('*') {
        Ok(())
    } else {
        Err(RuleError::Method(method.to_owned()))
    }
}

/// Whether a text can be a method at all (RFC 9110 §5.6.2).
pub(super) fn is_token(method: &str) -> bool {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !method.is_empty() && method.len() <= METHOD_MAX && method.bytes().all(token)
}

/// TRACE and CONNECT in any case: methods are case-sensitive, but not to every server.
pub(super) fn never_carried(method: &str) -> bool {
    ["TRACE", "CONNECT"]
        .iter()
        .any(|never| method.eq_ignore_ascii_case(never))
}

/// A rule of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    effect: Effect,
    text: Box<str>,
    name: RuleName,
    methods: Methods,
    path: PathPattern,
    scopes: ScopeSet,
    /// The scopes and what an API may ask for beyond them; none where it may not.
    ceiling: Option<ScopeSet>,
}

impl Rule {
    /// Reads `METHODS PATH`, as it stands behind `allow:` or `deny:`.
    ///
    /// # Errors
    /// [`RuleError`] saying what is wrong and what to write instead.
    pub fn parse(effect: Effect, text: &str, scopes: ScopeSet) -> Result<Self, RuleError> {
        let mut words = text.split_ascii_whitespace();
        let (Some(methods), Some(path), None) = (words.next(), words.next(), words.next()) else {
            return Err(RuleError::Shape);
        };
        if effect == Effect::Deny && !scopes.is_empty() {
            return Err(RuleError::ScopesOnDeny);
        }
        let text = format!("{methods} {path}");
        Ok(Self {
            effect,
            name: RuleName::new(&format!("{effect} {text}")),
            text: text.into(),
            methods: Methods::parse(methods)?,
            path: read_path(path)?,
            scopes,
            ceiling: None,
        })
    }

    /// The same rule, under which an API may ask for these scopes beyond its own.
    #[must_use]
    pub fn stepping_up_to(mut self, more: ScopeSet) -> Self {
        if self.effect == Effect::Allow && !more.is_within(&self.scopes) {
            self.ceiling = Some(self.scopes.union(&more));
        }
        self
    }

    /// Everything that a token for this route may ever have; none where that is [`Self::scopes`].
    #[must_use]
    pub fn ceiling(&self) -> Option<&ScopeSet> {
        self.ceiling.as_ref()
    }

    /// The text behind `allow:` or `deny:`, with a single space.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it allows or denies.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// The scopes that a token for this route needs; empty means that no scope is asked for.
    #[must_use]
    pub fn scopes(&self) -> &ScopeSet {
        &self.scopes
    }

    /// Effect and text: the rule's name in answers, audit lines and errors.
    #[must_use]
    pub fn name(&self) -> &RuleName {
        &self.name
    }

    pub(super) fn path(&self) -> &PathPattern {
        &self.path
    }

    pub(super) fn mention(&self, method: &str) -> Option<Mention> {
        self.methods.mention(method)
    }

    pub(super) fn mentions(&self) -> impl Iterator<Item = Mention> + use<> {
        let named = (!self.methods.named.is_empty()).then_some(Mention::Named);
        named
            .into_iter()
            .chain(self.methods.star.then_some(Mention::Star))
    }

    /// Whether some method is mentioned by both in the same way, so that the methods cannot decide between them.
    pub(super) fn methods_tie(&self, other: &Self) -> bool {
        let named = self.methods.named.iter().map(|method| &**method);
        named.chain(COMMON).any(|method| {
            let mention = self.mention(method);
            mention.is_some() && mention == other.mention(method)
        })
    }
}

/// Reads the path with the parser that requests go through, so that a rule can hold nothing that a request cannot
/// and both are compared in one form.
fn read_path(text: &str) -> Result<PathPattern, RuleError> {
    if !text.starts_with('/') {
        return Err(RuleError::Slash);
    }
    if text.contains(['?', '#']) {
        return Err(RuleError::Query);
    }
    let path = RequestPath::parse(text).map_err(|error| match error {
        PathError::Malformed => RuleError::MalformedPath,
        PathError::Ambiguous => RuleError::AmbiguousPath,
        PathError::TooLong => RuleError::TooLong,
    })?;
    PathPattern::new(path.compared()).ok_or(RuleError::DoubleStar)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::pattern::{Effort, atoms};

    fn allow(text: &str) -> Result<Rule, RuleError> {
        Rule::parse(Effect::Allow, text, ScopeSet::default())
    }

    fn path_matches(rule: &str, path: &str) -> bool {
        let path = RequestPath::parse(path).unwrap();
        let folded = atoms(path.compared());
        allow(rule).unwrap().path().matches(
            &folded[1..].split('/').collect::<Vec<_>>(),
            &mut Effort::new(),
        )
    }

    #[test]
    fn the_grammar() {
        for good in [
            "GET /",
            "GET|HEAD /v1/items/**",
            "* /**",
            "*|PROPFIND /dav/**",
            "patch /v1/items/*",
            "M-SEARCH /v1/a*b*c",
            "GET /v1/items/",
            "GET /v1/%C3%A9",
        ] {
            assert_eq!(allow(good).unwrap().text(), good);
        }
        assert_eq!(allow(" GET \t /a ").unwrap().text(), "GET /a");
        assert_eq!(
            allow("GET|HEAD /v1/items/**").unwrap().name().as_str(),
            "allow GET|HEAD /v1/items/**"
        );
    }

    #[test]
    fn what_is_not_a_rule_says_what_to_write() {
        use RuleError as E;
        let method = |m: &str| E::Method(m.to_owned());
        let never = |m: &str| E::NeverCarried(m.to_owned());
        let table = [
            ("", E::Shape),
            ("GET", E::Shape),
            ("/v1", E::Shape),
            ("GET | HEAD /a", E::Shape),
            ("GET /a b", E::Shape),
            ("| /a", method("")),
            ("GET||HEAD /a", method("")),
            ("GET, /a", method("GET,")),
            ("G* /a", method("G*")),
            ("GÉT /a", method("GÉT")),
            ("TRACE /a", never("TRACE")),
            ("GET|CONNECT /a", never("CONNECT")),
            ("trace /a", never("trace")),
            ("GET|GET /a", E::RepeatedMethod("GET".to_owned())),
            ("*|* /a", E::RepeatedMethod("*".to_owned())),
            ("GET v1", E::Slash),
            ("GET https://api.test/v1", E::Slash),
            ("GET *", E::Slash),
            ("GET /a?b=1", E::Query),
            ("GET /a#b", E::Query),
            ("GET /a//b", E::AmbiguousPath),
            ("GET /a/../b", E::AmbiguousPath),
            ("GET /a/%2e%2e/b", E::AmbiguousPath),
            ("GET /a%2Fb", E::AmbiguousPath),
            ("GET /a\\b", E::AmbiguousPath),
            ("GET /é", E::MalformedPath),
            ("GET /a%", E::MalformedPath),
            ("GET /a%*", E::MalformedPath),
            ("GET /**/a/**/b/**", E::DoubleStar),
            ("GET /a/**/b", E::DoubleStar),
            ("GET /a**", E::DoubleStar),
            ("GET /**a", E::DoubleStar),
            ("GET /a/***", E::DoubleStar),
            ("GET /**/", E::DoubleStar),
            ("GET /**/**", E::DoubleStar),
        ];
        for (text, error) in table {
            let said = error.to_string();
            assert_eq!(said.matches("; ").count(), 1, "{said}");
            assert_eq!(allow(text), Err(error), "{text:?}");
        }
        let long = format!("GET {}", "/a".repeat(5000));
        assert_eq!(allow(&long), Err(E::TooLong));
        let scopes = ScopeSet::parse("a").unwrap();
        assert_eq!(
            Rule::parse(Effect::Deny, "GET /a", scopes),
            Err(E::ScopesOnDeny)
        );
    }

    #[test]
    fn paths() {
        for (rule, path, matches) in [
            ("GET /v1/items/**", "/v1/items", true),
            ("GET /v1/items/**", "/v1/items/", true),
            ("GET /v1/items/**", "/v1/items/1/x", true),
            ("GET /v1/items/**", "/v1/itemsadmin", false),
            ("GET /v1/items/**", "/v1/items_", false),
            ("GET /v1/items/**", "/v1", false),
            ("GET /v1/items/**", "/V1/items", false),
            ("GET /v1/items", "/v1/items", true),
            ("GET /v1/items", "/v1/items/", false),
            ("GET /v1/items/", "/v1/items", false),
            ("GET /**", "/", true),
            ("GET /**", "/a/b/c", true),
            ("GET /", "/", true),
            ("GET /", "/a", false),
            ("GET /*", "/a", true),
            ("GET /*", "/", false),
            ("GET /*", "/a/b", false),
            ("GET /*/**", "/", false),
            ("GET /v1/*/x", "/v1/a/x", true),
            ("GET /v1/*/x", "/v1/a/b/x", false),
            ("GET /v1/a*", "/v1/a", true),
            ("GET /v1/a*", "/v1/abc", true),
            ("GET /v1/a*", "/v1/ab/c", false),
            ("GET /v1/*.json", "/v1/a.json", true),
            ("GET /v1/a*b*c", "/v1/a-b-b-c", true),
            ("GET /v1/a*b*c", "/v1/a-c", false),
            ("GET /v1/ab*ba", "/v1/aba", false),
            // Escapes of unreserved characters decode on both sides (H08); others are themselves.
            ("GET /v1/items/1", "/v1/%69tems/%31", true),
            ("GET /v1/%69tems", "/v1/items", true),
            ("GET /v1/items/1", "/v1/%49tems/1", false),
            ("GET /v1/a%3bb", "/v1/a%3Bb", true),
            ("GET /v1/a%3Bb", "/v1/a;b", false),
            ("GET /v1/*b", "/v1/a%3B", false),
        ] {
            assert_eq!(path_matches(rule, path), matches, "{rule} {path}");
        }
    }

    #[test]
    fn a_star_is_seven_methods() {
        let star = allow("*|PROPFIND|GET /a").unwrap();
        assert_eq!(star.mention("GET"), Some(Mention::Named));
        assert_eq!(star.mention("PROPFIND"), Some(Mention::Named));
        for method in &COMMON[1..] {
            assert_eq!(star.mention(method), Some(Mention::Star));
        }
        for method in [
            "get", "CONNECT", "TRACE", "MKCOL", "propfind", "", "*", "GET ",
        ] {
            assert_eq!(star.mention(method), None, "{method:?}");
        }
        assert_eq!(allow("GET /a").unwrap().mention("HEAD"), None);
    }
}
