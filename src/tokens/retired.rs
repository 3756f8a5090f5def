//! Tokens that their issuers are told to forget (RFC 7009), and when.
//!
//! An access token is revoked where the configuration says that sessions end with a revocation (`revoke_on_exit`), and
//! where the issuer takes it for longer than we use it. Not while a refresh token of the same grant goes on:
//! revoking an access token may end its refresh token too (RFC 7009 §2.1), and with it a person's login. What the operator
//! revokes is taken from here (`revoking.rs`), so every token is held until nobody takes it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use futures_util::future::join_all;
use tokio::task::JoinSet;

use super::issuer::{Client, Spent, Token};
use super::journal::Journal;
use super::keeper::{Key, Reason};
use super::stops::Selection;
use crate::credential::Expiry;
use crate::vocab::{AgentName, GrantId, Moment, Secret};

/// Most tokens that are kept to be revoked: those in use, and a few of each that were replaced.
const HELD_MAX: usize = 8192;
/// Most revocations under way; further ones wait for the next look.
const AT_ONCE: usize = 16;
/// Longest time for one of them.
const LIMIT: Duration = Duration::from_secs(30);

/// What is to be revoked some day.
#[derive(Default)]
pub(super) struct Retired {
    held: HashMap<u64, Held>,
    /// Digests of all tokens until we stop using them. Some issuers give out the same token again and again: one that
    /// another lease still carries is not over.
    used: HashMap<u64, ([u8; 32], Moment)>,
    under_way: JoinSet<()>,
}

struct Held {
    client: Arc<Client>,
    grant: GrantId,
    access: Secret<String>,
    /// When we stop using it.
    expires: Moment,
    outlives: bool,
}

impl Retired {
    /// A token came into use.
    pub(super) fn published(
        &mut self,
        client: Arc<Client>,
        (lease, expires): (u64, Expiry),
        key: &Key,
        token: Token,
    ) {
        if self.used.len() < HELD_MAX {
            let digest = digest(&token.access);
            self.used.insert(lease, (digest, expires.monotonic));
        }
        if self.held.len() >= HELD_MAX {
            tracing::warn!("too many tokens are in use; one could not be revoked before its end");
            return;
        }
        let outlives = token.outlives && !client.settings().grant.refreshes();
        let held = Held {
            client,
            grant: key.grant.clone(),
            access: token.access,
            expires: expires.monotonic,
            outlives,
        };
        self.held.insert(lease, held);
    }

    /// A token went out of use. One that came to its end is looked at by the next sweep.
    pub(super) fn dropped(&mut self, lease: u64, reason: Reason, journal: &Arc<dyn Journal>) {
        if reason == Reason::Expired {
            return;
        }
        self.used.remove(&lease);
        let Some(held) = self.held.get(&lease) else {
            return;
        };
        let settings = held.client.settings();
        let over = matches!(reason, Reason::Inactive | Reason::InvalidToken);
        if (over || (settings.revoke_on_exit && !settings.grant.refreshes()))
            && let Some(held) = self.held.remove(&lease)
            && !over
        {
            self.revoke((lease, held), journal);
        }
    }

    /// Revokes what we use no longer and the issuer takes still; forgets what nobody takes.
    pub(super) fn sweep(&mut self, now: Moment, journal: &Arc<dyn Journal>) {
        while self.under_way.try_join_next().is_some() {}
        self.used.retain(|_, (_, expires)| now < *expires);
        let over = |_: &u64, held: &mut Held| now >= held.expires;
        let room = AT_ONCE.saturating_sub(self.under_way.len());
        let over: Vec<_> = self.held.extract_if(over).take(room).collect();
        for (lease, held) in over {
            if held.outlives {
                self.revoke((lease, held), journal);
            }
        }
    }

    /// Takes out the tokens that a selection is about and that are not over: the operator revokes them. Those that a refresh
    /// has replaced are among them, and those of an earlier configuration; each is for the issuer that gave it.
    pub(super) fn seize(
        &mut self,
        selection: &Selection,
    ) -> Vec<(Arc<Client>, GrantId, Spent, Moment)> {
        let ours =
            |_: &u64, held: &mut Held| selection.covers(&held.grant.service, &held.grant.agent);
        let seized: Vec<(u64, Held)> = self.held.extract_if(ours).collect();
        for (lease, _) in &seized {
            self.used.remove(lease);
        }
        let each = |(lease, held): (u64, Held)| {
            let access = Spent::Access(held.access, Some(lease));
            (held.client, held.grant, access, held.expires)
        };
        seized.into_iter().map(each).collect()
    }

    fn revoke(&mut self, (lease, held): (u64, Held), journal: &Arc<dyn Journal>) {
        let this = digest(&held.access);
        if self.used.values().any(|(other, _)| *other == this) {
            return;
        }
        if self.under_way.len() >= AT_ONCE {
            tracing::warn!("too many tokens are being revoked; one is only forgotten");
            return;
        }
        let journal = Arc::clone(journal);
        self.under_way.spawn(async move {
            let tokens = vec![Spent::Access(held.access, Some(lease))];
            let revoked = held
                .client
                .revoke(&held.grant.agent, tokens, journal.as_ref());
            if tokio::time::timeout(LIMIT, revoked).await.is_err() {
                tracing::warn!("the issuer took too long to revoke a token");
            }
        });
    }

    /// A revocation ended; never, while there is none.
    pub(super) async fn next_done(&mut self) {
        if self.under_way.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Everything ends: the refresh tokens of these clients, and then their access tokens. Nothing of them is kept from
    /// here on, whether or not the issuers answer.
    pub(super) fn end(
        &mut self,
        clients: Vec<Arc<Client>>,
        journal: &Arc<dyn Journal>,
    ) -> impl Future<Output = ()> + use<> {
        let journal = Arc::clone(journal);
        self.used.clear();
        let mut left: Vec<_> = self.held.drain().collect();
        left.retain(|(_, held)| held.client.settings().revoke_on_exit);
        let mut under_way = std::mem::take(&mut self.under_way);
        async move {
            let mut spent: HashMap<(usize, AgentName), (Arc<Client>, Vec<Spent>)> = HashMap::new();
            let mut add = |client: &Arc<Client>, agent: AgentName, token: Spent| {
                let of = (Arc::as_ptr(client) as usize, agent);
                let entry = spent.entry(of);
                let (_, tokens) = entry.or_insert_with(|| (Arc::clone(client), Vec::new()));
                tokens.push(token);
            };
            for client in &clients {
                for (agent, refresh) in client.withdraw().await {
                    add(client, agent, Spent::Refresh(refresh));
                }
            }
            for (lease, held) in left {
                let access = Spent::Access(held.access, Some(lease));
                add(&held.client, held.grant.agent, access);
            }
            let each = spent.into_iter().map(|((_, agent), (client, tokens))| {
                let journal = Arc::clone(&journal);
                async move { client.revoke(&agent, tokens, journal.as_ref()).await }
            });
            join_all(each).await;
            while under_way.join_next().await.is_some() {}
        }
    }
}

fn digest(token: &Secret<String>) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, token.expose().as_bytes());
    std::array::from_fn(|at| digest.as_ref().get(at).copied().unwrap_or_default())
}
