//! What an answer must not carry to the agent.
//!
//! The head and the trailers lose what only the proxy may say or hear: challenges, nonces, cookies of an authenticated
//! session, invitations to go around the proxy, words in our name. Redirects pass and are never followed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName};
use http::{Method, Response, StatusCode, response};
use http_body::Body as _;

use super::body::{AgentBody, Flow, Watch};
use super::cookies;
use super::ending::Ending;
use super::record::Line;
use super::refusal::Refusal;
use super::sent::Used;
use super::settings::ServiceSettings;
use super::shield::{Alarm, Searched, Shield};
use super::upgrade::Switch;
use crate::credential::Slot;
use crate::upstream::{Reply, ReplyBody};
use crate::vocab::Code;
use crate::vocab::variant::{Variant, broken};

/// An answer that may reach the agent. Made here and in `upgrade` alone.
pub(super) struct Guarded(Kind);

enum Kind {
    Stream { parts: response::Parts, flow: Flow },
    Upgraded(Switch),
}

impl Guarded {
    /// Hands the answer over; the line goes with whatever still flows.
    pub(super) fn into_response(self, line: Line, ending: &Ending) -> Response<AgentBody> {
        match self.0 {
            Kind::Stream { parts, flow } => {
                Response::from_parts(parts, AgentBody::stream(flow, line))
            }
            Kind::Upgraded(switch) => switch.into_response(line, ending),
        }
    }
}

/// Hop-by-hop fields of an answer (RFC 9110 §7.6.1).
const HOP_FIELDS: [&str; 4] = ["connection", "keep-alive", "transfer-encoding", "upgrade"];
/// Beginnings of names in which only a proxy speaks, and only we are one for the agent.
const PROXY_BEGINNINGS: [&str; 2] = ["proxy-", "x-tokenward"];

/// Fields that invite the agent to leave the way through the proxy, or speak of our tokens.
const NOT_FOR_AGENTS: [&str; 5] = [
    "alt-svc",
    "authentication-info",
    "dpop-nonce",
    "x-accel-redirect",
    "x-sendfile",
];

/// A session cookie of an authenticated service is a token that would outlive every revocation, and a challenge would
/// start the agent's own login.
const OF_SESSIONS: [&str; 5] = [
    "authorization",
    "dpop",
    "set-cookie",
    "set-cookie2",
    "www-authenticate",
];

/// Removes what an agent must not get from a head or from trailers.
pub(super) fn clean(headers: &mut HeaderMap, credentialed: bool) {
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in nominated {
        headers.remove(name);
    }
    // Most heads have none of these, so it is the fields that are looked through and not the names.
    let gone = headers.keys().filter(|name| goes(name, credentialed));
    let gone: Vec<HeaderName> = gone.cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

/// Whether a field must not reach the agent.
fn goes(name: &HeaderName, credentialed: bool) -> bool {
    let name = name.as_str();
    let reflects = broken(Variant::ReflectsProof);
    HOP_FIELDS.contains(&name)
        || (!reflects && NOT_FOR_AGENTS.contains(&name))
        || (credentialed && !reflects && OF_SESSIONS.contains(&name))
        || PROXY_BEGINNINGS
            .iter()
            .any(|beginning| name.starts_with(beginning))
}

/// Removes what an agent must not get from the head of an answer, but for the cookies that the service lets pass.
fn clean_head(headers: &mut HeaderMap, settings: &ServiceSettings) {
    let credentialed = settings.slot != Slot::Nothing;
    let names = settings.session_cookies.passing();
    let passing = if credentialed && !names.is_empty() {
        cookies::passing(headers, names)
    } else {
        Vec::new()
    };
    clean(headers, credentialed);
    for cookie in passing {
        headers.append(header::SET_COOKIE, cookie);
    }
}

/// Fields that mean something only in front of a body: in trailers they could make a reader take it for another
/// (RFC 9110 §6.5.1).
const NOT_IN_TRAILERS: [&str; 13] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "host",
    "location",
    "set-cookie",
    "set-cookie2",
    "te",
    "trailer",
    "www-authenticate",
];

/// Removes from trailers what heads must not have, and what only heads may have.
pub(super) fn clean_trailers(trailers: &mut HeaderMap, credentialed: bool) {
    clean(trailers, credentialed);
    for name in NOT_IN_TRAILERS {
        trailers.remove(name);
    }
}

