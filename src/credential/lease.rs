//! A token lent to one request. It holds no refresh token and no private key: at most a handle that signs.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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
    /// The credential as it is looked for in answers; `None`: there is none.
    token: Option<Arc<Token>>,
    /// What else is looked for.
    kin: OnceLock<Arc<Kin>>,
}

/// A credential as it goes out.
struct Token {
    value: HeaderValue,
    /// Prepared to be found in answers; `None`: it is too short.
    sought: Option<Arc<Sought>>,
}

/// Most tokens of one grant that its answers are searched for.
const KIN_MAX: usize = 32;
/// No lease has this number.
const NOBODY: u64 = u64::MAX;

/// The tokens of one grant that its issuer still honours, lent or not. Each one's answers are searched for all of them.
pub struct Kin {
    known: Mutex<Vec<Known>>,
    /// The lease of the one that is known, where it is the only one: then nobody needs to look.
    only: AtomicU64,
    /// How many tokens have come.
    came: AtomicU64,
}

struct Known {
    lease: u64,
    expires: Option<Expiry>,
    token: Arc<Token>,
}

impl Default for Kin {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            only: AtomicU64::new(NOBODY),
            came: AtomicU64::new(0),
        }
    }
}

impl Kin {
    fn known(&self) -> MutexGuard<'_, Vec<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the tokens that nobody honours any more. Whether none is left.
    pub fn forget(&self, now: Moment, wall: WallTime) -> bool {
        let mut known = self.known();
        known.retain(|one| one.expires.is_none_or(|e| !e.passed(now, wall)));
        self.count(&known);
        known.is_empty()
    }

    /// Takes one more; beyond the bound it forgets the oldest.
    fn take(&self, facts: &LeaseFacts, token: &Arc<Token>) {
        let mut known = self.known();
        known.retain(|one| one.token.value != token.value);
        if known.len() >= KIN_MAX {
            known.remove(0);
        }
        known.push(Known {
            lease: facts.id,
            expires: facts.expires,
            token: Arc::clone(token),
        });
        self.count(&known);
        self.came.fetch_add(1, Ordering::Release);
    }

    fn count(&self, known: &[Known]) {
        let only = match known {
            [one] => one.lease,
            _ => NOBODY,
        };
        self.only.store(only, Ordering::Release);
    }

    /// What is looked for besides the token of this lease.
    fn besides(&self, lease: &Inner) -> Vec<Arc<Sought>> {
        if self.only.load(Ordering::Acquire) == lease.facts.id {
            return Vec::new();
        }
        let known = self.known();
        let own = |one: &&Known| {
            lease
                .token
                .as_ref()
                .is_some_and(|t| t.value == one.token.value)
        };
        let others = known.iter().filter(|one| !own(one));
        let others: Vec<Arc<Token>> = others.map(|one| Arc::clone(&one.token)).collect();
        drop(known);
        others.iter().filter_map(|t| t.sought.clone()).collect()
    }
}

impl fmt::Debug for Kin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kin").finish_non_exhaustive()
    }
}

