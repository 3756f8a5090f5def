//! A small strict issuer and two small strict APIs on loopback, for `tokenward demo` and the tests.
//!
//! Real TLS sockets (a CA made at start), HTTP/1.1 and HTTP/2. Proofs and tokens are verified with p256 and a reading
//! of RFC 9449 of its own, never with `crate::proof`: what tokenward signs is judged by other code than its own. The
//! issuer speaks RFC 6749 client credentials, RFC 7523 and RFC 10070 assertions, RFC 7662, RFC 8414, RFC 8707 and RFC 9449. The
//! [`Controls`] make the servers fail as servers do.
//!
//! Does not know the proxy, its configuration or its rooms; imports `vocab` only. Nothing here protects anything: the
//! keys are made at start, and [`Rehearsal::seen`] shows every credential that was received.
//!
//! URLs carry no port ([`Options::ports_in_names`] adds it): clients map the names to the addresses by themselves, as
//! tokenward does with `connect:`. A request that names another server than the one it reached is answered with 421.

mod api;
mod caller;
mod clients;
mod controls;
mod fixed;
mod form;
mod issuer;
mod jose;
mod once;
mod reply;
mod routes;
mod seen;
mod server;
mod stage;
mod tls;
mod verify;
mod websocket;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

pub use caller::{Answer, Call, CallBody, Caller, CallerError, Session};
pub use clients::{ClientMethod, Registration, TokenKind};
pub use controls::{
    Alpn, ApiSettings, ChallengeForm, ChallengeNonce, Controls, ExpiresIn, Failure, HtuRule,
    Introspection, IssuerSettings, MetadataFault, NonceMode, Service, SiteSettings,
};
pub use seen::Seen;

use crate::vocab::Clock;
use clients::Client;
use jose::{Key, random_text};
use once::Once;
use seen::SeenLog;
use server::Site;
use stage::{Memory, Stage};

/// Why a rehearsal cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// A certificate could not be made: a name is not a DNS name, most likely.
    #[error("a certificate for the rehearsal could not be made")]
    Certificate(#[from] rcgen::Error),
    /// The clock stands outside what certificates can say.
    #[error("the clock is outside the range of certificates")]
    Clock,
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Entropy,
    /// A key could not be encoded.
    #[error("a key for the rehearsal could not be encoded")]
    Key,
    /// No loopback port could be taken.
    #[error("no loopback port could be taken")]
    Listen(#[from] std::io::Error),
    /// A service was given no name.
    #[error("a service of the rehearsal needs at least one name")]
    Name,
    /// The TLS settings were refused.
    #[error("TLS for the rehearsal could not be set up")]
    Tls(#[from] rustls::Error),
}

/// How a rehearsal starts.
#[derive(Clone)]
pub struct Options {
    /// Host names of the issuer; the first is the one in its identifier.
    pub issuer_names: Vec<String>,
    /// A path in the issuer identifier (`/tenant`), or nothing.
    pub issuer_path: String,
    /// Host names of the DPoP API; the first is the one of [`Rehearsal::api_origin`].
    pub api_names: Vec<String>,
    /// Host names of the API for fixed keys and bearer tokens.
    pub static_names: Vec<String>,
    /// Whether issuer identifier and origins carry the port, for clients that have no `connect:`.
    pub ports_in_names: bool,
    /// Whether client assertions are as they were before RFC 10070.
    pub legacy_assertions: bool,
    /// Clients besides the standard ones.
    pub clients: Vec<Registration>,
    /// The servers' time.
    pub clock: Clock,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            issuer_names: vec!["issuer.rehearsal.test".into()],
            issuer_path: String::new(),
            api_names: vec!["api.rehearsal.test".into()],
            static_names: vec![
                "static.rehearsal.test".into(),
                "plain.rehearsal.test".into(),
            ],
            ports_in_names: false,
            legacy_assertions: false,
            clients: Vec::new(),
            clock: Clock::system(),
        }
    }
}

/// The running servers. They end when it is dropped.
pub struct Rehearsal {
    stage: Arc<Stage>,
    ca_pem: String,
    issuer: Arc<Site>,
    api: Arc<Site>,
    fixed: Arc<Site>,
}

