//! How requests to one service are carried: address, waiting times, placeholder, proof profile.

use std::time::Duration;

use super::{Context, DAY, issuers};
use crate::config::env::environment;
use crate::config::raw::{
    RawHtu, RawPlaceholder, RawPlaceholderMode, RawRequestGuard, RawResponseGuard, RawService,
    RawSessionCookies, RawTimeouts,
};
use crate::credential::{PlaceholderMode, PlaceholderSettings, Shape, Slot};
use crate::exchange::{RequestGuard, ResponseGuard, ServiceSettings, SessionCookies, Timeouts};
use crate::proof::HtuProfile;
use crate::vocab::{Binding, ServiceName};

/// Variables that would do more to an agent than carry a placeholder.
const RESERVED: &[&str] = &[
    "BASH_ENV",
    "ENV",
    "HOME",
    "IFS",
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "NODE_OPTIONS",
    "PATH",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "SHELL",
    "USER",
];

/// Reads what concerns carrying from a service.
pub(super) fn compile(
    name: ServiceName,
    raw: RawService,
    slot: Slot,
    binding: Binding,
    it: &mut Context<'_>,
) -> ServiceSettings {
    let key = format!("services.{name}");
    let at = |name: &str| format!("{key}.{name}");
    if binding == Binding::None
        && raw.placeholder.is_some()
        && !it.findings.tainted(&at("credential"))
    {
        let what = "the service has no credential that it could stand for";
        it.findings.warn(
            &at("placeholder"),
            what,
            "remove it, or give the service its credential",
        );
    }
    let (ca, connect, allow_private) = raw.upstream.map_or((None, None, None), |up| {
        (up.ca, up.connect, up.allow_private)
    });
    let reach = (ca.as_ref(), connect.as_deref(), allow_private);
    let target = issuers::target(&at("upstream"), reach, it);
    let buffer = it.size(
        &at("replay_buffer"),
        raw.replay_buffer,
        64 << 10,
        (0, 16 << 20),
    );
    let no_limit = Duration::ZERO;
    let age = it.span(
        &at("max_stream_age"),
        raw.max_stream_age,
        no_limit,
        (no_limit, DAY),
    );
    let response_guard = match raw.response_guard {
        None | Some(RawResponseGuard::Redact) => ResponseGuard::Redact,
        Some(RawResponseGuard::Block) => ResponseGuard::Block,
        Some(RawResponseGuard::Off) => ResponseGuard::Off,
    };
    if response_guard == ResponseGuard::Off && slot != Slot::Nothing {
        let what = "answers are not searched: the service can hand its credential to the agent";
        let remedy = "write redact, unless nothing that the service answers can hold it";
        it.findings.warn(&at("response_guard"), what, remedy);
    }
    let session_cookies = session_cookies(&key, raw.session_cookies, binding, it);
    ServiceSettings {
        name,
        slot,
        binding,
        target,
        placeholder: placeholder(&key, raw.placeholder, it),
        htu: htu(&key, raw.htu, it),
        timeouts: timeouts(&key, raw.timeouts, it),
        replay_buffer: buffer,
        max_stream_age: (!age.is_zero()).then_some(age),
        response_guard,
        session_cookies,
        request_guard: match raw.request_guard {
            None | Some(RawRequestGuard::Off) => RequestGuard::Off,
            Some(RawRequestGuard::Block) => RequestGuard::Block,
        },
    }
}

/// Reads what becomes of cookies.
fn session_cookies(
    key: &str,
    raw: Option<RawSessionCookies>,
    binding: Binding,
    it: &mut Context<'_>,
) -> SessionCookies {
    let at = format!("{key}.session_cookies");
    if raw.is_some()
        && binding == Binding::None
        && !it.findings.tainted(&format!("{key}.credential"))
    {
        let what = "the service has no credential: its cookies are the agent's own, and pass";
        it.findings.warn(&at, what, "remove it");
    }
    match raw {
        None | Some(RawSessionCookies::Keep) => SessionCookies::Keep,
        Some(RawSessionCookies::Drop) => SessionCookies::Drop,
        Some(RawSessionCookies::Pass(names)) => {
            let at = format!("{at}.pass");
            if names.is_empty() {
                let what = "no cookie is named";
                it.findings.error(&at, what, "name one, or write drop");
            }
            let mut passing = Vec::new();
            for (i, name) in names.into_iter().enumerate() {
                let Some(name) = name else { continue };
                if is_token(&name) {
                    passing.push(name.into());
                } else {
                    let remedy = "write it as it stands before the `=`";
                    let at = format!("{at}[{i}]");
                    it.findings.error(&at, "not the name of a cookie", remedy);
                }
            }
            SessionCookies::Pass(passing)
        }
    }
}

