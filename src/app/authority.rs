//! The interception CA and the instance key, wherever the configuration keeps them.

use crate::ca::{self, Permitted, Root};
use crate::config::CaPlan;
use crate::credential::InstanceKey;
use crate::policy;
use crate::vocab::{Clock, Secret};

use super::error::StartError;

/// What this installation signs and derives with.
pub struct Custody {
    /// The interception CA.
    pub root: Root,
    /// From which placeholders are derived.
    pub instance: InstanceKey,
}

/// The hosts for which leaves are needed. A CA that is made for a policy can sign for these alone.
#[must_use]
pub fn permitted(policy: &policy::Settings) -> Permitted {
    let hosts = policy.intercepted().flat_map(|service| &service.hosts);
    Permitted::Only(hosts.map(|pattern| pattern.base().clone()).collect())
}

/// Opens or makes the CA and the instance key. A CA that is made here is constrained to the hosts of the policy.
///
/// # Errors
/// [`StartError::Ca`] where files are damaged, open to others, or cannot be written.
pub fn custody(
    plan: &CaPlan,
    policy: &policy::Settings,
    clock: &Clock,
) -> Result<Custody, StartError> {
    let (root, key) = match plan {
        CaPlan::Dir(dir) => (
            Root::load_or_create(dir, clock, &permitted(policy))?,
            ca::load_or_create_instance_key(dir)?,
        ),
        CaPlan::Given { cert_pem, key_pem } => (Root::from_pem(cert_pem, key_pem)?, in_memory()?),
        CaPlan::Memory => (Root::generate(clock, &permitted(policy))?, in_memory()?),
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
