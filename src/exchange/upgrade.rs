//! WebSockets (RFC 6455): the handshake is checked on both sides, then bytes flow both ways until either side, the
//! operator or silence ends them.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
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

/// Appended to the key before hashing (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
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
                carry((agent, upstream), watch, &cut, shield, &mut line).await;
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

/// Copies both ways, each at its own pace, until both sides have ended, or the watch or `cut` ends both.
pub(super) async fn carry<A, U>(
    (agent, upstream): (A, U),
    mut watch: Watch,
    cut: &CancellationToken,
    mut shield: Option<Shield>,
    line: &mut Line,
) where
    A: AsyncRead + AsyncWrite,
    U: AsyncRead + AsyncWrite,
{
    let (agent_in, agent_out) = tokio::io::split(agent);
    let (upstream_in, upstream_out) = tokio::io::split(upstream);
    let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
    let flows = async {
        let back = async {
            match &mut shield {
                Some(shield) => searched(upstream_in, agent_out, &received, shield, line).await,
                None => copy(upstream_in, agent_out, &received).await,
            }
        };
        tokio::try_join!(copy(agent_in, upstream_out, &sent), back)
    };
    let whole = carried(flows, &mut watch, cut, (&sent, &received)).await;
    if whole {
        line.completed();
    }
    line.carried(
        sent.load(Ordering::Relaxed),
        received.load(Ordering::Relaxed),
    );
}

/// Whether both directions came to their end, before the watch or `cut` ended them.
async fn carried<T>(
    flows: impl Future<Output = std::io::Result<T>>,
    watch: &mut Watch,
    cut: &CancellationToken,
    (sent, received): (&AtomicU64, &AtomicU64),
) -> bool {
    tokio::pin!(flows);
    loop {
        let before = sent.load(Ordering::Relaxed) + received.load(Ordering::Relaxed);
        tokio::select! {
            ended = &mut flows => return ended.is_ok(),
            () = cut.cancelled() => return false,
            stop = watch.end() => {
                let moved = sent.load(Ordering::Relaxed) + received.load(Ordering::Relaxed) != before;
                if stop == Stop::Silent && moved {
                    watch.moved();
                } else {
                    return false;
                }
            }
        }
    }
}

/// What the API is told to have done, in a frame of its own: it said what may not pass (RFC 6455 §7.4.1).
const POLICY_VIOLATION: [u8; 4] = [0x88, 2, 0x03, 0xf0];

/// Copies the API's messages to their end, searched.
async fn searched<R, W>(
    mut from: R,
    mut to: W,
    count: &AtomicU64,
    shield: &mut Shield,
    line: &mut Line,
) -> std::io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut messages = Messages::new(shield.watched().clone());
    let mut buffer = BytesMut::with_capacity(BUFFER);
    while from.read_buf(&mut buffer).await? > 0 {
        let clear = messages.pass(&buffer);
        buffer.clear();
        let allowed = shield.found(messages.hits(), line);
        let (Ok(mut clear), Ok(())) = (clear, allowed) else {
            to.write_all(&POLICY_VIOLATION).await?;
            to.shutdown().await?;
            return Err(std::io::ErrorKind::InvalidData.into());
        };
        count.fetch_add(clear.len() as u64, Ordering::Relaxed);
        if !clear.is_empty() {
            to.write_all_buf(&mut clear).await?;
            to.flush().await?;
        }
        buffer.reserve(BUFFER);
    }
    to.shutdown().await
}

/// Copies one direction to its end, and passes the end on.
async fn copy<R, W>(mut from: R, mut to: W, count: &AtomicU64) -> std::io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = BytesMut::with_capacity(BUFFER);
    while from.read_buf(&mut buffer).await? > 0 {
        count.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        to.write_all_buf(&mut buffer).await?;
        to.flush().await?;
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
