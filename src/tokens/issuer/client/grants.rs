//! On whose grant an agent rides, with which key, and what its logins have brought.

use std::sync::{Arc, PoisonError};

use super::super::login::Answered;
use super::{Client, WHOLE};
use crate::proof::ProofKey;
use crate::tokens::failure::Failure;
use crate::tokens::journal::{Journal, Note};
use crate::tokens::settings::{ClientAuth, Grant};
use crate::vocab::{AgentName, Code, ScopeSet};

impl Client {
    /// Takes what a login brought, and the next token request uses it up. A login that began before its grant was stopped,
    /// at `epoch`, is too late: what it brought comes back.
    pub(in crate::tokens) fn take_answer(
        &self,
        agent: &AgentName,
        answered: Answered,
        epoch: u64,
    ) -> Option<Answered> {
        let mut all = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked under the lock: a stop that is not seen here has yet to take its grants' answers away.
        if self.lineages.stops().since(epoch, &self.grant(agent)) {
            return Some(answered);
        }
        all.insert(agent.clone(), answered);
        None
    }

    /// What a login brought and no token request has used.
    pub(in crate::tokens) fn untaken(&self, agent: &AgentName) -> Option<Answered> {
        let mut all = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(agent)
    }

    /// What one token is asked for with, where a rule wants these scopes and nothing is known of the grant: a login is
    /// for all rules.
    pub(in crate::tokens) fn scopes<'a>(&'a self, of_rule: &'a ScopeSet) -> &'a ScopeSet {
        self.settings.grant.whole().unwrap_or(of_rule)
    }

    /// On whose grant this agent rides: its own, or the service's.
    pub(in crate::tokens) fn owner(&self, agent: &AgentName) -> AgentName {
        let everyone = AgentName::everyone();
        match &self.settings.grant {
            Grant::RefreshToken { .. } => everyone,
            grant if grant.by_login() && !self.owns(agent) && self.owns(&everyone) => everyone,
            _ => agent.clone(),
        }
    }

    /// The issuer has ended this agent's own login: it rides on the service's again, where there is one, as it would after
    /// a restart.
    pub(super) fn own_no_more(&self, agent: &AgentName) {
        if !agent.is_everyone() {
            let mut owners = self.owners.write().unwrap_or_else(PoisonError::into_inner);
            owners.remove(agent);
        }
    }

    pub(super) fn owns(&self, owner: &AgentName) -> bool {
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
    pub(super) async fn plant(&self, owner: &AgentName) -> Result<(), Failure> {
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

    /// A login was answered and its code is not used yet.
    pub(in crate::tokens) fn is_answered(&self, agent: &AgentName) -> bool {
        let all = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        all.contains_key(agent)
    }

    /// The grant's key, made when it is first needed.
    pub(in crate::tokens::issuer) fn key(
        &self,
        agent: &AgentName,
    ) -> Result<Arc<ProofKey>, Failure> {
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
