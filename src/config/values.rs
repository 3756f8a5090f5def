//! Time spans and sizes as people write them.

use std::time::Duration;

/// `500ms`, `90s`, `15m`, `1h`; `0` needs no unit. `None` where it is anything else.
pub(super) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (number, unit) = split(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// `64KiB`, `1MiB`, `512B`. `None` where it is anything else.
pub(super) fn size(text: &str) -> Option<usize> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    usize::try_from(number.checked_mul(bytes)?).ok()
}

/// A span as the file would have it.
pub(super) fn show(span: Duration) -> String {
    let millis = span.as_millis();
    for (unit, name) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s")] {
        if millis >= unit && millis.is_multiple_of(unit) {
            return format!("{}{name}", millis / unit);
        }
    }
    if millis == 0 {
        "0s".into()
    } else {
        format!("{millis}ms")
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let number = text[..unit].parse().ok()?;
    Some((number, &text[unit..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_need_a_unit() {
        for (text, millis) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("15m", 900_000),
            ("1h", 3_600_000),
            ("0s", 0),
            ("0", 0),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for text in [
            "",
            "5",
            "s",
            "1.5s",
            "-1s",
            "1 s",
            "1d",
            "1S",
            "1m30s",
            "99999999999999999h",
            "18446744073709551616s",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_binary() {
        assert_eq!(size("64KiB"), Some(65_536));
        assert_eq!(size("1MiB"), Some(1_048_576));
        assert_eq!(size("0B"), Some(0));
        for text in [
            "64",
            "64KB",
            "64kib",
            "1GiB",
            "",
            "KiB",
            "99999999999999999999MiB",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
