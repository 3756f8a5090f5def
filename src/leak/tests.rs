use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use proptest::prelude::*;

use super::unpack::Search;
use super::*;
use crate::vocab::Secret;

const VALUE: &str = "s3cr3t/Tok+en==~&\"<%41>é";

fn canaries(values: &[&str]) -> Canaries {
    let all = values.iter().enumerate().map(|(at, value)| Canary {
        name: format!("c{at}"),
        value: Secret::new(value.as_bytes().to_vec()),
    });
    Canaries::new(&all.collect::<Vec<_>>()).unwrap()
}

fn search(bytes: &[u8]) -> (Vec<Finding>, usize) {
    let canaries = canaries(&[VALUE]);
    let mut findings = Vec::new();
    let mut search = Search::new(&canaries, &mut findings);
    search.stream("x", "x", &mut &*bytes);
    let stopped = search.stopped.len();
    (findings, stopped)
}

fn each(write: impl Fn(&mut String, u32)) -> String {
    let mut text = String::new();
    VALUE
        .encode_utf16()
        .for_each(|unit| write(&mut text, unit.into()));
    text
}

fn every(write: impl Fn(&mut String, u8)) -> String {
    let mut text = String::new();
    VALUE.bytes().for_each(|byte| write(&mut text, byte));
    text
}

/// One value, as software writes it.
#[expect(clippy::too_many_lines, reason = "a table")]
fn written() -> Vec<(&'static str, Vec<u8>)> {
    let base64 = STANDARD.encode(format!("{{\"token\":\"{VALUE}\"}} and so on"));
    let mut wrapped = String::new();
    for line in base64.as_bytes().chunks(9) {
        write!(wrapped, "{}\r\n  ", String::from_utf8_lossy(line)).unwrap();
    }
    let mut all = vec![
        ("raw", VALUE.as_bytes().to_vec()),
        (
            "hex",
            every(|t, b| write!(t, "{b:02x}").unwrap()).into_bytes(),
        ),
        (
            "HEX",
            every(|t, b| write!(t, "{b:02X}").unwrap()).into_bytes(),
        ),
        (
            "percent",
            every(|t, b| write!(t, "%{b:02x}").unwrap()).into_bytes(),
        ),
        (
            "percent where needed",
            VALUE.replace('%', "%25").replace('"', "%22").into_bytes(),
        ),
        ("JSON", serde_json::to_vec(VALUE).unwrap()),
        (
            "JSON, all",
            each(|t, u| write!(t, "\\u{u:04X}").unwrap())
                .replace("\\u00E9", "é")
                .into_bytes(),
        ),
        (
            "JSON, slashes",
            VALUE.replace('"', "\\\"").replace('/', "\\/").into_bytes(),
        ),
        (
            "HTML",
            VALUE
                .replace('&', "&amp;")
                .replace('"', "&quot;")
                .replace('<', "&lt;")
                .into_bytes(),
        ),
        (
            "HTML, numbers",
            VALUE
                .chars()
                .map(|c| {
                    if c.is_ascii() {
                        format!("&#{};", c as u32)
                    } else {
                        c.to_string()
                    }
                })
                .collect::<String>()
                .into_bytes(),
        ),
        (
            "HTML, hex",
            VALUE
                .chars()
                .map(|c| {
                    if c.is_ascii() {
                        format!("&#x{:x};", c as u32)
                    } else {
                        c.to_string()
                    }
                })
                .collect::<String>()
                .into_bytes(),
        ),
        ("wrapped base64", wrapped.into_bytes()),
        (
            "base64 in JSON in base64",
            STANDARD
                .encode(format!(
                    "{{\"auths\":{{\"a\":\"{}\"}}}}",
                    STANDARD.encode(format!("user:{VALUE}"))
                ))
                .into_bytes(),
        ),
        (
            "JSON in percent",
            serde_json::to_string(VALUE)
                .unwrap()
                .bytes()
                .map(|b| format!("%{b:02X}"))
                .collect::<String>()
                .into_bytes(),
        ),
    ];
    for shift in 0..4 {
        let text = format!("{}{VALUE}tail", "p".repeat(shift));
        all.push(("base64", STANDARD.encode(&text).into_bytes()));
        all.push(("base64url", URL_SAFE.encode(&text).into_bytes()));
    }
    all
}

