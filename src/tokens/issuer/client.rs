//! One service's client at an issuer: it asks the token endpoint and takes what fits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use http::{HeaderMap, HeaderValue, Method, header};

use super::Issuer;
use super::address::Address;
use super::answer::{self, Bound, Issued, Objection, Wanted};
use super::auth::{AuthError, Authenticator, Occasion, grant_assertion};
use super::form::Form;
use super::login::Answered;
use super::metadata::Metadata;
use super::workload::{self, Unfit};
use crate::credential::Certificate;
use crate::proof::{self, HtuProfile, Jti, Nonce, ProofClaims, ProofKey, Signer};
use crate::tokens::failure::Failure;
use crate::tokens::identity::{self, Identity};
use crate::tokens::journal::{Journal, Note};
use crate::tokens::lineage::{Lineages, Print, Turn};
use crate::tokens::settings::{AssertionSource, ClientAuth, Grant, OauthSettings, Presented};
use crate::upstream::{IssuerReply, IssuerRequest};
use crate::vocab::{AgentName, Binding, Code, GrantId, ScopeSet, Secret, ServiceName};

/// A refused token is handed back, but nobody waits long for that.
const REVOCATION_LIMIT: Duration = Duration::from_secs(3);
/// RFC 7523 §2.1.
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// A service's name and credential at its issuer, and one key for each of its agents.
pub(in crate::tokens) struct Client {
    service: ServiceName,
    settings: OauthSettings,
    issuer: Arc<Issuer>,
    auth: Authenticator,
    /// What it shows in handshakes.
    identity: Option<Identity>,
    /// A key belongs to one grant, so that a thumbprint neither links agents nor services, and lives as long as it.
    keys: Mutex<HashMap<AgentName, Arc<ProofKey>>>,
    /// Codes that logins brought and that no token request has used, one an agent.
    answered: Mutex<HashMap<AgentName, Answered>>,
    /// Refresh tokens, of this client and all others.
    lineages: Arc<Lineages>,
    /// What a refresh token of this client is for.
    print: Print,
}

/// What a lease is made of.
pub(in crate::tokens) struct Token {
    pub(in crate::tokens) access: Secret<String>,
    pub(in crate::tokens) binding: Binding,
    pub(in crate::tokens) scopes: ScopeSet,
    /// The key that the token is bound to.
    pub(in crate::tokens) key: Option<Arc<ProofKey>>,
    /// The certificate that it is bound to.
    pub(in crate::tokens) certificate: Option<Arc<Certificate>>,
}

/// A token and its life.
pub(in crate::tokens) struct Obtained {
    pub(in crate::tokens) token: Token,
    pub(in crate::tokens) life: Option<Duration>,
    /// Longest use, whatever the issuer says.
    pub(in crate::tokens) cap: Duration,
}

/// What one token request is about.
struct Errand<'a> {
    agent: &'a AgentName,
    scopes: &'a ScopeSet,
    means: &'a Means,
    metadata: &'a Metadata,
    key: Option<&'a Arc<ProofKey>>,
    certificate: Option<&'a Arc<Certificate>>,
    journal: &'a dyn Journal,
}

/// What entitles us to a token.
enum Means {
    /// Being the client (RFC 6749 §4.4).
    Ourselves,
    /// A code (RFC 6749 §4.1.3).
    Code(Answered),
    /// The refresh token of a login (RFC 6749 §6).
    Refresh(Turn),
    /// Somebody's assertion (RFC 7523 §2.1).
    Assertion(Secret<String>),
    /// A key that signs one, anew each time that the request is sent: an issuer keeps their `jti` (RFC 7523 §3).
    Key(Secret<Vec<u8>>),
    /// Tokens, with their types (RFC 8693 §2.1).
    Tokens {
        subject: Secret<String>,
        actor: Option<Secret<String>>,
    },
}

impl Client {
    /// A client whose credential is readable. Nothing is sent.
    pub(in crate::tokens) fn new(
        service: ServiceName,
        settings: OauthSettings,
        issuer: Arc<Issuer>,
    ) -> Result<Self, AuthError> {
        let auth = Authenticator::new(&settings.client_id, &settings.client_auth)?;
        let print = settings.print();
        let identity = match &settings.client_auth {
            ClientAuth::Mtls(files) => {
                let identity = Identity::new(files.clone(), issuer.clock.clone());
                Some(identity.map_err(AuthError::Certificate)?)
            }
            _ => None,
        };
        Ok(Self {
            service,
            settings,
            issuer,
            auth,
            identity,
            keys: Mutex::new(HashMap::new()),
            answered: Mutex::new(HashMap::new()),
            lineages: Arc::default(),
            print,
        })
    }

