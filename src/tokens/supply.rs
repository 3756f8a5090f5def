//! Secrets that change while we run: a file that somebody replaces, a command that is run anew. Whoever uses one reads
//! it again each time, for a projected token that was read once is dead within the hour.

use std::fmt;
use std::sync::Arc;

use crate::vocab::Secret;

type Read = dyn Fn() -> Option<Secret<Vec<u8>>> + Send + Sync;

/// Where a secret is found, again and again.
#[derive(Clone)]
pub struct Supply {
    name: Arc<str>,
    read: Arc<Read>,
}

impl Supply {
    /// A source with a name by which a reload recognises it. `read` answers within ten seconds, with 64 KiB at most;
    /// `None` where there is nothing to be had.
    pub fn new(
        name: &str,
        read: impl Fn() -> Option<Secret<Vec<u8>>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            read: Arc::new(read),
        }
    }

    /// What is there now. Waits for the disk: for starting up only.
    pub(super) fn read_now(&self) -> Option<Secret<Vec<u8>>> {
        (self.read)()
    }

    /// What is there now, read on a thread of its own.
    pub(super) async fn read(&self) -> Option<Secret<Vec<u8>>> {
        let read = Arc::clone(&self.read);
        tokio::task::spawn_blocking(move || read()).await.ok()?
    }

    /// What is there now, as one line of visible characters: a token or an assertion.
    pub(super) async fn read_text(&self) -> Option<Secret<String>> {
        let bytes = self.read().await?;
        let text = std::str::from_utf8(bytes.expose()).ok()?.trim();
        let visible = !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21..=0x7e));
        visible.then(|| Secret::new(text.to_owned()))
    }
}

/// The same place, not the same content.
impl PartialEq for Supply {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Supply {}

impl fmt::Debug for Supply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supply").finish_non_exhaustive()
    }
}
