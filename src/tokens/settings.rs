//! What the configuration says about credentials: the references are resolved, so values stand here as secrets.

mod health;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use http::HeaderName;

use super::supply::Supply;
use crate::upstream::TargetSettings;
use crate::vocab::{Binding, ScopeSet, Secret, ServiceName};

pub use health::{HealthSettings, ProbeSettings};

/// Every service and the way its credential is had.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// In the order of the configuration; each name once.
    pub services: Vec<(ServiceName, CredentialSettings)>,
}

impl Settings {
    /// A service whose tokens need a person, if there is one.
    #[must_use]
    pub fn needs_login(&self) -> Option<&ServiceName> {
        let mut services = self.services.iter();
        services.find_map(|(name, credential)| match credential {
            CredentialSettings::Oauth(oauth) => oauth.grant.by_login().then_some(name),
            _ => None,
        })
    }
}

/// How the credential of one service is had.
#[derive(Debug, Clone)]
pub enum CredentialSettings {
    /// A fixed bearer token.
    Bearer(Secret<String>),
    /// A fixed value in a named field.
    Header {
        /// The field.
        name: HeaderName,
        /// Its whole value.
        value: Secret<String>,
    },
    /// The service takes no credential.
    Nothing,
    /// An access token from an issuer.
    Oauth(Box<OauthSettings>),
}

/// How tokens are had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grant {
    /// The client's own (RFC 6749 §4.4).
    ClientCredentials,
    /// A person logs in (RFC 6749 §4.1).
    AuthorizationCode {
        /// Where the browser is sent afterwards.
        redirect: Redirect,
        /// What the person is asked for: everything that any rule of the service wants.
        scopes: ScopeSet,
    },
    /// A person logs in on another device (RFC 8628).
    DeviceCode {
        /// What the person is asked for: everything that any rule of the service wants.
        scopes: ScopeSet,
    },
    /// Somebody's assertion is turned into a token (RFC 7523 §2.1).
    JwtBearer(AssertionSource),
    /// A refresh token that was had elsewhere (RFC 6749 §6). All agents of the service ride on it.
    RefreshToken {
        /// The first one. Its successors are kept with those of logins.
        token: FirstRefresh,
        /// Everything that any rule of the service wants.
        scopes: ScopeSet,
    },
    /// One token is turned into another (RFC 8693).
    TokenExchange(Box<ExchangeSettings>),
}

impl Grant {
    /// Whether it brings a refresh token that is used.
    #[must_use]
    pub fn refreshes(&self) -> bool {
        self.whole().is_some()
    }

    /// Everything that such a grant is for; `None` where each token request stands alone.
    #[must_use]
    pub fn whole(&self) -> Option<&ScopeSet> {
        match self {
            Self::AuthorizationCode { scopes, .. }
            | Self::DeviceCode { scopes }
            | Self::RefreshToken { scopes, .. } => Some(scopes),
            Self::ClientCredentials | Self::JwtBearer(_) | Self::TokenExchange(_) => None,
        }
    }

    /// The word of the configuration.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::AuthorizationCode { .. } => "authorization_code",
            Self::DeviceCode { .. } => "device_code",
            Self::JwtBearer(_) => "jwt_bearer",
            Self::RefreshToken { .. } => "refresh_token",
            Self::TokenExchange(_) => "token_exchange",
        }
    }

    /// The hash of the refresh token that the configuration gives.
    pub(super) fn given(&self) -> Option<[u8; 32]> {
        match self {
            Self::RefreshToken { token, .. } => Some(hash(&token.0)),
            _ => None,
        }
    }

    /// Whether a person begins it.
    #[must_use]
    pub fn by_login(&self) -> bool {
        matches!(
            self,
            Self::AuthorizationCode { .. } | Self::DeviceCode { .. }
        )
    }
}

/// A refresh token from the configuration.
#[derive(Debug, Clone)]
pub struct FirstRefresh(pub Secret<String>);

impl PartialEq for FirstRefresh {
    fn eq(&self, other: &Self) -> bool {
        equal(self.0.expose(), other.0.expose())
    }
}

impl Eq for FirstRefresh {}

