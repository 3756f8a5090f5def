//! One authorization server, as a client sees it: its metadata, its token endpoint, its clock and its nonces.
//!
//! It knows nothing of agents' requests, of policy and of when a token is wanted: it is asked for a token and brings
//! one or says in a word of the closed list why not. Serves RFC 8414 (metadata), RFC 6749 §4.1 and §4.4 (grants),
//! RFC 7523 and RFC 10070 (assertions), RFC 8693 (token exchange), RFC 8705 (certificates), RFC 8707 (resource), RFC 9449 §5 and §8 (DPoP at the issuer), RFC 7009 (a
//! refused token is handed back).
//!
//! Invariant: a client credential goes to the endpoints of the configured issuer only, over https, along no redirect.

mod address;
mod answer;
mod auth;
mod client;
mod device;
mod form;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod login;
mod metadata;
mod strict;
#[cfg(test)]
pub(super) mod tests;
mod workload;

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use http::{HeaderMap, HeaderValue, Method, header};
use tokio::sync::{Mutex, Semaphore};

use super::failure::Failure;
use super::journal::{Journal, Note};
use super::settings::IssuerSettings;
use super::transport::Transport;
use crate::credential::Nonces;
use crate::upstream::{IssuerReply, IssuerRequest};
use crate::vocab::{Authority, Clock, Code, ServiceName};
use metadata::{Book, Metadata, MetadataError, Miss};

pub(super) use address::{Address, BadAddress};
pub(super) use auth::AuthError;
pub(super) use client::{Client, Obtained, Spent, Token, Tried};
pub use device::Device;
pub use login::{Answered, Brought, Login, LoginError, Verdict};

/// Token requests of one issuer at a time. A fleet of agents must not look like an attack to it.
const AT_ONCE: usize = 8;
/// Most nonces that are kept for issuers.
const NONCES_MAX: usize = 1024;
/// Largest clock offset that is believed: a `Date` that is further off is a fault of that server.
const OFFSET_MAX: i64 = 600;

/// One issuer. All services that name it share this.
pub(super) struct Issuer {
    settings: Arc<IssuerSettings>,
    address: Address,
    transport: Arc<dyn Transport>,
    clock: Clock,
    /// Held while metadata is read, so that it is read once.
    book: Mutex<Book>,
    nonces: Nonces,
    gate: Semaphore,
    /// Where the other issuers of the configuration are; as many as it has.
    others: RwLock<HashSet<Authority>>,
    /// Seconds that its clock is ahead of ours, learned when it refused a proof.
    offset: AtomicI64,
}

impl Issuer {
    /// An issuer about which nothing is known but its name. Nothing is sent.
    pub(super) fn new(
        settings: Arc<IssuerSettings>,
        transport: Arc<dyn Transport>,
        clock: Clock,
    ) -> Result<Self, BadAddress> {
        let address = Address::parse(&settings.url)?;
        // RFC 8414 §2: an issuer identifier has no query and no fragment.
        if address.has_query() {
            return Err(BadAddress);
        }
        Ok(Self {
            settings,
            address,
            transport,
            clock,
            book: Mutex::new(Book::default()),
            nonces: Nonces::new(NONCES_MAX),
            gate: Semaphore::new(AT_ONCE),
            others: RwLock::default(),
            offset: AtomicI64::new(0),
        })
    }

    /// What it is configured as.
    pub(super) fn settings(&self) -> &Arc<IssuerSettings> {
        &self.settings
    }

    /// Host and port of its name.
    pub(super) fn authority(&self) -> &Authority {
        self.address.authority()
    }

    /// Learns where all issuers of the configuration are. Several may live on one host: its own is never another's.
    pub(super) fn introduce(&self, all: &[Authority]) {
        let others = all.iter().filter(|one| *one != self.authority());
        *self.others.write().unwrap_or_else(PoisonError::into_inner) = others.cloned().collect();
    }

