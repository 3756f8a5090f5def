//! One service's client at an issuer: it asks the token endpoint and takes what fits.

mod grants;
mod introspection;
mod request;
mod revocation;

pub(in crate::tokens) use revocation::Tried;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::sync::{OwnedMutexGuard, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::Issuer;
use super::answer::{self, Bound, Issued, Objection, Wanted};
use super::auth::{AuthError, Authenticator};
use super::login::Answered;
use super::metadata::Metadata;
use super::workload::{self, Unfit};
use crate::credential::Certificate;
use crate::proof::{ProofKey, Signer};
use crate::tokens::failure::Failure;
use crate::tokens::identity::{self, Identity};
use crate::tokens::journal::{Journal, Note};
use crate::tokens::lineage::{Lineages, Print, Renewal, Turn};
use crate::tokens::probe::Probe;
use crate::tokens::settings::{AssertionSource, ClientAuth, Grant, OauthSettings, Presented};
use crate::upstream::IssuerReply;
use crate::vocab::{AgentName, Binding, Code, GrantId, ScopeSet, Secret, ServiceName};

/// Longest time until a token request is sent: for the turn, the disk, the metadata.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// No request is sent again when so much time has passed since the first one; each takes ten seconds at most.
const AGAIN_LIMIT: Duration = Duration::from_secs(10);
/// A refused token is handed back, but nobody waits long for that.
const REVOCATION_LIMIT: Duration = Duration::from_secs(3);
/// A refresh that ends the token before it was seen so often: it is not a coincidence.
const WHOLE: u8 = 2;
/// Most tries to revoke one token, where the issuer asks for patience (RFC 7009 §2.2.1).
const REVOCATION_TRIES: usize = 3;
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
    /// Held while a code is used, one an agent.
    desks: Mutex<HashMap<AgentName, Arc<tokio::sync::Mutex<()>>>>,
    /// Agents whose refreshes bring one token for everything: how often one was seen to end the token before it.
    /// [`WHOLE`]: so it is.
    whole: RwLock<HashMap<AgentName, u8>>,
    /// Whose logins have ended well in this process. Such a grant is its agent's own, also where it brought no refresh
    /// token.
    owners: RwLock<HashSet<AgentName>>,
    /// Refresh tokens, of this client and all others.
    lineages: Arc<Lineages>,
    /// What a refresh token of this client is for.
    print: Print,
    /// Held while a configured refresh token is looked for or written down.
    planting: tokio::sync::Mutex<()>,
    /// How often the operator has ended grants.
    endings: Mutex<revocation::Endings>,
    /// Asks the API after a token.
    probe: Option<Probe>,
}

/// A token that nobody will use any more.
pub(in crate::tokens) enum Spent {
    /// With the number of its lease, where it had one.
    Access(Secret<String>, Option<u64>),
    Refresh(Secret<String>),
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
    /// The issuer takes it for longer than we use it.
    pub(in crate::tokens) outlives: bool,
}

/// A token and its life.
pub(in crate::tokens) struct Obtained {
    pub(in crate::tokens) token: Token,
    pub(in crate::tokens) life: Option<Duration>,
    /// Longest use, whatever the issuer says.
    pub(in crate::tokens) cap: Duration,
    /// It is a login's first one, and so for everything that the login is for.
    pub(in crate::tokens) by_code: bool,
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

impl Errand<'_> {
    /// The refresh token is as good as it was.
    fn unused(&self) {
        if let Means::Refresh(turn) = self.means {
            turn.unused();
        }
    }
}

/// Everything that a token request needs, before the first byte of it is sent.
struct Ready<'a> {
    /// The code that is used belongs to us alone.
    _desk: Option<OwnedMutexGuard<()>>,
    /// Our place among the issuer's requests.
    _place: SemaphorePermit<'a>,
    certificate: Option<Arc<Certificate>>,
    metadata: Arc<Metadata>,
    means: Means,
    key: Option<Arc<ProofKey>>,
}

