use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{
    GeneralPurpose, GeneralPurposeConfig, STANDARD, URL_SAFE_NO_PAD,
};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

/// As a token looks, with letters of every kind.
const JWT: &str = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZ2VudCJ9.c2ln_bmF0-dXJl~MDEyMzQ1Njc4OWFiY2RlZg";
/// A fixed key that escaping changes.
const KEY: &str = "k3y/+=\"&<%41>'Zz.09";
const FILL: &str = "tw-0123456789abcdefghijkl";

fn watched(values: &[&str]) -> Watched {
    let all = values
        .iter()
        .map(|value| Arc::new(Sought::new(value.as_bytes()).unwrap()));
    Watched::new(all.collect(), FILL)
}

/// Takes what other letters behind the last have left.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

type Write = fn(&str) -> String;

fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        write!(all, "{byte:02x}").unwrap();
        all
    })
}

fn each(text: &str, write: impl Fn(&mut String, u8)) -> String {
    let mut all = String::new();
    text.bytes().for_each(|byte| write(&mut all, byte));
    all
}

const WRITERS: [(&str, Write); 19] = [
    ("raw", str::to_owned),
    ("base64", |t| STANDARD.encode(t)),
    ("base64 of a header", |t| {
        STANDARD.encode(format!("Bearer {t}"))
    }),
    ("base64 of a pair", |t| STANDARD.encode(format!("u:{t}"))),
    ("base64 of a document", |t| {
        STANDARD.encode(format!("{{\"a\":\"{t}\"}}"))
    }),
    ("base64url", |t| URL_SAFE_NO_PAD.encode(t)),
    ("base64url, shifted", |t| {
        URL_SAFE_NO_PAD.encode(format!("xx{t}"))
    }),
    ("hex", hex),
    ("HEX", |t| hex(t).to_ascii_uppercase()),
    ("percent", |t| {
        each(t, |all, b| write!(all, "%{b:02x}").unwrap())
    }),
    ("PERCENT", |t| {
        each(t, |all, b| write!(all, "%{b:02X}").unwrap())
    }),
    ("percent here and there", |t| {
        each(t, |all, b| {
            if b % 3 == 0 || !b.is_ascii_alphanumeric() {
                write!(all, "%{b:02X}").unwrap();
            } else {
                all.push(char::from(b));
            }
        })
    }),
    ("JSON", |t| {
        serde_json::to_string(t)
            .unwrap()
            .trim_matches('"')
            .replace('/', "\\/")
    }),
    ("JSON, all", |t| {
        each(t, |all, b| write!(all, "\\u{b:04x}").unwrap())
    }),
    ("JSON, all, upper", |t| {
        each(t, |all, b| write!(all, "\\u{b:04X}").unwrap())
    }),
    ("HTML", |t| {
        t.replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&quot;")
    }),
    ("HTML, numbers", |t| {
        each(t, |all, b| write!(all, "&#{b};").unwrap())
    }),
    ("HTML, hex", |t| {
        each(t, |all, b| write!(all, "&#x{b:X};").unwrap())
    }),
    ("HTML, zeros", |t| {
        each(t, |all, b| write!(all, "&#{b:05};").unwrap())
    }),
];

type Reader = fn(&str) -> Option<(char, &str)>;

fn number(text: &str, base: u32) -> Option<char> {
    char::from_u32(u32::from_str_radix(text, base).ok()?)
}

/// What undoes an escape, from behind its mark.
const READERS: [(char, Reader); 3] = [
    ('%', |t| Some((number(t.get(..2)?, 16)?, &t[2..]))),
    ('\\', |t| match t.chars().next()? {
        'u' => Some((number(t.get(1..5)?, 16)?, &t[5..])),
        letter @ ('"' | '/') => Some((letter, &t[1..])),
        _ => None,
    }),
    ('&', |t| {
        let (name, rest) = t.split_once(';')?;
        let letter = match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            _ => match name.strip_prefix('#')? {
                hex if hex.starts_with('x') => number(&hex[1..], 16)?,
                digits => number(digits, 10)?,
            },
        };
        Some((letter, rest))
    }),
];

