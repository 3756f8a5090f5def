//! What an issuer's answers mean. Everything in them is read, weighed against what was asked for, and then either a
//! token or a code of the closed list; no text of the issuer goes any further.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, header};

use super::strict::Members;
use super::workload;
use crate::proof::Nonce;
use crate::tokens::failure::{Failure, RETRY_AFTER_MAX};
use crate::upstream::IssuerReply;
use crate::vocab::{Binding, Code, ScopeSet, Secret, WallTime};

/// Longest answer that is read, in bytes.
const BODY_MAX: usize = 64 * 1024;
/// Longest access token that can be put on a request, in bytes.
const TOKEN_MAX: usize = 16 * 1024;

/// Every error code that the standards define for a token endpoint, and what it means here. Others are counted as
/// their status.
const ERRORS: &[(&str, Code)] = &[
    ("access_denied", Code::ReauthorizationRequired),
    ("authorization_pending", Code::ApprovalPending),
    ("consent_required", Code::ReauthorizationRequired),
    ("expired_token", Code::ReauthorizationRequired),
    ("interaction_required", Code::ReauthorizationRequired),
    ("invalid_authorization_details", Code::ClientMisconfigured),
    ("invalid_client", Code::ClientMisconfigured),
    ("invalid_dpop_proof", Code::ClientMisconfigured),
    ("invalid_grant", Code::ReauthorizationRequired),
    ("invalid_request", Code::ClientMisconfigured),
    ("invalid_scope", Code::ClientMisconfigured),
    ("invalid_target", Code::ClientMisconfigured),
    ("login_required", Code::ReauthorizationRequired),
    ("server_error", Code::AsUnavailable),
    ("slow_down", Code::AsUnavailable),
    ("temporarily_unavailable", Code::AsUnavailable),
    ("unauthorized_client", Code::ClientMisconfigured),
    ("unsupported_grant_type", Code::ClientMisconfigured),
    ("unsupported_token_type", Code::ClientMisconfigured),
    ("use_dpop_nonce", Code::AsUnavailable),
];

/// A token response as the issuer gave it.
pub(super) struct Issued {
    pub(super) access: Secret<String>,
    kind: Option<String>,
    pub(super) life: Option<Duration>,
    scopes: Option<ScopeSet>,
    /// `issued_token_type` (RFC 8693 §2.2.1).
    issued_kind: Option<String>,
}

/// What the token must be.
pub(super) struct Wanted<'a> {
    pub(super) binding: Binding,
    /// The thumbprint of our key, where proofs were sent.
    pub(super) jkt: Option<&'a str>,
    pub(super) scopes: &'a ScopeSet,
    /// What it may carry beyond that, where it may.
    pub(super) most: Option<&'a ScopeSet>,
    /// `x5t#S256` of our certificate, where the token must be bound to it.
    pub(super) certificate: Option<Bound<'a>>,
    /// It comes of a token exchange.
    pub(super) exchanged: bool,
    /// Whatever the issuer grants is taken.
    pub(super) any_scopes: bool,
}

/// A certificate that a token must be bound to.
#[derive(Clone, Copy)]
pub(super) struct Bound<'a> {
    /// `x5t#S256`.
    pub(super) thumbprint: &'a str,
    /// The issuer's metadata says that it binds tokens: then one that shows nothing is believed.
    pub(super) promised: bool,
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Objection {
    /// It is not bound although it must be.
    Downgrade,
    /// It names another key.
    Mismatch,
    /// It carries more or less than was asked for.
    Scope(ScopeSet),
    /// It is of a kind that the configuration does not expect.
    Unexpected,
}

/// The refresh token in a 200; `None` leaves the one from before in force (RFC 6749 §6). An error: this is no token
/// response, and what it was about is not known.
pub(super) fn refresh_token(reply: &IssuerReply) -> Result<Option<Secret<String>>, Failure> {
    const GARBAGE: Code = Code::AsUnavailable;
    if !is_json(&reply.headers) || reply.body.len() > BODY_MAX {
        return Err(GARBAGE.into());
    }
    let mut members = Members::read(&reply.body).map_err(|_| Failure::from(GARBAGE))?;
    drop(members.take_secret("access_token").ok_or(GARBAGE)?);
    drop(members.take_secret("id_token"));
    let Some(refresh) = members.take_secret("refresh_token") else {
        return Ok(None);
    };
    // RFC 6749 appendix A.17.
    let visible = |text: &String| text.bytes().all(|b| matches!(b, 0x20..=0x7e));
    let fits = !refresh.expose().is_empty() && refresh.expose().len() <= TOKEN_MAX;
    if !fits || !visible(refresh.expose()) {
        return Err(GARBAGE.into());
    }
    Ok(Some(refresh))
}

