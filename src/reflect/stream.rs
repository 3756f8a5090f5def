//! A text that comes piece by piece.

use bytes::{Bytes, BytesMut};

use super::search::Watched;

/// What flows by, watched.
pub struct Stream {
    watched: Watched,
    /// What could be the beginning of a value. Bounded by the longest form in two layers of escapes.
    held: Bytes,
    hits: usize,
}

impl Stream {
    /// A stream from its first byte.
    #[must_use]
    pub fn new(watched: Watched) -> Self {
        Self {
            watched,
            held: Bytes::new(),
            hits: 0,
        }
    }

    /// Takes the next piece and gives what can go on its way: the piece itself where there is nothing in it. `last`:
    /// nothing follows, and nothing is held back.
    pub fn push(&mut self, piece: Bytes, last: bool) -> Bytes {
        let mut text = if self.held.is_empty() {
            piece
        } else {
            let mut both = BytesMut::with_capacity(self.held.len() + piece.len());
            both.extend_from_slice(&self.held);
            both.extend_from_slice(&piece);
            self.held = Bytes::new();
            both.freeze()
        };
        let found = self.watched.search(&text, last);
        if !found.spans.is_empty() {
            self.hits += found.spans.len();
            let mut changed = BytesMut::from(text);
            found.overwrite(&mut changed);
            text = changed.freeze();
        }
        self.held = text.split_off(found.clear.min(text.len()));
        text
    }

    /// Bytes that are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How many values were taken out so far.
    #[must_use]
    pub fn hits(&self) -> usize {
        self.hits
    }
}
