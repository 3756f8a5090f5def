//! One head, line by line: what it says about where its message ends, and how it is written.

use memchr::memchr;

use crate::vocab::Code;

/// How much of a line is looked at. A length or a coding that needs more is no plain one.
const LINE_MAX: usize = 64;

/// How much of the end of a line is looked at: a version and its space, and CR.
const TAIL_MAX: usize = 10;

/// Why a head is refused although a lenient parser would take it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A line ends in LF alone (RFC 9112 §2.2): a stricter reader sees another head.
    BareLf,
    /// Both a length and a coding (RFC 9112 §6.1).
    Both,
    /// A coding other than `chunked`.
    Coding,
    /// Several codings lines.
    Codings,
    /// A length that is not written as plain decimal digits without leading zeros.
    Length,
    /// Several lengths, equal or not.
    Lengths,
    /// A CONNECT with a body: what follows is the tunnel's, or not, as one reads it (RFC 9110 §9.3.6).
    ConnectBody,
}

impl Fault {
    /// What the agent is told where it is its own head.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Coding => Code::UpgradeNotSupported,
            Self::BareLf
            | Self::Both
            | Self::Codings
            | Self::Length
            | Self::Lengths
            | Self::ConnectBody => Code::BadRequest,
        }
    }
}

/// The first line of a head, as far as it is looked at.
pub(super) struct Line {
    bytes: [u8; LINE_MAX],
    len: usize,
    /// The last bytes, the very last one at the end.
    tail: [u8; TAIL_MAX],
}

impl Line {
    const fn new() -> Self {
        Self {
            bytes: [0; LINE_MAX],
            len: 0,
            tail: [0; TAIL_MAX],
        }
    }

    fn push(&mut self, piece: &[u8]) {
        if self.len < LINE_MAX {
            let fits = piece.len().min(LINE_MAX - self.len);
            self.bytes[self.len..self.len + fits].copy_from_slice(&piece[..fits]);
        }
        self.len += piece.len();
        let end = &piece[piece.len().saturating_sub(TAIL_MAX)..];
        self.tail.copy_within(end.len().., 0);
        self.tail[TAIL_MAX - end.len()..].copy_from_slice(end);
    }

    /// The line without its end; whether it ended in CR LF.
    fn ended(&self) -> (&[u8], bool) {
        let crlf = self.len > 0 && self.tail[TAIL_MAX - 1] == b'\r';
        let len = self.len - usize::from(crlf);
        (&self.bytes[..len.min(LINE_MAX)], crlf)
    }
}

/// What became of the bytes that were given.
pub(super) enum Step {
    /// All were taken; the head goes on.
    More,
    /// The head ended after this many bytes.
    Ended(usize),
    /// The first line ended after this many bytes.
    First(usize),
}

/// A head that is being read.
pub(super) struct Head {
    line: Line,
    /// Whether the first line is behind us.
    started: bool,
    /// Bytes so far, empty lines in front included.
    pub(super) bytes: usize,
    /// Fields so far.
    pub(super) fields: usize,
    /// The first fault.
    pub(super) fault: Option<Fault>,
    /// A plain length.
    pub(super) length: Option<u64>,
    lengths: bool,
    /// A plain `chunked`.
    pub(super) chunked: bool,
    codings: bool,
    /// Whether the last coding is `chunked`: of others the parser does not say where the body ends, and gives up.
    pub(super) ends_chunked: bool,
    /// Whether the first line asks for a tunnel.
    pub(super) connect: bool,
    /// The status, where the first line is a status line.
    pub(super) status: u16,
    /// Whether the first line is a status line of HTTP/1.1.
    pub(super) http11: bool,
}

impl Head {
    pub(super) const fn new() -> Self {
        Self {
            line: Line::new(),
            started: false,
            bytes: 0,
            fields: 0,
            fault: None,
            length: None,
            lengths: false,
            chunked: false,
            codings: false,
            ends_chunked: true,
            connect: false,
            status: 0,
            http11: false,
        }
    }

    /// Notes whether the first line asks for a tunnel.
    pub(super) fn note_connect(&mut self) {
        self.connect = self.first_line().starts_with(b"CONNECT ");
    }

    /// Whether anything but empty lines has come.
    pub(super) fn begun(&self) -> bool {
        self.started || (self.line.len > 0 && self.line.bytes[0] != b'\r')
    }

    /// Whether it is still the first line that is being read.
    pub(super) fn in_first_line(&self) -> bool {
        !self.started
    }

    /// The first line, or its beginning, when [`Step::First`] has been told.
    pub(super) fn first_line(&self) -> &[u8] {
        self.line.ended().0
    }

    /// Whether the first line ends in a version that is spoken here (RFC 9112 §2.3).
    pub(super) fn known_version(&self) -> bool {
        let (_, crlf) = self.line.ended();
        let end = TAIL_MAX - usize::from(crlf);
        matches!(&self.line.tail[end - 9..end], b" HTTP/1.1" | b" HTTP/1.0")
    }

    /// Forgets the first line.
    pub(super) fn next_line(&mut self) {
        self.line = Line::new();
    }

    /// Reads on. The line that has just ended as [`Step::First`] must have been forgotten.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Step {
        let mut at = 0;
        while let Some(end) = memchr(b'\n', &bytes[at..]) {
            self.line.push(&bytes[at..at + end]);
            at += end + 1;
            self.bytes += end + 1;
            let (line, crlf) = self.line.ended();
            if !crlf {
                self.fault.get_or_insert(Fault::BareLf);
            }
            let empty = line.is_empty();
            match (self.started, empty) {
                // RFC 9112 §2.2: empty lines in front of a request are ignored.
                (false, true) => {}
                (false, false) => {
                    self.started = true;
                    return Step::First(at);
                }
                (true, true) => return Step::Ended(at),
                (true, false) => self.field(),
            }
            self.line = Line::new();
        }
        self.line.push(&bytes[at..]);
        self.bytes += bytes.len() - at;
        Step::More
    }

    fn field(&mut self) {
        self.fields += 1;
        let (line, _) = self.line.ended();
        let Some(colon) = line.iter().position(|&b| b == b':') else {
            return;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let whole = self.line.len <= LINE_MAX;
        let fault = if name.eq_ignore_ascii_case(b"content-length") {
            let several = std::mem::replace(&mut self.lengths, true);
            self.length = plain_length(value).filter(|_| whole);
            match self.length {
                _ if several => Some(Fault::Lengths),
                None => Some(Fault::Length),
                Some(_) => None,
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            let several = std::mem::replace(&mut self.codings, true);
            self.chunked = whole && value.eq_ignore_ascii_case(b"chunked");
            let last = value.rsplit(|&b| b == b',').next().unwrap_or(value);
            self.ends_chunked = whole && last.trim_ascii().eq_ignore_ascii_case(b"chunked");
            match self.chunked {
                _ if several => Some(Fault::Codings),
                false => Some(Fault::Coding),
                true => None,
            }
        } else {
            return;
        };
        let fault = if self.lengths && self.codings {
            Some(Fault::Both)
        } else {
            fault
        };
        self.fault = self.fault.or(fault);
    }
}

/// Digits and nothing else, as our own serialiser would write them (RFC 9110 §8.6).
fn plain_length(value: &[u8]) -> Option<u64> {
    let canonical = value == b"0" || value.first().is_some_and(|b| matches!(b, b'1'..=b'9'));
    if !canonical || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