impl Rehearsal {
    /// Starts issuer and APIs on free ports of 127.0.0.1. Needs a running Tokio runtime.
    ///
    /// # Errors
    /// [`RehearsalError`] where keys, certificates or ports cannot be had.
    pub async fn start(options: Options) -> Result<Self, RehearsalError> {
        let ca = tls::Ca::generate(&options.clock)?;
        let (issuer_port, api_port, static_port) =
            (server::reserve()?, server::reserve()?, server::reserve()?);
        let origins = |names: &[String], at: SocketAddr| {
            let mut all = authorities(names, at, options.ports_in_names);
            for one in &mut all {
                one.insert_str(0, "https://");
            }
            all
        };
        let canonical = |names: &[String], at| origins(names, at).into_iter().next();
        let issuer_origin = canonical(&options.issuer_names, issuer_port.1);
        let mut clients = Registration::standard();
        clients.extend(options.clients.iter().cloned());
        let clients: Result<Vec<_>, _> = clients.into_iter().map(Client::new).collect();
        let controls = Controls::default();
        controls.issuer(|issuer| issuer.legacy_assertions = options.legacy_assertions);
        let stage = Arc::new(Stage {
            clock: options.clock.clone(),
            controls,
            seen: SeenLog::default(),
            issuer_url: issuer_origin.ok_or(RehearsalError::Name)? + &options.issuer_path,
            issuer_key: Key::generate()?,
            issuer_memory: Memory::default(),
            clients: clients?,
            assertions: Once::default(),
            living_tokens: Once::default(),
            api_origins: origins(&options.api_names, api_port.1),
            api_memory: Memory::default(),
            static_origins: origins(&options.static_names, static_port.1),
            api_key: format!("rk-{}", random_text(24)?),
            bearer_key: format!("rb-{}", random_text(24)?),
        });
        let site = |service, port: (_, SocketAddr), names: &[String]| {
            if names.is_empty() {
                return Err(RehearsalError::Name);
            }
            let known = authorities(names, port.1, false);
            let offers = ca.offers(names)?;
            Ok(Site::new(service, port, known, offers, Arc::clone(&stage)))
        };
        let rehearsal = Self {
            issuer: site(Service::Issuer, issuer_port, &options.issuer_names)?,
            api: site(Service::Api, api_port, &options.api_names)?,
            fixed: site(Service::Static, static_port, &options.static_names)?,
            ca_pem: ca.pem().to_owned(),
            stage,
        };
        // Only now: should one of them fail, the drop of `rehearsal` ends the others.
        for site in [&rehearsal.issuer, &rehearsal.api, &rehearsal.fixed] {
            site.bring_up()?;
        }
        Ok(rehearsal)
    }

    /// The issuer identifier (RFC 8414 §2).
    #[must_use]
    pub fn issuer_url(&self) -> &str {
        &self.stage.issuer_url
    }

    /// The token endpoint, as the metadata names it.
    #[must_use]
    pub fn token_endpoint(&self) -> String {
        self.stage.token_endpoint()
    }

    /// Where the issuer listens.
    #[must_use]
    pub fn issuer_addr(&self) -> SocketAddr {
        self.issuer.address()
    }

    /// Where the DPoP API listens.
    #[must_use]
    pub fn api_addr(&self) -> SocketAddr {
        self.api.address()
    }

    /// Where the API for fixed keys and bearer tokens listens.
    #[must_use]
    pub fn static_addr(&self) -> SocketAddr {
        self.fixed.address()
    }

    /// The DPoP API's origin: its resource indicator and the audience of its tokens.
    #[must_use]
    pub fn api_origin(&self) -> &str {
        self.stage.api_origins.first().map_or("", String::as_str)
    }

    /// The other API's origin: its resource indicator and the audience of its tokens.
    #[must_use]
    pub fn static_origin(&self) -> &str {
        self.stage.static_origins.first().map_or("", String::as_str)
    }

    /// The certificate of the CA that issued every certificate here, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The registered clients.
    pub fn clients(&self) -> impl Iterator<Item = &Registration> {
        self.stage.clients.iter().map(|client| &client.registration)
    }

