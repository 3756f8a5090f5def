//! A token lent to one request. It holds no refresh token and no private key: at most a handle that signs.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::certificate::Certificate;
use crate::proof::{self, Signer};
use crate::reflect::Sought;
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
    /// The credential prepared to be found in answers; made when the first one is looked at.
    sought: OnceLock<Option<Arc<Sought>>>,
    /// The leases of the same grant.
    kin: OnceLock<Arc<Kin>>,
}

/// Most leases of one grant whose answers are searched for each other's tokens.
const KIN_MAX: usize = 32;

/// The leases of one grant that are in use. They do not keep each other.
#[derive(Default)]
struct Kin(Mutex<Vec<Weak<Inner>>>);

impl Kin {
    fn all(&self) -> MutexGuard<'_, Vec<Weak<Inner>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one more, and forgets those that are gone; beyond the bound the oldest.
    fn take(&self, lease: &Arc<Inner>) {
        let mut all = self.all();
        all.retain(|one| one.strong_count() > 0);
        if all.len() >= KIN_MAX {
            all.remove(0);
        }
        all.push(Arc::downgrade(lease));
    }
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
        Ok(Self::with(facts, form, Some(certificate)))
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
        Self::with(facts, form, None)
    }

    fn with(facts: LeaseFacts, form: Form, certificate: Option<Arc<Certificate>>) -> Self {
        Self(Arc::new(Inner {
            facts,
            form,
            certificate,
            sought: OnceLock::new(),
            kin: OnceLock::new(),
        }))
    }

    /// Makes this lease one of those that `other` belongs to: the same grant's. Each one's token is looked for in the
    /// answers of all. To be called before the lease is lent.
    pub fn join(&self, other: &Self) {
        let kin = other.0.kin.get_or_init(|| {
            let kin = Arc::new(Kin::default());
            kin.take(&other.0);
            kin
        });
        if self.0.kin.set(Arc::clone(kin)).is_ok() {
            kin.take(&self.0);
        }
    }

    /// Every live token of the grant, this one first, as it is looked for in answers; none where it is too short to be
    /// found for certain.
    #[must_use]
    pub fn sought(&self) -> Vec<Arc<Sought>> {
        let mut all: Vec<Arc<Sought>> = self.0.sought().into_iter().collect();
        if let Some(kin) = self.0.kin.get() {
            let others: Vec<Arc<Inner>> = kin.all().iter().filter_map(Weak::upgrade).collect();
            let others = others.iter().filter(|other| !Arc::ptr_eq(other, &self.0));
            all.extend(others.filter_map(|other| other.sought()));
        }
        all
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

impl Inner {
    /// The credential without the scheme before it: what comes back may have lost that, or have another.
    fn sought(&self) -> Option<Arc<Sought>> {
        let value = match &self.form {
            Form::Dpop { authorization, .. } => authorization,
            Form::Field { value, .. } => value,
            Form::Nothing => return None,
        };
        let prepare = || {
            let bytes = value.as_bytes();
            let bare = bytes.rsplit(|byte| *byte == b' ').next();
            let bare = bare.and_then(Sought::new);
            bare.or_else(|| Sought::new(bytes)).map(Arc::new)
        };
        self.sought.get_or_init(prepare).clone()
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
    fn the_tokens_of_a_grant_are_sought_together_while_they_live() {
        let lease = |token: &str| Lease::bearer(facts(), &Secret::new(token.into())).unwrap();
        let (a, b) = (lease("token-one-1"), lease("token-two-2"));
        b.join(&a);
        let c = lease("token-three-3");
        c.join(&b);
        for (lease, many) in [(&a, 3), (&b, 3), (&c, 3), (&lease("alone-in-the-world"), 1)] {
            assert_eq!(lease.sought().len(), many);
        }
        drop(b);
        assert_eq!((a.sought().len(), c.sought().len()), (2, 2));
        assert!(Lease::nothing(facts()).sought().is_empty());
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
