//! Bytes as a reader sees them that takes an encoding back. Each of these writes parts of a text in another way, all of it
//! or a letter here and there, so the text is taken back and not the value written in every possible way.
//!
//! What is not encoded is passed on as it stands: a view of a file is the file, with less in the way.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// A way to read.
#[derive(Clone, Copy)]
pub(super) struct View {
    /// What it is called in reports.
    pub(super) name: &'static str,
    /// Without one of these bytes it changes nothing.
    marks: &'static [u8],
    read: fn(&[u8]) -> Vec<u8>,
}

/// All of them.
pub(super) const VIEWS: [View; 6] = [
    View {
        name: "wrapped lines",
        marks: b"\r\n",
        read: joined,
    },
    View {
        name: "percent",
        marks: b"%",
        read: percent,
    },
    View {
        name: "JSON",
        marks: b"\\",
        read: json,
    },
    View {
        name: "HTML",
        marks: b"&",
        read: html,
    },
    View {
        name: "UTF-16",
        marks: b"\0",
        read: narrow,
    },
    View {
        name: "base64",
        marks: b"",
        read: decoded,
    },
];

impl View {
    /// The bytes as this reader sees them; `None`: as they stand.
    pub(super) fn of(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let marked = self.marks.is_empty() || bytes.iter().any(|byte| self.marks.contains(byte));
        let seen = marked.then(|| (self.read)(bytes))?;
        (!seen.is_empty() && seen != bytes).then_some(seen)
    }
}

/// Without line ends: base64 in mails, PEM and YAML is wrapped.
fn joined(bytes: &[u8]) -> Vec<u8> {
    let kept = bytes.iter().filter(|byte| !b"\r\n\t ".contains(byte));
    kept.copied().collect()
}

/// RFC 3986 §2.1.
fn percent(bytes: &[u8]) -> Vec<u8> {
    taken_back(bytes, b'%', |rest| {
        let byte = number(rest.get(1..3)?, 16)?;
        Some((u8::try_from(byte).ok()?.into(), 3))
    })
}

/// RFC 8259 §7, and what other languages write after a backslash.
fn json(bytes: &[u8]) -> Vec<u8> {
    taken_back(bytes, b'\\', |rest| {
        let letter = match rest.get(1)? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return Some((number(rest.get(2..6)?, 16)?, 6)),
            b'x' => return Some((number(rest.get(2..4)?, 16)?, 4)),
            other => *other,
        };
        Some((letter.into(), 2))
    })
}

/// Character references with a number, and the named ones that escaping needs.
fn html(bytes: &[u8]) -> Vec<u8> {
    const NAMED: [(&[u8], u8); 6] = [
        (b"&amp;", b'&'),
        (b"&lt;", b'<'),
        (b"&gt;", b'>'),
        (b"&quot;", b'"'),
        (b"&apos;", b'\''),
        (b"&equals;", b'='),
    ];
    taken_back(bytes, b'&', |rest| {
        if let Some((name, byte)) = NAMED.iter().find(|(name, _)| rest.starts_with(name)) {
            return Some((u32::from(*byte), name.len()));
        }
        let (digits, base) = match rest.get(1..3)? {
            [b'#', b'x' | b'X'] => (rest.get(3..)?, 16),
            [b'#', _] => (rest.get(2..)?, 10),
            _ => return None,
        };
        let before = rest.len() - digits.len();
        let end = digits.iter().take(9).position(|byte| *byte == b';')?;
        Some((number(digits.get(..end)?, base)?, before + end + 1))
    })
}

/// Without the bytes that UTF-16 and UTF-32 add to letters of ASCII.
fn narrow(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().filter(|byte| **byte != 0).copied().collect()
}

/// Every run of base64 that could hold a value, taken back; nothing else.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    const RUN_MIN: usize = 16;
    let letter = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(byte);
    let mut seen = Vec::new();
    for run in bytes
        .split(|byte| !letter(byte))
        .filter(|run| run.len() >= RUN_MIN)
    {
        // One letter too many is what a window or another text has added.
        let run = if run.len() % 4 == 1 {
            run.split_last().map_or(run, |(_, run)| run)
        } else {
            run
        };
        let whole = run.len() / 4 * 4;
        for run in [run, run.get(..whole).unwrap_or_default()] {
            let plain = STANDARD_NO_PAD
                .decode(run)
                .or_else(|_| URL_SAFE_NO_PAD.decode(run));
            if let Ok(plain) = plain {
                seen.extend(plain);
                seen.push(b'\n');
                break;
            }
        }
    }
    seen
}

/// Replaces what `read` knows at each `mark` by the character that it stands for.
fn taken_back(bytes: &[u8], mark: u8, read: impl Fn(&[u8]) -> Option<(u32, usize)>) -> Vec<u8> {
    let mut seen = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let found = (first == mark).then(|| read(rest)).flatten();
        let Some((point, length)) = found else {
            seen.push(first);
            rest = after;
            continue;
        };
        match (u8::try_from(point), char::from_u32(point)) {
            // Values are bytes: a percent-encoded one is that byte, whatever it is a part of.
            (Ok(byte), _) => seen.push(byte),
            (Err(_), Some(letter)) => {
                let mut room = [0; 4];
                seen.extend_from_slice(letter.encode_utf8(&mut room).as_bytes());
            }
            (Err(_), None) => {}
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    seen
}

fn number(digits: &[u8], base: u32) -> Option<u32> {
    let text = std::str::from_utf8(digits).ok()?;
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u32::from_str_radix(text, base).ok().filter(|_| plain)
}
