//! Whether the internationalised labels of a name are what they claim to be (RFC 5891 §4.2.1, RFC 3492).
//!
//! Names are compared in their `xn--` form and never decoded for that. But a label that does not decode, or decodes to
//! something that needs no encoding, is one that two programs read as two names; below a wildcard an agent could choose
//! it.

use crate::vocab::Host;

/// Whether every `xn--` label of the host decodes to a name that needs the encoding. Addresses have no labels.
pub(super) fn are_sound(host: &Host) -> bool {
    host.name().is_none_or(|name| {
        // `Host` is in lower case already.
        let mut coded = name
            .split('.')
            .filter_map(|label| label.strip_prefix("xn--"));
        coded.all(|text| decode(text).is_some_and(|chars| chars.iter().any(|c| !c.is_ascii())))
    })
}

/// Decodes Punycode (RFC 3492 §6.2). `None` where it is none. At most 59 characters come in.
fn decode(text: &str) -> Option<Vec<char>> {
    let (basic, extended) = text.rsplit_once('-').unwrap_or(("", text));
    let mut output: Vec<char> = basic.chars().collect();
    let (mut n, mut i, mut bias) = (128_u32, 0_u32, 72_u32);
    let mut digits = extended.bytes().peekable();
    while digits.peek().is_some() {
        let before = i;
        let (mut weight, mut k) = (1_u32, 36_u32);
        loop {
            let digit = match digits.next()? {
                letter @ b'a'..=b'z' => u32::from(letter - b'a'),
                number @ b'0'..=b'9' => u32::from(number - b'0') + 26,
                _ => return None,
            };
            i = i.checked_add(digit.checked_mul(weight)?)?;
            let threshold = k.saturating_sub(bias).clamp(1, 26);
            if digit < threshold {
                break;
            }
            weight = weight.checked_mul(36 - threshold)?;
            k += 36;
        }
        let length = u32::try_from(output.len()).ok()? + 1;
        bias = adapt(i - before, length, before == 0);
        n = n.checked_add(i / length)?;
        i %= length;
        output.insert(usize::try_from(i).ok()?, char::from_u32(n)?);
        i += 1;
    }
    Some(output)
}

/// RFC 3492 §6.1.
fn adapt(delta: u32, length: u32, first: bool) -> u32 {
    let mut delta = if first { delta / 700 } else { delta / 2 };
    delta += delta / length;
    let mut k = 0;
    while delta > 455 {
        delta /= 35;
        k += 36;
    }
    k + 36 * delta / (delta + 38)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punycode_decodes() {
        for (coded, plain) in [
            ("bcher-kva", "bücher"),
            ("mnchen-3ya", "münchen"),
            ("fiqs8s", "中国"),
            ("e1afmkfd", "пример"),
            ("ihqwcrb4cv8a8dqg056pqjye", "他们为什么不说中文"),
            ("ls8h", "💩"),
        ] {
            let decoded: Option<String> = decode(coded).map(|chars| chars.into_iter().collect());
            assert_eq!(decoded.as_deref(), Some(plain), "{coded}");
        }
    }

    #[test]
    fn a_label_that_claims_to_be_coded_and_is_not_is_unsound() {
        let sound = |text: &str| are_sound(&Host::parse(text).unwrap());
        for good in [
            "api.test",
            "XN--BCHER-KVA.test",
            "a.xn--fiqs8s.test",
            "192.0.2.1",
            "xn-a.test",
        ] {
            assert!(sound(good), "{good}");
        }
        for bad in [
            "xn--api-ro.test",
            "a.xn--api-ro.test",
            "xn--99999999.test",
            "xn--a_b.test",
            "xn--zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz.test",
        ] {
            assert!(!sound(bad), "{bad}");
        }
    }
}
