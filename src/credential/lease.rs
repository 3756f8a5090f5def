//! A token lent to one request. It holds no refresh token and no private key: at most a handle that signs.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::certificate::Certificate;
use crate::proof::{self, Signer};
use crate::vocab::{Binding, GrantId, Moment, ScopeSet, Secret, WallTime};

/// Longest credential that we put on a request, in bytes.
const TOKEN_MAX: usize = 16 * 1024;

/// A credential that must not be written into a header: empty, too long, or with bytes that would end the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the credential is empty, longer than 16 KiB or has characters that a header cannot carry")]
pub struct BadToken;

/// When a token may no longer be used: whichever clock says so first, so that neither a suspended machine nor a
/// clock set back keeps a dead token in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// By the monotonic clock.
    pub monotonic: Moment,
    /// By the wall clock.
    pub wall: WallTime,
}

impl Expiry {
    /// Whether either clock has reached it.
    #[must_use]
    pub fn passed(&self, now: Moment, wall: WallTime) -> bool {
        now >= self.monotonic || wall >= self.wall
    }
}

/// What is known about a lease besides the credential itself; nothing here is secret.
#[derive(Debug, Clone)]
pub struct LeaseFacts {
    /// A number for logs and audit lines, unrelated to the token's bytes.
    pub id: u64,
    /// Whose credential it is.
    pub grant: GrantId,
    /// What ties it to a key.
    pub binding: Binding,
    /// The scopes that the issuer granted.
    pub scopes: ScopeSet,
    /// When it ends; `None` for static credentials.
    pub expires: Option<Expiry>,
    /// Ends every exchange that rides on it.
    pub cancel: CancellationToken,
}

/// A credential lent to one request. Cheap to clone; prints its facts only.
#[derive(Clone)]
pub struct Lease(Arc<Inner>);

struct Inner {
    facts: LeaseFacts,
    form: Form,
    certificate: Option<Arc<Certificate>>,
}

/// What `attach` puts on the request.
pub(super) enum Form {
    /// `Authorization: DPoP …` and a proof (RFC 9449 §7.1).
    Dpop {
        authorization: HeaderValue,
        ath: String,
        signer: Arc<dyn Signer>,
    },
    /// One field, whole.
    Field {
        name: HeaderName,
        value: HeaderValue,
    },
    /// Nothing: the permit is for a service without credential.
    Nothing,
}

