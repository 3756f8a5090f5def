//! Runs the keeper: one task that owns all fetches.
//!
//! It decides nothing. Events go into the keeper, actions come out and are done: a fetch becomes a task of its own,
//! which ends by itself whoever has stopped waiting for it; a token becomes a lease on the shelf before
//! anybody is told of it.

mod health;
mod logins;
mod revoke;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::checks::Checks;
use super::failure::Failure;
use super::issuer::{Client, Device, Login, LoginError, Obtained, Spent, Token};
use super::journal::{Journal, Note};
use super::keeper::{Action, Event, Keeper, Key, Reason};
use super::pattern::Pattern;
use super::retired::Retired;
use super::revoking::Revoking;
use super::shelf::Shelf;
use super::stops::Selection;
use crate::credential::{BadToken, Certificate, Expiry, Lease, LeaseFacts, Unavailable};
use crate::proof::Signer;
use crate::vocab::{AgentName, Binding, Code, GrantId, Moment};

/// Longest time until a token request is sent. From then on the issuer has its own ten seconds, and what it answers is
/// kept whoever has stopped waiting.
const FETCH_LIMIT: Duration = Duration::from_secs(10);
/// At the end, fetches under way have so long: a refresh that is cut off may be the end of a grant.
const LAST_FETCHES: Duration = Duration::from_secs(15);
/// And so long has the issuer to revoke what is left.
const LAST_REVOCATIONS: Duration = Duration::from_secs(5);
/// How often tokens that are out of use are looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The worker looks at its clocks at least this often: a wall clock that jumps wakes nobody.
const NAP_MAX: Duration = Duration::from_secs(30);
/// How often clients' certificates are looked for.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(10);
/// Most logins that are being begun at a time.
const LOGINS_MAX: usize = 8;
/// Most requests that wait for one token.
const WAITERS_MAX: usize = 4096;

pub use logins::Came;
pub(super) use revoke::{Ended, Order, Target};

/// The outcome of an ask.
pub(super) type Answer = Result<Lease, Unavailable>;

/// What the door says to the worker.
pub(super) enum Command {
    /// A login was answered.
    Answered(Key),
    /// A request waits for a token.
    Ask {
        key: Key,
        answer: oneshot::Sender<Answer>,
    },
    /// A person wants to log in.
    Login {
        grant: GrantId,
        redirect_uri: String,
        answer: oneshot::Sender<Result<Login, LoginError>>,
    },
    /// A person wants to log in on another device.
    Device {
        grant: GrantId,
        answer: oneshot::Sender<Result<Device, LoginError>>,
    },
    /// Ask until that person has; ends when nobody waits for it any more.
    AwaitDevice {
        device: Arc<Device>,
        answer: oneshot::Sender<Result<Came, LoginError>>,
    },
    /// A login brought these too late: they are to be revoked.
    GiveBack {
        client: Arc<Client>,
        grant: GrantId,
        tokens: Vec<Spent>,
    },
    /// New tokens, and a new key where there can be one.
    Rotate {
        edition: u64,
        owner: AgentName,
        answer: oneshot::Sender<Result<bool, Failure>>,
    },
    /// The operator ends these grants.
    Revoke {
        order: Order,
        answer: oneshot::Sender<Vec<Ended>>,
    },
    /// The operator's stop of this is over.
    Restored(Selection),
    /// Something happened after which this grant needs a new key and new tokens.
    Suspect {
        grant: GrantId,
        reason: &'static str,
    },
    /// What [`Rotate`](Self::Rotate) wants, once the key is there.
    Renew { edition: u64, owner: AgentName },
    /// End everything: nothing new is fetched, what is under way comes to its end, sessions end.
    Close(oneshot::Sender<()>),
    /// Look at the shelf: a report came in.
    Look,
    /// These credentials are gone.
    Retire(Vec<u64>),
}

