//! What a store survives, what it notices and what it never does.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::prelude::*;
use tempfile::TempDir;

use super::image::Image;
use super::seal::Sealer;
use super::{Lost, ROW_MAX, RowId, Settings, Store, StoreKey, Why};
use crate::vocab::Secret;

const CANARY: &str = "canary-8841-Zq-refresh";

fn key(byte: u8) -> StoreKey {
    StoreKey::parse(&Secret::new(format!("{byte:02x}").repeat(32).into_bytes())).unwrap()
}

fn id(name: &str) -> RowId {
    let name = name.to_owned();
    RowId { kind: 1, name }
}

fn settings(dir: &Path) -> Settings {
    Settings {
        path: dir.join("store"),
        key: key(7),
        previous: None,
    }
}

/// The same with another key in the place of the first.
fn changed(dir: &Path) -> Settings {
    Settings {
        key: key(8),
        previous: Some(key(7)),
        ..settings(dir)
    }
}

fn why(settings: Settings) -> Why {
    Store::open(settings).map(|_| ()).unwrap_err().why
}

/// A store with three rows, closed.
fn filled() -> (TempDir, PathBuf) {
    let dir = TempDir::new().unwrap();
    let (mut store, lost) = Store::open(settings(dir.path())).unwrap();
    assert!(lost.is_empty());
    for name in ["a/x", "b/x", "c/x"] {
        let content = format!("{CANARY}-{name}");
        store.put(&id(name), content.as_bytes(), true).unwrap();
        store.reserve().unwrap();
    }
    let path = store.path().to_owned();
    (dir, path)
}

fn contents(store: &Store) -> Vec<(String, String)> {
    let rows = store.rows(1).into_iter();
    rows.map(|(id, row)| (id.name, String::from_utf8(row.to_vec()).unwrap()))
        .collect()
}

/// Whether every row is there as written, or named as lost.
fn accounted(store: &Store, lost: &Lost) -> bool {
    ["a/x", "b/x", "c/x"].iter().all(|name| {
        let expected = (format!("{CANARY}-{name}"), lost.rows.contains(&id(name)));
        match contents(store).into_iter().find(|(n, _)| n == name) {
            Some((_, content)) => (content, false) == expected,
            None => expected.1,
        }
    })
}

#[test]
fn rows_outlive_the_process_that_wrote_them() {
    let (dir, _) = filled();
    let (mut store, lost) = Store::open(settings(dir.path())).unwrap();
    assert!(lost.is_empty() && accounted(&store, &lost));
    store.remove(&id("b/x")).unwrap();
    store.put(&id("a/x"), b"two", false).unwrap();
    assert!(store.rows(2).is_empty());
    let sequence = store.sequence();
    drop(store);
    let (store, _) = Store::open(settings(dir.path())).unwrap();
    let names: Vec<String> = contents(&store).into_iter().map(|(n, _)| n).collect();
    assert_eq!(
        (names, store.sequence()),
        (vec!["a/x".into(), "c/x".into()], sequence)
    );
}

#[test]
fn keys_are_32_bytes_in_hex_or_base64() {
    let parse = |text: &str| StoreKey::parse(&Secret::new(text.as_bytes().to_vec())).is_ok();
    let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    for good in [&"0aF9".repeat(16), base64, base64.trim_end_matches('=')] {
        assert!(parse(good), "{good}");
    }
    for bad in [
        "",
        "hunter2",
        &"0g".repeat(32),
        &"00".repeat(31),
        "AAEC",
        &"A".repeat(90),
        &"A".repeat(500),
    ] {
        assert!(!parse(bad), "{bad}");
    }
}