/// Whether a text is a token of HTTP (RFC 9110 §5.6.2), as the names of cookies are (RFC 6265 §4.1.1).
fn is_token(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(letter)
}

fn placeholder(
    key: &str,
    raw: Option<RawPlaceholder>,
    it: &mut Context<'_>,
) -> PlaceholderSettings {
    let Some(raw) = raw else {
        return PlaceholderSettings::default();
    };
    let key = format!("{key}.placeholder");
    let shape = raw.shape.map_or_else(Shape::default, |text| {
        Shape::parse(&text).unwrap_or_else(|error| {
            let remedy = "write one such as \"sk-{random:32}\"";
            let key = format!("{key}.shape");
            it.findings.error(&key, &error.to_string(), remedy);
            Shape::default()
        })
    });
    let variable = raw.variable.filter(|name| {
        let fine = variable_name(name);
        if !fine {
            let what = "not a variable that an agent may be given";
            let remedy = "write one such as ITEMS_TOKEN";
            it.findings.error(&format!("{key}.variable"), what, remedy);
        }
        fine
    });
    PlaceholderSettings {
        variable,
        shape,
        mode: match raw.mode.unwrap_or(RawPlaceholderMode::Optional) {
            RawPlaceholderMode::Optional => PlaceholderMode::Optional,
            RawPlaceholderMode::Required => PlaceholderMode::Required,
        },
    }
}

/// A name that shells accept and that no program reads for another purpose.
fn variable_name(name: &str) -> bool {
    let first = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let ours = environment();
    let taken = RESERVED.contains(&name)
        || ours.proxy_variables().contains(&name)
        || ours.ca_variables().contains(&name);
    first && rest && name.len() <= 128 && !taken
}

fn htu(key: &str, raw: Option<RawHtu>, it: &mut Context<'_>) -> HtuProfile {
    match raw {
        None | Some(RawHtu::AsSent) => HtuProfile::AsSent,
        Some(RawHtu::DecodeUnreserved) => HtuProfile::DecodeUnreserved,
        Some(RawHtu::PercentDecoded) => HtuProfile::PercentDecoded,
        Some(RawHtu::StripPrefix(prefix)) => {
            let plain = prefix.len() > 1
                && prefix.starts_with('/')
                && !prefix.ends_with('/')
                && prefix.bytes().all(|b| matches!(b, 0x21..=0x7e))
                && !prefix.contains(['?', '#', '\\']);
            if !plain {
                let key = format!("{key}.htu.strip_prefix");
                let remedy = "write one such as /gateway, without a final slash";
                it.findings.error(&key, "not a path prefix", remedy);
            }
            HtuProfile::StripPrefix(prefix)
        }
    }
}

fn timeouts(key: &str, raw: Option<RawTimeouts>, it: &mut Context<'_>) -> Timeouts {
    let default = Timeouts::default();
    let Some(raw) = raw else {
        return default;
    };
    let at = |name: &str| format!("{key}.timeouts.{name}");
    let least = Duration::from_millis(1);
    let minute = Duration::from_secs(60);
    Timeouts {
        connect: it.span(
            &at("connect"),
            raw.connect,
            default.connect,
            (least, minute),
        ),
        first_byte: it.span(
            &at("first_byte"),
            raw.first_byte,
            default.first_byte,
            (least, DAY),
        ),
        idle: it.span(&at("idle"), raw.idle, default.idle, (least, DAY)),
    }
}