/// The control side of the room. [`Worker::run`] is to be spawned on the control runtime.
pub struct Worker {
    shelf: Arc<Shelf>,
    journal: Arc<dyn Journal>,
    commands: mpsc::Receiver<Command>,
    keeper: Keeper,
    waiters: BTreeMap<Key, Vec<oneshot::Sender<Answer>>>,
    flights: JoinSet<Result<Obtained, Failure>>,
    /// Logins that are being begun; each answers by itself.
    logins: JoinSet<()>,
    /// Which fetch a task is.
    errands: HashMap<Id, (Key, u64)>,
    wake: Option<Moment>,
    /// Grants whose last refresh was cut off: their issuers may still be patient, so they are asked first of all.
    pub(super) unsettled: Vec<Key>,
    /// The look at certificates that is under way: which one each client has now.
    watch: JoinSet<Vec<(u64, Arc<Certificate>)>>,
    /// The certificate that each edition's tokens are or will be bound to.
    shown: HashMap<u64, Arc<Certificate>>,
    watched: Moment,
    /// Tokens that will be given back to their issuers.
    retired: Retired,
    /// Tokens that the operator has revoked.
    revoking: Revoking,
    /// Grants that got a new key on suspicion, and when. As many as the configuration has.
    suspected: HashMap<GrantId, Moment>,
    /// New keys that are being made for that; the tokens follow.
    rekeyed: JoinSet<(u64, AgentName)>,
    swept: Moment,
    /// Checks of the tokens in use.
    checks: Checks,
    /// How often tokens are had.
    pattern: Pattern,
    /// From here on nothing is sent that was not sent before.
    closing: CancellationToken,
    /// Longest time until a token request is sent; tests are less patient.
    pub(super) patience: Duration,
}

impl Worker {
    pub(super) fn new(
        shelf: Arc<Shelf>,
        journal: Arc<dyn Journal>,
        commands: mpsc::Receiver<Command>,
        seed: u64,
    ) -> Self {
        Self {
            shelf,
            journal,
            commands,
            keeper: Keeper::new(seed),
            waiters: BTreeMap::new(),
            flights: JoinSet::new(),
            logins: JoinSet::new(),
            errands: HashMap::new(),
            wake: None,
            unsettled: Vec::new(),
            watch: JoinSet::new(),
            shown: HashMap::new(),
            watched: Moment::default(),
            retired: Retired::default(),
            revoking: Revoking::default(),
            suspected: HashMap::new(),
            rekeyed: JoinSet::new(),
            swept: Moment::default(),
            checks: Checks::new(seed),
            pattern: Pattern::default(),
            closing: CancellationToken::new(),
            patience: FETCH_LIMIT,
        }
    }

    /// Works until the door is closed or gone. Fetches that are under way come to their end.
    pub async fn run(mut self) {
        for key in std::mem::take(&mut self.unsettled) {
            self.feed(Event::Pursued(key));
        }
        loop {
            self.catch_up();
            let nap = self.nap();
            tokio::select! {
                biased;
                Some(landed) = self.flights.join_next_with_id() => self.landed(landed),
                Some(_) = self.logins.join_next() => {}
                Some(made) = self.rekeyed.join_next() => self.rekeyed(made),
                Some(seen) = self.watch.join_next() => self.compare(seen.unwrap_or_default()),
                () = self.retired.next_done() => {}
                Some(ended) = self.checks.next_done() => self.checked(ended),
                command = self.commands.recv() => match command {
                    Some(Command::Close(done)) => {
                        self.close().await;
                        if done.send(()).is_err() {
                            tracing::debug!("nobody waits for the end any more");
                        }
                        return;
                    }
                    Some(command) => self.obey(command),
                    None => return self.close().await,
                },
                () = tokio::time::sleep(nap) => {}
            }
        }
    }

    /// Reports and time come before anything else: an ask must not be served with what is refused or expired.
    fn catch_up(&mut self) {
        for rejection in self.shelf.take_rejections() {
            let superseded = self.shelf.has_newer(&rejection.key, rejection.lease);
            self.feed(Event::Rejected {
                lease: rejection.lease,
                again: rejection.again,
            });
            if superseded {
                self.suspect(&rejection.key);
            }
        }
        let now = self.shelf.clock.now();
        if now.since(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.retired.sweep(now, &self.journal);
        }
        if self.wake.is_some_and(|wake| self.shelf.clock.now() >= wake) {
            self.tick();
        }
        self.look_at_certificates();
        self.check();
    }

    /// A token was refused although a refresh has brought a later one for other scopes: this issuer may end the last
    /// token with each refresh.
    fn suspect(&mut self, key: &Key) {
        let Some(client) = self.client(key).filter(|c| c.settings().grant.refreshes()) else {
            return;
        };
        if client.note_ended(&key.grant.agent) {
            let into = whole_key(&client, key);
            self.feed(Event::Merged { from: None, into });
        }
    }

