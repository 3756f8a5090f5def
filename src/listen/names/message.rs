//! DNS messages (RFC 1035 §4): a query is read and its answer written, as bytes. Pure; every length is checked, and nothing of
//! a query is copied but its number and its one question.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::vocab::Host;

/// Longest answer: a header, the longest question and one address.
const ANSWER_MAX: usize = HEAD + 255 + 4 + 28;
/// The header.
const HEAD: usize = 12;
/// The longest name, as it is written in a message (RFC 1035 §2.3.4).
const NAME_MAX: usize = 255;
/// How long a resolver may keep an answer, in seconds. The addresses mean nothing and never change.
const TTL: u32 = 60;

const QUERY: u8 = 0x80;
const OPCODE: u8 = 0x78;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;

/// Outcomes (RFC 1035 §4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Fine = 0,
    Malformed = 1,
    NoSuchName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// The one question of a query.
struct Question<'a> {
    /// As it stands in the message, with type and class.
    bytes: &'a [u8],
    /// `None`: no host can be called so.
    host: Option<Host>,
    kind: u16,
    class: u16,
}

/// Answers a query: with addresses that stand for the name where `known` says so, that it does not exist otherwise. `None`:
/// what came is no query, and whoever answers those can be made to talk to itself.
#[must_use]
pub(crate) fn answer(query: &[u8], known: impl Fn(&Host) -> bool) -> Option<Vec<u8>> {
    let head = query.get(..HEAD)?;
    if head[2] & QUERY != 0 {
        return None;
    }
    if head[2] & OPCODE != 0 {
        return Some(write(head, None, Outcome::NotImplemented, &[]));
    }
    let one_question = head[4..6] == [0, 1] && head[6..10] == [0, 0, 0, 0];
    let question = one_question.then(|| question(&query[HEAD..])).flatten();
    let Some(question) = question else {
        return Some(write(head, None, Outcome::Malformed, &[]));
    };
    let outcome = match &question.host {
        _ if question.class != CLASS_IN => Outcome::Refused,
        Some(host) if known(host) => Outcome::Fine,
        _ => Outcome::NoSuchName,
    };
    let address = match (outcome, &question.host) {
        (Outcome::Fine, Some(host)) => address(host, question.kind),
        _ => Vec::new(),
    };
    Some(write(head, Some(&question), outcome, &address))
}

/// A name of labels without compression: in a question nothing stands before it that it could point to.
fn question(bytes: &[u8]) -> Option<Question<'_>> {
    let (mut at, mut name) = (0, String::new());
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // The two upper bits are a pointer's.
        if length > 63 || at + length >= NAME_MAX {
            return None;
        }
        let label = bytes.get(at..at + length)?;
        at += length;
        if !name.is_empty() {
            name.push('.');
        }
        // What is no letter of a host name becomes one that `Host` refuses.
        name.extend(label.iter().map(|b| match b {
            b'.' | 128.. => '\u{0}',
            b => char::from(*b),
        }));
    }
    let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    Some(Question {
        kind: word(at)?,
        class: word(at + 2)?,
        host: Host::parse(&name).ok().filter(|host| host.ip().is_none()),
        bytes: &bytes[..at + 4],
    })
}

/// What stands for a name: the record of the type that was asked for, or nothing.
fn address(host: &Host, kind: u16) -> Vec<u8> {
    let data = match kind {
        TYPE_A | TYPE_ANY => v4(host).octets().to_vec(),
        TYPE_AAAA => v6(host).octets().to_vec(),
        _ => return Vec::new(),
    };
    let kind = if data.len() == 4 { TYPE_A } else { TYPE_AAAA };
    // The name is the question's.
    let mut record = vec![0xc0, 12];
    record.extend(kind.to_be_bytes());
    record.extend(CLASS_IN.to_be_bytes());
    record.extend(TTL.to_be_bytes());
    record.extend(u16::try_from(data.len()).unwrap_or(0).to_be_bytes());
    record.extend(data);
    record
}

/// In 198.18.0.0/15, which is nobody's (RFC 2544, RFC 6890).
fn v4(host: &Host) -> Ipv4Addr {
    let [.., a, b, c] = number(host).to_be_bytes();
    Ipv4Addr::new(198, 18 | (a & 1), b, c)
}

/// In a unique local prefix (RFC 4193), the letters of which say `tw`.
fn v6(host: &Host) -> Ipv6Addr {
    let [a, b, c, d, ..] = number(host)
        .to_be_bytes()
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u16::from_be_bytes(*pair))
        .collect::<Vec<_>>()[..]
    else {
        return Ipv6Addr::LOCALHOST;
    };
    Ipv6Addr::new(0xfd74, 0x7700, 0, 0, a, b, c, d)
}

