//! Known values found in what flows by, however they were written, and taken out without changing a length.
//!
//! [`Sought`] is one value, prepared once: in itself and in base64, base64url (every alignment) and hex, each of these
//! also around a second encoding. Percent escapes, JSON escapes and character references may stand for any part of any
//! of these: [`search`](search::Found) reads them away, twice. [`Stream`] does this to a body piece by piece and holds
//! back only what could be the beginning of a value. [`Unpacker`] takes content codings off (RFC 9110 §8.4.1), bounded
//! in window and ratio.
//!
//! What is taken out is replaced by as many bytes, in the same form where that has a length of its own, so a
//! `Content-Length` and the frames of other protocols stay true. Where nothing is found, nothing is changed or copied.
//!
//! The room is pure: it does no I/O and knows neither HTTP nor what the values are for. Invariants: time is linear in
//! what flows by, but for what is held back being read again, at most 4 KiB for a piece or five times as much as came;
//! memory is bounded by the longest form of the values and a quarter of it; nothing prints a value.

mod form;
mod search;
mod sought;
mod stream;
mod unpack;
mod view;

#[cfg(test)]
mod tests;

pub use search::{Found, Watched};
pub use sought::{Sought, VALUE_MIN};
pub use stream::{Stream, is_due};
pub use unpack::{Coding, Unpacker, Unreadable};
