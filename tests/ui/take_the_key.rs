//! A key that leaves its signer: `ProofKey` gives out its public half only.

use tokenward::proof::ProofKey;

fn steal(key: &ProofKey) -> Vec<u8> {
    key.private_key()
}

fn main() {}
