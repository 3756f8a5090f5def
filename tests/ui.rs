//! What must not compile. Each file under `tests/ui/` is a program that tries to get around one of the types that
//! keep credentials safe; the text beside it is what the compiler says.
//!
//! After a change of the compiler's wording: `TRYBUILD=overwrite cargo test --test ui`, then read what changed. A
//! program that fails for another reason than the one in its first line tests nothing.

#[test]
fn mistakes_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}
