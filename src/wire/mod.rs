//! Heads and framing as bytes: what an HTTP parser forgives is seen here.
//!
//! hyper is the parser. It takes line ends without CR, drops a `Content-Length` beside a coding, folds equal lengths into
//! one and skips any number of interim answers, and what it hands up shows none of it. The observers of this room read
//! the same bytes before it does. They never change and never interpret a byte for forwarding: they can only refuse.
//!
//! The room is pure: no I/O, no clock, no allocation per byte, and no work in a body of counted length. It does not know
//! what requests mean, whose they are or what is done about a fault. Serves RFC 9112 §2.2, §4 to §7 and RFC 9113 §4.
//!
//! Invariants: bytes in any segmentation give the same verdicts; after a fault nothing is clean any more; what an
//! observer remembers has a bound that is stated where it is kept.

mod chunks;
mod frames;
mod head;
mod request;
mod response;
mod socket;
mod tunnel;

pub use frames::{Frames, Underway};
pub use head::Fault;
pub use request::{Requests, Stop, Verdict};
pub use response::{Asked, Came, Responses};
pub use socket::WebSocketFrames;
pub use tunnel::{TunnelAnswer, tunnel_answer};

/// Most interim answers to one request; a browser's page has one or two.
const INTERIM_MAX: u8 = 8;

#[cfg(test)]
mod tests;
