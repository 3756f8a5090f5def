//! The messages of a WebSocket on their way to the agent (RFC 6455 §5), searched like a body.
//!
//! Every message is searched as one, however it is cut into frames. What stands in for a credential has its length, so
//! frames go on as they came. No extension was agreed on, so a frame means what RFC 6455 says and nothing else.

use bytes::{Buf, BytesMut};

use crate::reflect::{Watched, is_due};

/// Longest payload of a control frame (RFC 6455 §5.5).
const CONTROL_MAX: usize = 125;
/// Longest head of a frame.
const HEAD_MAX: usize = 14;
/// Most bytes of heads and control frames that wait beside a payload that waits.
const BESIDE_MAX: usize = 64 * 1024;
/// The control frame behind which nothing comes (RFC 6455 §5.5.1).
const CLOSE: u8 = 8;

/// The API broke the rules of RFC 6455, or put too much between the frames of a message: what it says cannot be
/// searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Broken;

/// One direction of a WebSocket.
pub(super) struct Messages {
    watched: Watched,
    /// Came, and was not looked at: less than a head, or less than a control frame.
    raw: BytesMut,
    /// Looked at and not let go: bounded by what the search holds back, and by [`BESIDE_MAX`] beside it.
    pending: BytesMut,
    /// The payload in `pending`, as it came.
    payload: Vec<u8>,
    /// What has gone of the payload before it and may be the beginning of another credential: the end of one.
    before: Vec<u8>,
    /// How much of both was looked at.
    searched: usize,
    /// Where the parts of that payload stand in `pending`.
    parts: Vec<Part>,
    /// The length of the last head, until some of its payload came.
    head: usize,
    /// What is left of the frame under way, and whether it ends its message.
    left: u64,
    last: bool,
    /// A message is under way.
    open: bool,
    /// The API has closed: what it says behind that is for nobody.
    closed: bool,
    hits: usize,
}

/// Some of the payload.
struct Part {
    /// Where it begins in the payload, and where in `pending`.
    payload: usize,
    at: usize,
    /// The length of its frame's head, where that stands right before it.
    head: usize,
}

/// The head of a frame.
struct Head {
    length: usize,
    fin: bool,
    opcode: u8,
    payload: u64,
}

impl Messages {
    pub(super) fn new(watched: Watched) -> Self {
        Self {
            watched,
            raw: BytesMut::new(),
            pending: BytesMut::new(),
            payload: Vec::new(),
            before: Vec::new(),
            searched: 0,
            parts: Vec::new(),
            head: 0,
            left: 0,
            last: false,
            open: false,
            closed: false,
            hits: 0,
        }
    }

    /// Watches for something else from here on, what waits included.
    pub(super) fn watch(&mut self, watched: Watched) {
        self.watched = watched;
    }

    /// How many credentials were taken out since this was asked last.
    pub(super) fn hits(&mut self) -> usize {
        std::mem::take(&mut self.hits)
    }

    /// Takes what came and adds to `clear` what can go on.
    ///
    /// # Errors
    /// [`Broken`]; what is in `clear` came before that, and nothing goes on behind it.
    pub(super) fn pass(&mut self, bytes: &[u8], clear: &mut BytesMut) -> Result<(), Broken> {
        self.raw.extend_from_slice(bytes);
        loop {
            if self.closed {
                self.raw.clear();
                return Ok(());
            }
            if self.pending.len() > self.payload.len() + BESIDE_MAX {
                return Err(Broken);
            }
            if self.left > 0 {
                if self.raw.is_empty() {
                    return Ok(());
                }
                self.payload_came(clear);
                continue;
            }
            let Some(head) = head(&self.raw)? else {
                return Ok(());
            };
            if head.opcode >= 8 {
                if !self.control(&head, clear)? {
                    return Ok(());
                }
                continue;
            }
            // A message begins with its kind, and its other frames have none.
            let continues = head.opcode == 0;
            if head.opcode > 2 || continues != self.open {
                return Err(Broken);
            }
            self.pending
                .extend_from_slice(&self.raw.split_to(head.length));
            self.open = !head.fin;
            self.last = head.fin;
            self.left = head.payload;
            self.head = head.length;
            if self.left == 0 {
                self.search(clear);
            }
        }
    }

    /// Part of a frame's payload.
    fn payload_came(&mut self, clear: &mut BytesMut) {
        let many = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(self.raw.len());
        let part = self.raw.split_to(many);
        self.left -= many as u64;
        let continues = |last: &Part| {
            self.head == 0 && last.at + (self.payload.len() - last.payload) == self.pending.len()
        };
        if !self.parts.last().is_some_and(continues) {
            self.parts.push(Part {
                payload: self.payload.len(),
                at: self.pending.len(),
                head: std::mem::take(&mut self.head),
            });
        }
        self.payload.extend_from_slice(&part);
        self.pending.extend_from_slice(&part);
        self.search(clear);
    }

