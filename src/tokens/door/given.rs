//! What the configuration has given, as long as the process remembers: a compromise of everything is also that of a
//! credential which is not in the file at that moment.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use crate::tokens::catalogue::Catalogue;
use crate::tokens::lineage::Print;
use crate::tokens::stops::Selection;
use crate::vocab::ServiceName;

/// Most values that are remembered; those beyond are covered only while they are in the file.
const GIVEN_MAX: usize = 16 * 1024;

/// Services and the hashes of what they were given, in this process.
#[derive(Default)]
pub(super) struct Given(Mutex<BTreeSet<(ServiceName, Print)>>);

impl Given {
    /// Remembers what this configuration gives.
    pub(super) fn note(&self, catalogue: &Catalogue) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (service, kind) in catalogue.all() {
            let Some(hash) = kind.given() else { continue };
            if all.len() >= GIVEN_MAX && !all.contains(&(service.clone(), hash)) {
                tracing::warn!(%service, "too many values were configured; this one is revoked only while it is in the file");
                continue;
            }
            all.insert((service, hash));
        }
    }

    /// What the services that a selection is about were given.
    pub(super) fn about(&self, selection: &Selection) -> Vec<Print> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let about = all.iter().filter(|(name, _)| selection.is_about(name));
        about.map(|(_, hash)| *hash).collect()
    }
}
