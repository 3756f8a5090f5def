//! Lineages of refresh tokens: which one is the current one, who may use it, and what is on the disk about it.
//!
//! A refresh token is good once where the issuer rotates (RFC 9700 §4.14.2). So a refresh is written down before it is
//! sent, and the next refresh token is written down before the answer that brought it is used. What a crash
//! can leave is one state only, *in doubt*: sent, and the answer not known. Then the same token is sent once more: an
//! issuer with a grace period answers it, another refuses it, and that is the end of the grant, told as such.
//!
//! What always holds: a refresh token whose successor was read is never sent again; at most one request per lineage is
//! under way, and further ones wait their turn; nothing is sent that could not be written down. Without a store all this
//! holds within one process.

mod row;
mod seizure;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tokio::sync::OwnedMutexGuard;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::journal::{Ending, Journal, Note};
use super::stops::Stops;
use crate::proof::ProofKey;
use crate::store::{RowId, Store, StoreError};
use crate::vocab::{AgentName, Code, GrantId, Secret, ServiceName};
use row::Row;

/// The kind of our rows in the store.
const KIND: u8 = 1;
/// The kind of rows that say which refresh token of the configuration a grant began with.
const PLANTED: u8 = 2;
/// The kind of rows that say what the operator has stopped because it was compromised.
const STOPPED: u8 = 3;
/// The kind of rows that name, by its hash, what was shown to issuers before a compromise.
const BURNT: u8 = 4;

/// What a grant is for: a hash over issuer, client and everything else that a refresh token depends on.
pub(super) type Print = [u8; 32];

/// All lineages of the process.
#[derive(Default)]
pub(super) struct Lineages {
    /// As many as the configuration has grants, and what the store holds of earlier ones. Locked after the store where
    /// both are.
    all: Mutex<HashMap<GrantId, Lineage>>,
    /// `None`: they end with the process.
    store: Option<Arc<Mutex<dyn Disk>>>,
    /// The store may take its time.
    waits: bool,
    /// Numbers the states of all lineages; never the same twice.
    states: AtomicU64,
    /// Prints of grants that began with a refresh token of the configuration. As many as there were of those.
    planted: Mutex<HashSet<Print>>,
    /// Hashes of assertions, tokens and fixed credentials that were compromised. A few for each time.
    burnt: Mutex<HashSet<Print>>,
    /// What the operator has stopped.
    stops: Stops,
}

/// Where rows outlive the process. A seam for the simulation, which crashes at each point of a write.
pub(super) trait Disk: Send {
    /// As [`Store::rows`].
    fn rows(&self, kind: u8) -> Vec<(RowId, Zeroizing<Vec<u8>>)>;
    /// As [`Store::put`].
    fn put(&mut self, id: &RowId, content: &[u8], ahead: bool) -> Result<(), StoreError>;
    /// As [`Store::remove`].
    fn remove(&mut self, id: &RowId) -> Result<(), StoreError>;
    /// As [`Store::reserve`].
    fn reserve(&mut self) -> Result<(), StoreError>;
    /// Whether its calls may take their time.
    fn waits(&self) -> bool {
        true
    }
}

impl Disk for Store {
    fn rows(&self, kind: u8) -> Vec<(RowId, Zeroizing<Vec<u8>>)> {
        Self::rows(self, kind)
    }

    fn put(&mut self, id: &RowId, content: &[u8], ahead: bool) -> Result<(), StoreError> {
        Self::put(self, id, content, ahead)
    }

    fn remove(&mut self, id: &RowId) -> Result<(), StoreError> {
        Self::remove(self, id)
    }

    fn reserve(&mut self) -> Result<(), StoreError> {
        Self::reserve(self)
    }
}

struct Lineage {
    row: Row,
    key: Option<Arc<ProofKey>>,
    /// Who holds it has the turn; who wants it waits in the order of asking. It also tells this lineage from the one that
    /// a later login put in its place.
    line: Arc<tokio::sync::Mutex<()>>,
    /// The number of what stands here, and of what the disk has. 0: nothing.
    state: u64,
    written: u64,
    /// It was told that the refresh token is in doubt.
    told: bool,
    /// It was told that the issuer does not rotate.
    steady: bool,
}

