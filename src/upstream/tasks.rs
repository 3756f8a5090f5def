//! The one place of this room where tasks begin, so that a drain can wait for all of them.

use std::future::Future;

use tokio_util::task::TaskTracker;

/// The tasks that drive connections.
#[derive(Clone, Default)]
pub(super) struct Tasks(TaskTracker);

impl Tasks {
    /// Starts a task. Outside of a runtime (late in a shutdown) it is dropped, which closes what it holds.
    pub(super) fn spawn(&self, task: impl Future<Output: Send> + Send + 'static) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            drop(self.0.spawn_on(task, &runtime));
        }
    }

    /// Waits until all tasks have ended.
    pub(super) async fn finished(&self) {
        self.0.close();
        self.0.wait().await;
    }
}

/// hyper drives the streams of an HTTP/2 connection on tasks of its own.
impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}
