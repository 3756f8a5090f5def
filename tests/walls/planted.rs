//! The walls themselves: each must catch a violation that is planted in a text, and leave innocent text alone.

use super::house::{self, Room};
use super::source::{Named, Source, blank, code_lines, paths};

const PLAN: &str = "
| number | wing | room | what it holds | what it does not know |
|---|---|---|---|---|
| 0 | floor | `vocab` | words | everything |
| 1 | floor | `proof` | proofs | HTTP |
| 3 | floor | `upstream` | dialling | OAuth |
| 5 | data | `exchange` | requests | OAuth |
| 5 | control | `tokens` | tokens | requests |
| 8 | roof | `config` | the file | their work |
| 9 | roof | `rehearsal` | fakes | the proxy |

| package | may be imported in | why there |
|---|---|---|
| `prometheus` | `metrics` | labels |
| `tokio`, `tokio-util` | everywhere but `proof`, `tokens/keeper.rs` | pure stays pure |
| `tower` | `exchange/attempts.rs` | a seam |
";

fn rooms() -> Vec<Room> {
    house::rooms(PLAN).unwrap_or_default()
}

fn imports(path: &str, text: &str) -> Vec<String> {
    house::imports(&rooms(), &Source::of(path, text, false))
}

#[test]
fn the_table_is_read() {
    let rooms = rooms();
    assert_eq!(rooms.len(), 7);
    assert_eq!(rooms[3].name, "exchange");
    assert!(house::rooms("no table").is_err());
    assert!(house::rooms(&PLAN.replace("| data |", "| cellar |")).is_err());
}

#[test]
fn imports_that_go_up_or_across_are_caught_however_they_are_written() {
    for (path, text) in [
        ("proof/a.rs", "use crate::upstream::Client;"),
        ("proof/a.rs", "use crate::{vocab::Code, upstream};"),
        ("proof/a.rs", "fn f() { crate::upstream::dial(); }"),
        ("proof/a.rs", "use super::super::upstream;"),
        ("proof/mod.rs", "use super::upstream;"),
        (
            "proof/mod.rs",
            "mod inner { use super::super::upstream::Client; }",
        ),
        ("exchange/a.rs", "fn f(t: &crate::tokens::Door) {}"),
        ("tokens/a.rs", "pub(crate) use crate::exchange as other;"),
        ("tokens/a/b.rs", "type T = <crate::exchange::X as Tr>::Y;"),
        (
            "tokens/a.rs",
            "#[cfg(test)]\nmod tests { use crate::config::Plan; }",
        ),
        ("vocab/a.rs", "use crate::*;"),
        ("upstream/a.rs", "impl From<crate::config::Plan> for T {}"),
    ] {
        assert_eq!(imports(path, text).len(), 1, "{path}: {text}");
    }
    let found = imports("exchange/a.rs", "\n\nuse crate::tokens::Door;");
    assert!(
        found[0].starts_with("src/exchange/a.rs:3: room `exchange` (5) imports `tokens` (5)"),
        "{found:?}"
    );
}

#[test]
fn imports_that_are_allowed_pass() {
    for (path, text) in [
        (
            "exchange/a.rs",
            "use crate::upstream::Client; use crate::exchange::Arrival;",
        ),
        ("config/a.rs", "use crate::{tokens, exchange, vocab::Code};"),
        (
            "proof/a.rs",
            "// use crate::upstream;\n/* crate::upstream::x /* nested */ */\n/// [`crate::upstream`]\nfn f() {}",
        ),
        (
            "proof/a.rs",
            "const T: &str = \"crate::upstream::x\"; const R: &str = r#\"\"crate::upstream::x\"#;",
        ),
        (
            "proof/a.rs",
            "fn f<'a>(x: &'a str) -> char { '\"' } // crate::upstream::x\"",
        ),
        (
            "proof/a.rs",
            "mod tests { use super::*; use super::upstream_like::x; }",
        ),
        ("proof/mod.rs", "mod tests { use super::upstream; }"),
        ("main.rs", "fn main() { tokenward::cli::run() }"),
    ] {
        assert_eq!(imports(path, text), [""; 0], "{path}: {text}");
    }
}

#[test]
fn tests_may_use_the_rehearsal_which_knows_words_only() {
    let text = "#[cfg(test)]\nmod tests { use crate::rehearsal::Rehearsal; }";
    assert_eq!(imports("tokens/a.rs", text), [""; 0]);
    assert_eq!(
        imports("tokens/a.rs", "use crate::rehearsal::Rehearsal;").len(),
        1
    );
    let partial =
        |text: &str| house::partial(&rooms(), &Source::of("rehearsal/a.rs", text, false)).len();
    assert_eq!(
        partial("use crate::vocab::Clock; use crate::rehearsal::Seen;"),
        0
    );
    assert_eq!(partial("use crate::proof::check;"), 1);
}

