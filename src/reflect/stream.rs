//! A text that comes piece by piece.

use bytes::{Bytes, BytesMut};

use super::search::Watched;

/// So many bytes are told at once though they could begin a value: a message that happens to end with a letter of one must
/// not wait for the next. They are remembered, so the rest of a value does not pass, and alone they are nothing.
const SAID_MAX: usize = 3;
/// Where more bytes than this are held back, they are not looked at again before a quarter of them has come anew: however
/// small the pieces are, each byte is looked at a few times and not once for each piece.
const SMALL: usize = 4 * 1024;

/// Whether so much that is held back is worth another look with so much that has come anew.
#[must_use]
pub fn is_due(held: usize, anew: usize) -> bool {
    held <= SMALL || anew >= held / 4
}

/// What flows by, watched.
pub struct Stream {
    watched: Watched,
    /// What could be the beginning of a value, as it came. Bounded by the longest form in two layers of escapes.
    held: Bytes,
    /// Came behind it and was not looked at: less than a quarter of it.
    anew: BytesMut,
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
            anew: BytesMut::new(),
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
            let anew = self.anew.len() + piece.len();
            if !last && !is_due(self.held.len(), anew) {
                self.anew.extend_from_slice(&piece);
                return Bytes::new();
            }
            let mut all = BytesMut::with_capacity(self.held.len() + anew);
            all.extend_from_slice(&self.held);
            all.extend_from_slice(&self.anew);
            all.extend_from_slice(&piece);
            self.held = Bytes::new();
            self.anew = BytesMut::new();
            all.freeze()
        };
        let found = self.watched.search(&text, last);
        let clear = found.clear.min(text.len());
        self.held = text.slice(clear..);
        let sent = self.sent;
        let gone = if self.held.len() <= SAID_MAX {
            text.len()
        } else {
            found.gone.clamp(sent, text.len())
        };
        self.sent = gone - clear;
        if !found.spans.is_empty() {
            // What is held back keeps its letters, because another value may begin with them.
            self.hits += found.ending(sent, gone);
            let mut changed = BytesMut::from(text);
            found.overwrite(&mut changed);
            text = changed.freeze();
        }
        text.slice(sent..gone)
    }

    /// Watches for something else from here on, what is held back included.
    pub fn watch(&mut self, watched: Watched) {
        self.watched = watched;
    }

    /// Bytes that are held back.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len() + self.anew.len() - self.sent
    }

    /// How many values were taken out so far.
    #[must_use]
    pub fn hits(&self) -> usize {
        self.hits
    }
}
