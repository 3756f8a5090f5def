//! The answers on one connection to an upstream, as it writes them.

use super::INTERIM_MAX;
use super::chunks::Chunks;
use super::head::{Head, Step};

/// What was asked, as far as it decides where the answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The answer has no body whatever its head says (HEAD).
    pub head_only: bool,
    /// A 101 was asked for.
    pub switch: bool,
}

/// What to do with the bytes that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// They belong to the answer.
    Fine,
    /// Only this many do; the rest answers nothing, and the connection must carry no other request.
    TooMany(usize),
    /// They break the rules of HTTP, or our bounds: the parser must not see them.
    Broken,
}

enum State {
    /// Nothing is asked.
    Idle,
    Head(Box<Head>),
    Length(u64),
    Chunks(Chunks),
    /// A body that ends with the connection.
    Rest,
    Broken,
    /// The connection speaks something else.
    Silent,
}

/// Reads the answers on one connection beside the parser.
pub struct Responses {
    state: State,
    asked: Asked,
    interim: u8,
    /// Bytes that a head may have.
    head_max: usize,
}

/// What a finished head says about what follows it.
enum Follows {
    Interim,
    Switch,
    Final,
}

impl Responses {
    /// At the start of a connection whose heads may have this many bytes.
    #[must_use]
    pub fn new(head_max: usize) -> Self {
        Self {
            state: State::Idle,
            asked: Asked {
                head_only: false,
                switch: false,
            },
            interim: 0,
            head_max,
        }
    }

    /// A request is about to be written. Whether the connection may carry it: what was asked before is answered.
    pub fn ask(&mut self, asked: Asked) -> bool {
        if !self.idle() {
            return false;
        }
        self.asked = asked;
        self.interim = 0;
        self.state = State::Head(Box::new(Head::new()));
        true
    }

    /// Whether all that was asked is answered, and nothing more has come.
    #[must_use]
    pub fn idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Takes what was read.
    pub fn feed(&mut self, bytes: &[u8]) -> Came {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let taken = match &mut self.state {
                State::Idle => {
                    self.state = State::Broken;
                    // The answer before them is whole and nobody's fault.
                    return if at > 0 {
                        Came::TooMany(at)
                    } else {
                        Came::Broken
                    };
                }
                State::Head(_) => self.head(rest),
                State::Length(left) => {
                    let here = usize::try_from(*left).map_or(rest.len(), |n| n.min(rest.len()));
                    *left -= here as u64;
                    if *left == 0 {
                        self.state = State::Idle;
                    }
                    Some(here)
                }
                State::Chunks(chunks) => match chunks.feed(rest) {
                    Ok((taken, ended)) => {
                        if ended {
                            self.state = State::Idle;
                        }
                        Some(taken)
                    }
                    Err(_) => None,
                },
                State::Rest | State::Silent => return Came::Fine,
                State::Broken => None,
            };
            let Some(taken) = taken else {
                self.state = State::Broken;
                return Came::Broken;
            };
            at += taken;
        }
        Came::Fine
    }

    /// Bytes taken; `None` where the head breaks a rule.
    fn head(&mut self, bytes: &[u8]) -> Option<usize> {
        let State::Head(head) = &mut self.state else {
            return None;
        };
        let mut taken = 0;
        loop {
            match head.feed(&bytes[taken..]) {
                Step::First(n) => {
                    taken += n;
                    head.status = status(head.first_line())?;
                    head.http11 = head.first_line().starts_with(b"HTTP/1.1");
                    head.next_line();
                }
                Step::More => {
                    return (head.bytes <= self.head_max).then_some(bytes.len());
                }
                Step::Ended(n) => {
                    taken += n;
                    return (head.bytes <= self.head_max && self.ended().is_some())
                        .then_some(taken);
                }
            }
        }
    }

    /// A head is whole. `None` where it breaks a rule.
    fn ended(&mut self) -> Option<()> {
        let State::Head(head) = std::mem::replace(&mut self.state, State::Broken) else {
            return None;
        };
        if head.fault.is_some() || (head.chunked && !head.http11) {
            return None;
        }
        self.state = match self.follows(head.status)? {
            Follows::Interim => State::Head(Box::new(Head::new())),
            Follows::Switch => State::Silent,
            Follows::Final => match head.length {
                _ if self.asked.head_only || matches!(head.status, 204 | 304) => State::Idle,
                _ if head.chunked => State::Chunks(Chunks::new()),
                Some(0) => State::Idle,
                Some(length) => State::Length(length),
                None => State::Rest,
            },
        };
        Some(())
    }

    fn follows(&mut self, status: u16) -> Option<Follows> {
        match status {
            // RFC 9110 §15.2.2: without an `Upgrade` of ours it is an answer to somebody else.
            101 => self.asked.switch.then_some(Follows::Switch),
            100..=199 => {
                self.interim += 1;
                (self.interim <= INTERIM_MAX).then_some(Follows::Interim)
            }
            200..=599 => Some(Follows::Final),
            _ => None,
        }
    }
}

/// The status of a status line (RFC 9112 §4).
pub(super) fn status(line: &[u8]) -> Option<u16> {
    let rest = line
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, behind) = rest.split_at_checked(3)?;
    let ends = behind.first().is_none_or(|b| *b == b' ');
    let digits = std::str::from_utf8(digits).ok().filter(|_| ends)?;
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}