#[test]
fn circles_are_found() {
    let sources = [
        Source::of("vocab/a.rs", "use crate::proof::P;", false),
        Source::of("proof/a.rs", "use crate::upstream::U;", false),
        Source::of("upstream/a.rs", "use crate::vocab::V;", false),
        Source::of("config/a.rs", "use crate::vocab::V;", false),
    ];
    let edges = house::edges(&rooms(), &sources);
    assert_eq!(house::circles(&edges), ["proof", "upstream", "vocab"]);
    assert_eq!(
        house::circles(&house::edges(&rooms(), &sources[1..])),
        [""; 0]
    );
}

#[test]
fn rooms_and_rows_must_match() {
    let sources = ["vocab/mod.rs", "cellar/mod.rs", "stray.rs", "lib.rs"]
        .map(|path| Source::of(path, "", false));
    let found = house::unlisted(&rooms(), &sources);
    assert!(
        found[0].starts_with("src/cellar: the room is not in the table"),
        "{found:?}"
    );
    assert!(
        found
            .iter()
            .any(|line| line.contains("room `tokens` has no folder")),
        "{found:?}"
    );
    assert!(
        found.iter().any(|line| line.starts_with("src/stray.rs")),
        "{found:?}"
    );
}

#[test]
fn only_code_counts_as_lines() {
    let text = "//! doc\n\nfn a() {\n    // why\n    b();\n}\n\n/* x\n y */\n#[cfg(test)]\nmod tests {\n    fn t() {}\n}\n";
    assert_eq!(code_lines(&Source::of("proof/a.rs", text, false)), 3);
    let long = "fn f() {}\n".repeat(house::FILE_MAX + 1);
    assert!(house::long(&Source::of("proof/a.rs", &long, false)).is_some());
    assert!(house::long(&Source::of("proof/a/tests.rs", &long, false)).is_none());
    assert!(house::long(&Source::of("proof/a.rs", &long, true)).is_none());
}

#[test]
fn calls_are_caught_outside_their_homes_and_tests() {
    let text = "fn f(s: Secret) { s.expose(); }\n#[cfg(test)]\nmod tests { fn t(s: Secret) { s.expose(); } }\n";
    let homes: &house::Exceptions = &[("proof/key.rs", "a reason"), ("tokens/issuer/", "a reason")];
    let found = |path: &str| house::calls(&Source::of(path, text, false), homes, "expose", "rule");
    assert_eq!(found("proof/a.rs"), ["src/proof/a.rs:1: `.expose(`: rule"]);
    assert!(found("proof/key.rs").is_empty() && found("tokens/issuer/auth.rs").is_empty());
    assert!(found("proof/key/tests.rs").is_empty());
    let idle = house::stale(
        homes,
        &[Source::of("proof/key.rs", text, false)],
        |source| source.code.contains(".expose("),
    );
    assert_eq!(idle.len(), 1, "{idle:?}");
}

#[test]
fn names_are_followed_to_where_they_come_from() {
    let now = |text: &str| {
        house::only_in(
            &Source::of("proof/a.rs", text, false),
            &[],
            &["Instant", "now"],
            "rule",
        )
        .len()
    };
    assert_eq!(now("fn f() { std::time::Instant::now(); }"), 1);
    assert_eq!(now("use std::time::Instant; fn f() { Instant::now(); }"), 1);
    assert_eq!(now("use std::time; fn f() { time::Instant::now(); }"), 1);
    assert_eq!(now("use std::time::Instant as I; fn f() { I::now(); }"), 1);
    assert_eq!(
        now("use std::time::Instant; fn f() { let f = Instant::now; }"),
        1
    );
    assert_eq!(now("fn f() { clock.now(); }"), 0);
    let env = |text: &str| {
        house::only_in(
            &Source::of("cli/a.rs", text, false),
            &[],
            &["env", "var"],
            "rule",
        )
        .len()
    };
    assert_eq!(env("use std::env; fn f() { env::var(x); }"), 1);
    assert_eq!(env("use std::env::var; fn f() { var(x); }"), 1);
    assert_eq!(env("fn f() { env!(\"CARGO\"); environment.var(x); }"), 0);
}