/// The right to use the current refresh token of one lineage. Given back when dropped.
pub(super) struct Turn {
    lineages: Arc<Lineages>,
    grant: GrantId,
    line: Arc<tokio::sync::Mutex<()>>,
    _place: OwnedMutexGuard<()>,
    refresh: Secret<String>,
    key: Option<Arc<ProofKey>>,
    /// An earlier request may have used the refresh token.
    doubt: bool,
    /// This one may have.
    sent: AtomicBool,
}

/// What the answer to a refresh did to the refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renewal {
    /// There is a new one.
    Rotated,
    /// It stays as it is; `first`: for the first time in this process.
    Kept { first: bool },
}

impl Lineages {
    /// Takes what the store holds. Rows that cannot be read are told, one by one, and stay as they are. A compromise holds all
    /// the same: such a row's name says what was stopped, or which hash must not be shown.
    pub(super) fn load(store: impl Disk + 'static, lost: &[RowId], journal: &dyn Journal) -> Self {
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
        let prints = |kind| {
            let rows = store.rows(kind).into_iter();
            let prints = rows.filter_map(|(_, print)| Print::try_from(&print[..]).ok());
            Mutex::new(prints.collect::<HashSet<_>>())
        };
        let (planted, burnt) = (prints(PLANTED), prints(BURNT));
        let unread = lost.iter().filter(|id| id.kind == BURNT);
        let unread = unread.filter_map(|id| seizure::print_of(&id.name));
        burnt
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(unread);
        let stops = store.rows(STOPPED);
        let stops = stops.iter().map(|(id, row)| (id.name.as_str(), &row[..]));
        let unread = lost.iter().filter(|id| id.kind == STOPPED);
        let unread = unread.map(|id| (id.name.as_str(), &[][..]));
        let stops = Stops::restored(stops.chain(unread));
        Self {
            all: Mutex::new(all),
            waits: store.waits(),
            store: Some(Arc::new(Mutex::new(store))),
            states: AtomicU64::new(1),
            planted,
            burnt,
            stops,
        }
    }

    /// Whether there is a refresh token for this.
    pub(super) fn has(&self, grant: &GrantId, print: &Print) -> bool {
        self.lock()
            .get(grant)
            .is_some_and(|l| l.row.print == *print)
    }

    /// Who has a refresh token for this service.
    pub(super) fn owners(&self, service: &ServiceName, print: &Print) -> Vec<AgentName> {
        let all = self.lock();
        let ours = all
            .iter()
            .filter(|(grant, l)| grant.service == *service && l.row.print == *print);
        let mut owners: Vec<_> = ours.map(|(grant, _)| grant.agent.clone()).collect();
        owners.sort();
        owners
    }

    /// Begins a lineage with a refresh token of the configuration, unless that was done before: in this process, or in an
    /// earlier one with the same store. Then its successor counts, or that it has none.
    ///
    /// # Errors
    /// [`Failure`] where that could not be written down.
    pub(super) async fn plant(
        self: &Arc<Self>,
        grant: &GrantId,
        print: &Print,
        refresh: &Secret<String>,
        key: Option<Arc<ProofKey>>,
    ) -> Result<(), Failure> {
        let known = self
            .planted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(print);
        if !self.has(grant, print) {
            if known {
                return Err(Code::ReauthorizationRequired.into());
            }
            self.begin(grant, print, refresh.clone(), key).await?;
        }
        if known {
            return Ok(());
        }
        self.remember_planted(grant, print).await
    }

