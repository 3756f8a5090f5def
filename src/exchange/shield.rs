//! Searches an answer for what must not come back to the agent: the credential that went out, the other live tokens of
//! its grant, the proof. Found, it is overwritten by the placeholder, or ends the answer where the service wants that.
//!
//! A body is searched as it flows ([`crate::reflect`]). Without a content coding it keeps its bytes and its length; with
//! one it goes on without it, because what is taken out of a compressed body cannot be replaced in it. What cannot be
//! searched is refused: unknown codings, parts of a body, messages that are compressed one by one.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{StatusCode, response};
use http_body::{Body, Frame, SizeHint};

use super::record::Line;
use super::refusal::Refusal;
use super::settings::ResponseGuard;
use super::withheld;
use crate::audit::{Audit, Event};
use crate::credential::{BodyError, Feedback, Lease, Source};
use crate::metrics::Metrics;
use crate::reflect::{Coding, Sought, Stream, Unpacker, Watched};
use crate::upstream::ReplyBody;
use crate::vocab::Code;

/// Fields that are true of a body in its coding, and of no other.
const OF_CODED_BODIES: [&str; 7] = [
    "accept-ranges",
    "content-digest",
    "content-encoding",
    "content-length",
    "content-md5",
    "digest",
    "repr-digest",
];
/// Fields that say how the messages in a body are compressed: gRPC, gRPC-Web, Connect.
const OF_MESSAGES: [&str; 2] = ["connect-content-encoding", "grpc-encoding"];

/// Who is told when a credential came back.
pub(super) struct Alarm {
    pub(super) audit: Audit,
    pub(super) metrics: Metrics,
    pub(super) source: Arc<dyn Source>,
}

/// What is looked for in one answer, and what happens where it is found.
pub(super) struct Shield {
    watched: Watched,
    /// How many of what is looked for, at the end, are proofs.
    proofs: usize,
    /// How many tokens of the grants of these leases had come when it was made.
    came: u64,
    mode: ResponseGuard,
    alarm: Arc<Alarm>,
    leases: Vec<Lease>,
    told: bool,
}

impl Shield {
    /// For the answer to a request that these leases and proofs went out with. `None`: nothing is looked for.
    pub(super) fn new(
        mode: ResponseGuard,
        alarm: &Arc<Alarm>,
        leases: Vec<Lease>,
        proofs: &[HeaderValue],
        fill: Option<&Arc<str>>,
    ) -> Option<Self> {
        if mode == ResponseGuard::Off {
            return None;
        }
        // Before they are asked: what comes in between is noticed later.
        let came = came(&leases);
        let proofs = prepared(proofs);
        let last = proofs.len();
        let watched = watching(&leases, proofs, fill);
        (!watched.is_empty()).then(|| Self {
            watched,
            proofs: last,
            came,
            mode,
            alarm: alarm.clone(),
            leases,
            told: false,
        })
    }

    /// Looks for tokens of the same grants that have come since, which an API may say before this answer ends. Whether
    /// there are any.
    pub(super) fn renewed(&mut self) -> bool {
        let came = came(&self.leases);
        let changed = came != self.came;
        if changed {
            self.came = came;
            self.watched.renew(tokens(&self.leases), self.proofs);
        }
        changed
    }

    /// So many times something was found. It is told once for each answer.
    ///
    /// # Errors
    /// `credential-reflected` where the service wants such answers refused.
    pub(super) fn found(&mut self, times: usize, line: &mut Line) -> Result<(), Refusal> {
        if times == 0 {
            return Ok(());
        }
        let (agent, service) = line.parties();
        if let Some(service) = &service {
            for _ in 0..times {
                self.alarm.metrics.redaction(service.as_str());
            }
        }
        if let (false, Some(agent), Some(service)) = (self.told, agent, service) {
            self.told = true;
            let event = Event::CredentialReflected {
                request: line.id(),
                agent,
                service,
            };
            self.alarm.metrics.security_event(event.name());
            self.alarm.audit.event(event);
            for lease in &self.leases {
                self.alarm.source.report(lease, Feedback::Reflected);
            }
        }
        match self.mode {
            ResponseGuard::Block => Err(Code::CredentialReflected.into()),
            ResponseGuard::Redact | ResponseGuard::Off => Ok(()),
        }
    }