/// Whether a reader that undoes anything, in any order, sees the value. Its code is not that of the room.
fn readable(text: &[u8], value: &str, depth: usize) -> bool {
    let has = |bytes: &[u8]| bytes.windows(value.len()).any(|w| w == value.as_bytes());
    if has(text) {
        return true;
    }
    if depth == 0 {
        return false;
    }
    let text = String::from_utf8_lossy(text).into_owned();
    let mut views: Vec<Vec<u8>> = Vec::new();
    for (mark, read) in READERS {
        let mut pieces = text.split(mark);
        let mut view = pieces.next().unwrap_or_default().to_owned();
        let mut skip = false;
        for piece in pieces {
            match read(piece).filter(|_| !skip) {
                Some((letter, rest)) => {
                    view.push(letter);
                    view.push_str(rest);
                }
                // The second of two backslashes.
                None if mark == '\\' && piece.is_empty() && !skip => skip = true,
                None => {
                    view.push(mark);
                    view.push_str(piece);
                    skip = false;
                }
            }
        }
        views.push(view.into_bytes());
    }
    let letter = |c: char| c.is_ascii_alphanumeric() || "+/-_".contains(c);
    for run in text
        .split(|c| !letter(c))
        .filter(|run| run.len() >= value.len())
    {
        for from in 0..4 {
            let Some(run) = run.get(from..) else { continue };
            let run = &run[..run.len() - usize::from(run.len() % 4 == 1)];
            let run = run.replace('-', "+").replace('_', "/");
            views.extend(LENIENT.decode(&run));
        }
        for from in 0..2 {
            let digits: Vec<u8> = run.bytes().skip(from).collect();
            let pairs = digits.chunks_exact(2).map(|pair| {
                u8::from_str_radix(std::str::from_utf8(pair).unwrap_or("z"), 16).unwrap_or(0)
            });
            views.push(pairs.collect());
        }
    }
    views.iter().any(|view| readable(view, value, depth - 1))
}

/// A body with a text in its middle.
fn body(middle: &str, at: usize, size: usize) -> Bytes {
    let filler = b"The quick brown fox jumps over the lazy dog. \"\\n100%\" &co; ";
    let mut body: Vec<u8> = filler.iter().copied().cycle().take(at).collect();
    body.extend_from_slice(middle.as_bytes());
    let rest = size.saturating_sub(body.len());
    body.extend(filler.iter().copied().cycle().take(rest));
    body.into()
}

/// Sends a body through a stream, cut at these places.
fn through(watched: &Watched, body: &Bytes, cuts: &[usize]) -> (Vec<u8>, usize) {
    let mut stream = Stream::new(watched.clone());
    let mut out = Vec::new();
    let mut from = 0;
    for cut in cuts.iter().copied().chain([body.len()]) {
        out.extend_from_slice(&stream.push(body.slice(from..cut), false));
        from = cut;
    }
    out.extend_from_slice(&stream.push(Bytes::new(), true));
    (out, stream.hits())
}

#[test]
fn every_form_at_every_split_of_a_body() {
    for value in [JWT, KEY] {
        let watched = watched(&[value]);
        for (how, write) in WRITERS {
            let text = write(value);
            let body = body(&text, 1500, 4096);
            // The second value adds letters that escaping changes, not places to cut at.
            let step = if value == JWT { 1 } else { 17 };
            for cut in (0..=body.len()).step_by(step) {
                let (out, hits) = through(&watched, &body, &[cut]);
                assert_eq!((out.len(), hits), (body.len(), 1), "{how} cut at {cut}");
                let (same, end) = (&out[..1498], 1502 + text.len());
                assert!(
                    same == &body[..1498] && out[end..] == body[end..],
                    "{how} at {cut}"
                );
            }
            let (out, _) = through(&watched, &body, &[]);
            assert!(readable(&body, value, 1), "{how}");
            assert!(
                !readable(&out, value, 2),
                "{how}: {}",
                String::from_utf8_lossy(&out)
            );
        }
    }
}