    /// Searches what is there of the message, and lets go what can.
    fn search(&mut self, clear: &mut BytesMut) {
        let ends = self.last && self.left == 0;
        if self.payload.is_empty() && !ends {
            // Nothing but heads.
            clear.unsplit(self.pending.split());
            return;
        }
        let anew = self.before.len() + self.payload.len() - self.searched;
        if ends || (anew > 0 && is_due(self.searched, anew)) {
            self.look(ends, clear);
        }
    }

    /// `last`: nothing of the message follows, so nothing waits.
    fn look(&mut self, last: bool, clear: &mut BytesMut) {
        let mut text = std::mem::take(&mut self.before);
        let before = text.len();
        let found = if before == 0 {
            self.watched.search(&self.payload, last)
        } else {
            text.extend_from_slice(&self.payload);
            self.watched.search(&text, last)
        };
        let whole = before + self.payload.len();
        let gone = found.gone.clamp(before, whole);
        self.hits += found.ending(before, gone);
        for (begin, stand_in) in &found.spans {
            for (at, letter) in (*begin..).zip(stand_in) {
                let place = at.checked_sub(before).map(|at| self.place(at));
                if let Some(byte) = place.and_then(|place| self.pending.get_mut(place)) {
                    *byte = *letter;
                }
            }
        }
        if found.clear < gone {
            let text = if before == 0 { &self.payload } else { &text };
            self.before = text.get(found.clear..gone).unwrap_or_default().to_vec();
        }
        if gone == whole {
            clear.unsplit(self.pending.split());
            self.payload.clear();
            self.parts.clear();
        } else {
            self.let_go(gone - before, clear);
        }
        self.searched = self.before.len() + self.payload.len();
    }

    /// Lets go what stands before a byte of the payload. The head of its frame waits with it, so that another frame can go
    /// before it.
    fn let_go(&mut self, payload: usize, clear: &mut BytesMut) {
        let place = self.place(payload);
        let next = self.parts.partition_point(|part| part.payload <= payload);
        let rest = self.parts.split_off(next);
        let begins = self.parts.pop().filter(|part| part.payload == payload);
        let head = begins.map_or(0, |part| part.head);
        let cut = place - head;
        clear.unsplit(self.pending.split_to(cut));
        self.payload.drain(..payload);
        let first = Part {
            payload: 0,
            at: head,
            head,
        };
        let rest = rest.into_iter().map(|part| Part {
            payload: part.payload - payload,
            at: part.at - cut,
            head: part.head,
        });
        self.parts = std::iter::once(first).chain(rest).collect();
    }

    /// Where a byte of the payload stands in `pending`.
    fn place(&self, payload: usize) -> usize {
        let part = self.parts.partition_point(|part| part.payload <= payload);
        let part = part.checked_sub(1).and_then(|part| self.parts.get(part));
        part.map_or(0, |part| part.at + (payload - part.payload))
    }

    /// A control frame, which may stand between the frames of a message. `false`: it is not whole yet.
    fn control(&mut self, head: &Head, clear: &mut BytesMut) -> Result<bool, Broken> {
        let payload = usize::try_from(head.payload).unwrap_or(usize::MAX);
        if !head.fin || payload > CONTROL_MAX || head.opcode > 10 {
            return Err(Broken);
        }
        if self.raw.len() < head.length + payload {
            return Ok(false);
        }
        let begin = self.raw.split_to(head.length);
        let mut text = self.raw.split_to(payload);
        if let Some(without) = self.watched.without(&text) {
            self.hits += 1;
            text.copy_from_slice(&without);
        }
        if head.opcode == CLOSE {
            // Nothing follows, so nothing waits.
            self.closed = true;
            self.look(true, clear);
        }
        // It goes before what waits (RFC 6455 §5.4), unless some of that frame has gone already.
        let apart = self.parts.first().is_some_and(|part| part.head > 0);
        let into = if self.pending.is_empty() || apart {
            clear
        } else {
            &mut self.pending
        };
        into.extend_from_slice(&begin);
        into.extend_from_slice(&text);
        Ok(true)
    }
}

