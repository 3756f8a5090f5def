//! Closes the process to its neighbours: other processes of the same user cannot read its environment, memory or
//! descriptors, and a crash leaves no core with keys in it. `execve` undoes the first, so it is done by the process that
//! serves, at its start. Root is not stopped by any of it.
//!
//! Memory is not locked: of locked pages the allocator can give none back, so one agent's crowd would be paid for until the
//! end of the process. Whether the system swaps at all is said instead.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior,
    setrlimit,
};

/// Where the system lists what it swaps to (proc_swaps(5)), behind one line of titles.
const SWAPS: &str = "/proc/swaps";

/// What holds after [`close`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Not readable by others of the same user.
    pub not_dumpable: bool,
    /// No core file.
    pub no_core: bool,
    /// The system has nothing to swap to, so no page of memory is written to a disk.
    pub no_swap: bool,
}

/// What holds now.
pub(super) fn standing() -> Closed {
    Closed {
        not_dumpable: matches!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable)),
        no_core: getrlimit(Resource::Core).current == Some(0),
        no_swap: nothing_to_swap_to(),
    }
}

/// `false` where the system does not say.
fn nothing_to_swap_to() -> bool {
    std::fs::read_to_string(SWAPS).is_ok_and(|list| list.lines().count() <= 1)
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
        no_swap: nothing_to_swap_to(),
    }
}