    /// The same client, with the refresh tokens that the process has.
    pub(in crate::tokens) fn with_lineages(self, lineages: Arc<Lineages>) -> Self {
        Self { lineages, ..self }
    }

    /// Whether a login is still good, as far as we know.
    pub(in crate::tokens) fn is_logged_in(&self, agent: &AgentName) -> bool {
        self.lineages.has(&self.grant(agent), &self.print)
    }

    fn grant(&self, agent: &AgentName) -> GrantId {
        GrantId {
            service: self.service.clone(),
            agent: agent.clone(),
        }
    }

    /// How it is configured.
    pub(in crate::tokens) fn settings(&self) -> &OauthSettings {
        &self.settings
    }

    /// Its issuer.
    pub(in crate::tokens) fn issuer(&self) -> &Arc<Issuer> {
        &self.issuer
    }

    /// What it shows in handshakes.
    pub(in crate::tokens) fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
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
            Grant::ClientCredentials | Grant::JwtBearer(_) | Grant::TokenExchange(_) => of_rule,
        }
    }

    /// Gets one token for one agent.
    pub(in crate::tokens) async fn obtain(
        &self,
        agent: &AgentName,
        scopes: &ScopeSet,
        journal: &dyn Journal,
    ) -> Result<Obtained, Failure> {
        self.check_login(agent)?;
        let certificate = self.fresh_certificate().await?;
        let _turn = self
            .issuer
            .gate
            .acquire()
            .await
            .map_err(|_| Code::Internal)?;
        let metadata = self.metadata(journal).await?;
        let proves = self.proves();
        if proves && !metadata.takes_proofs() {
            return Err(Failure {
                retry_after: Some(self.issuer.doubt().await),
                ..Code::UnsupportedDpopAlg.into()
            });
        }
        // What can be used once is taken last, when nothing else is missing.
        let means = self.means(agent).await?;
        let key = match &means {
            // The token goes on with the key that it began with.
            Means::Refresh(turn) => turn.key().cloned(),
            _ if proves => Some(self.key(agent)?),
            _ => None,
        };
        let errand = Errand {
            agent,
            scopes,
            means: &means,
            metadata: &metadata,
            key: key.as_ref(),
            certificate: certificate.as_ref(),
            journal,
        };
        if let Means::Refresh(turn) = &means {
            turn.announce(journal).await?;
        }
        let reply = self.ask(&errand).await?;
        // Before anything of the answer is used, or even judged: the refresh token in it may be the only one.
        self.settle(&errand, &reply).await?;
        if reply.status != 200 {
            // Another endpoint, an alias, another algorithm: what we were refused for may stand there by now.
            if matches!(reply.status, 300..=407 | 409..=428) {
                self.issuer.doubt().await;
            }
            return Err(answer::failure(&reply, self.issuer.clock.wall()));
        }
        let issued = Issued::read(&reply)?;
        match issued.weigh(&self.wanted(&errand)) {
            Ok(scopes) => {
                self.tell_whose(&errand, &issued);
                self.obtained(issued, scopes, key, certificate)
            }
            Err(objection) => {
                self.object(&errand, &objection);
                self.hand_back(&issued.access, &metadata).await;
                Err(objection.code().into())
            }
        }
    }

    /// Whether there is anything to ask for a token with, before the issuer is troubled.
    fn check_login(&self, agent: &AgentName) -> Result<(), Failure> {
        let all = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let by_login = matches!(self.settings.grant, Grant::AuthorizationCode { .. });
        if by_login && !all.contains_key(agent) && !self.is_logged_in(agent) {
            return Err(Code::ReauthorizationRequired.into());
        }
        Ok(())
    }

    /// Keeps the refresh token of an answer, or notes what the answer means for the one that was sent.
    async fn settle(&self, errand: &Errand<'_>, reply: &IssuerReply) -> Result<(), Failure> {
        // An answer that cannot be read leaves the refresh token in doubt; the next attempt sends it once more.
        let brought = (reply.status == 200).then(|| answer::refresh_token(reply));
        match (errand.means, brought) {
            (Means::Ourselves | Means::Assertion(_) | Means::Key(_) | Means::Tokens { .. }, _)
            | (Means::Code(_), None)
            | (_, Some(Err(_))) => Ok(()),
            (Means::Code(_), Some(Ok(Some(refresh)))) => {
                let (grant, key) = (self.grant(errand.agent), errand.key.cloned());
                self.lineages.begin(&grant, &self.print, refresh, key).await
            }
            (Means::Code(_), Some(Ok(None))) => {
                self.lineages.forget(&self.grant(errand.agent)).await
            }
            (Means::Refresh(turn), Some(Ok(next))) => turn.renewed(next).await,
            (Means::Refresh(turn), None) => {
                match answer::failure(reply, self.issuer.clock.wall()) {
                    Failure {
                        oauth_error: Some("invalid_grant"),
                        ..
                    } => turn.refused(errand.journal).await,
                    // A server in trouble may have rotated all the same.
                    _ if reply.status >= 500 => {}
                    _ => turn.unused(),
                }
                Ok(())
            }
        }
    }

    /// What a token must be that this client can use.
    fn wanted<'a>(&self, errand: &Errand<'a>) -> Wanted<'a> {
        let bound = self.settings.binding == Binding::Mtls;
        let certificate = errand.certificate.filter(|_| bound);
        Wanted {
            binding: self.settings.binding,
            jkt: errand.key.map(|key| key.thumbprint()),
            scopes: errand.scopes,
            certificate: certificate.map(|certificate| Bound {
                thumbprint: certificate.thumbprint(),
                promised: errand.metadata.binds_certificates,
            }),
            exchanged: matches!(errand.means, Means::Tokens { .. }),
        }
    }

    /// A token that was weighed and found good. One that is bound to a certificate ends with it.
    fn obtained(
        &self,
        issued: Issued,
        scopes: ScopeSet,
        key: Option<Arc<ProofKey>>,
        certificate: Option<Arc<Certificate>>,
    ) -> Result<Obtained, Failure> {
        let binding = self.settings.binding;
        let certificate = certificate.filter(|_| binding == Binding::Mtls);
        let mut cap = self.settings.max_token_age;
        if let Some(certificate) = &certificate {
            let left = identity::remaining(certificate, self.issuer.clock.wall());
            cap = cap.min(left.ok_or(Code::IdentityUnavailable)?);
        }
        Ok(Obtained {
            token: Token {
                access: issued.access,
                binding,
                scopes,
                key: key.filter(|_| binding == Binding::Dpop),
                certificate,
            },
            life: issued.life,
            cap,
        })
    }

    /// Whether its token requests carry proofs (RFC 9449 §5).
    pub(super) fn proves(&self) -> bool {
        match self.settings.binding {
            Binding::Dpop | Binding::RefreshOnly => true,
            Binding::Bearer | Binding::Mtls | Binding::None | Binding::Static => false,
        }
    }

    /// The certificate to show, as the files have it now. One whose time is over is not shown.
    async fn fresh_certificate(&self) -> Result<Option<Arc<Certificate>>, Failure> {
        let Some(identity) = &self.identity else {
            return Ok(None);
        };
        identity.refresh().await;
        let current = identity.current();
        if identity::remaining(&current, self.issuer.clock.wall()).is_none() {
            tracing::warn!(service = %self.service, "the client certificate has expired and was not replaced");
            return Err(Code::IdentityUnavailable.into());
        }
        Ok(Some(current))
    }

    /// The issuer's metadata, as this client sees it.
    pub(super) async fn metadata(&self, journal: &dyn Journal) -> Result<Arc<Metadata>, Failure> {
        let metadata = self.issuer.metadata(&self.service, journal).await?;
        Ok(match self.identity {
            Some(_) => Arc::new(metadata.with_certificate()),
            None => metadata,
        })
    }

    /// What entitles us to the next token.
    async fn means(&self, agent: &AgentName) -> Result<Means, Failure> {
        Ok(match &self.settings.grant {
            Grant::ClientCredentials => Means::Ourselves,
            // A code is good once (RFC 6749 §4.1.2), so it is gone whatever becomes of the request.
            Grant::AuthorizationCode { .. } => {
                let answered = self
                    .answered
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(agent);
                match answered {
                    Some(answered) => Means::Code(answered),
                    None => Means::Refresh(self.lineages.turn(&self.grant(agent), &self.print)?),
                }
            }
            Grant::JwtBearer(AssertionSource::Found(supply)) => {
                let assertion = supply.read_text().await.ok_or(Unfit::Missing);
                Means::Assertion(self.unexpired(assertion)?)
            }
            Grant::JwtBearer(AssertionSource::Signed { key, .. }) => {
                let key = key.read().await;
                Means::Key(key.ok_or_else(|| self.unfit(Unfit::Missing))?)
            }
            Grant::TokenExchange(exchange) => Means::Tokens {
                subject: self.shown(&exchange.subject).await?,
                actor: match &exchange.actor {
                    Some(actor) => Some(self.shown(actor).await?),
                    None => None,
                },
            },
        })
    }

    async fn shown(&self, presented: &Presented) -> Result<Secret<String>, Failure> {
        let token = presented.token.read_text().await.ok_or(Unfit::Missing);
        self.unexpired(token)
    }

    /// A token that is known to be dead is not shown: the issuer's "no" would look like a lost grant.
    fn unexpired(&self, token: Result<Secret<String>, Unfit>) -> Result<Secret<String>, Failure> {
        let now = self.issuer.clock.wall().seconds();
        let token = token.and_then(|token| match workload::expired(token.expose(), now) {
            true => Err(Unfit::Expired),
            false => Ok(token),
        });
        token.map_err(|why| self.unfit(why))
    }

    fn unfit(&self, why: Unfit) -> Failure {
        tracing::warn!(service = %self.service, %why, "nothing is asked of the issuer");
        Code::IdentityUnavailable.into()
    }

    /// For whom an exchanged token speaks, and who acts for them: as the issuer says where that can be read,
    /// else as the tokens say that we showed.
    fn tell_whose(&self, errand: &Errand<'_>, issued: &Issued) {
        let Means::Tokens { subject, actor } = errand.means else {
            return;
        };
        let mut chain = workload::delegation(issued.access.expose());
        if chain.is_empty() {
            chain = workload::delegation(subject.expose());
            let actors = actor
                .iter()
                .map(|actor| workload::delegation(actor.expose()));
            chain.extend(actors.flatten());
        }
        errand.journal.note(&Note::Exchanged {
            grant: &GrantId {
                service: self.service.clone(),
                agent: errand.agent.clone(),
            },
            chain: &chain,
        });
    }

    /// Sends the token request, once more with the nonce that the issuer asks for (RFC 9449 §8), once more with its
    /// clock; every time with a new assertion and a new proof. Never a third reason, never the same one twice.
    async fn ask(&self, errand: &Errand<'_>) -> Result<IssuerReply, Failure> {
        let (mut nonce_retry, mut clock_retry) = (true, true);
        loop {
            let sent = self.current_nonce(errand);
            let call = self.token_request(errand, sent.as_ref()).await?;
            let reply = self.issuer.transport.send(call).await.inspect_err(|error| {
                tracing::warn!(service = %self.service, %error, "no answer of the token endpoint");
            })?;
            let fresh = answer::nonce(&reply.headers);
            if let (Some(nonce), Some(key)) = (&fresh, errand.key) {
                let origin = errand.metadata.token_endpoint.authority().origin();
                let (nonces, now) = (&self.issuer.nonces, self.issuer.clock.now());
                nonces.note(&origin, key.thumbprint(), nonce.clone(), now);
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

    async fn token_request<'a>(
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
    fn ticket(&self, errand: &Errand<'_>) -> Result<Form, Failure> {
        let mut form = Form::new();
        match errand.means {
            Means::Ourselves => form.add("grant_type", "client_credentials"),
            Means::Code(answered) => {
                form.add("grant_type", "authorization_code");
                form.add_secret("code", &answered.code);
                form.add("redirect_uri", &answered.redirect_uri);
                form.add_secret("code_verifier", &answered.verifier);
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
            // RFC 6749 §4.1.3 and §6: the scopes are those of the login.
            Means::Code(_) | Means::Refresh(_) => {
                self.say_what_for(&mut form, &ScopeSet::default())
            }
            _ => self.say_what_for(&mut form, errand.scopes),
        }
        Ok(form)
    }

    /// An assertion of our own for this one sending of a request.
    fn sign(&self, key: &Secret<Vec<u8>>, metadata: &Metadata) -> Result<Secret<String>, Failure> {
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
        grant_assertion(key, kid.as_deref(), (issuer, subject), &occasion)
            .map_err(|_| Code::ClientMisconfigured.into())
    }

    /// RFC 8693 §2.1.
    fn exchange(&self, form: &mut Form, subject: &Secret<String>, actor: Option<&Secret<String>>) {
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
    pub(super) async fn call<'a>(
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
    fn occasion<'a>(&'a self, jti: &'a Jti, metadata: &'a Metadata) -> Occasion<'a> {
        Occasion {
            now: self.issuer.seconds(),
            jti: jti.as_str(),
            issuer: &self.issuer.settings.url,
            token_endpoint: metadata.token_endpoint.as_str(),
            audience: self.issuer.settings.assertion_audience,
            algorithms: metadata.assertion_algorithms.as_deref(),
        }
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
        let Ok(call) = self.call(form, url, metadata).await else {
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
        // A login may replace another one: the grant keeps its key.
        if let Some(key) = self.lineages.key(&self.grant(agent), &self.print) {
            keys.insert(agent.clone(), Arc::clone(&key));
            return Ok(key);
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

#[cfg(test)]
mod tests;
