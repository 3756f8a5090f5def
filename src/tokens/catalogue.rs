//! What is configured, ready to use: static credentials as leases, OAuth clients with their issuers.
//!
//! A reload builds a new catalogue out of the settings and what of the old one is unchanged: an unchanged client keeps
//! its keys, its tokens and its number, so that the leases that are out go on.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use http::HeaderName;
use tokio_util::sync::CancellationToken;

use super::issuer::{AuthError, Client, Issuer};
use super::keeper::Key;
use super::lineage::Lineages;
use super::probe::Probe;
use super::settings::{ClientAuth, CredentialSettings, IssuerSettings, OauthSettings, Settings};
use super::transport::Lines;
use crate::credential::{BadCertificate, BadToken, Lease, LeaseFacts};
use crate::vocab::{
    AgentName, Authority, Binding, Clock, Generation, GrantId, ScopeSet, Secret, ServiceName,
};

/// Parameters of a token request that tokenward sets itself.
const OWN_PARAMETERS: &[&str] = &[
    "actor_token",
    "actor_token_type",
    "assertion",
    "audience",
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "code",
    "code_verifier",
    "device_code",
    "grant_type",
    "redirect_uri",
    "refresh_token",
    "requested_token_type",
    "resource",
    "scope",
    "subject_token",
    "subject_token_type",
];

/// Why the credentials of the configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The kind of binding is not one that OAuth can give here.
    #[error("service {0}: this binding is not supported yet")]
    Binding(ServiceName),
    /// The client's certificate cannot be used.
    #[error("service {0}: the client's certificate cannot be used: {1}")]
    ClientCertificate(ServiceName, BadCertificate),
    /// The client's private key cannot be read.
    #[error("service {0}: the client's key is {kind}", kind = AuthError::Key)]
    ClientKey(ServiceName),
    /// The client's secret cannot stand in a header.
    #[error("service {0}: the client secret cannot be used")]
    ClientSecret(ServiceName),
    /// The issuer is not an https URL without query and fragment.
    #[error("service {0}: the issuer is not an https URL without query and fragment")]
    Issuer(ServiceName),
    /// A further parameter has a name that is tokenward's own.
    #[error("service {0}: a further parameter has a name that is set by other keys")]
    Parameter(ServiceName),
    /// The probe's address cannot be named in a proof.
    #[error("service {0}: the probe's address is not one")]
    Probe(ServiceName),
    /// The system gives no random numbers.
    #[error("no random numbers to be had")]
    Randomness,
    /// The static credential cannot stand in a header.
    #[error("service {0}: {BadToken}")]
    Static(ServiceName),
    /// The issuer's connections cannot be set up.
    #[error("service {0}: the issuer's trust roots cannot be used")]
    Transport(ServiceName),
}

/// All services of one generation.
#[derive(Default)]
pub(super) struct Catalogue {
    services: HashMap<ServiceName, Offer>,
}

/// One service's credential.
#[derive(Clone)]
pub(super) struct Offer {
    /// The generation that brought the credential in its present form. Permits of older ones are not served.
    pub(super) since: Generation,
    pub(super) kind: Kind,
}

/// How it is had.
#[derive(Clone)]
pub(super) enum Kind {
    Fixed(Arc<Fixed>),
    Oauth { edition: u64, client: Arc<Client> },
}

/// A credential that does not change.
pub(super) struct Fixed {
    settings: CredentialSettings,
    /// Lent to nobody: those who ask get the same again.
    pattern: Lease,
    /// One lease an agent, made when it is first needed. Bounded by the agents of the configuration.
    leases: RwLock<HashMap<AgentName, Lease>>,
}

/// What a catalogue is built with.
pub(super) struct Builder<'a> {
    pub(super) lines: &'a dyn Lines,
    pub(super) clock: &'a Clock,
    /// Numbers credentials; never the same twice in one process.
    pub(super) counter: &'a mut u64,
    pub(super) lineages: &'a Arc<Lineages>,
}

impl Catalogue {
    pub(super) fn offer(&self, service: &ServiceName) -> Option<&Offer> {
        self.services.get(service)
    }