    async fn remember_planted(&self, grant: &GrantId, print: &Print) -> Result<(), Failure> {
        if let Some(store) = self.store.clone() {
            let id = RowId {
                kind: PLANTED,
                name: grant.to_string(),
            };
            let content = *print;
            let written = tokio::task::spawn_blocking(move || {
                let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
                store.put(&id, &content, false)
            });
            match written.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%grant, %error, "a grant could not be written down");
                    return Err(Code::AsUnavailable.into());
                }
                Err(_) => return Err(Code::Internal.into()),
            }
        }
        self.planted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(*print);
        Ok(())
    }

    /// Gives a lineage another key, where its refresh token is not bound to one.
    ///
    /// # Errors
    /// [`Failure`] where it could not be written down.
    pub(super) async fn rekey(
        self: &Arc<Self>,
        grant: &GrantId,
        print: &Print,
        key: Arc<ProofKey>,
    ) -> Result<(), Failure> {
        let kept = key.sealable().map_err(|_| Code::Internal)?;
        let state = self.next_state();
        {
            let mut all = self.lock();
            let lineage = all.get_mut(grant).filter(|l| l.row.print == *print);
            let lineage = lineage.ok_or(Code::ReauthorizationRequired)?;
            (lineage.row.key, lineage.key, lineage.state) = (Some(kept), Some(key), state);
        }
        self.save(grant, false).await
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

    /// The right to refresh. Waits while somebody else has it; how long is the caller's to say.
    ///
    /// # Errors
    /// `reauthorization-required` where there is no refresh token, or no more.
    pub(super) async fn turn(
        self: &Arc<Self>,
        grant: &GrantId,
        print: &Print,
    ) -> Result<Turn, Failure> {
        let known = |all: &HashMap<GrantId, Lineage>| {
            let lineage = all.get(grant).filter(|l| l.row.print == *print);
            lineage.map(|lineage| Arc::clone(&lineage.line))
        };
        loop {
            let line = known(&self.lock()).ok_or(Code::ReauthorizationRequired)?;
            let place = Arc::clone(&line).lock_owned().await;
            let all = self.lock();
            // A login may have begun another lineage meanwhile, which has a line of its own.
            let lineage = all.get(grant).filter(|l| Arc::ptr_eq(&l.line, &line));
            let Some(lineage) = lineage else { continue };
            return Ok(Turn {
                lineages: Arc::clone(self),
                grant: grant.clone(),
                line,
                _place: place,
                refresh: lineage.row.refresh.clone(),
                key: lineage.key.clone(),
                doubt: lineage.row.doubt,
                sent: AtomicBool::new(false),
            });
        }
    }

    /// A login brought a refresh token; whatever was there before is over.
    ///
    /// # Errors
    /// [`Failure`] where it could not be written down; it stays in memory and is written before it is used.
    pub(super) async fn begin(
        self: &Arc<Self>,
        grant: &GrantId,
        print: &Print,
        refresh: Secret<String>,
        key: Option<Arc<ProofKey>>,
    ) -> Result<(), Failure> {
        let kept = key.as_ref().map(|key| key.sealable()).transpose();
        let kept = kept.map_err(|_| Code::Internal)?;
        {
            let mut all = self.lock();
            // A request under way for the old lineage has lost its turn with it.
            let number = all.get(grant).map_or(1, |old| old.row.number + 1);
            let row = Row {
                print: *print,
                number,
                doubt: false,
                refresh,
                key: kept,
            };
            let lineage = Lineage::new(row, key, self.next_state());
            all.insert(grant.clone(), lineage);
        }
        self.save(grant, false).await
    }

    /// A login brought no refresh token: an older one must not come back after a restart.
    ///
    /// # Errors
    /// [`Failure`] where the store could not be written.
    pub(super) async fn forget(self: &Arc<Self>, grant: &GrantId) -> Result<(), Failure> {
        if self.lock().remove(grant).is_none() {
            return Ok(());
        }
        self.save(grant, false).await
    }

    /// Takes the lineages of a service out of memory and disk. A refresh that is under way loses its turn.
    pub(super) async fn withdraw(
        self: &Arc<Self>,
        service: &ServiceName,
        print: &Print,
    ) -> Vec<(AgentName, Secret<String>)> {
        let out: Vec<(GrantId, Lineage)> = {
            let ours = |grant: &GrantId, lineage: &mut Lineage| {
                grant.service == *service && lineage.row.print == *print
            };
            self.lock().extract_if(ours).collect()
        };
        for (grant, _) in &out {
            if self.save(grant, false).await.is_err() {
                tracing::warn!(%grant, "a withdrawn grant is still in the store");
            }
        }
        let each = |(grant, lineage): (GrantId, Lineage)| (grant.agent, lineage.row.refresh);
        out.into_iter().map(each).collect()
    }

    /// Brings the disk up to what stands here; it is there when this returns. `ahead`: with room for one more write.
    async fn save(self: &Arc<Self>, grant: &GrantId, ahead: bool) -> Result<(), Failure> {
        let (lineages, of) = (Arc::clone(self), grant.clone());
        let written = self.on_disk(move |disk| lineages.save_now(disk, &of, ahead));
        written.await?.map_err(|error| {
            tracing::error!(%grant, %error, "a grant could not be written down");
            Code::AsUnavailable.into()
        })
    }

    /// Does this with the store, where there is one; it is done when this returns. Off this thread, for the disk may take
    /// its time; not cut short when nobody waits for it any more.
    async fn on_disk(
        &self,
        work: impl FnOnce(&mut dyn Disk) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<Result<(), StoreError>, Failure> {
        let Some(store) = self.store.clone() else {
            return Ok(Ok(()));
        };
        let work = move || work(&mut *store.lock().unwrap_or_else(PoisonError::into_inner));
        if !self.waits {
            return Ok(work());
        }
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_| Code::Internal.into())
    }

    /// What is written is what stands here when it is this write's turn at the disk, not when it was asked for: a write
    /// that comes late must not bring back a refresh token that was used up.
    fn save_now(
        &self,
        store: &mut dyn Disk,
        grant: &GrantId,
        ahead: bool,
    ) -> Result<(), StoreError> {
        let now = {
            let all = self.lock();
            let row = |lineage: &Lineage| {
                let known = lineage.written == lineage.state;
                (lineage.state, (!known).then(|| lineage.row.write()))
            };
            all.get(grant).map(row)
        };
        match now {
            None => store.remove(&row_of(grant))?,
            Some((state, Some(content))) => {
                store.put(&row_of(grant), &content, ahead)?;
                if let Some(lineage) = self.lock().get_mut(grant) {
                    // Numbers are never given twice: where another lineage stands here now, its state is not this one.
                    lineage.written = state;
                }
            }
            Some((_, None)) => {}
        }
        if ahead { store.reserve() } else { Ok(()) }
    }

    fn next_state(&self) -> u64 {
        self.states.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<GrantId, Lineage>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lineage {
    fn new(row: Row, key: Option<Arc<ProofKey>>, state: u64) -> Self {
        Self {
            row,
            key,
            line: Arc::default(),
            state,
            written: 0,
            told: false,
            steady: false,
        }
    }

    /// As the disk has it.
    fn restored(row: Row) -> Option<Self> {
        let key = row.key.as_ref().map(ProofKey::restored).transpose().ok()?;
        let mut lineage = Self::new(row, key.map(Arc::new), 1);
        lineage.written = lineage.state;
        Some(lineage)
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
        let told = self.change(|lineage| {
            lineage.row.doubt = true;
            std::mem::replace(&mut lineage.told, self.doubt)
        });
        if self.doubt && !told.ok_or(Code::ConfigChanged)? {
            journal.note(&Note::GrantInDoubt { grant: &self.grant });
        }
        self.lineages.save(&self.grant, true).await
    }

    /// The refresh token goes out now: whatever ends this turn without a word of the issuer leaves it in doubt.
    ///
    /// # Errors
    /// `config-changed` where a login has ended this lineage meanwhile; it must not be sent then.
    pub(super) fn sending(&self) -> Result<(), Failure> {
        self.with(|_| ()).ok_or(Code::ConfigChanged)?;
        self.sent.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// It did not go out, or the issuer answered that something else is wrong: this request has not used it. The disk
    /// may go on to say that it is in doubt; a restart would try it once more, which is right.
    pub(super) fn unused(&self) {
        self.sent.store(false, Ordering::Relaxed);
    }

    /// The issuer answered, with the next refresh token or leaving us this one. From the first line on the old one is
    /// never sent again, whatever becomes of the write and of whoever waits for it.
    ///
    /// # Errors
    /// [`Failure`] where it could not be written down. The answer must not be used then.
    pub(super) async fn renewed(&self, next: Option<Secret<String>>) -> Result<Renewal, Failure> {
        let next = next.filter(|next| !are_same(next, &self.refresh));
        let renewal = self.change(|lineage| {
            (lineage.row.doubt, lineage.told) = (false, false);
            let Some(next) = next else {
                let first = !std::mem::replace(&mut lineage.steady, true);
                return Renewal::Kept { first };
            };
            lineage.row.refresh = next;
            lineage.row.number += 1;
            Renewal::Rotated
        });
        let renewal = renewal.ok_or(Code::ConfigChanged)?;
        self.lineages.save(&self.grant, false).await?;
        Ok(renewal)
    }

    /// The issuer refused the refresh token (`invalid_grant`): the end of the lineage. `false`: a login has begun another
    /// one meanwhile.
    pub(super) async fn refused(&self, journal: &dyn Journal) -> bool {
        let ending = if self.doubt {
            Ending::RefusedInDoubt
        } else {
            Ending::Refused
        };
        self.end(ending, journal).await
    }

    /// Ends the lineage, if it is still there.
    async fn end(&self, ending: Ending, journal: &dyn Journal) -> bool {
        let grant = &self.grant;
        if !self.take_out() {
            return false;
        }
        journal.note(&Note::GrantDead { grant, ending });
        // First the line, then the row: a process that dies in between tells of the end twice, and never not at all.
        if self.lineages.store.is_some() {
            journal.settled().await;
        }
        // A row that could not be removed is refused again after the next start, and told again.
        if self.lineages.save(grant, false).await.is_err() {
            tracing::warn!(%grant, "a dead grant is still in the store");
        }
        true
    }

    /// Takes the lineage out of memory, unless a login has begun another one. Whether it was there.
    fn take_out(&self) -> bool {
        let mut all = self.lineages.lock();
        let ours = all.get(&self.grant).is_some_and(|l| self.is_of(l));
        ours && all.remove(&self.grant).is_some()
    }

    fn is_of(&self, lineage: &Lineage) -> bool {
        Arc::ptr_eq(&lineage.line, &self.line)
    }

    /// Works on the lineage, unless a login has begun another one meanwhile.
    fn with<R>(&self, work: impl FnOnce(&mut Lineage) -> R) -> Option<R> {
        let mut all = self.lineages.lock();
        let lineage = all.get_mut(&self.grant).filter(|l| self.is_of(l))?;
        Some(work(lineage))
    }

    /// Works on what the disk has of the lineage.
    fn change<R>(&self, work: impl FnOnce(&mut Lineage) -> R) -> Option<R> {
        let state = self.lineages.next_state();
        self.with(|lineage| {
            let before = (lineage.row.number, lineage.row.doubt);
            let done = work(lineage);
            if before != (lineage.row.number, lineage.row.doubt) {
                lineage.state = state;
            }
            done
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Announced and not sent, or sent and answered: nothing is in doubt that was not before.
        if !self.sent.load(Ordering::Relaxed) && !self.doubt {
            self.change(|lineage| lineage.row.doubt = false);
        }
    }
}

fn are_same(one: &Secret<String>, other: &Secret<String>) -> bool {
    let (one, other) = (one.expose().as_bytes(), other.expose().as_bytes());
    verify_slices_are_equal(one, other).is_ok()
}

fn tell_damaged(id: &RowId, journal: &dyn Journal) {
    match grant_of(id) {
        Some(grant) => journal.note(&Note::GrantDead {
            grant: &grant,
            ending: Ending::Damaged,
        }),
        None if id.kind == STOPPED || id.kind == BURNT => {
            tracing::error!(row = %id.name, "a compromise's row of the store cannot be read; what its name says stays stopped");
        }
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
    let everyone = AgentName::everyone();
    Some(GrantId {
        service: ServiceName::new(service).ok()?,
        agent: if agent == everyone.as_str() {
            everyone
        } else {
            AgentName::new(agent).ok()?
        },
    })
}