/// Where the assertion of a `jwt_bearer` grant comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssertionSource {
    /// Somebody else signs it; it is read for each token request.
    Found(Supply),
    /// We sign it, anew for each token request.
    Signed {
        /// The private key in PEM.
        key: Supply,
        /// Its name at the issuer.
        kid: Option<String>,
        /// `iss`; the client's name where absent.
        issuer: Option<String>,
        /// `sub`: whose token it will be.
        subject: String,
    },
}

/// A token exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExchangeSettings {
    /// For whom the token will speak.
    pub subject: Presented,
    /// Who acts for them.
    pub actor: Option<Presented>,
    /// `requested_token_type`.
    pub requested: Option<String>,
}

/// A token that is shown to the issuer; it is read for each token request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presented {
    /// Where it is.
    pub token: Supply,
    /// Its type, a URN.
    pub kind: String,
}

/// A place on loopback at which a login ends (RFC 8252 §7.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// A loopback address.
    pub address: IpAddr,
    /// `None`: any free one.
    pub port: Option<u16>,
    /// From its slash on.
    pub path: String,
}

impl Redirect {
    /// `redirect_uri`, while this port is listened on.
    #[must_use]
    pub fn uri(&self, port: u16) -> String {
        let host = SocketAddr::new(self.address, port);
        format!("http://{host}{}", self.path)
    }
}

/// An access token from an issuer.
#[derive(Debug, Clone)]
pub struct OauthSettings {
    /// Who issues it. Services that name the same issuer share this.
    pub issuer: Arc<IssuerSettings>,
    /// Our name there.
    pub client_id: String,
    /// How we prove that name.
    pub client_auth: ClientAuth,
    /// How tokens are had there.
    pub grant: Grant,
    /// RFC 8707 resource indicator.
    pub resource: Option<String>,
    /// `audience`, for issuers that know that instead.
    pub audience: Option<String>,
    /// Further parameters of the token request.
    pub parameters: Vec<(String, String)>,
    /// `Dpop`, `Mtls`, `RefreshOnly` or `Bearer`; `Mtls` with `ClientAuth::Mtls` only.
    pub binding: Binding,
    /// Longest use of one access token, at most 30 minutes.
    pub max_token_age: Duration,
    /// Held to the FAPI 2.0 Security Profile: logins by pushed parameters that name the issuer, and its algorithms alone.
    pub fapi: bool,
    /// A refresh that leaves the refresh token as it is counts as failed.
    pub require_rotation: bool,
    /// Tokens are revoked at the issuer when nobody uses them any more, and at the end of the process (RFC 7009).
    pub revoke_on_exit: bool,
    /// A token with other scopes than asked for is used all the same; otherwise it is refused.
    pub any_scopes: bool,
    /// How tokens in use are asked after.
    pub health: HealthSettings,
}

/// An authorization server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerSettings {
    /// The issuer identifier, byte for byte (RFC 8414 §2).
    pub url: String,
    /// How to reach it.
    pub target: TargetSettings,
    /// Whom client assertions are meant for.
    pub assertion_audience: AssertionAudience,
}

/// The audience of client assertions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AssertionAudience {
    /// The issuer identifier and the type of RFC 10070.
    #[default]
    Issuer,
    /// The token endpoint, as RFC 7523 left open; for older servers.
    TokenEndpoint,
}

/// How the client proves its name at the issuer (RFC 6749 §2.3).
#[derive(Debug, Clone)]
pub enum ClientAuth {
    /// A certificate in the handshake (RFC 8705 §2).
    Mtls(CertificateSettings),
    /// A public client: its name alone.
    Nothing,
    /// A signed assertion (RFC 7523, RFC 10070).
    PrivateKeyJwt {
        /// The private key in PEM.
        key_pem: Secret<Vec<u8>>,
        /// Its name in the client's key set.
        kid: Option<String>,
    },
    /// The secret in `Authorization: Basic`.
    SecretBasic(Secret<String>),
    /// The secret in the form.
    SecretPost(Secret<String>),
    /// A token that the platform gives us, as assertion.
    Workload(WorkloadSettings),
}

/// A client certificate. Both are read again from time to time, so that they can be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateSettings {
    /// The chain in PEM, its own certificate first.
    pub cert: Supply,
    /// The private key in PEM.
    pub key: Supply,
}

/// A platform's token; it is read for each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadSettings {
    /// Where it is.
    pub token: Supply,
    /// Its one audience; the issuer identifier where absent.
    pub audience: Option<String>,
    /// Whose token.
    pub platform: Platform,
}

