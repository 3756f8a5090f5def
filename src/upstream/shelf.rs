//! Where kept connections lie: one shelf per key, guarded by the pool's lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Version;
use tokio::sync::Notify;

use super::connection::{Http1Wire, Http2Line, Http2Shared, Protocol};
use super::key::Key;
use crate::vocab::Moment;

/// Up to so many requests at a time have HTTP/1.1 connections of their own ([`Protocol::Http1First`]). One socket for each
/// costs less than HTTP/2 while there are few, and more when there are many: what many write goes out, and comes back,
/// together. Of many, none has a socket of its own.
pub(super) const HTTP1_AT_A_TIME: usize = 4;

#[derive(Default)]
pub(super) struct Kept {
    pub(super) shelves: HashMap<Key, Shelf>,
    /// Shelves made so far.
    pub(super) made: u64,
    /// HTTP/1.1 connections on all shelves.
    pub(super) idle: usize,
}

/// What is kept under one key, all for one endpoint.
#[derive(Default)]
pub(super) struct Shelf {
    /// Its number, from 1. A connection goes back to the shelf that it was made for and to no later one, so that what
    /// was in use when its owner's connections were closed is not kept.
    pub(super) id: u64,
    pub(super) endpoint: u64,
    pub(super) used: Moment,
    pub(super) http1: Vec<Idle>,
    pub(super) http2: Vec<Arc<Http2Shared>>,
    /// What the server chose the last time.
    pub(super) known: Option<Version>,
    /// The server has refused HTTP/1.1.
    pub(super) http2_only: bool,
    /// HTTP/1.1 connections in use or being opened.
    busy: Arc<AtomicUsize>,
    /// Connections being opened that others may come to share.
    pub(super) opening: usize,
    pub(super) opened: Arc<Notify>,
}

/// Counts an HTTP/1.1 connection that is in use.
pub(super) struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

pub(super) struct Idle {
    pub(super) wire: Http1Wire,
    pub(super) since: Moment,
}

impl Kept {
    pub(super) fn shelf(&mut self, key: &Key, id: u64) -> Option<&mut Shelf> {
        self.shelves.get_mut(key).filter(|shelf| shelf.id == id)
    }

    /// Closes what is dead or was unused for long.
    pub(super) fn sweep(&mut self, now: Moment, idle_for: Duration) {
        let mut closed = 0;
        for shelf in self.shelves.values_mut() {
            let before = shelf.http1.len();
            shelf
                .http1
                .retain(|idle| now.since(idle.since) < idle_for && !idle.wire.sender.is_closed());
            closed += before - shelf.http1.len();
            shelf.http2.retain(|shared| {
                let since = Moment(shared.idle_since.load(Ordering::Acquire));
                let used = shared.streams.load(Ordering::Acquire) > 0;
                !shared.sender.is_closed() && (used || now.since(since) < idle_for)
            });
        }
        self.idle -= closed;
        self.shelves
            .retain(|_, shelf| !shelf.is_empty() || now.since(shelf.used) < idle_for);
    }

    /// Closes whatever nobody uses at the moment.
    pub(super) fn close_unused(&mut self) {
        for shelf in self.shelves.values_mut() {
            shelf.http1.clear();
            shelf
                .http2
                .retain(|shared| shared.streams.load(Ordering::Acquire) > 0);
        }
        self.idle = 0;
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Key, &Shelf) -> bool) {
        let mut closed = 0;
        self.shelves.retain(|key, shelf| {
            let stays = keep(key, shelf);
            if !stays {
                closed += shelf.clear();
            }
            stays
        });
        self.idle -= closed;
    }
}

impl Shelf {
    /// What is to be had where this is needed.
    pub(super) fn settle(&self, need: Protocol) -> Protocol {
        let shared = self
            .http2
            .iter()
            .map(|line| line.streams.load(Ordering::Acquire));
        let under_way = self.busy.load(Ordering::Acquire) + shared.sum::<usize>();
        let crowded = under_way >= HTTP1_AT_A_TIME;
        match need {
            Protocol::Http1First if self.http2_only || crowded => Protocol::Any,
            Protocol::Http1First => Protocol::Http1,
            settled => settled,
        }
    }

    /// One more HTTP/1.1 connection is in use, until this is dropped.
    pub(super) fn busy(&self) -> Busy {
        self.busy.fetch_add(1, Ordering::AcqRel);
        Busy(self.busy.clone())
    }

    /// A place on a living connection that the peer's SETTINGS have arrived on.
    pub(super) fn http2_line(&mut self) -> Option<Http2Line> {
        self.http2.retain(|shared| !shared.sender.is_closed());
        let mut greeted = self.http2.iter().filter(|shared| shared.meter.greeted());
        greeted.find_map(Http2Shared::place)
    }

    /// Closes all; how many were HTTP/1.1.
    pub(super) fn clear(&mut self) -> usize {
        self.http2.clear();
        self.known = None;
        self.http2_only = false;
        // Whoever waits for a connection of this shelf looks again.
        self.opening = 0;
        self.opened.notify_waiters();
        std::mem::take(&mut self.http1).len()
    }

    fn is_empty(&self) -> bool {
        self.http1.is_empty() && self.http2.is_empty()
    }
}
