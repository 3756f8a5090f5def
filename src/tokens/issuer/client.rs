//! One service's client at an issuer: it asks the token endpoint and takes what fits.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::rand;
use http::{HeaderMap, HeaderValue, Method, header};
use tokio::sync::{OwnedMutexGuard, SemaphorePermit};
use tokio_util::sync::CancellationToken;

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
use crate::tokens::lineage::{Lineages, Print, Renewal, Turn};
use crate::tokens::settings::{AssertionSource, ClientAuth, Grant, OauthSettings, Presented};
use crate::upstream::{IssuerReply, IssuerRequest};
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
}

/// A token that nobody will use any more.
pub(in crate::tokens) enum Spent {
    Access(Secret<String>),
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

    /// What one token is asked for with, where a rule wants these scopes and nothing is known of the grant: a login is
    /// for all rules.
    pub(in crate::tokens) fn scopes<'a>(&'a self, of_rule: &'a ScopeSet) -> &'a ScopeSet {
        self.settings.grant.whole().unwrap_or(of_rule)
    }

    /// On whose grant this agent rides: its own, or the service's. An agent that had a grant of its own does not fall
    /// back on the service's while we run: that may be another person's.
    pub(in crate::tokens) fn owner(&self, agent: &AgentName) -> AgentName {
        let everyone = AgentName::everyone();
        match &self.settings.grant {
            Grant::RefreshToken { .. } => everyone,
            grant if grant.by_login() && !self.owns(agent) && self.owns(&everyone) => everyone,
            _ => agent.clone(),
        }
    }

    fn owns(&self, owner: &AgentName) -> bool {
        let owners = self.owners.read().unwrap_or_else(PoisonError::into_inner);
        owners.contains(owner) || self.is_logged_in(owner)
    }

    /// Who has a grant of this client that outlives its tokens.
    pub(in crate::tokens) fn owners(&self) -> Vec<AgentName> {
        let mut all = self.lineages.owners(&self.service, &self.print);
        let owners = self.owners.read().unwrap_or_else(PoisonError::into_inner);
        all.extend(owners.iter().cloned());
        all.sort();
        all.dedup();
        all
    }

    /// Makes a new key for one grant, which the next token will be bound to. `false`: there is none to be made. The refresh
    /// token of a public client dies with its key (RFC 9449 §5), and the key of a certificate comes from its files.
    ///
    /// # Errors
    /// [`Failure`] where the new key could not be written down; the old one stays.
    pub(in crate::tokens) async fn renew_key(
        &self,
        owner: &AgentName,
        journal: &dyn Journal,
    ) -> Result<bool, Failure> {
        let public = matches!(self.settings.client_auth, ClientAuth::Nothing);
        let refreshes = self.settings.grant.refreshes();
        if !self.proves() || (refreshes && public) {
            return Ok(false);
        }
        let key = Arc::new(ProofKey::generate().map_err(|_| Code::Internal)?);
        if refreshes && self.is_logged_in(owner) {
            let grant = self.grant(owner);
            let changed = self.lineages.rekey(&grant, &self.print, Arc::clone(&key));
            changed.await?;
        }
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(owner.clone(), key);
        journal.note(&Note::KeyRotated {
            grant: &self.grant(owner),
        });
        Ok(true)
    }

    /// Waits for its turn with a configured refresh token, once it was planted.
    async fn plant(&self, owner: &AgentName) -> Result<(), Failure> {
        let Grant::RefreshToken { token, .. } = &self.settings.grant else {
            return Ok(());
        };
        let _one = self.planting.lock().await;
        let key = if self.proves() {
            Some(self.key(owner)?)
        } else {
            None
        };
        let (grant, print) = (self.grant(owner), &self.print);
        self.lineages.plant(&grant, print, &token.0, key).await
    }

