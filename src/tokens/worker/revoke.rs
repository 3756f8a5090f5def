//! What the operator ends, and what a suspicion replaces.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinError;

use super::Worker;
use crate::tokens::catalogue::Kind;
use crate::tokens::failure::Failure;
use crate::tokens::issuer::{Client, Spent};
use crate::tokens::journal::Note;
use crate::tokens::keeper::{Event, Key};
use crate::tokens::revoking::Fates;
use crate::tokens::stops::Selection;
use crate::vocab::{AgentName, GrantId, Moment, ServiceName};

/// A grant gets a new key on suspicion no more often than this: an API that reflects tokens at will must not drive us
/// against its issuer (F-AS9).
const SUSPECT_EVERY: Duration = Duration::from_mins(1);

/// What the operator ends.
pub(in crate::tokens) struct Order {
    pub(in crate::tokens) selection: Selection,
    pub(in crate::tokens) compromise: bool,
    pub(in crate::tokens) targets: Vec<Target>,
}

/// The grants of one client that end: all, or its owner's alone. Their refresh tokens are here and nowhere else, and so is
/// what a device's login brought and nobody used.
pub(in crate::tokens) struct Target {
    pub(in crate::tokens) service: ServiceName,
    pub(in crate::tokens) edition: u64,
    pub(in crate::tokens) client: Arc<Client>,
    pub(in crate::tokens) owner: Option<AgentName>,
    pub(in crate::tokens) tokens: Vec<(AgentName, Spent)>,
}

/// A grant that was ended, and how far its issuer knows.
pub(in crate::tokens) struct Ended {
    pub(in crate::tokens) client: Arc<Client>,
    pub(in crate::tokens) grant: GrantId,
    pub(in crate::tokens) fates: watch::Receiver<Fates>,
}

/// Tokens of one grant at one client, each with the moment at which it is over by itself.
type Held = (Arc<Client>, Vec<(Spent, Option<Moment>)>);

impl Worker {
    /// Whether nothing may be fetched for this any more.
    pub(super) fn is_stopped(&self, key: &Key) -> bool {
        let owner = &key.grant.agent;
        let client = self.client(key);
        client.is_some_and(|client| client.is_stopped(owner) && !client.is_answered(owner))
    }

    /// Takes everything of these grants out of use, and begins to tell their issuers: refresh tokens first, because with
    /// them most issuers end the access tokens too (RFC 7009 §2.1).
    pub(super) fn revoke(&mut self, order: Order) -> Vec<Ended> {
        self.journal.note(&Note::Stopped {
            selection: &order.selection,
            compromise: order.compromise,
        });
        // By client as well: an earlier edition of a service may have had another issuer.
        let mut tokens: BTreeMap<(GrantId, usize), Held> = BTreeMap::new();
        let mut add = |client: &Arc<Client>, grant: GrantId, token| {
            let of = tokens.entry((grant, Arc::as_ptr(client) as usize));
            of.or_insert_with(|| (Arc::clone(client), Vec::new()))
                .1
                .push(token);
        };
        let mut ends = Vec::new();
        for target in order.targets {
            for (agent, token) in target.tokens {
                let service = target.service.clone();
                add(&target.client, GrantId { service, agent }, (token, None));
            }
            ends.push(Event::Revoked {
                edition: target.edition,
                agent: target.owner,
            });
        }
        for (client, grant, access, end) in self.retired.seize(&order.selection) {
            add(&client, grant, (access, Some(end)));
        }
        for end in ends {
            self.feed(end);
        }
        let mut ended = Vec::new();
        for ((grant, _), (client, tokens)) in tokens {
            let whose = (Arc::clone(&client), grant.clone());
            let clock = &self.shelf.clock;
            let fates = self.revoking.begin(whose, tokens, &self.journal, clock);
            ended.push(Ended {
                client,
                grant,
                fates,
            });
        }
        ended
    }

    /// Begins to revoke tokens that came too late.
    pub(super) fn give_back(&mut self, client: Arc<Client>, grant: GrantId, tokens: Vec<Spent>) {
        let tokens = tokens.into_iter().map(|token| (token, None)).collect();
        let clock = &self.shelf.clock;
        // Nobody waits for the outcome, and the audit file has it.
        drop(
            self.revoking
                .begin((client, grant), tokens, &self.journal, clock),
        );
    }

    /// Makes new keys for a grant; the tokens follow when they are there.
    pub(super) fn rekey(&mut self, grant: &GrantId, reason: &'static str) {
        let offer = self.shelf.catalogue.load().offer(&grant.service).cloned();
        let Some(Kind::Oauth { edition, client }) = offer.map(|offer| offer.kind) else {
            return;
        };
        let grant = GrantId {
            agent: client.owner(&grant.agent),
            ..grant.clone()
        };
        let now = self.shelf.clock.now();
        let before = self.suspected.get(&grant);
        if before.is_some_and(|at| now.since(*at) < SUSPECT_EVERY) {
            return;
        }
        self.suspected.insert(grant.clone(), now);
        self.journal.note(&Note::Suspected {
            grant: &grant,
            reason,
        });
        let journal = Arc::clone(&self.journal);
        self.rekeyed.spawn(async move {
            let made = client.renew_key(&grant.agent, journal.as_ref()).await;
            if made.is_err() {
                tracing::error!(%grant, "the new key could not be written down; the old one stays");
            }
            (edition, grant.agent)
        });
    }

    pub(super) fn rekeyed(&mut self, made: Result<(u64, AgentName), JoinError>) {
        if let Ok((edition, owner)) = made {
            let agent = Some(owner);
            self.feed(Event::Renew { edition, agent });
        }
    }

    /// The issuer refused a refresh token that worked here before: somebody else may have used it (RFC 9700 §4.14.2). The
    /// access tokens of the grant are given up, and its next login has a new key.
    pub(super) fn reused(&mut self, key: &Key, failure: Failure) {
        let Some(client) = self.client(key) else {
            return;
        };
        let refused = failure.oauth_error == Some("invalid_grant");
        if !(refused && client.settings().grant.refreshes() && client.lost(&key.grant.agent)) {
            return;
        }
        let in_use = self.shelf.uses().into_iter().map(|(key, _)| key);
        let of_grant = |other: &Key| other.edition == key.edition && other.grant == key.grant;
        let in_use: Vec<Key> = in_use.filter(of_grant).collect();
        if in_use.is_empty() {
            return;
        }
        self.journal.note(&Note::Suspected {
            grant: &key.grant,
            reason: "refresh_reused",
        });
        for other in in_use {
            self.feed(Event::Distrusted(other));
        }
    }
}
