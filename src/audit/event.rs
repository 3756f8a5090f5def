//! What happens outside requests: the life of tokens, and things an operator must learn of.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::line::{HOST_MAX, Members, is_host, scrub};
use crate::vocab::{
    AgentName, Binding, Code, Generation, GrantId, RequestId, RuleName, ScopeSet, ServiceName,
};

/// An event of the audit file. `token_id` is the number that request lines call `lease`, and is written under that
/// name, so that a token's whole life can be found by it.
#[derive(Debug, Clone)]
pub enum Event {
    /// The operator has lifted a stop.
    AccessRestored {
        /// Of this service; of all where absent.
        service: Option<ServiceName>,
        /// Of this agent; of all where absent.
        agent: Option<AgentName>,
    },
    /// The operator has stopped that credentials are lent.
    AccessRevoked {
        /// Of this service; of all where absent.
        service: Option<ServiceName>,
        /// To this agent; to all where absent.
        agent: Option<AgentName>,
        /// Only a fresh grant brings it back.
        compromise: bool,
    },
    /// Somebody asked the admin API for something without its token.
    AdminAuthFailed,
    /// A destination resolved to an address that is never dialled.
    AddressProhibited {
        /// Who asked.
        agent: AgentName,
        /// Of which service.
        service: ServiceName,
    },
    /// An API did not accept what it was shown, and that stands.
    ApiRejected {
        /// Who asked.
        agent: AgentName,
        /// Of which service.
        service: ServiceName,
        /// The problem that the agent was told.
        code: Code,
    },
    /// Somebody failed to prove which agent it is.
    AgentAuthFailed {
        /// The door.
        listener: &'static str,
    },
    /// An agent does what is not usual for it. The same is told once a minute.
    Anomaly {
        /// Who.
        agent: AgentName,
        /// The event's name: what is not usual.
        what: &'static str,
        /// Whether the request was refused for it: `deny` or `log`.
        action: &'static str,
        /// The address that it called from; none at a unix socket.
        source: Option<IpAddr>,
    },
    /// A new policy is in force.
    ConfigReloaded {
        /// Its number.
        generation: Generation,
    },
    /// A changed configuration was not accepted; the old one stays.
    ConfigRefused {
        /// The number of the one that stays.
        generation: Generation,
    },
    /// An API's answer held the credential that was sent to it.
    CredentialReflected {
        /// The request whose answer it was.
        request: RequestId,
        /// Who asked.
        agent: AgentName,
        /// Whose credential.
        service: ServiceName,
    },
    /// The issuer offered a weaker token than configured; it was not used.
    DowngradeRefused {
        /// The grant.
        grant: GrantId,
    },
    /// Only a new login brings this grant back.
    GrantDead {
        /// The grant.
        grant: GrantId,
        /// Why, in a word.
        reason: &'static str,
    },
    /// Something happened after which a grant gets a new key and new tokens.
    GrantSuspected {
        /// The grant.
        grant: GrantId,
        /// What happened, in a word.
        reason: &'static str,
    },
    /// The next token of a grant is bound to a new key.
    KeyRotated {
        /// The grant.
        grant: GrantId,
    },
    /// A refresh was begun and its answer is not known.
    GrantInDoubt {
        /// The grant.
        grant: GrantId,
    },
    /// The issuer refused us or our grant.
    IssuerAuthFailed {
        /// The grant.
        grant: GrantId,
        /// The issuer's error, from the closed list of known ones.
        error: &'static str,
    },
    /// An API wants a stronger or fresher login (RFC 9470).
    LoginWanted {
        /// Whose login.
        grant: GrantId,
        /// The rule of the request.
        rule: RuleName,
        /// Which kinds of login would do.
        acr_values: Vec<String>,
        /// How old it may be, in seconds.
        max_age: Option<u64>,
    },
    /// A live secret of ours stood in an agent's request, which was refused.
    SecretInRequest {
        /// The request.
        request: RequestId,
        /// Who sent it.
        agent: AgentName,
        /// Where to.
        service: ServiceName,
        /// `body`, `header`, `path` or `query`.
        place: &'static str,
    },
    /// An agent had a credential that is not a placeholder of ours; it was taken off.
    StrangerCredential {
        /// Who had it.
        agent: AgentName,
        /// Where it was to go.
        service: ServiceName,
        /// What it looks like: a word of a closed set.
        kind: &'static str,
    },
    /// A placeholder was found where it does not belong.
    PlaceholderMisused {
        /// Who sent it.
        agent: AgentName,
        /// Where to, where that is a service.
        service: Option<ServiceName>,
        /// The host that it was for.
        host: String,
        /// What was done: `deny`, or `revoke`, which stops the agent as well.
        action: &'static str,
    },
    /// Tokens came faster than their lives explain: so many in ten minutes.
    RefreshRate {
        /// The grant.
        grant: GrantId,
        /// How many there were.
        had: u32,
        /// How many their lives explain.
        expected: u32,
    },
    /// A refresh left the refresh token as it was.
    RefreshNotRotated {
        /// The grant.
        grant: GrantId,
    },
    /// The issuer could not be told yet that a token is over; it is tried again.
    RevocationPending {
        /// The grant.
        grant: GrantId,
        /// `access_token` or `refresh_token`.
        kind: &'static str,
    },
    /// The issuer granted other scopes than asked for.
    ScopeChanged {
        /// The grant.
        grant: GrantId,
        /// What was asked for.
        requested: ScopeSet,
        /// What was granted.
        granted: ScopeSet,
        /// The token is used all the same, as configured.
        taken: bool,
    },
    /// An API asked for scope that it does not get.
    ScopeEscalated {
        /// Who asked.
        agent: AgentName,
        /// Of which service.
        service: ServiceName,
        /// The rule of the request.
        rule: RuleName,
        /// What it asked for.
        scopes: ScopeSet,
        /// Why not, in a word.
        reason: &'static str,
    },
    /// A token with the scope that an API asked for was had.
    ScopeGranted {
        /// The grant.
        grant: GrantId,
        /// The token.
        token_id: u64,
        /// Its scopes.
        scopes: ScopeSet,
    },
    /// An API asked for scope that the rule lets it ask for.
    ScopeRequested {
        /// Who asked.
        agent: AgentName,
        /// Of which service.
        service: ServiceName,
        /// The rule of the request.
        rule: RuleName,
        /// What it asked for.
        scopes: ScopeSet,
    },
    /// A destination turned out to be one of our own listeners.
    SelfConnect {
        /// Who asked.
        agent: AgentName,
        /// The name that led here.
        host: String,
    },
    /// The API did not accept a token that should have been good.
    ServiceTokenRejected {
        /// The grant.
        grant: GrantId,
        /// The token.
        token_id: u64,
    },
    /// A tunnel's TLS handshake asked for another name than the tunnel was opened for.
    SniMismatch {
        /// Who asked.
        agent: AgentName,
    },
    /// The process begins to serve.
    Started {
        /// Its version.
        version: &'static str,
        /// The policy in force.
        generation: Generation,
    },
    /// The process has drained.
    Stopped,
    /// Events of one kind were only counted, because there were so many.
    Suppressed {
        /// Which.
        event: &'static str,
        /// Whose: words that name the party.
        about: String,
        /// How many.
        count: u64,
    },
    /// A response that does not end by itself was begun.
    StreamOpened {
        /// The request; its own line comes when the stream ends.
        request: RequestId,
        /// Who asked.
        agent: AgentName,
        /// Of which service.
        service: ServiceName,
    },
    /// A token was given up before it expired.
    TokenDropped {
        /// The grant.
        grant: GrantId,
        /// The token.
        token_id: u64,
        /// Why, in a word.
        reason: &'static str,
    },
    /// A token came to its end.
    TokenExpired {
        /// The grant.
        grant: GrantId,
        /// The token.
        token_id: u64,
    },
    /// Somebody was asked after a token in use.
    TokenHealth {
        /// The grant.
        grant: GrantId,
        /// The token.
        token_id: u64,
        /// `introspection` (the issuer) or `probe` (the API).
        by: &'static str,
        /// `active`, `inactive` or `unknown`.
        outcome: &'static str,
        /// The `jti` of each proof that was signed for it.
        proofs: Vec<String>,
    },
    /// A token was exchanged for another one.
    TokenExchanged {
        /// The grant.
        grant: GrantId,
        /// For whom it speaks, then who acts for them, the nearest first; a name that cannot be shown is empty.
        chain: Vec<String>,
    },
    /// A token was had.
    TokenIssued {
        /// The grant.
        grant: GrantId,
        /// Its scopes.
        scopes: ScopeSet,
        /// How long it lives.
        expires_in: Duration,
        /// How it is bound.
        binding: Binding,
        /// To which key.
        jkt: Option<Arc<str>>,
        /// Its number.
        token_id: u64,
    },
    /// A token was had in place of another.
    TokenRefreshed {
        /// The grant.
        grant: GrantId,
        /// Its scopes.
        scopes: ScopeSet,
        /// How long it lives.
        expires_in: Duration,
        /// How it is bound.
        binding: Binding,
        /// To which key.
        jkt: Option<Arc<str>>,
        /// Its number.
        token_id: u64,
    },
    /// A token was given back to the issuer (RFC 7009).
    TokenRevoked {
        /// The grant.
        grant: GrantId,
        /// `access_token` or `refresh_token`.
        kind: &'static str,
        /// The number of the lease that an access token was.
        token_id: Option<u64>,
        /// The issuer said that it is over.
        confirmed: bool,
    },
    /// No token could be had.
    TokenRequestFailed {
        /// The grant.
        grant: GrantId,
        /// The problem that agents are told.
        code: Code,
        /// The issuer's error, from the closed list of known ones.
        oauth_error: Option<&'static str>,
    },
}

