//! A request that says it carries the credential: `Armed` has private fields, only `attach` makes one.

use tokenward::credential::{Armed, OutBody};
use tokenward::upstream::Connection;

fn arm(connection: Connection, request: http::Request<OutBody>) -> Armed<Connection> {
    Armed { connection, request, jti: None, nonce: None, proof: None }
}

fn main() {}
