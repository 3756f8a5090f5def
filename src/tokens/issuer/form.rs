//! `application/x-www-form-urlencoded`, for bodies that hold secrets and for the Basic scheme (RFC 6749 appendix B).

use zeroize::Zeroizing;

use crate::vocab::Secret;

/// A form that leaves no copy of its contents behind in memory.
pub(super) struct Form(Zeroizing<String>);

impl Form {
    pub(super) fn new() -> Self {
        Self(Zeroizing::new(String::with_capacity(4096)))
    }

    /// Adds a parameter.
    pub(super) fn add(&mut self, name: &str, value: &str) {
        self.make_room(3 * (name.len() + value.len()) + 2);
        if !self.0.is_empty() {
            self.0.push('&');
        }
        encode(name, &mut self.0);
        self.0.push('=');
        encode(value, &mut self.0);
    }

    /// Adds a parameter whose value is secret.
    pub(super) fn add_secret(&mut self, name: &str, value: &Secret<String>) {
        self.add(name, value.expose());
    }

    /// The form's text.
    pub(super) fn finish(mut self) -> Secret<String> {
        Secret::new(std::mem::take(&mut *self.0))
    }

    /// A growing `String` would leave its old buffer as it was; ours moves by hand, so that the old one is overwritten.
    fn make_room(&mut self, more: usize) {
        if self.0.capacity() - self.0.len() < more {
            let mut wider = Zeroizing::new(String::with_capacity(2 * (self.0.capacity() + more)));
            wider.push_str(&self.0);
            self.0 = wider;
        }
    }
}

/// Appends `text` in form encoding.
pub(super) fn encode(text: &str, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'*' | b'-' | b'.' | b'_' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            _ => {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}

/// The parameters of a query. `None` where an escape is none, or what it stands for is no text.
pub(super) fn pairs(query: &str) -> Option<Vec<(String, String)>> {
    let parts = query.split('&').filter(|part| !part.is_empty());
    parts
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Some((decode(name)?, decode(value)?))
        })
        .collect()
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_back_as_it_was_written() {
        let mut form = Form::new();
        form.add("iss", "https://as.test/a b?\u{a3}&=+%");
        form.add("empty", "");
        let read = pairs(form.finish().expose()).unwrap();
        let iss = (
            "iss".to_owned(),
            "https://as.test/a b?\u{a3}&=+%".to_owned(),
        );
        assert_eq!(read, [iss, ("empty".to_owned(), String::new())]);
        assert_eq!(pairs("").unwrap(), []);
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "%+1=x"] {
            assert_eq!(pairs(bad), None, "{bad}");
        }
    }

    #[test]
    fn encodes_as_rfc_6749_appendix_b() {
        let mut form = Form::new();
        form.add("a b", " %&+\u{a3}\u{20ac}");
        form.add("x", &"=".repeat(5000));
        let text = form.finish();
        assert!(
            text.expose()
                .starts_with("a+b=+%25%26%2B%C2%A3%E2%82%AC&x=%3D%3D")
        );
        assert_eq!(text.expose().matches("%3D").count(), 5000);
    }
}
