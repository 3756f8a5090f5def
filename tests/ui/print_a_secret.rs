//! A secret in a message: `Secret` has no `Display`.

use tokenward::vocab::Secret;

fn main() {
    let secret = Secret::new(String::from("token"));
    println!("{secret}");
}
