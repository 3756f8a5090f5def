//! The text of a line: JSON members in order, ASCII only, with everything foreign escaped and bounded.

use std::fmt::{self, Write};

/// Most entries of a list member.
const LIST_MAX: usize = 64;
/// Longest host in a line, in bytes: a DNS name of 253 and a port, and room.
pub(super) const HOST_MAX: usize = 262;

/// The members of a line behind `time`, `seq` and `event`; empty ones are left out.
#[derive(Debug, Default)]
pub(super) struct Members(String);

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
        append(&mut self.0, format_args!("{}", value.into()));
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
        append(&mut self.0, format_args!(",\"{name}\":"));
    }
}

/// Writing into a `String` cannot fail.
pub(super) fn append(out: &mut String, text: fmt::Arguments<'_>) {
    let _infallible = out.write_fmt(text);
}

/// A JSON string in ASCII: what terminals, log shippers and editors read in different ways goes out as `\uXXXX`.
pub(super) fn quote(out: &mut String, text: &str) {
    out.push('"');
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

/// Text that an agent wrote, as a person may print it: bytes outside `keep` become `\xNN`, and what exceeds `max`
/// bytes is replaced by an ellipsis, which no kept byte can imitate. JSON escapes alone would not do: `jq -r` undoes
/// them and sends the control characters to the terminal.
pub(super) fn scrub(text: &str, max: usize, keep: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for byte in text.bytes() {
        let kept = keep(byte) && byte.is_ascii_graphic() && byte != b'\\';
        if out.len() + if kept { 1 } else { 4 } > max {
            out.push('\u{2026}');
            return out;
        }
        if kept {
            out.push(char::from(byte));
        } else {
            append(&mut out, format_args!("\\x{byte:02x}"));
        }
    }
    out
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