/// The same for the same name; two names may share it, since nobody goes by the address. FNV-1a.
fn number(host: &Host) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    host.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

fn write(head: &[u8], question: Option<&Question<'_>>, outcome: Outcome, record: &[u8]) -> Vec<u8> {
    let mut answer = Vec::with_capacity(ANSWER_MAX);
    answer.extend(&head[..2]);
    answer.push(QUERY | (head[2] & (OPCODE | RECURSION_DESIRED)));
    answer.push(RECURSION_AVAILABLE | outcome as u8);
    let count = |there: bool| u16::from(there).to_be_bytes();
    answer.extend(count(question.is_some()));
    answer.extend(count(!record.is_empty()));
    answer.extend([0; 4]);
    answer.extend(question.map_or(&[][..], |question| question.bytes));
    answer.extend(record);
    answer
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn query(name: &str, kind: u16, class: u16) -> Vec<u8> {
        let mut query = vec![0xab, 0xcd, 1, 0x20, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.as_bytes());
        }
        query.push(0);
        query.extend(kind.to_be_bytes());
        query.extend(class.to_be_bytes());
        query
    }

    /// Number, outcome, answers, and the last bytes.
    fn told(query: &[u8]) -> Option<(u16, u8, u8, Vec<u8>)> {
        let known = |host: &Host| host.to_string() == "api.items.example";
        let answer = answer(query, known)?;
        assert!(answer.len() <= ANSWER_MAX && answer[2] & QUERY != 0);
        let number = u16::from_be_bytes([answer[0], answer[1]]);
        let end = query.len().min(answer.len());
        Some((number, answer[3] & 15, answer[7], answer[end..].to_vec()))
    }

    #[test]
    fn names_of_services_have_an_address_and_no_others() {
        for (name, kind, class, outcome, answers) in [
            ("api.items.example", 1, 1, 0, 1),
            ("API.items.EXAMPLE", 28, 1, 0, 1),
            ("api.items.example", 255, 1, 0, 1),
            // Known, without such a record: HTTPS, MX, TXT.
            ("api.items.example", 65, 1, 0, 0),
            ("api.items.example", 15, 1, 0, 0),
            ("api.items.example", 16, 1, 0, 0),
            ("secret.evil.example", 1, 1, 3, 0),
            ("items.example", 1, 1, 3, 0),
            ("", 2, 1, 3, 0),
            ("1.0.0.127.in-addr.arpa", 12, 1, 3, 0),
            ("api.items.example", 16, 3, 5, 0),
            ("with space.example", 1, 1, 3, 0),
        ] {
            let (number, got, count, rest) = told(&query(name, kind, class)).unwrap();
            assert_eq!((number, got, count), (0xabcd, outcome, answers), "{name}");
            assert_eq!(rest.is_empty(), answers == 0);
        }
        let v4 = told(&query("api.items.example", 1, 1)).unwrap().3;
        assert_eq!((v4.len(), v4[12], v4[13] & 0xfe), (16, 198, 18));
        let v6 = told(&query("api.items.example", 28, 1)).unwrap().3;
        assert_eq!((v6.len(), &v6[12..15]), (28, &[0xfd, 0x74, 0x77][..]));
    }

    #[test]
    fn what_is_no_plain_query_is_told_so_or_dropped() {
        let plain = query("api.items.example", 1, 1);
        let with = |at: usize, byte: u8| {
            let mut bytes = plain.clone();
            bytes[at] = byte;
            bytes
        };
        assert!(told(&[]).is_none() && told(&plain[..11]).is_none());
        // An answer is not answered.
        assert!(told(&with(2, 0x81)).is_none());
        for (bytes, outcome) in [
            (with(2, 0x29), 4),
            (with(5, 2), 1),
            (with(7, 1), 1),
            (with(12, 0xc0), 1),
            (with(12, 64), 1),
            (plain[..plain.len() - 1].to_vec(), 1),
            (plain[..HEAD].to_vec(), 1),
        ] {
            assert_eq!(told(&bytes).unwrap().1, outcome, "{bytes:?}");
        }
        // A label with a dot in it is not two labels.
        let mut dotted = query("apixitems.example", 1, 1);
        dotted[HEAD + 4] = b'.';
        assert_eq!(told(&dotted).unwrap().1, 3);
        let long = vec!["a".repeat(63); 4].join(".");
        assert_eq!(told(&query(&long, 1, 1)).unwrap().1, 1);
        // What an extension adds after the question is not repeated.
        let mut extended = plain.clone();
        extended[11] = 1;
        extended.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(told(&extended).unwrap().1, 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(answer) = answer(&bytes, |_| true) {
                prop_assert!(answer.len() <= ANSWER_MAX);
                prop_assert_eq!(&answer[..2], &bytes[..2]);
            }
        }
    }
}
