//! Asks an API after a token: a configured request whose answer tells whether the token is good.
//!
//! It goes to the service's own host and nowhere else, along no redirect, over connections that no agent's request shares,
//! and it shows what an agent's request would show: the token, and a proof or a certificate where it is bound.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::UNIX_EPOCH;

use aws_lc_rs::rand;
use http::{HeaderMap, HeaderValue, Method, header};

use super::health::Verdict;
use super::issuer::{Address, Token};
use super::settings::ProbeSettings;
use super::transport::Transport;
use crate::credential::{Certificate, Nonces};
use crate::proof::{self, Challenge, Jti, Nonce, ProofClaims, ProofKey, Signer as _};
use crate::upstream::{IssuerReply, IssuerRequest};
use crate::vocab::{Binding, Clock, ScopeSet, Secret};

/// Most requests of one check: the first, one with another nonce, one with the API's clock.
const TRIES: usize = 3;
/// Nonces that are kept, one a key: as many as agents may use the service at a time.
const NONCES_MAX: usize = 256;
/// Largest offset of the API's clock that is believed, in seconds.
const OFFSET_MAX: i64 = 600;

/// The probe of one service.
pub(super) struct Probe {
    settings: ProbeSettings,
    address: Address,
    transport: Arc<dyn Transport>,
    clock: Clock,
    nonces: Nonces,
    /// Seconds that the API's clock is ahead of ours, learned when it refused a proof.
    offset: AtomicI64,
}

/// A token to be asked after, and what it is bound to.
pub(super) struct Shown {
    pub(super) access: Secret<String>,
    binding: Binding,
    key: Option<Arc<ProofKey>>,
    certificate: Option<Arc<Certificate>>,
}

impl Shown {
    /// What an API has to be shown of this token.
    pub(super) fn of(token: &Token) -> Self {
        Self {
            access: token.access.clone(),
            binding: token.binding,
            key: token.key.clone(),
            certificate: token.certificate.clone(),
        }
    }
}

/// What the API said, and the `jti` of every proof that was sent to it.
pub(super) struct Probed {
    pub(super) verdict: Verdict,
    pub(super) proofs: Vec<String>,
}

/// What one answer means.
enum Heard {
    Verdict(Verdict),
    /// It wants another proof.
    Again,
}

impl Probe {
    /// A probe; nothing is dialled yet. `None` where the address cannot be named in a proof.
    pub(super) fn new(
        settings: &ProbeSettings,
        transport: Arc<dyn Transport>,
        clock: Clock,
    ) -> Option<Self> {
        Some(Self {
            address: Address::parse(settings.url.as_str()).ok()?,
            settings: settings.clone(),
            transport,
            clock,
            nonces: Nonces::new(NONCES_MAX),
            offset: AtomicI64::new(0),
        })
    }

    /// What a token must be good for to be asked after here.
    pub(super) fn scopes(&self) -> &ScopeSet {
        &self.settings.scopes
    }

    /// Asks after one token. Ends within thirty seconds.
    pub(super) async fn ask(&self, shown: &Shown) -> Probed {
        let mut proofs = Vec::new();
        for _ in 0..TRIES {
            let nonce = self.nonce(shown);
            let Some(call) = self.call(shown, nonce.as_ref(), &mut proofs) else {
                break;
            };
            let Ok(reply) = self.transport.send(call).await else {
                break;
            };
            match self.hear(&reply, shown, nonce.as_ref()) {
                Heard::Again => {}
                Heard::Verdict(verdict) => return Probed { verdict, proofs },
            }
        }
        Probed {
            verdict: Verdict::Unknown,
            proofs,
        }
    }

    fn nonce(&self, shown: &Shown) -> Option<Nonce> {
        let origin = self.address.authority().origin();
        self.nonces
            .current(&origin, shown.key.as_ref()?.thumbprint())
    }

    fn method(&self) -> Method {
        if self.settings.head {
            Method::HEAD
        } else {
            Method::GET
        }
    }