/// Who makes a platform's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// A projected service-account token, shown as RFC 7523 says.
    Kubernetes,
    /// A JWT-SVID, shown as draft-ietf-oauth-spiffe-client-auth says.
    Spiffe,
    /// A JWT-SVID, shown as RFC 7523 says; for issuers that do not know better.
    SpiffePlain,
}

impl CredentialSettings {
    /// What ties the credential to a key.
    pub(super) fn binding(&self) -> Binding {
        match self {
            Self::Bearer(_) => Binding::Bearer,
            Self::Header { .. } => Binding::Static,
            Self::Nothing => Binding::None,
            Self::Oauth(oauth) => oauth.binding,
        }
    }

    /// The hash of a value that the configuration gives.
    pub(super) fn given(&self) -> Option<[u8; 32]> {
        match self {
            Self::Bearer(value) | Self::Header { value, .. } => Some(hash(value)),
            Self::Nothing | Self::Oauth(_) => None,
        }
    }

    /// Whether leases of the one may go on under the other.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bearer(a), Self::Bearer(b)) => equal(a.expose(), b.expose()),
            (
                Self::Header { name, value },
                Self::Header {
                    name: other_name,
                    value: other_value,
                },
            ) => name == other_name && equal(value.expose(), other_value.expose()),
            (Self::Nothing, Self::Nothing) => true,
            (Self::Oauth(a), Self::Oauth(b)) => a.same(b),
            _ => false,
        }
    }
}

impl OauthSettings {
    /// Whether tokens of the one may go on under the other.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.issuer == other.issuer
            && self.client_id == other.client_id
            && self.client_auth.same(&other.client_auth)
            && self.grant == other.grant
            && self.resource == other.resource
            && self.audience == other.audience
            && self.parameters == other.parameters
            && self.binding == other.binding
            && self.max_token_age == other.max_token_age
            && self.fapi == other.fapi
            && self.require_rotation == other.require_rotation
            && self.revoke_on_exit == other.revoke_on_exit
            && self.any_scopes == other.any_scopes
            && self.health == other.health
    }
}

impl OauthSettings {
    /// Names everything that a refresh token of this client depends on. Where it differs, only a new login helps:
    /// another issuer must not see the token, another client cannot use it, other scopes were not consented to.
    pub(super) fn print(&self) -> [u8; 32] {
        let scopes = self.grant.whole().map(ToString::to_string);
        let scopes = scopes.unwrap_or_default();
        let bound = if self.binding == Binding::Bearer {
            "unbound"
        } else {
            "bound"
        };
        let mut context = Context::new(&SHA256);
        let parts = [
            self.issuer.url.as_str(),
            &self.client_id,
            self.resource.as_deref().unwrap_or_default(),
            self.audience.as_deref().unwrap_or_default(),
            &scopes,
            bound,
        ];
        for part in parts {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part.as_bytes());
        }
        // A configured refresh token that was replaced begins anew.
        if let Grant::RefreshToken { token, .. } = &self.grant {
            context.update(token.0.expose().as_bytes());
        }
        let digest = context.finish();
        std::array::from_fn(|at| digest.as_ref().get(at).copied().unwrap_or_default())
    }
}

impl ClientAuth {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Nothing, Self::Nothing) => true,
            (Self::Mtls(a), Self::Mtls(b)) => a == b,
            (Self::Workload(a), Self::Workload(b)) => a == b,
            (
                Self::PrivateKeyJwt { key_pem, kid },
                Self::PrivateKeyJwt {
                    key_pem: other_pem,
                    kid: other_kid,
                },
            ) => kid == other_kid && equal(key_pem.expose(), other_pem.expose()),
            (Self::SecretBasic(a), Self::SecretBasic(b))
            | (Self::SecretPost(a), Self::SecretPost(b)) => equal(a.expose(), b.expose()),
            _ => false,
        }
    }
}

fn hash(value: &Secret<String>) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(value.expose().as_bytes());
    let digest = context.finish();
    std::array::from_fn(|at| digest.as_ref().get(at).copied().unwrap_or_default())
}

/// Compares secrets without telling by its duration where they differ.
fn equal(a: &(impl AsRef<[u8]> + ?Sized), b: &(impl AsRef<[u8]> + ?Sized)) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(a.as_ref(), b.as_ref()).is_ok()
}
