//! Takes everything off a request that the agent could have meant as a credential, or as an order to a proxy.
//!
//! What is removed does not depend on whether a token can be had: a placeholder is never forwarded. The outcome is a
//! [`BareHead`], the only thing that [`attach`](super::attach()) accepts.

use std::borrow::Cow;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, request};

use super::placeholder::{PlaceholderMode, Placeholders};
use super::slot::Slot;
use crate::vocab::variant::{Variant, broken};
use crate::vocab::{AgentName, Code, RequestPath, ServiceName};
use lists::{
    CODINGS, CREDENTIAL_ENDS, CREDENTIALS, HELD_CODINGS, HOP_FIELDS, METHOD_OVERRIDES,
    METHOD_PARAMETERS, NOT_SEARCHED, QUERY_CREDENTIALS, ROLE_BEGINNINGS, ROLE_FIELDS,
    SECRET_PROTOCOLS, TOKENS_OF_OTHER_KINDS, TRAILERS,
};

mod kinds;
mod lists;

pub use kinds::TokenKind;

/// What a request wants to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Intent {
    /// An ordinary exchange.
    #[default]
    Plain,
    /// A WebSocket (RFC 6455 §4.1).
    WebSocket,
}

/// A head without credentials, hop-by-hop fields and framing: what the agent may say to the service.
#[derive(Debug, Clone)]
pub struct BareHead {
    pub(super) method: Method,
    pub(super) path: RequestPath,
    pub(super) query: Option<Box<str>>,
    pub(super) headers: HeaderMap,
    pub(super) intent: Intent,
    /// Whether the agent takes trailers (`TE: trailers`); gRPC servers insist on it.
    pub(super) takes_trailers: bool,
}

impl BareHead {
    /// The method, byte for byte as the agent sent it.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The path, as it goes out.
    #[must_use]
    pub fn path(&self) -> &RequestPath {
        &self.path
    }

    /// What the request wants to become.
    #[must_use]
    pub fn intent(&self) -> Intent {
        self.intent
    }

    /// The same head for wherever a redirect points.
    #[cfg(feature = "variants")]
    #[must_use]
    pub fn redirected(&self, path: RequestPath, query: Option<Box<str>>) -> Self {
        Self {
            path,
            query,
            ..self.clone()
        }
    }

    /// All lines of one of the remaining fields.
    pub fn fields<'a>(
        &'a self,
        name: &HeaderName,
    ) -> impl Iterator<Item = &'a HeaderValue> + use<'a> {
        self.headers.get_all(name).into_iter()
    }

    /// One of the remaining fields.
    #[must_use]
    pub fn field(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.headers.get(name)
    }
}

/// Which kind of credential the agent had on its request; never the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// None at all.
    Nothing,
    /// The placeholder of this agent and service.
    Placeholder,
    /// Something else that looks like a credential: the agent may hold a real secret.
    Stranger,
}

/// What `strip` took.
#[derive(Debug)]
pub struct Stripped {
    /// The head that remains.
    pub head: BareHead,
    /// What stood where credentials stand.
    pub seen: Seen,
    /// What the first that was not ours looks like, where that is known.
    pub kind: Option<TokenKind>,
    /// Names of the credential fields that were removed, for the audit line.
    pub removed: Vec<HeaderName>,
}

/// Why a request cannot be carried at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StripError(pub Code);

/// What `strip` has to know about the place where it stands.
pub struct Bench<'a> {
    /// Who calls.
    pub agent: &'a AgentName,
    /// What is called.
    pub service: &'a ServiceName,
    /// Where its credential goes; `Slot::Nothing` for a service without one.
    pub slot: &'a Slot,
    /// Whether the placeholder must be there.
    pub mode: PlaceholderMode,
    /// All placeholders of this installation.
    pub placeholders: &'a Placeholders,
    /// Our own name in `Via`.
    pub pseudonym: &'a str,
    /// Whether the answer will be searched for the credential.
    pub guarded: bool,
    /// Names of cookies of the agent's that go out where a credential of ours does.
    pub cookies: &'a [Box<str>],
}

