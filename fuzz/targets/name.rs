//! Whatever is asked for a name is answered briefly, under its own number, and never answered in turn.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenward::listen::fuzzing::name;

fuzz_target!(|data: &[u8]| {
    for known in [false, true] {
        let Some(answer) = name(data, known) else {
            continue;
        };
        assert_eq!(answer[..2], data[..2]);
        assert!((12..=300).contains(&answer.len()));
        assert!(answer[2] & 0x80 != 0, "an answer that looks like a query");
        assert_eq!(name(&answer, known), None, "an answer is answered");
        let found = answer[7] == 1;
        assert!(known || !found, "a name that nobody knows has an address");
    }
});