impl Issued {
    /// Reads a 200. RFC 6749 §5.1: JSON, and every parameter once.
    pub(super) fn read(reply: &IssuerReply) -> Result<Self, Failure> {
        const GARBAGE: Code = Code::AsUnavailable;
        if !is_json(&reply.headers) || reply.body.len() > BODY_MAX {
            return Err(GARBAGE.into());
        }
        let mut members = Members::read(&reply.body).map_err(|_| Failure::from(GARBAGE))?;
        let access = members.take_secret("access_token").ok_or(GARBAGE)?;
        // A refresh token is kept before, where there is a lineage of them; they are overwritten here rather than left
        // in a parser's buffers.
        drop(members.take_secret("refresh_token"));
        drop(members.take_secret("id_token"));
        if !can_stand_in_a_header(&access) {
            return Err(GARBAGE.into());
        }
        let scopes = match members.value("scope") {
            None => None,
            Some(value) => {
                let text = value.as_str().ok_or(GARBAGE)?;
                Some(ScopeSet::parse(text).map_err(|_| GARBAGE)?)
            }
        };
        let life = match members.value("expires_in") {
            None => None,
            Some(value) => Some(seconds(value).ok_or(GARBAGE)?),
        };
        Ok(Self {
            access,
            kind: members.text("token_type").map(str::to_owned),
            life,
            scopes,
            issued_kind: members.text("issued_token_type").map(str::to_owned),
        })
    }

    /// Weighs it against what was wanted; the scopes that it carries, if it is taken.
    pub(super) fn weigh(&self, wanted: &Wanted<'_>) -> Result<ScopeSet, Objection> {
        let is = |kind: &str| {
            self.kind
                .as_ref()
                .is_some_and(|k| k.eq_ignore_ascii_case(kind))
        };
        match wanted.binding {
            Binding::Dpop if is("DPoP") => {}
            Binding::Dpop => return Err(Objection::Downgrade),
            // A DPoP token may not be sent as a bearer token, and the configuration says to send one.
            _ if is("Bearer") => {}
            _ => return Err(Objection::Unexpected),
        }
        if wanted.exchanged && !self.is_access_token() {
            return Err(Objection::Unexpected);
        }
        self.weigh_key(wanted)?;
        // RFC 6749 §5.1: no `scope` means as requested. Without a request the issuer's default is all there is.
        let Some(granted) = &self.scopes else {
            return Ok(wanted.scopes.clone());
        };
        if wanted.scopes.is_empty() || granted == wanted.scopes {
            return Ok(granted.clone());
        }
        // Every scope that was asked for, and none that was never agreed to.
        if wanted.agreed(granted) || wanted.any_scopes {
            return Ok(granted.clone());
        }
        Err(Objection::Scope(granted.clone()))
    }
}

impl Wanted<'_> {
    /// Whether these scopes are what was asked for, and no more than was agreed to.
    pub(super) fn agreed(&self, granted: &ScopeSet) -> bool {
        let most = self.most.is_some_and(|most| granted.is_within(most));
        self.scopes.is_empty() || granted == self.scopes || (self.scopes.is_within(granted) && most)
    }
}

impl Issued {
    /// RFC 8693 §2.2.1: what comes of an exchange must say what it is, for it may be no access token at all.
    fn is_access_token(&self) -> bool {
        const KINDS: [&str; 2] = [
            "urn:ietf:params:oauth:token-type:access_token",
            "urn:ietf:params:oauth:token-type:jwt",
        ];
        self.issued_kind
            .as_deref()
            .is_some_and(|kind| KINDS.contains(&kind))
    }

