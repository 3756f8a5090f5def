//! The interception CA: one root, leaf certificates minted by name, and the trust files that agents read.
//!
//! Does: make, load and keep the root and the instance key; mint leaves on demand, once per name however many ask;
//! write the public files of `runtime_dir`. Does not know: who asks, whether policy names the host (the caller asks
//! `policy` first, so that a stranger's SNI never costs a signature), HTTP, OAuth, configuration.
//!
//! Serves RFC 5280 (certificates) and RFC 9525 (names in them). Invariants: the root's private key is in no value
//! that can be printed or serialised, and in no file but `ca.key`; a leaf never outlives its root; what lies in
//! `runtime_dir` is public.

mod bundle;
mod cache;
mod constraints;
mod error;
mod files;
mod instance;
mod key;
mod leaf;
mod pem;
mod pkcs12;
mod root;

pub use bundle::{TrustFiles, agent_dir, write_trust_files};
pub use cache::{Leaf, Leaves, Origin};
pub use constraints::{NameConstraints, Permitted};
pub use error::CaError;
pub use instance::load_or_create_instance_key;
pub use root::Root;

use aws_lc_rs::rand;
use rcgen::SerialNumber;
use time::OffsetDateTime;

use crate::vocab::WallTime;

/// Random bytes from the TLS provider's generator.
fn random<const N: usize>() -> Result<[u8; N], CaError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| CaError::Random)?;
    Ok(bytes)
}

/// 126 random bits in 16 octets, positive and without a leading zero octet (RFC 5280 §4.1.2.2). A serial that can be
/// guessed is what made chosen-prefix forgeries possible; one that repeats makes clients refuse the second leaf.
fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = random::<16>()?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Certificates count whole seconds.
fn utc(at: WallTime) -> Result<OffsetDateTime, CaError> {
    OffsetDateTime::from_unix_timestamp(at.seconds()).map_err(|_| CaError::Signing)
}

#[cfg(test)]
mod tests;
