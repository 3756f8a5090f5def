//! `GET /v1/audit`: lines of the audit file as they are written, as server-sent events
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>). What is shown is what the file has, and no more.
//!
//! Each line is an event `line`; `lost` tells how many found no room because the reader was slow.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream as _, StreamExt as _};
use http_body::{Body, Frame};
use serde_json::Value;

use crate::audit::{Piece, Tail};
use crate::vocab::{AgentName, ServiceName};

/// How often a quiet stream says that it lives; a reader that is gone is noticed then.
const PULSE: Duration = Duration::from_secs(10);
/// Lines that are looked at before others have their turn.
const TURN: usize = 64;

/// Which lines are wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    agent: Option<AgentName>,
    service: Option<ServiceName>,
    /// The word of the file.
    decision: Option<&'static str>,
}

impl Wanted {
    /// Reads a query; names of the configuration need no escapes. `None`: a part of it is not known.
    pub(super) fn read(query: &str) -> Option<Self> {
        let mut wanted = Self::default();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            match part.split_once('=')? {
                ("agent", name) => wanted.agent = Some(AgentName::new(name).ok()?),
                ("service", name) => wanted.service = Some(ServiceName::new(name).ok()?),
                ("decision", "allow") => wanted.decision = Some("allowed"),
                ("decision", "deny") => wanted.decision = Some("refused"),
                ("decision", "abandoned") => wanted.decision = Some("abandoned"),
                _ => return None,
            }
        }
        Some(wanted)
    }

    fn takes(&self, line: &str) -> bool {
        if *self == Self::default() {
            return true;
        }
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            return false;
        };
        let is =
            |name: &str, wanted: Option<&str>| wanted.is_none_or(|wanted| line[name] == wanted);
        is("agent", self.agent.as_ref().map(AgentName::as_str))
            && is("service", self.service.as_ref().map(ServiceName::as_str))
            && is("decision", self.decision)
    }
}

/// The body of an answer that goes on until the reader leaves.
pub(super) struct Live(BoxStream<'static, Bytes>);

impl Live {
    pub(super) fn new(tail: Tail, wanted: Wanted) -> Self {
        // The head of the answer goes out at once, and with it what tells the reader that it is heard.
        let greeting = stream::once(async { Bytes::from_static(b": following\n\n") });
        let lines = stream::unfold((tail, wanted), |(mut tail, wanted)| async move {
            let mut seen = 0;
            loop {
                let Ok(piece) = tokio::time::timeout(PULSE, tail.next()).await else {
                    return Some((Bytes::from_static(b": still here\n\n"), (tail, wanted)));
                };
                if let Some(event) = event(&piece, &wanted) {
                    return Some((event, (tail, wanted)));
                }
                seen += 1;
                if seen % TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
        });
        Self(greeting.chain(lines).boxed())
    }
}

fn event(piece: &Piece, wanted: &Wanted) -> Option<Bytes> {
    let mut text = String::new();
    let written = match piece {
        Piece::Line(line) if wanted.takes(line) => {
            write!(text, "event: line\ndata: {line}\n\n")
        }
        Piece::Line(_) => return None,
        Piece::Lost(lost) => write!(text, "event: lost\ndata: {{\"lost\":{lost}}}\n\n"),
    };
    written.ok().map(|()| text.into())
}

impl Body for Live {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = Pin::new(&mut self.0).poll_next(context);
        next.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &str = r#"{"event":"request","agent":"a","service":"s","decision":"refused"}"#;
    const EVENT: &str = r#"{"event":"token.issued","agent":"a","service":"s"}"#;

    #[test]
    fn filters_are_read_or_refused() {
        assert_eq!(Wanted::read(""), Some(Wanted::default()));
        for (query, request, event) in [
            ("", true, true),
            ("agent=a", true, true),
            ("agent=b", false, false),
            ("agent=a&service=s", true, true),
            ("service=t", false, false),
            ("decision=deny", true, false),
            ("decision=allow", false, false),
        ] {
            let wanted = Wanted::read(query).unwrap();
            assert_eq!(
                (wanted.takes(REQUEST), wanted.takes(EVENT)),
                (request, event),
                "{query}"
            );
        }
        for bad in [
            "agent",
            "agent=",
            "agent=%61",
            "who=a",
            "decision=maybe",
            "agent=a;b",
        ] {
            assert_eq!(Wanted::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_event_is_one_line_of_the_file() {
        let wanted = Wanted::read("decision=deny").unwrap();
        let shown = |piece| event(&piece, &wanted).map(|b| String::from_utf8(b.to_vec()).unwrap());
        let line = shown(Piece::Line(REQUEST.into())).unwrap();
        assert_eq!(line, format!("event: line\ndata: {REQUEST}\n\n"));
        assert_eq!(shown(Piece::Line(EVENT.into())), None);
        let lost = shown(Piece::Lost(7)).unwrap();
        assert_eq!(lost, "event: lost\ndata: {\"lost\":7}\n\n");
    }
}
