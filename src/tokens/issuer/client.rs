//! One service's client at an issuer: it asks the token endpoint and takes what fits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use http::{HeaderMap, HeaderValue, Method, header};

use super::Issuer;
use super::address::Address;
use super::answer::{self, Issued, Objection, Wanted};
use super::auth::{AuthError, Authenticator, Occasion};
use super::form::Form;
use super::login::Answered;
use super::metadata::Metadata;
use crate::proof::{self, HtuProfile, Jti, Nonce, ProofClaims, ProofKey, Signer};
use crate::tokens::failure::Failure;
use crate::tokens::journal::{Journal, Note};
use crate::tokens::settings::{Grant, OauthSettings};
use crate::upstream::{IssuerReply, IssuerRequest};
use crate::vocab::{AgentName, Binding, Code, GrantId, ScopeSet, Secret, ServiceName};

/// A refused token is handed back, but nobody waits long for that.
const REVOCATION_LIMIT: Duration = Duration::from_secs(3);

/// A service's name and credential at its issuer, and one key for each of its agents.
pub(in crate::tokens) struct Client {
    service: ServiceName,
    settings: OauthSettings,
    issuer: Arc<Issuer>,
    auth: Authenticator,
    /// A key belongs to one grant, so that a thumbprint neither links agents nor services, and lives as long as it.
    keys: Mutex<HashMap<AgentName, Arc<ProofKey>>>,
    /// Codes that logins brought and that no token request has used, one an agent.
    answered: Mutex<HashMap<AgentName, Answered>>,
}

/// What a lease is made of.
pub(in crate::tokens) struct Token {
    pub(in crate::tokens) access: Secret<String>,
    pub(in crate::tokens) binding: Binding,
    pub(in crate::tokens) scopes: ScopeSet,
    /// The key that the token is bound to.
    pub(in crate::tokens) key: Option<Arc<ProofKey>>,
}

/// A token and its life.
pub(in crate::tokens) struct Obtained {
    pub(in crate::tokens) token: Token,
    pub(in crate::tokens) life: Option<Duration>,
}

/// What one token request is about.
struct Errand<'a> {
    agent: &'a AgentName,
    scopes: &'a ScopeSet,
    answered: Option<&'a Answered>,
    metadata: &'a Metadata,
    key: Option<&'a Arc<ProofKey>>,
    journal: &'a dyn Journal,
}

impl Client {
    /// A client whose credential is readable. Nothing is sent.
    pub(in crate::tokens) fn new(
        service: ServiceName,
        settings: OauthSettings,
        issuer: Arc<Issuer>,
    ) -> Result<Self, AuthError> {
        let auth = Authenticator::new(&settings.client_id, &settings.client_auth)?;
        Ok(Self {
            service,
            settings,
            issuer,
            auth,
            keys: Mutex::new(HashMap::new()),
            answered: Mutex::new(HashMap::new()),
        })
    }

    /// How it is configured.
    pub(in crate::tokens) fn settings(&self) -> &OauthSettings {
        &self.settings
    }

    /// Its issuer.
    pub(in crate::tokens) fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    /// Takes what a login brought. The next token request uses it up.
    pub(in crate::tokens) fn take_answer(&self, agent: &AgentName, answered: Answered) {
        let mut all = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(agent.clone(), answered);
    }

    /// What one token is asked for with, where a rule wants these scopes: a login's token serves all rules.
    pub(in crate::tokens) fn scopes<'a>(&'a self, of_rule: &'a ScopeSet) -> &'a ScopeSet {
        match &self.settings.grant {
            Grant::AuthorizationCode { scopes, .. } => scopes,
            Grant::ClientCredentials => of_rule,
        }
    }