/// Refuses what would make another request of this one: a method beside the method, or a way that leads back here.
fn one_meaning(
    fields: &HeaderMap,
    query: Option<&str>,
    bench: &Bench<'_>,
) -> Result<(), StripError> {
    if fields
        .keys()
        .any(|name| METHOD_OVERRIDES.contains(&name.as_str()))
        || query.is_some_and(overrides_method)
    {
        return Err(StripError(Code::MethodOverride));
    }
    if came_through(fields, bench.pseudonym) {
        return Err(StripError(Code::ProxyLoop));
    }
    if *bench.slot != Slot::Nothing && is_signed(fields) {
        return Err(StripError(Code::SignedRequest));
    }
    Ok(())
}

/// Whether the request carries a signature over itself in place of a credential (AWS Signature Version 4 and 4A). Such a
/// client has no placeholder to exchange and expects an API that verifies signatures; ours in its place would only fail
/// further on, without a reason that anybody could read.
fn is_signed(fields: &HeaderMap) -> bool {
    let lines = fields.get_all(header::AUTHORIZATION).iter();
    lines.filter_map(|line| line.to_str().ok()).any(|line| {
        let scheme = line.trim_start().get(..5);
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case("AWS4-"))
            && ["Credential=", "SignedHeaders=", "Signature="]
                .iter()
                .all(|part| line.contains(part))
    })
}

/// Strips a head.
///
/// # Errors
/// A method override, a request that came through here before, a placeholder of somebody else, or none where one is
/// demanded.
pub fn strip(
    parts: &request::Parts,
    path: RequestPath,
    query: Option<&str>,
    intent: Intent,
    bench: &Bench<'_>,
) -> Result<Stripped, StripError> {
    let fields = &parts.headers;
    one_meaning(fields, query, bench)?;
    let nominated = nominated(fields);
    let mut kept = HeaderMap::with_capacity(fields.len() + 4);
    let mut removed = Vec::new();
    let mut slots = Slots::new(bench);
    for (name, value) in fields {
        let credential = is_credential(name, bench.slot);
        if credential {
            slots.judge(value)?;
            if broken(Variant::StripNothing) {
                kept.append(name.clone(), value.clone());
            }
            if !removed.contains(name) {
                removed.push(name.clone());
            }
        } else if name == header::COOKIE
            && *bench.slot != Slot::Nothing
            && !broken(Variant::StripNothing)
        {
            // An authenticated cookie would be a token of the agent's own, outliving every revocation.
            removed.push(name.clone());
            if let Some(value) = passing_cookies(value, bench.cookies) {
                kept.append(name.clone(), value);
            }
        } else if may_pass(name) && !nominated.iter().any(|n| n == name.as_str()) {
            kept.append(name.clone(), value.clone());
        }
    }
    clean_offers(&mut kept, bench);
    clean_announcement(&mut kept);
    let query = clean_query(query, &mut slots)?;
    let Slots { seen, kind, .. } = slots;
    if bench.mode == PlaceholderMode::Required
        && *bench.slot != Slot::Nothing
        && seen != Seen::Placeholder
    {
        return Err(StripError(Code::PlaceholderRequired));
    }
    join_cookies(&mut kept);
    let takes_trailers = list_has(fields, &header::TE, "trailers");
    let head = BareHead {
        method: parts.method.clone(),
        path,
        query,
        headers: kept,
        intent,
        takes_trailers,
    };
    Ok(Stripped {
        head,
        seen,
        kind,
        removed,
    })
}

fn is_credential(name: &HeaderName, slot: &Slot) -> bool {
    let text = name.as_str();
    slot.header() == Some(name) || CREDENTIALS.contains(&text) || sounds_like_a_credential(text)
}

/// An agent that holds a key of an attacker's could use it at an allowed host to carry data away, so names that nobody
/// listed count too. The price is a rare field that is no credential and does not pass.
fn sounds_like_a_credential(name: &str) -> bool {
    let ends = CREDENTIAL_ENDS.iter().any(|end| name.ends_with(end));
    ends && !TOKENS_OF_OTHER_KINDS.iter().any(|word| name.contains(word))
}

fn may_pass(name: &HeaderName) -> bool {
    let name = name.as_str();
    // `X_Forwarded_Host` becomes `X-Forwarded-Host` in servers that map fields to CGI variables.
    let underscore = name.contains('_');
    let role = ROLE_FIELDS.contains(&name)
        || ROLE_BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning));
    let framing =
        broken(Variant::FramingKept) && matches!(name, "content-length" | "transfer-encoding");
    !underscore && !role && (!HOP_FIELDS.contains(&name) || framing)
}

