//! A permit without a decision: `Permit` has private fields.

use tokenward::policy::Permit;
use tokenward::vocab::AgentName;

fn main() {
    let _permit = Permit { agent: AgentName::fallback() };
}
