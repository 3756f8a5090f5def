//! The logins of a running proxy: begun over the admin socket, waited for here, asked about until they are forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::desk::Renewed;
use super::login::{Shown, log_in};
use crate::tokens::{Door, LoginError};
use crate::vocab::{Code, GrantId};

/// Most logins that wait for a person.
const PENDING_MAX: usize = 8;
/// Most logins that are remembered, those that have ended included.
const REMEMBERED_MAX: usize = 64;

/// All of them.
pub(super) struct Logins {
    door: Arc<Door>,
    renewed: Arc<Renewed>,
    /// By number: the lowest is the oldest.
    all: Mutex<BTreeMap<u64, Entry>>,
}

struct Entry {
    /// Unguessable, so that a number alone ends nobody's login.
    id: String,
    grant: GrantId,
    shown: Shown,
    outcome: watch::Receiver<Option<Result<(), LoginError>>>,
    task: AbortHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Logins {
    pub(super) fn new(door: Arc<Door>, renewed: Arc<Renewed>) -> Self {
        Self {
            door,
            renewed,
            all: Mutex::default(),
        }
    }

    /// Begins one. What is answered is for the operator: it carries the URL and the user's code.
    pub(super) async fn begin(&self, grant: GrantId, device: bool) -> Result<Value, LoginError> {
        if self.pending() >= PENDING_MAX {
            return Err(Code::Overloaded.into());
        }
        let id = random()?;
        let begun = log_in(&self.door, grant.clone(), device).await?;
        let (tell, outcome) = watch::channel(None);
        let waiting = begun.outcome;
        let (renewed, whose) = (Arc::clone(&self.renewed), grant.clone());
        let task = tokio::spawn(async move {
            let ended = waiting.await;
            if ended.is_ok() {
                renewed(&whose);
            }
            // Nobody may ask any more.
            let _gone = tell.send(Some(ended));
        });
        let entry = Entry {
            id: id.clone(),
            grant,
            shown: begun.shown,
            outcome,
            task: task.abort_handle(),
        };
        let shown = entry.show(true);
        let mut all = self.all();
        // Several may have been begun at the same time.
        if all.values().filter(|entry| entry.is_pending()).count() >= PENDING_MAX {
            return Err(Code::Overloaded.into());
        }
        while all.len() >= REMEMBERED_MAX {
            let oldest = all.iter().find(|(_, entry)| !entry.is_pending());
            let Some(number) = oldest.map(|(number, _)| *number) else {
                break;
            };
            all.remove(&number);
        }
        let number = all.last_key_value().map_or(0, |(last, _)| last + 1);
        all.insert(number, entry);
        Ok(shown)
    }

    /// How one stands; with `wait`, once it has ended.
    pub(super) async fn look(&self, id: &str, wait: bool) -> Option<Value> {
        let mut outcome = {
            let all = self.all();
            all.values().find(|entry| entry.id == id)?.outcome.clone()
        };
        if wait {
            // An error: the task is gone, and `show` says what is known.
            drop(outcome.wait_for(Option::is_some).await);
        }
        let all = self.all();
        Some(all.values().find(|entry| entry.id == id)?.show(false))
    }

    /// All that wait, and those that have ended and are not forgotten.
    pub(super) fn list(&self) -> Value {
        self.all().values().map(|entry| entry.show(false)).collect()
    }

    /// Ends one.
    pub(super) fn cancel(&self, id: &str) -> bool {
        let mut all = self.all();
        let number = all.iter().find(|(_, entry)| entry.id == id);
        let Some(number) = number.map(|(number, _)| *number) else {
            return false;
        };
        all.remove(&number).is_some()
    }

    fn pending(&self) -> usize {
        let all = self.all();
        all.values().filter(|entry| entry.is_pending()).count()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_pending(&self) -> bool {
        self.outcome.borrow().is_none() && !self.task.is_finished()
    }

    /// `whole`: with what only the one who began it is shown.
    fn show(&self, whole: bool) -> Value {
        let outcome = *self.outcome.borrow();
        let (state, why) = match outcome {
            Some(Ok(())) => ("done", None),
            Some(Err(error)) => ("failed", Some(error.to_string())),
            None if self.task.is_finished() => ("failed", Some(LoginError::Late.to_string())),
            None => ("pending", None),
        };
        let mut shown = json!({
            "id": self.id,
            "service": self.grant.service.as_str(),
            "agent": owner(&self.grant),
            "state": state,
            "error": why,
        });
        if whole {
            shown["url"] = json!(self.shown.url);
            shown["user_code"] = json!(self.shown.user_code);
            shown["url_complete"] = json!(self.shown.complete);
            shown["expires_in"] = json!(self.shown.life.as_secs());
        }
        shown
    }
}

/// The agent of a grant; null where all of its service share it.
pub(super) fn owner(grant: &GrantId) -> Value {
    if grant.agent.is_everyone() {
        Value::Null
    } else {
        json!(grant.agent.as_str())
    }
}

fn random() -> Result<String, LoginError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| LoginError::from(Code::Internal))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