#[test]
fn no_file_of_a_store_holds_anything_in_the_clear() {
    let (dir, _) = filled();
    let (mut store, _) = Store::open(settings(dir.path())).unwrap();
    store.put(&id("a/x"), CANARY.as_bytes(), true).unwrap();
    let mut seen = 0;
    for entry in fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path:?}");
        let bytes = fs::read(&path).unwrap();
        for needle in [CANARY, "canary", "a/x", "b/x"] {
            let found = bytes.windows(needle.len()).any(|w| w == needle.as_bytes());
            assert!(!found, "{needle} in {path:?}");
        }
        seen += 1;
    }
    assert_eq!(seen, 3, "the store, its lock and the reserved room");
    let shown = format!("{store:?} {:?}", settings(dir.path()));
    assert!(!shown.contains("canary") && !shown.contains("[7, 7"));
}

#[test]
fn a_thousand_byte_flips_cost_a_row_each_and_say_so() {
    let (dir, path) = filled();
    let whole = fs::read(&path).unwrap();
    let (mut rows, mut heads) = (0, 0);
    for round in 0..1000_usize {
        let mut bytes = whole.clone();
        let at = round * 7919 % bytes.len();
        bytes[at] ^= 1 << (round % 8);
        let (image, sealer, lost) = Image::read(&bytes, &key(7)).unwrap();
        assert!(
            lost.rows.len() <= 1 && !lost.is_empty(),
            "flip {round} at {at} went unnoticed"
        );
        rows += lost.rows.len();
        heads += usize::from(lost.head);
        for name in ["a/x", "b/x", "c/x"] {
            let found = image.get(&sealer, &id(name));
            assert_eq!(found.is_none(), lost.rows.contains(&id(name)));
            assert!(found.is_none_or(|row| row.ends_with(name.as_bytes())));
        }
    }
    assert!(rows > 100 && heads > 100);
    // And through the door: the rest works, and what is lost stays lost until it is written anew.
    let mut bytes = whole;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (mut store, lost) = Store::open(settings(dir.path())).unwrap();
    assert_eq!(lost.rows.len(), 1);
    assert!(accounted(&store, &lost));
    store.put(&id("d/x"), b"new", false).unwrap();
    drop(store);
    let (mut store, again) = Store::open(settings(dir.path())).unwrap();
    assert_eq!(again.rows, lost.rows);
    store.put(&lost.rows[0], b"anew", false).unwrap();
    drop(store);
    let (_, lost) = Store::open(settings(dir.path())).unwrap();
    assert!(lost.is_empty());
}

