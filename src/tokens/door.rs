//! Lends credentials to the hot path: a map read while there is a token, a wait of at most five seconds while there
//! is none.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::catalogue::{Builder, Catalogue, Kind, SetupError};
use super::issuer::{Answered, Client, Login, LoginError};
use super::journal::Journal;
use super::keeper::Key;
use super::lineage::Lineages;
use super::settings::{Grant, Redirect, Settings};
use super::shelf::Shelf;
use super::transport::Lines;
use super::worker::{Command, Worker};
use crate::credential::{BoxFuture, Feedback, Lease, Source, Unavailable};
use crate::policy::Permit;
use crate::vocab::{AgentName, Binding, Clock, Code, Generation, GrantId, ScopeSet, ServiceName};

/// Part F of the requirements.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait of a person for the token of a login: that of the fetch, and a little.
const LOGIN_WAIT_MAX: Duration = Duration::from_secs(12);
/// Longest wait for the end of everything: the worker's own bounds, and a little.
const CLOSE_MAX: Duration = Duration::from_secs(21);
/// Most asks that the worker has not looked at.
const ASKS_MAX: usize = 1024;

/// The data side of the room.
pub struct Door {
    shelf: Arc<Shelf>,
    commands: mpsc::Sender<Command>,
    lines: Arc<dyn Lines>,
    lineages: Arc<Lineages>,
    /// Longest wait of a request for a token (C-10). The fetch goes on.
    wait: Duration,
    /// Numbers credentials; held while a catalogue is replaced, so that two reloads do not cross.
    counter: Mutex<u64>,
}

/// The state of one grant's tokens with one scope set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantStatus {
    /// Whose.
    pub grant: GrantId,
    /// What was asked for.
    pub scopes: ScopeSet,
    /// What ties the tokens to a key.
    pub binding: Binding,
    /// The thumbprint of that key.
    pub thumbprint: Option<String>,
    /// The number of the lease in use, as in audit lines.
    pub lease: Option<u64>,
    /// How long it may still be used.
    pub expires_in: Option<Duration>,
    /// What went wrong last, if it has not been mended since.
    pub trouble: Option<Code>,
}

/// Puts the room together from parts that tests can choose.
pub(super) fn assemble(
    settings: Settings,
    clock: Clock,
    lines: Arc<dyn Lines>,
    journal: Arc<dyn Journal>,
    lineages: Arc<Lineages>,
    seed: u64,
) -> Result<(Arc<Door>, Worker), SetupError> {
    let mut counter = 0;
    let mut builder = Builder {
        lines: lines.as_ref(),
        clock: &clock,
        counter: &mut counter,
        lineages: &lineages,
    };
    let first = Catalogue::default().succeed(settings, Generation(0), &mut builder)?;
    let unsettled = lineages.in_doubt().into_iter();
    let unsettled = unsettled
        .filter_map(|grant| first.login_key(grant))
        .collect();
    let shelf = Arc::new(Shelf::new(clock, first));
    let (commands, inbox) = mpsc::channel(ASKS_MAX);
    let mut worker = Worker::new(Arc::clone(&shelf), journal, inbox, seed);
    worker.unsettled = unsettled;
    let door = Door {
        shelf,
        commands,
        lines,
        lineages,
        wait: WAIT_MAX,
        counter: Mutex::new(counter),
    };
    Ok((Arc::new(door), worker))
}

impl Door {
    /// Takes new settings into use. Credentials that did not change keep their tokens, keys and leases; permits from
    /// before `generation` are refused for those that did.
    ///
    /// # Errors
    /// [`SetupError`] where a credential cannot be used; everything stays as it was then.
    pub async fn replace(
        &self,
        settings: Settings,
        generation: Generation,
    ) -> Result<(), SetupError> {
        let gone = self.swap(settings, generation)?;
        // Without a worker there is nothing to retire.
        drop(self.commands.send(Command::Retire(gone)).await);
        Ok(())
    }

