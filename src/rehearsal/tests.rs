//! The servers over real TLS sockets, with a client made here of hyper and p256.

mod api;
mod client;
mod faults;
mod issuer;
