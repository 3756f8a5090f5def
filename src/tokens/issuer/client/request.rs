//! The token request, from the grant's own part to the proof, and when it is sent again.

use http::{HeaderMap, HeaderValue, Method, header};

use super::super::address::Address;
use super::super::answer;
use super::super::auth::{AuthError, Occasion, grant_assertion};
use super::super::form::Form;
use super::super::login::Answered;
use super::super::metadata::Metadata;
use super::{AGAIN_LIMIT, Client, Errand, JWT_BEARER, Means, random};
use crate::proof::{self, HtuProfile, Jti, Nonce, ProofClaims, Signer as _};
use crate::tokens::failure::Failure;
use crate::tokens::identity::Identity;
use crate::tokens::journal::Note;
use crate::tokens::settings::{AssertionSource, Grant};
use crate::upstream::{IssuerReply, IssuerRequest};
use crate::vocab::{Code, ScopeSet, Secret};

impl Client {
    /// Sends the token request, once more with the nonce that the issuer asks for (RFC 9449 §8), once more with its
    /// clock; every time with a new assertion and a new proof. Never a third reason, never the same one twice.
    pub(super) async fn ask(&self, errand: &Errand<'_>) -> Result<IssuerReply, Failure> {
        let began = self.issuer.clock.now();
        let (mut nonce_retry, mut clock_retry) = (true, true);
        loop {
            let sent = self.current_nonce(errand);
            let reply = self.send(errand, sent.as_ref()).await?;
            let fresh = answer::nonce(&reply.headers);
            if let (Some(nonce), Some(key)) = (&fresh, errand.key) {
                let origin = errand.metadata.token_endpoint.authority().origin();
                let (nonces, now) = (&self.issuer.nonces, self.issuer.clock.now());
                nonces.note(&origin, key.thumbprint(), nonce.clone(), now);
            }
            let refused = errand.key.is_some() && matches!(reply.status, 400 | 401);
            let in_time = self.issuer.clock.now().since(began) < AGAIN_LIMIT;
            match answer::oauth_error(&reply).filter(|_| refused) {
                Some(("use_dpop_nonce", _)) => {
                    errand.unused();
                    errand.journal.note(&Note::NonceChallenge {
                        service: &self.service,
                    });
                    // Without a nonce, or with the one that was just refused, another try would end the same way.
                    if !nonce_retry || !in_time || fresh.is_none() || fresh == sent {
                        return Err(Failure::because(Code::AsUnavailable, "use_dpop_nonce"));
                    }
                    nonce_retry = false;
                }
                Some(("invalid_dpop_proof", _))
                    if clock_retry
                        && in_time
                        && self
                            .issuer
                            .learn_offset(&reply, &self.service, errand.journal) =>
                {
                    errand.unused();
                    clock_retry = false;
                }
                _ => return Ok(reply),
            }
        }
    }

    /// Sends the request once. What it uses up counts as used from here on, unless nothing of it went out.
    pub(super) async fn send(
        &self,
        errand: &Errand<'_>,
        nonce: Option<&Nonce>,
    ) -> Result<IssuerReply, Failure> {
        let call = self.token_request(errand, nonce).await?;
        if let Means::Refresh(turn) = errand.means {
            turn.sending()?;
        }
        let reply = self.issuer.transport.send(call).await;
        let reply = reply.inspect_err(|error| {
            if error.unsent() {
                errand.unused();
            }
            tracing::warn!(service = %self.service, %error, "no answer of the token endpoint");
        });
        Ok(reply?)
    }

    pub(super) fn current_nonce(&self, errand: &Errand<'_>) -> Option<Nonce> {
        let origin = errand.metadata.token_endpoint.authority().origin();
        self.issuer
            .nonces
            .current(&origin, errand.key?.thumbprint())
    }

