//! Authorization server metadata (RFC 8414): where it is, what of it is believed, how long it is kept.
//!
//! Invariant: once an issuer's endpoints are known, they stay on the hosts where they are. An issuer that moves them
//! to another host while we run is either mended by an operator (who restarts us) or taken over; a client assertion
//! must not follow it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, header};

use super::address::Address;
use super::strict::Members;
use crate::credential::Expiry;
use crate::proof::ProofKey;
use crate::tokens::failure::Failure;
use crate::vocab::{Code, Moment, WallTime};

const TTL_MIN: Duration = Duration::from_hours(1);
const TTL_MAX: Duration = Duration::from_hours(24);
/// How long metadata serves after its end while the issuer cannot be asked.
const STALE_MAX: Duration = Duration::from_hours(24);
/// An issuer that could not be asked is not asked again sooner: many grants may wait for it.
const UNREACHED_PAUSE: Duration = Duration::from_secs(2);
/// Nor is one whose metadata was not to be had or not believed: somebody has to mend that.
const REFUSED_PAUSE: Duration = Duration::from_mins(1);

/// What we use of an issuer's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) token_endpoint: Address,
    pub(super) revocation_endpoint: Option<Address>,
    /// Where tokens are asked after (RFC 7662).
    pub(super) introspection_endpoint: Option<Address>,
    /// `introspection_endpoint_auth_methods_supported`.
    pub(super) introspection_methods: Option<Vec<String>>,
    /// Where a person logs in.
    pub(super) authorization_endpoint: Option<Address>,
    /// `pushed_authorization_request_endpoint` (RFC 9126).
    pub(super) pushed_endpoint: Option<Address>,
    /// `device_authorization_endpoint` (RFC 8628 §4).
    pub(super) device_endpoint: Option<Address>,
    /// `tls_client_certificate_bound_access_tokens` (RFC 8705 §3.3).
    pub(super) binds_certificates: bool,
    /// `mtls_endpoint_aliases` (RFC 8705 §5).
    aliases: Aliases,
    /// `authorization_response_iss_parameter_supported` (RFC 9207).
    pub(super) names_itself: bool,
    /// `code_challenge_methods_supported`.
    challenge_methods: Option<Vec<String>>,
    /// `dpop_signing_alg_values_supported`.
    dpop_algorithms: Option<Vec<String>>,
    /// `token_endpoint_auth_signing_alg_values_supported`.
    pub(super) assertion_algorithms: Option<Vec<String>>,
}

/// Where clients with a certificate are to go instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Aliases {
    token: Option<Address>,
    revocation: Option<Address>,
    introspection: Option<Address>,
    pushed: Option<Address>,
    device: Option<Address>,
}

impl Aliases {
    fn all(&self) -> [Option<&Address>; 5] {
        let Self {
            token,
            revocation,
            introspection,
            pushed,
            device,
        } = self;
        [token, revocation, introspection, pushed, device].map(Option::as_ref)
    }
}

/// Why metadata is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum MetadataError {
    /// It is of another issuer, or its endpoints are not https.
    #[error("the metadata is not that of the configured issuer")]
    Invalid,
    /// An endpoint went to another host.
    #[error("an endpoint moved to another host")]
    Moved,
    /// It is not JSON: some servers answer every path with a page.
    #[error("not metadata")]
    NotJson,
}