/// Looks at what comes first of a body, no longer than the body may be silent.
async fn begin(
    searched: &mut Searched,
    inner: &mut ReplyBody,
    idle: Duration,
    line: &mut Line,
) -> Result<(), Refusal> {
    let cancel = line.cancel();
    let first = tokio::time::timeout(idle, searched.begin(inner, line));
    match cancel.run_until_cancelled(first).await {
        Some(Ok(outcome)) => outcome,
        Some(Err(_)) => Err(Code::UpstreamTimeout.into()),
        None => Err(line.over().unwrap_or(Code::ServiceRevoked).into()),
    }
}

/// An answer that flows, cleaned and searched.
async fn stream(
    reply: Reply,
    bodiless: bool,
    shield: Option<Shield>,
    (watch, settings): (Watch, &ServiceSettings),
    line: &mut Line,
) -> Result<Kind, Refusal> {
    let (mut parts, mut inner) = reply.response.into_parts();
    let nothing = bodiless || inner.is_end_stream();
    if nothing {
        // Nobody polls a body that is not there.
        line.completed();
    }
    clean_head(&mut parts.headers, settings);
    parts.extensions.clear();
    let mut searched = None;
    if let Some(mut shield) = shield {
        shield.head(&mut parts.headers, line)?;
        if !nothing {
            let mut body = Box::new(shield.body(&mut parts)?);
            begin(&mut body, &mut inner, settings.timeouts.idle, line).await?;
            searched = Some(body);
        }
    }
    let flow = Flow {
        inner,
        watch,
        credentialed: settings.slot != Slot::Nothing,
        searched,
    };
    Ok(Kind::Stream { parts, flow })
}

/// Lets an answer through to the agent.
///
/// # Errors
/// A refusal where the answer is one that no agent may see: a switch nobody asked for, a proxy's challenge, what cannot be
/// searched, and where the service wants it, what held the credential.
pub(super) async fn guard(
    reply: Reply,
    used: Used,
    settings: &ServiceSettings,
    (alarm, fill): (&Arc<Alarm>, Option<&Arc<str>>),
    line: &mut Line,
) -> Result<Guarded, Refusal> {
    let status = reply.response.status();
    let watch = Watch::new(
        line.cancel(),
        settings.timeouts.idle,
        settings.max_stream_age,
    );
    let mut shield = Shield::new(
        settings.response_guard,
        alarm,
        used.leases,
        &used.proofs,
        fill,
    );
    if let Some(shield) = &mut shield {
        let said = line.progress().reflected.swap(0, Ordering::Relaxed);
        shield.found(said, line)?;
    }
    let kind = match (status, used.upgrade) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(agent)) => {
            let mut switch = Switch::new(reply, &used.head, agent, watch)?;
            clean_head(switch.headers(), settings);
            if let Some(mut shield) = shield {
                shield.head(switch.headers(), line)?;
                switch.search(shield);
            }
            Kind::Upgraded(switch)
        }
        (StatusCode::SWITCHING_PROTOCOLS | StatusCode::PROXY_AUTHENTICATION_REQUIRED, _) => {
            return Err(Refusal::from(Code::UpstreamProtocolError).answered(status));
        }
        _ if status.as_u16() > 599 => {
            return Err(Refusal::from(Code::UpstreamProtocolError).answered(status));
        }
        _ => {
            let bodiless = *used.head.method() == Method::HEAD;
            stream(reply, bodiless, shield, (watch, settings), line).await?
        }
    };
    line.allowed(status);
    Ok(Guarded(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(credentialed: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for name in [
            "content-type",
            "set-cookie",
            "www-authenticate",
            "dpop-nonce",
            "alt-svc",
            "proxy-status",
            "x-tokenward-x",
            "connection",
            "x-hop",
            "location",
            "etag",
            "upgrade",
        ] {
            let value = if name == "connection" {
                "close, x-hop"
            } else {
                "v"
            };
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        clean(&mut headers, credentialed);
        let mut names: Vec<_> = headers.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    #[test]
    fn only_the_services_own_words_pass() {
        assert_eq!(cleaned(true), ["content-type", "etag", "location"]);
        assert_eq!(
            cleaned(false),
            [
                "content-type",
                "etag",
                "location",
                "set-cookie",
                "www-authenticate"
            ]
        );
    }
}