    /// The request; `None` where its proof cannot be made.
    fn call(
        &self,
        shown: &Shown,
        nonce: Option<&Nonce>,
        proofs: &mut Vec<String>,
    ) -> Option<IssuerRequest<'_>> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        let scheme = match shown.binding {
            Binding::Dpop => "DPoP ",
            _ => "Bearer ",
        };
        let access = shown.access.expose();
        let mut value =
            HeaderValue::from_str(&zeroize::Zeroizing::new(format!("{scheme}{access}"))).ok()?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
        if shown.binding == Binding::Dpop {
            let key = shown.key.as_ref()?;
            let mut bytes = [0; 16];
            rand::fill(&mut bytes).ok()?;
            let jti = Jti::from_random(bytes);
            let method = self.method();
            let seconds = self.clock.wall().seconds();
            let claims = ProofClaims {
                htm: method.as_str(),
                htu: &proof::htu(
                    self.address.authority(),
                    self.address.path(),
                    &self.settings.htu,
                ),
                iat: seconds.saturating_add(self.offset.load(Ordering::Relaxed)),
                jti: &jti,
                ath: Some(&proof::ath(access)),
                nonce,
            };
            let proof = key.proof(&claims).ok()?;
            let mut value = HeaderValue::from_str(proof.as_str()).ok()?;
            value.set_sensitive(true);
            headers.insert("dpop", value);
            proofs.push(jti.as_str().to_owned());
        }
        Some(IssuerRequest {
            method: self.method(),
            url: self.address.url(),
            headers,
            form: None,
            certificate: shown.certificate.clone(),
        })
    }

    /// What an answer says. A 2xx means that the token was taken, and a challenge for more scope that it was looked at; what
    /// else an API says about the request says nothing about the token.
    fn hear(&self, reply: &IssuerReply, shown: &Shown, sent: Option<&Nonce>) -> Heard {
        let fresh = self.note_nonce(reply, shown);
        let challenges = challenges(&reply.headers);
        let says = |error: &str| challenges.iter().any(|c| c.param("error") == Some(error));
        match reply.status {
            200..=299 => Heard::Verdict(Verdict::Active),
            400 | 401 if says("use_dpop_nonce") => {
                // The same nonce again, or none, would be refused again.
                if fresh.is_some() && fresh.as_ref() != sent {
                    Heard::Again
                } else {
                    Heard::Verdict(Verdict::Unknown)
                }
            }
            400 | 401 if says("invalid_dpop_proof") => {
                if self.learn_offset(&reply.headers) {
                    Heard::Again
                } else {
                    Heard::Verdict(Verdict::Unknown)
                }
            }
            401 if says("invalid_token") => Heard::Verdict(Verdict::Inactive),
            403 if says("insufficient_scope") => Heard::Verdict(Verdict::Active),
            _ => Heard::Verdict(Verdict::Unknown),
        }
    }

    fn note_nonce(&self, reply: &IssuerReply, shown: &Shown) -> Option<Nonce> {
        let key = shown.key.as_ref()?;
        let mut lines = reply.headers.get_all("dpop-nonce").iter();
        let nonce = lines.next()?.to_str().ok().and_then(Nonce::parse);
        let nonce = nonce.filter(|_| lines.next().is_none())?;
        let origin = self.address.authority().origin();
        let now = self.clock.now();
        self.nonces
            .note(&origin, key.thumbprint(), nonce.clone(), now);
        Some(nonce)
    }

    /// Learns the API's clock. Whether there was something to learn.
    fn learn_offset(&self, headers: &HeaderMap) -> bool {
        let date = headers.get(header::DATE).and_then(|v| v.to_str().ok());
        let date = date.and_then(|text| httpdate::parse_http_date(text).ok());
        let since = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
        let Some(seconds) = since.and_then(|span| i64::try_from(span.as_secs()).ok()) else {
            return false;
        };
        let offset = seconds.saturating_sub(self.clock.wall().seconds());
        offset.abs() <= OFFSET_MAX && self.offset.swap(offset, Ordering::Relaxed) != offset
    }
}

fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let lines = headers.get_all(header::WWW_AUTHENTICATE).iter();
    proof::parse_challenges(lines.filter_map(|v| v.to_str().ok()))
}