    /// No new fetches; those under way have their time, and then the sessions end: nothing of them stays in memory, and
    /// what the configuration says is revoked.
    async fn close(&mut self) {
        self.closing.cancel();
        let _late = tokio::time::timeout(LAST_FETCHES, async {
            while let Some(landed) = self.flights.join_next_with_id().await {
                self.landed(landed);
            }
        })
        .await;
        if !self.flights.is_empty() {
            tracing::warn!(cut = self.flights.len(), "fetches were cut off at the end");
        }
        let clients = self.shelf.catalogue.load().revoking();
        self.shelf.clear();
        self.checks.clear();
        self.waiters.clear();
        let revoked = self.retired.end(clients, &self.journal);
        let revoked = async { tokio::join!(revoked, self.revoking.end()) };
        if tokio::time::timeout(LAST_REVOCATIONS, revoked)
            .await
            .is_err()
        {
            tracing::warn!("not everything was revoked in time");
        }
        self.revoking.cut().await;
    }

    /// Has the certificates of all clients read again, on a task of its own.
    fn look_at_certificates(&mut self) {
        let now = self.shelf.clock.now();
        if now.since(self.watched) < CERTIFICATES_EVERY || !self.watch.is_empty() {
            return;
        }
        self.watched = now;
        let clients = self.shelf.catalogue.load().certified();
        self.shown
            .retain(|edition, _| clients.iter().any(|(e, _)| e == edition));
        if clients.is_empty() {
            return;
        }
        self.watch.spawn(async move {
            let mut seen = Vec::new();
            for (edition, client) in clients {
                if let Some(identity) = client.identity() {
                    identity.refresh().await;
                    seen.push((edition, identity.current()));
                }
            }
            seen
        });
    }

    /// Has the tokens of replaced certificates fetched anew.
    fn compare(&mut self, seen: Vec<(u64, Arc<Certificate>)>) {
        for (edition, certificate) in seen {
            let before = self.shown.insert(edition, Arc::clone(&certificate));
            if before.is_some_and(|before| before != certificate) {
                self.feed(Event::Renew {
                    edition,
                    agent: None,
                });
            }
        }
    }

    fn tick(&mut self) {
        self.wake = None;
        self.shelf.forget();
        for (key, at) in self.shelf.uses() {
            self.feed(Event::Used { key, at });
        }
        self.feed(Event::Tick);
    }

    fn nap(&self) -> Duration {
        let now = self.shelf.clock.now();
        let most = if self.shown.is_empty() {
            NAP_MAX
        } else {
            CERTIFICATES_EVERY
        };
        let wakes = [self.wake, self.checks.wake()].into_iter().flatten();
        wakes.min().map_or(most, |wake| wake.since(now)).min(most)
    }

    fn obey(&mut self, command: Command) {
        self.catch_up();
        match command {
            // It was asked for before the operator stopped it. A login that is being finished lifts the stop itself.
            Command::Ask { key, answer } if self.is_stopped(&key) => {
                drop(answer.send(Err(Code::ServiceRevoked.into())));
            }
            Command::Ask { key, answer } => {
                let waiting = self.waiters.entry(key.clone()).or_default();
                if waiting.len() >= WAITERS_MAX {
                    waiting.retain(|w| !w.is_closed());
                }
                if waiting.len() >= WAITERS_MAX {
                    // The asker may have stopped waiting; then there is nobody to tell.
                    drop(answer.send(Err(Code::Overloaded.into())));
                    return;
                }
                waiting.push(answer);
                self.feed(Event::Asked(key));
            }
            Command::Login {
                grant,
                redirect_uri,
                answer,
            } => self.begin_login(grant, redirect_uri, answer),
            Command::Device { grant, answer } => self.begin_device(grant, answer),
            Command::AwaitDevice { device, answer } => self.await_device(device, answer),
            Command::GiveBack {
                client,
                grant,
                tokens,
            } => self.give_back(client, grant, tokens),
            Command::Rotate {
                edition,
                owner,
                answer,
            } => self.rotate(edition, owner, answer),
            Command::Renew { edition, owner } => self.feed(Event::Renew {
                edition,
                agent: Some(owner),
            }),
            Command::Answered(key) => self.feed(Event::Answered(key)),
            Command::Revoke { order, answer } => {
                let _gone = answer.send(self.revoke(order));
            }
            Command::Restored(selection) => self.journal.note(&Note::Restored {
                selection: &selection,
            }),
            Command::Suspect { grant, reason } => self.rekey(&grant, reason),
            // Seen where commands are taken.
            Command::Close(_) | Command::Look => {}
            Command::Retire(editions) => {
                for edition in editions {
                    self.feed(Event::Retired { edition });
                }
            }
        }
    }

