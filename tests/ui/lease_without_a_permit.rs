//! A credential without a decision: lending takes a `Permit`, not the names of an agent and a service.

use tokenward::credential::Source;
use tokenward::vocab::{AgentName, GrantId, ServiceName};

fn lend(source: &dyn Source, agent: AgentName, service: ServiceName) {
    let grant = GrantId { agent, service };
    let _lease = source.lease(&grant);
}

fn main() {}
