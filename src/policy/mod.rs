//! STUB, replaced by the policy branch.
use crate::vocab::{AgentName, Authority, Generation, GrantId, RuleName, ScopeSet, ServiceName};
/// Stub.
#[derive(Debug, Clone)]
pub struct Permit {
    agent: AgentName,
    service: ServiceName,
    authority: Authority,
    rule: RuleName,
    scopes: ScopeSet,
    generation: Generation,
    credentialed: bool,
}
#[allow(missing_docs)]
impl Permit {
    pub fn agent(&self) -> &AgentName {
        &self.agent
    }
    pub fn service(&self) -> &ServiceName {
        &self.service
    }
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
    pub fn rule(&self) -> &RuleName {
        &self.rule
    }
    pub fn scopes(&self) -> &ScopeSet {
        &self.scopes
    }
    pub fn generation(&self) -> Generation {
        self.generation
    }
    pub fn credentialed(&self) -> bool {
        self.credentialed
    }
    pub fn grant(&self) -> GrantId {
        GrantId {
            service: self.service.clone(),
            agent: self.agent.clone(),
        }
    }
}