impl Event {
    /// The value of `event`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::AccessRestored { .. } => "access.restored",
            Self::AccessRevoked { .. } => "access.revoked",
            Self::AdminAuthFailed => "auth.admin_failed",
            Self::AddressProhibited { .. } => "connect.address_prohibited",
            Self::AgentAuthFailed { .. } => "auth.agent_failed",
            Self::Anomaly { what, .. } => what,
            Self::ApiRejected { .. } => "auth.rs_rejected",
            Self::ConfigReloaded { .. } => "config.reloaded",
            Self::ConfigRefused { .. } => "config.refused",
            Self::CredentialReflected { .. } => "credential.reflected",
            Self::DowngradeRefused { .. } => "downgrade.refused",
            Self::GrantDead { .. } => "grant.dead",
            Self::GrantInDoubt { .. } => "grant.in_doubt",
            Self::GrantSuspected { .. } => "grant.suspected",
            Self::IssuerAuthFailed { .. } => "auth.as_failed",
            Self::KeyRotated { .. } => "key.rotated",
            Self::LoginWanted { .. } => "scope.step_up",
            Self::PlaceholderMisused { .. } => "placeholder.misused",
            Self::RefreshNotRotated { .. } => "grant.refresh_not_rotated",
            Self::RefreshRate { .. } => "token.refresh_rate",
            Self::RevocationPending { .. } => "token.revocation_pending",
            Self::SecretInRequest { .. } => "secret.in_request",
            Self::ScopeChanged { .. } => "scope.changed",
            Self::ScopeEscalated { .. } => "scope.escalated",
            Self::ScopeGranted { .. } => "scope.granted",
            Self::ScopeRequested { .. } => "scope.requested",
            Self::SelfConnect { .. } => "connect.self_refused",
            Self::ServiceTokenRejected { .. } => "token.rejected",
            Self::SniMismatch { .. } => "tls.name_mismatch",
            Self::Started { .. } => "process.started",
            Self::Stopped => "process.stopped",
            Self::StreamOpened { .. } => "stream.opened",
            Self::StrangerCredential { .. } => "credential.stranger",
            Self::Suppressed { .. } => "audit.suppressed",
            Self::TokenDropped { .. } => "token.dropped",
            Self::TokenExchanged { .. } => "token.exchanged",
            Self::TokenExpired { .. } => "token.expired",
            Self::TokenHealth { .. } => "token.health",
            Self::TokenIssued { .. } => "token.issued",
            Self::TokenRefreshed { .. } => "token.refreshed",
            Self::TokenRevoked { .. } => "token.revoked",
            Self::TokenRequestFailed { .. } => "token.request_failed",
        }
    }

    #[expect(clippy::too_many_lines, reason = "a table: one arm an event")]
    pub(super) fn members(&self) -> Members {
        let mut line = Members::default();
        match self {
            Self::AgentAuthFailed { listener } => line.text("listener", listener),
            Self::Anomaly {
                agent,
                action,
                source,
                ..
            } => {
                line.text("agent", agent.as_str());
                line.text("action", action);
                if let Some(source) = source {
                    line.shown("source", source.to_canonical());
                }
            }
            Self::ConfigReloaded { generation } | Self::ConfigRefused { generation } => {
                line.number("generation", generation.0);
            }
            Self::CredentialReflected {
                request,
                agent,
                service,
            }
            | Self::StreamOpened {
                request,
                agent,
                service,
            } => {
                line.shown("request", request);
                parties(&mut line, agent, service);
            }
            Self::DowngradeRefused { grant }
            | Self::GrantInDoubt { grant }
            | Self::KeyRotated { grant }
            | Self::RefreshNotRotated { grant } => {
                of_grant(&mut line, grant);
            }
            Self::AccessRestored { service, agent } => selected(&mut line, service, agent),
            Self::AccessRevoked {
                service,
                agent,
                compromise,
            } => {
                selected(&mut line, service, agent);
                let why = if *compromise {
                    "compromise"
                } else {
                    "operator"
                };
                line.text("reason", why);
            }
            Self::RevocationPending { grant, kind } => {
                of_grant(&mut line, grant);
                line.text("token", kind);
            }
            Self::GrantDead { grant, reason } | Self::GrantSuspected { grant, reason } => {
                of_grant(&mut line, grant);
                line.text("reason", reason);
            }
            Self::AddressProhibited { agent, service } => parties(&mut line, agent, service),
            Self::PlaceholderMisused {
                agent,
                service,
                host,
                action,
            } => {
                line.text("agent", agent.as_str());
                if let Some(service) = service {
                    line.text("service", service.as_str());
                }
                line.text("host", &scrub(host, HOST_MAX, is_host));
                line.text("action", action);
            }
            Self::SecretInRequest {
                request,
                agent,
                service,
                place,
            } => {
                line.shown("request", request);
                parties(&mut line, agent, service);
                line.text("place", place);
            }
            Self::StrangerCredential {
                agent,
                service,
                kind,
            } => {
                parties(&mut line, agent, service);
                line.text("kind", kind);
            }
            Self::SniMismatch { agent } => line.text("agent", agent.as_str()),
            Self::ApiRejected {
                agent,
                service,
                code,
            } => {
                parties(&mut line, agent, service);
                line.text("code", code.as_str());
            }
            Self::IssuerAuthFailed { grant, error } => {
                of_grant(&mut line, grant);
                line.text("oauth_error", error);
            }
            Self::LoginWanted {
                grant,
                rule,
                acr_values,
                max_age,
            } => {
                of_grant(&mut line, grant);
                line.text("rule", rule.as_str());
                line.list("acr_values", acr_values.iter().map(String::as_str));
                if let Some(age) = max_age {
                    line.number("max_age", *age);
                }
            }
            Self::RefreshRate {
                grant,
                had,
                expected,
            } => {
                of_grant(&mut line, grant);
                line.number("had", *had);
                line.number("expected", *expected);
            }
            Self::ScopeChanged {
                grant,
                requested,
                granted,
                taken,
            } => {
                of_grant(&mut line, grant);
                line.list("requested", requested.iter().map(|s| s.as_str()));
                line.list("granted", granted.iter().map(|s| s.as_str()));
                line.text("outcome", if *taken { "passed" } else { "refused" });
            }
            Self::ScopeEscalated {
                agent,
                service,
                rule,
                scopes,
                reason,
            } => {
                asked(&mut line, (agent, service, rule), scopes);
                line.text("reason", reason);
            }
            Self::ScopeGranted {
                grant,
                token_id,
                scopes,
            } => {
                of_grant(&mut line, grant);
                line.number("lease", *token_id);
                line.list("scopes", scopes.iter().map(|s| s.as_str()));
            }
            Self::ScopeRequested {
                agent,
                service,
                rule,
                scopes,
            } => asked(&mut line, (agent, service, rule), scopes),
            Self::Suppressed {
                event,
                about,
                count,
            } => {
                line.text("suppressed", event);
                line.text("about", about);
                line.number("count", *count);
            }
            Self::SelfConnect { agent, host } => {
                line.text("agent", agent.as_str());
                line.text("host", &scrub(host, HOST_MAX, is_host));
            }
            Self::ServiceTokenRejected { grant, token_id }
            | Self::TokenExpired { grant, token_id } => {
                of_grant(&mut line, grant);
                line.number("lease", *token_id);
            }
            Self::Started {
                version,
                generation,
            } => {
                line.text("version", version);
                line.number("generation", generation.0);
            }
            Self::AdminAuthFailed | Self::Stopped => {}
            Self::TokenDropped {
                grant,
                token_id,
                reason,
            } => {
                of_grant(&mut line, grant);
                line.number("lease", *token_id);
                line.text("reason", reason);
            }
            Self::TokenHealth {
                grant,
                token_id,
                by,
                outcome,
                proofs,
            } => {
                of_grant(&mut line, grant);
                line.number("lease", *token_id);
                line.text("by", by);
                line.text("outcome", outcome);
                line.list("proofs", proofs.iter().map(String::as_str));
            }
            Self::TokenExchanged { grant, chain } => {
                of_grant(&mut line, grant);
                let mut names = chain.iter().map(String::as_str);
                line.text("subject", names.next().unwrap_or_default());
                line.list("actors", names);
            }
            Self::TokenIssued {
                grant,
                scopes,
                expires_in,
                binding,
                jkt,
                token_id,
            }
            | Self::TokenRefreshed {
                grant,
                scopes,
                expires_in,
                binding,
                jkt,
                token_id,
            } => {
                of_grant(&mut line, grant);
                line.list("scopes", scopes.iter().map(|s| s.as_str()));
                line.text("binding", binding.as_str());
                line.text("jkt", jkt.as_deref().unwrap_or_default());
                line.number("lease", *token_id);
                line.number("expires_in", expires_in.as_secs());
            }
            Self::TokenRevoked {
                grant,
                kind,
                token_id,
                confirmed,
            } => {
                of_grant(&mut line, grant);
                line.text("token", kind);
                if let Some(token_id) = token_id {
                    line.number("lease", *token_id);
                }
                let outcome = if *confirmed {
                    "confirmed"
                } else {
                    "unconfirmed"
                };
                line.text("outcome", outcome);
            }
            Self::TokenRequestFailed {
                grant,
                code,
                oauth_error,
            } => {
                of_grant(&mut line, grant);
                line.text("code", code.as_str());
                line.text("fault", code.fault().as_str());
                line.text("oauth_error", oauth_error.unwrap_or_default());
            }
        }
        line
    }
}

