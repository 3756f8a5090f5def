//! What of a compromise outlives the process, on a disk that damages rows and one that is slow.

use std::collections::BTreeMap;
use std::sync::Mutex;

use zeroize::Zeroizing;

use super::super::{Disk, KIND};
use super::*;
use crate::tokens::journal::{Journal, Note};

/// Rows that outlive the process; those in `damaged` do not open.
#[derive(Default, Clone)]
struct Plate {
    rows: Arc<Mutex<BTreeMap<RowId, Vec<u8>>>>,
    damaged: Arc<Mutex<Vec<RowId>>>,
}

impl Disk for Plate {
    fn rows(&self, kind: u8) -> Vec<(RowId, Zeroizing<Vec<u8>>)> {
        let damaged = self.damaged.lock().unwrap();
        let rows = self.rows.lock().unwrap();
        let open = rows
            .iter()
            .filter(|(id, _)| id.kind == kind && !damaged.contains(id));
        open.map(|(id, content)| (id.clone(), Zeroizing::new(content.clone())))
            .collect()
    }

    fn put(&mut self, id: &RowId, content: &[u8], _: bool) -> Result<(), StoreError> {
        let mut rows = self.rows.lock().unwrap();
        rows.insert(id.clone(), content.to_vec());
        Ok(())
    }

    fn remove(&mut self, id: &RowId) -> Result<(), StoreError> {
        self.rows.lock().unwrap().remove(id);
        Ok(())
    }

    fn reserve(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

struct Silent;

impl Journal for Silent {
    fn note(&self, _: &Note<'_>) {}
}

impl Plate {
    fn open(&self) -> Arc<Lineages> {
        let lost = self.damaged.lock().unwrap().clone();
        Arc::new(Lineages::load(self.clone(), &lost, &Silent))
    }
}

fn items() -> Selection {
    Selection {
        service: Some(ServiceName::new("items").unwrap()),
        agent: None,
    }
}

#[tokio::test]
async fn a_damaged_row_of_a_compromise_holds_by_its_name() {
    let plate = Plate::default();
    let before = plate.open();
    before.stops().add(&items(), true);
    before.note_stops(vec![items()]).await.unwrap();
    let hash: Print = std::array::from_fn(|at| u8::try_from(at * 8).unwrap());
    before.burn(vec![hash]).await.unwrap();
    let written: Vec<RowId> = plate.rows.lock().unwrap().keys().cloned().collect();
    assert_eq!(written.len(), 2);
    assert!(written.iter().all(|id| id.kind != KIND));
    *plate.damaged.lock().unwrap() = written;
    let after = plate.open();
    let (items, anybody) = (ServiceName::new("items").unwrap(), AgentName::fallback());
    assert!(after.stops().compromised(&items, &anybody));
    assert!(
        !after
            .stops()
            .cover(&ServiceName::new("other").unwrap(), &anybody)
    );
    assert!(after.is_burnt(&hash));
    assert_eq!(print_of(&"0g".repeat(32)), None);
}

/// Writes that overtake each other leave what stands, whichever was the last.
#[tokio::test]
async fn a_late_write_of_a_stop_does_not_bring_it_back() {
    let plate = Plate::default();
    let lineages = plate.open();
    lineages.stops().add(&items(), true);
    let everyone = GrantId {
        service: ServiceName::new("items").unwrap(),
        agent: AgentName::everyone(),
    };
    let (lifted, _) = lineages.stops().lift(&everyone, None);
    lineages.note_stops(lifted).await.unwrap();
    // The write of the stop itself.
    lineages.note_stops(vec![items()]).await.unwrap();
    assert!(plate.rows.lock().unwrap().is_empty());
}