impl Metadata {
    /// Reads a metadata document of this issuer.
    pub(super) fn read(body: &[u8], issuer: &str) -> Result<Self, MetadataError> {
        let members = Members::read(body).map_err(|_| {
            // A body that is JSON to a lax reader but not to us was made to be read two ways.
            if serde_json::from_slice::<serde_json::Map<_, _>>(body).is_ok() {
                MetadataError::Invalid
            } else {
                MetadataError::NotJson
            }
        })?;
        // RFC 8414 §3.3: identical, no normalisation of case, slash or port.
        if members.text("issuer") != Some(issuer) {
            return Err(MetadataError::Invalid);
        }
        let url = |name: &str| match members.value(name) {
            None => Ok(None),
            Some(value) => value
                .as_str()
                .and_then(|text| Address::parse(text).ok())
                .map(Some)
                .ok_or(MetadataError::Invalid),
        };
        // What only a login or a check of health needs spoils no grant.
        let of_login = |name: &str| {
            let text = members.text(name)?;
            Address::parse(text).ok()
        };
        let flag = |name: &str| members.value(name) == Some(&serde_json::Value::Bool(true));
        let list = |name: &str| members.list(name).map_err(|_| MetadataError::Invalid);
        Ok(Self {
            token_endpoint: url("token_endpoint")?.ok_or(MetadataError::Invalid)?,
            revocation_endpoint: url("revocation_endpoint")?,
            introspection_endpoint: of_login("introspection_endpoint"),
            introspection_methods: members
                .list("introspection_endpoint_auth_methods_supported")
                .unwrap_or_default(),
            authorization_endpoint: of_login("authorization_endpoint"),
            pushed_endpoint: of_login("pushed_authorization_request_endpoint"),
            device_endpoint: of_login("device_authorization_endpoint"),
            binds_certificates: flag("tls_client_certificate_bound_access_tokens"),
            aliases: aliases(&members)?,
            names_itself: flag("authorization_response_iss_parameter_supported"),
            challenge_methods: list("code_challenge_methods_supported")?,
            dpop_algorithms: list("dpop_signing_alg_values_supported")?,
            assertion_algorithms: list("token_endpoint_auth_signing_alg_values_supported")?,
        })
    }

    /// Whether PKCE with S256 can be meant. Silence is consent, as with proofs: an issuer that does not know the
    /// parameter leaves it alone.
    pub(super) fn takes_s256(&self) -> bool {
        self.challenge_methods
            .as_ref()
            .is_none_or(|list| list.iter().any(|method| method == "S256"))
    }

    /// Everywhere that it leads without a person.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Address> {
        [
            Some(&self.token_endpoint),
            self.revocation_endpoint.as_ref(),
            self.introspection_endpoint.as_ref(),
        ]
        .into_iter()
        .chain(self.aliases.all())
        .flatten()
    }

    /// The same, as a client with a certificate sees it.
    pub(super) fn with_certificate(&self) -> Self {
        let mut seen = self.clone();
        let aliases = self.aliases.clone();
        if let Some(token) = aliases.token {
            seen.token_endpoint = token;
        }
        seen.revocation_endpoint = aliases.revocation.or(seen.revocation_endpoint);
        seen.introspection_endpoint = aliases.introspection.or(seen.introspection_endpoint);
        seen.pushed_endpoint = aliases.pushed.or(seen.pushed_endpoint);
        seen.device_endpoint = aliases.device.or(seen.device_endpoint);
        seen
    }

    /// Whether the issuer may take our proofs. Servers that take DPoP without saying so exist, so silence is consent.
    pub(super) fn takes_proofs(&self) -> bool {
        self.dpop_algorithms
            .as_ref()
            .is_none_or(|list| list.iter().any(|a| a == ProofKey::ALG))
    }

    /// The successor of `before`.
    fn after(mut self, before: &Self) -> Result<Self, MetadataError> {
        let same = |a: &Address, b: &Address| a.authority() == b.authority();
        if !same(&self.token_endpoint, &before.token_endpoint) {
            return Err(MetadataError::Moved);
        }
        let moved = |new: &Option<Address>, old: &Option<Address>| match (new, old) {
            (Some(new), Some(old)) => !same(new, old),
            _ => false,
        };
        if moved(&self.authorization_endpoint, &before.authorization_endpoint)
            || moved(&self.pushed_endpoint, &before.pushed_endpoint)
            || moved(&self.device_endpoint, &before.device_endpoint)
            || self.aliases_moved(before)
        {
            return Err(MetadataError::Moved);
        }
        match (&self.revocation_endpoint, &before.revocation_endpoint) {
            (Some(new), Some(old)) if !same(new, old) => return Err(MetadataError::Moved),
            (Some(new), None) if !same(new, &before.token_endpoint) => {
                return Err(MetadataError::Moved);
            }
            _ => {}
        }
        // What tells of health is worth no grant: it is left out where it moves.
        let home = |new: &Address| {
            let known = before.introspection_endpoint.as_ref();
            same(new, known.unwrap_or(&before.token_endpoint))
        };
        self.introspection_endpoint.take_if(|new| !home(new));
        // An issuer that ceases to list DPoP fails rather than going on without it.
        if before.dpop_algorithms.is_some() {
            self.dpop_algorithms.get_or_insert_default();
        }
        Ok(self)
    }

    /// Whether an alias is on a host where neither it nor the token endpoint was before.
    fn aliases_moved(&self, before: &Self) -> bool {
        let now = self.aliases.all().into_iter();
        now.zip(before.aliases.all()).any(|(new, old)| {
            let old = old.unwrap_or(&before.token_endpoint);
            new.is_some_and(|new| new.authority() != old.authority())
        })
    }
}

