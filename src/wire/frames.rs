//! The frames of HTTP/2 as an upstream writes them: how many field sections it sends for one stream (RFC 9113 §8.1).
//!
//! Interim answers are dropped below hyper's face and nobody counts them there. Each is a HEADERS frame, and those are
//! counted here without a look at what they say.

use std::collections::HashMap;

use super::INTERIM_MAX;

/// Bytes in front of each frame (RFC 9113 §4.1).
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
/// Interim answers, the answer and its trailers.
const SECTIONS_MAX: u8 = INTERIM_MAX + 2;
/// Streams that are remembered; far more than may be open at a time.
const STREAMS_MAX: usize = 4096;

/// Reads the frames of one connection beside the parser.
#[derive(Default)]
pub struct Frames {
    head: [u8; FRAME_HEAD],
    have: usize,
    /// What is left of the frame.
    skip: usize,
    sections: HashMap<u32, u8>,
    broken: bool,
}

impl Frames {
    /// Takes what was read; whether the peer keeps within bounds.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        let mut at = 0;
        while at < bytes.len() && !self.broken {
            let rest = bytes.len() - at;
            if self.skip > 0 {
                let here = self.skip.min(rest);
                self.skip -= here;
                at += here;
                continue;
            }
            let here = (FRAME_HEAD - self.have).min(rest);
            self.head[self.have..self.have + here].copy_from_slice(&bytes[at..at + here]);
            self.have += here;
            at += here;
            if self.have == FRAME_HEAD {
                self.have = 0;
                self.frame();
            }
        }
        !self.broken
    }

    fn frame(&mut self) {
        let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = self.head;
        self.skip = usize::from(l2) << 16 | usize::from(l1) << 8 | usize::from(l0);
        let stream = u32::from_be_bytes([s3 & 0x7f, s2, s1, s0]);
        if kind == RST_STREAM || (flags & END_STREAM > 0 && kind <= HEADERS) {
            self.sections.remove(&stream);
        } else if kind == HEADERS {
            let count = self.sections.entry(stream).or_default();
            *count += 1;
            self.broken = *count > SECTIONS_MAX || self.sections.len() > STREAMS_MAX;
        }
    }
}
