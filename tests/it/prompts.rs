//! Secrets that a person types, through the real binary on a pseudo-terminal.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokenward::rehearsal::{Call, Caller, Options, Rehearsal, Service};
use tokio::process::Command;

use crate::kit::{KEYS, PLAIN, Setup, Svc, ask, code, err, eventually, out, run, tokenward};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/terminal.py");
/// What the command of `run` does: one call, as an agent's program makes it.
const AGENT: &str = "import urllib.request as u; print('got', u.urlopen('https://static.rehearsal.test/v1/items').status)";

/// A folder whose configuration asks for an API key and for a bearer token.
async fn prepared() -> (TempDir, Rehearsal) {
    let rehearsal = Rehearsal::start(Options::default()).await.unwrap();
    let folder = TempDir::new().unwrap();
    let mut setup = Setup::of([Svc::keys(), Svc::plain()]);
    setup.keys_from = "{prompt: Key of the API}";
    let config = setup.write(folder.path(), &rehearsal);
    let text = fs::read_to_string(&config).unwrap();
    let asked = "{bearer: {prompt: \"Token, of the other\"}}";
    let text = text.replace("{bearer: {file: bearer.key}}", asked);
    fs::write(&config, text).unwrap();
    (folder, rehearsal)
}

/// Starts `terminal.py`, which plays the person.
fn person(folder: &Path, words: &[&str], mut wish: Value) -> Command {
    let mut command = vec![env!("CARGO_BIN_EXE_tokenward")];
    command.extend(words);
    wish["command"] = json!(command);
    // The folder and the environment of the program, for another program.
    let ours = tokenward(folder);
    let mut script = Command::new("python3");
    script.arg(SCRIPT).arg(wish.to_string()).env_clear();
    for (name, value) in ours.as_std().get_envs() {
        script.env(name, value.unwrap());
    }
    script.current_dir(folder).kill_on_drop(true);
    script
}

