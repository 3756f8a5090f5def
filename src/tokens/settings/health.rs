//! How tokens in use are asked after.

use std::time::Duration;

use crate::proof::HtuProfile;
use crate::upstream::{IssuerUrl, TargetSettings};
use crate::vocab::ScopeSet;

/// How the tokens of one service are asked after while they are in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthSettings {
    /// How often at most, each token.
    pub interval: Duration,
    /// The issuer is asked (RFC 7662), where its metadata offers that and it answers us.
    pub introspection: bool,
    /// The API is asked.
    pub probe: Option<ProbeSettings>,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_mins(5),
            introspection: true,
            probe: None,
        }
    }
}

/// A cheap request to the API whose answer tells whether a token is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeSettings {
    /// It is `HEAD` and not `GET`.
    pub head: bool,
    /// Where it goes: the service's own host, and nowhere else.
    pub url: IssuerUrl,
    /// What its route wants of a token.
    pub scopes: ScopeSet,
    /// How the API is reached.
    pub target: TargetSettings,
    /// How the API reads `htu`.
    pub htu: HtuProfile,
}
