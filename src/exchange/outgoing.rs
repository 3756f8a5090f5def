//! Searches a request for live secrets of ours. An agent never gets one, so one that stands there came in some other way:
//! from a log, from a person, from an answer of a service that is not guarded. It goes no further.
//!
//! The head, and a body that is kept, are searched before anything is sent. A body that flows is searched on its way: what
//! could be the beginning of a secret waits, and where the rest comes the body is broken off.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;

use super::kept::Kept;
use super::record::Line;
use super::refusal::Refusal;
use super::shield::Alarm;
use crate::audit::Event;
use crate::credential::{BodyError, Lease, OutBody};
use crate::policy::Permit;
use crate::reflect::{Sought, Stream, Watched};
use crate::vocab::{Code, Host, RequestId};

/// Gives everything that could be lent at this moment: every token in use, every static credential.
pub type Lent = Arc<dyn Fn() -> Vec<Lease> + Send + Sync>;

/// What one request is searched for. The secrets are those of the moment at which it came.
#[derive(Clone)]
pub(super) struct Outgoing {
    watched: Watched,
    finding: Arc<Finding>,
}

/// Who is told of a find, and what.
struct Finding {
    alarm: Arc<Alarm>,
    request: RequestId,
    permit: Permit,
}

impl Finding {
    fn tell(&self, place: &'static str) {
        let event = Event::SecretInRequest {
            request: self.request,
            agent: self.permit.agent().clone(),
            service: self.permit.service().clone(),
            place,
        };
        self.alarm.metrics.security_event(event.name());
        self.alarm.audit.event(event);
    }
}

impl Outgoing {
    /// For a request with this permit.
    pub(super) fn new(
        lent: &[Lease],
        alarm: &Arc<Alarm>,
        permit: &Permit,
        request: RequestId,
    ) -> Self {
        let mut sought: Vec<Arc<Sought>> = Vec::new();
        for one in lent.iter().flat_map(Lease::sought) {
            if !sought.iter().any(|known| Arc::ptr_eq(known, &one)) {
                sought.push(one);
            }
        }
        let finding = Finding {
            alarm: alarm.clone(),
            request,
            permit: permit.clone(),
        };
        Self {
            watched: Watched::new(sought, ""),
            finding: Arc::new(finding),
        }
    }

    /// Searches the head as the agent sent it: what is taken off later counts too, since the agent has it. Its line
    /// shows a path without the secret.
    ///
    /// # Errors
    /// `secret-in-request`.
    pub(super) fn head(
        &self,
        host: &Host,
        path: &str,
        query: Option<&str>,
        fields: &HeaderMap,
        line: &mut Line,
    ) -> Result<(), Refusal> {
        if let Some(shown) = self.watched.without(path.as_bytes()) {
            line.shows_path(String::from_utf8_lossy(&shown).into_owned());
        }
        // Below a wildcard an agent may think up names. They have no capitals, and a long text has dots between its parts.
        let host = host.to_string();
        let joined = host.replace('.', "");
        if [host, joined]
            .iter()
            .any(|text| self.watched.is_in_name(text.as_bytes()))
        {
            line.shows_host("redacted");
            return Err(self.refuse("host"));
        }
        self.look("path", path.as_bytes())?;
        self.look("query", query.unwrap_or_default().as_bytes())?;
        let mut values = fields.values();
        values.try_for_each(|value| self.look("header", value.as_bytes()))?;
        let mut names = fields.keys();
        if names.any(|name| self.watched.is_in_name(name.as_str().as_bytes())) {
            return Err(self.refuse("header"));
        }
        Ok(())
    }

    /// Searches a body that is kept.
    ///
    /// # Errors
    /// `secret-in-request`.
    pub(super) fn kept(&self, body: &Kept) -> Result<(), Refusal> {
        match body {
            Kept::Buffered { bytes, .. } => self.look("body", bytes),
            Kept::Empty | Kept::Streaming(_) | Kept::Waiting(_) => Ok(()),
        }
    }

    fn look(&self, place: &'static str, text: &[u8]) -> Result<(), Refusal> {
        if self.watched.without(text).is_none() {
            return Ok(());
        }
        Err(self.refuse(place))
    }

    fn refuse(&self, place: &'static str) -> Refusal {
        self.finding.tell(place);
        Code::SecretInRequest.into()
    }

    /// The same body, searched on its way.
    pub(super) fn flowing(&self, body: OutBody) -> OutBody {
        Flowing {
            body,
            stream: Stream::new(self.watched.clone()),
            guard: self.clone(),
            ready: VecDeque::new(),
            ended: false,
        }
        .boxed_unsync()
    }
}

/// A body on its way out, searched.
struct Flowing {
    body: OutBody,
    stream: Stream,
    guard: Outgoing,
    /// What was searched and not yet taken: two frames at most.
    ready: VecDeque<Frame<Bytes>>,
    /// Nothing more comes.
    ended: bool,
}

impl Flowing {
    /// Takes a piece; `last`: nothing follows it.
    fn pass(&mut self, piece: Bytes, last: bool) -> Result<(), BodyError> {
        let clear = self.stream.push(piece, last);
        if self.stream.hits() > 0 {
            return Err(self.found());
        }
        if !clear.is_empty() {
            self.ready.push_back(Frame::data(clear));
        }
        Ok(())
    }

    fn found(&mut self) -> BodyError {
        self.ended = true;
        self.ready.clear();
        self.guard.finding.tell("body");
        BodyError::Secret
    }

    fn take(&mut self, frame: Option<Frame<Bytes>>) -> Result<(), BodyError> {
        let Some(frame) = frame else {
            self.ended = true;
            return self.pass(Bytes::new(), true);
        };
        match frame.into_data() {
            Ok(piece) => {
                self.ended = self.body.is_end_stream();
                self.pass(piece, self.ended)
            }
            Err(frame) => {
                // What is held back goes before the trailers, which are the end.
                self.ended = true;
                self.pass(Bytes::new(), true)?;
                if let Ok(trailers) = frame.into_trailers() {
                    let mut values = trailers.values();
                    if values.any(|v| self.guard.watched.without(v.as_bytes()).is_some()) {
                        return Err(self.found());
                    }
                    self.ready.push_back(Frame::trailers(trailers));
                }
                Ok(())
            }
        }
    }
}

impl Body for Flowing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let taken = match ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose() {
                Ok(frame) => self.take(frame),
                Err(error) => {
                    self.ended = true;
                    Err(error)
                }
            };
            if let Err(error) = taken {
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty()
            && (self.ended || (self.stream.held() == 0 && self.body.is_end_stream()))
    }

    fn size_hint(&self) -> SizeHint {
        let waiting = self.ready.iter().filter_map(Frame::data_ref);
        let waiting = waiting.map(|data| data.len() as u64).sum::<u64>();
        let hint = self.body.size_hint();
        let waiting = waiting + self.stream.held() as u64;
        let mut all = SizeHint::new();
        all.set_lower(hint.lower() + waiting);
        if let Some(upper) = hint.upper() {
            all.set_upper(upper + waiting);
        }
        all
    }
}
