//! A text without its escapes: what a reader of URLs, of JSON and of HTML would see, and where each byte came from.
//!
//! Escapes of all three kinds are taken back at once, and only those that stand for a letter that a credential can have.
//! Whatever else is written in some special way cannot be a part of one.

use memchr::memchr3;

/// A text with its escapes taken back.
pub(super) struct View {
    pub(super) text: Vec<u8>,
    escapes: Vec<Escape>,
    /// Where an escape begins that the end of the text cuts; the end itself where none is cut.
    pub(super) open: usize,
}

/// One byte that was written as several.
struct Escape {
    /// Where it stands in the view.
    at: usize,
    /// Where it stood, and how long it was.
    from: usize,
    length: usize,
}

/// What stands at a mark.
enum Mark {
    Nothing,
    Letter(u8, usize),
    /// What follows will tell.
    Open,
}

impl View {
    /// `None`: there is nothing to take back. `quotes`: whether an escaped quote matters. `last`: nothing follows, so
    /// nothing is cut.
    pub(super) fn of(bytes: &[u8], quotes: bool, last: bool) -> Option<Self> {
        let mut view = Self {
            text: Vec::new(),
            escapes: Vec::new(),
            open: bytes.len(),
        };
        let (mut copied, mut from) = (0, 0);
        while let Some(found) = memchr3(b'%', b'\\', b'&', bytes.get(from..).unwrap_or_default()) {
            let at = from + found;
            let rest = bytes.get(at..).unwrap_or_default();
            match mark(rest, quotes) {
                Mark::Nothing => from = at + 1,
                Mark::Letter(letter, length) => {
                    if view.escapes.is_empty() {
                        view.text.reserve_exact(bytes.len());
                    }
                    view.text
                        .extend_from_slice(bytes.get(copied..at).unwrap_or_default());
                    view.escapes.push(Escape {
                        at: view.text.len(),
                        from: at,
                        length,
                    });
                    view.text.push(letter);
                    from = at + length;
                    copied = from;
                }
                Mark::Open if last => from = at + 1,
                Mark::Open => {
                    view.open = at;
                    break;
                }
            }
        }
        if view.escapes.is_empty() && view.open == bytes.len() {
            return None;
        }
        view.text
            .extend_from_slice(bytes.get(copied..view.open).unwrap_or_default());
        Some(view)
    }

    /// Whether it differs from what it is a view of, apart from a cut end.
    pub(super) fn changed(&self) -> bool {
        !self.escapes.is_empty()
    }

    /// Where a byte of the view stood; for its end, where what it shows ended.
    pub(super) fn source(&self, at: usize) -> usize {
        let before = self.escapes.partition_point(|escape| escape.at < at);
        match before.checked_sub(1).and_then(|n| self.escapes.get(n)) {
            Some(escape) => escape.from + escape.length + (at - escape.at - 1),
            None => at,
        }
    }

    /// Where the byte of the view stands that a place of the source is a part of.
    pub(super) fn place(&self, source: usize) -> usize {
        let source = source.min(self.open);
        let before = self.escapes.partition_point(|escape| escape.from < source);
        match before.checked_sub(1).and_then(|n| self.escapes.get(n)) {
            Some(escape) if source < escape.from + escape.length => escape.at,
            Some(escape) => escape.at + 1 + (source - escape.from - escape.length),
            None => source,
        }
    }
}

fn mark(rest: &[u8], quotes: bool) -> Mark {
    match rest {
        [b'%', ..] => digits(rest, 1, 2),
        [b'\\'] => Mark::Open,
        [b'\\', b'u', ..] => digits(rest, 2, 4),
        [b'\\', b'x', ..] => digits(rest, 2, 2),
        [b'\\', letter @ (b'/' | b'\\'), ..] => Mark::Letter(*letter, 2),
        [b'\\', b'"', ..] if quotes => Mark::Letter(b'"', 2),
        [b'&', ..] => reference(rest),
        _ => Mark::Nothing,
    }
}

/// So many hexadecimal digits behind a beginning of this length.
fn digits(rest: &[u8], beginning: usize, many: usize) -> Mark {
    let end = rest.len().min(beginning + many);
    let seen = rest.get(beginning..end).unwrap_or_default();
    let mut point = 0_u32;
    for digit in seen {
        match char::from(*digit).to_digit(16) {
            Some(digit) => point = point * 16 + digit,
            None => return Mark::Nothing,
        }
    }
    if seen.len() < many {
        return Mark::Open;
    }
    letter(point, end)
}

/// Letters that credentials have; others stay as they are written.
fn letter(point: u32, length: usize) -> Mark {
    match u8::try_from(point) {
        Ok(byte @ 0x20..=0x7e) => Mark::Letter(byte, length),
        _ => Mark::Nothing,
    }
}

/// Names of character references that escaping puts into credentials.
const NAMED: [(&[u8], u8); 14] = [
    (b"&amp;", b'&'),
    (b"&lt;", b'<'),
    (b"&gt;", b'>'),
    (b"&quot;", b'"'),
    (b"&apos;", b'\''),
    (b"&equals;", b'='),
    (b"&plus;", b'+'),
    (b"&sol;", b'/'),
    (b"&bsol;", b'\\'),
    (b"&period;", b'.'),
    (b"&lowbar;", b'_'),
    (b"&percnt;", b'%'),
    (b"&colon;", b':'),
    (b"&num;", b'#'),
];
/// Most digits of a reference by number, leading zeros included.
const NUMBER_MAX: usize = 7;

/// A character reference of HTML.
fn reference(rest: &[u8]) -> Mark {
    if rest.get(1).is_some_and(|byte| *byte != b'#') {
        if let Some((name, byte)) = NAMED.iter().find(|(name, _)| rest.starts_with(name)) {
            return Mark::Letter(*byte, name.len());
        }
        let cut = NAMED.iter().any(|(name, _)| name.starts_with(rest));
        return if cut { Mark::Open } else { Mark::Nothing };
    }
    let (beginning, base) = match rest {
        [b'&'] | [b'&', b'#'] => return Mark::Open,
        [b'&', b'#', b'x' | b'X', ..] => (3, 16),
        _ => (2, 10),
    };
    let mut point = 0_u32;
    let digits = rest.get(beginning..).unwrap_or_default();
    for (count, byte) in digits.iter().take(NUMBER_MAX + 1).enumerate() {
        if *byte == b';' && count > 0 {
            return letter(point, beginning + count + 1);
        }
        match char::from(*byte).to_digit(base) {
            Some(digit) => point = point.saturating_mul(base).saturating_add(digit),
            None => return Mark::Nothing,
        }
    }
    if digits.len() > NUMBER_MAX {
        Mark::Nothing
    } else {
        Mark::Open
    }
}
