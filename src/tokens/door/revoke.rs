//! Revocation, as the operator orders it: nothing is lent from the first line on, and the rest follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Door;
use crate::tokens::catalogue::Kind;
use crate::tokens::issuer::Client;
use crate::tokens::journal::{Journal, Note};
use crate::tokens::revoking::Fate;
use crate::tokens::settings::Grant;
use crate::tokens::stops::{Selection, Stopped};
use crate::tokens::worker::{Command, Ended, Order, Target};
use crate::vocab::{AgentName, Binding, GrantId, ServiceName};

/// How long the operator's answer waits for what issuers say. Whatever is left is tried on.
const REPORT_WAIT: Duration = Duration::from_secs(3);
/// How long a look at an issuer may take before something is revoked.
const LOOK_MAX: Duration = Duration::from_secs(3);

/// What a revocation did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// What became of each grant.
    pub grants: Vec<Revoked>,
    /// `false`: that it was a compromise could not be written to the store, so a restart would forget it. In memory it holds,
    /// and revoking once more writes it once more.
    pub remembered: bool,
}

/// What became, or would become, of one grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Whose.
    pub grant: GrantId,
    /// How its tokens are had, as the configuration says it; `static` where it gives the credential itself, `unconfigured`
    /// where it has no such grant any more.
    pub how: &'static str,
    /// The agent rides on a grant that all agents of the service share, and which goes on for the others.
    pub rides: bool,
    /// Each of its tokens by kind, and what the issuer knows of it.
    pub tokens: Vec<(&'static str, Fate)>,
    /// Its refresh token could not be taken off the disk. In memory it is gone.
    pub still_stored: bool,
    /// What brings it back.
    pub back: Return,
}

/// What brings a revoked grant back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// A person logs in.
    Login,
    /// Another value in the configuration.
    NewValue,
    /// The operator's `reload`, or a restart.
    Reload,
    /// The operator's `rotate`, which has to name it.
    Rotate,
}

impl Door {
    /// Whether the operator has stopped this. A service without a credential has nothing to stop.
    #[must_use]
    pub fn stopped(&self, service: &ServiceName, agent: &AgentName) -> bool {
        let credentialed = || {
            let catalogue = self.shelf.catalogue.load();
            let offer = catalogue.offer(service);
            offer.is_some_and(|offer| offer.kind.binding() != Binding::None)
        };
        self.lineages.stops().cover(service, agent) && credentialed()
    }

    /// The stops that stand.
    #[must_use]
    pub fn stops(&self) -> Vec<Stopped> {
        self.lineages.stops().list()
    }

    /// Stops that anything is lent for this selection, from this moment on. [`revoke`](Self::revoke) does the rest.
    pub fn stop(&self, selection: &Selection, compromise: bool) {
        self.lineages.stops().add(selection, compromise);
    }

