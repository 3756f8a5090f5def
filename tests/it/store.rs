//! The file store through the real binary: what starts, what does not, and in which words.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokenward::rehearsal::{Options, Rehearsal};

use crate::kit::{Setup, code, err, eventually, out, run, tokenward};

/// A folder whose configuration has a store.
async fn prepared() -> (TempDir, Rehearsal) {
    let rehearsal = Rehearsal::start(Options::default()).await.unwrap();
    let folder = TempDir::new().unwrap();
    Setup::usual().write(folder.path(), &rehearsal);
    fs::write(folder.path().join("store.key"), "07".repeat(32)).unwrap();
    let config = folder.path().join("tokenward.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let store = "store: {file: {path: state/store, key: {file: store.key}}}\n";
    fs::write(&config, format!("{text}{store}")).unwrap();
    (folder, rehearsal)
}

async fn refused(folder: &TempDir, word: &str) {
    let ended = run(tokenward(folder.path()).args(["run", "--", "true"])).await;
    let said = err(&ended);
    assert_eq!(code(&ended), 125, "{said}");
    let lines: Vec<&str> = said.lines().filter(|l| l.contains("state/store")).collect();
    assert!(
        lines.len() == 1 && lines[0].contains(word),
        "{word}: {said}"
    );
    assert!(!said.contains("panicked") && !said.contains(&"07".repeat(8)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_not_as_it_must_be_is_one_line_and_no_start() {
    let (folder, _rehearsal) = prepared().await;
    let (store, key) = (
        folder.path().join("state/store"),
        folder.path().join("store.key"),
    );
    let check = run(tokenward(folder.path()).arg("check")).await;
    assert_eq!(code(&check), 0, "{}", err(&check));
    assert!(!store.exists(), "check changes nothing");
    for _ in 0..2 {
        let ended = run(tokenward(folder.path()).args(["run", "--", "echo", "ran"])).await;
        assert_eq!(
            (code(&ended), out(&ended).as_str()),
            (0, "ran\n"),
            "{}",
            err(&ended)
        );
    }
    let whole = fs::read(&store).unwrap();
    fs::write(&key, "08".repeat(32)).unwrap();
    refused(&folder, "the key is not the one").await;
    fs::write(&key, "07".repeat(32)).unwrap();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o644)).unwrap();
    refused(&folder, "mode 0600").await;
    fs::set_permissions(&store, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&store, "something else entirely").unwrap();
    refused(&folder, "not a store").await;
    fs::write(&store, &whole[..60]).unwrap();
    refused(&folder, "damaged").await;
    fs::remove_file(&store).unwrap();
    refused(&folder, "gone").await;
    fs::write(&store, &whole).unwrap();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o600)).unwrap();
    let ended = run(tokenward(folder.path()).args(["run", "--", "true"])).await;
    assert_eq!(code(&ended), 0, "{}", err(&ended));
    fs::write(&key, "a passphrase").unwrap();
    let check = run(tokenward(folder.path()).arg("check")).await;
    assert_eq!(code(&check), 1);
    assert!(err(&check).contains("store.file.key") && err(&check).contains("openssl rand"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_is_told_and_a_killed_one_leaves_no_lock() {
    let (folder, _rehearsal) = prepared().await;
    let script = "echo begun > begun; for i in $(seq 400); do sleep 0.05; done";
    let mut first = tokenward(folder.path())
        .args(["run", "--", "sh", "-c", script])
        .spawn()
        .unwrap();
    eventually("the first", || folder.path().join("begun").exists()).await;
    refused(&folder, "another process uses it").await;
    let pid = i32::try_from(first.id().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    first.wait().await.unwrap();
    let ended = run(tokenward(folder.path()).args(["run", "--", "true"])).await;
    assert_eq!(code(&ended), 0, "{}", err(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_changed_by_naming_the_one_before() {
    let (folder, _rehearsal) = prepared().await;
    let start = || async { run(tokenward(folder.path()).args(["run", "--", "true"])).await };
    assert_eq!(code(&start().await), 0);
    let config = folder.path().join("tokenward.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(folder.path().join("new.key"), "09".repeat(32)).unwrap();
    let changed = text.replace("{file: store.key}", "{file: new.key}");
    fs::write(&config, &changed).unwrap();
    refused(&folder, "give the one before as `previous_key`").await;
    let both = "{file: new.key}, previous_key: {file: store.key}";
    fs::write(&config, text.replace("{file: store.key}", both)).unwrap();
    for told in [true, false] {
        let ended = start().await;
        assert_eq!(code(&ended), 0, "{}", err(&ended));
        let said = err(&ended).contains("sealed with the new key now; remove `previous_key`");
        assert_eq!(said, told, "{}", err(&ended));
        assert!(!err(&ended).contains("damaged") && !err(&ended).contains(&"07".repeat(8)));
    }
    fs::write(&config, &changed).unwrap();
    assert_eq!(code(&start().await), 0);
    fs::write(&config, &text).unwrap();
    refused(&folder, "the key is not the one").await;
}
