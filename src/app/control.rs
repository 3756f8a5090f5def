//! The control wing's own thread.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::thread::{self, JoinHandle};

use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

/// What runs on the control thread, side by side, until the end.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs `work` on a current-thread runtime until `stop`.
pub(super) fn spawn(work: Vec<Work>, stop: CancellationToken) -> io::Result<JoinHandle<()>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            runtime.block_on(async move {
                for future in work {
                    tokio::spawn(future);
                }
                stop.cancelled().await;
            });
        })
}
