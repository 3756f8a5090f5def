//! The interception CA and the instance key, wherever the configuration keeps them.

use crate::ca::{self, Root};
use crate::config::CaPlan;
use crate::credential::InstanceKey;
use crate::vocab::{Clock, Secret};

use super::error::StartError;

/// What this installation signs and derives with.
pub struct Custody {
    /// The interception CA.
    pub root: Root,
    /// From which placeholders are derived.
    pub instance: InstanceKey,
}

/// Opens or makes the CA and the instance key.
///
/// # Errors
/// [`StartError::Ca`] where files are damaged, open to others, or cannot be written.
pub fn custody(plan: &CaPlan, clock: &Clock) -> Result<Custody, StartError> {
    let (root, key) = match plan {
        CaPlan::Dir(dir) => (
            Root::load_or_create(dir, clock)?,
            ca::load_or_create_instance_key(dir)?,
        ),
        CaPlan::Given { cert_pem, key_pem } => (Root::from_pem(cert_pem, key_pem)?, in_memory()?),
        CaPlan::Memory => (Root::generate(clock, &[])?, in_memory()?),
    };
    Ok(Custody {
        root,
        instance: InstanceKey::new(&key),
    })
}

/// A key that is new at each start.
fn in_memory() -> Result<Secret<Vec<u8>>, StartError> {
    let mut bytes = vec![0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| std::io::Error::other("no randomness"))?;
    Ok(Secret::new(bytes))
}
