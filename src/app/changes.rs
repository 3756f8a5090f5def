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

/// Looks at a few files: those that the configuration is made of.
pub struct Changes {
    files: Vec<Watched>,
}

struct Watched {
    path: PathBuf,
    /// As it was when it was last told of.
    told: Option<Sight>,
    /// As it was a moment ago.
    last: Option<Sight>,
}

impl Watched {
    fn of(path: PathBuf) -> Self {
        let now = sight(&path);
        Self {
            path,
            told: now,
            last: now,
        }
    }

    /// Whether it is another one and has been left alone since the look before.
    fn changed(&mut self, now: Option<Sight>) -> bool {
        let settled = now == self.last;
        self.last = now;
        now.is_some() && settled && now != self.told
    }
}

impl Changes {
    /// From now on. Blocks for one look at the file.
    #[must_use]
    pub fn of(path: PathBuf) -> Self {
        Self {
            files: vec![Watched::of(path)],
        }
    }

    /// Looks at these as well, and no more at those of before; the first one stays. Blocks for one look at each that is
    /// new.
    pub fn beside(&mut self, paths: &[PathBuf]) {
        let known = self.files.split_off(1);
        for path in paths {
            let known = known.iter().find(|file| file.path == *path);
            self.files.push(match known {
                Some(file) => Watched {
                    path: path.clone(),
                    told: file.told,
                    last: file.last,
                },
                None => Watched::of(path.clone()),
            });
        }
    }

    /// Waits until one of the files is another one and has been left alone for a second: whoever writes in place is not
    /// done with the first byte. A file that is gone is no change.
    pub async fn next(&mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            let paths: Vec<_> = self.files.iter().map(|file| file.path.clone()).collect();
            let seen = tokio::task::spawn_blocking(move || paths.iter().map(sight).collect());
            let seen: Vec<_> = seen.await.unwrap_or_default();
            let mut changed = false;
            for (file, now) in self.files.iter_mut().zip(seen) {
                changed |= file.changed(now);
            }
            if changed {
                for file in &mut self.files {
                    file.told = file.last;
                }
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
