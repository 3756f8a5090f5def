//! Secrets compared in a time that tells where they differ: `Secret` has no `PartialEq`.

use tokenward::vocab::Secret;

fn main() {
    let one = Secret::new(String::from("token"));
    let other = Secret::new(String::from("guess"));
    let _same = one == other;
}
