//! What must not compile. Each file under `tests/ui/` is a program that tries to get around one of the types that
//! keep credentials safe; the `.stderr` beside it is what the compiler says.
//!
//! The programs are compiled against the library that this test was linked with. A harness that builds the package
//! anew would build OpenSSL and AWS-LC once more for it, and that takes longer than all other tests together.
//!
//! Only error codes and their lines are compared, so that another compiler's wording breaks nothing. After a change:
//! `UI=overwrite cargo test --test ui`, then read what changed. A program that fails for another reason than the one
//! in its first line tests nothing.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// Packages that the programs import.
const EXTERNS: [&str; 5] = ["http", "hyper", "serde_json", "tokenward", "tower"];

/// The libraries that cargo has built for this very test: everything is there already, so this only asks for names.
fn libraries() -> Result<BTreeMap<String, PathBuf>, Box<dyn Error>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args([
        "test",
        "--no-run",
        "--quiet",
        "--test",
        "ui",
        "--message-format=json",
    ]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    if !cfg!(feature = "demo") {
        cargo.arg("--no-default-features");
    }
    let output = cargo.stderr(Stdio::inherit()).output()?;
    let mut found = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let message: Value = serde_json::from_str(line)?;
        let name = message["target"]["name"].as_str().unwrap_or_default();
        let files = message["filenames"]
            .as_array()
            .map_or(&[][..], Vec::as_slice);
        let library = files
            .iter()
            .filter_map(Value::as_str)
            .find(|file| file.ends_with(".rlib"));
        if let Some(library) = library.filter(|_| EXTERNS.contains(&name)) {
            found.insert(name.to_owned(), PathBuf::from(library));
        }
    }
    if found.len() != EXTERNS.len() {
        return Err(format!("cargo named {:?} of {EXTERNS:?}", found.keys()).into());
    }
    Ok(found)
}

/// What the compiler says about a program; `None` where it compiles.
fn complaint(
    program: &Path,
    libraries: &BTreeMap<String, PathBuf>,
    out: &Path,
) -> Result<Option<String>, Box<dyn Error>> {
    let mut rustc = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"));
    rustc
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args([
            "--edition=2024",
            "--crate-type=bin",
            "--emit=metadata",
            "--color=never",
        ])
        .args(["--diagnostic-width=120", "-Awarnings", "--out-dir"])
        .arg(out)
        .arg(program);
    for (name, library) in libraries {
        let folder = library.parent().unwrap_or_else(|| Path::new(""));
        // A profile directory holds the library itself, `deps` beneath it what that was built with.
        for folder in [folder.to_path_buf(), folder.join("deps")] {
            rustc.arg(format!("-Ldependency={}", folder.display()));
        }
        rustc.arg(format!("--extern={name}={}", library.display()));
    }
    let output = rustc.output()?;
    let said = String::from_utf8(output.stderr)?;
    Ok((!output.status.success()).then(|| essence(&said)))
}

/// Headline, place and marked code of each error. Notes and hints repeat our sources and paths of the machine.
fn essence(said: &str) -> String {
    let blocks = said
        .split("\n\n")
        .filter(|block| block.starts_with("error") && block.contains("-->"));
    let short = |block: &str| -> String {
        let lines = block.lines().take_while(|line| {
            let text = line.trim_start().trim_start_matches("= ");
            !text.starts_with("note:") && !text.starts_with("help:")
        });
        lines.map(|line| format!("{}\n", line.trim_end())).collect()
    };
    blocks.map(short).collect::<Vec<_>>().join("\n")
}

/// Code and line of each error.
fn errors(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut code = String::new();
    for line in text.lines() {
        if line.starts_with("error") {
            code = line.split(':').next().unwrap_or_default().to_owned();
        } else if let Some(place) = line.trim_start().strip_prefix("--> ") {
            let number = place.split(':').nth(1).unwrap_or_default();
            found.push((std::mem::take(&mut code), number.to_owned()));
        }
    }
    found
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the tool that renews the expected texts is asked for by a variable"
)]
fn mistakes_do_not_compile() -> Result<(), Box<dyn Error>> {
    let libraries = libraries()?;
    let out = tempfile::tempdir()?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui");
    let mut wrong = Vec::new();
    let mut programs = 0;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let Some(name) = path
            .file_name()
            .filter(|_| path.extension().is_some_and(|e| e == "rs"))
        else {
            continue;
        };
        programs += 1;
        let program = Path::new("tests/ui").join(name);
        let Some(said) = complaint(&program, &libraries, out.path())? else {
            wrong.push(format!(
                "{}: compiles, so what it tries is possible",
                program.display()
            ));
            continue;
        };
        let expected = path.with_extension("stderr");
        if std::env::var("UI").is_ok_and(|what| what == "overwrite") {
            fs::write(&expected, &said)?;
        }
        let wanted = fs::read_to_string(&expected).unwrap_or_default();
        if errors(&said) != errors(&wanted) || errors(&said).is_empty() {
            wrong.push(format!(
                "{}: fails for another reason\n{said}",
                program.display()
            ));
        }
    }
    assert!(programs >= 7, "only {programs} programs were found");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn a_program_without_a_mistake_compiles() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("honest.rs");
    let text =
        "use tokenward::vocab::Secret;\nfn main() { drop(Secret::new(String::new()).clone()); }\n";
    fs::write(&program, text)?;
    assert_eq!(complaint(&program, &libraries()?, folder.path())?, None);
    Ok(())
}
