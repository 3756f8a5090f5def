//! A caller that nobody identified: `Agent` has a private field.

use tokenward::agent::Agent;
use tokenward::vocab::AgentName;

fn main() {
    let name = AgentName::fallback();
    let _agent = Agent(name);
}