    /// Searches a head or trailers.
    ///
    /// # Errors
    /// As [`found`](Self::found).
    pub(super) fn head(&mut self, headers: &mut HeaderMap, line: &mut Line) -> Result<(), Refusal> {
        let hits = without(&self.watched, headers);
        self.found(hits, line)
    }

    /// Prepares the search of a body, and its head for what becomes of it.
    ///
    /// # Errors
    /// `response-unscannable` where it cannot be searched.
    pub(super) fn body(self, parts: &mut response::Parts) -> Result<Searched, Refusal> {
        let refuse = || Refusal::from(Code::ResponseUnscannable).answered(parts.status);
        // A credential may be cut where the parts meet, and an instance manipulation changes what bytes mean.
        let partial = [StatusCode::PARTIAL_CONTENT, StatusCode::IM_USED].contains(&parts.status);
        let ranges = parts
            .headers
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| starts_with(kind, b"multipart/byteranges"));
        let mut messages = OF_MESSAGES
            .iter()
            .flat_map(|name| parts.headers.get_all(*name));
        if partial || ranges || messages.any(|coding| coding.as_bytes() != b"identity") {
            return Err(refuse());
        }
        let mut codings = Vec::new();
        for line in parts.headers.get_all(header::CONTENT_ENCODING) {
            let line = line.to_str().map_err(|_| refuse())?;
            codings.extend(Coding::list(line).map_err(|_| refuse())?);
        }
        let unpacker = if codings.is_empty() {
            None
        } else {
            for name in OF_CODED_BODIES {
                parts.headers.remove(name);
            }
            weaken(&mut parts.headers);
            Some(Unpacker::new(&codings))
        };
        Ok(Searched {
            stream: Stream::new(self.watched.clone()),
            json: withheld::is_json(&parts.headers),
            shield: self,
            unpacker,
            ready: VecDeque::new(),
            source_ended: false,
            ended: false,
            why: None,
        })
    }

    pub(super) fn watched(&self) -> &Watched {
        &self.watched
    }
}

/// Everything that must not come back from an answer to these leases.
pub(super) fn watched(
    leases: &[Lease],
    proofs: &[HeaderValue],
    fill: Option<&Arc<str>>,
) -> Watched {
    watching(leases, prepared(proofs), fill)
}

fn watching(leases: &[Lease], proofs: Vec<Arc<Sought>>, fill: Option<&Arc<str>>) -> Watched {
    let mut sought = tokens(leases);
    sought.extend(proofs);
    Watched::new(sought, fill.map_or("", |fill| fill))
}

/// Every live token of the grants of these leases.
fn tokens(leases: &[Lease]) -> Vec<Arc<Sought>> {
    let mut sought: Vec<Arc<Sought>> = Vec::new();
    for one in leases.iter().flat_map(Lease::sought) {
        if !sought.iter().any(|known| Arc::ptr_eq(known, &one)) {
            sought.push(one);
        }
    }
    sought
}

fn prepared(proofs: &[HeaderValue]) -> Vec<Arc<Sought>> {
    let proofs = proofs.iter().filter_map(|p| Sought::plain(p.as_bytes()));
    proofs.map(Arc::new).collect()
}

/// Changes when a token of their grants comes.
fn came(leases: &[Lease]) -> u64 {
    leases.iter().map(Lease::came).sum()
}

/// Names that answers have whatever the credential is. None of them says one, also where a short one happens to be such a word.
static USUAL: [HeaderName; 22] = [
    header::DATE,
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_SECURITY_POLICY,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::CACHE_CONTROL,
    header::SERVER,
    header::VARY,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::LOCATION,
    header::LINK,
    header::RETRY_AFTER,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::STRICT_TRANSPORT_SECURITY,
    header::X_CONTENT_TYPE_OPTIONS,
    header::X_FRAME_OPTIONS,
    header::AGE,
];

