//! The end of what has begun: who waits for it, and what cuts it.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Shared by the doors and by what outlives a door's connection.
#[derive(Clone, Default)]
pub struct Ending {
    /// Everything that carries an exchange. Whoever drains waits for these.
    pub tasks: TaskTracker,
    /// Cancelled when waiting is over: each exchange ends at once, and its line is written.
    pub cut: CancellationToken,
}