async fn at_terminal(folder: &Path, words: &[&str], wish: Value) -> Value {
    let done = run(&mut person(folder, words, wish)).await;
    assert_eq!(code(&done), 0, "{}", err(&done));
    serde_json::from_str(&out(&done)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_asked_once_in_the_order_of_the_file_and_nothing_is_echoed() {
    let (folder, rehearsal) = prepared().await;
    let answers = [rehearsal.api_key(), rehearsal.bearer_key()];
    let words = ["run", "--", "python3", "-c", AGENT];
    let seen = at_terminal(folder.path(), &words, json!({"answers": answers})).await;
    let screen = seen["screen"].as_str().unwrap();
    assert_eq!(seen["code"], 0, "{screen}");
    assert!(screen.contains("got 200"), "{screen}");
    assert_eq!(seen["echo"], json!([true, false, false, true]));
    let first = "tokenward: Key of the API (services.keys.credential.header.value): ";
    let second = "tokenward: Token, of the other (services.plain.credential.bearer): ";
    let places = [first, second].map(|words| screen.find(words));
    assert!(places[0].is_some() && places[0] < places[1], "{screen}");
    assert_eq!(screen.matches("): ").count(), 2, "{screen}");
    for secret in answers {
        assert!(!screen.contains(secret), "{screen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_keeps_what_was_typed_and_asks_for_nothing() {
    let (folder, rehearsal) = prepared().await;
    let config = folder.path().join("tokenward.yaml");
    let (screen, stop) = (folder.path().join("screen"), folder.path().join("stop"));
    let answers = [rehearsal.api_key(), rehearsal.bearer_key()];
    let wish = json!({"answers": answers, "until": stop.display().to_string()});
    let mut serving = person(folder.path(), &["serve"], wish);
    let mut serving = serving.stdout(std::process::Stdio::null()).spawn().unwrap();
    let said = |words: &str| {
        let text = fs::read(&screen).unwrap_or_default();
        String::from_utf8_lossy(&text).contains(words)
    };
    eventually("the start", || said("listening")).await;
    let variables = folder.path().join("run/agents/default/env");
    let variables = fs::read_to_string(variables).unwrap();
    let proxy = variables.split("HTTPS_PROXY=\"http://").nth(1).unwrap();
    let proxy = proxy.split(['"', '/']).next().unwrap();
    let ca = fs::read_to_string(folder.path().join("run/ca.pem")).unwrap();
    let agent = Caller::through(proxy.parse().unwrap(), &ca).unwrap();
    let get = |host| ask(&agent, host, true, Call::get("/v1/items"));
    assert_eq!(get(KEYS).await.status, 200);

    // Other rules, the same questions: taken, and both secrets still serve.
    let before = fs::read_to_string(&config).unwrap();
    let more = "      - {deny: \"GET /v1/nothing\"}\n";
    fs::write(
        &config,
        before.replace("    rules:\n", &format!("    rules:\n{more}")),
    )
    .unwrap();
    eventually("the reload", || said("the configuration was taken")).await;
    assert_eq!(get(KEYS).await.status, 200);
    assert_eq!(get(PLAIN).await.status, 200);

    // A new question is refused, and what was in force stays.
    fs::write(&config, before.replace("Key of the API", "Another key")).unwrap();
    let refusal = "nobody was asked for this secret when tokenward started; restart tokenward";
    eventually("the refusal", || said(refusal)).await;
    assert_eq!(get(KEYS).await.status, 200);
    let keys = rehearsal.seen_by(Service::Static);
    assert!(keys.len() >= 4);
    fs::write(&stop, "").unwrap();
    assert!(serving.wait().await.unwrap().success());
    let screen = String::from_utf8_lossy(&fs::read(&screen).unwrap()).into_owned();
    assert_eq!(screen.matches("): ").count(), 2, "{screen}");
    for secret in answers {
        assert!(!screen.contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_has_the_terminal_back() {
    let (folder, rehearsal) = prepared().await;
    for interrupt in ["key", "term"] {
        let wish = json!({"answers": [rehearsal.api_key()], "interrupt": interrupt});
        let seen = at_terminal(folder.path(), &["serve"], wish).await;
        let screen = seen["screen"].as_str().unwrap();
        assert_eq!(seen["code"], 1, "{interrupt}: {screen}");
        assert_eq!(
            seen["echo"],
            json!([true, false, false, true]),
            "{interrupt}"
        );
        assert!(screen.contains("nobody typed this secret"), "{screen}");
        assert!(!screen.contains("half") && !screen.contains(rehearsal.api_key()));
    }
    for (answer, word) in [
        ("", "nothing was typed"),
        (&*"x".repeat(4200), "longer than"),
    ] {
        let wish = json!({"answers": [answer]});
        let seen = at_terminal(folder.path(), &["serve"], wish).await;
        let screen = seen["screen"].as_str().unwrap();
        assert_eq!(seen["code"], 1, "{screen}");
        assert!(screen.contains(word) && !screen.contains("xxx"), "{screen}");
        assert_eq!(seen["echo"], json!([true, false, true]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_in_front_there_is_one_line_and_no_start() {
    let (folder, _rehearsal) = prepared().await;
    for (manner, word) in [
        ("none", "there is no terminal"),
        ("background", "in the background"),
    ] {
        let seen = at_terminal(folder.path(), &["serve"], json!({"manner": manner})).await;
        let screen = seen["screen"].as_str().unwrap();
        assert_eq!(seen["code"], 1, "{manner}: {screen}");
        let place = "services.keys.credential.header.value: ";
        let lines = screen
            .lines()
            .filter(|l| l.contains(place) && l.contains(word));
        assert_eq!(lines.count(), 1, "{manner}: {screen}");
        assert!(!folder.path().join("run").exists());
    }
    // `check` asks nobody and says what would be asked.
    let checked = run(tokenward(folder.path()).arg("check")).await;
    assert_eq!(code(&checked), 0, "{}", err(&checked));
    let told = "services.keys.credential.header.value: not tried; `serve` and `run` ask for it";
    assert!(err(&checked).contains(told), "{}", err(&checked));
    let checked = run(tokenward(folder.path()).args(["check", "--json"])).await;
    let document: Value = serde_json::from_str(&out(&checked)).unwrap();
    assert_eq!(document["prompts"][1]["text"], "Token, of the other");
}
