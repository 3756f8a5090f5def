//! Facts in, a permit or a denial out.

use super::rule::{Rule, never_carried};
use super::ruleset::Judgement;
use super::snapshot::{Service, Snapshot};
use crate::vocab::variant::{Variant, broken};
use crate::vocab::{
    AgentName, Authority, Code, Generation, GrantId, RequestPath, RuleName, Scheme, ScopeSet,
    ServiceName,
};

/// What a decision is made from. Nothing else of the request counts: no header, no query, no body.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// Who asks.
    pub agent: &'a AgentName,
    /// Where the request goes.
    pub authority: &'a Authority,
    /// The method as it stands in the request.
    pub method: &'a str,
    /// The path that was parsed and will be sent.
    pub path: &'a RequestPath,
}

/// What may be done with a connection to a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// End its TLS here and judge each request, for this service.
    Intercept(ServiceName),
    /// Pass it through blind; never with a credential.
    Tunnel,
}

/// The answer to one request.
#[derive(Debug, Clone)]
pub enum Decision {
    /// It is refused.
    Denied(Denial),
    /// A rule looks into the body. No rule does yet, so this is never made.
    NeedsBody(Pending),
    /// It is allowed.
    Permit(Permit),
}

/// A decision that waits for the body. There is none yet.
#[derive(Debug, Clone)]
pub enum Pending {}

/// A refusal by policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The situation.
    pub code: Code,
    /// The service, where the destination belongs to one.
    pub service: Option<ServiceName>,
    /// The `deny` rule that matched; none where no rule allows the request.
    pub rule: Option<RuleName>,
}

/// A decision to allow one request. Only [`Snapshot::decide`] makes it, so whoever holds one was allowed.
#[derive(Debug, Clone)]
pub struct Permit {
    agent: AgentName,
    service: ServiceName,
    authority: Authority,
    rule: RuleName,
    scopes: ScopeSet,
    /// None where the rule allows no more than `scopes`.
    ceiling: Option<ScopeSet>,
    generation: Generation,
    credentialed: bool,
}

impl Permit {
    /// The same permit for wherever a redirect points: what no decision makes.
    #[cfg(feature = "variants")]
    #[must_use]
    pub fn redirected(&self, authority: Authority) -> Self {
        Self {
            authority,
            ..self.clone()
        }
    }

    /// Who was allowed.
    #[must_use]
    pub fn agent(&self) -> &AgentName {
        &self.agent
    }

    /// The service whose credential goes with the request.
    #[must_use]
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// Where the request may go, and nowhere else.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The rule that allowed it.
    #[must_use]
    pub fn rule(&self) -> &RuleName {
        &self.rule
    }

    /// The scopes that the token needs: those of the rule, and no others.
    #[must_use]
    pub fn scopes(&self) -> &ScopeSet {
        &self.scopes
    }

    /// Everything that the rule lets an API ask for; none where that is no more than [`Self::scopes`].
    #[must_use]
    pub fn ceiling(&self) -> Option<&ScopeSet> {
        self.ceiling.as_ref()
    }

    /// The same permit for a token with these scopes as well. `None` where the rule does not allow them: what an API asks
    /// for never widens what the configuration says.
    #[must_use]
    pub fn raised(&self, more: &ScopeSet) -> Option<Self> {
        let most = self.ceiling.as_ref().unwrap_or(&self.scopes);
        more.is_within(most).then(|| Self {
            scopes: self.scopes.union(more),
            ..self.clone()
        })
    }

    /// The snapshot that decided.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether a credential goes with the request at all.
    #[must_use]
    pub fn credentialed(&self) -> bool {
        self.credentialed
    }

    /// The owner of the key and the tokens that serve this request.
    #[must_use]
    pub fn grant(&self) -> GrantId {
        GrantId {
            service: self.service.clone(),
            agent: self.agent.clone(),
        }
    }
}

/// What stands at a destination, for one agent.
pub(super) enum Found<'a> {
    Service(&'a Service),
    Tunnel,
}