#[test]
fn two_encodings_one_inside_the_other() {
    for value in [JWT, KEY] {
        let watched = watched(&[value]);
        for (inner, write_inner) in WRITERS {
            for (outer, write_outer) in WRITERS {
                // Escapes that mix hold a form that a library would not write inside base64 or hex.
                let odd =
                    ["percent here and there", "HTML, zeros", "HTML, hex", "JSON"].contains(&inner);
                if odd
                    && (outer.to_ascii_lowercase().contains("hex") || outer.contains("base64"))
                    && value == KEY
                {
                    continue;
                }
                let coded = outer.starts_with("base64") || outer.eq_ignore_ascii_case("hex");
                if coded && ["percent here and there", "HTML, zeros", "HTML, hex"].contains(&inner)
                {
                    continue;
                }
                let text = write_outer(&write_inner(value));
                let body = body(&text, 700, 1024);
                let end = body.len().min(750 + text.len());
                let cuts: Vec<usize> = (650..end).step_by(211).collect();
                for cuts in [&[][..], &cuts] {
                    let (out, hits) = through(&watched, &body, cuts);
                    assert!(hits > 0, "{inner} in {outer}");
                    assert!(!readable(&out, value, 2), "{inner} in {outer}");
                }
            }
        }
    }
}

#[test]
fn what_is_near_passes_untouched_and_uncopied() {
    let watched = watched(&[JWT]);
    let mut near = JWT.to_owned();
    near.pop();
    near.push('x');
    for text in [
        near.clone(),
        STANDARD.encode(&near),
        hex(&near),
        JWT[..JWT.len() - 1].to_owned(),
    ] {
        let body = body(&text, 300, 2048);
        let (out, hits) = through(&watched, &body, &[]);
        assert!(hits == 0 && out == body, "{text}");
        let mut stream = Stream::new(watched.clone());
        let given = stream.push(body.clone(), true);
        assert_eq!(given.as_ptr(), body.as_ptr());
    }
}

#[test]
fn only_what_could_be_a_beginning_waits() {
    let watched = watched(&[JWT]);
    let given = |text: &str| {
        let mut stream = Stream::new(watched.clone());
        let given = stream.push(Bytes::from(text.to_owned()), false);
        text.len() - given.len()
    };
    assert_eq!(given("data: {\"delta\":\"hello\"}\n\n"), 0);
    assert_eq!(given(&format!("token: {}", &JWT[..20])), 20);
    assert_eq!(given("data: 50%"), 0);
    assert_eq!(given("data: \\u00"), 4);
    assert_eq!(given("data: eyJ"), 0);
    assert_eq!(given("data: eyJh"), 4);
    assert_eq!(given("data: &am"), 0);
    let held = STANDARD.encode(format!("ab{JWT}"));
    assert!(given(&held[..40]) >= 36);
    let mut stream = Stream::new(watched);
    let mut most = 0;
    for byte in body(JWT, 100, 400) {
        stream.push(Bytes::copy_from_slice(&[byte]), false);
        most = most.max(stream.held());
    }
    // All but what went at once.
    assert_eq!(most, JWT.len() - 1 - 3);
}

#[test]
fn while_much_waits_it_is_not_read_again_for_each_piece() {
    let long: String = (0..3000).map(|n| format!("{n:04x}")).collect();
    let watched = watched(&[&long, JWT]);
    let held = 8 * 1024;
    let mut stream = Stream::new(watched.clone());
    let begun = Bytes::copy_from_slice(&long.as_bytes()[..held]);
    assert!(stream.push(begun, false).is_empty());
    // It is no value, which shows when it is looked at: with a quarter of what waits.
    for anew in 1..held / 4 {
        assert!(stream.push(Bytes::from_static(b"!"), false).is_empty());
        assert_eq!(stream.held(), held + anew);
    }
    let all = stream.push(Bytes::from_static(b"!"), false);
    assert_eq!((all.len(), stream.held()), (held + held / 4, 0));
    // Nothing changes but when it is looked at.
    for text in [
        long.clone(),
        format!("{}{JWT}", &long[..held]),
        hex(&long),
        STANDARD.encode(&long),
        format!("{}!", &hex(&long)[..23_999]),
    ] {
        let body = body(&text, 100, 40_000);
        let (whole, hits) = through(&watched, &body, &[]);
        for step in [50, 1000, 5000] {
            let cuts: Vec<usize> = (step..body.len()).step_by(step).collect();
            let (out, again) = through(&watched, &body, &cuts);
            assert!(again == hits && out.len() == whole.len(), "{step}");
            assert!(!readable(&out, &long, 1) && !readable(&out, JWT, 1));
        }
    }
}

