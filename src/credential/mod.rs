//! What comes off a request and what goes on: the agent's credentials are stripped, ours are attached last.
//!
//! The room holds the door between the two wings ([`Source`]: the hot path borrows a [`Lease`], the control wing
//! implements the lending) and the types that make a mistake impossible: a [`Bare`](BareHead) head carries nothing
//! that the agent sent as a credential, and an [`Armed`] request can only come from [`attach()`], which took a lease.
//!
//! It knows nothing of OAuth, configuration or sockets. Serves RFC 9449 §4 and §7 (proofs on requests), RFC 9110
//! §7.6.1 (hop-by-hop fields). Invariant: nothing removes or adds a field after the credential was set.

mod attach;
mod certificate;
mod lease;
mod nonces;
mod placeholder;
mod slot;
mod source;
mod strip;

pub use attach::{Armed, AttachError, BodyError, OutBody, Stamp, Wire, attach};
pub use certificate::{BadCertificate, Certificate};
pub use lease::{BadToken, Expiry, Kin, Lease, LeaseFacts};
pub use nonces::Nonces;
pub use placeholder::{
    InstanceKey, PlaceholderMode, PlaceholderSettings, Placeholders, Shape, ShapeError, derive,
};
pub use slot::Slot;
pub use source::{BoxFuture, Feedback, Source, Unavailable};
pub use strip::{
    BareHead, Bench, Intent, Seen, StripError, Stripped, TokenKind, is_one_cookies_value, strays,
    strip, strip_trailers,
};