/// RFC 8705 §5. An alias that is none would be passed over, and the certificate shown to nobody.
fn aliases(members: &Members) -> Result<Aliases, MetadataError> {
    const NAME: &str = "mtls_endpoint_aliases";
    let named = match members.value(NAME) {
        None => return Ok(Aliases::default()),
        Some(value) => value.as_object().ok_or(MetadataError::Invalid)?,
    };
    let one = |name: &str| match named.get(name).filter(|value| !value.is_null()) {
        None => Ok(None),
        Some(value) => value
            .as_str()
            .and_then(|text| Address::parse(text).ok())
            .map(Some)
            .ok_or(MetadataError::Invalid),
    };
    Ok(Aliases {
        token: one("token_endpoint")?,
        revocation: one("revocation_endpoint")?,
        introspection: one("introspection_endpoint")?,
        pushed: one("pushed_authorization_request_endpoint")?,
        device: one("device_authorization_endpoint")?,
    })
}

/// Where an issuer's metadata may be, in order: RFC 8414 §3.1 by insertion, OpenID by insertion, OpenID by appending.
pub(super) fn places(issuer: &Address) -> Vec<Address> {
    let origin = issuer.authority().origin();
    let path = issuer.path().wire().trim_end_matches('/');
    let mut texts = vec![
        format!("{origin}/.well-known/oauth-authorization-server{path}"),
        format!("{origin}/.well-known/openid-configuration{path}"),
        format!("{origin}{path}/.well-known/openid-configuration"),
    ];
    texts.dedup();
    texts
        .iter()
        .filter_map(|text| Address::parse(text).ok())
        .collect()
}

/// How long an answer may be kept: what it says, within bounds.
pub(super) fn time_to_live(headers: &HeaderMap) -> Duration {
    headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|directive| directive.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("max-age"))
        .and_then(|(_, seconds)| seconds.trim_matches('"').parse().ok())
        .map_or(TTL_MIN, Duration::from_secs)
        .clamp(TTL_MIN, TTL_MAX)
}

/// One issuer's metadata over time.
#[derive(Default)]
pub(super) struct Book {
    held: Option<Held>,
    missed: Option<(Moment, Miss)>,
}

/// Why a reading brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Miss {
    /// There is none in any of the places: "not found", a page.
    Absent,
    /// It is there, and not believed.
    Refused,
    /// The issuer could not be asked.
    Unreached(Failure),
}

impl Miss {
    fn failure(self) -> Failure {
        match self {
            Self::Absent | Self::Refused => Code::AsMetadataInvalid.into(),
            Self::Unreached(failure) => failure,
        }
    }

