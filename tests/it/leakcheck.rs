//! `leakcheck`, as CI would call it.

use std::fs;
use std::process::Stdio;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;

use super::kit::{code, err, out, run, tokenward};

const VALUE: &str = "tok_0123456789abcdef";

#[tokio::test(flavor = "multi_thread")]
async fn a_planted_value_is_found_and_never_repeated() {
    let home = TempDir::new().unwrap();
    let clean = home.path().join("clean");
    let leaky = home.path().join("leaky");
    for folder in [&clean, &leaky] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("log.txt"), "nothing\n").unwrap();
    }
    let text = STANDARD.encode(format!("{{\"auth\":\"{VALUE}\"}}"));
    fs::write(leaky.join("config.json"), text).unwrap();
    let list = home.path().join("planted.txt");
    fs::write(&list, format!("another-value-here\n\n{VALUE}\n")).unwrap();

    for (path, expected) in [(&clean, 0), (&leaky, 1)] {
        for how in [
            vec!["--canary", VALUE],
            vec!["--canaries", "planted.txt"],
            vec!["--from-env", "PLANTED"],
        ] {
            let mut command = tokenward(home.path());
            command
                .env("PLANTED", VALUE)
                .arg("leakcheck")
                .args(&how)
                .arg(path);
            let output = run(&mut command).await;
            let said = out(&output) + &err(&output);
            assert_eq!(code(&output), expected, "{said}");
            assert!(!said.contains(VALUE), "{said}");
            assert_eq!(said.contains("config.json: LEAK"), expected == 1, "{said}");
        }
    }
    let mut command = tokenward(home.path());
    command.args(["--json", "leakcheck", "--canaries", "planted.txt", "leaky"]);
    let found: serde_json::Value = serde_json::from_str(&out(&run(&mut command).await)).unwrap();
    assert_eq!((&found["ok"], &found["files"]), (&false.into(), &2.into()));
    assert_eq!(found["leaks"][0]["canary"], "planted.txt:3");
    assert!(
        found["leaks"][0]["form"]
            .as_str()
            .unwrap()
            .contains("base64")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_a_path_too() {
    let home = TempDir::new().unwrap();
    for (text, expected) in [("nothing", 0), (VALUE, 1)] {
        let mut command = tokenward(home.path());
        command.args(["leakcheck", "--canary", VALUE, "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        input.write_all(text.as_bytes()).await.unwrap();
        drop(input);
        assert_eq!(child.wait().await.unwrap().code(), Some(expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_searched_is_no_clean_answer() {
    let home = TempDir::new().unwrap();
    let cases: [(&[&str], i32, &str); 5] = [
        (&["--canary", VALUE, "absent"], 1, "NOT SEARCHED"),
        (&["--canary", "short", "."], 1, "by chance"),
        (&["--from-env", "NOT_SET", "."], 1, "NOT_SET is not set"),
        (&["--canaries", "absent.txt", "."], 1, "absent.txt"),
        (&["."], 2, "--canary"),
    ];
    for (words, expected, word) in cases {
        let mut command = tokenward(home.path());
        command.arg("leakcheck").args(words);
        let output = run(&mut command).await;
        let said = out(&output) + &err(&output);
        assert_eq!(code(&output), expected, "{words:?}: {said}");
        assert!(said.contains(word), "{words:?}: {said}");
    }
}