#[test]
fn a_thousand_byte_flips_beside_the_store_lose_nothing_and_say_so() {
    let (dir, path) = filled();
    let beside = |suffix: &str| path.with_file_name(format!("store{suffix}"));
    let lock = fs::read(beside(".lock")).unwrap();
    let room = fs::read(beside(".room")).unwrap();
    fs::write(beside(".new"), &room).unwrap();
    for round in 0..1000_usize {
        let mut bytes = lock.clone();
        let at = round * 7919 % bytes.len();
        bytes[at] ^= 1 << (round / bytes.len() % 8);
        fs::write(beside(".lock"), &bytes).unwrap();
        for suffix in [".room", ".new"] {
            let mut bytes = room.clone();
            let at = round * 104_729 % bytes.len();
            bytes[at] ^= 1 << (round % 8);
            fs::write(beside(suffix), &bytes).unwrap();
        }
        let (store, lost) = Store::open(settings(dir.path())).unwrap();
        assert!(lost.witness && lost.rows.is_empty() && !lost.head, "{at}");
        assert!(accounted(&store, &lost));
    }
    // And what lies there by accident is no obstacle for the next write.
    let (mut store, lost) = Store::open(settings(dir.path())).unwrap();
    store
        .put(&id("a/x"), format!("{CANARY}-a/x").as_bytes(), true)
        .unwrap();
    store.reserve().unwrap();
    assert!(accounted(&store, &lost));
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one story: a writer, and copies beside it"
)]
fn a_copy_taken_at_any_moment_has_what_was_written_before_it() {
    let (dir, path) = filled();
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let (mut store, _) = Store::open(settings(dir.path())).unwrap();
    store.put(&id("n"), b"0", true).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1.. {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                store
                    .put(&id("n"), number.to_string().as_bytes(), number % 2 == 0)
                    .unwrap();
                if number % 3 == 0 {
                    store.reserve().unwrap();
                }
                done.store(number, Ordering::SeqCst);
            }
        });
        let mut refused = 0;
        for round in 0..200_u64 {
            let copy = TempDir::new().unwrap();
            let before = done.load(Ordering::SeqCst);
            // The witness is not synced, so a cut can leave an older one; a newer one is refused, as it must be.
            let order = if round % 4 == 0 {
                ["store", "store.lock"]
            } else {
                ["store.lock", "store"]
            };
            for name in order.into_iter().chain(["store.new"]) {
                let Ok(mut bytes) = fs::read(path.with_file_name(name)) else {
                    continue;
                };
                if name == "store.new" {
                    // Pages that were not synced are lost.
                    bytes.truncate(bytes.len() * usize::try_from(round).unwrap() / 200);
                }
                let to = copy.path().join(name);
                fs::write(&to, bytes).unwrap();
                fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).unwrap();
            }
            let after = done.load(Ordering::SeqCst);
            match Store::open(settings(copy.path())) {
                Ok((store, lost)) => {
                    assert!(lost.rows.is_empty() && !lost.head);
                    let found = contents(&store).into_iter().find(|(name, _)| name == "n");
                    let found: u64 = found.unwrap().1.parse().unwrap();
                    assert!(
                        (before..=after + 1).contains(&found),
                        "{before} {found} {after}"
                    );
                }
                Err(error) => {
                    assert!(
                        round % 4 == 0 && matches!(error.why, Why::RolledBack),
                        "{error}"
                    );
                    refused += 1;
                }
            }
        }
        stop.store(true, Ordering::SeqCst);
        assert!(refused <= 50);
    });
}

#[test]
fn a_file_cut_anywhere_is_never_taken_for_a_whole_one() {
    let (_dir, path) = filled();
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        match Image::read(&whole[..length], &key(7)) {
            Ok((image, sealer, lost)) => {
                assert!(!lost.is_empty(), "cut at {length}");
                for name in ["a/x", "b/x", "c/x"] {
                    let there = image.get(&sealer, &id(name)).is_some();
                    assert!(there != lost.rows.contains(&id(name)), "{name} at {length}");
                }
            }
            Err(error) => assert!(matches!(error, Why::Damaged | Why::Other), "{error}"),
        }
    }
}

#[test]
fn rows_that_were_swapped_or_come_from_another_time_do_not_open() {
    let sealer = Sealer::new(&key(7), [3; 32]).unwrap();
    let with = |image: &Image, name: &str, content: &str| {
        image
            .with(&sealer, &id(name), Some(content.as_bytes()))
            .unwrap()
    };
    let one = with(&with(&Image::empty(), "a/x", "first"), "b/x", "other");
    let two = with(&one, "a/x", "later");
    let (old, new) = (one.write(&sealer).unwrap(), two.write(&sealer).unwrap());
    // Both files are laid out alike: head, row a, row b, head, length.
    let head = (old.len() - 4 - 2 * (5 + 28)) / 2;
    let row = |at: usize| head + at * 33..head + (at + 1) * 33;
    let mut swapped = new.clone();
    swapped[row(0)].copy_from_slice(&new[row(1)]);
    swapped[row(1)].copy_from_slice(&new[row(0)]);
    let (image, _, lost) = Image::read(&swapped, &key(7)).unwrap();
    assert_eq!(lost.rows, [id("a/x"), id("b/x")]);
    assert!(image.get(&sealer, &id("a/x")).is_none());
    let mut back = new.clone();
    back[row(0)].copy_from_slice(&old[row(0)]);
    let (_, _, lost) = Image::read(&back, &key(7)).unwrap();
    assert_eq!(lost.rows, [id("a/x")]);
    // An older head beside a newer one is noticed, wherever it stands, and the newer one counts.
    for at in [0..head, old.len() - 4 - head..old.len() - 4] {
        let mut mixed = new.clone();
        mixed[at.clone()].copy_from_slice(&old[at]);
        let (image, sealer, lost) = Image::read(&mixed, &key(7)).unwrap();
        assert!(lost.head && lost.rows.is_empty());
        assert_eq!(image.get(&sealer, &id("a/x")).unwrap().as_slice(), b"later");
    }
    // The same bytes under another file's salt, or as another kind of row.
    let other = Sealer::new(&key(7), [4; 32]).unwrap();
    assert!(two.get(&other, &id("a/x")).is_none());
}