    /// How long nobody asks again.
    fn pause(self) -> Duration {
        match self {
            Self::Absent | Self::Refused => REFUSED_PAUSE,
            Self::Unreached(_) => UNREACHED_PAUSE,
        }
    }

    /// Whether what was known before may go on: a server that shows a page instead of its metadata is out of order, but one
    /// that says something else, or is not who it was, is not to be trusted.
    fn spares(self) -> bool {
        match self {
            Self::Absent => true,
            Self::Refused => false,
            Self::Unreached(failure) => !failure.terminal(),
        }
    }
}

struct Held {
    metadata: Arc<Metadata>,
    /// When somebody may ask again, for a reason.
    again: Moment,
    /// Whether somebody has one.
    doubted: bool,
    fresh: Expiry,
    usable: Expiry,
}

impl Book {
    /// What is to be used without asking: fresh metadata, or the failure of a moment ago.
    pub(super) fn settled(
        &self,
        now: Moment,
        wall: WallTime,
    ) -> Option<Result<Arc<Metadata>, Failure>> {
        let doubted = |held: &Held| held.doubted && now >= held.again;
        let fresh = |held: &&Held| !held.fresh.passed(now, wall) && !doubted(held);
        if let Some(held) = self.held.as_ref().filter(fresh) {
            return Some(Ok(Arc::clone(&held.metadata)));
        }
        let (at, miss) = self.missed?;
        let left = miss.pause().checked_sub(now.since(at));
        let left = left.filter(|left| !left.is_zero())?;
        Some(self.fall_back(miss, left, now, wall))
    }

    /// Keeps what the issuer said now.
    pub(super) fn keep(
        &mut self,
        metadata: Metadata,
        ttl: Duration,
        now: Moment,
        wall: WallTime,
    ) -> Result<Arc<Metadata>, MetadataError> {
        let metadata = match &self.held {
            Some(held) => metadata.after(&held.metadata)?,
            None => metadata,
        };
        let metadata = Arc::new(metadata);
        let until = |span: Duration| Expiry {
            monotonic: now + span,
            wall: wall + span,
        };
        self.missed = None;
        self.held = Some(Held {
            metadata: Arc::clone(&metadata),
            again: now + REFUSED_PAUSE,
            doubted: false,
            fresh: until(ttl),
            usable: until(ttl + STALE_MAX),
        });
        Ok(metadata)
    }

    /// Notes that what is known does not serve: the issuer refused what was made of it, or there is nothing in it for us.
    /// It may have changed, so it is read again, once a minute at most: after this time.
    pub(super) fn doubt(&mut self, now: Moment) -> Duration {
        let Some(held) = &mut self.held else {
            return Duration::ZERO;
        };
        held.doubted = true;
        held.again.since(now)
    }

    /// Notes that a reading brought nothing.
    pub(super) fn miss(
        &mut self,
        miss: Miss,
        now: Moment,
        wall: WallTime,
    ) -> Result<Arc<Metadata>, Failure> {
        self.missed = Some((now, miss));
        self.fall_back(miss, miss.pause(), now, wall)
    }

    /// What was known before serves while the issuer is out of order. Where it does not, there is nothing to be had
    /// before the next reading, which is `left` away.
    fn fall_back(
        &self,
        miss: Miss,
        left: Duration,
        now: Moment,
        wall: WallTime,
    ) -> Result<Arc<Metadata>, Failure> {
        let held = self.held.as_ref().filter(|_| miss.spares());
        if let Some(held) = held.filter(|held| !held.usable.passed(now, wall)) {
            return Ok(Arc::clone(&held.metadata));
        }
        let failure = miss.failure();
        let wait = match miss {
            Miss::Absent | Miss::Refused => Some(left),
            Miss::Unreached(_) => None,
        };
        Err(Failure {
            retry_after: failure.retry_after.max(wait),
            ..failure
        })
    }
}

#[cfg(test)]
mod tests;
