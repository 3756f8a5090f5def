//! The audit file: one JSON line per request and per life-cycle event, each carrying the hash of the one before.
//!
//! What it does not know: HTTP, OAuth, tokens, rules. It is told words of `vocab` and writes them; `exchange` and
//! `tokens` translate. It never holds a secret, so no line needs redaction; what agents wrote (method, host, path) is
//! escaped and bounded, so that no request can forge a line, confuse a terminal or fill the disk by itself.
//!
//! Invariants: a line's place in the bounded queue is reserved before a credential is used; each [`Record`] yields
//! exactly one line, whatever happens to the request; the data path never waits for the disk; where a line cannot be
//! written, requests are refused (or, if so configured, the loss is counted and noted in the file).
//!
//! The chain: `hash` is the SHA-256, in hex, of the line's bytes from `{` to the quote that closes `prev`, so `prev`
//! is under the hash; `prev` is the `hash` of the line before, 64 zeros in the first. It shows edits, deletions and
//! reordering to whoever keeps the last hash elsewhere; it is no signature.

mod calm;
mod chain;
mod event;
mod facts;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod line;
mod record;
mod sink;
mod tail;
mod verify;
mod writer;

pub use event::Event;
pub use facts::{RequestFacts, Verdict};
pub use record::{Audit, AuditUnavailable, Record};
pub use sink::{AuditError, Settings, SinkSettings, WhenFull};
pub use tail::{Piece, Tail};
pub use verify::{Broken, Damage, Mark, Verified, verify};
pub use writer::Writer;
