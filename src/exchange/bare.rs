//! What an attempt begins with: the permit with its service, and the request without credentials.

use std::sync::Arc;

use http::Version;
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;

use super::body::Progress;
use super::interim::Interim;
use super::kept::{self, Kept, Patience, Wait};
use super::media::Media;
use super::outgoing::Outgoing;
use super::plan::Service;
use crate::credential::BareHead;
use crate::policy::Permit;
use crate::vocab::Code;

/// What stays the same over all attempts.
pub(super) struct Crossing<'a> {
    pub(super) permit: &'a Permit,
    pub(super) service: &'a Service,
}

/// A request without credentials, ready to be sent.
pub(super) struct Bare {
    pub(super) head: BareHead,
    pub(super) body: Kept,
    /// What it is searched for on its way.
    pub(super) guard: Option<Outgoing>,
    /// How slow the body may be.
    pub(super) patience: Patience,
    pub(super) media: Media,
    /// The agent's protocol.
    pub(super) version: Version,
    /// The agent waits with its body until it is asked for.
    pub(super) expects: bool,
    /// Whether the API may be asked to ask for the body; not where it has said that it does not.
    pub(super) may_wait: bool,
    pub(super) upgrade: Option<OnUpgrade>,
    /// What stands in for the credential in an answer.
    pub(super) fill: Option<Arc<str>>,
    /// Where interim answers go, where the agent can be told of them.
    pub(super) interim: Option<Interim>,
}

impl Bare {
    /// The body for the next attempt; one that flows is searched on its way.
    pub(super) fn take_body(
        &mut self,
        cancel: &CancellationToken,
        progress: &Arc<Progress>,
        wait: Option<Wait>,
    ) -> Result<kept::Outgoing, Code> {
        let taken = self.body.take(cancel, self.patience, progress, wait);
        let (body, gate) = taken.ok_or(Code::DpopNonceRetry)?;
        let body = match (&self.guard, &self.body) {
            (Some(guard), Kept::Streaming(_) | Kept::Waiting(_)) => guard.flowing(body),
            _ => body,
        };
        Ok((body, gate))
    }
}