    fn landed(&mut self, landed: Result<(Id, Result<Obtained, Failure>), JoinError>) {
        let (id, outcome) = match landed {
            Ok((id, outcome)) => (id, outcome),
            // A fetch that panicked is a failed fetch; the keeper and everybody's tokens are unharmed.
            Err(error) => (error.id(), Err(Code::Internal.into())),
        };
        let Some((key, attempt)) = self.errands.remove(&id) else {
            return;
        };
        match outcome {
            Ok(obtained) => {
                if let Some(certificate) = &obtained.token.certificate {
                    let shown = self.shown.entry(key.edition);
                    shown.or_insert_with(|| Arc::clone(certificate));
                }
                // A credential that is gone has no use for its tokens.
                let client = self.client(&key);
                let cap = client.as_ref().map_or(Duration::ZERO, |_| obtained.cap);
                let merged = client.and_then(|client| merged(&client, &key, &obtained));
                self.feed(Event::Granted {
                    key,
                    attempt,
                    token: obtained.token,
                    life: obtained.life,
                    cap,
                });
                if let Some(merged) = merged {
                    self.feed(merged);
                }
            }
            Err(failure) => {
                self.journal.note(&Note::Failed {
                    grant: &key.grant,
                    failure,
                });
                self.reused(&key, failure);
                self.feed(Event::Failed {
                    key,
                    attempt,
                    failure,
                });
            }
        }
    }

    fn feed(&mut self, event: Event<Token>) {
        let (now, wall) = (self.shelf.clock.now(), self.shelf.clock.wall());
        for action in self.keeper.handle(now, wall, event) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action<Token>) {
        match action {
            Action::Drop { key, lease, reason } => {
                if reason == Reason::Revoked {
                    self.shelf.end(&key, lease);
                }
                self.shelf.remove(&key, lease);
                self.checks.dropped(&key, lease);
                self.retired.dropped(lease, reason, &self.journal);
                self.journal.note(&Note::Dropped {
                    grant: &key.grant,
                    lease,
                    reason,
                });
                self.recount(&key);
            }
            Action::Fetch { key, attempt } => self.fetch(key, attempt),
            Action::Forget(key) => {
                self.shelf.calm(&key);
                self.shelf.unchecked(&key);
                self.checks.forgotten(&key);
                self.pattern.forgotten(&key);
                if !self.keeper.knows(key.edition, &key.grant)
                    && let Some(client) = self.client(&key)
                {
                    client.end_session(&key.grant.agent);
                }
                self.recount(&key);
                if self.waiters.get(&key).is_some_and(Vec::is_empty) {
                    self.waiters.remove(&key);
                }
            }
            Action::Move { from, into } => {
                self.shelf.rename(&from, into.clone());
                self.checks.moved(&from, &into);
                self.recount(&into);
            }
            Action::Publish {
                key,
                lease,
                expires,
                token,
                renewal,
            } => self.publish(key, (lease, expires), token, renewal),
            Action::Refuse { key, refusal } => self.answer(&key, &Err(refusal)),
            Action::Trouble { key, code } => {
                self.shelf.trouble(&key, code);
                self.recount(&key);
            }
            Action::Wake(key) => {
                // Between the keeper's word and this moment a report may have taken the lease off the shelf.
                let answer = self.shelf.take(&key).ok_or_else(|| Unavailable {
                    retry_after: Some(Duration::from_secs(1)),
                    ..Code::AsUnavailable.into()
                });
                self.answer(&key, &answer);
            }
            Action::WakeAt(at) => self.wake = Some(self.wake.map_or(at, |wake| wake.min(at))),
        }
    }

    fn fetch(&mut self, key: Key, attempt: u64) {
        let client = self.client(&key);
        let journal = Arc::clone(&self.journal);
        let patience = self.patience;
        let (agent, scopes) = (key.grant.agent.clone(), key.scopes.clone());
        let stop = self.closing.clone();
        let task = self.flights.spawn(async move {
            let client = client.ok_or(Code::ConfigChanged)?;
            let journal = journal.as_ref();
            let limits = (patience, &stop);
            client.obtain_within(limits, &agent, &scopes, journal).await
        });
        self.errands.insert(task.id(), (key, attempt));
    }

