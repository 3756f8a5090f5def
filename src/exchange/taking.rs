//! Whether an agent takes what it is given.
//!
//! An answer is asked for piece by piece, and whoever asks is told by the agent's own window. An agent that closes its
//! window and stays would hold an answer, and the upstream's connection behind it, for as long as it likes: while
//! nobody asks a body for more, no timer of the body runs. So the task that carries an answer is watched from outside.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

tokio::task_local! {
    static TAKING: Taking;
}

/// What the agent owes: to take the piece that was given to it, until a certain time. Shared by the task that carries
/// an answer and the answer's body.
#[derive(Clone)]
struct Taking(Arc<Due>);

struct Due {
    begun: Instant,
    /// Milliseconds after `begun`; 0: nothing is owed.
    at: AtomicU64,
}

impl Taking {
    fn due(&self) -> Option<Instant> {
        let at = self.0.at.load(Ordering::Relaxed);
        (at > 0).then(|| self.0.begun + Duration::from_millis(at))
    }
}

/// A body's hold on its task's watch. Nothing is owed any more when it is dropped.
pub(super) struct Owed {
    taking: Option<Taking>,
    limit: Duration,
}

impl Owed {
    /// The agent has from now on `limit` to take something. Outside of a watched task nothing happens.
    pub(super) fn within(limit: Duration) -> Self {
        let taking = TAKING.try_with(Clone::clone).ok();
        let owed = Self { taking, limit };
        owed.given();
        owed
    }

    /// A piece was given: the time begins anew.
    pub(super) fn given(&self) {
        if let Some(Taking(due)) = &self.taking {
            let at = due.begun.elapsed() + self.limit;
            let at = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
            due.at.store(at.max(1), Ordering::Relaxed);
        }
    }

    /// More was asked for and is not there yet: it is not the agent that is waited for.
    pub(super) fn taken(&self) {
        if let Some(Taking(due)) = &self.taking {
            due.at.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        self.taken();
    }
}

/// Runs a task that carries answers, one after the other. `None`: an agent did not take its answer in time, and the
/// task was dropped.
pub async fn watched<F: Future>(task: F) -> Option<F::Output> {
    let taking = Taking(Arc::new(Due {
        begun: Instant::now(),
        at: AtomicU64::new(0),
    }));
    let mut task = pin!(TAKING.scope(taking.clone(), task));
    let mut timer = pin!(None);
    std::future::poll_fn(move |cx| {
        if let Poll::Ready(output) = task.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        let Some(due) = taking.due() else {
            return Poll::Pending;
        };
        if timer.is_none() {
            timer.set(Some(sleep_until(due)));
        }
        let Some(mut timer) = timer.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        timer.poll(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);

    #[tokio::test]
    async fn what_is_not_taken_ends_its_task() {
        let stuck = async {
            let _owed = Owed::within(LIMIT);
            std::future::pending::<()>().await;
        };
        let begun = Instant::now();
        assert_eq!(watched(stuck).await, None);
        assert!(begun.elapsed() >= LIMIT);
    }

    #[tokio::test]
    async fn whoever_takes_may_take_its_time() {
        let task = async {
            for _ in 0..2 {
                let owed = Owed::within(LIMIT);
                for _ in 0..8 {
                    tokio::time::sleep(LIMIT / 5).await;
                    owed.given();
                }
                // Nothing is there to take.
                owed.taken();
                tokio::time::sleep(LIMIT * 2).await;
                owed.given();
                drop(owed);
                // Between two answers nothing is owed.
                tokio::time::sleep(LIMIT * 2).await;
            }
        };
        assert_eq!(watched(task).await, Some(()));
    }

    #[tokio::test]
    async fn outside_of_a_watched_task_nothing_is_owed() {
        let owed = Owed::within(Duration::ZERO);
        owed.given();
        assert!(owed.taking.is_none());
    }
}
