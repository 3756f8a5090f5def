//! Capabilities: what the first process inside is lent, and how all of them go.

use std::io;

use rustix::process::{DumpableBehavior, Signal, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// What the first process inside needs before it drops everything: to mount `/proc`, and to empty the bounding set.
const LENT: [CapabilitySet; 2] = [CapabilitySet::SYS_ADMIN, CapabilitySet::SETPCAP];

/// Lets a child keep what it needs through its `exec`.
pub(super) fn lend() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    for lent in LENT {
        sets.inheritable |= lent;
    }
    set_capabilities(None, sets)?;
    for lent in LENT {
        configure_capability_in_ambient_set(lent, true)?;
    }
    Ok(())
}

/// Drops every capability, for this process and whatever it will ever start. Takes `CAP_SETPCAP`.
pub(super) fn drop_all() -> io::Result<()> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        // Beyond the last one that the kernel knows.
        let Ok(held) = capability_is_in_bounding_set(one) else {
            break;
        };
        if held {
            remove_capability_from_bounding_set(one)?;
        }
    }
    drop_held()
}

/// Drops what this process has. Whatever it starts gains nothing: that is what `no_new_privs` says, of files with
/// capabilities as well as of the user 0.
pub(super) fn drop_held() -> io::Result<()> {
    set_no_new_privs(true)?;
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?;
    Ok(())
}

/// Nobody of the same user looks into this process, and it does not outlive the one that started it. To be said again
/// whenever the process's rights have changed: the kernel forgets it then.
pub(super) fn bind_to_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    Ok(())
}

/// As the first half of [`bind_to_parent`] says. Not before the maps of a user namespace are written, which takes the files
/// of `/proc/self`.
pub(super) fn close_to_others() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
