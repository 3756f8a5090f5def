//! Dates as servers write them into cookies, read as leniently as RFC 6265 §5.1.1 says.

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];

/// Seconds since 1970; `None`: it is no date.
pub(super) fn parse(text: &str) -> Option<i64> {
    let (mut time, mut day, mut month, mut year) = (None, None, None, None);
    for token in text.split(is_delimiter).filter(|token| !token.is_empty()) {
        if time.is_none()
            && let Some(found) = time_of(token)
        {
            time = Some(found);
        } else if day.is_none()
            && let Some(found) = leading(token, 1, 2)
        {
            day = Some(found);
        } else if month.is_none()
            && let Some(found) = month_of(token)
        {
            month = Some(found);
        } else if year.is_none()
            && let Some(found) = leading(token, 2, 4)
        {
            year = Some(found);
        }
    }
    let (hours, minutes, seconds) = time?;
    let (day, month) = (day?, month?);
    let year = match year? {
        short @ 70..=99 => 1900 + short,
        short @ 0..=69 => 2000 + short,
        long => long,
    };
    let right = (1..=31).contains(&day)
        && year >= 1601
        && hours <= 23
        && minutes <= 59
        && seconds <= 59
        && day <= days_in(month, year);
    right.then(|| days(year, month, day) * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

fn is_delimiter(letter: char) -> bool {
    matches!(letter,
        '\t' | ' '..='/' | ';'..='@' | '['..='`' | '{'..='~')
}

/// A number at the beginning, of so many digits, where no further digit follows.
fn leading(token: &str, least: usize, most: usize) -> Option<i64> {
    let digits = token.bytes().take_while(u8::is_ascii_digit).count();
    let number = token.get(..digits)?;
    (least..=most)
        .contains(&digits)
        .then(|| number.parse().ok())?
}

fn time_of(token: &str) -> Option<(i64, i64, i64)> {
    let mut parts = token.splitn(3, ':');
    let mut whole = || {
        let part = parts.next()?;
        let plain = part.bytes().all(|b| b.is_ascii_digit());
        leading(part, 1, 2).filter(|_| plain)
    };
    let (hours, minutes) = (whole()?, whole()?);
    Some((hours, minutes, leading(parts.next()?, 1, 2)?))
}

/// From 1.
fn month_of(token: &str) -> Option<i64> {
    let name = token.get(..3)?.to_ascii_lowercase();
    let found = MONTHS.iter().position(|month| *month == name)?;
    i64::try_from(found).ok().map(|month| month + 1)
}

fn days_in(month: i64, year: i64) -> i64 {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to this day of the Gregorian calendar. The year is taken to begin in March, so that the day that
/// some years have more is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let since_march = (month + 9) % 12;
    let of_year = (153 * since_march + 2) / 5 + day - 1;
    let leaps = year / 4 - year / 100 + year / 400;
    // The days from the first of March of the year 0 to 1970-01-01.
    year * 365 + leaps + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_as_servers_write_them() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
            ("Sun Nov  6 08:49:37 1994", 784_111_777),
            ("6 november 94 8:49:37", 784_111_777),
            ("Tue, 29 Feb 2000 12:00:00 GMT", 951_825_600),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
            ("Wed, 01-Mar-2028 00:00:00 GMT", 1_835_481_600),
        ] {
            assert_eq!(parse(text), Some(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "0",
            "never",
            "Thu, 01 Jan 1970",
            "Thu, 31 Feb 2024 00:00:00 GMT",
            "Thu, 01 Jan 1600 00:00:00 GMT",
            "Thu, 01 Jan 1970 24:00:00 GMT",
            "Thu, 01 Jan 1970 0:0 GMT",
            "01 Jan 19700 00:00:00",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
