//! How tokens are had.

use std::net::IpAddr;

use super::{Context, pem};
use crate::config::raw::{RawGrant, RawJwtBearer, RawTokenExchange, SecretRef};
use crate::tokens::{AssertionSource, ExchangeSettings, FirstRefresh, Grant, Presented, Redirect};
use crate::vocab::{Authority, Host, ScopeSet};

/// What all token types that have a short name begin with (RFC 8693 §3).
const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:";
const SHORT: &[&str] = &[
    "access_token",
    "id_token",
    "jwt",
    "refresh_token",
    "saml1",
    "saml2",
];

/// Reads the grant of the client at `key`, whose rules want these scopes in all.
pub(super) fn compile(
    key: &str,
    raw: RawGrant,
    redirect_uri: Option<&str>,
    scopes: &ScopeSet,
    it: &mut Context<'_>,
) -> Option<Grant> {
    let redirect_key = format!("{key}.redirect_uri");
    if redirect_uri.is_some() && !matches!(raw, RawGrant::AuthorizationCode) {
        let what = "nobody logs in for this grant";
        let remedy = "remove it, or use `grant: authorization_code`";
        it.findings.error(&redirect_key, what, remedy);
        return None;
    }
    let key = format!("{key}.grant");
    match raw {
        RawGrant::ClientCredentials => Some(Grant::ClientCredentials),
        RawGrant::AuthorizationCode => {
            let text = redirect_uri.unwrap_or("http://127.0.0.1/callback");
            let Some(redirect) = loopback_redirect(text) else {
                let what = "not a redirect to loopback";
                let remedy =
                    "write http://127.0.0.1[:PORT]/PATH, as it is registered at the issuer";
                it.findings.error(&redirect_key, what, remedy);
                return None;
            };
            let scopes = scopes.clone();
            Some(Grant::AuthorizationCode { redirect, scopes })
        }
        RawGrant::DeviceCode => Some(Grant::DeviceCode {
            scopes: scopes.clone(),
        }),
        RawGrant::RefreshToken(reference) => {
            let key = format!("{key}.refresh_token");
            // RFC 6749 appendix A.17.
            let token = it.secret_text(&key, &reference, super::header_value);
            Some(Grant::RefreshToken {
                token: FirstRefresh(token),
                scopes: scopes.clone(),
            })
        }
        RawGrant::JwtBearer(raw) => jwt_bearer(&format!("{key}.jwt_bearer"), raw, it),
        RawGrant::TokenExchange(raw) => token_exchange(&format!("{key}.token_exchange"), raw, it),
    }
}

fn jwt_bearer(key: &str, raw: RawJwtBearer, it: &mut Context<'_>) -> Option<Grant> {
    let source = match raw {
        RawJwtBearer {
            assertion: Some(assertion),
            key: None,
            kid: None,
            issuer: None,
            subject: None,
        } => AssertionSource::Found(shown(&format!("{key}.assertion"), &assertion, it)),
        RawJwtBearer {
            assertion: None,
            key: Some(signs),
            kid,
            issuer,
            subject: Some(subject),
        } if !subject.is_empty() => {
            pem::private_key(&format!("{key}.key"), &signs, it);
            AssertionSource::Signed {
                key: it.supply(&signs),
                kid,
                issuer,
                subject,
            }
        }
        _ if it.findings.tainted(key) => return None,
        _ => {
            let what = "neither an assertion nor what it takes to sign one";
            let remedy = "write {assertion: {file: PATH}} or {key: {file: PATH}, subject: NAME}";
            it.findings.error(key, what, remedy);
            return None;
        }
    };
    Some(Grant::JwtBearer(source))
}

fn token_exchange(key: &str, raw: RawTokenExchange, it: &mut Context<'_>) -> Option<Grant> {
    let at = |name: &str| format!("{key}.{name}");
    if raw.actor_token.is_none() && raw.actor_token_type.is_some() {
        let what = "there is no actor_token to be of this type";
        let remedy = "remove it, or add `actor_token`";
        it.findings.error(&at("actor_token_type"), what, remedy);
    }
    let subject_kind = kind(&at("subject_token_type"), raw.subject_token_type, it);
    let actor_kind = kind(&at("actor_token_type"), raw.actor_token_type, it);
    let requested = raw
        .requested_token_type
        .map(|text| kind(&at("requested_token_type"), Some(text), it));
    let subject = raw.subject_token?;
    let token = shown(&at("subject_token"), &subject, it);
    let actor = raw
        .actor_token
        .map(|actor| shown(&at("actor_token"), &actor, it));
    Some(Grant::TokenExchange(Box::new(ExchangeSettings {
        subject: Presented {
            token,
            kind: subject_kind,
        },
        actor: actor.map(|token| Presented {
            token,
            kind: actor_kind,
        }),
        requested,
    })))
}

/// A token that will be shown to the issuer. It is read now, so that a wrong path is found now.
fn shown(key: &str, reference: &SecretRef, it: &mut Context<'_>) -> crate::tokens::Supply {
    drop(it.secret_text(key, reference, super::visible));
    let lasting = match reference {
        SecretRef::Env(_) => Some("a variable"),
        SecretRef::Prompt(_) => Some("what was typed"),
        SecretRef::Exec(_) | SecretRef::File(_) => None,
    };
    if let Some(lasting) = lasting {
        let what =
            format!("{lasting} does not change while tokenward runs, and this token will end");
        let remedy = "give a file that is replaced in time, or a command";
        it.findings.warn(key, &what, remedy);
    }
    it.supply(reference)
}

fn kind(key: &str, raw: Option<String>, it: &mut Context<'_>) -> String {
    let text = raw.unwrap_or_else(|| "jwt".to_owned());
    if SHORT.contains(&text.as_str()) {
        return format!("{TOKEN_TYPE}{text}");
    }
    let uri = text.contains(':') && text.bytes().all(|b| matches!(b, 0x21..=0x7e));
    if !uri {
        let remedy =
            "write jwt, access_token, id_token, refresh_token, saml1, saml2 or the type's URI";
        it.findings.error(key, "not a token type", remedy);
    }
    text
}

/// RFC 8252 §7.3 and §8.3: an address, for the name `localhost` may be somebody else's; a path that needs no escapes.
fn loopback_redirect(text: &str) -> Option<Redirect> {
    let rest = text.strip_prefix("http://")?;
    let (host, path) = rest.split_at(rest.find('/')?);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'.' | b'_' | b'~');
    let (host, port) = match Authority::parse_connect(host) {
        Ok(authority) => (authority.host().clone(), Some(authority.port())),
        Err(_) => (Host::parse(host).ok()?, None),
    };
    let address = host.ip().filter(IpAddr::is_loopback)?;
    path.bytes().all(plain).then(|| Redirect {
        address,
        port,
        path: path.to_owned(),
    })
}