#[test]
fn an_older_file_or_none_at_all_is_noticed() {
    let (dir, path) = filled();
    let old = fs::read(&path).unwrap();
    let (mut store, _) = Store::open(settings(dir.path())).unwrap();
    store.put(&id("a/x"), b"later", false).unwrap();
    drop(store);
    let new = fs::read(&path).unwrap();
    fs::write(&path, &old).unwrap();
    assert!(matches!(why(settings(dir.path())), Why::RolledBack));
    fs::remove_file(&path).unwrap();
    assert!(matches!(why(settings(dir.path())), Why::Gone));
    // A store of another beginning, sealed with the same key.
    let (_other, other_path) = filled();
    fs::copy(other_path, &path).unwrap();
    assert!(matches!(why(settings(dir.path())), Why::RolledBack));
    fs::write(&path, &new).unwrap();
    assert!(Store::open(settings(dir.path())).unwrap().1.is_empty());
    // The operator's word: without its lock file the older one is taken, and that is told.
    fs::write(&path, &old).unwrap();
    fs::remove_file(dir.path().join("store.lock")).unwrap();
    assert!(Store::open(settings(dir.path())).unwrap().1.witness);
    // A witness that cannot be read does not stop anybody, and is told.
    fs::write(dir.path().join("store.lock"), b"nonsense").unwrap();
    assert!(Store::open(settings(dir.path())).unwrap().1.witness);
}

#[test]
fn a_changed_key_seals_every_row_anew() {
    let (dir, path) = filled();
    let before = fs::read(&path).unwrap();
    let (store, lost) = Store::open(changed(dir.path())).unwrap();
    assert!(store.was_rekeyed() && lost.is_empty() && accounted(&store, &lost));
    let sequence = store.sequence();
    drop(store);
    // The key before it opens nothing any more, not even the note.
    assert!(matches!(why(settings(dir.path())), Why::WrongKey));
    for previous in [Some(key(7)), None] {
        let both = Settings {
            previous,
            ..changed(dir.path())
        };
        let (store, lost) = Store::open(both).unwrap();
        assert!(!store.was_rekeyed() && lost.is_empty() && accounted(&store, &lost));
        assert_eq!(store.sequence(), sequence);
    }
    // The file from before the change is older than the note says: there is no way back.
    fs::write(&path, &before).unwrap();
    assert!(matches!(why(changed(dir.path())), Why::RolledBack));
    let wrong = Settings {
        key: key(9),
        previous: Some(key(10)),
        ..settings(dir.path())
    };
    let error = Store::open(wrong).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("the key is not the one") && error.contains("previous_key"));
}

