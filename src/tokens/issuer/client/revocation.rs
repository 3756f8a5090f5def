//! Tokens that the issuer is told to forget (RFC 7009).

use std::time::Duration;

use super::super::address::Address;
use super::super::answer;
use super::super::form::Form;
use super::super::metadata::Metadata;
use super::{Client, REVOCATION_LIMIT, REVOCATION_TRIES, Spent};
use crate::tokens::failure::Failure;
use crate::tokens::journal::{Journal, Note};
use crate::vocab::{AgentName, Code, Secret};

impl Client {
    /// Revokes a token that was refused (RFC 7009). A failure changes nothing: the token is dropped all the same.
    pub(super) async fn hand_back(&self, token: &Secret<String>, metadata: &Metadata) {
        let Some(url) = &metadata.revocation_endpoint else {
            return;
        };
        let call = self.revocation(token, "access_token", url, metadata);
        let done = tokio::time::timeout(REVOCATION_LIMIT, call).await;
        if !matches!(done, Ok(Ok(()))) {
            tracing::warn!(service = %self.service, "a refused token could not be handed back");
        }
    }

    /// Revokes tokens of one agent, in this order, where the issuer takes that. The caller bounds the time and has
    /// dropped every other copy.
    pub(in crate::tokens) async fn revoke(
        &self,
        agent: &AgentName,
        tokens: Vec<Spent>,
        journal: &dyn Journal,
    ) {
        let grant = self.grant(agent);
        let metadata = self.metadata(journal).await;
        let metadata = metadata.as_deref().ok();
        let url = metadata.and_then(|metadata| metadata.revocation_endpoint.as_ref());
        for spent in &tokens {
            let (token, hint) = match spent {
                Spent::Access(token) => (token, "access_token"),
                Spent::Refresh(token) => (token, "refresh_token"),
            };
            let confirmed = match (metadata, url) {
                (Some(metadata), Some(url)) => {
                    let call = self.revocation(token, hint, url, metadata).await;
                    call.is_ok()
                }
                _ => false,
            };
            journal.note(&Note::Revoked {
                grant: &grant,
                kind: hint,
                confirmed,
            });
        }
    }

    /// One revocation (RFC 7009 §2.1). 200 is a yes, for a token that nobody knows as well.
    pub(super) async fn revocation(
        &self,
        token: &Secret<String>,
        hint: &str,
        url: &Address,
        metadata: &Metadata,
    ) -> Result<(), Failure> {
        let mut last = Failure::from(Code::AsUnavailable);
        for _ in 0..REVOCATION_TRIES {
            let mut form = Form::new();
            form.add_secret("token", token);
            form.add("token_type_hint", hint);
            let call = self.call(form, url, metadata).await?;
            let reply = self.issuer.transport.send(call).await?;
            if reply.status == 200 {
                return Ok(());
            }
            last = answer::failure(&reply, self.issuer.clock.wall());
            if reply.status != 503 {
                break;
            }
            let pause = last.retry_after.unwrap_or(Duration::from_millis(500));
            tokio::time::sleep(pause).await;
        }
        tracing::warn!(service = %self.service, code = last.code.as_str(), "the issuer did not revoke a token");
        Err(last)
    }

    /// Takes the refresh tokens of this client out of memory and store, to be revoked.
    pub(in crate::tokens) async fn withdraw(&self) -> Vec<(AgentName, Secret<String>)> {
        self.lineages.withdraw(&self.service, &self.print).await
    }
}
