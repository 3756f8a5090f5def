//! The doors: how requests come in. Every door ends in one type, `Arrival`, and from there on nobody asks how it came.
//!
//! One port, or one unix socket, takes CONNECT and absolute form, in clear or in TLS. Another takes what the system redirects to it, and reads the name of its
//! destination from the handshake or from `Host`. A tunnel is intercepted with a leaf minted for its own authority, after
//! policy admitted that authority; SNI, `Host` and `:authority` must all name it. The room knows nothing of
//! credentials. Serves RFC 9110 §9.3.6 (CONNECT), RFC 9112 §3.2.2 (absolute form), RFC 8446 (as a TLS server).
//!
//! Invariants: no head of HTTP/1.1 becomes a request before the observer of `wire` has called it plain; every wait before a request has a deadline; connections are counted, in all and per agent; a tunnel
//! whose first bytes are no TLS handshake for the admitted name is closed without an upstream being dialled.

mod accept;
mod bucket;
mod calm;
mod connect;
mod crowd;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hello;
mod intercept;
mod linger;
mod listener;
mod proxy;
mod quota;
mod stall;
mod tls;
mod transparent;
mod unusual;
mod watched;

pub use accept::{Alarm, Doors, DoorsSetup, Limits};
pub use listener::{Listener, ListenerTlsError, SocketFile, server_tls, unix_socket};
pub use transparent::{RedirectMode, TransparentSettings};
