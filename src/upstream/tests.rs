//! Over real sockets, against servers that say exactly what a test wants said.

mod client;
mod http1;
mod http2;
mod issuer;
mod kit;
mod pool;
mod trust;
