//! A refusal: the situation, and the few facts that its answer may carry.

use std::time::Duration;

use crate::agent::Unauthenticated;
use crate::credential::{AttachError, StripError, Unavailable};
use crate::policy::Denial;
use crate::vocab::{Code, RuleName, ServiceName};

/// Why a request was not carried. Holds words of the configuration and numbers only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The situation.
    pub code: Code,
    /// The service it was about, where one was found.
    pub service: Option<ServiceName>,
    /// The rule that denied.
    pub rule: Option<RuleName>,
    /// When trying again makes sense.
    pub retry_after: Option<Duration>,
    /// The issuer's error code, from the closed list of the standards.
    pub oauth_error: Option<&'static str>,
    /// What the upstream answered, where it is an upstream's refusal.
    pub upstream_status: Option<u16>,
    /// Why nobody was identified; for the audit alone.
    pub unauthenticated: Option<Unauthenticated>,
}

impl Refusal {
    /// The same refusal, with the service it is about.
    #[must_use]
    pub fn about(mut self, service: &ServiceName) -> Self {
        self.service.get_or_insert_with(|| service.clone());
        self
    }

    /// The same refusal, with the status that the upstream gave.
    #[must_use]
    pub fn answered(mut self, status: http::StatusCode) -> Self {
        self.upstream_status = Some(status.as_u16());
        self
    }

    /// When to try again: what the cause says, else what suits the situation.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.code {
            Code::DpopNonceRetry | Code::ConfigChanged => Some(Duration::ZERO),
            _ if !self.code.retryable() => None,
            Code::Overloaded | Code::Draining | Code::AgentRateLimited | Code::AuditUnavailable => {
                Some(self.retry_after.unwrap_or(Duration::from_secs(1)))
            }
            _ => Some(self.retry_after.unwrap_or(Duration::from_secs(2))),
        }
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self {
            code,
            service: None,
            rule: None,
            retry_after: None,
            oauth_error: None,
            upstream_status: None,
            unauthenticated: None,
        }
    }
}

impl From<Unauthenticated> for Refusal {
    fn from(why: Unauthenticated) -> Self {
        Self {
            unauthenticated: Some(why),
            ..Self::from(Code::AgentUnauthenticated)
        }
    }
}

impl Refusal {
    /// The caller is not known, at a door where no `Proxy-Authorization` could help.
    #[must_use]
    pub fn unknown(why: Unauthenticated) -> Self {
        Self {
            unauthenticated: Some(why),
            ..Self::from(Code::AgentUnknown)
        }
    }
}

impl From<Denial> for Refusal {
    fn from(denial: Denial) -> Self {
        Self {
            service: denial.service,
            rule: denial.rule,
            ..Self::from(denial.code)
        }
    }
}

impl From<Unavailable> for Refusal {
    fn from(why: Unavailable) -> Self {
        Self {
            retry_after: why.retry_after,
            oauth_error: why.oauth_error,
            ..Self::from(why.code)
        }
    }
}

impl From<StripError> for Refusal {
    fn from(why: StripError) -> Self {
        Self::from(why.0)
    }
}

impl From<AttachError> for Refusal {
    fn from(why: AttachError) -> Self {
        Self::from(why.code())
    }
}
