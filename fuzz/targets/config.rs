//! A file is run or told what is wrong with it, with a line that it has, and without a word of what stands in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenward::config::fuzzing::problems;

fuzz_target!(|text: &str| {
    let Some(found) = problems(text) else {
        return;
    };
    assert!(!found.is_empty(), "refused without a reason");
    // YAML has more line ends than most.
    let lines = 1 + text
        .chars()
        .filter(|c| "\n\r\u{85}\u{2028}\u{2029}".contains(*c))
        .count();
    for problem in found {
        assert!(
            (1..=lines).contains(&problem.line),
            "line {} of {lines}",
            problem.line
        );
        assert!(!problem.what.is_empty() && !problem.remedy.is_empty());
        for told in [&problem.key, &problem.what, &problem.remedy] {
            assert!(told.chars().all(|c| !c.is_control()), "{told:?}");
        }
    }
});