    /// Ends everything: nothing more is lent; fetches under way have 15 s, because a refresh that is cut off may be the end
    /// of a grant; then sessions end, and where the configuration says so tokens are revoked, within 5 s.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        let closing = async {
            if self.commands.send(Command::Close(done)).await.is_ok() {
                // Without an answer there is no worker, and nothing to wait for.
                drop(closed.await);
            }
        };
        if tokio::time::timeout(CLOSE_MAX, closing).await.is_err() {
            tracing::warn!("the token worker did not end in time");
        }
    }

    /// The state of every grant that was asked for.
    #[must_use]
    pub fn status(&self) -> Vec<GrantStatus> {
        let now = self.shelf.clock.now();
        let catalogue = self.shelf.catalogue.load();
        self.shelf
            .survey()
            .into_iter()
            .filter_map(|(key, (lease, trouble))| {
                let offer = catalogue.offer(&key.grant.service)?;
                let lease = lease.as_ref();
                Some(GrantStatus {
                    binding: lease.map_or_else(|| offer.kind.binding(), |l| l.facts().binding),
                    thumbprint: lease.and_then(key_of).map(str::to_owned),
                    lease: lease.map(|l| l.facts().id),
                    expires_in: lease
                        .and_then(|l| l.facts().expires)
                        .map(|e| e.monotonic.since(now)),
                    trouble,
                    grant: key.grant,
                    scopes: key.scopes,
                })
            })
            .collect()
    }

    /// Every service and what ties its credential to a key.
    #[must_use]
    pub fn bindings(&self) -> Vec<(ServiceName, Binding)> {
        self.shelf.catalogue.load().bindings()
    }

    fn swap(&self, settings: Settings, generation: Generation) -> Result<Vec<u64>, SetupError> {
        let mut counter = self.counter.lock().unwrap_or_else(PoisonError::into_inner);
        let mut builder = Builder {
            lines: self.lines.as_ref(),
            clock: &self.shelf.clock,
            counter: &mut counter,
            lineages: &self.lineages,
        };
        let old = self.shelf.catalogue.load_full();
        let new = old.succeed(settings, generation, &mut builder)?;
        let gone = old.editions_gone_in(&new);
        self.shelf.catalogue.store(Arc::new(new));
        Ok(gone)
    }

    /// Everything that can be answered without the worker; else the place to wait for.
    fn at_once(
        &self,
        service: &ServiceName,
        agent: &AgentName,
        scopes: &ScopeSet,
        generation: Generation,
    ) -> Result<Result<Lease, Key>, Unavailable> {
        let catalogue = self.shelf.catalogue.load();
        // A permit that was given under another configuration must be asked for again (architecture, generations).
        let offer = catalogue
            .offer(service)
            .filter(|offer| generation >= offer.since)
            .ok_or(Code::ConfigChanged)?;
        match &offer.kind {
            Kind::Fixed(fixed) => fixed
                .lease(agent, service)
                .map(Ok)
                .map_err(|_| Code::Internal.into()),
            Kind::Oauth { edition, client } => {
                let key = Key {
                    edition: *edition,
                    grant: GrantId {
                        service: service.clone(),
                        agent: agent.clone(),
                    },
                    scopes: client.asked(agent, scopes).clone(),
                };
                Ok(self.shelf.take(&key).ok_or(key))
            }
        }
    }

    /// Where the browser is sent after a login for this service; `None` where there is no login.
    #[must_use]
    pub fn redirect(&self, service: &ServiceName) -> Option<Redirect> {
        match &self.client(service)?.1.settings().grant {
            Grant::AuthorizationCode { redirect, .. } => Some(redirect.clone()),
            Grant::ClientCredentials | Grant::JwtBearer(_) | Grant::TokenExchange(_) => None,
        }
    }

    /// Whether this grant needs no person now: an earlier login still gives tokens, or cannot be judged because the
    /// issuer is away.
    pub async fn is_logged_in(&self, grant: &GrantId) -> bool {
        let Some((_, client)) = self.client(&grant.service) else {
            return false;
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

    /// Fetches the token of a login that was answered.
    ///
    /// # Errors
    /// [`LoginError`]; the login is used up all the same.
    pub async fn finish_login(&self, login: &Login, answered: Answered) -> Result<(), LoginError> {
        let service = &login.grant.service;
        let (edition, client) = self
            .client(service)
            .filter(|(edition, _)| *edition == login.edition)
            .ok_or(Code::ConfigChanged)?;
        client.take_answer(&login.grant.agent, answered);
        let key = Key {
            edition,
            scopes: client.scopes(&ScopeSet::default()).clone(),
            grant: login.grant.clone(),
        };
        // Without a worker the ask that follows says so.
        drop(self.commands.send(Command::Answered(key.clone())).await);
        self.wait_for(key, LOGIN_WAIT_MAX)
            .await
            .map(drop)
            .map_err(|refusal| refusal.code.into())
    }

    fn client(&self, service: &ServiceName) -> Option<(u64, Arc<Client>)> {
        match &self.shelf.catalogue.load().offer(service)?.kind {
            Kind::Oauth { edition, client } => Some((*edition, Arc::clone(client))),
            Kind::Fixed(_) => None,
        }
    }

    async fn wait_for(&self, key: Key, most: Duration) -> Result<Lease, Unavailable> {
        let (answer, outcome) = oneshot::channel();
        let asked = async {
            self.commands
                .send(Command::Ask { key, answer })
                .await
                .map_err(|_| Code::Draining)?;
            outcome.await.map_err(|_| Code::Draining)?
        };
        tokio::time::timeout(most, asked).await.unwrap_or_else(|_| {
            Err(Unavailable {
                retry_after: Some(Duration::from_secs(1)),
                ..Code::AsTimeout.into()
            })
        })
    }

    pub(super) async fn lend(
        &self,
        service: &ServiceName,
        agent: &AgentName,
        scopes: &ScopeSet,
        generation: Generation,
    ) -> Result<Lease, Unavailable> {
        match self.at_once(service, agent, scopes, generation)? {
            Ok(lease) => Ok(lease),
            Err(key) => self.wait_for(key, self.wait).await,
        }
    }
}

/// The thumbprint of what the lease is bound to: `jkt`, or `x5t#S256`.
fn key_of(lease: &Lease) -> Option<&str> {
    let certificate = lease.certificate();
    lease
        .thumbprint()
        .or_else(|| certificate.map(|certificate| certificate.thumbprint()))
}

impl Source for Door {
    fn lease<'a>(&'a self, permit: &'a Permit) -> BoxFuture<'a, Result<Lease, Unavailable>> {
        Box::pin(self.lend(
            permit.service(),
            permit.agent(),
            permit.scopes(),
            permit.generation(),
        ))
    }

    fn report(&self, lease: &Lease, feedback: Feedback) {
        let again = feedback == Feedback::InvalidTokenAgain;
        if self.shelf.reject(lease, again) {
            // A full channel means that the worker is about to look anyway.
            drop(self.commands.try_send(Command::Look));
        }
    }
}

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
