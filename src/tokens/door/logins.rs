//! Logins: a person is waited for, and what they bring is taken into use, or handed back where it came too late.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::Door;
use crate::tokens::issuer::{Answered, Client, Device, Login, LoginError};
use crate::tokens::keeper::Key;
use crate::tokens::settings::{Grant, Redirect};
use crate::tokens::worker::{Came, Command};
use crate::vocab::{AgentName, Code, GrantId, ScopeSet, ServiceName};

/// Longest wait of a person for the token of a login: that of the fetch, and a little.
const LOGIN_WAIT_MAX: Duration = Duration::from_secs(12);
/// Fetches that a login waits for: one that was under way, and its own.
const LOGIN_TRIES: usize = 3;

/// How somebody logs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginWay {
    /// In a browser that comes back to this place.
    Browser(Redirect),
    /// On another device (RFC 8628).
    Device,
}

/// As long as this is there, a person is expected to log in for the grant.
pub struct Expected {
    door: Arc<Door>,
    grant: GrantId,
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut pending = self.door.pending();
        if let Some(count) = pending.get_mut(&self.grant) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.grant);
            }
        }
    }
}

impl Door {
    /// Whether nothing can be had because a login is under way.
    pub(super) fn waits_for_person(
        &self,
        client: &Client,
        agent: &AgentName,
        grant: &GrantId,
    ) -> bool {
        if !client.settings().grant.by_login() || client.is_logged_in(&grant.agent) {
            return false;
        }
        let shared = GrantId {
            agent: AgentName::everyone(),
            ..grant.clone()
        };
        let own = GrantId {
            agent: agent.clone(),
            ..grant.clone()
        };
        let pending = self.pending();
        [&shared, &own]
            .into_iter()
            .any(|one| pending.contains_key(one))
    }

    pub(super) fn pending(&self) -> MutexGuard<'_, BTreeMap<GrantId, usize>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a person is about to log in for this grant, until the answer is dropped. Agents that wait for it are
    /// told `approval-pending`.
    #[must_use]
    pub fn expect(self: &Arc<Self>, grant: &GrantId) -> Expected {
        *self.pending().entry(grant.clone()).or_default() += 1;
        Expected {
            door: Arc::clone(self),
            grant: grant.clone(),
        }
    }

    /// How somebody logs in for this service; `None` where nobody does.
    #[must_use]
    pub fn login_way(&self, service: &ServiceName) -> Option<LoginWay> {
        match &self.client(service)?.1.settings().grant {
            Grant::AuthorizationCode { redirect, .. } => Some(LoginWay::Browser(redirect.clone())),
            Grant::DeviceCode { .. } => Some(LoginWay::Device),
            Grant::ClientCredentials
            | Grant::JwtBearer(_)
            | Grant::RefreshToken { .. }
            | Grant::TokenExchange(_) => None,
        }
    }

    /// Whether this grant needs no person now: an earlier login still gives tokens, or cannot be judged because the
    /// issuer is away.
    pub async fn is_logged_in(&self, grant: &GrantId) -> bool {
        let Some((_, client)) = self.client(&grant.service) else {
            return false;
        };
        let grant = &GrantId {
            agent: client.owner(&grant.agent),
            ..grant.clone()
        };
        if !client.is_logged_in(&grant.agent) {
            return false;
        }
        let Some(key) = self.shelf.catalogue.load().login_key(grant.clone()) else {
            return false;
        };
        match self.wait_for(key, LOGIN_WAIT_MAX).await {
            Ok(_) => true,
            Err(refusal) => refusal.code != Code::ReauthorizationRequired,
        }
    }

    /// Begins a login for this grant. `redirect_uri` is where its answer will be waited for.
    ///
    /// # Errors
    /// [`LoginError`] where the issuer cannot be asked or offers no login.
    pub async fn begin_login(
        &self,
        grant: GrantId,
        redirect_uri: String,
    ) -> Result<Login, LoginError> {
        let (answer, begun) = oneshot::channel();
        let command = Command::Login {
            grant,
            redirect_uri,
            answer,
        };
        let sent = self.commands.send(command).await;
        sent.map_err(|_| LoginError::Unavailable(Code::Draining))?;
        // No sender left: it took longer than a call to an issuer may.
        begun.await.unwrap_or(Err(Code::AsTimeout.into()))
    }

    /// Begins a login on another device for this grant.
    ///
    /// # Errors
    /// [`LoginError`] where the issuer cannot be asked or offers none.
    pub async fn begin_device(&self, grant: GrantId) -> Result<Device, LoginError> {
        let (answer, begun) = oneshot::channel();
        let sent = self.commands.send(Command::Device { grant, answer }).await;
        sent.map_err(|_| LoginError::Unavailable(Code::Draining))?;
        begun.await.unwrap_or(Err(Code::AsTimeout.into()))
    }