    /// Makes the new key on a task of its own, for it may have to be written down.
    fn rotate(
        &mut self,
        edition: u64,
        owner: AgentName,
        answer: oneshot::Sender<Result<bool, Failure>>,
    ) {
        let clients = self.shelf.catalogue.load().clients();
        let client = clients.into_iter().find(|(_, e, _)| *e == edition);
        let Some((_, _, client)) = client else {
            let _gone = answer.send(Err(Code::ConfigChanged.into()));
            return;
        };
        let journal = Arc::clone(&self.journal);
        self.logins.spawn(async move {
            let _gone = answer.send(client.renew_key(&owner, journal.as_ref()).await);
        });
    }

    fn publish(&mut self, key: Key, (id, expires): (u64, Expiry), token: Token, renewal: bool) {
        let facts = LeaseFacts {
            id,
            grant: key.grant.clone(),
            binding: token.binding,
            scopes: token.scopes.clone(),
            expires: Some(expires),
            cancel: CancellationToken::new(),
        };
        let Ok(lease) = lease_of(&token, facts) else {
            // The token was checked when it was read; this is a fault of ours, and nobody gets a lease.
            tracing::error!(grant = %key.grant, "a checked token was refused by the lease");
            return;
        };
        self.weigh_rate(&key, expires);
        self.journal.note(&Note::Issued {
            grant: &key.grant,
            lease: id,
            scopes: &token.scopes,
            binding: token.binding,
            jkt: lease.thumbprint(),
            expires_in: expires.monotonic.since(self.shelf.clock.now()),
            renewal,
        });
        if let Some(client) = self.client(&key) {
            let now = self.shelf.clock.now();
            self.checks.published(now, &client, (&key, id), &token);
            self.retired.published(client, (id, expires), &key, token);
        }
        self.shelf.put(key.clone(), lease);
        self.recount(&key);
    }

    fn recount(&self, key: &Key) {
        let service = &key.grant.service;
        let catalogue = self.shelf.catalogue.load();
        if let Some(offer) = catalogue.offer(service) {
            self.journal.note(&Note::Standing {
                service,
                binding: offer.kind.binding(),
                standing: self.shelf.standing(service),
            });
        }
    }

    fn answer(&mut self, key: &Key, answer: &Answer) {
        for waiter in self.waiters.remove(key).unwrap_or_default() {
            // Whoever has stopped waiting is not told.
            drop(waiter.send(answer.clone()));
        }
    }

    fn client(&self, key: &Key) -> Option<Arc<Client>> {
        self.shelf
            .catalogue
            .load()
            .client(&key.grant.service, key.edition)
    }
}

/// Where the token of this key's grant is that serves every rule.
fn whole_key(client: &Client, key: &Key) -> Key {
    Key {
        scopes: client.scopes(&key.scopes).clone(),
        ..key.clone()
    }
}

/// What a token for less than the whole login tells about its issuer.
fn merged(client: &Client, key: &Key, obtained: &Obtained) -> Option<Event<Token>> {
    let into = whole_key(client, key);
    if into == *key {
        return None;
    }
    let agent = &key.grant.agent;
    // The answer's `scope` is believed: the issuer gives everything, whatever it is asked for.
    let whole = obtained.token.scopes == into.scopes;
    if whole && !obtained.by_code {
        client.note_whole(agent);
    }
    let from = whole.then(|| key.clone());
    (whole || client.is_whole(agent)).then_some(Event::Merged { from, into })
}

fn lease_of(token: &Token, facts: LeaseFacts) -> Result<Lease, BadToken> {
    match (token.binding, &token.key) {
        (Binding::Dpop, Some(key)) => {
            let signer: Arc<dyn Signer> = Arc::<crate::proof::ProofKey>::clone(key);
            Lease::dpop(facts, &token.access, signer)
        }
        (Binding::Mtls, _) => {
            let certificate = token.certificate.as_ref().ok_or(BadToken)?;
            Lease::certified(facts, &token.access, Arc::clone(certificate))
        }
        // A bound token never goes out as a bearer token.
        (Binding::Dpop, None) => Err(BadToken),
        _ => Lease::bearer(facts, &token.access),
    }
}