/// Overwrites values in fields, and removes fields whose names hold one. How many there were.
pub(super) fn without(watched: &Watched, headers: &mut HeaderMap) -> usize {
    let mut hits = 0;
    for value in headers.values_mut() {
        if let Some(text) = watched.without(value.as_bytes()) {
            hits += 1;
            *value = HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("redacted"));
        }
    }
    let named =
        |name: &&HeaderName| !USUAL.contains(name) && watched.is_in_name(name.as_str().as_bytes());
    let named: Vec<HeaderName> = headers.keys().filter(named).cloned().collect();
    for name in named {
        hits += 1;
        headers.remove(name);
    }
    hits
}

fn starts_with(value: &HeaderValue, beginning: &[u8]) -> bool {
    let seen = value.as_bytes().get(..beginning.len());
    seen.is_some_and(|seen| seen.eq_ignore_ascii_case(beginning))
}

/// The content is the same without its coding, its bytes are not (RFC 9110 §8.8.1).
fn weaken(headers: &mut HeaderMap) {
    let strong = headers
        .get(header::ETAG)
        .filter(|tag| !starts_with(tag, b"W/"));
    let weak =
        strong.and_then(|tag| HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()).ok());
    if let Some(weak) = weak {
        headers.insert(header::ETAG, weak);
    }
}

/// A body that is searched on its way.
pub(super) struct Searched {
    shield: Shield,
    stream: Stream,
    json: bool,
    unpacker: Option<Unpacker>,
    /// What was searched and not yet taken: two frames, or what was read before the head went out.
    ready: VecDeque<Frame<Bytes>>,
    /// The API has nothing more to say.
    source_ended: bool,
    ended: bool,
    /// Why it was broken off.
    why: Option<Code>,
}

impl Searched {
    /// Looks at what comes first before the head goes out, where a find must become a refusal: at the first piece, and
    /// where that looks like an issuer's answer, at no more than 64 KiB of it.
    ///
    /// # Errors
    /// `credential-reflected`, `token-response-withheld`, or `response-unscannable` where the body is not what it should be.
    pub(super) async fn begin(
        &mut self,
        inner: &mut ReplyBody,
        line: &mut Line,
    ) -> Result<(), Refusal> {
        if self.shield.mode != ResponseGuard::Block && !self.json {
            return Ok(());
        }
        let Some(first) = self.next(inner, line).await? else {
            return Ok(());
        };
        let piece = first.data_ref().cloned().unwrap_or_default();
        let worth_reading = self.json && withheld::may_be(&piece);
        let mut frames = vec![first];
        let mut document = vec![piece];
        let mut size = 0;
        while worth_reading && size <= withheld::DOCUMENT_MAX {
            let Some(frame) = self.next(inner, line).await? else {
                break;
            };
            let piece = frame.data_ref().cloned().unwrap_or_default();
            size += piece.len();
            document.push(piece);
            frames.push(frame);
        }
        if worth_reading && withheld::is_token_response(&document) {
            return Err(Code::TokenResponseWithheld.into());
        }
        for frame in frames.into_iter().rev() {
            self.ready.push_front(frame);
        }
        Ok(())
    }

    /// The next piece, before the head has gone out.
    async fn next(
        &mut self,
        inner: &mut ReplyBody,
        line: &mut Line,
    ) -> Result<Option<Frame<Bytes>>, Refusal> {
        let frame = std::future::poll_fn(|cx| self.poll(inner, line, cx)).await;
        match frame {
            Some(Ok(frame)) => Ok(Some(frame)),
            Some(Err(_)) => Err(self.why.unwrap_or(Code::UpstreamReset).into()),
            None => Ok(None),
        }
    }