    /// What a token for this rule is asked for with. A refresh asks for less than the login (RFC 6749 §6), unless this
    /// issuer was seen not to care, or to end the last token with each refresh: then one token serves all rules.
    pub(in crate::tokens) fn asked<'a>(
        &'a self,
        agent: &AgentName,
        of_rule: &'a ScopeSet,
    ) -> &'a ScopeSet {
        let all = self.scopes(of_rule);
        let less = !of_rule.is_empty() && of_rule != all && of_rule.is_within(all);
        if less && !self.is_whole(agent) {
            of_rule
        } else {
            all
        }
    }

    /// Whether one token serves all rules of this agent's grant.
    pub(in crate::tokens) fn is_whole(&self, agent: &AgentName) -> bool {
        let seen = self.whole.read().unwrap_or_else(PoisonError::into_inner);
        seen.get(agent).is_some_and(|times| *times >= WHOLE)
    }

    /// A refresh brought everything although less was asked for.
    pub(in crate::tokens) fn note_whole(&self, agent: &AgentName) {
        let mut seen = self.whole.write().unwrap_or_else(PoisonError::into_inner);
        seen.insert(agent.clone(), WHOLE);
    }

    /// An API refused a token after a later refresh of the same grant. Whether that is now taken for a rule.
    pub(in crate::tokens) fn note_ended(&self, agent: &AgentName) -> bool {
        let mut seen = self.whole.write().unwrap_or_else(PoisonError::into_inner);
        let times = seen.entry(agent.clone()).or_default();
        *times = times.saturating_add(1);
        *times == WHOLE
    }

    /// Nobody uses this agent's tokens any more. The key of a login belongs to its refresh token and stays.
    pub(in crate::tokens) fn end_session(&self, agent: &AgentName) {
        if !self.settings.grant.refreshes() {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.remove(agent);
        }
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
        let ready = self.prepare(agent, journal);
        let ready = tokio::time::timeout(patience.min(READY_LIMIT), ready);
        let ready = tokio::select! {
            biased;
            () = stop.cancelled() => return Err(Code::Draining.into()),
            ready = ready => ready.unwrap_or_else(|_| Err(Code::AsTimeout.into()))?,
        };
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
        if let (Means::Code(_), 200) = (&ready.means, reply.status) {
            self.judge_login(&errand, &reply).await?;
        }
        // Before anything of the answer is used, or even judged: the refresh token in it may be the only one.
        let renewal = self.settle(&errand, &reply).await?;
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
        match issued.weigh(&self.wanted(&errand)) {
            Ok(scopes) => {
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

    /// A login was answered and its code is not used yet.
    pub(in crate::tokens) fn is_answered(&self, agent: &AgentName) -> bool {
        let all = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        all.contains_key(agent)
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
                    } => turn.refused(errand.journal).await,
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
    async fn send(
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

    /// Revokes a token that was refused (RFC 7009). A failure changes nothing: the token is dropped all the same.
    async fn hand_back(&self, token: &Secret<String>, metadata: &Metadata) {
        let Some(url) = &metadata.revocation_endpoint else {
            return;
        };
        let call = self.revocation(token, "access_token", url, metadata);
        let done = tokio::time::timeout(REVOCATION_LIMIT, call).await;
        if !matches!(done, Ok(Ok(()))) {
            tracing::warn!(service = %self.service, "a refused token could not be handed back");
        }
    }

    /// Revokes tokens of one agent, in this order, where the issuer takes that. The caller bounds the time and has
    /// dropped every other copy.
    pub(in crate::tokens) async fn revoke(
        &self,
        agent: &AgentName,
        tokens: Vec<Spent>,
        journal: &dyn Journal,
    ) {
        let grant = self.grant(agent);
        let metadata = self.metadata(journal).await;
        let metadata = metadata.as_deref().ok();
        let url = metadata.and_then(|metadata| metadata.revocation_endpoint.as_ref());
        for spent in &tokens {
            let (token, hint) = match spent {
                Spent::Access(token) => (token, "access_token"),
                Spent::Refresh(token) => (token, "refresh_token"),
            };
            let confirmed = match (metadata, url) {
                (Some(metadata), Some(url)) => {
                    let call = self.revocation(token, hint, url, metadata).await;
                    call.is_ok()
                }
                _ => false,
            };
            journal.note(&Note::Revoked {
                grant: &grant,
                kind: hint,
                confirmed,
            });
        }
    }

    /// One revocation (RFC 7009 §2.1). 200 is a yes, for a token that nobody knows as well.
    async fn revocation(
        &self,
        token: &Secret<String>,
        hint: &str,
        url: &Address,
        metadata: &Metadata,
    ) -> Result<(), Failure> {
        let mut last = Failure::from(Code::AsUnavailable);
        for _ in 0..REVOCATION_TRIES {
            let mut form = Form::new();
            form.add_secret("token", token);
            form.add("token_type_hint", hint);
            let call = self.call(form, url, metadata).await?;
            let reply = self.issuer.transport.send(call).await?;
            if reply.status == 200 {
                return Ok(());
            }
            last = answer::failure(&reply, self.issuer.clock.wall());
            if reply.status != 503 {
                break;
            }
            let pause = last.retry_after.unwrap_or(Duration::from_millis(500));
            tokio::time::sleep(pause).await;
        }
        tracing::warn!(service = %self.service, code = last.code.as_str(), "the issuer did not revoke a token");
        Err(last)
    }

    /// Takes the refresh tokens of this client out of memory and store, to be revoked.
    pub(in crate::tokens) async fn withdraw(&self) -> Vec<(AgentName, Secret<String>)> {
        self.lineages.withdraw(&self.service, &self.print).await
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
