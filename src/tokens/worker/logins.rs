//! Logins that wait for a person: each is a task of its own.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{LOGINS_MAX, Worker};
use crate::tokens::catalogue::Kind;
use crate::tokens::issuer::{Answered, Client, Device, Login, LoginError};
use crate::vocab::{Code, GrantId};

/// What a device's login brought, and the client that asked for it: tokens that come too late are handed back to its issuer.
pub struct Came {
    pub(in crate::tokens) answered: Answered,
    pub(in crate::tokens) client: Arc<Client>,
}

impl Worker {
    /// Begins a device login on a task of its own.
    pub(super) fn begin_device(
        &mut self,
        grant: GrantId,
        answer: oneshot::Sender<Result<Device, LoginError>>,
    ) {
        let offer = self.shelf.catalogue.load().offer(&grant.service).cloned();
        let Some(Kind::Oauth { edition, client }) = offer.map(|offer| offer.kind) else {
            drop(answer.send(Err(LoginError::OtherGrant)));
            return;
        };
        if self.logins.len() >= LOGINS_MAX {
            drop(answer.send(Err(Code::Overloaded.into())));
            return;
        }
        let (journal, patience) = (Arc::clone(&self.journal), self.patience);
        self.logins.spawn(async move {
            let begun = client.begin_device(&grant, edition, journal.as_ref());
            let begun = tokio::time::timeout(patience, begun)
                .await
                .unwrap_or_else(|_| Err(Code::AsTimeout.into()));
            drop(answer.send(begun));
        });
    }

    /// Asks the issuer until the person has logged in, on a task that ends with whoever waits.
    pub(super) fn await_device(
        &mut self,
        device: Arc<Device>,
        mut answer: oneshot::Sender<Result<Came, LoginError>>,
    ) {
        let catalogue = self.shelf.catalogue.load();
        let Some(client) = catalogue.client(&device.grant.service, device.edition) else {
            drop(answer.send(Err(Code::ConfigChanged.into())));
            return;
        };
        if self.logins.len() >= LOGINS_MAX {
            drop(answer.send(Err(Code::Overloaded.into())));
            return;
        }
        let journal = Arc::clone(&self.journal);
        let patience = self.patience;
        self.logins.spawn(async move {
            let done = tokio::select! {
                done = client.await_device(&device, journal.as_ref()) => done,
                () = answer.closed() => return,
            };
            let came = done.map(|answered| Came {
                answered,
                client: Arc::clone(&client),
            });
            let Err(Ok(unwanted)) = answer.send(came) else {
                return;
            };
            // Whoever waited has just gone.
            let tokens = unwanted.answered.tokens();
            let agent = &device.grant.agent;
            let revoked = client.revoke(agent, tokens, journal.as_ref());
            if tokio::time::timeout(patience, revoked).await.is_err() {
                tracing::warn!(grant = %device.grant, "the tokens of a login that nobody waits for could not be handed back");
            }
        });
    }

    /// Begins a login on a task of its own. Whoever asked may have gone; then nobody is told.
    pub(super) fn begin_login(
        &mut self,
        grant: GrantId,
        redirect_uri: String,
        answer: oneshot::Sender<Result<Login, LoginError>>,
    ) {
        if self.logins.len() >= LOGINS_MAX {
            drop(answer.send(Err(Code::Overloaded.into())));
            return;
        }
        let offer = self.shelf.catalogue.load().offer(&grant.service).cloned();
        let Some(Kind::Oauth { edition, client }) = offer.map(|offer| offer.kind) else {
            drop(answer.send(Err(LoginError::OtherGrant)));
            return;
        };
        let (journal, patience) = (Arc::clone(&self.journal), self.patience);
        self.logins.spawn(async move {
            let begun = client.begin_login(&grant, edition, redirect_uri, journal.as_ref());
            let begun = tokio::time::timeout(patience, begun)
                .await
                .unwrap_or_else(|_| Err(Code::AsTimeout.into()));
            drop(answer.send(begun));
        });
    }
}
