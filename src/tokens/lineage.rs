//! Lineages of refresh tokens: which one is the current one, who may use it, and what is on the disk about it.
//!
//! A refresh token is good once where the issuer rotates (RFC 9700 §4.14.2). So a refresh is written down before it is
//! sent, and the next refresh token is written down before the answer that brought it is used. What a crash
//! can leave is one state only, *in doubt*: sent, and the answer not known. Then the same token is sent once more: an
//! issuer with a grace period answers it, another refuses it, and that is the end of the grant, told as such.
//!
//! What always holds: a refresh token whose successor was read is never sent again; at most one request per lineage is
//! under way; nothing is sent that could not be written down. Without a store all this holds within one process.

mod row;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::failure::Failure;
use super::journal::{Ending, Journal, Note};
use crate::proof::ProofKey;
use crate::store::{RowId, Store};
use crate::vocab::{AgentName, Code, GrantId, Secret, ServiceName};
use row::Row;

/// The kind of our rows in the store.
const KIND: u8 = 1;

/// What a grant is for: a hash over issuer, client and everything else that a refresh token depends on.
pub(super) type Print = [u8; 32];

/// All lineages of the process.
#[derive(Default)]
pub(super) struct Lineages {
    /// As many as the configuration has grants, and what the store holds of earlier ones.
    all: Mutex<HashMap<GrantId, Lineage>>,
    /// `None`: they end with the process.
    store: Option<Arc<Mutex<Store>>>,
}

struct Lineage {
    row: Row,
    key: Option<Arc<ProofKey>>,
    /// Whose turn it is, while a request is under way.
    turn: Option<Arc<()>>,
    /// The disk says what stands here.
    written: bool,
}

/// The right to use the current refresh token of one lineage. Given back when dropped.
pub(super) struct Turn {
    lineages: Arc<Lineages>,
    grant: GrantId,
    mark: Arc<()>,
    refresh: Secret<String>,
    key: Option<Arc<ProofKey>>,
    doubt: bool,
}

impl Lineages {
    /// Takes what the store holds. Rows that cannot be read are told, one by one, and stay as they are.
    pub(super) fn load(store: Store, lost: &[RowId], journal: &dyn Journal) -> Self {
        let mut all = HashMap::new();
        for (id, bytes) in store.rows(KIND) {
            let found = grant_of(&id).zip(Row::read(&bytes));
            let found = found.and_then(|(grant, row)| Some((grant, Lineage::restored(row)?)));
            match found {
                Some((grant, lineage)) => drop(all.insert(grant, lineage)),
                None => tell_damaged(&id, journal),
            }
        }
        for id in lost {
            tell_damaged(id, journal);
        }
        Self {
            all: Mutex::new(all),
            store: Some(Arc::new(Mutex::new(store))),
        }
    }

    /// Whether there is a refresh token for this.
    pub(super) fn has(&self, grant: &GrantId, print: &Print) -> bool {
        self.lock()
            .get(grant)
            .is_some_and(|l| l.row.print == *print)
    }

    /// Grants whose last refresh was cut off.
    pub(super) fn in_doubt(&self) -> Vec<GrantId> {
        let all = self.lock();
        let doubtful = all.iter().filter(|(_, lineage)| lineage.row.doubt);
        doubtful.map(|(grant, _)| grant.clone()).collect()
    }

    /// The key of a grant that is there.
    pub(super) fn key(&self, grant: &GrantId, print: &Print) -> Option<Arc<ProofKey>> {
        let all = self.lock();
        let lineage = all.get(grant).filter(|l| l.row.print == *print)?;
        lineage.key.clone()
    }

    /// The right to refresh.
    ///
    /// # Errors
    /// `reauthorization-required` where there is no refresh token; `as-unavailable` while somebody else refreshes.
    pub(super) fn turn(self: &Arc<Self>, grant: &GrantId, print: &Print) -> Result<Turn, Failure> {
        let mut all = self.lock();
        let lineage = all.get_mut(grant).filter(|l| l.row.print == *print);
        let lineage = lineage.ok_or(Code::ReauthorizationRequired)?;
        if lineage.turn.is_some() {
            return Err(Code::AsUnavailable.into());
        }
        let mark = Arc::new(());
        lineage.turn = Some(Arc::clone(&mark));
        Ok(Turn {
            lineages: Arc::clone(self),
            grant: grant.clone(),
            mark,
            refresh: lineage.row.refresh.clone(),
            key: lineage.key.clone(),
            doubt: lineage.row.doubt,
        })
    }

    /// A login brought a refresh token; whatever was there before is over.
    ///
    /// # Errors
    /// [`Failure`] where it could not be written down; it stays in memory and is written before it is used.
    pub(super) async fn begin(
        &self,
        grant: &GrantId,
        print: &Print,
        refresh: Secret<String>,
        key: Option<Arc<ProofKey>>,
    ) -> Result<(), Failure> {
        let kept = key.as_ref().map(|key| key.sealable()).transpose();
        let bytes = {
            let mut all = self.lock();
            // A request under way for the old lineage has lost its turn with it.
            let number = all.get(grant).map_or(1, |old| old.row.number + 1);
            let row = Row {
                print: *print,
                number,
                doubt: false,
                refresh,
                key: kept.map_err(|_| Code::Internal)?,
            };
            let bytes = row.write();
            let lineage = Lineage {
                row,
                key,
                turn: None,
                written: false,
            };
            all.insert(grant.clone(), lineage);
            bytes
        };
        self.write(grant, Some(bytes), false).await?;
        self.note_written(grant);
        Ok(())
    }