#[test]
fn of_a_form_only_what_can_be_compared_is_written() {
    use super::form::Form;
    use super::sought::Scratch;
    for value in [JWT, KEY, "eight-by"] {
        for form in Form::all() {
            let text = form.text(value.as_bytes());
            for length in 0..=text.len() {
                let beginning = form.beginning(value.as_bytes(), length);
                assert!(beginning.len() >= length, "{form:?} {length}");
                assert!(text.starts_with(&beginning), "{form:?} {length}");
            }
        }
    }
    let value = JWT.repeat(20);
    let sought = Sought::new(value.as_bytes()).unwrap();
    let coded = STANDARD.encode(&value);
    // Four bytes as of a form, by chance: that they are more is seen without writing one.
    let mut scratch = Scratch::new(&sought);
    let near = format!("{}....{}!", &coded[..4], &hex(&value)[..15]);
    assert_eq!(
        (scratch.begun(near.as_bytes()), scratch.written()),
        (None, 0)
    );
    // A beginning of fifty: in all forms that begin so.
    let mut scratch = Scratch::new(&sought);
    let begun = scratch.begun(&coded.as_bytes()[..50]);
    assert_eq!(begun, Some(0));
    assert!(
        (50..500).contains(&scratch.written()),
        "{}",
        scratch.written()
    );
}

/// Two that overlap, and one inside another; no letter is one of what stands in.
const OVERLAPPING: [&str; 4] = [
    "FIRST.VALUE.OVERLAP",
    "OVERLAP.SECOND.VALUE",
    "OUTER.(INNER.VALUE).OUTER",
    "INNER.VALUE",
];

#[test]
fn a_value_that_begins_inside_another_is_found_at_every_cut() {
    let watched = watched(&OVERLAPPING);
    for (text, kept, hits) in [
        ("..FIRST.VALUE.OVERLAP.SECOND.VALUE..", "....", 2),
        (
            "..FIRST.VALUE.OVERLAP.SECOND.VALU!..",
            "...SECOND.VALU!..",
            1,
        ),
        ("..OUTER.(INNER.VALUE).OUTER..", "....", 1),
        ("..OUTER.(INNER.VALUE).OUTE!..", "..OUTER.().OUTE!..", 1),
        ("FIRST.VALUE.OVERLAPFIRST.VALUE.OVERLAP.SE", ".SE", 2),
    ] {
        let body = Bytes::from(text);
        for one in 0..=body.len() {
            for two in one..=body.len() {
                let (out, seen) = through(&watched, &body, &[one, two]);
                let mut out = String::from_utf8(out).unwrap();
                assert_eq!((out.len(), seen), (text.len(), hits), "{out} {one} {two}");
                out.retain(|letter| !FILL.contains(letter));
                // Three bytes at most go before it shows what they are.
                let said = out.len().saturating_sub(kept.len());
                assert!(out.ends_with(kept) || said <= 6, "{out} {one} {two}");
                assert!(!out.contains("VALUE") && !out.contains("VALU.."), "{out}");
            }
        }
    }
}

#[test]
fn a_name_holds_a_value_without_its_capitals() {
    let value = "Key-AbC0123456789xYz";
    let watched = watched(&[value, JWT]);
    let holds = |name: &str| watched.is_in_name(name.to_ascii_lowercase().as_bytes());
    let percent = each(value, |all, byte| write!(all, "%{byte:02X}").unwrap());
    for written in [
        value.to_owned(),
        hex(value),
        URL_SAFE_NO_PAD.encode(value),
        URL_SAFE_NO_PAD.encode(hex(value)),
        percent.clone(),
        percent.replace('%', "%25"),
    ] {
        assert!(holds(&format!("X-{written}-Y")), "{written}");
        assert!(!holds(&written[1..written.len() - 1]), "{written}");
    }
    assert!(!holds("Access-Control-Allow-Credentials"));
}

