//! The requests of one connection, as the agent writes them.

use std::collections::VecDeque;

use super::chunks::Chunks;
use super::head::{Fault, Head, Step};
use crate::vocab::Code;

/// Heads that may wait for their requests: a connection that pipelines more is not believed any more.
const WAITING_MAX: usize = 256;
/// Most fields of one head. hyper's own bound, which it enforces without a word of ours.
const FIELDS_MAX: usize = 100;

/// Longest first line, in bytes: a little below where hyper's own bound on targets ends a connection without a word of
/// ours.
const LINE_MAX: usize = 65_000;

/// What stands on the wire for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Field lines.
    pub fields: usize,
    /// Why it must be refused.
    pub fault: Option<Fault>,
}

/// Why nothing more may be read from a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// A body that ends where one likes.
    Body,
    /// A coding of which nobody knows where it ends.
    Coding,
    /// A head with too many fields, or too many bytes of them.
    Head,
    /// The connection preface of HTTP/2, where HTTP/1.1 is spoken (RFC 9113 §3.4).
    Preface,
    /// The first line alone is longer than a head may be.
    Target,
    /// Another version than HTTP/1.0 and 1.1, or none.
    Version,
}

impl Stop {
    /// What the agent is told.
    #[must_use]
    pub fn code(self) -> Code {
        match self {
            Self::Body | Self::Coding | Self::Preface | Self::Version => Code::BadRequest,
            Self::Head => Code::HeadTooLarge,
            Self::Target => Code::UriTooLong,
        }
    }
}

enum State {
    Head(Box<Head>),
    Length(u64),
    Chunks(Chunks),
    /// Behind a CONNECT that has not been answered; whether anything followed it.
    Connect(bool),
    /// Where the next head begins is not known, or not believed: no verdict comes any more.
    Lost,
    /// The connection speaks something else.
    Silent,
}

/// Reads the requests of one connection beside the parser.
pub struct Requests {
    state: State,
    /// Bytes that a head may have.
    head_max: usize,
    waiting: VecDeque<Verdict>,
    /// Heads that have ended.
    heads: u64,
}

impl Requests {
    /// At the start of a connection whose heads may have this many bytes.
    #[must_use]
    pub fn new(head_max: usize) -> Self {
        Self {
            state: State::Head(Box::new(Head::new())),
            head_max,
            waiting: VecDeque::new(),
            heads: 0,
        }
    }

    /// Takes what was read.
    ///
    /// # Errors
    /// [`Stop`] where the parser must not be given the last of these bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Stop> {
        while !bytes.is_empty() {
            let taken = match &mut self.state {
                State::Head(_) => self.head(bytes)?,
                State::Length(left) => {
                    let here = usize::try_from(*left).map_or(bytes.len(), |n| n.min(bytes.len()));
                    *left -= here as u64;
                    if *left == 0 {
                        self.next_head();
                    }
                    here
                }
                State::Chunks(chunks) => match chunks.feed(bytes) {
                    Ok((taken, ended)) => {
                        if ended {
                            self.next_head();
                        }
                        taken
                    }
                    Err(_) => {
                        self.state = State::Lost;
                        return Err(Stop::Body);
                    }
                },
                State::Connect(followed) => {
                    *followed = true;
                    return Ok(());
                }
                State::Lost | State::Silent => return Ok(()),
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// The verdict on the next request that the parser hands up. `None`: there is no such head on the wire.
    pub fn verdict(&mut self) -> Option<Verdict> {
        self.waiting.pop_front()
    }

    /// The number of the head that has begun and not ended, where there is one.
    #[must_use]
    pub fn in_head(&self) -> Option<u64> {
        matches!(&self.state, State::Head(head) if head.begun()).then_some(self.heads)
    }

    /// Whether heads wait for their requests.
    #[must_use]
    pub fn waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A CONNECT was refused: the connection goes on, unless its tunnel had been taken for open already.
    pub fn refused(&mut self) {
        match self.state {
            State::Connect(false) => self.next_head(),
            State::Connect(true) => self.state = State::Lost,
            _ => {}
        }
    }

    /// The connection speaks something else from here on.
    pub fn switched(&mut self) {
        self.state = State::Silent;
    }

    fn next_head(&mut self) {
        self.state = State::Head(Box::new(Head::new()));
    }

    fn head(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        let State::Head(head) = &mut self.state else {
            return Ok(0);
        };
        let mut taken = 0;
        let stop = loop {
            match head.feed(&bytes[taken..]) {
                Step::First(n) => {
                    taken += n;
                    if head.first_line() == b"PRI * HTTP/2.0" {
                        break Some(Stop::Preface);
                    }
                    if head.bytes > self.head_max.min(LINE_MAX) {
                        break Some(Stop::Target);
                    }
                    if !head.known_version() {
                        break Some(Stop::Version);
                    }
                    head.note_connect();
                    head.next_line();
                    continue;
                }
                Step::More => taken = bytes.len(),
                Step::Ended(n) => {
                    taken += n;
                    let stop = too_large(head, self.head_max)
                        .or_else(|| (!head.ends_chunked).then_some(Stop::Coding));
                    if stop.is_none() {
                        self.ended();
                        return Ok(taken);
                    }
                    break stop;
                }
            }
            break too_large(head, self.head_max);
        };
        match stop {
            Some(stop) => {
                self.state = State::Lost;
                Err(stop)
            }
            None => Ok(taken),
        }
    }

    /// A head is whole: its verdict waits for its request, and its body comes next.
    fn ended(&mut self) {
        let State::Head(head) = std::mem::replace(&mut self.state, State::Lost) else {
            return;
        };
        let body = head.chunked || head.length.is_some_and(|length| length > 0);
        let tunnelled = (head.connect && body).then_some(Fault::ConnectBody);
        let fault = head.fault.or(tunnelled);
        if self.waiting.len() == WAITING_MAX {
            return;
        }
        self.heads += 1;
        self.waiting.push_back(Verdict {
            fields: head.fields,
            fault,
        });
        self.state = match head.length {
            // What follows a head that can be read in two ways has no certain beginning.
            _ if fault.is_some() => State::Lost,
            _ if head.connect => State::Connect(false),
            _ if head.chunked => State::Chunks(Chunks::new()),
            Some(length) if length > 0 => State::Length(length),
            _ => State::Head(Box::new(Head::new())),
        };
    }
}

fn too_large(head: &Head, max: usize) -> Option<Stop> {
    if head.bytes > max {
        let stop = if head.in_first_line() {
            Stop::Target
        } else {
            Stop::Head
        };
        return Some(stop);
    }
    (head.fields > FIELDS_MAX).then_some(Stop::Head)
}
