//! Closes the process to its neighbours: other processes of the same user cannot read its environment, memory or
//! descriptors, and a crash leaves no core with keys in it.
//!
//! `execve` undoes the first, so it is done by the process that serves, at its start. Root is not stopped by it.

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior,
    setrlimit,
};

/// What holds after [`close`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Not readable by others of the same user.
    pub not_dumpable: bool,
    /// No core file.
    pub no_core: bool,
}

/// What holds now.
pub(super) fn standing() -> Closed {
    Closed {
        not_dumpable: matches!(dumpable_behavior(), Ok(DumpableBehavior::NotDumpable)),
        no_core: getrlimit(Resource::Core).current == Some(0),
    }
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
    }
}
