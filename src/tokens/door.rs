//! Lends credentials to the hot path: a map read while there is a token, a wait of at most five seconds while there
//! is none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::catalogue::{Builder, Catalogue, Kind, SetupError};
use super::checks::Checkup;
use super::issuer::Client;
use super::journal::Journal;
use super::keeper::Key;
use super::lineage::Lineages;
use super::settings::Settings;
use super::shelf::Shelf;
use super::transport::Lines;
use super::worker::{Command, Worker};
use crate::credential::{BoxFuture, Feedback, Lease, Source, Unavailable};
use crate::policy::Permit;
use crate::vocab::{AgentName, Binding, Clock, Code, Generation, GrantId, ScopeSet, ServiceName};

use given::Given;
pub use logins::{Expected, LoginWay};
pub use revoke::{Return, Revocation, Revoked};

/// Part F of the requirements.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the end of everything: the worker's own bounds, and a little.
const CLOSE_MAX: Duration = Duration::from_secs(21);
/// Longest wait of a rotation for the new tokens of one grant, and how often it looks.
const ROTATION_MAX: Duration = Duration::from_secs(10);
const ROTATION_LOOK: Duration = Duration::from_millis(50);
/// Most asks that the worker has not looked at.
const ASKS_MAX: usize = 1024;

/// The data side of the room.
pub struct Door {
    shelf: Arc<Shelf>,
    commands: mpsc::Sender<Command>,
    lines: Arc<dyn Lines>,
    lineages: Arc<Lineages>,
    /// Grants for which somebody is expected to log in, and how many times.
    pending: Mutex<BTreeMap<GrantId, usize>>,
    /// Longest wait of a request for a token (C-10). The fetch goes on.
    wait: Duration,
    /// What services were given, also such as are in the configuration no more.
    given: Given,
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
    /// How long it has been in use.
    pub age: Option<Duration>,
    /// How long it may still be used.
    pub expires_in: Option<Duration>,
    /// What went wrong last, if it has not been mended since.
    pub trouble: Option<Code>,
    /// What the last check of the token in use said; `None`: there was none.
    pub checked: Option<Checkup>,
}

/// How one grant stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whose.
    pub grant: GrantId,
    /// What ties its tokens to a key.
    pub binding: Binding,
    /// How tokens are had, as the configuration says it.
    pub how: &'static str,
    /// It has a refresh token.
    pub persists: bool,
    /// `healthy`, `degraded`, `failed`, `idle`, `revoked`, `approval_pending` or `login_required`.
    pub health: &'static str,
    /// Its tokens, and what went wrong.
    pub tokens: Vec<GrantStatus>,
}

/// What a rotation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// To each grant that has a key or a token.
    pub grants: Vec<Rotated>,
    /// What was revoked and is lent again from here on.
    pub restored: Vec<GrantId>,
}

/// What a rotation did to one grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Whose.
    pub grant: GrantId,
    /// What became of its key.
    pub key: KeyFate,
    /// How many tokens it had in use.
    pub tokens: usize,
    /// They were all replaced.
    pub renewed: bool,
}