    /// Waits until somebody has logged in on another device. Asks no more when it is dropped.
    ///
    /// # Errors
    /// [`LoginError`] where nobody has in time, or the issuer says no.
    pub async fn await_device(&self, device: &Arc<Device>) -> Result<Came, LoginError> {
        let (answer, outcome) = oneshot::channel();
        let device = Arc::clone(device);
        let sent = self.commands.send(Command::AwaitDevice { device, answer });
        let sent = sent.await;
        sent.map_err(|_| LoginError::Unavailable(Code::Draining))?;
        outcome.await.unwrap_or(Err(Code::Draining.into()))
    }

    /// Fetches the token of a login that was answered.
    ///
    /// # Errors
    /// [`LoginError`]; the login is used up all the same.
    pub async fn finish_login(&self, login: &Login, answered: Answered) -> Result<(), LoginError> {
        let begun = (login.edition, login.epoch);
        let taken = self.take(&login.grant, begun, answered);
        // A code that came too late is used by nobody.
        let client = taken.map_err(|(code, _)| code)?;
        self.finish(&login.grant, begun, client).await
    }

    /// Takes the tokens of a device's login into use. Where they came too late, because the grant was revoked or another
    /// configuration is in force, they are handed back.
    ///
    /// # Errors
    /// [`LoginError`]; the login is used up all the same.
    pub async fn finish_device(&self, device: &Device, came: Came) -> Result<(), LoginError> {
        let begun = (device.edition, device.epoch);
        match self.take(&device.grant, begun, came.answered) {
            Ok(client) => self.finish(&device.grant, begun, client).await,
            Err((code, answered)) => {
                self.give_back(came.client, &device.grant, &answered).await;
                Err(code.into())
            }
        }
    }

    /// Gives what a login brought to its client, where that is still the one that asked and the grant was not stopped
    /// meanwhile: whoever was revoked may be the one who has logged in.
    pub(super) fn take(
        &self,
        grant: &GrantId,
        (edition, epoch): (u64, u64),
        answered: Answered,
    ) -> Result<Arc<Client>, (Code, Box<Answered>)> {
        if self.lineages.stops().since(epoch, grant) {
            return Err((Code::ServiceRevoked, Box::new(answered)));
        }
        let client = self.client(&grant.service);
        let Some((_, client)) = client.filter(|(current, _)| *current == edition) else {
            return Err((Code::ConfigChanged, Box::new(answered)));
        };
        match client.take_answer(&grant.agent, answered, epoch) {
            None => Ok(client),
            Some(answered) => Err((Code::ServiceRevoked, Box::new(answered))),
        }
    }

    /// Has the worker revoke the tokens that a login brought.
    async fn give_back(&self, client: Arc<Client>, grant: &GrantId, answered: &Answered) {
        let tokens = answered.tokens();
        if tokens.is_empty() {
            return;
        }
        let back = Command::GiveBack {
            client,
            grant: grant.clone(),
            tokens,
        };
        if self.commands.send(back).await.is_err() {
            tracing::warn!(%grant, "a login came at the end of the process, and its tokens were not handed back");
        }
    }

    /// Has the token of an answered login fetched.
    pub(super) async fn finish(
        &self,
        grant: &GrantId,
        (edition, epoch): (u64, u64),
        client: Arc<Client>,
    ) -> Result<(), LoginError> {
        let key = Key {
            edition,
            scopes: client.scopes(&ScopeSet::default()).clone(),
            grant: grant.clone(),
        };
        let mut outcome = Err(Code::AsUnavailable.into());
        for _ in 0..LOGIN_TRIES {
            // Without a worker the ask that follows says so.
            drop(self.commands.send(Command::Answered(key.clone())).await);
            outcome = self.wait_for(key.clone(), LOGIN_WAIT_MAX).await;
            // A refresh that was under way has answered in its place.
            if !client.settings().grant.refreshes() || !client.is_answered(&grant.agent) {
                break;
            }
        }
        let Err(refusal) = outcome else {
            self.lift(grant, Some(epoch)).await;
            // What came in the moment of a revocation is seized by that.
            if self.lineages.stops().since(epoch, grant) {
                return Err(Code::ServiceRevoked.into());
            }
            return Ok(());
        };
        if refusal.code == Code::ConfigChanged
            && let Some(answered) = client.untaken(&grant.agent)
        {
            self.give_back(client, grant, &answered).await;
        }
        // What was there before the login goes on.
        drop(self.commands.try_send(Command::Answered(key)));
        Err(match refusal.oauth_error {
            Some(error) => LoginError::Refused(error),
            None => refusal.code.into(),
        })
    }
}
