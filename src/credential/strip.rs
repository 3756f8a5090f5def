//! Takes everything off a request that the agent could have meant as a credential, or as an order to a proxy.
//!
//! What is removed does not depend on whether a token can be had: a placeholder is never forwarded. The outcome is a
//! [`BareHead`], the only thing that [`attach`](super::attach) accepts.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, request};

use super::placeholder::{PlaceholderMode, Placeholders};
use super::slot::Slot;
use crate::vocab::{AgentName, Code, RequestPath, ServiceName};

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

    /// What the request wants to become.
    #[must_use]
    pub fn intent(&self) -> Intent {
        self.intent
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
}

/// Fields that carry credentials by standard or custom; removed from every request, whatever the service.
const CREDENTIALS: [&str; 15] = [
    "authorization",
    "api-key",
    "apikey",
    "dpop",
    "private-token",
    "x-access-token",
    "x-amz-security-token",
    "x-api-key",
    "x-api-token",
    "x-auth-key",
    "x-auth-token",
    "x-goog-api-key",
    "x-goog-iap-jwt-assertion",
    "x-vault-token",
    "x-figma-token",
];

/// Fields by which somebody in between tells a server who the caller is or what was really asked: an agent that sets
/// them speaks for a proxy that it is not (RFC 9700 §4.13). Whatever begins with `x-forwarded-`, `proxy-` or
/// `x-tokenward-` goes with them.
const ROLE_FIELDS: [&str; 17] = [
    "alt-used",
    "client-cert",
    "client-cert-chain",
    "dpop-nonce",
    "forwarded",
    "http2-settings",
    "max-forwards",
    "ssl-client-cert",
    "via",
    "x-client-cert",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-ssl-client-cert",
    "x-ssl-client-verify",
    "x-envoy-original-path",
];

/// Hop-by-hop fields (RFC 9110 §7.6.1), framing, and what we write ourselves.
const HOP_FIELDS: [&str; 8] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Fields that make a server act on another method than the one that policy judged.
const METHOD_OVERRIDES: [&str; 3] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
];

/// Query parameters that carry credentials (RFC 6750 §2.3 and custom); they would also end in every log on the way.
const QUERY_CREDENTIALS: [&str; 8] = [
    "access_token",
    "api-key",
    "api_key",
    "apikey",
    "auth_token",
    "client_secret",
    "id_token",
    "refresh_token",
];

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
    if METHOD_OVERRIDES
        .iter()
        .any(|name| fields.contains_key(*name))
    {
        return Err(StripError(Code::MethodOverride));
    }
    if came_through(fields, bench.pseudonym) {
        return Err(StripError(Code::ProxyLoop));
    }
    let nominated = nominated(fields);
    let mut kept = HeaderMap::with_capacity(fields.len() + 4);
    let mut removed = Vec::new();
    let mut seen = Seen::Nothing;
    for (name, value) in fields {
        let credential = CREDENTIALS.contains(&name.as_str()) || bench.slot.header() == Some(name);
        if credential {
            seen = judge(seen, value, bench)?;
            if !removed.contains(name) {
                removed.push(name.clone());
            }
        } else if name == header::COOKIE && *bench.slot != Slot::Nothing {
            // An authenticated cookie would be a token of the agent's own, outliving every revocation.
            removed.push(name.clone());
        } else if may_pass(name) && !nominated.iter().any(|n| n == name.as_str()) {
            kept.append(name.clone(), value.clone());
        }
    }
    let query = clean_query(query, &mut seen, bench)?;
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
        removed,
    })
}

fn may_pass(name: &HeaderName) -> bool {
    let name = name.as_str();
    // `X_Forwarded_Host` becomes `X-Forwarded-Host` in servers that map fields to CGI variables.
    let underscore = name.contains('_');
    let role = ROLE_FIELDS.contains(&name)
        || name.starts_with("proxy-")
        || name.starts_with("x-forwarded-")
        || name.starts_with("x-tokenward-");
    !underscore && !role && !HOP_FIELDS.contains(&name)
}

/// What remains of an agent's trailers: they may not bring in what the head may not (RFC 9110 §6.5.1).
#[must_use]
pub fn strip_trailers(trailers: HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    let mut last = None;
    for (name, value) in trailers {
        // The iterator names a field once and leaves its further values unnamed.
        if name.is_some() {
            last = name;
        }
        if let Some(name) = &last {
            let credential = CREDENTIALS.contains(&name.as_str()) || *name == header::COOKIE;
            if !credential && may_pass(name) {
                kept.append(name.clone(), value);
            }
        }
    }
    kept
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

/// Looks at one value that stood in an authentication slot.
fn judge(so_far: Seen, value: &HeaderValue, bench: &Bench<'_>) -> Result<Seen, StripError> {
    let Ok(text) = value.to_str() else {
        return Ok(Seen::Stranger);
    };
    judge_text(so_far, text, bench)
}

fn judge_text(so_far: Seen, text: &str, bench: &Bench<'_>) -> Result<Seen, StripError> {
    let text = text.trim();
    let token = text.split_once(' ').map_or(text, |(_, token)| token.trim());
    let basic = basic_parts(text);
    let candidates = [text, token]
        .into_iter()
        .chain(basic.iter().map(String::as_str));
    for candidate in candidates {
        match bench.placeholders.owner(candidate) {
            Some((agent, service)) if agent == bench.agent && service == bench.service => {
                return Ok(Seen::Placeholder);
            }
            Some(_) => return Err(StripError(Code::PlaceholderMismatch)),
            None => {}
        }
    }
    if text.is_empty() || so_far == Seen::Placeholder {
        Ok(so_far)
    } else {
        Ok(Seen::Stranger)
    }
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

/// Removes credential parameters from the query of a credentialed service; leaves every other byte as it is.
fn clean_query(
    query: Option<&str>,
    seen: &mut Seen,
    bench: &Bench<'_>,
) -> Result<Option<Box<str>>, StripError> {
    let Some(query) = query else { return Ok(None) };
    let carries = |pair: &str| {
        let name = pair.split('=').next().unwrap_or_default();
        QUERY_CREDENTIALS
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
    };
    if *bench.slot == Slot::Nothing || !query.split('&').any(carries) {
        return Ok(Some(query.into()));
    }
    for pair in query.split('&').filter(|pair| carries(pair)) {
        *seen = judge_text(
            *seen,
            pair.split_once('=').map_or("", |(_, value)| value),
            bench,
        )?;
    }
    let rest: Vec<&str> = query.split('&').filter(|pair| !carries(pair)).collect();
    Ok((!rest.is_empty()).then(|| rest.join("&").into()))
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
