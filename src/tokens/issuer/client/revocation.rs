//! Tokens that the issuer is told to forget (RFC 7009).

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};

use super::super::address::Address;
use super::super::answer::{self, Issued};
use super::super::form::Form;
use super::super::login::Answered;
use super::super::metadata::Metadata;
use super::{Client, Errand, REVOCATION_LIMIT, REVOCATION_TRIES, Spent};
use crate::tokens::failure::Failure;
use crate::tokens::journal::{Journal, Note};
use crate::tokens::lineage::Print;
use crate::tokens::settings::{AssertionSource, Grant};
use crate::upstream::IssuerReply;
use crate::vocab::{AgentName, Code, Secret};

/// How often the operator has ended all grants of a client, and each owner's. As many owners as the configuration has.
#[derive(Default)]
pub(super) struct Endings {
    all: u64,
    of: HashMap<AgentName, u64>,
}

/// What one try to revoke a token came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tokens) enum Tried {
    /// The issuer says that it is over.
    Confirmed,
    /// The issuer cannot be told: it has no endpoint for that, or not for such tokens.
    Impossible,
    /// It may work another time; not before so long, where the issuer said it.
    Later(Option<Duration>),
}

impl Spent {
    /// The hint of RFC 7009 §2.1.
    pub(in crate::tokens) fn hint(&self) -> &'static str {
        match self {
            Self::Access(..) => "access_token",
            Self::Refresh(_) => "refresh_token",
        }
    }

    fn token(&self) -> &Secret<String> {
        match self {
            Self::Access(token, _) | Self::Refresh(token) => token,
        }
    }

    /// The number under which an access token stands in the audit file.
    pub(in crate::tokens) fn lease(&self) -> Option<u64> {
        match self {
            Self::Access(_, lease) => *lease,
            Self::Refresh(_) => None,
        }
    }
}

impl Answered {
    /// The tokens in it, to be revoked in this order. A code that is not used needs no revocation.
    pub(in crate::tokens) fn tokens(&self) -> Vec<Spent> {
        let Self::Device(reply) = self else {
            return Vec::new();
        };
        let refresh = answer::refresh_token(reply).ok().flatten();
        let access = Issued::read(reply).ok().map(|issued| issued.access);
        let access = access.map(|access| Spent::Access(access, None));
        refresh
            .map(Spent::Refresh)
            .into_iter()
            .chain(access)
            .collect()
    }
}

