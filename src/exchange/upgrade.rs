//! WebSockets (RFC 6455): the handshake is checked on both sides, then bytes flow both ways until either side, the
//! operator or silence ends them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::body::{AgentBody, Stop, Watch};
use super::ending::Ending;
use super::messages::Messages;
use super::record::Line;
use super::refusal::Refusal;
use super::shield::Shield;
use crate::credential::BareHead;
use crate::upstream::Reply;
use crate::vocab::Code;
use crate::wire::WebSocketFrames;

/// Appended to the key before hashing (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Why a WebSocket is closed (RFC 6455 §7.4.1): the proxy ends, or silence does; the operator or a policy has ended it.
const GOING_AWAY: u16 = 1001;
const POLICY: u16 = 1008;
/// How long the last frame may take.
const LAST_FRAME: Duration = Duration::from_millis(250);
/// Bytes in flight per direction.
const BUFFER: usize = 16 * 1024;

/// Both sides of a handshake that succeeded.
pub(super) struct Switch {
    headers: HeaderMap,
    agent: OnUpgrade,
    upstream: OnUpgrade,
    watch: Watch,
    shield: Option<Shield>,
}

impl Switch {
    /// Checks the upstream's 101 against what the agent asked.
    ///
    /// # Errors
    /// A refusal where the answer is not for this handshake: a wrong `Sec-WebSocket-Accept`, another protocol.
    pub(super) fn new(
        mut reply: Reply,
        head: &BareHead,
        agent: OnUpgrade,
        watch: Watch,
    ) -> Result<Self, Refusal> {
        let upstream = hyper::upgrade::on(&mut reply.response);
        let headers = reply.response.headers().clone();
        let key = head
            .field(&header::SEC_WEBSOCKET_KEY)
            .map_or(&b""[..], HeaderValue::as_bytes);
        let one = |name: &header::HeaderName| headers.get_all(name).iter().nth(1).is_none();
        let accepted = one(&header::SEC_WEBSOCKET_ACCEPT)
            && headers
                .get(header::SEC_WEBSOCKET_ACCEPT)
                .is_some_and(|v| v.as_bytes() == accept(key).as_bytes());
        let websocket = headers
            .get(header::UPGRADE)
            .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let protocol = one(&header::SEC_WEBSOCKET_PROTOCOL)
            && chosen_was_offered(&headers, head, &header::SEC_WEBSOCKET_PROTOCOL);
        let extensions = chosen_was_offered(&headers, head, &header::SEC_WEBSOCKET_EXTENSIONS);
        if !(accepted && websocket && protocol && extensions) {
            return Err(Refusal::from(Code::UpstreamProtocolError)
                .answered(StatusCode::SWITCHING_PROTOCOLS));
        }
        Ok(Self {
            headers,
            agent,
            upstream,
            watch,
            shield: None,
        })
    }

    /// Has what the API says searched.
    pub(super) fn search(&mut self, shield: Shield) {
        self.shield = Some(shield);
    }

    pub(super) fn headers(&mut self) -> &mut HeaderMap {
        &mut self.headers
    }

    /// Answers the agent and carries bytes in a task of its own, which owns the line.
    pub(super) fn into_response(self, mut line: Line, ending: &Ending) -> Response<AgentBody> {
        let Self {
            mut headers,
            agent,
            upstream,
            watch,
            shield,
        } = self;
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.remove(header::CONTENT_LENGTH);
        let cut = ending.cut.clone();
        ending.tasks.spawn(async move {
            let both = async { Some((agent.await.ok()?, upstream.await.ok()?)) };
            let opened = cut.run_until_cancelled(both).await.flatten();
            if let Some((agent, upstream)) = opened {
                let (agent, upstream) = (TokioIo::new(agent), TokioIo::new(upstream));
                let frames = Some(WebSocketFrames::default());
                carry((agent, frames), upstream, watch, &cut, shield, &mut line).await;
            }
        });
        let mut response = Response::new(AgentBody::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        response
    }
}

/// Whether every name that the upstream chose is among those that the agent offered. Parameters of an extension may
/// differ, its name may not.
fn chosen_was_offered(answer: &HeaderMap, head: &BareHead, field: &header::HeaderName) -> bool {
    fn names<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Vec<&'a str> {
        let lines = values.filter_map(|value| value.to_str().ok());
        let items = lines.flat_map(|line| line.split(','));
        items
            .map(|item| item.split(';').next().unwrap_or_default().trim())
            .collect()
    }
    let offered = names(head.fields(field));
    names(answer.get_all(field).iter())
        .iter()
        .all(|name| offered.contains(name))
}

fn accept(key: &[u8]) -> String {
    use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
    let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID.as_bytes());
    STANDARD.encode(hash.finish())
}