/// What remains of an agent's trailers: checksums of the body before them. Whatever else stands there could be taken for
/// a field of the head by a server that joins the two (RFC 9110 §6.5.1).
#[must_use]
pub fn strip_trailers(mut trailers: HeaderMap) -> HeaderMap {
    if broken(Variant::FramingKept) {
        return trailers;
    }
    let mut kept = HeaderMap::new();
    for name in TRAILERS {
        if let Some(value) = trailers.remove(name) {
            kept.insert(HeaderName::from_static(name), value);
        }
    }
    kept
}

/// Announces those trailers that will be sent, and no others.
fn clean_announcement(kept: &mut HeaderMap) {
    if broken(Variant::FramingKept) || !kept.contains_key(header::TRAILER) {
        return;
    }
    let announced = TRAILERS
        .iter()
        .filter(|name| list_has(kept, &header::TRAILER, name));
    let announced: Vec<&str> = announced.copied().collect();
    kept.remove(header::TRAILER);
    if let Ok(value) = HeaderValue::from_str(&announced.join(", "))
        && !announced.is_empty()
    {
        kept.insert(header::TRAILER, value);
    }
}

/// Leaves out of what the agent offers to talk what nobody here could follow.
fn clean_offers(headers: &mut HeaderMap, bench: &Bench<'_>) {
    clean_protocols(headers);
    // Nothing on the way reads frames, so nothing is agreed on that would change what they mean.
    headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
    if *bench.slot != Slot::Nothing {
        clean_codings(headers, bench.guarded);
        if bench.guarded {
            for name in NOT_SEARCHED {
                headers.remove(name);
            }
        }
    }
}

/// Leaves out subprotocols that are credentials in disguise.
fn clean_protocols(headers: &mut HeaderMap) {
    let name = header::SEC_WEBSOCKET_PROTOCOL;
    let offered: Vec<String> = headers
        .get_all(&name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|item| item.trim().to_owned())
        .collect();
    let secret = |item: &String| {
        let item = item.to_ascii_lowercase();
        SECRET_PROTOCOLS.iter().any(|word| item.contains(word))
    };
    if !offered.iter().any(secret) {
        return;
    }
    headers.remove(&name);
    let rest: Vec<String> = offered.into_iter().filter(|item| !secret(item)).collect();
    if let Ok(rest) = HeaderValue::from_str(&rest.join(", "))
        && !rest.is_empty()
    {
        headers.insert(name, rest);
    }
}

/// Names that `Connection` declares hop-by-hop. They are taken from the agent's fields before ours are set, so
/// `Connection: authorization` cannot remove what we attach.
fn nominated(fields: &HeaderMap) -> Vec<String> {
    let lines = fields
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect()
}

fn list_has(fields: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let lines = fields.get_all(name).iter().filter_map(|v| v.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(word))
}

fn came_through(fields: &HeaderMap, pseudonym: &str) -> bool {
    let lines = fields
        .get_all(header::VIA)
        .iter()
        .filter_map(|v| v.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .any(|hop| hop.split_ascii_whitespace().nth(1) == Some(pseudonym))
}

/// What has stood in authentication slots so far.
struct Slots<'a> {
    bench: &'a Bench<'a>,
    seen: Seen,
    kind: Option<TokenKind>,
}

impl<'a> Slots<'a> {
    fn new(bench: &'a Bench<'a>) -> Self {
        Self {
            bench,
            seen: Seen::Nothing,
            kind: None,
        }
    }

    /// Looks at one value that stood in an authentication slot.
    fn judge(&mut self, value: &HeaderValue) -> Result<(), StripError> {
        if let Ok(text) = value.to_str() {
            return self.judge_text(text);
        }
        self.seen = Seen::Stranger;
        Ok(())
    }