    /// Looks into an access token that happens to be a JWT for the key that it is bound to (RFC 9449 §6.1, RFC 8705
    /// §3.1). Only to refuse: nothing that stands there makes a token better.
    fn weigh_key(&self, wanted: &Wanted<'_>) -> Result<(), Objection> {
        let Some(claims) = workload::claims(self.access.expose()) else {
            return match wanted.certificate {
                Some(bound) if !bound.promised => Err(Objection::Downgrade),
                _ => Ok(()),
            };
        };
        let jkt = claims.inner_text("cnf", "jkt");
        let certificate = claims.inner_text("cnf", "x5t#S256");
        let ours = wanted.certificate.map(|bound| bound.thumbprint);
        if jkt.is_some_and(|named| wanted.jkt != Some(named))
            || certificate.is_some_and(|named| ours != Some(named))
        {
            return Err(Objection::Mismatch);
        }
        if ours.is_some() && certificate.is_none() {
            return Err(Objection::Downgrade);
        }
        Ok(())
    }
}

impl Objection {
    /// What the agent is told.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Downgrade => Code::DowngradeRefused,
            Self::Mismatch => Code::BindingMismatch,
            Self::Scope(_) => Code::ScopeDenied,
            Self::Unexpected => Code::ClientMisconfigured,
        }
    }
}

/// The nonce that an answer brings (RFC 9449 §8.2: any answer may). Two of them are none.
pub(super) fn nonce(headers: &HeaderMap) -> Option<Nonce> {
    let mut lines = headers.get_all("dpop-nonce").iter();
    let first = lines.next()?;
    if lines.next().is_some() {
        return None;
    }
    Nonce::parse(first.to_str().ok()?)
}

/// The standard error code of an answer, where it has one.
pub(super) fn oauth_error(reply: &IssuerReply) -> Option<(&'static str, Code)> {
    if reply.body.len() > BODY_MAX {
        return None;
    }
    let members = Members::read(&reply.body).ok()?;
    let error = members.text("error")?;
    ERRORS.iter().find(|(name, _)| *name == error).copied()
}

/// An error at the redirect, if it is one of the standards' words; else nothing, for the text is the browser's.
pub(super) fn known_error(error: &str) -> &'static str {
    let known = ERRORS.iter().map(|(name, _)| *name);
    let more = ["invalid_request_uri", "unsupported_response_type"];
    known.chain(more).find(|name| *name == error).unwrap_or("")
}

/// What an answer other than 200 means.
pub(super) fn failure(reply: &IssuerReply, wall: WallTime) -> Failure {
    let retry_after = retry_after(&reply.headers, wall);
    let known = oauth_error(reply);
    let (code, oauth_error) = match (reply.status, known) {
        // A server in trouble may say anything; a verdict is a 4xx that is not about load.
        (408 | 429 | 500.., _) => (Code::AsUnavailable, None),
        (400..=499, Some((name, code))) => (code, Some(name)),
        (400 | 401, None) => (Code::ClientMisconfigured, None),
        // A redirect is not followed: it would carry our credential to wherever the answer points.
        (300..=399, _) => (Code::AsMetadataInvalid, None),
        _ => (Code::AsUnavailable, None),
    };
    Failure {
        code,
        oauth_error,
        retry_after,
    }
}

/// RFC 9110 §10.2.3, both forms, bounded.
pub(super) fn retry_after(headers: &HeaderMap, wall: WallTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = httpdate::parse_http_date(text).ok()?;
            let at = at.duration_since(UNIX_EPOCH).ok()?;
            at.saturating_sub(Duration::from_millis(wall.0))
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// What the issuer's clock says in `Date`, relative to ours, in seconds.
pub(super) fn clock_offset(headers: &HeaderMap, wall: WallTime) -> Option<i64> {
    let text = headers.get(header::DATE)?.to_str().ok()?;
    let at = httpdate::parse_http_date(text).ok()?;
    let at = at.duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(i64::try_from(at).ok()?.saturating_sub(wall.seconds()))
}

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Whole seconds, as a number or, from some servers, as digits in quotes.
fn seconds(value: &serde_json::Value) -> Option<Duration> {
    let whole = match value {
        serde_json::Value::String(text) => text.parse().ok()?,
        number => number.as_u64()?,
    };
    Some(Duration::from_secs(whole))
}

fn can_stand_in_a_header(token: &Secret<String>) -> bool {
    let token = token.expose();
    !token.is_empty() && token.len() <= TOKEN_MAX && token.bytes().all(|b| matches!(b, 0x21..=0x7e))
}

#[cfg(test)]
mod tests;
