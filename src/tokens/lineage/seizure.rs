//! What the operator revokes: lineages that end here and on the disk, and what must stay on the disk so that they do not
//! come back.

use std::sync::{Arc, PoisonError};

use super::{BURNT, Lineages, Print, STOPPED, are_same};
use crate::store::{RowId, StoreError};
use crate::tokens::failure::Failure;
use crate::tokens::stops::{Selection, Stops};
use crate::vocab::{AgentName, Code, GrantId, Secret, ServiceName};

/// The hash that is the name of a row of what was compromised.
pub(super) fn print_of(name: &str) -> Option<Print> {
    let mut print = [0; 32];
    if name.len() != 2 * print.len() || !name.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (at, byte) in print.iter_mut().enumerate() {
        *byte = u8::from_str_radix(name.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(print)
}

impl Lineages {
    /// What the operator has stopped. They stand here because some of them are rows like the lineages.
    pub(in crate::tokens) fn stops(&self) -> &Stops {
        &self.stops
    }

    /// The grants of this selection that have a refresh token, whatever configuration they were begun under.
    pub(in crate::tokens) fn of(&self, selection: &Selection) -> Vec<GrantId> {
        let owner = |grant: &GrantId| selection.agent.as_ref().is_none_or(|a| grant.agent == *a);
        let all = self.lock();
        let meant = all
            .keys()
            .filter(|grant| selection.is_about(&grant.service) && owner(grant));
        let mut meant: Vec<_> = meant.cloned().collect();
        meant.sort();
        meant
    }

    /// Takes the lineages of a service, or its owner's alone, out of memory and disk, whatever configuration they were
    /// begun under. A refresh that is under way loses its turn. `false`: the disk has still one of them.
    pub(in crate::tokens) async fn seize(
        self: &Arc<Self>,
        service: &ServiceName,
        owner: Option<&AgentName>,
    ) -> (Vec<(AgentName, Print, Secret<String>)>, bool) {
        let out: Vec<(GrantId, super::Lineage)> = {
            let ours = |grant: &GrantId, _: &mut super::Lineage| {
                grant.service == *service && owner.is_none_or(|owner| grant.agent == *owner)
            };
            self.lock().extract_if(ours).collect()
        };
        let mut gone = true;
        for (grant, _) in &out {
            gone &= self.save(grant, false).await.is_ok();
        }
        let each = |(grant, lineage): (GrantId, super::Lineage)| {
            (grant.agent, lineage.row.print, lineage.row.refresh)
        };
        (out.into_iter().map(each).collect(), gone)
    }

    /// Ends the lineage of a grant where this is its refresh token.
    ///
    /// # Errors
    /// [`Failure`] where the store could not be written; in memory it is gone.
    pub(in crate::tokens) async fn disown(
        self: &Arc<Self>,
        grant: &GrantId,
        refresh: &Secret<String>,
    ) -> Result<(), Failure> {
        {
            let mut all = self.lock();
            let stands = all.get(grant);
            if !stands.is_some_and(|lineage| are_same(&lineage.row.refresh, refresh)) {
                return Ok(());
            }
            all.remove(grant);
        }
        self.save(grant, false).await
    }

    /// Writes down how the stops of these selections stand: when it is each write's turn at the disk, and not when it was asked
    /// for, because writes may overtake each other.
    ///
    /// # Errors
    /// [`Failure`] where one could not be written; in memory it stands all the same.
    pub(in crate::tokens) async fn note_stops(
        self: &Arc<Self>,
        changed: Vec<Selection>,
    ) -> Result<(), Failure> {
        let mut outcome = Ok(());
        for selection in changed {
            let id = RowId {
                kind: STOPPED,
                name: selection.row_name(),
            };
            let lineages = Arc::clone(self);
            let written = self.on_disk(move |disk| match lineages.stops.row(&selection) {
                Some(content) => disk.put(&id, &content, false),
                None => disk.remove(&id),
            });
            outcome = outcome.and(told(written.await));
        }
        outcome
    }

    /// From here on what has one of these hashes is shown to no issuer.
    ///
    /// # Errors
    /// [`Failure`] where it could not be written down; it is remembered all the same, and written when it is said again.
    pub(in crate::tokens) async fn burn(&self, hashes: Vec<Print>) -> Result<(), Failure> {
        let mut outcome = Ok(());
        for hash in hashes {
            self.burnt
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(hash);
            let name = hash.iter().map(|byte| format!("{byte:02x}")).collect();
            let id = RowId { kind: BURNT, name };
            let written = self.on_disk(move |disk| disk.put(&id, &hash, false));
            outcome = outcome.and(told(written.await));
        }
        outcome
    }

    /// Whether what has this hash was compromised.
    pub(in crate::tokens) fn is_burnt(&self, hash: &Print) -> bool {
        let burnt = self.burnt.lock().unwrap_or_else(PoisonError::into_inner);
        burnt.contains(hash)
    }
}

fn told(written: Result<Result<(), StoreError>, Failure>) -> Result<(), Failure> {
    written?.map_err(|error| {
        tracing::error!(%error, "a revocation could not be written down");
        Code::AsUnavailable.into()
    })
}

#[cfg(test)]
mod tests;