/// What entitles us to a token.
enum Means {
    /// Being the client (RFC 6749 §4.4).
    Ourselves,
    /// A code (RFC 6749 §4.1.3).
    Code(Answered),
    /// The refresh token of a login (RFC 6749 §6).
    Refresh(Turn),
    /// The code of a device login (RFC 8628 §3.4). Its answer becomes [`Means::Code`].
    Device(Secret<String>),
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
        let auth = if settings.fapi {
            auth.held_to_fapi()?
        } else {
            auth
        };
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
            desks: Mutex::default(),
            whole: RwLock::default(),
            owners: RwLock::default(),
            lineages: Arc::default(),
            print,
            planting: tokio::sync::Mutex::default(),
            endings: Mutex::default(),
            probe: None,
        })
    }

    /// The same client, with the refresh tokens that the process has.
    pub(in crate::tokens) fn with_lineages(self, lineages: Arc<Lineages>) -> Self {
        Self { lineages, ..self }
    }

    /// The same, with a way to ask the API after a token.
    pub(in crate::tokens) fn with_probe(self, probe: Option<Probe>) -> Self {
        Self { probe, ..self }
    }

    /// The way to ask the API after a token.
    pub(in crate::tokens) fn probe(&self) -> Option<&Probe> {
        self.probe.as_ref()
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

    /// Gets one token for one agent.
    #[cfg(test)]
    pub(in crate::tokens) async fn obtain(
        &self,
        agent: &AgentName,
        scopes: &ScopeSet,
        journal: &dyn Journal,
    ) -> Result<Obtained, Failure> {
        let limits = (READY_LIMIT, &CancellationToken::new());
        self.obtain_within(limits, agent, scopes, journal).await
    }

    /// Gets one token for one agent: sent within `patience` (at most [`READY_LIMIT`]) and not after `stop`, answered at
    /// most twenty seconds later. Once something that can be used once is on its way, nothing but the end of the process
    /// cuts this short.
    pub(in crate::tokens) async fn obtain_within(
        &self,
        (patience, stop): (Duration, &CancellationToken),
        agent: &AgentName,
        scopes: &ScopeSet,
        journal: &dyn Journal,
    ) -> Result<Obtained, Failure> {
        let began = self.unstopped(agent)?;
        let ready = self.ready_within((patience, stop), agent, journal).await?;
        let errand = Errand {
            agent,
            scopes,
            means: &ready.means,
            metadata: &ready.metadata,
            key: ready.key.as_ref(),
            certificate: ready.certificate.as_ref(),
            journal,
        };
        let reply = self.reply_to(&errand).await?;
        // From here to the end of `settle` nothing is waited for before the lineage stands where a revocation finds it.
        self.still_wanted(&errand, began, &reply).await?;
        if let (Means::Code(_), 200) = (&ready.means, reply.status) {
            self.judge_login(&errand, &reply).await?;
        }
        // Before anything of the answer is used, or even judged: the refresh token in it may be the only one.
        let settled = self.settle(&errand, &reply).await;
        self.still_wanted(&errand, began, &reply).await?;
        let renewal = settled?;
        if reply.status != 200 {
            // Another endpoint, an alias, another algorithm: what we were refused for may stand there by now.
            if matches!(reply.status, 300..=407 | 409..=428) {
                self.issuer.doubt().await;
            }
            return Err(answer::failure(&reply, self.issuer.clock.wall()));
        }
        let issued = Issued::read(&reply)?;
        if let Some(Renewal::Kept { first }) = renewal {
            self.weigh_rotation(&errand, first, &issued).await?;
        }
        let wanted = self.wanted(&errand);
        match issued.weigh(&wanted) {
            Ok(scopes) => {
                if !wanted.agreed(&scopes) {
                    self.tell_scopes(&errand, &scopes, true);
                }
                self.tell_whose(&errand, &issued);
                let by_code = matches!(ready.means, Means::Code(_));
                if by_code {
                    let mut owners = self.owners.write().unwrap_or_else(PoisonError::into_inner);
                    owners.insert(agent.clone());
                }
                let Ready {
                    key, certificate, ..
                } = ready;
                let obtained = self.obtained(issued, scopes, key, certificate);
                obtained.map(|obtained| Obtained {
                    by_code,
                    ..obtained
                })
            }
            Err(objection) => {
                self.object(&errand, &objection);
                self.hand_back(&issued.access, &ready.metadata).await;
                Err(objection.code().into())
            }
        }
    }

    /// What is needed before anything is sent.
    async fn ready_within(
        &self,
        (patience, stop): (Duration, &CancellationToken),
        agent: &AgentName,
        journal: &dyn Journal,
    ) -> Result<Ready<'_>, Failure> {
        let ready = self.prepare(agent, journal);
        let ready = tokio::time::timeout(patience.min(READY_LIMIT), ready);
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Code::Draining.into()),
            ready = ready => ready.unwrap_or_else(|_| Err(Code::AsTimeout.into())),
        }
    }

    /// The issuer's answer; a device's login has it already.
    async fn reply_to(&self, errand: &Errand<'_>) -> Result<IssuerReply, Failure> {
        match errand.means {
            Means::Code(Answered::Device(reply)) => Ok(IssuerReply {
                status: reply.status,
                headers: reply.headers.clone(),
                body: reply.body.clone(),
            }),
            _ => self.ask(errand).await,
        }
    }

    /// A login that brought something else than was asked for changes nothing: what was there before goes on, and what
    /// it brought is handed back.
    async fn judge_login(&self, errand: &Errand<'_>, reply: &IssuerReply) -> Result<(), Failure> {
        let issued = Issued::read(reply)?;
        // Whoever asked: the login is for everything.
        let wanted = Wanted {
            scopes: self.settings.grant.whole().ok_or(Code::Internal)?,
            most: None,
            ..self.wanted(errand)
        };
        let Err(objection) = issued.weigh(&wanted) else {
            return Ok(());
        };
        self.object(errand, &objection);
        self.hand_back(&issued.access, errand.metadata).await;
        if let (Ok(Some(refresh)), Some(url)) = (
            answer::refresh_token(reply),
            &errand.metadata.revocation_endpoint,
        ) {
            let call = self.revocation(&refresh, "refresh_token", url, errand.metadata);
            let done = tokio::time::timeout(REVOCATION_LIMIT, call).await;
            if !matches!(done, Ok(Ok(()))) {
                tracing::warn!(service = %self.service, "a refused login could not be handed back");
            }
        }
        Err(objection.code().into())
    }

    /// Gathers what a token request needs. What can be used once is taken last, when nothing else is missing; only a
    /// turn is waited for first, so that who waits for one takes no place among the issuer's requests.
    async fn prepare<'a>(
        &'a self,
        agent: &AgentName,
        journal: &dyn Journal,
    ) -> Result<Ready<'a>, Failure> {
        self.plant(agent).await?;
        let (desk, turn) = if self.settings.grant.refreshes() {
            // A code that somebody is just using is waited for: what comes of it is the login.
            let desk = self.desk(agent).lock_owned().await;
            self.check_login(agent)?;
            if self.is_answered(agent) {
                (Some(desk), None)
            } else {
                drop(desk);
                let grant = self.grant(agent);
                (None, Some(self.lineages.turn(&grant, &self.print).await?))
            }
        } else {
            (None, None)
        };
        let certificate = self.fresh_certificate().await?;
        let place = self.issuer.gate.acquire().await;
        let place = place.map_err(|_| Code::Internal)?;
        let metadata = self.metadata(journal).await?;
        let proves = self.proves();
        if proves && !metadata.takes_proofs() {
            return Err(Failure {
                retry_after: Some(self.issuer.doubt().await),
                ..Code::UnsupportedDpopAlg.into()
            });
        }
        let means = self.means(agent, turn).await?;
        let key = match &means {
            // The token goes on with the key that it began with.
            Means::Refresh(turn) => turn.key().cloned(),
            _ if proves => Some(self.key(agent)?),
            _ => None,
        };
        if let Means::Refresh(turn) = &means {
            turn.announce(journal).await?;
        }
        Ok(Ready {
            _desk: desk,
            _place: place,
            certificate,
            metadata,
            means,
            key,
        })
    }

    /// Where one agent's codes are used, one after the other.
    fn desk(&self, agent: &AgentName) -> Arc<tokio::sync::Mutex<()>> {
        let mut desks = self.desks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(desks.entry(agent.clone()).or_default())
    }

    /// The issuer left us the refresh token that we had. That is told once, and refused where the configuration says so
    /// a stolen refresh token would work for as long as ours does, and nobody would notice.
    async fn weigh_rotation(
        &self,
        errand: &Errand<'_>,
        first: bool,
        issued: &Issued,
    ) -> Result<(), Failure> {
        if first {
            let grant = &self.grant(errand.agent);
            errand.journal.note(&Note::NotRotated { grant });
        }
        if !self.settings.require_rotation {
            return Ok(());
        }
        self.hand_back(&issued.access, errand.metadata).await;
        Err(Code::ClientMisconfigured.into())
    }

    /// Whether there is anything to ask for a token with, before the issuer is troubled.
    fn check_login(&self, agent: &AgentName) -> Result<(), Failure> {
        let by_login = self.settings.grant.by_login();
        if by_login && !self.is_answered(agent) && !self.is_logged_in(agent) {
            return Err(Code::ReauthorizationRequired.into());
        }
        Ok(())
    }

    /// Keeps the refresh token of an answer, or notes what the answer means for the one that was sent.
    async fn settle(
        &self,
        errand: &Errand<'_>,
        reply: &IssuerReply,
    ) -> Result<Option<Renewal>, Failure> {
        // An answer that cannot be read leaves the refresh token in doubt; the next attempt sends it once more.
        let brought = (reply.status == 200).then(|| answer::refresh_token(reply));
        match (errand.means, brought) {
            (
                Means::Ourselves
                | Means::Assertion(_)
                | Means::Device(_)
                | Means::Key(_)
                | Means::Tokens { .. },
                _,
            )
            | (Means::Code(_), None)
            | (_, Some(Err(_))) => Ok(None),
            (Means::Code(_), Some(Ok(Some(refresh)))) => {
                let (grant, key) = (self.grant(errand.agent), errand.key.cloned());
                let begun = self.lineages.begin(&grant, &self.print, refresh, key);
                begun.await.map(|()| None)
            }
            (Means::Code(_), Some(Ok(None))) => {
                let grant = self.grant(errand.agent);
                self.lineages.forget(&grant).await.map(|()| None)
            }
            (Means::Refresh(turn), Some(Ok(next))) => turn.renewed(next).await.map(Some),
            (Means::Refresh(turn), None) => {
                match answer::failure(reply, self.issuer.clock.wall()) {
                    Failure {
                        oauth_error: Some("invalid_grant"),
                        ..
                    } => {
                        if turn.refused(errand.journal).await {
                            self.own_no_more(errand.agent);
                        }
                    }
                    // A server in trouble may have rotated all the same.
                    _ if reply.status >= 500 => {}
                    _ => turn.unused(),
                }
                Ok(None)
            }
        }
    }

    /// Asks once whether the person has logged in on the other device (RFC 8628 §3.4).
    pub(super) async fn ask_device(
        &self,
        agent: &AgentName,
        code: &Secret<String>,
        journal: &dyn Journal,
    ) -> Result<IssuerReply, Failure> {
        let certificate = self.fresh_certificate().await?;
        let place = self.issuer.gate.acquire().await;
        let _place = place.map_err(|_| Code::Internal)?;
        let metadata = self.metadata(journal).await?;
        let key = if self.proves() {
            Some(self.key(agent)?)
        } else {
            None
        };
        let errand = Errand {
            agent,
            scopes: self.settings.grant.whole().ok_or(Code::Internal)?,
            means: &Means::Device(code.clone()),
            metadata: &metadata,
            key: key.as_ref(),
            certificate: certificate.as_ref(),
            journal,
        };
        self.ask(&errand).await
    }

    /// What a token must be that this client can use.
    fn wanted<'a>(&'a self, errand: &Errand<'a>) -> Wanted<'a> {
        let bound = self.settings.binding == Binding::Mtls;
        let certificate = errand.certificate.filter(|_| bound);
        let most = self.most(errand.means);
        let scopes = match errand.means {
            // Nothing said means as requested, and that was in the login.
            Means::Code(_) => most.unwrap_or(errand.scopes),
            _ => errand.scopes,
        };
        Wanted {
            binding: self.settings.binding,
            jkt: errand.key.map(|key| key.thumbprint()),
            scopes,
            most,
            certificate: certificate.map(|certificate| Bound {
                thumbprint: certificate.thumbprint(),
                promised: errand.metadata.binds_certificates,
            }),
            exchanged: matches!(errand.means, Means::Tokens { .. }),
            any_scopes: self.settings.any_scopes,
        }
    }

    /// What a token may be good for beyond what was asked: everything that the person agreed to, for some issuers give
    /// all of that with each refresh.
    fn most(&self, means: &Means) -> Option<&ScopeSet> {
        match (&self.settings.grant, means) {
            // A refresh token from elsewhere may be for more than our rules want.
            (Grant::RefreshToken { .. }, _) => None,
            (grant, Means::Code(_) | Means::Refresh(_)) => grant.whole(),
            _ => None,
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
                outlives: issued.life.is_some_and(|life| life > cap),
            },
            life: issued.life,
            cap,
            by_code: false,
        })
    }

    /// Whether its token requests carry proofs (RFC 9449 §5).
    pub(in crate::tokens) fn proves(&self) -> bool {
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
    async fn means(&self, agent: &AgentName, turn: Option<Turn>) -> Result<Means, Failure> {
        Ok(match &self.settings.grant {
            Grant::ClientCredentials => Means::Ourselves,
            // A code is good once (RFC 6749 §4.1.2), so it is gone whatever becomes of the request.
            Grant::AuthorizationCode { .. }
            | Grant::DeviceCode { .. }
            | Grant::RefreshToken { .. } => match turn {
                Some(turn) => Means::Refresh(turn),
                None => {
                    let mut all = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
                    let answered = all.remove(agent);
                    Means::Code(answered.ok_or(Code::ReauthorizationRequired)?)
                }
            },
            Grant::JwtBearer(AssertionSource::Found(supply)) => {
                let assertion = supply.read_text().await.ok_or(Unfit::Missing);
                Means::Assertion(self.unburnt(self.unexpired(assertion)?)?)
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
        self.unburnt(self.unexpired(token)?)
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

    fn object(&self, errand: &Errand<'_>, objection: &Objection) {
        let grant = GrantId {
            service: self.service.clone(),
            agent: errand.agent.clone(),
        };
        let grant = &grant;
        match objection {
            Objection::Downgrade => errand.journal.note(&Note::DowngradeRefused { grant }),
            Objection::Mismatch => errand.journal.note(&Note::BindingMismatch { grant }),
            Objection::Scope(granted) => self.tell_scopes(errand, granted, false),
            Objection::Unexpected => {}
        }
    }

    fn tell_scopes(&self, errand: &Errand<'_>, granted: &ScopeSet, taken: bool) {
        errand.journal.note(&Note::ScopeChanged {
            grant: &self.grant(errand.agent),
            requested: errand.scopes,
            granted,
            taken,
        });
    }
}

fn random() -> Result<[u8; 16], Failure> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| Code::Internal)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
