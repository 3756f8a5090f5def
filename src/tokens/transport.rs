//! The seam between the OAuth of this room and the sockets of `upstream`: one call, one answer, nothing in between.
//!
//! No redirects are followed on this way (a redirect would carry a client credential wherever the answer points), the
//! scheme is https, the answer is bounded. Tests put a scripted issuer here.

use std::sync::Arc;

use super::failure::Failure;
use super::settings::IssuerSettings;
use crate::credential::BoxFuture;
use crate::upstream::{
    IssuerClient, IssuerError, IssuerReply, IssuerRequest, TargetSettings, Upstream,
};

/// Carries calls to one issuer.
pub(super) trait Transport: Send + Sync {
    /// Sends one call and reads the whole answer, within ten seconds.
    fn send<'a>(
        &'a self,
        request: IssuerRequest<'a>,
    ) -> BoxFuture<'a, Result<IssuerReply, IssuerError>>;
}

impl Transport for IssuerClient {
    fn send<'a>(
        &'a self,
        request: IssuerRequest<'a>,
    ) -> BoxFuture<'a, Result<IssuerReply, IssuerError>> {
        Box::pin(Self::send(self, request))
    }
}

/// Opens the way to an issuer.
pub(super) trait Lines: Send + Sync {
    /// A transport to this issuer; nothing is dialled yet. `None` where its trust roots cannot be used.
    fn open(&self, issuer: &IssuerSettings) -> Option<Arc<dyn Transport>>;

    /// The same to an API, for probes: connections that no agent's request shares.
    fn to_api(&self, target: &TargetSettings) -> Option<Arc<dyn Transport>>;
}

impl Lines for Upstream {
    fn open(&self, issuer: &IssuerSettings) -> Option<Arc<dyn Transport>> {
        self.to_api(&issuer.target)
    }

    fn to_api(&self, target: &TargetSettings) -> Option<Arc<dyn Transport>> {
        let client = IssuerClient::new(self, target).ok()?;
        Some(Arc::new(client))
    }
}

impl From<IssuerError> for Failure {
    fn from(error: IssuerError) -> Self {
        error.code().into()
    }
}
