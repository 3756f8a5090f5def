//! Who follows the lines as they are written. Each follower has a bounded room of its own; where it is full, lines are
//! counted instead, and the follower is told how many. The audit thread never waits for one, and while nobody follows it
//! looks at one number for each batch. Requests know nothing of it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

/// Most followers at one time.
const FOLLOWERS_MAX: usize = 8;
/// Bytes of lines that wait for one follower.
const WAITING_MAX: usize = 1024 * 1024;

/// What a follower is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// A line as it stands in the file, without its end.
    Line(Arc<str>),
    /// So many lines found no room here; they are in the file.
    Lost(u64),
}

/// Follows the lines that are written from now on.
pub struct Tail(Arc<Room>);

impl Tail {
    /// The next piece, in the order of the file. Waits for one; may be cancelled.
    pub async fn next(&mut self) -> Piece {
        loop {
            if let Some(piece) = self.0.waiting().take() {
                return piece;
            }
            self.0.bell.notified().await;
        }
    }
}

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail").finish_non_exhaustive()
    }
}

/// Where one follower's lines wait.
#[derive(Debug, Default)]
struct Room {
    waiting: Mutex<Waiting>,
    bell: Notify,
}

impl Room {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Arc<str>>,
    bytes: usize,
    lost: u64,
}

impl Waiting {
    /// What was lost came behind the lines that wait, and before those that find room later.
    fn take(&mut self) -> Option<Piece> {
        if let Some(line) = self.lines.pop_front() {
            self.bytes -= line.len();
            return Some(Piece::Line(line));
        }
        let lost = std::mem::take(&mut self.lost);
        (lost > 0).then_some(Piece::Lost(lost))
    }

    fn put(&mut self, line: &Arc<str>) {
        // As long as something is lost nothing is put behind it, so that the order says where the gap is.
        if self.lost > 0 || self.bytes + line.len() > WAITING_MAX {
            self.lost += 1;
        } else {
            self.bytes += line.len();
            self.lines.push_back(Arc::clone(line));
        }
    }
}

/// All who follow.
#[derive(Debug, Default)]
pub(super) struct Followers {
    /// How many there are, or were a moment ago.
    many: AtomicUsize,
    rooms: Mutex<Vec<Weak<Room>>>,
}

impl Followers {
    /// One more; `None`: there are too many.
    pub(super) fn enter(&self) -> Option<Tail> {
        let mut rooms = self.rooms();
        rooms.retain(|room| room.strong_count() > 0);
        if rooms.len() >= FOLLOWERS_MAX {
            return None;
        }
        let room = Arc::new(Room::default());
        rooms.push(Arc::downgrade(&room));
        self.many.store(rooms.len(), Ordering::Release);
        Some(Tail(room))
    }

    /// A batch was written.
    pub(super) fn tell(&self, batch: &[u8]) {
        if self.many.load(Ordering::Acquire) == 0 {
            return;
        }
        let Ok(text) = std::str::from_utf8(batch) else {
            return;
        };
        let rooms: Vec<Arc<Room>> = {
            let mut rooms = self.rooms();
            let there = rooms.iter().filter_map(Weak::upgrade).collect();
            rooms.retain(|room| room.strong_count() > 0);
            self.many.store(rooms.len(), Ordering::Release);
            there
        };
        for line in text.lines().filter(|line| !line.is_empty()) {
            let line: Arc<str> = line.into();
            for room in &rooms {
                room.waiting().put(&line);
            }
        }
        for room in rooms {
            room.bell.notify_one();
        }
    }

    fn rooms(&self) -> MutexGuard<'_, Vec<Weak<Room>>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Piece {
        Piece::Line(text.into())
    }

    #[tokio::test]
    async fn lines_come_whole_and_in_order() {
        let followers = Followers::default();
        followers.tell(b"before\n");
        let mut tail = followers.enter().unwrap();
        let mut other = followers.enter().unwrap();
        // A line that a crash tore gets its end first.
        followers.tell(b"\na\nb\n");
        followers.tell(b"c\n");
        for text in ["a", "b", "c"] {
            assert_eq!(tail.next().await, line(text));
            assert_eq!(other.next().await, line(text));
        }
        drop(tail);
        followers.tell(b"d\n");
        assert_eq!(other.next().await, line("d"));
        assert_eq!(followers.many.load(Ordering::Relaxed), 1);
        drop(other);
        followers.tell(b"e\n");
        assert_eq!(followers.many.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn who_is_slow_is_told_how_much_is_lost_and_where() {
        let followers = Followers::default();
        let mut slow = followers.enter().unwrap();
        let long = "x".repeat(1023);
        let batch = format!("{long}\n").repeat(1100);
        followers.tell(batch.as_bytes());
        followers.tell(b"short\n");
        let room = WAITING_MAX / long.len();
        for _ in 0..room {
            assert_eq!(slow.next().await, line(&long));
        }
        let lost = u64::try_from(1100 - room + 1).unwrap();
        assert_eq!(slow.next().await, Piece::Lost(lost));
        followers.tell(b"after\n");
        assert_eq!(slow.next().await, line("after"));
    }

    #[test]
    fn followers_are_few() {
        let followers = Followers::default();
        let mut all: Vec<Tail> = (0..FOLLOWERS_MAX)
            .map(|_| followers.enter().unwrap())
            .collect();
        assert!(followers.enter().is_none());
        all.pop();
        assert!(followers.enter().is_some());
    }
}