    /// Gets one token for one agent.
    pub(in crate::tokens) async fn obtain(
        &self,
        agent: &AgentName,
        scopes: &ScopeSet,
        journal: &dyn Journal,
    ) -> Result<Obtained, Failure> {
        let answered = match &self.settings.grant {
            Grant::ClientCredentials => None,
            // A code is good once (RFC 6749 §4.1.2), so it is gone whatever becomes of the request.
            Grant::AuthorizationCode { .. } => {
                let mut all = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
                Some(all.remove(agent).ok_or(Code::ReauthorizationRequired)?)
            }
        };
        let _turn = self
            .issuer
            .gate
            .acquire()
            .await
            .map_err(|_| Code::Internal)?;
        let metadata = self.issuer.metadata(&self.service, journal).await?;
        let proves = self.settings.binding != Binding::Bearer;
        if proves && !metadata.takes_proofs() {
            return Err(Code::UnsupportedDpopAlg.into());
        }
        let key = if proves { Some(self.key(agent)?) } else { None };
        let errand = Errand {
            agent,
            scopes,
            answered: answered.as_ref(),
            metadata: &metadata,
            key: key.as_ref(),
            journal,
        };
        let reply = self.ask(&errand).await?;
        if reply.status != 200 {
            return Err(answer::failure(&reply, self.issuer.clock.wall()));
        }
        let issued = Issued::read(&reply)?;
        let wanted = Wanted {
            binding: self.settings.binding,
            jkt: key.as_ref().map(|key| key.thumbprint()),
            scopes,
        };
        match issued.weigh(&wanted) {
            Ok(scopes) => Ok(Obtained {
                token: Token {
                    access: issued.access,
                    binding: self.settings.binding,
                    scopes,
                    key: key.filter(|_| self.settings.binding == Binding::Dpop),
                },
                life: issued.life,
            }),
            Err(objection) => {
                self.object(&errand, &objection);
                self.hand_back(&issued.access, &metadata).await;
                Err(objection.code().into())
            }
        }
    }

    /// Sends the token request, once more with the nonce that the issuer asks for (RFC 9449 §8), once more with its
    /// clock; every time with a new assertion and a new proof. Never a third reason, never the same one twice.
    async fn ask(&self, errand: &Errand<'_>) -> Result<IssuerReply, Failure> {
        let (mut nonce_retry, mut clock_retry) = (true, true);
        loop {
            let sent = self.current_nonce(errand);
            let call = self.token_request(errand, sent.as_ref())?;
            let reply = self.issuer.transport.send(call).await.inspect_err(|error| {
                tracing::warn!(service = %self.service, %error, "no answer of the token endpoint");
            })?;
            let fresh = answer::nonce(&reply.headers);
            if let (Some(nonce), Some(key)) = (&fresh, errand.key) {
                let origin = errand.metadata.token_endpoint.authority().origin();
                let nonces = &self.issuer.nonces;
                nonces.note(&origin, key.thumbprint(), nonce.clone());
            }
            let refused = errand.key.is_some() && matches!(reply.status, 400 | 401);
            match answer::oauth_error(&reply).filter(|_| refused) {
                Some(("use_dpop_nonce", _)) => {
                    errand.journal.note(&Note::NonceChallenge {
                        service: &self.service,
                    });
                    // Without a nonce, or with the one that was just refused, another try would end the same way.
                    if !nonce_retry || fresh.is_none() || fresh == sent {
                        return Err(Failure::because(Code::AsUnavailable, "use_dpop_nonce"));
                    }
                    nonce_retry = false;
                }
                Some(("invalid_dpop_proof", _))
                    if clock_retry
                        && self
                            .issuer
                            .learn_offset(&reply, &self.service, errand.journal) =>
                {
                    clock_retry = false;
                }
                _ => return Ok(reply),
            }
        }
    }

    fn current_nonce(&self, errand: &Errand<'_>) -> Option<Nonce> {
        let origin = errand.metadata.token_endpoint.authority().origin();
        self.issuer
            .nonces
            .current(&origin, errand.key?.thumbprint())
    }

