//! A request without credential and proof: the client takes an `Armed`, and a `BareHead` is none.

use tokenward::credential::BareHead;
use tokenward::upstream::{Client, Connection};
use tower::Service;

fn send(mut client: Client, head: BareHead, _connection: Connection) {
    let _reply = client.call(head);
}

fn main() {}
