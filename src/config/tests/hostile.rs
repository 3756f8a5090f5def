//! Files that want to do harm, and YAML's odd corners: always an answer, never a panic, never a flood.

use proptest::prelude::*;

use super::*;
use crate::config::prompts::Prompts;

fn first(yaml: impl AsRef<[u8]>) -> (usize, String) {
    let found = problems(yaml);
    let problem = found.iter().next().unwrap();
    (
        problem.line,
        format!("{}: {}", problem.what, problem.remedy),
    )
}

#[test]
fn odd_yaml_is_refused_in_our_words() {
    for (yaml, line, word) in [
        ("", 1, "the file is empty"),
        ("\n# only a comment\n", 1, "the file is empty"),
        ("---\n", 1, "the file is empty"),
        ("services:\n\ta: b\n", 2, "indent with spaces"),
        ("services: {a: *nobody}\n", 1, "an alias without an anchor"),
        ("services: &a {x: *a}\n", 1, "part of"),
        ("services: !!map {}\n", 1, "tags are not accepted"),
        ("a: 1\n---\nb: 2\n", 2, "one document"),
        ("%YAML 1.2\n---\na: 1\n", 1, "directives"),
        ("services: [\n", 2, "not valid YAML"),
        ("? [a, b]\n: c\n", 1, "a key must be plain text"),
        ("services\n", 1, "write a mapping"),
        ("- a\n- b\n", 1, "write a mapping"),
    ] {
        let (at, text) = first(yaml);
        assert!(text.contains(word), "{yaml:?}: {text}");
        assert!(at.abs_diff(line) <= 1, "{yaml:?}: line {at}");
    }
}

#[test]
fn what_is_no_text_is_refused() {
    assert!(first(b"\xff\xfe\x00s").1.contains("UTF-8"));
    assert!(first(b"a: b\0c").1.contains("UTF-8"));
    assert!(
        first("\u{feff}services: {}\n")
            .1
            .contains("byte order mark")
    );
    assert!(
        first([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0xfe])
            .1
            .contains("UTF-8")
    );
}

#[test]
fn what_is_too_large_is_refused() {
    let large = format!("# {}\n", "x".repeat(2 << 20));
    assert!(first(large).1.contains("larger than 1 MiB"));
    let many = format!("tunnel: [{}]\n", "a,".repeat(200_000));
    assert!(first(many).1.contains("too many values"));
}

#[test]
fn aliases_do_not_multiply_without_a_bound() {
    let mut yaml = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let list = vec![format!("*a{}", i - 1); 10].join(", ");
        yaml += &format!("a{i}: &a{i} [{list}]\n");
    }
    assert!(first(yaml).1.contains("too many values"));
}

#[test]
fn nesting_is_bounded() {
    for yaml in [
        format!("services: {}", "[".repeat(100_000)),
        format!("services: {}", "{a: ".repeat(50_000)),
        "- ".repeat(10_000),
        format!("services: {}1{}", "[".repeat(40), "]".repeat(40)),
    ] {
        let (_, text) = first(yaml);
        assert!(text.contains("too deeply"), "{text}");
    }
    let mut yaml = String::from("a0: &a0 [x]\n");
    for i in 1..60 {
        yaml += &format!("a{i}: &a{i} [*a{}]\n", i - 1);
    }
    assert!(first(yaml).1.contains("too deeply"));
}

#[test]
fn a_flood_of_mistakes_is_cut_off() {
    let yaml: String = (0..5000).map(|i| format!("key_{i}: 1\n")).collect();
    assert!(problems(yaml).iter().count() <= 100);
}

#[test]
fn a_missing_file_is_a_problem_like_any_other() {
    let path = Path::new("/no/such/tokenward.yaml");
    let found = load_in(path, SecretReading::Resolve, &variables())
        .err()
        .unwrap();
    let shown = found.to_string();
    assert!(
        shown.starts_with("/no/such/tokenward.yaml:1: (file): does not exist; "),
        "{shown}"
    );
    assert!(load_in(Path::new("/"), SecretReading::Resolve, &variables()).is_err());
}

const PARTS: &[&str] = &[
    "services",
    "agents",
    "a",
    ": ",
    ":",
    "\n",
    "\n  ",
    "\n    ",
    "- ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "hosts",
    "credential",
    "bearer",
    "oauth",
    "issuer",
    "env",
    "null",
    "~",
    "&x ",
    "*x",
    "'",
    "\"",
    "|",
    ">",
    "#",
    "\t",
    "!",
    "%",
    "@",
    "<<",
    "---",
    "...",
    "1",
    "true",
    "a.example",
    "\u{feff}",
    "é",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn no_soup_of_yaml_makes_it_panic(parts in proptest::collection::vec(0..PARTS.len(), 0..60)) {
        let yaml: String = parts.iter().map(|i| PARTS[*i]).collect();
        let mut findings = crate::config::Findings::new("f");
        let made = crate::config::plan(&yaml, Path::new(""), (SecretReading::Skip, Prompts::Leave), &variables(), &mut findings);
        let finished = findings.finish();
        prop_assert!(made.is_some() || finished.is_err());
        if let Err(found) = finished {
            prop_assert!(!found.to_string().contains("does not fit the schema"), "{yaml:?}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic(yaml in ".{0,200}") {
        let mut findings = crate::config::Findings::new("f");
        drop(crate::config::plan(&yaml, Path::new(""), (SecretReading::Skip, Prompts::Leave), &variables(), &mut findings));
    }
}
