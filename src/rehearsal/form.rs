//! `application/x-www-form-urlencoded`, for queries, token requests and the two halves of Basic (RFC 6749 §2.3.1).

/// Decodes one name or value. An escape that is none makes the whole unreadable.
pub(super) fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Reads pairs, in order.
pub(super) fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name)?, decode(value)?))
        })
        .collect()
}

/// The first value of a name.
pub(super) fn value<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_once_and_strictly() {
        assert_eq!(decode("a%3A%25%2B+%C3%A9").unwrap(), "a:%+ é");
        assert_eq!(decode("a%2"), None);
        assert_eq!(decode("%zz"), None);
        assert_eq!(decode("%ff"), None);
        let read = pairs("a=1&b=x%3Dy&c&&a=2").unwrap();
        assert_eq!(read.len(), 4);
        assert_eq!(value(&read, "a"), Some("1"));
        assert_eq!(value(&read, "b"), Some("x=y"));
        assert_eq!(value(&read, "c"), Some(""));
    }
}
