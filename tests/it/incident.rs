//! `docs/incident.md`: every command of it works against a running proxy, and the alerts lead to headings that it has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use tokenward::rehearsal::Call;
use tokio::process::Command;

use super::kit::{API, Served, Setup, ask, code, err, out, run};

fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The commands of a page: the lines of its `sh` blocks.
fn commands(text: &str) -> Vec<String> {
    let mut open = false;
    let mut found = Vec::new();
    for line in text.lines() {
        match (open, line) {
            (false, "```sh") => open = true,
            (true, "```") => open = false,
            (true, line) => found.push(line.to_owned()),
            _ => {}
        }
    }
    assert!(!open, "a block does not end");
    found
}

/// A shell at home, where `tokenward` is the one under test.
fn shell(served: &Served, command: &str) -> Command {
    let bin = Path::new(env!("CARGO_BIN_EXE_tokenward")).parent().unwrap();
    let home = served.folder.path();
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", command])
        .env_clear()
        .env(
            "PATH",
            format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()),
        )
        .env("HOME", home)
        .env("XDG_STATE_HOME", home.join("state"))
        .env("XDG_RUNTIME_DIR", home.join("runtime"))
        .env("LEAKED", "a-value-that-is-nowhere-0123456789")
        .current_dir(home)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    shell
}

/// 124: what follows was stopped by `timeout`, as it is meant to be.
fn works(command: &str, code: i32) -> bool {
    code == 0 || (code == 124 && command.starts_with("timeout "))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_is_a_command_that_works() {
    let mut served = Served::start(Setup::usual(), "info").await;
    let answer = ask(&served.agent(), API, true, Call::get("/v1/items")).await;
    assert_eq!(answer.status, 200);
    // What the page looks for has happened.
    served.rehearsal.revoke_tokens();
    let steps = commands(&page("docs/incident.md"));
    assert!(steps.len() > 15, "{steps:?}");
    let mut failed = Vec::new();
    for step in &steps {
        // Agents do not wait for operators.
        ask(&served.agent(), API, true, Call::get("/v1/items")).await;
        // A minute of following shows no more than a moment.
        let step = step.replace("timeout 5 ", "timeout 1 ");
        // Without trouble there is no line of it, and grep says so.
        let done = run(&mut shell(&served, &step)).await;
        let none = step.starts_with("grep ") && code(&done) == 1 && err(&done).is_empty();
        if !works(&step, code(&done)) && !none {
            failed.push(format!("{step}\n{}{}", out(&done), err(&done)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(served.file("audit.jsonl").contains("key.rotated"));
    assert!(served.terminate().await.success());
}

/// As forges make the fragment of a heading.
fn fragments(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
    let words = |heading: &str| {
        let lower = heading.to_lowercase().replace(' ', "-");
        lower
            .chars()
            .filter(|c| c.is_alphanumeric() || *c == '-')
            .collect()
    };
    headings.map(words).collect()
}

#[test]
fn every_alert_has_a_chapter_and_metrics_that_exist() {
    let chapters = fragments(&page("docs/incident.md"));
    let alerts = page("deploy/prometheus/alerts.yaml");
    let readme = page("README.md");
    let mut led = 0;
    for line in alerts.lines() {
        if let Some(to) = line.trim().strip_prefix("runbook: docs/incident.md#") {
            assert!(chapters.contains(to), "no chapter {to} in {chapters:?}");
            led += 1;
        }
    }
    let many = alerts.matches("- alert: ").count();
    assert!(
        many > 10 && led == many,
        "{led} of {many} alerts lead somewhere"
    );
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named: BTreeSet<&str> = alerts
        .split(|c| !is_name(c))
        .filter(|word| word.starts_with("tokenward_"))
        .collect();
    assert!(named.len() > 5, "{named:?}");
    for name in named {
        let row = [format!("| `{name}` "), format!("| `{name}{{")];
        let told = row.iter().any(|row| readme.contains(row));
        assert!(told, "{name} is not in the README's table");
    }
    // Each has its case.
    let cases = page("deploy/prometheus/alerts_test.yaml");
    for line in alerts.lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            let asked = cases.matches(&format!("alertname: {name}")).count();
            assert!(asked >= 2, "{name} is tried {asked} times");
        }
    }
}