    /// A login brought no refresh token: an older one must not come back after a restart.
    ///
    /// # Errors
    /// [`Failure`] where the store could not be written.
    pub(super) async fn forget(&self, grant: &GrantId) -> Result<(), Failure> {
        if self.lock().remove(grant).is_none() {
            return Ok(());
        }
        self.write(grant, None, false).await
    }

    /// Off this thread: the disk may take its time. Not cut short when nobody waits for it any more.
    async fn write(
        &self,
        grant: &GrantId,
        content: Option<Zeroizing<Vec<u8>>>,
        ahead: bool,
    ) -> Result<(), Failure> {
        let Some(store) = self.store.clone() else {
            return Ok(());
        };
        let id = row_of(grant);
        let written = tokio::task::spawn_blocking(move || {
            let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
            match content {
                Some(content) => store.put(&id, &content, ahead),
                None => store.remove(&id),
            }
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                tracing::error!(%grant, %error, "a grant could not be written down");
                Err(Code::AsUnavailable.into())
            }
            Err(_) => Err(Code::Internal.into()),
        }
    }

    fn note_written(&self, grant: &GrantId) {
        if let Some(lineage) = self.lock().get_mut(grant) {
            lineage.written = true;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<GrantId, Lineage>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lineage {
    fn restored(row: Row) -> Option<Self> {
        let key = row.key.as_ref().map(ProofKey::restored).transpose().ok()?;
        Some(Self {
            row,
            key: key.map(Arc::new),
            turn: None,
            written: true,
        })
    }
}

impl Turn {
    pub(super) fn refresh(&self) -> &Secret<String> {
        &self.refresh
    }

    pub(super) fn key(&self) -> Option<&Arc<ProofKey>> {
        self.key.as_ref()
    }

    /// Writes down that the refresh token is about to be used, and takes room for what the answer will bring.
    ///
    /// # Errors
    /// [`Failure`] where that cannot be written; the refresh token must not be sent then.
    pub(super) async fn announce(&self, journal: &dyn Journal) -> Result<(), Failure> {
        if self.doubt {
            journal.note(&Note::GrantInDoubt { grant: &self.grant });
        }
        let bytes = self.with(|lineage| {
            let known = std::mem::replace(&mut lineage.row.doubt, true) && lineage.written;
            lineage.written = known;
            (!known).then(|| lineage.row.write())
        });
        if let Some(bytes) = bytes.ok_or(Code::ConfigChanged)? {
            self.lineages.write(&self.grant, Some(bytes), true).await?;
            self.with(|lineage| lineage.written = true);
        }
        Ok(())
    }

    /// The issuer answered, with the next refresh token or leaving us this one. From the first line on the old one is
    /// never sent again, whatever becomes of the write and of whoever waits for it.
    ///
    /// # Errors
    /// [`Failure`] where it could not be written down. The answer must not be used then.
    pub(super) async fn renewed(&self, next: Option<Secret<String>>) -> Result<(), Failure> {
        let bytes = self.with(|lineage| {
            if let Some(next) = next {
                lineage.row.refresh = next;
                lineage.row.number += 1;
            }
            (lineage.row.doubt, lineage.written) = (false, false);
            lineage.row.write()
        });
        let bytes = bytes.ok_or(Code::ConfigChanged)?;
        self.lineages.write(&self.grant, Some(bytes), false).await?;
        self.with(|lineage| lineage.written = true);
        Ok(())
    }

    /// The issuer answered that something else is wrong: the refresh token was not used. The disk may go on to say
    /// that it is in doubt; a restart would try it once more, which is right.
    pub(super) fn unused(&self) {
        self.with(|lineage| {
            lineage.written = false;
            lineage.row.doubt = false;
        });
    }

    /// The issuer refused the refresh token (`invalid_grant`): the end of the lineage.
    pub(super) async fn refused(&self, journal: &dyn Journal) {
        let ending = if self.doubt {
            Ending::RefusedInDoubt
        } else {
            Ending::Refused
        };
        let grant = &self.grant;
        if self.with(|_| ()).is_none() {
            return;
        }
        journal.note(&Note::GrantDead { grant, ending });
        // A row that could not be removed is refused again after the next start, and told again.
        if self.lineages.forget(grant).await.is_err() {
            tracing::warn!(%grant, "a dead grant is still in the store");
        }
    }

    /// Works on the lineage, unless a login has begun another one meanwhile.
    fn with<R>(&self, work: impl FnOnce(&mut Lineage) -> R) -> Option<R> {
        let mut all = self.lineages.lock();
        let lineage = all.get_mut(&self.grant)?;
        let ours = |turn: &Arc<()>| Arc::ptr_eq(turn, &self.mark);
        lineage
            .turn
            .as_ref()
            .is_some_and(ours)
            .then(|| work(lineage))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.with(|lineage| lineage.turn = None);
    }
}

fn tell_damaged(id: &RowId, journal: &dyn Journal) {
    match grant_of(id) {
        Some(grant) => journal.note(&Note::GrantDead {
            grant: &grant,
            ending: Ending::Damaged,
        }),
        None => tracing::error!("a row of the store cannot be read, and is no grant's"),
    }
}

fn row_of(grant: &GrantId) -> RowId {
    RowId {
        kind: KIND,
        name: grant.to_string(),
    }
}

fn grant_of(id: &RowId) -> Option<GrantId> {
    let (service, agent) = id.name.split_once('/').filter(|_| id.kind == KIND)?;
    Some(GrantId {
        service: ServiceName::new(service).ok()?,
        agent: AgentName::new(agent).ok()?,
    })
}