/// Copies both ways, each at its own pace, until both sides have ended, or the watch or `cut` ends both. An agent whose
/// WebSocket ends so is told, where what it got last was a whole frame.
pub(super) async fn carry<A, U>(
    (agent, mut frames): (A, Option<WebSocketFrames>),
    upstream: U,
    mut watch: Watch,
    cut: &CancellationToken,
    mut shield: Option<Shield>,
    line: &mut Line,
) where
    A: AsyncRead + AsyncWrite,
    U: AsyncRead + AsyncWrite,
{
    let (mut agent_in, mut agent_out) = tokio::io::split(agent);
    let (mut upstream_in, mut upstream_out) = tokio::io::split(upstream);
    let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
    let told = {
        let mut unseen = None;
        let flows = async {
            let back = async {
                let (from, to) = (&mut upstream_in, &mut agent_out);
                match &mut shield {
                    Some(shield) => {
                        searched((from, to), &received, &mut frames, (shield, line)).await
                    }
                    None => copy(from, to, &received, &mut frames).await,
                }
            };
            tokio::try_join!(
                copy(&mut agent_in, &mut upstream_out, &sent, &mut unseen),
                back
            )
        };
        carried(flows, &mut watch, cut, (&sent, &received)).await
    };
    let told = match told {
        Ended::Whole => {
            line.completed();
            None
        }
        Ended::Broken => None,
        Ended::Cut => Some(GOING_AWAY),
        Ended::Watched if line.over().is_some() => Some(POLICY),
        Ended::Watched => Some(GOING_AWAY),
    };
    if let (Some(why), Some(frames)) = (told, &frames)
        && frames.is_between()
    {
        let last = async {
            agent_out.write_all(&close(why)).await?;
            agent_out.shutdown().await
        };
        // An agent that does not read is not waited for.
        let written = tokio::time::timeout(LAST_FRAME, last).await;
        tracing::debug!(
            written = matches!(written, Ok(Ok(()))),
            "a WebSocket was ended"
        );
    }
    line.carried(
        sent.load(Ordering::Relaxed),
        received.load(Ordering::Relaxed),
    );
}

/// How it came to an end.
enum Ended {
    /// Both directions at theirs.
    Whole,
    /// A side broke off, or was told already.
    Broken,
    /// The process ends.
    Cut,
    /// The operator, a policy, silence or age.
    Watched,
}

/// Waits until both directions have come to their end, or the watch or `cut` ends them.
async fn carried<T>(
    flows: impl Future<Output = std::io::Result<T>>,
    watch: &mut Watch,
    cut: &CancellationToken,
    (sent, received): (&AtomicU64, &AtomicU64),
) -> Ended {
    tokio::pin!(flows);
    loop {
        let before = sent.load(Ordering::Relaxed) + received.load(Ordering::Relaxed);
        tokio::select! {
            ended = &mut flows => return if ended.is_ok() { Ended::Whole } else { Ended::Broken },
            () = cut.cancelled() => return Ended::Cut,
            stop = watch.end() => {
                let moved = sent.load(Ordering::Relaxed) + received.load(Ordering::Relaxed) != before;
                if stop == Stop::Silent && moved {
                    watch.moved();
                } else {
                    return Ended::Watched;
                }
            }
        }
    }
}

/// Copies the API's messages to their end, searched. An API that says what may not pass, or what cannot be searched, has its
/// WebSocket ended.
async fn searched<R, W>(
    (from, to): (&mut R, &mut W),
    count: &AtomicU64,
    frames: &mut Option<WebSocketFrames>,
    (shield, line): (&mut Shield, &mut Line),
) -> std::io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut messages = Messages::new(shield.watched().clone());
    let mut buffer = BytesMut::with_capacity(BUFFER);
    while from.read_buf(&mut buffer).await? > 0 {
        let mut clear = BytesMut::new();
        if shield.renewed() {
            messages.watch(shield.watched().clone());
        }
        let sound = messages.pass(&buffer, &mut clear).is_ok();
        buffer.clear();
        let allowed = shield.found(messages.hits(), line).is_ok();
        if !allowed {
            clear.clear();
        }
        count.fetch_add(clear.len() as u64, Ordering::Relaxed);
        if !clear.is_empty() {
            hand_on(&mut clear, to, frames).await?;
        }
        if !sound || !allowed {
            // Inside a frame it would be read as a part of that.
            if frames.as_ref().is_none_or(WebSocketFrames::is_between) {
                to.write_all(&close(POLICY)).await?;
            }
            to.shutdown().await?;
            return Err(std::io::ErrorKind::InvalidData.into());
        }
        buffer.reserve(BUFFER);
    }
    to.shutdown().await
}

/// A close frame with this reason (RFC 6455 §5.5.1), from the server's side.
fn close(why: u16) -> [u8; 4] {
    let [high, low] = why.to_be_bytes();
    [0x88, 2, high, low]
}

/// Writes what there is to its end. Cut off in between, `frames` knows where.
async fn hand_on<W: AsyncWrite + Unpin>(
    bytes: &mut BytesMut,
    to: &mut W,
    frames: &mut Option<WebSocketFrames>,
) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let written = to.write(bytes).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        if let Some(frames) = frames {
            frames.feed(bytes.get(..written).unwrap_or_default());
        }
        bytes.advance(written);
    }
    to.flush().await
}

/// Copies one direction to its end, and passes the end on.
async fn copy<R, W>(
    from: &mut R,
    to: &mut W,
    count: &AtomicU64,
    frames: &mut Option<WebSocketFrames>,
) -> std::io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = BytesMut::with_capacity(BUFFER);
    while from.read_buf(&mut buffer).await? > 0 {
        count.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        hand_on(&mut buffer, to, frames).await?;
        buffer.reserve(BUFFER);
    }
    to.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_value_is_that_of_rfc_6455() {
        assert_eq!(
            accept(b"dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }
}