    /// Its metadata, which does not lead to another issuer of the configuration: an issuer that has turned hostile
    /// would have us show its client's credentials there, or take another issuer's token for its own (RFC 9700 §4.4).
    async fn metadata(
        &self,
        service: &ServiceName,
        journal: &dyn Journal,
    ) -> Result<Arc<Metadata>, Failure> {
        let metadata = self.known_metadata(service, journal).await?;
        // A reload may have configured another issuer where this one led before.
        if self.leads_astray(&metadata) {
            return Err(Failure {
                retry_after: Some(self.doubt().await),
                ..Code::AsMetadataInvalid.into()
            });
        }
        Ok(metadata)
    }

    /// Whether this metadata leads to another issuer of the configuration.
    fn leads_astray(&self, metadata: &Metadata) -> bool {
        metadata.endpoints().any(|url| self.is_anothers(url))
    }

    /// Whether another issuer of the configuration is there.
    fn is_anothers(&self, url: &Address) -> bool {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        others.contains(url.authority())
    }

    /// Its metadata: from memory while that is fresh, else read by whoever comes first.
    async fn known_metadata(
        &self,
        service: &ServiceName,
        journal: &dyn Journal,
    ) -> Result<Arc<Metadata>, Failure> {
        let mut book = self.book.lock().await;
        if let Some(settled) = book.settled(self.clock.now(), self.clock.wall()) {
            return settled;
        }
        let read = self.read_metadata().await;
        let (now, wall) = (self.clock.now(), self.clock.wall());
        let missed = match read {
            // Not kept: its endpoints would be the ones that must stay where they are.
            Ok((metadata, _)) if self.leads_astray(&metadata) => Miss::Refused,
            Ok((metadata, ttl)) => match book.keep(metadata, ttl, now, wall) {
                Ok(kept) => return Ok(kept),
                Err(error) => {
                    if error == MetadataError::Moved {
                        journal.note(&Note::EndpointMoved { service });
                    }
                    Miss::Refused
                }
            },
            Err(miss) => miss,
        };
        book.miss(missed, now, wall)
    }

    /// Has its metadata read again before it is used the next time, though not more than once a minute: after this time.
    async fn doubt(&self) -> std::time::Duration {
        self.book.lock().await.doubt(self.clock.now())
    }

    /// Tries the places in order. Only a clear "not here" leads to the next one; an outage is an outage.
    async fn read_metadata(&self) -> Result<(Metadata, std::time::Duration), Miss> {
        for url in metadata::places(&self.address) {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
            let request = IssuerRequest {
                method: Method::GET,
                url: url.url(),
                headers,
                form: None,
                certificate: None,
            };
            let reply = self.transport.send(request).await;
            let reply = reply.map_err(|error| Miss::Unreached(error.into()))?;
            match reply.status {
                200 => match Metadata::read(&reply.body, &self.settings.url) {
                    Ok(metadata) => return Ok((metadata, metadata::time_to_live(&reply.headers))),
                    Err(MetadataError::NotJson) => {}
                    Err(_) => return Err(Miss::Refused),
                },
                408 | 429 | 500.. => {
                    let failure = answer::failure(&reply, self.clock.wall());
                    return Err(Miss::Unreached(failure));
                }
                _ => {}
            }
        }
        Err(Miss::Absent)
    }

    /// Seconds since 1970 as the issuer counts them.
    fn seconds(&self) -> i64 {
        let offset = self.offset.load(Ordering::Relaxed);
        self.clock.wall().seconds().saturating_add(offset)
    }

    /// Learns the issuer's clock from an answer. Whether there was something to learn.
    fn learn_offset(
        &self,
        reply: &IssuerReply,
        service: &ServiceName,
        journal: &dyn Journal,
    ) -> bool {
        let Some(seconds) = answer::clock_offset(&reply.headers, self.clock.wall()) else {
            return false;
        };
        if seconds.abs() > OFFSET_MAX || seconds == self.offset.load(Ordering::Relaxed) {
            return false;
        }
        self.offset.store(seconds, Ordering::Relaxed);
        journal.note(&Note::ClockOffset { service, seconds });
        true
    }
}
