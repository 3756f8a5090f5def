//! A secret in a document: `Secret` has no `Serialize`.

use tokenward::vocab::Secret;

fn main() {
    let secret = Secret::new(String::from("token"));
    let _text = serde_json::to_string(&secret);
}
