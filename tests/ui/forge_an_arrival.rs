//! A request whose caller was not named: `Arrival` takes an `Agent`, not a name.

use hyper::body::Incoming;
use tokenward::exchange::{Arrival, Door};
use tokenward::vocab::{AgentName, Authority};

fn arrive(authority: Authority, request: http::Request<Incoming>) {
    let _arrival = Arrival::new(AgentName::fallback(), authority, Door::Connect, request);
}

fn main() {}