#[test]
fn packages_away_from_home_are_caught() {
    let packages = house::packages(PLAN);
    assert_eq!(packages.len(), 4);
    let strays =
        |path: &str, text: &str| house::strays(&packages, &Source::of(path, text, false)).len();
    assert_eq!(strays("exchange/a.rs", "use prometheus::Counter;"), 1);
    assert_eq!(strays("metrics/a.rs", "use prometheus::Counter;"), 0);
    assert_eq!(
        strays("exchange/a.rs", "fn f(c: &::prometheus::Counter) {}"),
        1
    );
    assert_eq!(
        strays("exchange/a.rs", "#[derive(prometheus::X)] struct S;"),
        1
    );
    assert_eq!(strays("proof/a.rs", "use tokio_util::sync::X;"), 1);
    assert_eq!(strays("tokens/keeper.rs", "fn f() { tokio::spawn(x); }"), 1);
    assert_eq!(strays("tokens/worker.rs", "fn f() { tokio::spawn(x); }"), 0);
    assert_eq!(strays("exchange/attempts.rs", "use tower::ServiceExt;"), 0);
    assert_eq!(strays("exchange/story.rs", "use tower::ServiceExt;"), 1);
    assert_eq!(
        strays(
            "exchange/story.rs",
            "fn f() { a::tower::x(); <T>::tower::y(); }"
        ),
        0
    );
    assert_eq!(
        strays(
            "exchange/story.rs",
            "use crate::vocab::tower; fn f() { tower::x(); }"
        ),
        0
    );
    assert_eq!(
        strays("exchange/story.rs", "mod tower; fn f() { tower::x(); }"),
        0
    );
    assert_eq!(
        strays(
            "exchange/a.rs",
            "#[cfg(test)]\nmod tests { use prometheus::Counter; }"
        ),
        0
    );
}

#[test]
fn paths_are_resolved() {
    let module = ["exchange".to_owned(), "story".to_owned()];
    let of = |text: &str| -> Vec<String> {
        paths(&blank(text), &module)
            .into_iter()
            .map(|Named { segments, .. }| segments.join("::"))
            .collect()
    };
    assert_eq!(
        of("use super::kept::{self, Kept};"),
        ["crate::exchange::kept", "crate::exchange::kept::Kept"]
    );
    assert_eq!(
        of("use a::{b::{c, d as e}, f::*};"),
        ["a::b::c", "a::b::d", "a::f::*"]
    );
    assert_eq!(
        of("use a::b; fn f() -> impl Sized + use<'_> { b::c::<u8>() }"),
        ["a::b", "a::b::c"]
    );
    assert_eq!(
        of("mod x { fn f() { super::g::h() } }"),
        ["crate::exchange::story::g::h"]
    );
}

#[test]
fn tables_codes_metrics_and_stories_are_read() {
    assert_eq!(
        house::table("| a | b |\n|---|---|\n| 1 \\| 2 | 3 |\n\n| x |", &["a"]),
        [["1 | 2", "3"]]
    );
    let codes = house::codes(
        "macro\ncodes! {\n    A \"a-b\" 403 \"T\" X false;\n    B \"c\" 502 \"T\" X true;\n}\n\"x\" 1",
    );
    let codes: Vec<_> = codes
        .iter()
        .map(|(code, status)| format!("{code} {status}"))
        .collect();
    assert_eq!(codes, ["a-b 403", "c 502"]);
    let names =
        house::metrics("`tokenward_requests_total{agent}` and \"tokenward_tokens\", tokenward");
    assert_eq!(
        names.into_iter().collect::<Vec<_>>(),
        ["tokenward_requests_total", "tokenward_tokens"]
    );
    let page = "Words.\n\n1. A [`Door`] opens\n   and closes.\n   * detail\n2. **Then** more.\n\nEnd 3. no";
    assert_eq!(
        house::story(page.lines().map(str::to_owned)),
        ["A Door opens and closes.", "Then more."]
    );
}

#[test]
fn codes_that_nothing_names_are_found() {
    let codes =
        "\ncodes! {\n    A \"a\" 403;\n    B \"b\" 502;\n    B2 \"b\" 504;\n    C \"c\" 500;\n}";
    let sources = [
        Source::of("vocab/code.rs", "fn f() { Code::A; }", false),
        Source::of(
            "proof/a.rs",
            "use crate::vocab::Code; fn f() { Code::B2.into() }",
            false,
        ),
        Source::of("proof/a/tests.rs", "fn f() { Code::C; }", false),
    ];
    assert_eq!(
        house::unused_codes(codes, &sources)
            .into_iter()
            .collect::<Vec<_>>(),
        ["a", "c"]
    );
}

#[test]
fn the_manifest_is_read() {
    let manifest = "[features]\nx = []\n\n[dependencies]\nbytes = \"1\"\n# why\nhyper = { version = \"1\" }\n\n[dev-dependencies]\ntempfile = \"3\"\n";
    assert_eq!(
        house::dependencies(manifest)
            .into_iter()
            .collect::<Vec<_>>(),
        ["bytes", "hyper"]
    );
}
