//! The text of a line: JSON members in order, ASCII only, with everything foreign escaped and bounded.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// Most entries of a list member.
const LIST_MAX: usize = 64;
/// Room for the members of an ordinary request: a line is put together without moving it.
const ROOM: usize = 768;
/// Longest host in a line, in bytes: a DNS name of 253 and a port, and room.
pub(super) const HOST_MAX: usize = 262;

/// The members of a line behind `time`, `seq` and `event`; empty ones are left out.
#[derive(Debug)]
pub(super) struct Members(String);

impl Default for Members {
    fn default() -> Self {
        Self(String::with_capacity(ROOM))
    }
}

impl Members {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn text(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.name(name);
            quote(&mut self.0, value);
        }
    }

    /// A value whose text the vocabulary makes.
    pub(super) fn shown(&mut self, name: &str, value: impl fmt::Display) {
        self.text(name, &value.to_string());
    }

    pub(super) fn number(&mut self, name: &str, value: impl Into<u64>) {
        self.name(name);
        decimal(&mut self.0, value.into());
    }

    pub(super) fn list<'a>(&mut self, name: &str, values: impl Iterator<Item = &'a str>) {
        let mut values = values.take(LIST_MAX).peekable();
        if values.peek().is_none() {
            return;
        }
        self.name(name);
        self.0.push('[');
        for (i, value) in values.enumerate() {
            if i > 0 {
                self.0.push(',');
            }
            quote(&mut self.0, value);
        }
        self.0.push(']');
    }

    fn name(&mut self, name: &str) {
        self.0.push_str(",\"");
        self.0.push_str(name);
        self.0.push_str("\":");
    }
}

/// A number, without the machinery of `format!`: a line has ten of them.
pub(super) fn decimal(out: &mut String, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.push_str(std::str::from_utf8(&digits[at..]).unwrap_or_default());
}

/// Bytes in lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits = nibbles.map(|nibble| DIGITS[usize::from(nibble)]).collect();
    String::from_utf8(digits).unwrap_or_default()
}

/// Writing into a `String` cannot fail.
pub(super) fn append(out: &mut String, text: fmt::Arguments<'_>) {
    let _infallible = out.write_fmt(text);
}

/// A JSON string in ASCII: what terminals, log shippers and editors read in different ways goes out as `\uXXXX`.
pub(super) fn quote(out: &mut String, text: &str) {
    out.push('"');
    if text.bytes().all(|b| plain(b) && b != b'"') {
        out.push_str(text);
        out.push('"');
        return;
    }
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            other => {
                for unit in other.encode_utf16(&mut [0; 2]) {
                    append(out, format_args!("\\u{unit:04x}"));
                }
            }
        }
    }
    out.push('"');
}

/// Printable, and no backslash.
fn plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'\\'
}

/// Text that an agent wrote, as a person may print it: bytes outside `keep` become `\xNN`, and what exceeds `max`
/// bytes is replaced by an ellipsis, which no kept byte can imitate. JSON escapes alone would not do: `jq -r` undoes
/// them and sends the control characters to the terminal.
pub(super) fn scrub(text: &str, max: usize, keep: impl Fn(u8) -> bool) -> Cow<'_, str> {
    let keep = |byte: u8| keep(byte) && byte.is_ascii_graphic() && byte != b'\\';
    if text.len() <= max && text.bytes().all(keep) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len().min(max));
    for byte in text.bytes() {
        let kept = keep(byte);
        if out.len() + if kept { 1 } else { 4 } > max {
            out.push('\u{2026}');
            return Cow::Owned(out);
        }
        if kept {
            out.push(char::from(byte));
        } else {
            append(&mut out, format_args!("\\x{byte:02x}"));
        }
    }
    Cow::Owned(out)
}

/// RFC 9110 §5.6.2: the characters of methods and field names.
pub(super) fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The characters of a host with or without port.
pub(super) fn is_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_reads_back_and_is_ascii() {
        for text in ["plain", "a\"b\\c", "a\nb\u{1b}[2J\u{7f}\u{85}", "é 😀", ""] {
            let mut out = String::new();
            quote(&mut out, text);
            assert!(out.bytes().all(|b| matches!(b, b' '..=b'~')), "{out:?}");
            assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }
    }

    #[test]
    fn scrubbed_text_is_printable_and_bounded() {
        let any = |_| true;
        assert_eq!(
            scrub("/a b\r\n\\é", 99, any),
            r"/a\x20b\x0d\x0a\x5c\xc3\xa9"
        );
        assert_eq!(scrub("GE T\"", 99, is_tchar), r"GE\x20T\x22");
        assert_eq!(scrub("abcdef", 4, any), "abcd\u{2026}");
        assert_eq!(scrub("abc\n", 6, any), "abc\u{2026}");
        assert_eq!(scrub("abcd", 4, any), "abcd");
    }

    #[test]
    fn numbers_and_digests_are_written_whole() {
        for number in [0, 7, 10, 909, u64::MAX] {
            let mut out = String::new();
            decimal(&mut out, number);
            assert_eq!(out, number.to_string());
        }
        assert_eq!(hex(&[0x00, 0x0f, 0xa0, 0xff]), "000fa0ff");
    }

    #[test]
    fn empty_members_are_left_out() {
        let mut members = Members::default();
        members.text("a", "");
        members.list("b", std::iter::empty());
        members.number("c", 0u64);
        members.list("d", ["x", "y\"z"].into_iter());
        assert_eq!(members.as_str(), r#","c":0,"d":["x","y\"z"]"#);
        let mut long = Members::default();
        long.list("e", std::iter::repeat_n("x", 1000));
        assert_eq!(long.as_str().matches('x').count(), LIST_MAX);
    }
}
