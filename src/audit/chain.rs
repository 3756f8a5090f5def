//! The hash chain: sealing a line behind the last one, and reading a sealed line back.

use aws_lc_rs::digest::{Context, SHA256, digest};
use serde::Deserialize;

use super::line::{Members, decimal, hex};
use crate::vocab::WallTime;

/// Longest line, in bytes. The encoder's own bounds keep every line far below.
pub(super) const LINE_MAX: usize = 256 * 1024;

/// Before the hash, and behind it.
const HASH_MEMBER: &[u8] = b",\"hash\":\"";
const HASH_END: &[u8] = b"\"}";
const HEX: usize = 64;

/// Where the chain stands: number and hash of its last line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) seq: u64,
    pub(super) hash: String,
}

impl Chain {
    /// Before the first line.
    pub(super) fn start() -> Self {
        Self {
            seq: 0,
            hash: "0".repeat(HEX),
        }
    }

    /// Appends one sealed line to `out`.
    pub(super) fn seal(
        &mut self,
        out: &mut String,
        time: WallTime,
        event: &str,
        members: &Members,
    ) {
        let start = out.len();
        self.seq += 1;
        out.push_str(r#"{"time":""#);
        out.push_str(&time.to_string());
        out.push_str(r#"","seq":"#);
        decimal(out, self.seq);
        for piece in [
            r#","event":""#,
            event,
            "\"",
            members.as_str(),
            r#","prev":""#,
            &self.hash,
            "\"",
        ] {
            out.push_str(piece);
        }
        self.hash = hex(digest(&SHA256, &out.as_bytes()[start..]).as_ref());
        for piece in [r#","hash":""#, &self.hash, "\"}\n"] {
            out.push_str(piece);
        }
    }
}

/// A sealed line as it was read.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) seq: u64,
    pub(super) time: String,
    pub(super) prev: String,
    pub(super) hash: String,
    /// Set where the line closes what a crash left half written.
    pub(super) torn: Option<Torn>,
}

/// What a line that was never finished left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Torn {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Torn {
    /// The event that closes it.
    pub(super) const EVENT: &'static str = "audit.torn";

    pub(super) fn members(&self) -> Members {
        let mut line = Members::default();
        line.number("torn_bytes", self.bytes);
        line.text("torn_sha256", &self.sha256);
        line
    }
}

/// Adds up the pieces of what was left behind, with the line ends between them.
pub(super) struct TornSum {
    context: Context,
    bytes: u64,
    empty: bool,
}

impl TornSum {
    pub(super) fn new() -> Self {
        Self {
            context: Context::new(&SHA256),
            bytes: 0,
            empty: true,
        }
    }

    pub(super) fn add(&mut self, piece: &[u8]) {
        if !self.empty {
            self.context.update(b"\n");
            self.bytes += 1;
        }
        self.empty = false;
        self.context.update(piece);
        self.bytes += piece.len() as u64;
    }

    pub(super) fn finish(self) -> Torn {
        Torn {
            bytes: self.bytes,
            sha256: hex(self.context.finish().as_ref()),
        }
    }
}

/// What is wrong with a line by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not end as a sealed line does.
    Unsealed,
    /// Its hash is not that of its bytes.
    Hash,
    /// It is sealed, but not JSON with the members of every line.
    Form,
}

#[derive(Deserialize)]
struct Common {
    time: String,
    seq: u64,
    event: String,
    prev: String,
    torn_bytes: Option<u64>,
    torn_sha256: Option<String>,
}