    fn token_request<'a>(
        &self,
        errand: &Errand<'a>,
        nonce: Option<&Nonce>,
    ) -> Result<IssuerRequest<'a>, Failure> {
        let mut form = Form::new();
        match errand.answered {
            None => {
                form.add("grant_type", "client_credentials");
                self.say_what_for(&mut form, errand.scopes);
            }
            Some(answered) => {
                form.add("grant_type", "authorization_code");
                form.add_secret("code", &answered.code);
                form.add("redirect_uri", &answered.redirect_uri);
                form.add_secret("code_verifier", &answered.verifier);
                // RFC 6749 §4.1.3: the scopes are the code's.
                self.say_what_for(&mut form, &ScopeSet::default());
            }
        }
        for (name, value) in &self.settings.parameters {
            form.add(name, value);
        }
        let url = &errand.metadata.token_endpoint;
        let mut call = self.call(form, url, errand.metadata)?;
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

    /// What the token is to be good for.
    pub(super) fn say_what_for(&self, form: &mut Form, scopes: &ScopeSet) {
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
    pub(super) fn call<'a>(
        &self,
        mut form: Form,
        url: &'a Address,
        metadata: &Metadata,
    ) -> Result<IssuerRequest<'a>, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let jti = Jti::from_random(random()?);
        let occasion = Occasion {
            now: self.issuer.seconds(),
            jti: jti.as_str(),
            issuer: &self.issuer.settings.url,
            token_endpoint: metadata.token_endpoint.as_str(),
            audience: self.issuer.settings.assertion_audience,
            algorithms: metadata.assertion_algorithms.as_deref(),
        };
        self.auth
            .apply(&mut form, &mut headers, &occasion)
            .map_err(|error| match error {
                AuthError::Key | AuthError::Value => Code::ClientMisconfigured,
                AuthError::Signature => Code::Internal,
            })?;
        Ok(IssuerRequest {
            method: Method::POST,
            url: url.url(),
            headers,
            form: Some(form.finish()),
        })
    }

    fn object(&self, errand: &Errand<'_>, objection: &Objection) {
        let grant = GrantId {
            service: self.service.clone(),
            agent: errand.agent.clone(),
        };
        let grant = &grant;
        match objection {
            Objection::Downgrade => errand.journal.note(&Note::DowngradeRefused { grant }),
            Objection::Mismatch => errand.journal.note(&Note::BindingMismatch { grant }),
            Objection::Scope(granted) => errand.journal.note(&Note::ScopeChanged {
                grant,
                requested: errand.scopes,
                granted,
            }),
            Objection::Unexpected => {}
        }
    }

    /// Revokes a token that nobody will use (RFC 7009). A failure changes nothing: the token is dropped all the same.
    async fn hand_back(&self, token: &Secret<String>, metadata: &Metadata) {
        let Some(url) = &metadata.revocation_endpoint else {
            return;
        };
        let mut form = Form::new();
        form.add_secret("token", token);
        form.add("token_type_hint", "access_token");
        let Ok(call) = self.call(form, url, metadata) else {
            return;
        };
        let sent = tokio::time::timeout(REVOCATION_LIMIT, self.issuer.transport.send(call)).await;
        if !matches!(&sent, Ok(Ok(reply)) if reply.status == 200) {
            tracing::warn!(service = %self.service, "a refused token could not be handed back");
        }
    }

    /// The grant's key, made when it is first needed.
    pub(super) fn key(&self, agent: &AgentName) -> Result<Arc<ProofKey>, Failure> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.get(agent) {
            return Ok(Arc::clone(key));
        }
        let key = Arc::new(ProofKey::generate().map_err(|_| Code::Internal)?);
        keys.insert(agent.clone(), Arc::clone(&key));
        Ok(key)
    }
}

fn random() -> Result<[u8; 16], Failure> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| Code::Internal)?;
    Ok(bytes)
}
