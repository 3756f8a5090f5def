//! A text that comes piece by piece.

use bytes::{Bytes, BytesMut};

use super::search::Watched;

/// So many bytes are told at once though they could begin a value: a message that happens to end with a letter of one must
/// not wait for the next. They are remembered, so the rest of a value does not pass, and alone they are nothing.
const SAID_MAX: usize = 3;

/// What flows by, watched.
pub struct Stream {
    watched: Watched,
    /// What could be the beginning of a value. Bounded by the longest form in two layers of escapes.
    held: Bytes,
    /// How much of its beginning has gone already.
    sent: usize,
    hits: usize,
}

impl Stream {
    /// A stream from its first byte.
    #[must_use]
    pub fn new(watched: Watched) -> Self {
        Self {
            watched,
            held: Bytes::new(),
            sent: 0,
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
        let clear = found.clear.min(text.len());
        self.held = text.slice(clear..);
        let gone = self.sent;
        if self.held.len() <= SAID_MAX {
            self.sent = self.held.len();
            return text.slice(gone..);
        }
        self.sent = gone.saturating_sub(clear);
        text.slice(gone.min(clear)..clear)
    }

    /// Watches for something else from here on, what is held back included.
    pub fn watch(&mut self, watched: Watched) {
        self.watched = watched;
    }

    /// Bytes that are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len() - self.sent
    }

    /// How many values were taken out so far.
    #[must_use]
    pub fn hits(&self) -> usize {
        self.hits
    }
}
