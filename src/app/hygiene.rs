//! Closes the process to its neighbours: other processes of the same user cannot read its environment, memory or
//! descriptors, a crash leaves no core with keys in it, and where the system lets us no page of it is swapped out.
//!
//! `execve` undoes the first and the last, so they are done by the process that serves, at its start. Root is not
//! stopped by any of it.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior,
    setrlimit,
};

/// Memory was locked. There is no way to ask the system.
static LOCKED: AtomicBool = AtomicBool::new(false);
/// The bit of `CAP_IPC_LOCK` (capability.h): memory may be locked beyond the limit.
const CAP_IPC_LOCK: u64 = 1 << 14;

/// What holds after [`close`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Not readable by others of the same user.
    pub not_dumpable: bool,
    /// No core file.
    pub no_core: bool,
    /// Memory is locked: no page of it is swapped out.
    pub no_swap: bool,
}

/// What holds now.
pub(super) fn standing() -> Closed {
    Closed {
        not_dumpable: matches!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable)),
        no_core: getrlimit(Resource::Core).current == Some(0),
        no_swap: LOCKED.load(Ordering::Relaxed),
    }
}

/// Locks memory as it comes into use, where there is no limit to that. Under a limit nothing is locked: the allocation
/// that goes over it would fail, and the process with it.
fn lock_memory() -> bool {
    let unlimited = getrlimit(Resource::Memlock).current.is_none() || may_lock();
    // ONFAULT: what is mapped and never used, such as the rest of a stack, stays without a page.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    let locked = unlimited && mlockall(flags).is_ok();
    LOCKED.store(locked, Ordering::Relaxed);
    locked
}

fn may_lock() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let bits = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let bits = bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits & CAP_IPC_LOCK != 0)
}

/// Closes the process, as far as the system allows, and reads back what holds.
#[must_use]
pub fn close() -> Closed {
    // The hard limit stays: the command of `run` inherits it, and may want cores of its own.
    let maximum = getrlimit(Resource::Core).maximum;
    let limited = setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            maximum,
        },
    )
    .is_ok();
    let set = set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok();
    let reads = matches!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
    Closed {
        not_dumpable: set && reads,
        no_core: limited,
        no_swap: lock_memory(),
    }
}
