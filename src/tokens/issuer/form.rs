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

#[cfg(test)]
mod tests {
    use super::*;

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
