//! What a ClientHello is taken for does not depend on the pieces that it comes in.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenward::listen::fuzzing::hello;

fuzz_target!(|data: &[u8]| {
    let whole = hello(data, 4096);
    assert_ne!(whole, "it waits");
    if data.first().is_some_and(|b| *b != 22) {
        assert_eq!(whole, "not TLS");
    }
    for piece in [1, 5, 6, 64] {
        assert_eq!(hello(data, piece), whole, "in pieces of {piece}");
    }
});