#[test]
fn what_stands_in_has_the_form_of_what_stood_there() {
    let watched = watched(&[JWT]);
    let expected: String = FILL.chars().cycle().take(JWT.len()).collect();
    let without =
        |text: &str| String::from_utf8(watched.without(text.as_bytes()).unwrap()).unwrap();
    assert_eq!(without(JWT), expected);
    assert_eq!(
        without(&format!("Bearer {JWT}")),
        format!("Bearer {expected}")
    );
    assert_eq!(without(&hex(JWT)), hex(&expected));
    let coded = without(&STANDARD.encode(format!("Bearer {JWT}!")));
    let plain = STANDARD.decode(coded).unwrap();
    assert!(plain.starts_with(b"Bearer ") && plain.ends_with(b"!"));
    let odd = Watched::new(vec![Arc::new(Sought::new(JWT.as_bytes()).unwrap())], "a\"b");
    assert!(
        odd.without(JWT.as_bytes())
            .unwrap()
            .starts_with(b"redacted.redacted.")
    );
}

#[test]
fn several_values_and_one_that_is_gone_soon() {
    let proof = Arc::new(Sought::plain(b"proof.proof.signature-1234").unwrap());
    let all = [JWT, KEY].map(|value| Arc::new(Sought::new(value.as_bytes()).unwrap()));
    let watched = Watched::new(all.into_iter().chain([proof]).collect(), FILL);
    let body = Bytes::from(format!(
        "{KEY} {JWT}{JWT} proof.proof.signature-1234 proof%2Eproof.signature-1234"
    ));
    for cut in 0..body.len() {
        let (out, hits) = through(&watched, &body, &[cut]);
        assert_eq!(hits, 5, "{cut}");
        for value in [JWT, KEY, "proof.proof.signature-1234"] {
            assert!(!readable(&out, value, 1));
        }
    }
    assert!(Sought::new(b"short").is_none());
}

fn packed(coding: Coding, text: &[u8]) -> Vec<u8> {
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    match coding {
        Coding::Gzip => {
            let mut out = GzEncoder::new(Vec::new(), Compression::default());
            out.write_all(text).unwrap();
            out.finish().unwrap()
        }
        Coding::Deflate => {
            let mut out = ZlibEncoder::new(Vec::new(), Compression::default());
            out.write_all(text).unwrap();
            out.finish().unwrap()
        }
        Coding::Zstd => {
            ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
        }
        // Blocks that are not compressed (RFC 7932 §9.2): one of at most 64 KiB, and the end.
        Coding::Brotli => {
            let length = u32::try_from(text.len() - 1).unwrap();
            // WBITS 16, ISLAST 0, MNIBBLES 4, MLEN, ISUNCOMPRESSED.
            let bits = (length << 4) | (1 << 20);
            let mut out = bits.to_le_bytes()[..3].to_vec();
            out.extend_from_slice(text);
            out.push(3);
            out
        }
    }
}

fn unpacked(codings: &[Coding], bytes: &[u8], piece: usize) -> Result<Vec<u8>, Unreadable> {
    let mut unpacker = Unpacker::new(codings);
    let mut text = BytesMut::new();
    for piece in bytes.chunks(piece) {
        unpacker.feed(Bytes::copy_from_slice(piece));
        while !unpacker.is_idle() {
            text.extend_from_slice(&unpacker.step()?);
        }
    }
    text.extend_from_slice(&unpacker.finish()?);
    Ok(text.to_vec())
}

const CODINGS: [Coding; 4] = [Coding::Brotli, Coding::Deflate, Coding::Gzip, Coding::Zstd];

