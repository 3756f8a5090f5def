//! How a service's credential is had, and what is wise about it and what is not.

use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderName;

use super::issuers::Issuers;
use super::{Context, authentication, grants, header_value, profile, visible};
use crate::config::raw::{
    RawBinding, RawClientAuth, RawCredential, RawHeader, RawOauth, RawProfile, RawScopeChanges,
};
use crate::credential::Slot;
use crate::tokens::{CredentialSettings, HealthSettings, OauthSettings};
use crate::vocab::{Binding, ScopeSet};

/// Fields that frame or route a message, or that tokenward itself writes: a credential there would change what the
/// request is.
const RESERVED: &[&str] = &[
    "connection",
    "content-length",
    "content-type",
    "dpop",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// Parameters of a token request that have a key of their own, or that tokenward writes.
const PARAMETERS: &[&str] = &[
    "actor_token",
    "actor_token_type",
    "assertion",
    "audience",
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "code",
    "code_challenge",
    "code_challenge_method",
    "code_verifier",
    "device_code",
    "dpop_jkt",
    "grant_type",
    "redirect_uri",
    "refresh_token",
    "request",
    "request_uri",
    "requested_token_type",
    "resource",
    "response_mode",
    "response_type",
    "scope",
    "state",
    "subject_token",
    "subject_token_type",
];

const AGE_MIN: Duration = Duration::from_secs(60);
const AGE_MAX: Duration = Duration::from_secs(30 * 60);

/// A credential, where it goes and what ties it to a key.
pub(super) struct Credential {
    pub(super) settings: CredentialSettings,
    pub(super) slot: Slot,
    pub(super) binding: Binding,
}

impl Credential {
    fn nothing() -> Self {
        Self {
            settings: CredentialSettings::Nothing,
            slot: Slot::Nothing,
            binding: Binding::None,
        }
    }
}

/// Reads the credential of the service at `key`, whose rules want these scopes in all.
pub(super) fn compile(
    key: &str,
    raw: Option<RawCredential>,
    scopes: &ScopeSet,
    issuers: &mut Issuers,
    it: &mut Context<'_>,
) -> Credential {
    let key = format!("{key}.credential");
    match raw {
        None | Some(RawCredential::None) => Credential::nothing(),
        Some(RawCredential::Bearer(reference)) => {
            let secret = it.secret_text(&format!("{key}.bearer"), &reference, visible);
            Credential {
                settings: CredentialSettings::Bearer(secret),
                slot: Slot::Authorization,
                binding: Binding::Bearer,
            }
        }
        Some(RawCredential::Header(raw)) => {
            header(&format!("{key}.header"), &raw, it).unwrap_or_else(Credential::nothing)
        }
        Some(RawCredential::Oauth(raw)) => {
            let read = oauth(&format!("{key}.oauth"), *raw, scopes, issuers, it);
            read.map_or_else(Credential::nothing, |settings| Credential {
                slot: Slot::Authorization,
                binding: settings.binding,
                settings: CredentialSettings::Oauth(Box::new(settings)),
            })
        }
    }
}

fn header(key: &str, raw: &RawHeader, it: &mut Context<'_>) -> Option<Credential> {
    let value_key = format!("{key}.value");
    let value = raw
        .value
        .as_ref()
        .map(|reference| it.secret_text(&value_key, reference, header_value));
    let key = format!("{key}.name");
    let Ok(name) = raw.name.as_deref()?.parse::<HeaderName>() else {
        let remedy = "write one such as x-api-key";
        it.findings.error(&key, "not a header name", remedy);
        return None;
    };
    if RESERVED.contains(&name.as_str()) {
        let what = "this header is not free to carry a credential";
        it.findings
            .error(&key, what, "name the header that the API documents");
        return None;
    }
    Some(Credential {
        slot: Slot::Header(name.clone()),
        binding: Binding::Static,
        settings: CredentialSettings::Header {
            name,
            value: value?,
        },
    })
}

fn oauth(
    key: &str,
    raw: RawOauth,
    scopes: &ScopeSet,
    issuers: &mut Issuers,
    it: &mut Context<'_>,
) -> Option<OauthSettings> {
    let at = |name: &str| format!("{key}.{name}");
    let issuer = raw
        .issuer
        .and_then(|text| issuers.named(&at("issuer"), &text, it));
    // RFC 6749 Appendix A.1: printable ASCII.
    let client_id = raw.client_id.filter(|id| {
        let fits = !id.is_empty() && id.bytes().all(|b| matches!(b, 0x20..=0x7e));
        if !fits {
            let remedy = "write the name that the issuer gave this client";
            it.findings
                .error(&at("client_id"), "not a client name", remedy);
        }
        fits
    });
    if let Some(resource) = &raw.resource {
        check_resource(&at("resource"), resource, it);
    }
    if raw.audience.as_deref() == Some("") {
        let remedy = "remove the key or name an audience";
        it.findings.error(&at("audience"), "empty", remedy);
    }
    let parameters = parameters(&at("parameters"), raw.parameters.unwrap_or_default(), it);
    let certified = matches!(raw.client_auth, None | Some(RawClientAuth::Mtls(_)));
    let binding = binding(&at("binding"), raw.binding, certified, it);
    let age = it.span(
        &at("max_token_age"),
        raw.max_token_age,
        AGE_MAX,
        (AGE_MIN, AGE_MAX),
    );
    let client_auth = raw
        .client_auth
        .and_then(|raw| authentication::compile(&at("client_auth"), raw, binding, it));
    let redirect_uri = raw.redirect_uri.as_deref();
    let grant = grants::compile(key, raw.grant?, redirect_uri, scopes, it)?;
    let require_rotation = raw.require_rotation.unwrap_or_default();
    if require_rotation && !grant.refreshes() {
        let what = "this grant has no refresh token";
        it.findings
            .error(&at("require_rotation"), what, "remove it");
    }
    let settings = OauthSettings {
        fapi: matches!(raw.profile, Some(RawProfile::Fapi2)),
        grant,
        issuer: issuer?,
        client_id: client_id?,
        client_auth: client_auth?,
        resource: raw.resource,
        audience: raw.audience,
        parameters,
        binding,
        max_token_age: age,
        require_rotation,
        revoke_on_exit: raw.revoke_on_exit.unwrap_or_default(),
        any_scopes: matches!(raw.scope_changes, Some(RawScopeChanges::Pass)),
        health: HealthSettings::default(),
    };
    profile::check(key, raw.profile, &settings, it);
    Some(settings)
}

/// RFC 8707 §2: an absolute URI without fragment.
fn check_resource(key: &str, text: &str, it: &mut Context<'_>) {
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    let absolute = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    let plain = text.bytes().all(|b| matches!(b, 0x21..=0x7e)) && !text.contains('#');
    if !absolute || !plain {
        let what = "not an absolute URI without fragment (RFC 8707)";
        it.findings
            .error(key, what, "write one such as https://api.example");
    }
}

fn parameters(
    key: &str,
    raw: BTreeMap<String, Option<String>>,
    it: &mut Context<'_>,
) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, value) in raw {
        if PARAMETERS.contains(&name.as_str()) {
            let (key, what) = (format!("{key}.{name}"), "this parameter cannot be set here");
            let remedy = "use the key of that name, or leave it to tokenward";
            it.findings.error(&key, what, remedy);
        } else if let Some(value) = value {
            found.push((name, value));
        }
    }
    found
}

fn binding(key: &str, raw: Option<RawBinding>, certified: bool, it: &mut Context<'_>) -> Binding {
    let remedy = "use `dpop` as soon as the server can";
    match raw {
        None | Some(RawBinding::Dpop) => Binding::Dpop,
        Some(RawBinding::Bearer) => {
            let what = "a stolen token can be used by anybody until it expires";
            it.findings.warn(key, what, remedy);
            Binding::Bearer
        }
        Some(RawBinding::Mtls) => {
            if !certified {
                let what = "the token is bound to the certificate that the client shows the issuer";
                let remedy = "add `client_auth: {mtls: {cert: …, key: …}}`, or use `binding: dpop`";
                it.findings.error(key, what, remedy);
            }
            Binding::Mtls
        }
        Some(RawBinding::RefreshOnly) => {
            let what = "the access token itself is not bound to a key";
            it.findings.warn(key, what, remedy);
            Binding::RefreshOnly
        }
    }
}
