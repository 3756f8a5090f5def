//! Hosts that the configuration passes through blind: no interception, never a credential; the address rules and the
//! audit line are those of every other request.

use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::Watch;
use super::live::About;
use super::record::Line;
use super::refusal::Refusal;
use super::settings::Timeouts;
use super::story::Exchange;
use super::upgrade::carry;
use crate::policy::Admission;
use crate::upstream::Way;
use crate::vocab::{AgentName, Authority, Code};

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

    /// Takes a tunnel's place among what is under way, where a changed policy finds it.
    ///
    /// # Errors
    /// A refusal where the policy changed just now.
    pub fn enter_blind(
        &self,
        agent: &AgentName,
        authority: &Authority,
        line: &mut Line,
    ) -> Result<(), Refusal> {
        let ticket = self
            .live
            .enter(agent.clone(), authority.clone(), About::Tunnel);
        line.enter(ticket);
        match self.plan.load().snapshot.admits(agent, authority)? {
            Admission::Tunnel => Ok(()),
            Admission::Intercept(_) => Err(Code::ConfigChanged.into()),
        }
    }

    /// Carries bytes both ways until both sides have ended.
    pub async fn carry_blind<I>(&self, agent: I, upstream: Way, mut line: Line)
    where
        I: AsyncRead + AsyncWrite,
    {
        line.allowed(StatusCode::OK);
        let watch = Watch::new(line.cancel(), Timeouts::default().idle, None);
        carry(
            (agent, None),
            upstream,
            watch,
            &self.ending.cut,
            None,
            &mut line,
        )
        .await;
    }
}