    /// Every static credential, lent or not.
    pub(super) fn fixed(&self) -> Vec<Lease> {
        let offers = self.services.values();
        let fixed = offers.filter_map(|offer| match &offer.kind {
            Kind::Fixed(fixed) => Some(fixed.pattern.clone()),
            Kind::Oauth { .. } => None,
        });
        fixed.collect()
    }

    /// The services whose credentials came with this generation.
    pub(super) fn since(&self, generation: Generation) -> Vec<ServiceName> {
        let offers = self.services.iter();
        let came = offers.filter(|(_, offer)| offer.since == generation);
        came.map(|(name, _)| name.clone()).collect()
    }

    /// Every service and how its credential is tied to a key.
    pub(super) fn bindings(&self) -> Vec<(ServiceName, Binding)> {
        let mut all: Vec<_> = self
            .services
            .iter()
            .map(|(name, offer)| (name.clone(), offer.kind.binding()))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Clients with a certificate, which may be replaced at any time.
    pub(super) fn certified(&self) -> Vec<(u64, Arc<Client>)> {
        let offers = self.services.values();
        offers
            .filter_map(|offer| match &offer.kind {
                Kind::Oauth { edition, client } if client.identity().is_some() => {
                    Some((*edition, Arc::clone(client)))
                }
                Kind::Oauth { .. } | Kind::Fixed(_) => None,
            })
            .collect()
    }

    /// Clients whose tokens are revoked at the end.
    pub(super) fn revoking(&self) -> Vec<Arc<Client>> {
        let offers = self.services.values();
        let clients = offers.filter_map(|offer| match &offer.kind {
            Kind::Oauth { client, .. } => Some(Arc::clone(client)),
            Kind::Fixed(_) => None,
        });
        clients.filter(|c| c.settings().revoke_on_exit).collect()
    }

    /// The client of this edition.
    pub(super) fn client(&self, service: &ServiceName, edition: u64) -> Option<Arc<Client>> {
        match &self.services.get(service)?.kind {
            Kind::Oauth { edition: e, client } if *e == edition => Some(Arc::clone(client)),
            Kind::Oauth { .. } | Kind::Fixed(_) => None,
        }
    }

    /// Every OAuth client, by its service.
    pub(super) fn clients(&self) -> Vec<(ServiceName, u64, Arc<Client>)> {
        let offers = self.services.iter();
        let mut all: Vec<_> = offers
            .filter_map(|(name, offer)| match &offer.kind {
                Kind::Oauth { edition, client } => {
                    Some((name.clone(), *edition, Arc::clone(client)))
                }
                Kind::Fixed(_) => None,
            })
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Where the tokens of a login are, if the service has logins.
    pub(super) fn login_key(&self, grant: GrantId) -> Option<Key> {
        match &self.services.get(&grant.service)?.kind {
            Kind::Oauth { edition, client } => client.settings().grant.whole().map(|scopes| Key {
                edition: *edition,
                grant,
                scopes: scopes.clone(),
            }),
            Kind::Fixed(_) => None,
        }
    }

    /// Editions of clients that `next` no longer has.
    pub(super) fn editions_gone_in(&self, next: &Self) -> Vec<u64> {
        self.services
            .iter()
            .filter_map(|(name, offer)| match offer.kind {
                Kind::Oauth { edition, .. } => {
                    next.client(name, edition).is_none().then_some(edition)
                }
                Kind::Fixed(_) => None,
            })
            .collect()
    }

    /// Every service with a credential of its own, in the order of their names.
    pub(super) fn all(&self) -> Vec<(ServiceName, Kind)> {
        let offers = self.services.iter();
        let mut all: Vec<_> = offers
            .map(|(name, offer)| (name.clone(), offer.kind.clone()))
            .filter(|(_, kind)| kind.binding() != Binding::None)
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Services whose issuer is described in another way in `next`: its name, its roots, its address.
    pub(super) fn issuers_changed_in(&self, next: &Self) -> Vec<ServiceName> {
        let changed = |name: &ServiceName, client: &Client| {
            let now = next.services.get(name).map(|offer| &offer.kind);
            matches!(now, Some(Kind::Oauth { client: now, .. })
                if now.issuer().settings() != client.issuer().settings())
        };
        let all = self.clients().into_iter();
        all.filter_map(|(name, _, client)| changed(&name, &client).then_some(name))
            .collect()
    }

    /// The catalogue of new settings, with whatever is unchanged taken over from this one.
    pub(super) fn succeed(
        &self,
        settings: Settings,
        generation: Generation,
        builder: &mut Builder<'_>,
    ) -> Result<Self, SetupError> {
        let mut issuers: Vec<Arc<Issuer>> = self
            .services
            .values()
            .filter_map(|offer| match &offer.kind {
                Kind::Oauth { client, .. } => Some(Arc::clone(client.issuer())),
                Kind::Fixed(_) => None,
            })
            .collect();
        let mut services = HashMap::new();
        for (name, credential) in settings.services {
            let offer = match self.services.get(&name) {
                Some(offer) if offer.kind.settings().same(&credential) => offer.clone(),
                _ => Offer {
                    since: generation,
                    kind: builder.kind(&name, credential, &mut issuers)?,
                },
            };
            services.insert(name, offer);
        }
        let catalogue = Self { services };
        catalogue.introduce_issuers();
        Ok(catalogue)
    }
}

impl Catalogue {
    /// Tells each issuer where the others are: its metadata may not lead there.
    fn introduce_issuers(&self) {
        let issuers = || {
            let offers = self.services.values();
            offers.filter_map(|offer| match &offer.kind {
                Kind::Oauth { client, .. } => Some(client.issuer()),
                Kind::Fixed(_) => None,
            })
        };
        let all: Vec<Authority> = issuers().map(|issuer| issuer.authority().clone()).collect();
        for issuer in issuers() {
            issuer.introduce(&all);
        }
    }
}

impl Builder<'_> {
    fn kind(
        &mut self,
        service: &ServiceName,
        credential: CredentialSettings,
        issuers: &mut Vec<Arc<Issuer>>,
    ) -> Result<Kind, SetupError> {
        *self.counter += 1;
        let edition = *self.counter;
        let oauth = match credential {
            CredentialSettings::Oauth(oauth) => *oauth,
            settings => {
                let fixed = Fixed::new(settings, edition, service)
                    .map_err(|_| SetupError::Static(service.clone()))?;
                return Ok(Kind::Fixed(Arc::new(fixed)));
            }
        };
        check(service, &oauth)?;
        let issuer = self.issuer(service, &oauth.issuer, issuers)?;
        let probe = match &oauth.health.probe {
            Some(settings) => {
                let transport = self.lines.to_api(&settings.target);
                let transport = transport.ok_or_else(|| SetupError::Transport(service.clone()))?;
                Some(
                    Probe::new(settings, transport, self.clock.clone())
                        .ok_or_else(|| SetupError::Probe(service.clone()))?,
                )
            }
            None => None,
        };
        let client = Client::new(service.clone(), oauth, issuer).map_err(|error| match error {
            AuthError::Certificate(why) => SetupError::ClientCertificate(service.clone(), why),
            AuthError::Key => SetupError::ClientKey(service.clone()),
            AuthError::Signature | AuthError::Value => SetupError::ClientSecret(service.clone()),
        })?;
        Ok(Kind::Oauth {
            edition,
            client: Arc::new(
                client
                    .with_lineages(Arc::clone(self.lineages))
                    .with_probe(probe),
            ),
        })
    }

    /// One issuer for all services that name the same one: one metadata cache, one gate, one clock.
    fn issuer(
        &self,
        service: &ServiceName,
        settings: &Arc<IssuerSettings>,
        known: &mut Vec<Arc<Issuer>>,
    ) -> Result<Arc<Issuer>, SetupError> {
        if let Some(issuer) = known.iter().find(|i| i.settings() == settings) {
            return Ok(Arc::clone(issuer));
        }
        let transport = self
            .lines
            .open(settings)
            .ok_or_else(|| SetupError::Transport(service.clone()))?;
        let issuer = Issuer::new(Arc::clone(settings), transport, self.clock.clone())
            .map(Arc::new)
            .map_err(|_| SetupError::Issuer(service.clone()))?;
        known.push(Arc::clone(&issuer));
        Ok(issuer)
    }
}

fn check(service: &ServiceName, oauth: &OauthSettings) -> Result<(), SetupError> {
    let certified = matches!(oauth.client_auth, ClientAuth::Mtls(_));
    let possible = match oauth.binding {
        Binding::Bearer | Binding::Dpop | Binding::RefreshOnly => true,
        // The key that the token is bound to is the one that the issuer saw (RFC 8705 §3).
        Binding::Mtls => certified,
        Binding::None | Binding::Static => false,
    };
    if !possible {
        return Err(SetupError::Binding(service.clone()));
    }
    let own = |name: &str| OWN_PARAMETERS.contains(&name);
    if oauth.parameters.iter().any(|(name, _)| own(name)) {
        return Err(SetupError::Parameter(service.clone()));
    }
    Ok(())
}

impl Kind {
    pub(super) fn binding(&self) -> Binding {
        match self {
            Self::Fixed(fixed) => fixed.settings.binding(),
            Self::Oauth { client, .. } => client.settings().binding,
        }
    }

    /// The hash of what the configuration gives, where that is the credential itself or what it grows from.
    pub(super) fn given(&self) -> Option<[u8; 32]> {
        match self {
            Self::Fixed(fixed) => fixed.settings.given(),
            Self::Oauth { client, .. } => client.settings().grant.given(),
        }
    }

    fn settings(&self) -> CredentialRef<'_> {
        match self {
            Self::Fixed(fixed) => CredentialRef::Fixed(&fixed.settings),
            Self::Oauth { client, .. } => CredentialRef::Oauth(client.settings()),
        }
    }
}

/// Settings that are in use, for comparison with new ones.
enum CredentialRef<'a> {
    Fixed(&'a CredentialSettings),
    Oauth(&'a OauthSettings),
}

impl CredentialRef<'_> {
    fn same(&self, other: &CredentialSettings) -> bool {
        match (self, other) {
            (Self::Fixed(a), b) => a.same(b),
            (Self::Oauth(a), CredentialSettings::Oauth(b)) => a.same(b),
            (Self::Oauth(_), _) => false,
        }
    }
}

/// A credential that the configuration no longer has: what goes on with it ends.
impl Drop for Fixed {
    fn drop(&mut self) {
        let leases = self
            .leases
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for lease in leases.values() {
            lease.facts().cancel.cancel();
        }
    }
}

impl Fixed {
    /// It never ends: a static credential is valid until the configuration changes.
    fn new(
        settings: CredentialSettings,
        lease: u64,
        service: &ServiceName,
    ) -> Result<Self, BadToken> {
        let facts = LeaseFacts {
            id: lease,
            grant: GrantId {
                service: service.clone(),
                agent: AgentName::fallback(),
            },
            binding: settings.binding(),
            scopes: ScopeSet::default(),
            expires: None,
            cancel: CancellationToken::new(),
        };
        let pattern = match &settings {
            CredentialSettings::Bearer(token) => Lease::bearer(facts, token),
            CredentialSettings::Header { name, value } => fixed(facts, name, value),
            CredentialSettings::Nothing => Ok(Lease::nothing(facts)),
            CredentialSettings::Oauth(_) => Err(BadToken),
        }?;
        Ok(Self {
            settings,
            pattern,
            leases: RwLock::default(),
        })
    }

    /// This agent's lease.
    pub(super) fn lease(&self, agent: &AgentName) -> Lease {
        let known = self.leases.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(lease) = known.get(agent) {
            return lease.clone();
        }
        drop(known);
        let mut facts = self.pattern.facts().clone();
        facts.grant.agent = agent.clone();
        facts.cancel = CancellationToken::new();
        let mut all = self.leases.write().unwrap_or_else(PoisonError::into_inner);
        let lease = all.entry(agent.clone());
        lease.or_insert_with(|| self.pattern.again(facts)).clone()
    }
}

fn fixed(facts: LeaseFacts, name: &HeaderName, value: &Secret<String>) -> Result<Lease, BadToken> {
    Lease::fixed(facts, name.clone(), value)
}