    fn judge_text(&mut self, text: &str) -> Result<(), StripError> {
        let (bench, text) = (self.bench, text.trim());
        for candidate in candidates(text) {
            match bench.placeholders.owner(&candidate) {
                Some((agent, service)) if agent == bench.agent && service == bench.service => {
                    self.seen = Seen::Placeholder;
                    return Ok(());
                }
                Some(_) if broken(Variant::AnyPlaceholder) => {
                    self.seen = Seen::Placeholder;
                    return Ok(());
                }
                Some(_) => return Err(StripError(Code::PlaceholderMismatch)),
                None => {}
            }
        }
        if self.kind.is_none() {
            self.kind = candidates(text).find_map(|candidate| TokenKind::of(&candidate));
        }
        if !text.is_empty() && self.seen != Seen::Placeholder {
            self.seen = Seen::Stranger;
        }
        Ok(())
    }
}

/// What a value of an authentication slot may mean: all of it, what follows its scheme, the parts of a `Basic` value.
fn candidates(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let token = text.split_once(' ').map_or(text, |(_, token)| token.trim());
    let basic = basic_parts(text).into_iter().map(Cow::Owned);
    [text, token].into_iter().map(Cow::Borrowed).chain(basic)
}

/// Whether a request that goes nowhere has a placeholder of ours where credentials stand, which is not at home there:
/// somebody took it from where it belongs.
#[must_use]
pub fn strays(
    fields: &HeaderMap,
    query: Option<&str>,
    placeholders: &Placeholders,
    at_home: impl Fn(&AgentName, &ServiceName) -> bool,
) -> bool {
    let stray = |text: &str| {
        candidates(text.trim()).any(|text| {
            let owner = placeholders.owner(&text);
            owner.is_some_and(|(agent, service)| !at_home(agent, service))
        })
    };
    let slots = fields
        .iter()
        .filter(|(name, _)| is_credential(name, &Slot::Authorization));
    let mut values = slots.filter_map(|(_, value)| value.to_str().ok());
    let parts = query.into_iter().flat_map(parameters);
    let mut parts = parts.filter(|part| carries_credential(part)).map(value_of);
    values.any(stray) || parts.any(stray)
}

/// User and password of a `Basic` value: git and others put a token there.
fn basic_parts(text: &str) -> Vec<String> {
    use base64::Engine as _;
    let Some((scheme, coded)) = text.split_once(' ') else {
        return Vec::new();
    };
    if !scheme.eq_ignore_ascii_case("basic") {
        return Vec::new();
    }
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(coded.trim())
        .ok();
    let Some(pair) = decoded.and_then(|bytes| String::from_utf8(bytes).ok()) else {
        return Vec::new();
    };
    pair.split_once(':')
        .map(|(user, password)| vec![user.to_owned(), password.to_owned()])
        .unwrap_or_default()
}

/// The parameters of a query. Some servers split at semicolons too.
fn parameters(query: &str) -> impl Iterator<Item = &str> {
    query.split_inclusive(['&', ';'])
}

/// Removes credential parameters from the query of a credentialed service; leaves every other byte as it is.
fn clean_query(query: Option<&str>, slots: &mut Slots<'_>) -> Result<Option<Box<str>>, StripError> {
    let Some(query) = query else { return Ok(None) };
    if *slots.bench.slot == Slot::Nothing || broken(Variant::StripNothing) {
        return Ok(Some(query.into()));
    }
    let mut found = false;
    for part in parameters(query).filter(|part| carries_credential(part)) {
        found = true;
        slots.judge_text(value_of(part))?;
    }
    if !found {
        return Ok(Some(query.into()));
    }
    let rest: String = parameters(query)
        .filter(|part| !carries_credential(part))
        .collect();
    let rest = rest.trim_end_matches(['&', ';']);
    Ok((!rest.is_empty()).then(|| rest.into()))
}

fn value_of(part: &str) -> &str {
    let part = part.trim_end_matches(['&', ';']);
    part.split_once('=').map_or("", |(_, value)| value)
}

fn carries_credential(part: &str) -> bool {
    let known = |name: &str| {
        let name = parameter_name(name);
        QUERY_CREDENTIALS
            .iter()
            .any(|known| name == known.as_bytes())
    };
    known(part) || list_name(part).is_some_and(known)
}