#[test]
fn a_value_is_found_however_it_is_written() {
    for (how, text) in written() {
        let mut bytes = b"before:".to_vec();
        bytes.extend(&text);
        bytes.extend(b":after");
        let (found, stopped) = search(&bytes);
        assert!(!found.is_empty() && stopped == 0, "{how}");
        assert!(
            found.iter().all(|f| f.canary == "c0" && f.place == "x"),
            "{found:?}"
        );
    }
    let ascii = "0123456789abcdef-ASCII";
    let canaries = canaries(&[ascii]);
    for bytes in [
        ascii
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect::<Vec<u8>>(),
        ascii.encode_utf16().flat_map(u16::to_be_bytes).collect(),
    ] {
        let mut findings = Vec::new();
        scan::scan(&canaries, "x", &mut bytes.as_slice(), &mut findings).unwrap();
        assert_eq!(findings.len(), 1, "{findings:?}");
    }
}

#[test]
fn what_is_near_is_not_the_value() {
    let mut near = VALUE.as_bytes().to_vec();
    near[3] ^= 1;
    let near = String::from_utf8(near).unwrap();
    for text in [
        near.clone(),
        STANDARD.encode(&near),
        VALUE[..12].to_owned(),
        VALUE.to_uppercase(),
    ] {
        assert_eq!(search(text.as_bytes()), (Vec::new(), 0), "{text}");
    }
}

/// Gives its bytes in pieces of odd sizes.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, room: &mut [u8]) -> std::io::Result<usize> {
        let n = self.1.min(room.len()).min(self.0.len());
        let (now, later) = self.0.split_at(n);
        room[..n].copy_from_slice(now);
        self.0 = later;
        Ok(n)
    }
}

