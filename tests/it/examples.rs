//! Every configuration that we show compiles: the `yaml` blocks of README, `docs/` and `deploy/`, and the configuration
//! files under `deploy/`. Secrets are not read: those of an example exist nowhere.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenward::config::{SecretReading, load, schema};

/// One configuration, and where it was found.
struct Example {
    place: String,
    text: String,
}

/// Every fenced block of a page that is marked `yaml`, wherever it is indented.
fn blocks(page: &str, text: &str) -> Vec<Example> {
    let mut found = Vec::new();
    let mut open: Option<(usize, usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let bare = line.trim_start();
        match &mut open {
            None if bare.trim_end() == "```yaml" => {
                open = Some((number + 1, line.len() - bare.len(), String::new()))
            }
            None => {}
            Some(_) if bare.trim_end() == "```" => {
                if let Some((at, _, text)) = open.take() {
                    found.push(Example {
                        place: format!("{page}:{at}"),
                        text,
                    });
                }
            }
            Some((_, indent, block)) => {
                block.push_str(line.get(*indent..).unwrap_or_default());
                block.push('\n');
            }
        }
    }
    if let Some((at, _, _)) = open {
        found.push(Example {
            place: format!("{page}:{at}: this block does not end"),
            text: String::new(),
        });
    }
    found
}

/// Manifests, patches of them, and files for Prometheus, have such a word at their top level; configurations never do.
fn is_manifest(text: &str) -> bool {
    let other = [
        "apiVersion:",
        "apiVersion ",
        "- op:",
        "version:",
        "groups:",
        "rule_files:",
    ];
    text.lines()
        .any(|line| other.iter().any(|word| line.starts_with(word)))
}

/// Files below a folder with one of these endings; none where there is no folder.
fn files(folder: &Path, endings: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !folder.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, endings)?);
        } else if path
            .extension()
            .is_some_and(|ending| endings.iter().any(|e| ending == *e))
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn examples(root: &Path) -> io::Result<Vec<Example>> {
    let shown = |path: &Path| {
        path.strip_prefix(root)
            .unwrap_or(path)
            .display()
            .to_string()
    };
    let mut found = Vec::new();
    let mut pages = vec![root.join("README.md")];
    pages.extend(files(&root.join("docs"), &["md"])?);
    pages.extend(files(&root.join("deploy"), &["md"])?);
    for page in pages {
        found.extend(blocks(&shown(&page), &fs::read_to_string(&page)?));
    }
    for path in files(&root.join("deploy"), &["yaml", "yml"])? {
        let text = fs::read_to_string(&path)?;
        if !is_manifest(&text) {
            found.push(Example {
                place: shown(&path),
                text,
            });
        }
    }
    Ok(found)
}

#[test]
fn every_example_compiles() -> Result<(), Box<dyn Error>> {
    let examples = examples(Path::new(env!("CARGO_MANIFEST_DIR")))?;
    let of_the_readme = examples
        .iter()
        .filter(|example| example.place.starts_with("README.md"))
        .count();
    assert!(
        of_the_readme >= 3,
        "the README shows the quick start, the reference and a CA; found {of_the_readme}"
    );
    assert!(
        examples.len() > of_the_readme,
        "the example under deploy/ was not found"
    );
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("tokenward.yaml");
    let mut broken = Vec::new();
    for Example { place, text } in &examples {
        fs::write(&file, text)?;
        if let Err(problems) = load(&file, SecretReading::Skip) {
            broken.push(format!("{place}:\n{problems}"));
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
    Ok(())
}

/// Names of keys and fixed words in a schema.
fn words(schema: &Value, found: &mut Vec<String>) {
    match schema {
        Value::Object(members) => {
            for (name, value) in members {
                match (name.as_str(), value) {
                    ("properties", Value::Object(keys)) => found.extend(keys.keys().cloned()),
                    ("const", Value::String(word)) => found.push(word.clone()),
                    ("enum", Value::Array(choices)) => {
                        found.extend(choices.iter().filter_map(Value::as_str).map(str::to_owned));
                    }
                    _ => {}
                }
                words(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| words(item, found)),
        Value::Bool(_) | Value::Null | Value::Number(_) | Value::String(_) => {}
    }
}

/// The configuration reference, and the page of grants to which it leads.
#[test]
fn the_reference_shows_every_key_of_the_schema() -> Result<(), Box<dyn Error>> {
    let mut shown = String::new();
    for page in ["README.md", "docs/grants.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page))?;
        shown.extend(blocks(page, &text).into_iter().map(|block| block.text));
    }
    let mut known = Vec::new();
    words(&serde_json::from_str(&schema())?, &mut known);
    assert!(
        known.iter().any(|word| word == "client_credentials"),
        "the schema is read wrongly"
    );
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    known.retain(|known| !shown.split(|c| !word(c)).any(|shown| shown == known));
    known.sort();
    known.dedup();
    assert!(
        known.is_empty(),
        "README.md and docs/grants.md do not show {known:?}"
    );
    Ok(())
}

#[test]
fn a_broken_example_would_be_seen() -> Result<(), Box<dyn Error>> {
    let page = "Text\n\n1. A list\n   ```yaml\n   services: {}\n   servces: {}\n   ```\n```sh\nyaml\n```\n```yaml\nopen";
    let found = blocks("page.md", page);
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].place.as_str(), found[0].text.as_str()),
        ("page.md:4", "services: {}\nservces: {}\n")
    );
    let folder = tempfile::tempdir()?;
    for example in &found {
        let file = folder.path().join("tokenward.yaml");
        fs::write(&file, &example.text)?;
        assert!(
            load(&file, SecretReading::Skip).is_err(),
            "{}",
            example.place
        );
    }
    Ok(())
}