/// The name of the list that a parameter is a member of: `a` of `a[]=1` and `a%5Bx%5D=1`.
fn list_name(part: &str) -> Option<&str> {
    let name = part.split(['=', '&', ';']).next()?;
    let escaped = name.find("%5B").into_iter().chain(name.find("%5b"));
    let bracket = name.find('[').into_iter().chain(escaped).min()?;
    Some(&name[..bracket])
}

fn overrides_method(query: &str) -> bool {
    parameters(query).map(parameter_name).any(|name| {
        let fields = METHOD_OVERRIDES
            .iter()
            .any(|known| name == known.replace('-', "_").as_bytes());
        fields
            || METHOD_PARAMETERS
                .iter()
                .any(|known| name == known.as_bytes())
    })
}

/// A parameter's name as the most lenient server reads it: escapes decoded, in lower case, spaces before it cut, and
/// what PHP turns into an underscore (a dot, a space, an opening bracket) or people write for one (a hyphen) turned.
fn parameter_name(part: &str) -> Vec<u8> {
    let name = part
        .split(['=', '&', ';'])
        .next()
        .unwrap_or_default()
        .as_bytes();
    let mut plain = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        let digits = after
            .get(..2)
            .filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.and_then(|two| std::str::from_utf8(two).ok());
        let escaped = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        let byte = match escaped.filter(|_| *first == b'%') {
            Some(byte) => {
                rest = &after[2..];
                byte
            }
            None => {
                rest = after;
                if *first == b'+' { b' ' } else { *first }
            }
        };
        match byte {
            b' ' if plain.is_empty() => {}
            b' ' | b'.' | b'[' | b'-' => plain.push(b'_'),
            _ => plain.push(byte.to_ascii_lowercase()),
        }
    }
    plain
}

/// Leaves in `Accept-Encoding` what could be read on the way, and read in time; where nothing remains, only the content itself is wanted.
fn clean_codings(headers: &mut HeaderMap, guarded: bool) {
    let name = header::ACCEPT_ENCODING;
    let lines = headers.get_all(&name).iter();
    let items: Vec<&str> = lines
        .flat_map(|line| line.to_str().unwrap_or("?").split(','))
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .collect();
    let readable = |item: &&str| {
        let coding = item.split(';').next().unwrap_or_default().trim();
        let held = guarded
            && HELD_CODINGS
                .iter()
                .any(|held| held.eq_ignore_ascii_case(coding));
        !held
            && CODINGS
                .iter()
                .any(|known| known.eq_ignore_ascii_case(coding))
    };
    if items.iter().all(readable) {
        return;
    }
    let rest: Vec<&str> = items.into_iter().filter(readable).collect();
    let rest = if rest.is_empty() {
        "identity".to_owned()
    } else {
        rest.join(", ")
    };
    if let Ok(rest) = HeaderValue::from_str(&rest) {
        headers.insert(name, rest);
    }
}

/// Whether this is the value of one cookie for every reader (RFC 6265 §4.1.1, `cookie-value`). Some readers take what
/// stands behind a blank or a comma for another cookie.
#[must_use]
pub fn is_one_cookies_value(value: &[u8]) -> bool {
    let bare = value.strip_prefix(b"\"");
    let bare = bare.and_then(|rest| rest.strip_suffix(b"\""));
    bare.unwrap_or(value)
        .iter()
        .all(|b| matches!(b, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e))
}

/// Of a `Cookie` field, the cookies with one of these names, and nothing that some reader could take for another one.
fn passing_cookies(value: &HeaderValue, names: &[Box<str>]) -> Option<HeaderValue> {
    let named = |pair: &&[u8]| {
        let equals = pair.iter().position(|b| *b == b'=');
        let parts = equals.and_then(|at| Some((pair.get(..at)?, pair.get(at + 1..)?)));
        parts.is_some_and(|(name, value)| {
            names.iter().any(|known| known.as_bytes() == name) && is_one_cookies_value(value)
        })
    };
    let pairs = value.as_bytes().split(|b| *b == b';');
    let pairs: Vec<&[u8]> = pairs.map(<[u8]>::trim_ascii).filter(named).collect();
    let joined = HeaderValue::from_bytes(&pairs.join(&b"; "[..])).ok();
    joined.filter(|joined| !joined.is_empty())
}

/// HTTP/2 may split cookies over several fields; HTTP/1.1 knows one (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let all: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

#[cfg(test)]
mod tests;