    /// What [`revoke`](Self::revoke) would do. Nothing is changed; issuers are asked for their metadata at most.
    pub async fn foresee(&self, selection: &Selection, compromise: bool) -> Vec<Revoked> {
        let mut report = Vec::new();
        for (service, kind) in self.selected(selection) {
            let Kind::Oauth { edition, client } = &kind else {
                report.push(nothing_held(&service, selection, compromise));
                continue;
            };
            let look = client.can_revoke(&Silent);
            let can = tokio::time::timeout(LOOK_MAX, look).await.ok().flatten();
            let fate = if can == Some(false) {
                Fate::Impossible
            } else {
                Fate::Pending
            };
            let mut tokens: BTreeMap<AgentName, Vec<(&'static str, Fate)>> = BTreeMap::new();
            let meant = |owner: &AgentName| selection.agent.as_ref().is_none_or(|a| a == owner);
            for owner in client.owners().into_iter().filter(|owner| meant(owner)) {
                let with = client.is_logged_in(&owner);
                let of = tokens.entry(owner).or_default();
                of.extend(with.then_some(("refresh_token", fate)));
            }
            let in_use = self.shelf.uses().into_iter().map(|(key, _)| key);
            for key in in_use.filter(|key| key.edition == *edition && meant(&key.grant.agent)) {
                let of = tokens.entry(key.grant.agent).or_default();
                of.push(("access_token", fate));
            }
            let each = tokens
                .into_iter()
                .map(|(agent, tokens)| (agent, tokens, false));
            report.extend(told(
                &service,
                client,
                selection,
                each.collect(),
                compromise,
            ));
        }
        let left = self.left(selection).into_iter();
        report.extend(left.map(|grant| left_behind(grant, false)));
        report
    }

    /// Revokes a selection: what [`stop`](Self::stop) does; then its keys, codes and refresh tokens are gone, from the disk
    /// as well, its tokens are out of use, and their issuers are told. Waits three seconds for these, and goes on trying.
    pub async fn revoke(&self, selection: &Selection, compromise: bool) -> Revocation {
        self.lineages.stops().add(selection, compromise);
        // Before the stop: where that alone were in the store, a restart would take the same value for another one.
        let given = if compromise && selection.agent.is_none() {
            self.given.about(selection)
        } else {
            Vec::new()
        };
        let burnt = self.lineages.burn(given).await.is_ok();
        let changed = compromise.then(|| selection.clone()).into_iter().collect();
        let noted = self.lineages.note_stops(changed).await.is_ok();
        let selected = self.selected(selection);
        let Seized {
            targets,
            stored,
            left,
            burnt: shown,
        } = self.seize(&selected, selection, compromise).await;
        let remembered = noted && burnt && shown;
        if !remembered {
            tracing::error!(
                "the compromise is not in the store: it would be forgotten by a restart"
            );
        }
        let (answer, ended) = oneshot::channel();
        let order = Order {
            selection: selection.clone(),
            compromise,
            targets,
        };
        // Without a worker the process is at its end, and everything with it.
        drop(self.commands.send(Command::Revoke { order, answer }).await);
        let mut ended = ended.await.unwrap_or_default();
        let settled = async {
            for one in &mut ended {
                let done = |fates: &Vec<(&str, Fate)>| fates.iter().all(|f| f.1 != Fate::Pending);
                // An error: it has ended, and what stands there is its last word.
                drop(one.fates.wait_for(done).await);
            }
        };
        let _late = tokio::time::timeout(REPORT_WAIT, settled).await;
        let mut report = reported(&selected, &ended, &stored, selection, compromise);
        report.extend(left);
        Revocation {
            grants: report,
            remembered,
        }
    }

    /// Takes everything that outlives access tokens from memory and disk.
    async fn seize(
        &self,
        selected: &[(ServiceName, Kind)],
        selection: &Selection,
        compromise: bool,
    ) -> Seized {
        let mut targets = Vec::new();
        let mut stored = BTreeSet::new();
        let mut burnt = true;
        for (service, kind) in selected {
            let Kind::Oauth { edition, client } = kind else {
                continue;
            };
            // One agent's compromise is not that of what the configuration gives to all.
            if compromise && selection.agent.is_none() {
                let shown = client.shown_hashes().await;
                burnt &= self.lineages.burn(shown).await.is_ok();
            }
            let (tokens, removed) = client.seize(selection.agent.as_ref()).await;
            if !removed {
                stored.insert(service.clone());
            }
            targets.push(Target {
                service: service.clone(),
                edition: *edition,
                client: Arc::clone(client),
                owner: selection.agent.clone(),
                tokens,
            });
        }
        // A login of a service that the configuration lacks at the moment must not be there when it is back. Its issuer is not
        // known any more.
        let mut left = Vec::new();
        for grant in self.left(selection) {
            let seized = self.lineages.seize(&grant.service, Some(&grant.agent));
            let (_, removed) = seized.await;
            left.push(left_behind(grant, !removed));
        }
        Seized {
            targets,
            stored,
            left,
            burnt,
        }
    }

    /// The operator's `reload`: what was revoked without a compromise may be lent again. How many stops that ended.
    pub async fn resume(&self) -> usize {
        let ended = self.lineages.stops().lift_plain();
        let many = ended.len();
        for selection in ended {
            drop(self.commands.send(Command::Restored(selection)).await);
        }
        many
    }

    /// Says that a credential may be in the wrong hands: its grant gets a new key, where it can have one, and new tokens;
    /// those in use serve until then. `reason` is a word of the audit file. At most once a minute for each grant; never waits.
    pub fn suspect(&self, service: &ServiceName, agent: &AgentName, reason: &'static str) {
        let grant = GrantId {
            service: service.clone(),
            agent: agent.clone(),
        };
        if self
            .commands
            .try_send(Command::Suspect { grant, reason })
            .is_err()
        {
            tracing::error!(%service, %agent, "a suspicion came while the token worker was too busy");
        }
    }

    /// After new settings: grants of an issuer that was changed get new keys, and what was compromised is [settled](Self::settle).
    pub(super) async fn after_swap(&self, moved: Vec<ServiceName>) {
        for service in moved {
            let owners = self.client(&service).map(|(_, client)| client.owners());
            for agent in owners.into_iter().flatten() {
                self.suspect(&service, &agent, "issuer_changed");
            }
        }
        self.settle().await;
    }

    /// What was compromised comes back where the configuration has another value for it. To be called once at the start, when
    /// the worker runs: the value may have been changed while no process was there to see it.
    pub async fn settle(&self) {
        for (service, kind) in self.selected(&Selection::default()) {
            let other = kind
                .given()
                .is_some_and(|hash| !self.lineages.is_burnt(&hash));
            let everyone = AgentName::everyone();
            if other && self.lineages.stops().compromised(&service, &everyone) {
                let agent = everyone;
                self.lift(&GrantId { service, agent }, None).await;
            }
        }
    }

    /// A grant has come back; by a login that began at `epoch`, where one is given. Whether it was stopped.
    pub(super) async fn lift(&self, grant: &GrantId, epoch: Option<u64>) -> bool {
        let (changes, lifted) = self.lineages.stops().lift(grant, epoch);
        if !lifted {
            return false;
        }
        if self.lineages.note_stops(changes).await.is_err() {
            tracing::error!(%grant, "the store says still that it was compromised: a restart would stop it again");
        }
        let agent = Some(grant.agent.clone()).filter(|agent| !agent.is_everyone());
        let service = Some(grant.service.clone());
        let restored = Command::Restored(Selection { service, agent });
        drop(self.commands.send(restored).await);
        true
    }

    /// The operator names what is to be rotated: what needs no person and no other value comes back by that, with new keys.
    /// What was stopped until now.
    pub(super) async fn bring_back(
        &self,
        service: Option<&ServiceName>,
        agent: Option<&AgentName>,
    ) -> Vec<GrantId> {
        let mut back = Vec::new();
        if service.is_none() && agent.is_none() {
            return back;
        }
        let selection = Selection {
            service: service.cloned(),
            agent: agent.cloned(),
        };
        for (service, kind) in self.selected(&selection) {
            let by_login =
                matches!(&kind, Kind::Oauth { client, .. } if client.settings().grant.by_login());
            let burnt = kind
                .given()
                .is_some_and(|hash| self.lineages.is_burnt(&hash));
            if !by_login && !burnt {
                let agent = agent.cloned().unwrap_or_else(AgentName::everyone);
                let grant = GrantId { service, agent };
                if self.lift(&grant, None).await {
                    back.push(grant);
                }
            }
        }
        back
    }

    /// Grants with a refresh token whose services the configuration lacks, or has with another kind of credential.
    fn left(&self, selection: &Selection) -> Vec<GrantId> {
        let catalogue = self.shelf.catalogue.load();
        let mut grants = self.lineages.of(selection);
        grants.retain(|grant| {
            let offer = catalogue.offer(&grant.service);
            !offer.is_some_and(|offer| matches!(offer.kind, Kind::Oauth { .. }))
        });
        grants
    }

    fn selected(&self, selection: &Selection) -> Vec<(ServiceName, Kind)> {
        let mut all = self.shelf.catalogue.load().all();
        all.retain(|(service, _)| selection.is_about(service));
        all
    }
}

/// What a revocation took from memory and disk.
struct Seized {
    targets: Vec<Target>,
    /// Services of which the disk has still something.
    stored: BTreeSet<ServiceName>,
    /// Grants of services that the configuration lacks.
    left: Vec<Revoked>,
    /// What must not be shown again is in the store.
    burnt: bool,
}

/// An owner's tokens by kind, and whether the disk has still something of them.
type Owned = (AgentName, Vec<(&'static str, Fate)>, bool);

/// What was ended at a service, by owner.
fn owned(ended: &[Ended], service: &ServiceName, still_stored: bool) -> Vec<Owned> {
    let mut owners: BTreeMap<AgentName, Vec<(&'static str, Fate)>> = BTreeMap::new();
    for one in ended.iter().filter(|one| one.grant.service == *service) {
        let of = owners.entry(one.grant.agent.clone()).or_default();
        of.extend(one.fates.borrow().iter());
    }
    let each = owners.into_iter();
    each.map(|(owner, fates)| (owner, fates, still_stored))
        .collect()
}

/// What is said of each service that is selected, and of those that the configuration has no more.
fn reported(
    selected: &[(ServiceName, Kind)],
    ended: &[Ended],
    stored: &BTreeSet<ServiceName>,
    selection: &Selection,
    compromise: bool,
) -> Vec<Revoked> {
    let mut report = Vec::new();
    for (service, kind) in selected {
        match kind {
            Kind::Fixed(_) => report.push(nothing_held(service, selection, compromise)),
            Kind::Oauth { client, .. } => {
                let each = owned(ended, service, stored.contains(service));
                report.extend(told(service, client, selection, each, compromise));
            }
        }
    }
    // Access tokens of services that the configuration has no more.
    let has = |name: &ServiceName| {
        let mut kinds = selected.iter().filter(|(service, _)| service == name);
        kinds.any(|(_, kind)| matches!(kind, Kind::Oauth { .. }))
    };
    let before = ended.iter().filter(|one| !has(&one.grant.service));
    let before: BTreeMap<_, _> = before
        .map(|one| (&one.grant.service, &one.client))
        .collect();
    for (service, client) in before {
        let each = owned(ended, service, false);
        report.extend(told(service, client, selection, each, compromise));
    }
    report
}

/// What is said of a service that has, or had, such tokens of these owners.
fn told(
    service: &ServiceName,
    client: &Client,
    selection: &Selection,
    owners: Vec<Owned>,
    compromise: bool,
) -> Vec<Revoked> {
    let how = client.settings().grant.word();
    let back = way_back(&client.settings().grant, compromise);
    let row = |(agent, tokens, still_stored): Owned| Revoked {
        grant: GrantId {
            service: service.clone(),
            agent,
        },
        how,
        rides: false,
        tokens,
        still_stored,
        back,
    };
    if !owners.is_empty() {
        return owners.into_iter().map(row).collect();
    }
    let agent = selection.agent.clone();
    let agent = agent.unwrap_or_else(AgentName::everyone);
    let rides = !agent.is_everyone() && client.owner(&agent).is_everyone();
    let mut alone = row((agent, Vec::new(), false));
    if rides {
        alone.rides = true;
        alone.back = match (compromise, client.settings().grant.by_login()) {
            (false, _) => Return::Reload,
            (true, true) => Return::Login,
            (true, false) => Return::Rotate,
        };
    }
    vec![alone]
}

/// What is said of a credential that the configuration gives.
fn nothing_held(service: &ServiceName, selection: &Selection, compromise: bool) -> Revoked {
    let agent = selection.agent.clone();
    Revoked {
        grant: GrantId {
            service: service.clone(),
            agent: agent.unwrap_or_else(AgentName::everyone),
        },
        how: "static",
        rides: false,
        tokens: Vec::new(),
        still_stored: false,
        back: match (compromise, &selection.agent) {
            (false, _) => Return::Reload,
            (true, None) => Return::NewValue,
            (true, Some(_)) => Return::Rotate,
        },
    }
}

/// What is said of a grant that the configuration does not have.
fn left_behind(grant: GrantId, still_stored: bool) -> Revoked {
    Revoked {
        grant,
        how: "unconfigured",
        rides: false,
        // Its issuer cannot be told.
        tokens: vec![("refresh_token", Fate::Impossible)],
        still_stored,
        back: Return::Login,
    }
}

fn way_back(grant: &Grant, compromise: bool) -> Return {
    match grant {
        Grant::AuthorizationCode { .. } | Grant::DeviceCode { .. } => Return::Login,
        // It was revoked, so only another one helps.
        Grant::RefreshToken { .. } => Return::NewValue,
        Grant::ClientCredentials | Grant::JwtBearer(_) | Grant::TokenExchange(_) if compromise => {
            Return::Rotate
        }
        Grant::ClientCredentials | Grant::JwtBearer(_) | Grant::TokenExchange(_) => Return::Reload,
    }
}

/// A look is no event.
struct Silent;

impl Journal for Silent {
    fn note(&self, _: &Note<'_>) {}
}
