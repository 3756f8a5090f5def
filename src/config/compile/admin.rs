//! Where operators speak to the running proxy. Whoever can speak there can log in, rotate and revoke, so on a network it
//! takes a token, and beyond this machine TLS as well.

use super::listeners::{self, Taken};
use super::{Context, pem, visible};
use crate::config::SecretReading;
use crate::config::plan::{AdminAt, AdminPlan, ListenerTls, ProxyAt};
use crate::config::raw::{RawAdmin, RawListenerTls, SecretRef};
use crate::vocab::Secret;

const LISTEN: &str = "admin.listen";
const TOKEN: &str = "admin.token";
const TLS: &str = "admin.tls";
/// Shortest token that is not worth a warning: 16 characters of base 62 hold 95 bits.
const TOKEN_MIN: usize = 16;

/// Reads `admin`. Verbs that speak to the running proxy read the token and the certificate, and no other secret.
pub(super) fn compile(
    raw: Option<RawAdmin>,
    taken: &mut Taken,
    it: &mut Context<'_>,
) -> Option<AdminPlan> {
    let raw = raw?;
    let reading = it.reading;
    if reading == SecretReading::Operator {
        it.reading = SecretReading::Resolve;
    }
    let plan = read(raw, reading == SecretReading::Operator, taken, it);
    it.reading = reading;
    plan
}

fn read(raw: RawAdmin, calls: bool, taken: &mut Taken, it: &mut Context<'_>) -> Option<AdminPlan> {
    let text = raw.listen?;
    let at = match text.strip_prefix("unix:") {
        Some(path) => listeners::unix((LISTEN, LISTEN), path, None, it)?,
        None => ProxyAt::Tcp(listeners::address(LISTEN, &text, it)?),
    };
    taken.check(LISTEN, &at, it);
    let beyond = listeners::beyond(&at);
    let at = match at {
        ProxyAt::Tcp(address) => AdminAt::Tcp(address),
        ProxyAt::Unix { path, .. } => AdminAt::Unix(path),
    };
    let tcp = matches!(at, AdminAt::Tcp(_));
    if tcp && raw.token.is_none() && !it.findings.tainted(TOKEN) {
        let what = "on a TCP address everybody who reaches it could speak to it";
        let remedy = "write `token: {file: PATH}`, or listen on unix:PATH";
        it.findings.error(LISTEN, what, remedy);
    }
    if beyond && raw.tls.is_none() && !it.findings.tainted(TLS) {
        let what = "beyond this machine, the token would travel in clear text";
        let remedy = "listen on 127.0.0.1, or give it `tls`";
        it.findings.error(LISTEN, what, remedy);
    }
    if !tcp && raw.tls.is_some() {
        let what = "a unix socket is not spoken to in TLS";
        it.findings.error(TLS, what, "remove it");
    }
    let token = raw.token.map(|reference| token(&reference, it));
    let tls = raw.tls.filter(|_| tcp);
    let tls = tls.and_then(|tls| identity(tls, calls, it));
    Some(AdminPlan {
        at,
        token,
        tls,
        required: true,
    })
}

/// The operator's token. Empty where it was not read.
fn token(reference: &SecretRef, it: &mut Context<'_>) -> Secret<String> {
    if matches!(reference, SecretRef::Prompt(_)) {
        let what = "verbs that speak to the running proxy need the token too, and ask nobody";
        it.findings.error(TOKEN, what, "give it with {file: PATH}");
    }
    let token = it.secret_text(TOKEN, reference, visible);
    if (1..TOKEN_MIN).contains(&token.expose().len()) {
        let what = "the token is short enough to be guessed";
        it.findings.warn(TOKEN, what, "use `openssl rand -hex 32`");
    }
    token
}

/// Certificate and key; who only calls needs the certificate, to know the proxy by.
fn identity(raw: RawListenerTls, calls: bool, it: &mut Context<'_>) -> Option<ListenerTls> {
    let (cert, key) = (raw.cert?, raw.key?);
    if calls {
        return Some(ListenerTls {
            cert_pem: pem::public(&format!("{TLS}.cert"), &cert, it),
            key_pem: Secret::new(Vec::new()),
            hosts: Vec::new(),
        });
    }
    let (cert_pem, key_pem, hosts) = pem::identity(TLS, &cert, &key, it);
    Some(ListenerTls {
        cert_pem,
        key_pem,
        hosts,
    })
}
