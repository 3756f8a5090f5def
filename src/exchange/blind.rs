//! Hosts that the configuration passes through blind: no interception, never a credential; the address rules and the
//! audit line are those of every other request.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::body::Watch;
use super::record::Line;
use super::refusal::Refusal;
use super::settings::Timeouts;
use super::story::Exchange;
use super::upgrade::carry;
use crate::upstream::Way;
use crate::vocab::Authority;

impl Exchange {
    /// Dials a blind host under the ordinary address rules.
    ///
    /// # Errors
    /// A refusal where the address is not allowed or cannot be reached.
    pub async fn dial_blind(&self, authority: &Authority) -> Result<Way, Refusal> {
        let limit: Duration = Timeouts::default().connect;
        let dialled = self.upstream.tunnel(authority, limit).await;
        dialled.map_err(|why| Refusal::from(why.code()))
    }

    /// Carries bytes both ways until both sides have ended.
    pub async fn carry_blind<I>(&self, agent: I, upstream: Way, mut line: Line)
    where
        I: AsyncRead + AsyncWrite,
    {
        line.allowed(StatusCode::OK);
        let watch = Watch::new(CancellationToken::new(), Timeouts::default().idle, None);
        carry(agent, upstream, watch, &self.ending.cut, &mut line).await;
    }
}