/// Reads a line, without its line end, and checks its own hash.
pub(super) fn read(line: &[u8]) -> Result<Link, Fault> {
    let (body, hash) = unseal(line).ok_or(Fault::Unsealed)?;
    if hex(digest(&SHA256, body).as_ref()) != hash {
        return Err(Fault::Hash);
    }
    let common: Common = serde_json::from_slice(line).map_err(|_| Fault::Form)?;
    // The time is shown to whoever verifies; a forged one must not carry terminal escapes.
    let plain = |b: u8| b.is_ascii_digit() || b"TZ:.-+".contains(&b);
    if !common.time.bytes().all(plain) {
        return Err(Fault::Form);
    }
    let torn = match (common.torn_bytes, common.torn_sha256) {
        (Some(bytes), Some(sha256)) if common.event == Torn::EVENT => Some(Torn { bytes, sha256 }),
        (None, None) if common.event != Torn::EVENT => None,
        _ => return Err(Fault::Form),
    };
    Ok(Link {
        seq: common.seq,
        time: common.time,
        prev: common.prev,
        hash: hash.to_owned(),
        torn,
    })
}

/// Splits a sealed line into the bytes under the hash, and the hash.
fn unseal(line: &[u8]) -> Option<(&[u8], &str)> {
    let rest = line.strip_suffix(HASH_END)?;
    let (rest, hash) = rest.split_at_checked(rest.len().checked_sub(HEX)?)?;
    let body = rest.strip_suffix(HASH_MEMBER)?;
    let hash = std::str::from_utf8(hash).ok()?;
    let lower_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    (line.len() <= LINE_MAX && hash.bytes().all(lower_hex)).then_some((body, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(event: &str, members: &Members) -> String {
        let mut out = String::new();
        Chain::start().seal(&mut out, WallTime(0), event, members);
        out
    }

    #[test]
    fn a_sealed_line_reads_back() {
        let mut chain = Chain::start();
        let mut out = String::new();
        chain.seal(&mut out, WallTime(1_000), "x.y", &Members::default());
        let head = concat!(
            r#"{"time":"1970-01-01T00:00:01.000Z","seq":1,"event":"x.y","prev":""#,
            "0000000000000000000000000000000000000000000000000000000000000000\""
        );
        assert!(out.starts_with(head));
        let link = read(out.trim_end().as_bytes()).unwrap();
        assert_eq!(link.hash, hex(digest(&SHA256, head.as_bytes()).as_ref()));
        assert_eq!((link.seq, &link.hash), (chain.seq, &chain.hash));
        assert_eq!(link.prev, Chain::start().hash);
        assert_eq!(link.torn, None);
    }

    #[test]
    fn a_changed_line_does_not() {
        let line = sealed("x", &Members::default());
        let line = line.trim_end();
        let fault = |text: &str| read(text.as_bytes()).unwrap_err();
        assert_eq!(fault(&line.replace("1970", "1971")), Fault::Hash);
        assert_eq!(fault(&line[..line.len() - 1]), Fault::Unsealed);
        assert_eq!(
            fault(&line.replace("\"hash\"", "\"Hash\"")),
            Fault::Unsealed
        );
        assert_eq!(fault(""), Fault::Unsealed);
        assert_eq!(fault(&format!("{line} ")), Fault::Unsealed);
    }

    #[test]
    fn a_sealed_line_of_another_form_does_not() {
        let forged = |body: &str| {
            let hash = hex(digest(&SHA256, body.as_bytes()).as_ref());
            read(format!(r#"{body},"hash":"{hash}"}}"#).as_bytes()).unwrap_err()
        };
        for body in [
            r#"{"x":1"#,
            "garbage",
            r#"{"time":"\u001b[2J","seq":1,"event":"x","prev":"0""#,
            r#"{"time":"1","seq":1,"seq":2,"event":"x","prev":"0""#,
            r#"{"time":"1","seq":-1,"event":"x","prev":"0""#,
            r#"{"time":"1","seq":1,"event":"x","torn_bytes":1,"torn_sha256":"0","prev":"0""#,
            r#"{"time":"1","seq":1,"event":"audit.torn","prev":"0""#,
        ] {
            assert_eq!(forged(body), Fault::Form, "{body}");
        }
    }
}
