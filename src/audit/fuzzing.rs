//! What fuzz targets ask of this room, see `fuzz/`. It decides nothing itself.

use super::RequestFacts;
use super::chain::Chain;
use crate::vocab::{RequestId, WallTime};

/// The lines of these requests, as the writer seals them.
#[must_use]
pub fn sealed(requests: Vec<RequestFacts>) -> String {
    let (mut chain, mut text) = (Chain::start(), String::new());
    for mut facts in requests {
        facts.bound();
        let id = RequestId::from_random([7; 16]);
        chain.seal(&mut text, WallTime(0), "request", &facts.members(id));
    }
    text
}