/// What the rules of the destination's service say about one request.
pub(super) enum Verdict<'a> {
    Allowed(&'a Service, usize),
    Denied(&'a Service, usize),
    /// TRACE or CONNECT.
    NeverCarried(Option<&'a Service>),
    /// No rule allows it.
    Silent(&'a Service),
    /// It is passed through blind, so there is no request to judge.
    Tunnel,
    /// The path has an escaped slash, and the service is not known to take it for a part of its segment.
    TwoPaths(&'a Service),
    /// The path is too long for the rules that it would have to be compared with.
    Unfinished(&'a Service),
    /// The destination is refused before any rule is asked.
    Unreachable {
        code: Code,
        service: Option<&'a Service>,
    },
}

impl Denial {
    fn new(code: Code, service: Option<&Service>, rule: Option<&Rule>) -> Self {
        Self {
            code,
            service: service.map(|service| service.settings.name.clone()),
            rule: rule.map(|rule| rule.name().clone()),
        }
    }
}

/// Why nothing stands at a destination: the code, and the service that is reached another way.
type Unreachable<'a> = (Code, Option<&'a Service>);

impl Snapshot {
    /// Whether the agent may reach the destination. Asked before anything is dialled or minted.
    ///
    /// # Errors
    /// [`Denial`] with `destination-denied`, or `tls-required` where the host is a service's but the scheme is not.
    pub fn admits(&self, agent: &AgentName, authority: &Authority) -> Result<Admission, Denial> {
        match self.locate(agent, authority) {
            Ok(Found::Service(service)) => Ok(Admission::Intercept(service.settings.name.clone())),
            Ok(Found::Tunnel) => Ok(Admission::Tunnel),
            Err(_) if broken(Variant::PassThrough) && authority.scheme() == Scheme::Https => {
                Ok(Admission::Tunnel)
            }
            Err((code, service)) => Err(Denial::new(code, service, None)),
        }
    }

    /// Decides one request.
    #[must_use]
    pub fn decide(&self, facts: &Facts<'_>) -> Decision {
        let (code, service, rule) = match self.weigh(facts) {
            Verdict::Allowed(service, at) => {
                return Decision::Permit(self.permit(facts, service, at));
            }
            Verdict::Denied(service, _) | Verdict::Silent(service)
                if broken(Variant::PassThrough) =>
            {
                return Decision::Permit(Permit {
                    credentialed: false,
                    ..self.permit(facts, service, 0)
                });
            }
            Verdict::Denied(service, at) => {
                (Code::PolicyDenied, Some(service), Some(service.rule(at)))
            }
            Verdict::NeverCarried(service) => (Code::MethodNotSupported, service, None),
            Verdict::Silent(service) => (Code::PolicyDenied, Some(service), None),
            Verdict::TwoPaths(service) => (Code::BadRequest, Some(service), None),
            Verdict::Unfinished(service) => (Code::UriTooLong, Some(service), None),
            // Bytes that we can read do not belong to a tunnel that we must not look into.
            Verdict::Tunnel => (Code::DestinationDenied, None, None),
            Verdict::Unreachable { code, service } => (code, service, None),
        };
        Decision::Denied(Denial::new(code, service, rule))
    }

    fn permit(&self, facts: &Facts<'_>, service: &Service, at: usize) -> Permit {
        let rule = service.rule(at);
        Permit {
            agent: facts.agent.clone(),
            service: service.settings.name.clone(),
            authority: facts.authority.clone(),
            rule: rule.name().clone(),
            scopes: rule.scopes().clone(),
            ceiling: rule.ceiling().cloned(),
            generation: self.generation(),
            credentialed: service.settings.credentialed,
        }
    }

    /// The one place where a request is judged; [`Snapshot::decide`] and [`Snapshot::explain`] only word it.
    pub(super) fn weigh(&self, facts: &Facts<'_>) -> Verdict<'_> {
        let found = self.locate(facts.agent, facts.authority);
        // Before the destination: TRACE would echo the credential, so it gets one answer everywhere.
        if never_carried(facts.method) {
            return Verdict::NeverCarried(match found {
                Ok(Found::Service(service)) => Some(service),
                _ => None,
            });
        }
        match found {
            Ok(Found::Service(service))
                if facts.path.has_escaped_slash() && !service.settings.escaped_slashes =>
            {
                Verdict::TwoPaths(service)
            }
            Ok(Found::Service(service)) => match service.judge(facts.method, facts.path) {
                Judgement::Allowed(at) => Verdict::Allowed(service, at),
                Judgement::Denied(at) => Verdict::Denied(service, at),
                Judgement::Silent => Verdict::Silent(service),
                Judgement::Unfinished => Verdict::Unfinished(service),
            },
            Ok(Found::Tunnel) => Verdict::Tunnel,
            Err((code, service)) => Verdict::Unreachable { code, service },
        }
    }

    fn locate(
        &self,
        agent: &AgentName,
        authority: &Authority,
    ) -> Result<Found<'_>, Unreachable<'_>> {
        let unknown = (Code::DestinationDenied, None);
        // An agent that a reload has removed can still have a connection open: it reaches nothing.
        let reach = self.reach(agent).ok_or(unknown)?;
        if self.is_tunnel(authority.host(), authority.port()) {
            return match authority.scheme() {
                Scheme::Https => Ok(Found::Tunnel),
                Scheme::Http => Err(unknown),
            };
        }
        if let Some(service) = self.service_at(authority, |at| reach.includes(at)) {
            return Ok(Found::Service(service));
        }
        // Told apart from "unknown" because the agent can mend it. Upgrading silently would hide the mistake, and the
        // request may have crossed a network in clear text already.
        match authority.scheme() {
            Scheme::Http => match self.tls_service_of(authority.host(), reach) {
                Some(service) => Err((Code::TlsRequired, Some(service))),
                None => Err(unknown),
            },
            Scheme::Https => Err(unknown),
        }
    }
}