    pub(super) async fn token_request<'a>(
        &self,
        errand: &Errand<'a>,
        nonce: Option<&Nonce>,
    ) -> Result<IssuerRequest<'a>, Failure> {
        let mut form = self.ticket(errand)?;
        for (name, value) in &self.settings.parameters {
            form.add(name, value);
        }
        let url = &errand.metadata.token_endpoint;
        let mut call = self.call(form, url, errand.metadata).await?;
        call.certificate = errand.certificate.cloned();
        if let Some(key) = errand.key {
            let jti = Jti::from_random(random()?);
            let htu = proof::htu(url.authority(), url.path(), &HtuProfile::AsSent);
            let claims = ProofClaims {
                htm: Method::POST.as_str(),
                htu: &htu,
                iat: self.issuer.seconds(),
                jti: &jti,
                ath: None,
                nonce,
            };
            let proof = key.proof(&claims).map_err(|_| Code::Internal)?;
            let mut value = HeaderValue::from_str(proof.as_str()).map_err(|_| Code::Internal)?;
            value.set_sensitive(true);
            call.headers.insert("dpop", value);
            errand.journal.note(&Note::Proof {
                service: &self.service,
            });
        }
        Ok(call)
    }

    /// The grant's own part of a token request.
    pub(super) fn ticket(&self, errand: &Errand<'_>) -> Result<Form, Failure> {
        let mut form = Form::new();
        match errand.means {
            Means::Ourselves => form.add("grant_type", "client_credentials"),
            Means::Code(Answered::Code(brought)) => {
                form.add("grant_type", "authorization_code");
                form.add_secret("code", &brought.code);
                form.add("redirect_uri", &brought.redirect_uri);
                form.add_secret("code_verifier", &brought.verifier);
            }
            // Its request was sent and answered before.
            Means::Code(Answered::Device(_)) => return Err(Code::Internal.into()),
            Means::Device(code) => {
                form.add("grant_type", "urn:ietf:params:oauth:grant-type:device_code");
                form.add_secret("device_code", code);
            }
            Means::Refresh(turn) => {
                form.add("grant_type", "refresh_token");
                form.add_secret("refresh_token", turn.refresh());
            }
            Means::Assertion(assertion) => {
                form.add("grant_type", JWT_BEARER);
                form.add_secret("assertion", assertion);
            }
            Means::Key(key) => {
                form.add("grant_type", JWT_BEARER);
                form.add_secret("assertion", &self.sign(key, errand.metadata)?);
            }
            Means::Tokens { subject, actor } => self.exchange(&mut form, subject, actor.as_ref()),
        }
        match errand.means {
            // RFC 6749 §4.1.3: the scopes are those of the login.
            Means::Code(_) | Means::Device(_) => {
                self.say_what_for(&mut form, &ScopeSet::default());
            }
            // §6: so they are here, where less is not asked for.
            means if self.most(means) == Some(errand.scopes) => {
                self.say_what_for(&mut form, &ScopeSet::default());
            }
            _ => self.say_what_for(&mut form, errand.scopes),
        }
        Ok(form)
    }

    /// An assertion of our own for this one sending of a request.
    pub(super) fn sign(
        &self,
        key: &Secret<Vec<u8>>,
        metadata: &Metadata,
    ) -> Result<Secret<String>, Failure> {
        let Grant::JwtBearer(AssertionSource::Signed {
            kid,
            issuer,
            subject,
            ..
        }) = &self.settings.grant
        else {
            return Err(Code::Internal.into());
        };
        let issuer = issuer.as_ref().unwrap_or(&self.settings.client_id);
        let jti = Jti::from_random(random()?);
        let occasion = self.occasion(&jti, metadata);
        let fapi = self.settings.fapi;
        grant_assertion(key, kid.as_deref(), (issuer, subject), &occasion, fapi)
            .map_err(|_| Code::ClientMisconfigured.into())
    }

    /// RFC 8693 §2.1.
    pub(super) fn exchange(
        &self,
        form: &mut Form,
        subject: &Secret<String>,
        actor: Option<&Secret<String>>,
    ) {
        let Grant::TokenExchange(settings) = &self.settings.grant else {
            return;
        };
        form.add(
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        );
        form.add_secret("subject_token", subject);
        form.add("subject_token_type", &settings.subject.kind);
        if let (Some(token), Some(actor)) = (actor, &settings.actor) {
            form.add_secret("actor_token", token);
            form.add("actor_token_type", &actor.kind);
        }
        if let Some(kind) = &settings.requested {
            form.add("requested_token_type", kind);
        }
    }

    /// What the token is to be good for.
    pub(in crate::tokens::issuer) fn say_what_for(&self, form: &mut Form, scopes: &ScopeSet) {
        if !scopes.is_empty() {
            form.add("scope", &scopes.to_string());
        }
        if let Some(resource) = &self.settings.resource {
            form.add("resource", resource);
        }
        if let Some(audience) = &self.settings.audience {
            form.add("audience", audience);
        }
    }

    /// An authenticated POST to one of the issuer's endpoints.
    pub(in crate::tokens::issuer) async fn call<'a>(
        &self,
        mut form: Form,
        url: &'a Address,
        metadata: &Metadata,
    ) -> Result<IssuerRequest<'a>, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let jti = Jti::from_random(random()?);
        let occasion = self.occasion(&jti, metadata);
        let now = self.issuer.clock.wall().seconds();
        let issuer = &self.issuer.settings.url;
        let platform = self.auth.platform_token(issuer, now).await;
        let platform = platform.map_err(|why| self.unfit(why))?;
        self.auth
            .apply(&mut form, &mut headers, &occasion, platform.as_ref())
            .map_err(|error| match error {
                AuthError::Certificate(_) | AuthError::Key | AuthError::Value => {
                    Code::ClientMisconfigured
                }
                AuthError::Signature => Code::Internal,
            })?;
        Ok(IssuerRequest {
            method: Method::POST,
            url: url.url(),
            headers,
            form: Some(form.finish()),
            certificate: self.identity.as_ref().map(Identity::current),
        })
    }

    /// Time, freshness and addressee of one assertion.
    pub(super) fn occasion<'a>(&'a self, jti: &'a Jti, metadata: &'a Metadata) -> Occasion<'a> {
        Occasion {
            now: self.issuer.seconds(),
            jti: jti.as_str(),
            issuer: &self.issuer.settings.url,
            token_endpoint: metadata.token_endpoint.as_str(),
            audience: self.issuer.settings.assertion_audience,
            algorithms: metadata.assertion_algorithms.as_deref(),
        }
    }
}
