//! Where one frame of a WebSocket ends and the next begins (RFC 6455 §5.2). Nothing of what is in them is looked at.

/// Follows the frames of one direction.
#[derive(Debug, Default)]
pub struct WebSocketFrames {
    /// What is known of the head of the frame: its bytes so far.
    head: [u8; 14],
    known: usize,
    /// Bytes of the payload that have not come.
    left: u64,
}

impl WebSocketFrames {
    /// Shows it the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX);
                let here = here.min(bytes.len());
                self.left -= here as u64;
                bytes = bytes.get(here..).unwrap_or_default();
                continue;
            }
            let Some((first, rest)) = bytes.split_first() else {
                return;
            };
            if let Some(place) = self.head.get_mut(self.known) {
                *place = *first;
            }
            self.known += 1;
            bytes = rest;
            if let Some(length) = self.length() {
                (self.left, self.known) = (length, 0);
            }
        }
    }

    /// Whether the last frame is whole and the next one has not begun.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.left == 0 && self.known == 0
    }

    /// The length of the payload, once the head is whole.
    fn length(&self) -> Option<u64> {
        let second = self.head[1];
        let (more, mask) = match second & 0x7f {
            126 => (2, second & 0x80),
            127 => (8, second & 0x80),
            _ => (0, second & 0x80),
        };
        let whole = 2 + more + if mask == 0 { 0 } else { 4 };
        if self.known < 2 || self.known < whole {
            return None;
        }
        let long = self.head.get(2..2 + more).unwrap_or_default();
        Some(match more {
            0 => u64::from(second & 0x7f),
            _ => long.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_their_heads_say() {
        let long = |head: &[u8], length: usize| [head, &vec![0x88; length]].concat();
        for frame in [
            vec![0x81, 0],
            vec![0x81, 2, b'h', b'i'],
            vec![0x81, 0x82, 1, 2, 3, 4, 9, 9],
            long(&[0x82, 126, 1, 0], 256),
            long(&[0x82, 0x80 | 126, 0, 200, 1, 2, 3, 4], 200),
            long(&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], 65536),
        ] {
            for piece in [1, 3, 7, frame.len()] {
                let mut frames = WebSocketFrames::default();
                let twice = [&frame[..], &frame].concat();
                let mut fed = 0;
                for bytes in twice.chunks(piece) {
                    frames.feed(bytes);
                    fed += bytes.len();
                    assert_eq!(
                        frames.is_between(),
                        fed % frame.len() == 0,
                        "{:?}",
                        &frame[..2]
                    );
                }
            }
        }
    }
}
