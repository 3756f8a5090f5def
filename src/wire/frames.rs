//! The frames of HTTP/2, read beside the parser: their heads alone, no payload and no compressed field.
//!
//! Of an upstream: how many field sections it sends for one stream (RFC 9113 §8.1). Interim answers are dropped below
//! hyper's face and nobody counts them there. Of an agent: what it has begun and not finished. The library waits for the
//! rest of a frame, and of a header block, for as long as the connection lives.

use std::collections::HashMap;

use super::INTERIM_MAX;

/// Bytes in front of each frame (RFC 9113 §4.1).
const FRAME_HEAD: usize = 9;
/// What an agent sends before its first frame (RFC 9113 §3.4).
const PREFACE: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// Interim answers, the answer and its trailers.
const SECTIONS_MAX: u8 = INTERIM_MAX + 2;
/// Streams that are remembered; far more than may be open at a time.
const STREAMS_MAX: usize = 4096;

/// Goes from frame to frame, over bytes in any segmentation.
#[derive(Default)]
struct Walk {
    head: [u8; FRAME_HEAD],
    have: usize,
    /// What is left of the frame.
    skip: usize,
}

/// The head of one frame, as far as somebody here asks.
struct FrameHead {
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Walk {
    /// Takes of the bytes what belongs to the frame under way. `None` once they are used up; otherwise how many were
    /// taken, and the head that they completed, if they did.
    fn step(&mut self, bytes: &[u8]) -> Option<(usize, Option<FrameHead>)> {
        if bytes.is_empty() {
            return None;
        }
        if self.skip > 0 {
            let here = self.skip.min(bytes.len());
            self.skip -= here;
            return Some((here, None));
        }
        let here = (FRAME_HEAD - self.have).min(bytes.len());
        self.head[self.have..self.have + here].copy_from_slice(&bytes[..here]);
        self.have += here;
        if self.have < FRAME_HEAD {
            return Some((here, None));
        }
        self.have = 0;
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = self.head;
        self.skip = usize::from(l2) << 16 | usize::from(l1) << 8 | usize::from(l0);
        let stream = u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]);
        Some((
            here,
            Some(FrameHead {
                kind,
                flags,
                stream,
            }),
        ))
    }
}

/// Counts the field sections that an upstream sends on one connection.
#[derive(Default)]
pub struct Frames {
    walk: Walk,
    sections: HashMap<u32, u8>,
    broken: bool,
}

impl Frames {
    /// Takes what was read; whether the peer keeps within bounds.
    pub fn feed(&mut self, mut bytes: &[u8]) -> bool {
        while !self.broken
            && let Some((taken, head)) = self.walk.step(bytes)
        {
            bytes = &bytes[taken..];
            if let Some(head) = head {
                self.frame(&head);
            }
        }
        !self.broken
    }

    fn frame(&mut self, head: &FrameHead) {
        if head.kind == RST_STREAM || (head.flags & END_STREAM > 0 && head.kind <= HEADERS) {
            self.sections.remove(&head.stream);
        } else if head.kind == HEADERS {
            let count = self.sections.entry(head.stream).or_default();
            *count += 1;
            self.broken = *count > SECTIONS_MAX || self.sections.len() > STREAMS_MAX;
        }
    }
}

/// What an agent has begun on one connection and must finish soon: the preface with its first frame, any frame but DATA,
/// a header block with all its CONTINUATIONs. The payload of DATA may come as slowly as a body may.
pub struct Underway {
    walk: Walk,
    kind: u8,
    /// Between HEADERS and the END_HEADERS that belongs to it, which nothing else may come between (RFC 9113 §6.10).
    block: bool,
    /// How many things have begun. The opening is the first.
    begun: u64,
    /// The first frame is whole.
    opened: bool,
}

impl Default for Underway {
    fn default() -> Self {
        let walk = Walk {
            skip: PREFACE,
            ..Walk::default()
        };
        Self {
            walk,
            kind: u8::MAX,
            block: false,
            begun: 0,
            opened: false,
        }
    }
}

impl Underway {
    /// Takes what was read.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        loop {
            let begins = self.walk.skip == 0 && self.walk.have == 0;
            let Some((taken, head)) = self.walk.step(bytes) else {
                return;
            };
            bytes = &bytes[taken..];
            // Each CONTINUATION is a frame of its own and no new beginning: the block is what must end.
            if begins && self.opened && !self.block {
                self.begun += 1;
            }
            if let Some(head) = head {
                self.kind = head.kind;
                if matches!(head.kind, HEADERS | CONTINUATION) {
                    self.block = head.flags & END_HEADERS == 0;
                }
            }
            let frame_ended = self.kind != u8::MAX && self.walk.have == 0 && self.walk.skip == 0;
            self.opened |= frame_ended;
        }
    }

    /// The number of what has begun and is not finished. The same number is the same thing, however much of it has come.
    #[must_use]
    pub fn unfinished(&self) -> Option<u64> {
        let inside = self.walk.skip > 0 && self.kind != DATA;
        let open = !self.opened || self.walk.have > 0 || inside || self.block;
        open.then_some(self.begun)
    }
}