#[test]
fn whatever_a_crash_leaves_of_a_change_of_keys_is_whole() {
    let (dir, path) = filled();
    let beside = |suffix: &str| path.with_file_name(format!("store{suffix}"));
    let (old, old_note) = (fs::read(&path).unwrap(), fs::read(beside(".lock")).unwrap());
    drop(Store::open(changed(dir.path())).unwrap());
    let (new, new_note) = (fs::read(&path).unwrap(), fs::read(beside(".lock")).unwrap());
    let whole = |state: &str, rekeyed: bool, witness: bool| {
        let (store, lost) = Store::open(changed(dir.path())).unwrap();
        assert!(
            accounted(&store, &lost) && lost.rows.is_empty() && !lost.head,
            "{state}"
        );
        assert_eq!(
            (store.was_rekeyed(), lost.witness),
            (rekeyed, witness),
            "{state}"
        );
        drop(store);
        let (store, lost) = Store::open(Settings {
            previous: None,
            ..changed(dir.path())
        })
        .unwrap();
        assert!(accounted(&store, &lost) && lost.is_empty(), "{state}");
    };
    // While the new file was written: nothing of it counts.
    for length in (0..new.len()).step_by(7) {
        fs::write(&path, &old).unwrap();
        fs::write(beside(".lock"), &old_note).unwrap();
        fs::write(beside(".new"), &new[..length]).unwrap();
        fs::set_permissions(beside(".new"), fs::Permissions::from_mode(0o600)).unwrap();
        whole("a part of the new file", true, false);
    }
    // After the file, before the note or in the middle of it.
    for length in 0..=new_note.len() {
        fs::write(&path, &new).unwrap();
        let note = [&new_note[..length], &old_note[length..]].concat();
        fs::write(beside(".lock"), note).unwrap();
        let torn = length != 0 && length != new_note.len();
        // The first bytes of the number of writes are the same in both.
        let torn = torn && new_note[..length] != old_note[..length];
        whole("a part of the new note", false, torn);
    }
}

#[test]
fn a_damaged_row_is_carried_over_and_stays_known() {
    let (dir, path) = filled();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (store, lost) = Store::open(changed(dir.path())).unwrap();
    assert!(lost.rows.len() == 1 && accounted(&store, &lost));
    drop(store);
    let (store, again) = Store::open(changed(dir.path())).unwrap();
    assert!(again.rows == lost.rows && accounted(&store, &again));
}

#[test]
fn a_wrong_key_or_mode_or_another_file_is_one_clear_line() {
    let (dir, path) = filled();
    let before = fs::read(&path).unwrap();
    let wrong = Settings {
        key: key(8),
        ..settings(dir.path())
    };
    let error = Store::open(wrong).map(|_| ()).unwrap_err();
    assert!(matches!(error.why, Why::WrongKey));
    let text = error.to_string();
    assert!(
        text.contains("store") && text.contains("key") && !text.contains('\n'),
        "{text}"
    );
    for mode in [0o640, 0o604, 0o660, 0o700, 0o400] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert!(
            matches!(why(settings(dir.path())), Why::Mode(_)),
            "{mode:o}"
        );
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(why(settings(dir.path())), Why::Folder));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), before);
    let moved = dir.path().join("elsewhere");
    fs::rename(&path, &moved).unwrap();
    symlink(&moved, &path).unwrap();
    assert!(matches!(why(settings(dir.path())), Why::Mode(_)));
    fs::remove_file(&path).unwrap();
    fs::hard_link(&moved, &path).unwrap();
    assert!(matches!(why(settings(dir.path())), Why::Mode(_)));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "listen: {}\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(why(settings(dir.path())), Why::Other));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(why(settings(dir.path())), Why::Mode(_)));
}

#[test]
fn a_store_belongs_to_one_process() {
    let (dir, path) = filled();
    let (mut first, _) = Store::open(settings(dir.path())).unwrap();
    assert!(matches!(why(settings(dir.path())), Why::InUse));
    // Whoever removes the lock file can have two, but the second write is refused, not mixed in.
    fs::remove_file(dir.path().join("store.lock")).unwrap();
    let (mut second, _) = Store::open(settings(dir.path())).unwrap();
    second.put(&id("a/x"), b"second", false).unwrap();
    let refused = first.put(&id("a/x"), b"first", false).unwrap_err();
    assert!(matches!(refused.why, Why::Replaced));
    drop((first, second));
    assert!(path.exists());
    let (store, _) = Store::open(settings(dir.path())).unwrap();
    assert!(contents(&store).contains(&("a/x".into(), "second".into())));
}

