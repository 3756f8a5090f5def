//! `leakcheck`: looks for values that must not be there, for CI.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::args::{Args, LeakArgs};
use super::{Failure, out};
use crate::config;
use crate::leak::{self, Canaries, Canary, Report};
use crate::vocab::Secret;

pub(super) fn leakcheck(args: &Args, wish: &LeakArgs) -> Result<ExitCode, Failure> {
    let canaries = Canaries::new(&canaries(wish)?).map_err(Failure::of)?;
    let mut report = Report::default();
    for path in &wish.paths {
        if path.as_os_str() == OsStr::new("-") {
            leak::search_stdin(&canaries, &mut report);
        } else {
            leak::search_path(&canaries, path, &mut report);
        }
    }
    let clean = report.findings.is_empty() && report.unsearched.is_empty();
    if args.json {
        out::data(&format!("{}\n", in_json(&report)));
    } else {
        out::data(&in_words(&report));
    }
    Ok(ExitCode::from(u8::from(!clean)))
}

/// Everything that is looked for, with a name that does not tell it.
fn canaries(wish: &LeakArgs) -> Result<Vec<Canary>, Failure> {
    let mut all = Vec::new();
    for (at, value) in wish.canary.iter().enumerate() {
        all.push(Canary {
            name: format!("--canary {}", at + 1),
            value: Secret::new(value.as_bytes().to_vec()),
        });
    }
    for name in &wish.from_env {
        let value = config::environment().canary(name).ok_or_else(|| {
            Failure(format!(
                "--from-env: the environment variable {name} is not set"
            ))
        })?;
        all.push(Canary {
            name: name.clone(),
            value,
        });
    }
    for file in &wish.canaries {
        all.extend(listed(file)?);
    }
    Ok(all)
}

/// One value a line; empty lines are none.
fn listed(file: &Path) -> Result<Vec<Canary>, Failure> {
    let place = file.display();
    let text = fs::read(file).map(Secret::new);
    let text = text.map_err(|error| Failure(format!("--canaries {place}: {error}")))?;
    let lines = text.expose().split(|byte| *byte == b'\n').enumerate();
    let all = lines.filter_map(|(at, line)| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        (!line.is_empty()).then(|| Canary {
            name: format!("{place}:{}", at + 1),
            value: Secret::new(line.to_vec()),
        })
    });
    Ok(all.collect())
}

fn in_words(report: &Report) -> String {
    let mut text = String::new();
    for found in &report.findings {
        let line = format!(
            "{}: LEAK: {} as {}, near byte {}\n",
            found.place, found.canary, found.form, found.offset
        );
        text.push_str(&line);
    }
    for missed in &report.unsearched {
        text.push_str(&format!("{}: NOT SEARCHED: {}\n", missed.place, missed.why));
    }
    text.push_str(&format!(
        "{} files, {} bytes: {} leaks, {} places not searched\n",
        report.files,
        report.bytes,
        report.findings.len(),
        report.unsearched.len()
    ));
    text
}

fn in_json(report: &Report) -> serde_json::Value {
    let found = report.findings.iter().map(|found| {
        json!({
            "place": found.place,
            "canary": found.canary,
            "form": found.form,
            "offset": found.offset,
        })
    });
    let missed = report.unsearched.iter();
    let missed = missed.map(|missed| json!({ "place": missed.place, "why": missed.why }));
    json!({
        "ok": report.findings.is_empty() && report.unsearched.is_empty(),
        "files": report.files,
        "bytes": report.bytes,
        "leaks": found.collect::<Vec<_>>(),
        "not_searched": missed.collect::<Vec<_>>(),
    })
}