impl Lease {
    /// A token bound to the signer's key by DPoP.
    ///
    /// # Errors
    /// [`BadToken`] where the token cannot stand in a header.
    pub fn dpop(
        facts: LeaseFacts,
        token: &Secret<String>,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, BadToken> {
        let authorization = field("DPoP ", token)?;
        let ath = proof::ath(token.expose());
        Ok(Self::new(
            facts,
            Form::Dpop {
                authorization,
                ath,
                signer,
            },
        ))
    }

    /// A bearer token (RFC 6750 §2.1).
    ///
    /// # Errors
    /// [`BadToken`] where the token cannot stand in a header.
    pub fn bearer(facts: LeaseFacts, token: &Secret<String>) -> Result<Self, BadToken> {
        let value = field("Bearer ", token)?;
        Ok(Self::new(
            facts,
            Form::Field {
                name: header::AUTHORIZATION,
                value,
            },
        ))
    }

    /// A token bound to a certificate (RFC 8705 §3). It is good on connections that showed it, and goes on no other.
    ///
    /// # Errors
    /// [`BadToken`] where the token cannot stand in a header.
    pub fn certified(
        facts: LeaseFacts,
        token: &Secret<String>,
        certificate: Arc<Certificate>,
    ) -> Result<Self, BadToken> {
        let form = Form::Field {
            name: header::AUTHORIZATION,
            value: field("Bearer ", token)?,
        };
        Ok(Self(Arc::new(Inner {
            facts,
            form,
            certificate: Some(certificate),
        })))
    }

    /// A fixed value in a named field.
    ///
    /// # Errors
    /// [`BadToken`] where the value cannot stand in a header.
    pub fn fixed(
        facts: LeaseFacts,
        name: HeaderName,
        value: &Secret<String>,
    ) -> Result<Self, BadToken> {
        let value = field("", value)?;
        Ok(Self::new(facts, Form::Field { name, value }))
    }

    /// The lease of a service that takes no credential.
    #[must_use]
    pub fn nothing(facts: LeaseFacts) -> Self {
        Self::new(facts, Form::Nothing)
    }

    fn new(facts: LeaseFacts, form: Form) -> Self {
        Self(Arc::new(Inner {
            facts,
            form,
            certificate: None,
        }))
    }

    /// What is known about it.
    #[must_use]
    pub fn facts(&self) -> &LeaseFacts {
        &self.0.facts
    }

    /// The thumbprint of the key that it is bound to (RFC 7638).
    #[must_use]
    pub fn thumbprint(&self) -> Option<&str> {
        match &self.0.form {
            Form::Dpop { signer, .. } => Some(signer.thumbprint()),
            Form::Field { .. } | Form::Nothing => None,
        }
    }

    /// What the connection must have shown that this token goes out on.
    #[must_use]
    pub fn certificate(&self) -> Option<&Arc<Certificate>> {
        self.0.certificate.as_ref()
    }

    /// Whether it may no longer be used.
    #[must_use]
    pub fn expired(&self, now: Moment, wall: WallTime) -> bool {
        self.0.facts.expires.is_some_and(|e| e.passed(now, wall))
    }

    pub(super) fn form(&self) -> &Form {
        &self.0.form
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("facts", &self.0.facts)
            .finish_non_exhaustive()
    }
}

/// A header value marked sensitive, so that hyper neither prints it nor puts it into an HPACK table.
fn field(prefix: &str, token: &Secret<String>) -> Result<HeaderValue, BadToken> {
    let token = token.expose();
    let plain = |b: u8| matches!(b, 0x21..=0x7e);
    // A fixed value may hold inner spaces (`Token abc`), never outer ones: servers trim those.
    let inner_space = prefix.is_empty() && !token.starts_with(' ') && !token.ends_with(' ');
    let good = !token.is_empty()
        && token.len() <= TOKEN_MAX
        && token
            .bytes()
            .all(|b| plain(b) || (inner_space && b == b' '));
    if !good {
        return Err(BadToken);
    }
    // The value's bytes are overwritten when the last clone of it is gone: what a session leaves behind is nothing.
    let mut text = Zeroizing::new(Vec::with_capacity(prefix.len() + token.len()));
    text.extend_from_slice(prefix.as_bytes());
    text.extend_from_slice(token.as_bytes());
    let shared = Bytes::from_owner(text);
    let mut value = HeaderValue::from_maybe_shared(shared).map_err(|_| BadToken)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::{AgentName, ServiceName};

    fn facts() -> LeaseFacts {
        let grant = GrantId {
            service: ServiceName::new("items").unwrap(),
            agent: AgentName::fallback(),
        };
        LeaseFacts {
            id: 7,
            grant,
            binding: Binding::Bearer,
            scopes: ScopeSet::default(),
            expires: Some(Expiry {
                monotonic: Moment(10),
                wall: WallTime(1_000),
            }),
            cancel: CancellationToken::new(),
        }
    }

    #[test]
    fn a_token_that_would_break_the_head_is_refused() {
        for bad in [
            "",
            "a\r\nx: y",
            "a b",
            "é",
            "a\0",
            &"x".repeat(TOKEN_MAX + 1),
        ] {
            assert!(
                Lease::bearer(facts(), &Secret::new(bad.to_owned())).is_err(),
                "{}",
                bad.len()
            );
        }
        let name = HeaderName::from_static("x-api-key");
        assert!(Lease::fixed(facts(), name.clone(), &Secret::new("Token abc".into())).is_ok());
        assert!(Lease::fixed(facts(), name, &Secret::new(" abc".into())).is_err());
    }

    #[test]
    fn debug_shows_facts_only() {
        let lease = Lease::bearer(facts(), &Secret::new("canary-55".into())).unwrap();
        assert!(!format!("{lease:?}").contains("canary"));
    }

    #[test]
    fn either_clock_ends_it() {
        let lease = Lease::nothing(facts());
        assert!(!lease.expired(Moment(9), WallTime(999)));
        assert!(lease.expired(Moment(10), WallTime(0)));
        assert!(lease.expired(Moment(0), WallTime(1_000)));
    }
}
