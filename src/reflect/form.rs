//! How a value may be written so that its letters cannot be found one by one.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// Bytes of a value in some form; overwritten when they are gone.
pub(super) type Text = Zeroizing<Vec<u8>>;

/// One way to write bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Plain,
    HexLower,
    HexUpper,
    /// The letters of base64 that depend on the value alone, behind this many other bytes.
    Base64(usize),
    Base64Url(usize),
    /// Every byte escaped (RFC 3986 §2.1).
    PercentLower,
    PercentUpper,
    /// What is not unreserved escaped.
    PercentNeeded,
    /// Every byte as `\u00XX` (RFC 8259 §7).
    JsonLower,
    JsonUpper,
    /// Quotes and slashes escaped.
    JsonNeeded,
    /// Every byte as `&#NN;`.
    HtmlNumbers,
    HtmlHex,
    /// What is markup escaped.
    HtmlNeeded,
    /// And apostrophes.
    HtmlQuoted,
}

/// What a value may be written in before it is put into base64 or hex.
const INNER: [Code; 19] = [
    Code::Plain,
    Code::HexLower,
    Code::HexUpper,
    Code::Base64(0),
    Code::Base64(1),
    Code::Base64(2),
    Code::Base64Url(0),
    Code::Base64Url(1),
    Code::Base64Url(2),
    Code::PercentLower,
    Code::PercentUpper,
    Code::PercentNeeded,
    Code::JsonLower,
    Code::JsonUpper,
    Code::JsonNeeded,
    Code::HtmlNumbers,
    Code::HtmlHex,
    Code::HtmlNeeded,
    Code::HtmlQuoted,
];

/// The outer encodings. Their letters are compared leniently, so one stands for all its spellings.
const OUTER: [Code; 4] = [
    Code::HexLower,
    Code::Base64(0),
    Code::Base64(1),
    Code::Base64(2),
];

/// So many more bytes than letters are wanted make up for the letters that base64 leaves out: two in front, one behind.
const LEFT_OUT: usize = 2;

/// At most two encodings, one inside the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    inner: Code,
    outer: Code,
}

impl Form {
    /// The value as it is.
    pub(super) const PLAIN: Self = Self {
        inner: Code::Plain,
        outer: Code::Plain,
    };

    /// All that are looked for.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let coded = OUTER
            .iter()
            .flat_map(|&outer| INNER.iter().map(move |&inner| Self { inner, outer }));
        std::iter::once(Self::PLAIN).chain(coded)
    }

    /// A value in this form.
    pub(super) fn text(self, value: &[u8]) -> Text {
        match self.outer {
            Code::Plain => written(self.inner, value),
            outer => written(outer, &written(self.inner, value)),
        }
    }

    /// The beginning of a value in this form: at least so many bytes, or all there are.
    pub(super) fn beginning(self, value: &[u8], length: usize) -> Text {
        // Each byte becomes one at least, but for base64, which leaves out a few letters at either end.
        let enough = length.saturating_add(2 * LEFT_OUT).min(value.len());
        self.text(value.get(..enough).unwrap_or(value))
    }

    /// The same letter in its first spelling.
    pub(super) fn fold(self, letter: u8) -> u8 {
        match (self.outer, letter) {
            (Code::HexLower, _) => letter.to_ascii_lowercase(),
            (Code::Base64(_), b'-') => b'+',
            (Code::Base64(_), b'_') => b'/',
            _ => letter,
        }
    }

    /// The same letter in its other spelling.
    pub(super) fn other(self, letter: u8) -> u8 {
        match (self.outer, letter) {
            (Code::HexLower, _) => letter.to_ascii_uppercase(),
            (Code::Base64(_), b'+') => b'-',
            (Code::Base64(_), b'/') => b'_',
            _ => letter,
        }
    }

    /// Whether `seen` is `text` in one of its spellings; both have the same length.
    pub(super) fn same(self, seen: &[u8], text: &[u8]) -> bool {
        match self.outer {
            Code::Plain => seen == text,
            _ => seen
                .iter()
                .zip(text)
                .all(|(&seen, &text)| self.fold(seen) == text),
        }
    }
}