    /// The next piece that may go to the agent.
    pub(super) fn poll(
        &mut self,
        inner: &mut ReplyBody,
        line: &mut Line,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let busy = self.unpacker.as_ref().is_some_and(|u| !u.is_idle());
            let moved = if busy {
                self.unpack(line)
            } else if self.source_ended {
                self.end(line)
            } else {
                let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
                let ended = inner.is_end_stream();
                self.take(frame, ended, line)
            };
            if let Err(error) = moved {
                self.ended = true;
                return Poll::Ready(Some(Err(error)));
            }
        }
    }

    /// Takes what the API sent.
    fn take(
        &mut self,
        frame: Option<Result<Frame<Bytes>, BodyError>>,
        ended: bool,
        line: &mut Line,
    ) -> Result<(), BodyError> {
        self.source_ended = ended || frame.is_none();
        let Some(frame) = frame.transpose()? else {
            return Ok(());
        };
        match (frame.into_data(), &mut self.unpacker) {
            (Ok(piece), Some(unpacker)) => {
                unpacker.feed(piece);
                Ok(())
            }
            (Ok(piece), None) => {
                self.ended = ended;
                self.pass(piece, ended, line)
            }
            (Err(frame), _) => {
                // What is held back goes before the trailers, which are the end.
                self.end(line)?;
                let Ok(mut trailers) = frame.into_trailers() else {
                    return Ok(());
                };
                let allowed = self.shield.head(&mut trailers, line);
                allowed.map_err(|_| self.broken(Code::CredentialReflected))?;
                self.ready.push_back(Frame::trailers(trailers));
                Ok(())
            }
        }
    }

    /// Why the answer cannot go on; it has ended then.
    fn broken(&mut self, why: Code) -> BodyError {
        self.why = Some(why);
        BodyError::Cancelled
    }

    fn unpack(&mut self, line: &mut Line) -> Result<(), BodyError> {
        let Some(unpacker) = &mut self.unpacker else {
            return Ok(());
        };
        let text = unpacker.step();
        let text = text.map_err(|_| self.broken(Code::ResponseUnscannable))?;
        self.pass(text, false, line)
    }

    /// Nothing follows.
    fn end(&mut self, line: &mut Line) -> Result<(), BodyError> {
        let rest = match &mut self.unpacker {
            Some(unpacker) => unpacker.finish(),
            None => Ok(Bytes::new()),
        };
        let rest = rest.map_err(|_| self.broken(Code::ResponseUnscannable))?;
        self.ended = true;
        self.pass(rest, true, line)
    }

    fn pass(&mut self, piece: Bytes, last: bool, line: &mut Line) -> Result<(), BodyError> {
        if self.shield.renewed() {
            self.stream.watch(self.shield.watched().clone());
        }
        let before = self.stream.hits();
        let clear = self.stream.push(piece, last);
        let hits = self.stream.hits() - before;
        let allowed = self.shield.found(hits, line);
        allowed.map_err(|_| self.broken(Code::CredentialReflected))?;
        if !clear.is_empty() {
            self.ready.push_back(Frame::data(clear));
        }
        Ok(())
    }

    pub(super) fn is_end_stream(&self, inner: &ReplyBody) -> bool {
        let begun = self.source_ended || self.stream.held() > 0;
        self.ready.is_empty() && (self.ended || (!begun && inner.is_end_stream()))
    }

    /// How much is still to come; nobody knows of a body that is in a coding.
    pub(super) fn size_hint(&self, inner: &ReplyBody) -> SizeHint {
        // A known length would leave trailers no place on HTTP/1.1.
        let trailers = self.ready.iter().any(Frame::is_trailers);
        if trailers || (self.unpacker.is_some() && !self.is_end_stream(inner)) {
            return SizeHint::default();
        }
        let waiting = self.ready.iter().filter_map(Frame::data_ref);
        let waiting =
            waiting.map(|data| data.len() as u64).sum::<u64>() + self.stream.held() as u64;
        let hint = if self.ended {
            SizeHint::with_exact(0)
        } else {
            inner.size_hint()
        };
        let mut all = SizeHint::new();
        all.set_lower(hint.lower() + waiting);
        if let Some(upper) = hint.upper() {
            all.set_upper(upper + waiting);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_name_stays_whatever_the_credential_is() {
        let sought = Sought::new(b"location").unwrap();
        let watched = Watched::new(vec![Arc::new(sought)], "");
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, HeaderValue::from_static("/next"));
        headers.insert("x-location", HeaderValue::from_static("1"));
        assert_eq!(without(&watched, &mut headers), 1);
        let left: Vec<_> = headers.keys().collect();
        assert_eq!(left, [header::LOCATION]);
    }
}