#[test]
fn a_power_cut_leaves_the_last_write_or_the_one_before() {
    let (dir, path) = filled();
    // What a cut can leave beside the store: a half-written next file, of any length.
    let whole = fs::read(&path).unwrap();
    for length in (0..whole.len()).step_by(97) {
        fs::write(dir.path().join("store.new"), &whole[..length]).unwrap();
        let (mut store, lost) = Store::open(settings(dir.path())).unwrap();
        assert!(lost.is_empty() && accounted(&store, &lost));
        store.put(&id("d/x"), b"on", true).unwrap();
    }
}

/// On a disk of 256 KiB, in a mount namespace of its own; without the right to make one this test says so.
#[test]
fn a_full_disk_keeps_what_it_has_and_refuses_ahead() {
    let probe = "mount -t tmpfs -o size=256k none /mnt";
    let allowed = Command::new("unshare")
        .args(["-m", "sh", "-c", probe])
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no mount namespaces here");
        return;
    }
    let this = std::env::current_exe().unwrap();
    let run = format!(
        "mount -t tmpfs -o size=256k,mode=700 none /mnt && {} store::tests::on_a_small_disk --exact --ignored",
        this.display()
    );
    let done = Command::new("unshare")
        .args(["-m", "sh", "-c", &run])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "runs on the small disk that the test above makes"]
fn on_a_small_disk() {
    let dir = Path::new("/mnt");
    let (mut store, _) = Store::open(settings(dir)).unwrap();
    store.put(&id("a/x"), b"one", true).unwrap();
    store.reserve().unwrap();
    // Somebody else fills the disk to the last byte; what was set aside is ours all the same.
    let mut other = fs::File::create(dir.join("filler")).unwrap();
    let mut fill = || while std::io::Write::write_all(&mut other, &[0; 4096]).is_ok() {};
    fill();
    // Another row's announcement finds no room, and does not take the room of the first one's answer.
    assert!(store.put(&id("b/x"), &[b'y'; ROW_MAX], true).is_err());
    store.put(&id("a/x"), &[b'x'; ROW_MAX / 2], false).unwrap();
    fill();
    assert!(store.reserve().is_err());
    // The next one has nothing set aside, and fails whole.
    let full = store.put(&id("a/x"), b"three", true).unwrap_err();
    assert!(matches!(full.why, Why::Io { .. }), "{full}");
    let kept = contents(&store);
    drop(store);
    let (mut store, lost) = Store::open(settings(dir)).unwrap();
    assert!(lost.is_empty());
    assert_eq!(contents(&store), kept);
    drop(other);
    fs::remove_file(dir.join("filler")).unwrap();
    store.put(&id("a/x"), b"four", true).unwrap();
}

#[test]
fn bounds_are_refused_and_change_nothing() {
    let (dir, _) = filled();
    let (mut store, lost) = Store::open(settings(dir.path())).unwrap();
    let long = RowId {
        kind: 1,
        name: "n".repeat(256),
    };
    for (id, content) in [(id("a/x"), vec![0; ROW_MAX + 1]), (long, Vec::new())] {
        let error = store.put(&id, &content, false).unwrap_err();
        assert!(matches!(error.why, Why::TooLarge));
    }
    assert!(accounted(&store, &lost));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever stands in the file: an answer, never a panic, and never a row that was not written.
    #[test]
    fn nothing_in_a_file_leads_to_a_panic(
        cuts in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..12),
        noise in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let sealer = Sealer::new(&key(7), [3; 32]).unwrap();
        let image = Image::empty().with(&sealer, &id("a/x"), Some(b"kept")).unwrap();
        let mut bytes = image.write(&sealer).unwrap();
        for (at, byte) in cuts {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for file in [bytes.clone(), [bytes, noise.clone()].concat(), noise] {
            if let Ok((image, sealer, lost)) = Image::read(&file, &key(7)) {
                let row = image.get(&sealer, &id("a/x"));
                prop_assert!(row.is_some() || lost.rows.contains(&id("a/x")));
                prop_assert!(row.is_none_or(|row| row.as_slice() == b"kept"));
            }
        }
    }
}