#[test]
fn codings_come_off_in_pieces_of_any_size() {
    let text = body(JWT, 20_000, 50_000);
    for coding in CODINGS {
        let bytes = packed(coding, &text);
        for piece in [1, 7, 1000, 1 << 20] {
            assert_eq!(
                unpacked(&[coding], &bytes, piece).as_deref(),
                Ok(&text[..]),
                "{coding:?} {piece}"
            );
        }
        let cut = &bytes[..bytes.len() - 9];
        assert!(unpacked(&[coding], cut, 1000).is_err(), "{coding:?}");
        assert_eq!(unpacked(&[coding], &[], 1), Ok(Vec::new()), "{coding:?}");
    }
    let twice = packed(Coding::Zstd, &packed(Coding::Gzip, &text));
    assert_eq!(
        unpacked(&[Coding::Gzip, Coding::Zstd], &twice, 100).as_deref(),
        Ok(&text[..])
    );
    let frames = [packed(Coding::Zstd, b"abc"), packed(Coding::Zstd, b"def")].concat();
    assert_eq!(
        unpacked(&[Coding::Zstd], &frames, 3).as_deref(),
        Ok(&b"abcdef"[..])
    );
    let members = [packed(Coding::Gzip, b"abc"), packed(Coding::Gzip, b"def")].concat();
    assert_eq!(
        unpacked(&[Coding::Gzip], &members, 3).as_deref(),
        Ok(&b"abcdef"[..])
    );
}

#[test]
fn what_becomes_too_much_is_cut() {
    let zeros = vec![0; 64 << 20];
    let gzip = packed(Coding::Gzip, &zeros);
    assert_eq!(
        unpacked(&[Coding::Gzip], &gzip, 4096),
        Err(Unreadable::Bomb)
    );
    let twice = packed(Coding::Gzip, &gzip);
    assert_eq!(
        unpacked(&[Coding::Gzip, Coding::Gzip], &twice, 4096),
        Err(Unreadable::Bomb)
    );
    let zstd = packed(Coding::Zstd, &zeros);
    assert_eq!(
        unpacked(&[Coding::Zstd], &zstd, 4096),
        Err(Unreadable::Bomb)
    );
    // A frame that wants a window of 16 MiB.
    let large = [0x28, 0xb5, 0x2f, 0xfd, 0, 14 << 3, 1, 0, 0];
    assert_eq!(
        unpacked(&[Coding::Zstd], &large, 100),
        Err(Unreadable::Bomb)
    );
    // Windows of 1 GiB, which are not of RFC 7932.
    for large in [
        [0x11, 0x1e, 0x0b, 0x80],
        [0x91, 0x1e, 3, 0],
        [0x11, 0x9e, 3, 0],
    ] {
        for piece in [1, 4] {
            let outcome = unpacked(&[Coding::Brotli], &large, piece);
            assert_eq!(outcome, Err(Unreadable::Bomb));
        }
        let twice = packed(Coding::Gzip, &large);
        let outcome = unpacked(&[Coding::Brotli, Coding::Gzip], &twice, 100);
        assert_eq!(outcome, Err(Unreadable::Bomb));
    }
    for coding in CODINGS {
        assert!(
            unpacked(&[coding], b"this is not it, whatever it is", 100).is_err(),
            "{coding:?}"
        );
    }
    assert_eq!(Coding::list("gzip, x-foo"), Err(Unreadable::Unknown));
    assert_eq!(
        Coding::list(" GZip ,identity, br"),
        Ok(vec![Coding::Gzip, Coding::Brotli])
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is cut wherever, the outcome is that of the whole, and without a value nothing changes.
    #[test]
    fn cuts_change_nothing(
        parts in prop::collection::vec((0..WRITERS.len(), "[ -~\n]{0,60}", any::<bool>()), 1..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let watched = watched(&[JWT]);
        let mut text = String::new();
        let mut planted = 0;
        for (writer, filler, plant) in parts {
            // A filler may end as an escape begins; a space ends any.
            text.push_str(&filler);
            text.push(' ');
            if plant {
                planted += 1;
                text.push_str(&WRITERS[writer].1(JWT));
                text.push(' ');
            }
        }
        let body = Bytes::from(text);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.sort_unstable();
        let (whole, hits) = through(&watched, &body, &[]);
        prop_assert_eq!(hits, planted);
        // Where a value was cut, at most three of its bytes are its own.
        let (out, again) = through(&watched, &body, &cuts);
        prop_assert_eq!((out.len(), again), (whole.len(), hits));
        prop_assert!(planted > 0 || out == body);
        prop_assert!(!readable(&out, JWT, 1));
        prop_assert!(planted > 0 || whole == body);
        prop_assert!(!readable(&whole, JWT, 1));
    }
}
