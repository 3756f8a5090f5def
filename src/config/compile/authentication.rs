//! How a client proves its name at its issuer.

use super::{Context, header_value, pem};
use crate::config::SecretReading;
use crate::config::raw::{
    RawAssertionType, RawClientAuth, RawFileRef, RawMtls, RawPrivateKeyJwt, SecretRef,
};
use crate::credential::{BadCertificate, Certificate};
use crate::tokens::{CertificateSettings, ClientAuth, Platform, WorkloadSettings};
use crate::vocab::Binding;

/// Reads `client_auth` of a client whose tokens are bound like this.
pub(super) fn compile(
    key: &str,
    raw: RawClientAuth,
    binding: Binding,
    it: &mut Context<'_>,
) -> Option<ClientAuth> {
    match raw {
        RawClientAuth::None => {
            if binding == Binding::Bearer {
                let what = "a public client's token should at least be bound to a key";
                it.findings.warn(key, what, "use `binding: dpop`");
            }
            Some(ClientAuth::Nothing)
        }
        RawClientAuth::Kubernetes(raw) => {
            let key = format!("{key}.kubernetes");
            let token = (format!("{key}.token"), raw.token);
            workload(&key, token, raw.audience, Platform::Kubernetes, it)
        }
        RawClientAuth::Mtls(raw) => mtls(&format!("{key}.mtls"), raw, it),
        RawClientAuth::PrivateKeyJwt(RawPrivateKeyJwt {
            key: reference,
            kid,
        }) => {
            let key = format!("{key}.private_key_jwt.key");
            let key_pem = pem::private_key(&key, &reference?, it);
            Some(ClientAuth::PrivateKeyJwt { key_pem, kid })
        }
        RawClientAuth::SecretBasic(reference) => {
            let key = format!("{key}.secret_basic");
            let remedy = "use `mtls` or `private_key_jwt` if the server can, or a platform's token (`kubernetes`, `spiffe`)";
            weak_secret(&key, remedy, it);
            let secret = it.secret_text(&key, &reference, header_value);
            Some(ClientAuth::SecretBasic(secret))
        }
        RawClientAuth::SecretPost(reference) => {
            let key = format!("{key}.secret_post");
            let remedy = "use `mtls` or `private_key_jwt` if the server can, or a platform's token (`kubernetes`, `spiffe`); else `secret_basic`";
            weak_secret(&key, remedy, it);
            let secret = it.secret_text(&key, &reference, header_value);
            Some(ClientAuth::SecretPost(secret))
        }
        RawClientAuth::Spiffe(raw) => {
            let key = format!("{key}.spiffe");
            let platform = match raw.assertion_type {
                None | Some(RawAssertionType::JwtSpiffe) => Platform::Spiffe,
                Some(RawAssertionType::JwtBearer) => Platform::SpiffePlain,
            };
            let token = (format!("{key}.jwt_svid"), raw.jwt_svid);
            workload(&key, token, raw.audience, platform, it)
        }
    }
}

/// A platform's token. What it says is looked at when it is used, for it is another one then.
fn workload(
    key: &str,
    (token_key, token): (String, Option<RawFileRef>),
    audience: Option<String>,
    platform: Platform,
    it: &mut Context<'_>,
) -> Option<ClientAuth> {
    let path = token?.file?;
    if audience.as_deref() == Some("") {
        let remedy = "remove the key or name the token's audience";
        it.findings
            .error(&format!("{key}.audience"), "empty", remedy);
    }
    let reference = SecretRef::File(path);
    drop(it.secret(&token_key, &reference));
    Some(ClientAuth::Workload(WorkloadSettings {
        token: it.supply(&reference),
        audience,
        platform,
    }))
}

fn mtls(key: &str, raw: RawMtls, it: &mut Context<'_>) -> Option<ClientAuth> {
    let cert_key = format!("{key}.cert");
    let cert = SecretRef::File(raw.cert?.file?);
    let key_reference = raw.key?;
    let chain = it.secret(&cert_key, &cert);
    let key_key = format!("{key}.key");
    pem::one_line(&key_key, &key_reference, it);
    let pem = it.secret(&key_key, &key_reference);
    if let (SecretReading::Resolve, Some(chain), Some(pem)) = (it.reading, chain, pem)
        && let Err(error) = Certificate::from_pem(chain.expose(), &pem)
    {
        let (at, remedy) = match error {
            BadCertificate::Chain => (
                cert_key,
                "it must hold the client's certificate in PEM (BEGIN CERTIFICATE), its chain after it",
            ),
            BadCertificate::Key => (
                key_key,
                "it must be an unencrypted EC, Ed25519 or RSA key (BEGIN PRIVATE KEY)",
            ),
            BadCertificate::Mismatch => (key_key, "give the key of `cert`"),
        };
        it.findings.error(&at, &error.to_string(), remedy);
    }
    Some(ClientAuth::Mtls(CertificateSettings {
        cert: it.supply(&cert),
        key: it.supply(&key_reference),
    }))
}

/// RFC 9700 §2.5 recommends asymmetric client authentication: the server then holds nothing worth stealing. Better still is
/// what the platform gives us, for it ends by itself.
fn weak_secret(key: &str, remedy: &str, it: &mut Context<'_>) {
    let what = "a static secret goes over the wire with every token request";
    it.findings.warn(key, what, remedy);
}