/// Most scopes of a challenge that are written down.
const ASKED_MAX: usize = 32;

/// What an API asked for. The words are its own, of the alphabet of scopes, and their number is bounded here.
fn asked(line: &mut Members, of: (&AgentName, &ServiceName, &RuleName), scopes: &ScopeSet) {
    parties(line, of.0, of.1);
    line.text("rule", of.2.as_str());
    line.list("scopes", scopes.iter().take(ASKED_MAX).map(|s| s.as_str()));
}

fn of_grant(line: &mut Members, grant: &GrantId) {
    parties(line, &grant.agent, &grant.service);
}

/// Whom the operator means; a star where that is everybody.
fn selected(line: &mut Members, service: &Option<ServiceName>, agent: &Option<AgentName>) {
    line.text("agent", agent.as_ref().map_or("*", AgentName::as_str));
    line.text("service", service.as_ref().map_or("*", ServiceName::as_str));
}

fn parties(line: &mut Members, agent: &AgentName, service: &ServiceName) {
    line.text("agent", agent.as_str());
    line.text("service", service.as_str());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> GrantId {
        GrantId {
            service: ServiceName::new("items").unwrap(),
            agent: AgentName::fallback(),
        }
    }

    #[test]
    fn a_tokens_life_is_found_by_its_lease() {
        let issued = Event::TokenIssued {
            grant: grant(),
            scopes: ScopeSet::parse("b a").unwrap(),
            expires_in: Duration::from_secs(1800),
            binding: Binding::Dpop,
            jkt: Some("thumb".into()),
            token_id: 7,
        };
        assert_eq!(issued.name(), "token.issued");
        assert_eq!(
            issued.members().as_str(),
            concat!(
                r#","agent":"default","service":"items","scopes":["a","b"],"binding":"dpop","jkt":"thumb","#,
                r#""lease":7,"expires_in":1800"#
            )
        );
        let dropped = Event::TokenDropped {
            grant: grant(),
            token_id: 7,
            reason: "invalid_token",
        };
        assert_eq!(
            dropped.members().as_str(),
            r#","agent":"default","service":"items","lease":7,"reason":"invalid_token""#
        );
    }

    #[test]
    fn a_failure_names_whose_it_is() {
        let failed = Event::TokenRequestFailed {
            grant: grant(),
            code: Code::ClientMisconfigured,
            oauth_error: Some("invalid_client"),
        };
        assert_eq!(
            failed.members().as_str(),
            concat!(
                r#","agent":"default","service":"items","code":"client-misconfigured","fault":"tokenward","#,
                r#""oauth_error":"invalid_client""#
            )
        );
        assert_eq!(Event::Stopped.members().as_str(), "");
    }

    #[test]
    fn a_name_that_led_to_us_is_escaped() {
        let event = Event::SelfConnect {
            agent: AgentName::fallback(),
            host: "a\u{1b}[2J\n".to_owned(),
        };
        assert_eq!(
            event.members().as_str(),
            r#","agent":"default","host":"a\\x1b[2J\\x0a""#
        );
    }
}