    /// A client's secret. Has characters that must be form-encoded in Basic.
    #[must_use]
    pub fn client_secret(&self, id: &str) -> Option<&str> {
        self.client(id).map(|client| client.secret.as_str())
    }

    /// A client's private key for `private_key_jwt`: P-256, PKCS #8, PEM.
    ///
    /// # Errors
    /// [`RehearsalError::Key`] where there is no such client.
    pub fn client_key_pem(&self, id: &str) -> Result<String, RehearsalError> {
        self.client(id).ok_or(RehearsalError::Key)?.key.pkcs8_pem()
    }

    /// The `kid` of a client's key: its thumbprint. Assertions may carry it.
    #[must_use]
    pub fn client_key_id(&self, id: &str) -> Option<String> {
        self.client(id).map(|client| client.key.jwk().thumbprint())
    }

    fn client(&self, id: &str) -> Option<&Client> {
        self.stage
            .clients
            .iter()
            .find(|client| client.registration.id == id)
    }

    /// What the static API takes in `x-api-key`.
    #[must_use]
    pub fn api_key(&self) -> &str {
        &self.stage.api_key
    }

    /// What the static API takes in `Authorization: Bearer`.
    #[must_use]
    pub fn bearer_key(&self) -> &str {
        &self.stage.bearer_key
    }

    /// The control desk.
    #[must_use]
    pub fn controls(&self) -> Controls {
        self.stage.controls.clone()
    }

    /// Everything that all servers received, oldest first.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.stage.seen.all()
    }

    /// Everything that one server received.
    #[must_use]
    pub fn seen_by(&self, service: Service) -> Vec<Seen> {
        let mut all = self.seen();
        all.retain(|seen| seen.service == service);
        all
    }

    /// Forgets what was received.
    pub fn clear_seen(&self) {
        self.stage.seen.clear();
    }

    /// A new nonce; older ones stay good. The static API has none.
    pub fn rotate_nonce(&self, service: Service) {
        if let Some(memory) = self.memory(service) {
            memory.nonces.rotate();
        }
    }

    /// Makes every nonce handed out so far worthless.
    pub fn expire_nonces(&self, service: Service) {
        if let Some(memory) = self.memory(service) {
            memory.nonces.expire();
        }
    }

    fn memory(&self, service: Service) -> Option<&Memory> {
        match service {
            Service::Api => Some(&self.stage.api_memory),
            Service::Issuer => Some(&self.stage.issuer_memory),
            Service::Static => None,
        }
    }

    /// The APIs refuse every token issued until now.
    pub fn revoke_tokens(&self) {
        self.stage.living_tokens.forget();
    }

    /// Stops a server: connections are cut, new ones refused. Its port stays reserved.
    pub async fn take_down(&self, service: Service) {
        self.site(service).take_down().await;
    }

    /// Starts a server again, on the same port. Needs a running Tokio runtime.
    ///
    /// # Errors
    /// [`RehearsalError::Listen`] where the system refuses.
    pub async fn bring_up(&self, service: Service) -> Result<(), RehearsalError> {
        Ok(self.site(service).bring_up()?)
    }

    fn site(&self, service: Service) -> &Arc<Site> {
        match service {
            Service::Api => &self.api,
            Service::Issuer => &self.issuer,
            Service::Static => &self.fixed,
        }
    }

    /// Stops all servers and waits until their ports no longer listen.
    pub async fn stop(self) {
        for site in [&self.issuer, &self.api, &self.fixed] {
            site.take_down().await;
        }
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        for site in [&self.issuer, &self.api, &self.fixed] {
            site.abandon();
        }
    }
}

/// How a server may be named: the canonical form first, then by name with and without port, then by address.
fn authorities(names: &[String], at: SocketAddr, port_first: bool) -> Vec<String> {
    let names = || names.iter().map(|name| name.to_ascii_lowercase());
    let ported = || names().map(|name| format!("{name}:{}", at.port()));
    let mut all: Vec<String> = if port_first {
        ported().chain(names()).collect()
    } else {
        names().chain(ported()).collect()
    };
    all.push(at.to_string());
    all
}