/// What `attach` puts on the request.
#[derive(Clone)]
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

    /// The same credential for other requests, which ends on its own. What took time to prepare is not prepared again.
    #[must_use]
    pub fn again(&self, facts: LeaseFacts) -> Self {
        Self(Arc::new(Inner {
            facts,
            form: self.0.form.clone(),
            certificate: self.0.certificate.clone(),
            token: self.0.token.clone(),
            kin: OnceLock::new(),
        }))
    }

    /// Takes about a millisecond for a long token: it is prepared to be found in answers here, where no request waits, and
    /// not at the first of them.
    fn with(facts: LeaseFacts, form: Form, certificate: Option<Arc<Certificate>>) -> Self {
        let value = match &form {
            Form::Dpop { authorization, .. } => Some(authorization),
            Form::Field { value, .. } => Some(value),
            Form::Nothing => None,
        };
        let token = value.map(|value| Arc::new(Token::new(value.clone())));
        Self(Arc::new(Inner {
            facts,
            form,
            certificate,
            token,
            kin: OnceLock::new(),
        }))
    }

    /// Makes its token one of its grant's. Each one's is looked for in the answers of all. To be called before the lease is
    /// lent, and once.
    pub fn join(&self, kin: &Arc<Kin>) {
        if self.0.kin.set(Arc::clone(kin)).is_ok()
            && let Some(token) = &self.0.token
        {
            kin.take(&self.0.facts, token);
        }
    }

    /// How many tokens of the grant have come so far: as long as this stays, [`sought`](Self::sought) has no more to say.
    #[must_use]
    pub fn came(&self) -> u64 {
        self.0
            .kin
            .get()
            .map_or(0, |kin| kin.came.load(Ordering::Acquire))
    }

    /// Every live token of the grant, this one first, as it is looked for in answers; none where it is too short to be
    /// found for certain.
    #[must_use]
    pub fn sought(&self) -> Vec<Arc<Sought>> {
        let own = self.0.token.as_ref().and_then(|t| t.sought.clone());
        let mut all: Vec<Arc<Sought>> = own.into_iter().collect();
        if let Some(kin) = self.0.kin.get() {
            all.extend(kin.besides(&self.0));
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

impl Token {
    /// What is sought is the credential without the scheme before it: what comes back may have lost that, or have another.
    /// All that is behind the scheme is the credential, however many words it has.
    fn new(value: HeaderValue) -> Self {
        let bytes = value.as_bytes();
        let bare = bytes.splitn(2, |byte| *byte == b' ').last();
        let bare = bare.and_then(Sought::new);
        let sought = bare.or_else(|| Sought::new(bytes)).map(Arc::new);
        Self { value, sought }
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
    use crate::reflect::Watched;
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
    fn the_tokens_of_a_grant_are_sought_together_while_they_are_good() {
        let lease = |id: u64, token: &str, ends: u64| {
            let mut facts = LeaseFacts { id, ..facts() };
            facts.expires = Some(Expiry {
                monotonic: Moment(ends),
                wall: WallTime(1_000),
            });
            Lease::bearer(facts, &Secret::new(token.into())).unwrap()
        };
        let kin = Arc::new(Kin::default());
        let a = lease(1, "token-one-1", 10);
        a.join(&kin);
        assert_eq!((a.sought().len(), a.came()), (1, 1));
        let (b, c) = (lease(2, "token-two-2", 20), lease(3, "token-three-3", 30));
        b.join(&kin);
        c.join(&kin);
        let alone = lease(4, "alone-in-the-world", 10);
        for (lease, many) in [(&a, 3), (&b, 3), (&c, 3), (&alone, 1)] {
            assert_eq!(lease.sought().len(), many);
        }
        // That nobody is lent it does not make it worthless; its end does.
        drop(b);
        assert_eq!((a.sought().len(), c.sought().len()), (3, 3));
        assert!(!kin.forget(Moment(20), WallTime(0)));
        assert_eq!((a.sought().len(), c.sought().len(), c.came()), (2, 1, 3));
        // One value is one token, and there is a bound.
        lease(5, "token-three-3", 40).join(&kin);
        assert_eq!((a.sought().len(), c.sought().len()), (2, 1));
        for id in 10..60 {
            lease(id, &format!("token-number-{id}"), 50).join(&kin);
        }
        assert_eq!(a.sought().len(), 1 + KIN_MAX);
        assert!(kin.forget(Moment(50), WallTime(0)));
        assert!(Lease::nothing(facts()).sought().is_empty());
    }

    #[test]
    fn one_credential_is_prepared_once_and_ends_for_each_on_its_own() {
        let name = HeaderName::from_static("x-key");
        let first = Lease::fixed(facts(), name, &Secret::new("key-key-key".into())).unwrap();
        let second = first.again(facts());
        assert!(Arc::ptr_eq(&first.sought()[0], &second.sought()[0]));
        first.facts().cancel.cancel();
        assert!(!second.facts().cancel.is_cancelled());
    }

    #[test]
    fn only_the_scheme_is_cut_off_what_is_sought() {
        let name = HeaderName::from_static("x-key");
        for (value, sought) in [
            ("key-key-key id=5, tail-tail-tail", "id=5, tail-tail-tail"),
            ("Token token=12345678", "token=12345678"),
            ("alone-in-the-field", "alone-in-the-field"),
            ("Bearer short", "Bearer short"),
            ("long-enough-alone x", "long-enough-alone x"),
        ] {
            let lease = Lease::fixed(facts(), name.clone(), &Secret::new(value.into())).unwrap();
            let watched = Watched::new(lease.sought(), "");
            let text = |text: &str| watched.without(text.as_bytes()).is_some();
            let shorter = sought.rsplit(' ').next().filter(|last| *last != sought);
            assert!(text(value) && text(sought), "{value}");
            assert!(!shorter.is_some_and(text), "{value}");
        }
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