#[test]
fn windows_have_no_edges() {
    let canaries = canaries(&[VALUE]);
    for (how, text) in written() {
        for at in [2048, 4096] {
            for back in [1, text.len() / 2, text.len().saturating_sub(1)] {
                let mut bytes = vec![b' '; at - back];
                bytes.extend(&text);
                bytes.extend(vec![b' '; 100]);
                let mut findings = Vec::new();
                let mut pieces = Pieces(&bytes, 521);
                let total =
                    scan::in_windows(2048, &canaries, "x", &mut pieces, &mut findings).unwrap();
                assert_eq!(total, bytes.len() as u64);
                assert!(!findings.is_empty(), "{how} at {at} - {back}");
                if how == "raw" {
                    let raw = findings.iter().find(|f| f.form == "raw").unwrap();
                    assert_eq!(raw.offset, (at - back) as u64);
                }
            }
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A frame of zstd that is not compressed (RFC 8878 §3.1.1).
fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    let header = 1 | (u32::try_from(bytes.len()).unwrap() << 3);
    frame.extend(&header.to_le_bytes()[..3]);
    frame.extend(bytes);
    frame
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn containers_are_opened_one_inside_the_other() {
    let value = VALUE.as_bytes();
    let layer = gzip(&tar(&[("etc/other", b"nothing"), ("etc/secret", value)]));
    let image = tar(&[("manifest.json", b"{}"), ("blobs/layer", &layer)]);
    let two = [gzip(b"nothing"), gzip(value)].concat();
    let frames = [zstd(b"nothing at all"), zstd(value)].concat();
    for (bytes, place) in [
        (gzip(value), "x!gzip"),
        (two, "x!gzip"),
        (frames, "x!zstd"),
        (image.clone(), "x!blobs/layer!gzip!etc/secret"),
        (gzip(&image), "x!gzip!blobs/layer!gzip!etc/secret"),
    ] {
        let (found, stopped) = search(&bytes);
        assert_eq!(stopped, 0);
        assert!(found.iter().any(|f| f.place == place), "{place}: {found:?}");
    }
    // A name leaks as well.
    let name = format!("dir/{}", VALUE.replace('%', "%25").replace('/', "%2F"));
    let (found, _) = search(&tar(&[(&name, b"nothing")]));
    assert!(!found.is_empty());
}

#[test]
fn brotli_is_known_by_its_name() {
    // "leak:0123456789abcdef" as one uncompressed metablock (RFC 7932 §9.2).
    let text = b"leak:0123456789abcdef";
    let mut bytes = vec![0x0b, 0x0a, 0x80];
    bytes.extend(text);
    bytes.push(0x03);
    let canaries = canaries(&["0123456789abcdef"]);
    let mut findings = Vec::new();
    let mut search = Search::new(&canaries, &mut findings);
    search.stream("a.js.br", "a.js.br", &mut bytes.as_slice());
    assert_eq!(search.stopped, []);
    assert_eq!(findings[0].place, "a.js.br!br");
}

#[test]
fn what_cannot_be_searched_is_told() {
    let whole = gzip(&vec![b'x'; 100_000]);
    let (_, stopped) = search(&whole[..whole.len() / 2]);
    assert_eq!(stopped, 1);
    let mut broken = zstd(b"0123456789");
    broken.truncate(12);
    assert!(search(&broken).1 > 0);
    let mut deep = VALUE.as_bytes().to_vec();
    for _ in 0..12 {
        deep = gzip(&deep);
    }
    assert_eq!(search(&deep).1, 1);

    let folder = tempfile::tempdir().unwrap();
    let mut report = Report::default();
    search_path(
        &canaries(&[VALUE]),
        &folder.path().join("absent"),
        &mut report,
    );
    assert_eq!(report.unsearched.len(), 1);
}

#[test]
fn folders_are_searched_with_their_names_and_links() {
    let folder = tempfile::tempdir().unwrap();
    let canaries = canaries(&["0123456789abcdef", "fedcba9876543210"]);
    let inner = folder.path().join("a/b");
    fs::create_dir_all(&inner).unwrap();
    fs::write(inner.join("file"), "x 0123456789abcdef x").unwrap();
    fs::write(inner.join("name-fedcba9876543210"), "").unwrap();
    std::os::unix::fs::symlink("/x/0123456789abcdef", inner.join("link")).unwrap();
    std::os::unix::fs::symlink("/proc", inner.join("elsewhere")).unwrap();
    let mut report = Report::default();
    search_path(&canaries, folder.path(), &mut report);
    let mut found: Vec<_> = report.findings.iter().map(|f| f.canary.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, ["c0", "c0", "c1"], "{report:?}");
    assert_eq!((report.files, report.unsearched.len()), (2, 0));
}

#[test]
fn values_that_would_be_found_by_chance_are_refused() {
    let one = |value: &str| {
        let canary = Canary {
            name: "it".into(),
            value: Secret::new(value.as_bytes().to_vec()),
        };
        Canaries::new(&[canary]).err()
    };
    assert_eq!(one("1234567"), Some(BadCanary::Short("it".into())));
    assert_eq!(one("12345678"), None);
    assert_eq!(
        one(&"x".repeat(16 * 1024 + 1)),
        Some(BadCanary::Long("it".into()))
    );
    assert_eq!(Canaries::new(&[]).err(), Some(BadCanary::None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Bytes of any kind end in an answer, and two encodings in any order hide nothing.
    #[test]
    fn nothing_hides(
        value in "[ -~]{8,60}",
        around in proptest::collection::vec(any::<u8>(), 0..200),
        shift in 0_usize..4,
    ) {
        let canaries = canaries(&[&value]);
        let percent: String = value.bytes().map(|b| format!("%{b:02x}")).collect();
        let base64 = STANDARD.encode(format!("{}{value}", "p".repeat(shift)));
        let json = serde_json::to_string(&value).unwrap();
        let nested = json.bytes().map(|b| format!("&#{b};")).collect::<String>();
        for text in [value, percent, base64, json, nested] {
            let mut bytes = around.clone();
            // Ends whatever the bytes before may have begun.
            bytes.extend(b" \n\n ");
            bytes.extend(text.as_bytes());
            bytes.extend(b" \n\n ");
            bytes.extend(&around);
            let mut findings = Vec::new();
            scan::scan(&canaries, "x", &mut bytes.as_slice(), &mut findings).unwrap();
            prop_assert!(!findings.is_empty(), "{}", text);
        }
    }
}