/// What became of a key in a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyFate {
    /// It could not be written down; the old one stays.
    Failed,
    /// There is a new one.
    New,
    /// The refresh token of a public client is bound to it: a new key needs a new login.
    NeedsLogin,
    /// There is none that we make: the token is bound to a certificate, or not at all.
    None,
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
    let given = Given::default();
    given.note(&first);
    let shelf = Arc::new(Shelf::new(clock, first));
    let (commands, inbox) = mpsc::channel(ASKS_MAX);
    let mut worker = Worker::new(Arc::clone(&shelf), journal, inbox, seed);
    worker.unsettled = unsettled;
    let door = Door {
        shelf,
        commands,
        lines,
        lineages,
        pending: Mutex::default(),
        wait: WAIT_MAX,
        given,
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
        let (gone, moved) = self.swap(settings, generation)?;
        // Without a worker there is nothing to retire.
        drop(self.commands.send(Command::Retire(gone)).await);
        self.after_swap(moved).await;
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
                let age = lease.as_ref().map(|(_, since)| now.since(*since));
                let lease = lease.as_ref().map(|(lease, _)| lease);
                let checkup = |l: &Lease| self.shelf.checkup(&key, l.facts().id);
                Some(GrantStatus {
                    checked: lease.and_then(checkup),
                    age,
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

    /// How the grants of every OAuth service stand: those with tokens or trouble, those that could have some at once, and
    /// those for which somebody has to log in. Others have not been asked for.
    #[must_use]
    pub fn standing(&self) -> Vec<Standing> {
        let tokens = self.status();
        let clients = self.shelf.catalogue.load().clients();
        let mut all = Vec::new();
        for (service, _, client) in clients {
            let ours = |status: &&GrantStatus| status.grant.service == service;
            let mut owners = client.owners();
            owners.extend(tokens.iter().filter(ours).map(|s| s.grant.agent.clone()));
            // What an agent was told before somebody logged in for all is history.
            owners.retain(|owner| client.owner(owner) == *owner);
            if owners.is_empty() && client.settings().grant.refreshes() {
                owners.push(AgentName::everyone());
            }
            owners.sort();
            owners.dedup();
            all.extend(owners.into_iter().map(|owner| {
                let grant = GrantId {
                    service: service.clone(),
                    agent: owner,
                };
                self.stands(&client, grant, &tokens)
            }));
        }
        all
    }

    fn stands(&self, client: &Client, grant: GrantId, tokens: &[GrantStatus]) -> Standing {
        let of_grant = tokens.iter().filter(|s| s.grant == grant);
        let tokens: Vec<GrantStatus> = of_grant.cloned().collect();
        let by_login = client.settings().grant.by_login();
        let lost = by_login && !client.is_logged_in(&grant.agent);
        let health = if tokens
            .iter()
            .any(|s| s.lease.is_some() && s.trouble.is_some())
        {
            "degraded"
        } else if tokens.iter().any(|s| s.lease.is_some()) {
            "healthy"
        } else if self.stopped(&grant.service, &grant.agent) {
            "revoked"
        } else if lost && self.pending().contains_key(&grant) {
            "approval_pending"
        } else if lost {
            "login_required"
        } else if tokens.iter().any(|s| s.trouble.is_some()) {
            "failed"
        } else {
            "idle"
        };
        Standing {
            binding: client.settings().binding,
            how: client.settings().grant.word(),
            persists: client.is_logged_in(&grant.agent),
            grant,
            health,
            tokens,
        }
    }

    /// Every token in use and every static credential: what may be lent at this moment. They are never more than the
    /// configuration has agents, services and scope sets.
    #[must_use]
    pub fn lent(&self) -> Vec<Lease> {
        let mut all = self.shelf.leases();
        all.extend(self.shelf.catalogue.load().fixed());
        all
    }

    /// The services whose credentials this generation has brought or changed.
    #[must_use]
    pub fn changed_in(&self, generation: Generation) -> Vec<ServiceName> {
        self.shelf.catalogue.load().since(generation)
    }

    /// Every service and what ties its credential to a key.
    #[must_use]
    pub fn bindings(&self) -> Vec<(ServiceName, Binding)> {
        self.shelf.catalogue.load().bindings()
    }

    /// The editions that are gone, and the services whose issuer is another one now.
    fn swap(
        &self,
        settings: Settings,
        generation: Generation,
    ) -> Result<(Vec<u64>, Vec<ServiceName>), SetupError> {
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
        let moved = old.issuers_changed_in(&new);
        self.given.note(&new);
        self.shelf.catalogue.store(Arc::new(new));
        Ok((gone, moved))
    }

    /// Everything that can be answered without the worker; else the place to wait for.
    fn at_once(
        &self,
        service: &ServiceName,
        agent: &AgentName,
        scopes: &ScopeSet,
        generation: Generation,
    ) -> Result<Result<Lease, Key>, Unavailable> {
        if self.stopped(service, agent) {
            return Err(Code::ServiceRevoked.into());
        }
        let catalogue = self.shelf.catalogue.load();
        // A permit that was given under another configuration must be asked for again (architecture, generations).
        let offer = catalogue
            .offer(service)
            .filter(|offer| generation >= offer.since)
            .ok_or(Code::ConfigChanged)?;
        match &offer.kind {
            Kind::Fixed(fixed) => Ok(Ok(fixed.lease(agent))),
            Kind::Oauth { edition, client } => {
                let owner = client.owner(agent);
                let key = Key {
                    edition: *edition,
                    scopes: client.asked(&owner, scopes).clone(),
                    grant: GrantId {
                        service: service.clone(),
                        agent: owner,
                    },
                };
                if let Some(lease) = self.shelf.take(&key) {
                    return Ok(Ok(lease));
                }
                if self.waits_for_person(client, agent, &key.grant) {
                    return Err(Code::ApprovalPending.into());
                }
                Ok(Err(key))
            }
        }
    }

    /// Whether the configuration has this service.
    #[must_use]
    pub fn knows(&self, service: &ServiceName) -> bool {
        self.shelf.catalogue.load().offer(service).is_some()
    }

    /// New tokens, and new keys where there can be some, for every grant that fits. The tokens in use serve until then.
    /// `done` is told of each as soon as it has them, or the time for it is over. Whoever stops waiting stops the rest.
    pub async fn rotate(
        &self,
        service: Option<&ServiceName>,
        agent: Option<&AgentName>,
        done: &(dyn Fn(&GrantId) + Send + Sync),
    ) -> Rotation {
        let restored = self.bring_back(service, agent).await;
        restored.iter().for_each(done);
        let clients = self.shelf.catalogue.load().clients();
        let clients = clients
            .into_iter()
            .filter(|(name, ..)| service.is_none_or(|wanted| wanted == name));
        let mut all = Vec::new();
        for (name, edition, client) in clients {
            let mut owners = client.owners();
            let in_use = self.shelf.survey().into_keys();
            owners.extend(
                in_use
                    .filter(|key| key.edition == edition)
                    .map(|key| key.grant.agent),
            );
            owners.sort();
            owners.dedup();
            owners.retain(|owner| client.owner(owner) == *owner);
            owners.retain(|owner| agent.is_none_or(|wanted| wanted == owner));
            for owner in owners {
                let outcome = self.rotate_one(&client, edition, &name, &owner).await;
                done(&outcome.grant);
                all.push(outcome);
            }
        }
        Rotation {
            grants: all,
            restored,
        }
    }

    async fn rotate_one(
        &self,
        client: &Client,
        edition: u64,
        service: &ServiceName,
        owner: &AgentName,
    ) -> Rotated {
        let of_grant = |key: &Key| key.edition == edition && key.grant.agent == *owner;
        let leases = || {
            let all = self.shelf.survey().into_iter();
            let ours = all.filter(|(key, _)| of_grant(key));
            ours.filter_map(|(_, (held, _))| held.map(|(lease, _)| lease.facts().id))
                .collect::<Vec<_>>()
        };
        let before = leases();
        let (answer, made) = oneshot::channel();
        let command = Command::Rotate {
            edition,
            owner: owner.clone(),
            answer,
        };
        drop(self.commands.send(command).await);
        let made = made.await.unwrap_or_else(|_| Err(Code::Draining.into()));
        let renew = Command::Renew {
            edition,
            owner: owner.clone(),
        };
        drop(self.commands.send(renew).await);
        let began = self.shelf.clock.now();
        let still = || {
            let now = leases();
            before.iter().any(|lease| now.contains(lease))
        };
        while still() && self.shelf.clock.now().since(began) < ROTATION_MAX {
            tokio::time::sleep(ROTATION_LOOK).await;
        }
        Rotated {
            grant: GrantId {
                service: service.clone(),
                agent: owner.clone(),
            },
            key: match made {
                Ok(true) => KeyFate::New,
                Ok(false) if !client.proves() => KeyFate::None,
                Ok(false) => KeyFate::NeedsLogin,
                Err(_) => KeyFate::Failed,
            },
            tokens: before.len(),
            renewed: !still(),
        }
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
        let key = match self.at_once(service, agent, scopes, generation)? {
            Ok(lease) => return Ok(lease),
            Err(key) => key,
        };
        let (own, began) = (key.grant.agent == *agent, self.shelf.clock.now());
        let lent = self.wait_for(key, self.wait).await;
        let over = matches!(&lent, Err(refusal) if refusal.code == Code::ReauthorizationRequired);
        if !own
            || !over
            || self
                .owner(service, agent)
                .is_none_or(|owner| owner == *agent)
        {
            return lent;
        }
        // Its own login has just ended, and from now on it rides on the service's.
        let left = self
            .wait
            .saturating_sub(self.shelf.clock.now().since(began));
        match self.at_once(service, agent, scopes, generation)? {
            Ok(lease) => Ok(lease),
            Err(key) => self.wait_for(key, left).await,
        }
    }

    /// On whose grant this agent rides.
    fn owner(&self, service: &ServiceName, agent: &AgentName) -> Option<AgentName> {
        Some(self.client(service)?.1.owner(agent))
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
        if feedback == Feedback::Reflected {
            let GrantId { service, agent } = &lease.facts().grant;
            return self.suspect(service, agent, "credential_reflected");
        }
        let again = feedback == Feedback::InvalidTokenAgain;
        if self.shelf.reject(lease, again) {
            // A full channel means that the worker is about to look anyway.
            drop(self.commands.try_send(Command::Look));
        }
    }
}

mod given;
mod logins;
mod revoke;

#[cfg(test)]
mod sim;
#[cfg(test)]
mod tests;
