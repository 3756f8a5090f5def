//! How the tokens of a service are asked after while they are in use.

use std::time::Duration;

use super::Context;
use crate::config::raw::RawHealth;
use crate::exchange;
use crate::policy::{self, scopes_of};
use crate::tokens::{CredentialSettings, HealthSettings, ProbeSettings};
use crate::upstream::IssuerUrl;
use crate::vocab::{Authority, RequestPath, ScopeSet};

/// Neither an attack on the issuer nor too late for a token of thirty minutes.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(5), Duration::from_hours(1));

/// Reads `health` of the service at `key` into its credential.
pub(super) fn compile(
    key: &str,
    raw: Option<RawHealth>,
    (judged, carried): (&policy::ServiceSettings, &exchange::ServiceSettings),
    credential: &mut CredentialSettings,
    it: &mut Context<'_>,
) {
    let Some(raw) = raw else { return };
    let key = format!("{key}.health");
    let CredentialSettings::Oauth(oauth) = credential else {
        // A credential that could not be read has been told already.
        if !judged.credentialed || !judged.oauth {
            let what = "only tokens of an issuer are asked after";
            it.findings.error(&key, what, "remove it");
        }
        return;
    };
    let default = HealthSettings::default();
    let interval = it.span(
        &format!("{key}.interval"),
        raw.interval,
        default.interval,
        INTERVAL,
    );
    let probe = raw.probe.and_then(|text| {
        let read = probe(&text, (judged, carried));
        let told = |(what, remedy): (&str, &str)| {
            it.findings.error(&format!("{key}.probe"), what, remedy);
        };
        read.map_err(told).ok()
    });
    oauth.health = HealthSettings {
        interval,
        introspection: raw.introspection.unwrap_or(default.introspection),
        probe,
    };
}

/// Reads `GET /path`; an error is what is wrong and what to do.
fn probe(
    text: &str,
    (judged, carried): (&policy::ServiceSettings, &exchange::ServiceSettings),
) -> Result<ProbeSettings, (&'static str, &'static str)> {
    let shape = (
        "not a probe",
        "write GET or HEAD and a path, such as GET /v1/ping",
    );
    let (method, path) = text.split_once(' ').ok_or(shape)?;
    if !matches!(method, "GET" | "HEAD") {
        return Err(shape);
    }
    let parsed = RequestPath::parse(path).map_err(|_| shape)?;
    if path.contains('*') || parsed.has_escaped_slash() {
        return Err((
            "a probe goes to one path",
            "write the path without globs and %2F",
        ));
    }
    let scopes = probed_scopes(judged, method, &parsed)?;
    let host = judged
        .hosts
        .iter()
        .find_map(policy::HostPattern::exact_name);
    let host = host.ok_or((
        "a probe needs to know the host, and this service has wildcards only",
        "add the host's exact name to `hosts`",
    ))?;
    let authority = Authority::new(judged.scheme, host.clone(), judged.port);
    let url = format!("{}{path}", authority.origin());
    Ok(ProbeSettings {
        head: method == "HEAD",
        url: IssuerUrl::parse(&url).map_err(|_| shape)?,
        scopes,
        target: carried.target.clone(),
        htu: carried.htu.clone(),
    })
}

/// What the rule for this request wants of a token. Agents must be allowed what is done with their tokens.
fn probed_scopes(
    judged: &policy::ServiceSettings,
    method: &str,
    path: &RequestPath,
) -> Result<ScopeSet, (&'static str, &'static str)> {
    scopes_of(&judged.rules, method, path).ok_or((
        "no rule of this service allows the probe",
        "probe a path that agents may use, or add a rule for it",
    ))
}
