//! Notices that a file has changed, whatever way: written in place, renamed over, or reached through symbolic links of
//! which one now leads elsewhere, as Kubernetes swaps a ConfigMap.
//!
//! It looks once a second instead of asking the kernel: watches follow the file that was there, and are silent on many
//! network and overlay file systems.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);

/// Which file stands at the path, and in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sight {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// Looks at one file.
pub struct Changes {
    path: PathBuf,
    /// As it was when it was last told of.
    told: Option<Sight>,
    /// As it was a moment ago.
    last: Option<Sight>,
}

impl Changes {
    /// From now on. Blocks for one look at the file.
    #[must_use]
    pub fn of(path: PathBuf) -> Self {
        let now = sight(&path);
        Self {
            path,
            told: now,
            last: now,
        }
    }

    /// Waits until the file is another one and has been left alone for a second: whoever writes in place is not done
    /// with the first byte. A file that is gone is no change.
    pub async fn next(&mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            let path = self.path.clone();
            let now = tokio::task::spawn_blocking(move || sight(&path)).await;
            let now = now.ok().flatten();
            let settled = now == self.last;
            self.last = now;
            if now.is_some() && settled && now != self.told {
                self.told = now;
                return;
            }
        }
    }
}

/// The file behind all links.
fn sight(path: &PathBuf) -> Option<Sight> {
    let found = fs::metadata(path).ok()?;
    Some(Sight {
        device: found.dev(),
        inode: found.ino(),
        size: found.len(),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}