impl Client {
    /// Revokes a token that was refused (RFC 7009). A failure changes nothing: the token is dropped all the same.
    pub(super) async fn hand_back(&self, token: &Secret<String>, metadata: &Metadata) {
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
            let (token, hint) = (spent.token(), spent.hint());
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
                lease: spent.lease(),
                confirmed,
            });
        }
    }

    /// One revocation (RFC 7009 §2.1). 200 is a yes, for a token that nobody knows as well.
    pub(super) async fn revocation(
        &self,
        token: &Secret<String>,
        hint: &str,
        url: &Address,
        metadata: &Metadata,
    ) -> Result<(), Failure> {
        let mut last = Failure::from(Code::AsUnavailable);
        for _ in 0..REVOCATION_TRIES {
            match self.revoke_once(token, hint, url, metadata).await? {
                Ok(()) => return Ok(()),
                Err((status, failure)) => {
                    last = failure;
                    if status != 503 {
                        break;
                    }
                }
            }
            let pause = last.retry_after.unwrap_or(Duration::from_millis(500));
            tokio::time::sleep(pause).await;
        }
        tracing::warn!(service = %self.service, code = last.code.as_str(), "the issuer did not revoke a token");
        Err(last)
    }

    /// One request, and what was answered where that is no yes.
    async fn revoke_once(
        &self,
        token: &Secret<String>,
        hint: &str,
        url: &Address,
        metadata: &Metadata,
    ) -> Result<Result<(), (u16, Failure)>, Failure> {
        let mut form = Form::new();
        form.add_secret("token", token);
        form.add("token_type_hint", hint);
        let call = self.call(form, url, metadata).await?;
        let reply = self.issuer.transport.send(call).await?;
        if reply.status == 200 {
            return Ok(Ok(()));
        }
        let failure = answer::failure(&reply, self.issuer.clock.wall());
        Ok(Err((reply.status, failure)))
    }

    /// Tries once to revoke a token. The caller bounds the time and tries again.
    pub(in crate::tokens) async fn try_to_revoke(
        &self,
        spent: &Spent,
        journal: &dyn Journal,
    ) -> Tried {
        let metadata = match self.metadata(journal).await {
            Ok(metadata) => metadata,
            Err(failure) => return Tried::Later(failure.retry_after),
        };
        let Some(url) = &metadata.revocation_endpoint else {
            return Tried::Impossible;
        };
        let told = self.revoke_once(spent.token(), spent.hint(), url, &metadata);
        match told.await {
            Ok(Ok(())) => Tried::Confirmed,
            // RFC 7009 §2.2.1: not for such tokens, now or later.
            Ok(Err((_, failure))) if failure.oauth_error == Some("unsupported_token_type") => {
                Tried::Impossible
            }
            Ok(Err((_, failure))) | Err(failure) => Tried::Later(failure.retry_after),
        }
    }

    /// Whether the issuer has an endpoint for revocation; `None` where it cannot be asked.
    pub(in crate::tokens) async fn can_revoke(&self, journal: &dyn Journal) -> Option<bool> {
        let metadata = self.metadata(journal).await.ok()?;
        Some(metadata.revocation_endpoint.is_some())
    }

    /// Ends the grants of this client, or its owner's alone: their keys, codes and refresh tokens are gone from memory and
    /// store. What comes back is to be revoked, in this order. `false`: the store has still one of them.
    pub(in crate::tokens) async fn seize(
        &self,
        owner: Option<&AgentName>,
    ) -> (Vec<(AgentName, Spent)>, bool) {
        {
            let mut endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
            match owner {
                Some(owner) => *endings.of.entry(owner.clone()).or_default() += 1,
                None => endings.all += 1,
            }
        }
        let gone = |agent: &AgentName| owner.is_none_or(|owner| owner == agent);
        self.keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|agent, _| !gone(agent));
        let answered: Vec<(AgentName, Answered)> = self
            .answered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extract_if(|agent, _| gone(agent))
            .collect();
        self.owners
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|agent| !gone(agent));
        let (seized, removed) = self.lineages.seize(&self.service, owner).await;
        // One of another configuration was another issuer's, or another client's.
        let ours = seized
            .into_iter()
            .filter(|(_, print, _)| *print == self.print);
        let ours = ours.map(|(agent, _, refresh)| (agent, Spent::Refresh(refresh)));
        // A device's login has its tokens, although none was used.
        let brought = answered.into_iter().flat_map(|(agent, answered)| {
            let tokens = answered.tokens().into_iter();
            tokens.map(move |token| (agent.clone(), token))
        });
        (ours.chain(brought).collect(), removed)
    }

    /// Whether the operator has stopped this grant.
    pub(in crate::tokens) fn is_stopped(&self, owner: &AgentName) -> bool {
        self.lineages.stops().cover(&self.service, owner)
    }

    /// Whether a grant has no refresh token any more. Its key is forgotten then, so that the next login has another one.
    pub(in crate::tokens) fn lost(&self, owner: &AgentName) -> bool {
        let lost = !self.lineages.has(&self.grant(owner), &self.print);
        if lost {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.remove(owner);
        }
        lost
    }

    /// The number of the operator's last revocation, and whether this grant counts as compromised.
    pub(in crate::tokens) fn stopped(&self, owner: &AgentName) -> (u64, bool) {
        let stops = self.lineages.stops();
        (stops.epoch(), stops.compromised(&self.service, owner))
    }

    /// How often the operator has ended this agent's grant.
    pub(super) fn endings_of(&self, agent: &AgentName) -> (u64, u64) {
        let endings = self.endings.lock().unwrap_or_else(PoisonError::into_inner);
        (
            endings.all,
            endings.of.get(agent).copied().unwrap_or_default(),
        )
    }

    /// How often the operator has ended this agent's grant, where it may have a token now.
    pub(super) fn unstopped(&self, agent: &AgentName) -> Result<(u64, u64), Failure> {
        let began = self.endings_of(agent);
        // Stopped, and ended already: no ending after this one will tell of it. A login that is being finished lifts the
        // stop itself.
        if self.is_stopped(agent) && !self.is_answered(agent) {
            return Err(Code::ServiceRevoked.into());
        }
        Ok(began)
    }

    /// The operator may have ended the grant while the issuer was asked: then what it answered is handed back.
    pub(super) async fn still_wanted(
        &self,
        errand: &Errand<'_>,
        began: (u64, u64),
        reply: &IssuerReply,
    ) -> Result<(), Failure> {
        if self.endings_of(errand.agent) == began {
            return Ok(());
        }
        let refresh = match reply.status {
            200 => answer::refresh_token(reply).ok().flatten(),
            _ => None,
        };
        if let Some(refresh) = &refresh {
            // It may have been kept after the lineages were taken away.
            let grant = self.grant(errand.agent);
            if self.lineages.disown(&grant, refresh).await.is_err() {
                tracing::warn!(%grant, "a refresh token that came after its revocation is still in the store");
            }
        }
        if let (200, Some(url)) = (reply.status, &errand.metadata.revocation_endpoint) {
            if let Some(refresh) = &refresh {
                let call = self.revocation(refresh, "refresh_token", url, errand.metadata);
                if !matches!(
                    tokio::time::timeout(REVOCATION_LIMIT, call).await,
                    Ok(Ok(()))
                ) {
                    tracing::warn!(service = %self.service, "a refresh token that came after its revocation could not be handed back");
                }
            }
            if let Ok(issued) = Issued::read(reply) {
                self.hand_back(&issued.access, errand.metadata).await;
            }
        }
        Err(Code::ServiceRevoked.into())
    }

    /// What a token request would show that is somebody else's to make, by its hash: an assertion, a subject's token.
    pub(in crate::tokens) async fn shown_hashes(&self) -> Vec<Print> {
        let mut supplies = Vec::new();
        match &self.settings.grant {
            Grant::JwtBearer(AssertionSource::Found(supply)) => supplies.push(supply),
            Grant::TokenExchange(exchange) => {
                supplies.push(&exchange.subject.token);
                supplies.extend(exchange.actor.as_ref().map(|actor| &actor.token));
            }
            _ => {}
        }
        let mut hashes = Vec::new();
        for supply in supplies {
            hashes.extend(supply.read_text().await.map(|text| hash(&text)));
        }
        hashes
    }

    /// What was shown before a compromise is not shown again.
    pub(super) fn unburnt(&self, text: Secret<String>) -> Result<Secret<String>, Failure> {
        if self.lineages.is_burnt(&hash(&text)) {
            return Err(Code::ReauthorizationRequired.into());
        }
        Ok(text)
    }

    /// Takes the refresh tokens of this client out of memory and store, to be revoked.
    pub(in crate::tokens) async fn withdraw(&self) -> Vec<(AgentName, Secret<String>)> {
        self.lineages.withdraw(&self.service, &self.print).await
    }
}

fn hash(text: &Secret<String>) -> Print {
    let digest = digest(&SHA256, text.expose().as_bytes());
    std::array::from_fn(|at| digest.as_ref().get(at).copied().unwrap_or_default())
}