/// The head of the next frame; `None`: it is not whole yet.
fn head(raw: &BytesMut) -> Result<Option<Head>, Broken> {
    let [first, second, ..] = raw.as_ref() else {
        return Ok(None);
    };
    // A server masks nothing (RFC 6455 §5.1), and nothing was agreed on that would use the reserved bits.
    if second & 0x80 != 0 || first & 0x70 != 0 {
        return Err(Broken);
    }
    let mut rest = raw.get(2..HEAD_MAX.min(raw.len())).unwrap_or_default();
    let (length, payload) = match second & 0x7f {
        126 if rest.len() >= 2 => (4, rest.get_u16().into()),
        127 if rest.len() >= 8 => (10, rest.get_u64()),
        126 | 127 => return Ok(None),
        short => (2, short.into()),
    };
    if payload >> 63 != 0 {
        return Err(Broken);
    }
    Ok(Some(Head {
        length,
        fin: first & 0x80 != 0,
        opcode: first & 0x0f,
        payload,
    }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::reflect::Sought;

    const TOKEN: &str = "token-0123456789-abcdef";

    fn watched() -> Watched {
        let sought = Sought::new(TOKEN.as_bytes()).unwrap();
        Watched::new(vec![Arc::new(sought)], "tw-placeholder")
    }

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match u8::try_from(payload.len()) {
            Ok(short) if short < 126 => frame.push(short),
            _ => {
                frame.push(126);
                frame.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        frame
    }

    /// The frames that a reader sees, and how many credentials were taken out.
    fn through(bytes: &[u8], cut: usize) -> (Vec<u8>, usize) {
        let mut messages = Messages::new(watched());
        let mut out = Vec::new();
        for part in [&bytes[..cut], &bytes[cut..]] {
            let mut clear = BytesMut::new();
            messages.pass(part, &mut clear).unwrap();
            out.extend_from_slice(&clear);
        }
        (out, messages.hits())
    }

    #[test]
    fn a_message_is_one_text_however_it_is_cut() {
        let text = format!("{}{TOKEN} and {TOKEN}", "x".repeat(200));
        let (a, rest) = text.as_bytes().split_at(210);
        let (b, c) = rest.split_at(5);
        let bytes = [
            frame(0x01, a),
            frame(0x89, b"ping"),
            frame(0x00, b),
            frame(0x8a, TOKEN.as_bytes()),
            frame(0x00, b""),
            frame(0x80, c),
            frame(0x82, b"next"),
        ]
        .concat();
        for cut in 0..=bytes.len() {
            let (out, hits) = through(&bytes, cut);
            assert_eq!((out.len(), hits), (bytes.len(), 3), "{cut}");
            let heads: Vec<u8> = [0_usize, 214, 220].iter().map(|at| out[*at]).collect();
            assert_eq!(heads, [0x01, 0x89, 0x00], "{cut}");
            assert!(out.ends_with(b"\x82\x04next"));
            let letters: Vec<u8> = out.iter().copied().filter(u8::is_ascii_graphic).collect();
            let letters = String::from_utf8(letters).unwrap();
            assert!(!letters.contains("token-01234") && letters.contains("tw-placeholder"));
        }
    }

    /// What is let go of these frames, one after the other, and the most that waits.
    fn one_by_one(frames: impl Iterator<Item = Vec<u8>>) -> (Vec<Vec<u8>>, usize, Option<Broken>) {
        let mut messages = Messages::new(watched());
        let (mut out, mut most) = (Vec::new(), 0);
        for frame in frames {
            let mut clear = BytesMut::new();
            let passed = messages.pass(&frame, &mut clear);
            most = most.max(messages.pending.len() + messages.raw.len());
            out.push(clear.to_vec());
            if passed.is_err() {
                return (out, most, passed.err());
            }
        }
        (out, most, None)
    }

    #[test]
    fn what_stands_between_frames_waits_only_where_it_must_and_not_without_end() {
        // Some of the frame has gone: what comes between waits, up to a bound.
        let begun = || std::iter::once(frame(0x01, b"it is token-0"));
        for between in [frame(0x89, &[b'p'; 125]), frame(0x00, b"")] {
            let many = std::iter::repeat_n(between, 1 << 20);
            let (_, most, broken) = one_by_one(begun().chain(many));
            assert_eq!(broken, Some(Broken));
            assert!(most < BESIDE_MAX + 1024, "{most}");
        }
        // All of it waits: a ping goes before it, as often as one comes.
        let begun = std::iter::once(frame(0x01, b"token-0"));
        let pings = std::iter::repeat_n(frame(0x89, b"ping"), 20_000);
        let end = std::iter::once(frame(0x80, b"ther"));
        let (out, most, broken) = one_by_one(begun.chain(pings).chain(end));
        assert_eq!((broken, most), (None, 9));
        assert_eq!((out[0].len(), &out[1][..]), (0, &frame(0x89, b"ping")[..]));
        let whole = [frame(0x01, b"token-0"), frame(0x80, b"ther")].concat();
        assert_eq!(out.last(), Some(&whole));
    }

    #[test]
    fn a_close_ends_what_waits_and_what_comes() {
        for begun in ["token-0", "it is token-0"] {
            let parts = [
                frame(0x01, begun.as_bytes()),
                frame(0x88, &[3, 232]),
                frame(0x80, TOKEN.strip_prefix("token-0").unwrap().as_bytes()),
            ];
            let seen = parts[..2].concat();
            let (out, _, broken) = one_by_one(parts.into_iter());
            assert_eq!((out.concat(), broken), (seen, None));
        }
    }

    #[test]
    fn while_much_waits_it_is_not_read_again_for_each_frame() {
        let long: String = (0..3000).map(|n| format!("{n:04x}")).collect();
        let all = [&long, TOKEN].map(|value| Arc::new(Sought::new(value.as_bytes()).unwrap()));
        let watched = Watched::new(all.to_vec(), "tw-placeholder");
        let held = 8 * 1024;
        let begun = frame(0x01, long.as_bytes().get(..held).unwrap());
        let mut messages = Messages::new(watched.clone());
        let mut clear = BytesMut::new();
        messages.pass(&begun, &mut clear).unwrap();
        // It is no token, which shows when it is looked at: with a quarter of what waits.
        for _ in 1..held / 4 {
            messages.pass(&frame(0x00, b"!"), &mut clear).unwrap();
            assert!(clear.is_empty());
        }
        messages.pass(&frame(0x00, b"!"), &mut clear).unwrap();
        assert_eq!(clear.len(), begun.len() + held / 4 * 3);
        // What was not looked at is looked at in the end, whichever end that is.
        for end in [frame(0x80, b""), frame(0x88, &[3, 232])] {
            let mut messages = Messages::new(watched.clone());
            let mut clear = BytesMut::new();
            let more = frame(0x00, TOKEN.as_bytes());
            messages.pass(&begun, &mut clear).unwrap();
            messages.pass(&more, &mut clear).unwrap();
            assert!(clear.is_empty());
            messages.pass(&end, &mut clear).unwrap();
            assert_eq!(clear.len(), begun.len() + more.len() + end.len());
            assert_eq!(messages.hits(), 1);
            assert!(!clear.windows(TOKEN.len()).any(|w| w == TOKEN.as_bytes()));
        }
    }

    #[test]
    fn a_credential_that_begins_inside_another_is_found_at_every_cut() {
        let all = ["first-value-overlap", "overlap-second-value"]
            .map(|value| Arc::new(Sought::new(value.as_bytes()).unwrap()));
        let watched = Watched::new(all.to_vec(), "XXXX");
        for (text, kept, hits) in [
            ("..first-value-overlap-second-value..", "....", 2),
            (
                "..first-value-overlap-second-valu!..",
                "..-second-valu!..",
                1,
            ),
        ] {
            for cut in 0..=text.len() {
                let (a, b) = text.as_bytes().split_at(cut);
                let mut messages = Messages::new(watched.clone());
                let mut clear = BytesMut::new();
                for frame in [frame(0x01, a), frame(0x00, b""), frame(0x80, b)] {
                    messages.pass(&frame, &mut clear).unwrap();
                }
                assert_eq!(
                    (clear.len(), messages.hits()),
                    (text.len() + 6, hits),
                    "{cut}"
                );
                let payload = [&clear[2..2 + cut], &clear[6 + cut..]].concat();
                let mut letters = String::from_utf8(payload).unwrap();
                letters.retain(|letter| letter != 'X');
                assert_eq!(letters, kept, "{cut}");
            }
        }
    }

    #[test]
    fn messages_apart_are_texts_apart_and_leave_at_once() {
        let (a, b) = TOKEN.as_bytes().split_at(9);
        let mut messages = Messages::new(watched());
        for part in [frame(0x81, a), frame(0x81, b), frame(0x81, b"")] {
            let mut clear = BytesMut::new();
            messages.pass(&part, &mut clear).unwrap();
            assert_eq!(clear, part);
        }
        assert_eq!(messages.hits(), 0);
    }

    #[test]
    fn what_is_no_frame_ends_it() {
        for bad in [
            frame(0xc1, b"compressed"),
            frame(0x83, b"unknown kind"),
            frame(0x80, b"continues nothing"),
            frame(0x09, b"half a ping"),
            frame(0x89, &[0; 126]),
            vec![0x81, 0x84, 0, 0, 0, 0],
            vec![0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0],
        ] {
            let mut clear = BytesMut::new();
            let bytes = [frame(0x81, b"before"), bad.clone()].concat();
            let outcome = Messages::new(watched()).pass(&bytes, &mut clear);
            assert_eq!(
                (outcome, &clear[..]),
                (Err(Broken), &frame(0x81, b"before")[..]),
                "{bad:?}"
            );
        }
    }
}