fn written(code: Code, value: &[u8]) -> Text {
    match code {
        Code::Plain => Text::new(value.to_vec()),
        Code::HexLower => each(value, |text, byte| hex(text, byte, LOWER)),
        Code::HexUpper => each(value, |text, byte| hex(text, byte, UPPER)),
        Code::Base64(shift) => aligned(value, shift, |bytes| STANDARD_NO_PAD.encode(bytes)),
        Code::Base64Url(shift) => aligned(value, shift, |bytes| URL_SAFE_NO_PAD.encode(bytes)),
        Code::PercentLower => each(value, |text, byte| percent(text, byte, LOWER)),
        Code::PercentUpper => each(value, |text, byte| percent(text, byte, UPPER)),
        Code::PercentNeeded => each(value, |text, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                text.push(byte);
            } else {
                percent(text, byte, UPPER);
            }
        }),
        Code::JsonLower => each(value, |text, byte| json(text, byte, LOWER)),
        Code::JsonUpper => each(value, |text, byte| json(text, byte, UPPER)),
        Code::JsonNeeded => each(value, |text, byte| {
            if b"\"\\/".contains(&byte) {
                text.push(b'\\');
            }
            text.push(byte);
        }),
        Code::HtmlNumbers => each(value, |text, byte| {
            text.extend_from_slice(format!("&#{byte};").as_bytes());
        }),
        Code::HtmlHex => each(value, |text, byte| {
            text.extend_from_slice(format!("&#x{byte:x};").as_bytes());
        }),
        Code::HtmlNeeded | Code::HtmlQuoted => each(value, |text, byte| match byte {
            b'&' => text.extend_from_slice(b"&amp;"),
            b'<' => text.extend_from_slice(b"&lt;"),
            b'>' => text.extend_from_slice(b"&gt;"),
            b'"' => text.extend_from_slice(b"&quot;"),
            b'\'' if code == Code::HtmlQuoted => text.extend_from_slice(b"&#39;"),
            byte => text.push(byte),
        }),
    }
}

const LOWER: &[u8; 16] = b"0123456789abcdef";
const UPPER: &[u8; 16] = b"0123456789ABCDEF";

fn each(value: &[u8], write: impl Fn(&mut Text, u8)) -> Text {
    // Room for the longest, so that nothing is left behind by a move.
    let mut text = Text::new(Vec::with_capacity(value.len() * 6));
    value.iter().for_each(|byte| write(&mut text, *byte));
    text
}

fn hex(text: &mut Text, byte: u8, digits: &[u8; 16]) {
    text.push(digits[usize::from(byte >> 4)]);
    text.push(digits[usize::from(byte & 15)]);
}

fn percent(text: &mut Text, byte: u8, digits: &[u8; 16]) {
    text.push(b'%');
    hex(text, byte, digits);
}

fn json(text: &mut Text, byte: u8, digits: &[u8; 16]) {
    text.extend_from_slice(b"\\u00");
    hex(text, byte, digits);
}

/// What base64 makes of the value behind `shift` other bytes and any number of groups of three: the letters that depend
/// on the value alone.
fn aligned(value: &[u8], shift: usize, encode: impl Fn(&[u8]) -> String) -> Text {
    let mut bytes = Text::new(Vec::with_capacity(shift + value.len()));
    bytes.resize(shift, 0);
    bytes.extend_from_slice(value);
    let whole = bytes.len() * 8 / 6;
    let first = (shift * 8).div_ceil(6);
    let coded = Zeroizing::new(encode(&bytes));
    let letters = coded.as_bytes().get(first..whole).unwrap_or_default();
    Text::new(letters.to_vec())
}
