//! SIGKILL at every point of a refresh: a process of its own with a store on a disk, and an issuer that rotates.
//!
//! The process is this test program, started again. It says where it is and waits; the issuer in the parent answers,
//! or kills it.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;
use crate::store::{self, StoreKey};

const PRINT: Print = [5; 32];
/// How often each point is tried; by hand 200.
const ROUNDS: usize = 5;

/// Where the process is when it dies. In the order of a refresh.
const POINTS: &[&str] = &[
    "announce", "send", "sent", "half", "parsed", "writing", "written",
];

struct Teller(Mutex<Vec<String>>);

impl Journal for Teller {
    fn note(&self, note: &Note<'_>) {
        self.0.lock().unwrap().push(format!("{note:?}"));
    }
}

fn grant() -> GrantId {
    grant_of(&RowId {
        kind: KIND,
        name: "items/coder".into(),
    })
    .unwrap()
}

fn open(dir: &Path) -> Arc<Lineages> {
    let key = Secret::new("07".repeat(32).into_bytes());
    let settings = store::Settings {
        path: dir.join("store"),
        key: StoreKey::parse(&key).unwrap(),
        previous: None,
    };
    let (store, lost) = Store::open(settings).unwrap();
    assert!(lost.is_empty(), "{lost:?}");
    Arc::new(Lineages::load(store, &lost.rows, &Teller(Mutex::default())))
}

/// The line to the parent.
struct Line(BufReader<TcpStream>);

impl Line {
    fn say(&mut self, text: &str) {
        self.0
            .get_mut()
            .write_all(format!("{text}\n").as_bytes())
            .unwrap();
    }

    /// `None`: the other side is gone.
    fn hear(&mut self) -> Option<String> {
        let mut text = String::new();
        self.0.read_line(&mut text).ok().filter(|n| *n > 0)?;
        text.strip_suffix('\n').map(str::to_owned)
    }

    fn at(&mut self, point: &str) {
        self.say(&format!("at {point}"));
        assert_eq!(self.hear().as_deref(), Some("go"));
    }
}

#[test]
#[ignore = "the process that the tests below kill"]
fn child() {
    let mut input = String::new();
    std::io::stdin().read_line(&mut input).unwrap();
    let (port, dir) = input.trim().split_once(' ').unwrap();
    let port: u16 = port.parse().unwrap();
    let mut line = Line(BufReader::new(
        TcpStream::connect(("127.0.0.1", port)).unwrap(),
    ));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let lineages = open(Path::new(dir));
        for _ in 0..3 {
            let turn = lineages.turn(&grant(), &PRINT).await.unwrap();
            let teller = Teller(Mutex::default());
            line.at("announce");
            turn.announce(&teller).await.unwrap();
            line.at("send");
            turn.sending().unwrap();
            line.say(&format!("refresh {}", turn.refresh().expose()));
            match line.hear().unwrap().split_once(' ') {
                Some(("new", next)) => {
                    line.at("parsed");
                    line.at("writing");
                    turn.renewed(Some(Secret::new(next.to_owned())))
                        .await
                        .unwrap();
                    line.at("written");
                }
                _ => {
                    turn.refused(&teller).await;
                    line.say(&format!("dead {}", teller.0.lock().unwrap().join(" ")));
                    return;
                }
            }
        }
        line.say("done");
    });
}

/// An issuer that rotates at each use. With grace it takes the token before the current one too, until the current
/// one was used.
struct Rotating {
    grace: bool,
    current: u32,
    /// The process has told that it wrote down a successor of these.
    replaced: HashSet<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    Killed,
    Done,
    Dead(String),
}

impl Rotating {
    /// Starts the process and kills it at this point of its second refresh.
    fn run(&mut self, dir: &Path, kill_at: Option<&str>) -> End {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["tokens::lineage::tests::child", "--exact", "--ignored"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let hello = format!(
            "{} {}\n",
            listener.local_addr().unwrap().port(),
            dir.display()
        );
        child
            .stdin
            .take()
            .unwrap()
            .write_all(hello.as_bytes())
            .unwrap();
        let mut line = Line(BufReader::new(listener.accept().unwrap().0));
        let end = self.talk(&mut line, &mut child, kill_at);
        drop(child.kill());
        child.wait().unwrap();
        end
    }

    fn talk(&mut self, line: &mut Line, child: &mut Child, kill_at: Option<&str>) -> End {
        let (mut passes, mut sent) = (0, String::new());
        // The second refresh of a process, so that the point is met after a clean one too.
        let mut due = |point: &str, counts: bool| {
            passes += usize::from(counts && kill_at == Some(point));
            counts && kill_at == Some(point) && passes == 2
        };
        loop {
            let said = line.hear().expect("the process ended by itself");
            match said.split_once(' ').unwrap_or((&said, "")) {
                ("at", "writing") if due("writing", true) => {
                    line.say("go");
                    // Somewhere between the first byte and the rename.
                    std::thread::sleep(Duration::from_micros(u64::from(self.current) * 137 % 3000));
                    child.kill().unwrap();
                    return End::Killed;
                }
                ("at", point) if due(point, point != "writing") => {
                    child.kill().unwrap();
                    return End::Killed;
                }
                ("at", point) => {
                    if point == "written" {
                        self.replaced.insert(sent.clone());
                    }
                    line.say("go");
                }
                ("refresh", token) => {
                    token.clone_into(&mut sent);
                    assert!(!self.replaced.contains(token), "{token} was used up");
                    let number: u32 = token.trim_start_matches("rt-").parse().unwrap();
                    let good = number == self.current || (self.grace && number + 1 == self.current);
                    if !good {
                        line.say("no");
                        continue;
                    }
                    // A reuse within the grace gives out a further one, as if the lost one had never been.
                    self.current = number + 1;
                    let answer = format!("new rt-{}", self.current);
                    if due("sent", true) {
                        child.kill().unwrap();
                        return End::Killed;
                    }
                    if due("half", true) {
                        line.0.get_mut().write_all(&answer.as_bytes()[..5]).unwrap();
                        child.kill().unwrap();
                        return End::Killed;
                    }
                    line.say(&answer);
                }
                ("dead", how) => return End::Dead(how.to_owned()),
                ("done", _) => return End::Done,
                other => panic!("{other:?}"),
            }
        }
    }
}

fn logged_in(dir: &Path, refresh: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(logged_in_async(dir, refresh));
}

async fn logged_in_async(dir: &Path, refresh: u32) {
    let refresh = Secret::new(format!("rt-{refresh}"));
    let begun = open(dir).begin(&grant(), &PRINT, refresh, None).await;
    begun.unwrap();
}

#[test]
fn killed_anywhere_with_a_patient_issuer_no_grant_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut issuer = Rotating {
        grace: true,
        current: 1,
        replaced: HashSet::new(),
    };
    logged_in(dir.path(), 1);
    for round in 0..ROUNDS {
        for point in POINTS {
            let end = issuer.run(dir.path(), Some(point));
            assert_eq!(end, End::Killed, "round {round}, {point}");
            assert_eq!(
                issuer.run(dir.path(), None),
                End::Done,
                "round {round}, after {point}"
            );
        }
    }
}

#[test]
fn killed_with_an_impatient_issuer_a_grant_is_lost_in_the_window_only_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut issuer = Rotating {
        grace: false,
        current: 1,
        replaced: HashSet::new(),
    };
    logged_in(dir.path(), 1);
    for point in POINTS {
        assert_eq!(issuer.run(dir.path(), Some(point)), End::Killed, "{point}");
        let end = issuer.run(dir.path(), None);
        let lost = matches!(&end, End::Dead(how) if how.contains("RefusedInDoubt"));
        match *point {
            "announce" | "send" | "written" => assert_eq!(end, End::Done, "{point}"),
            "writing" => assert!(lost || end == End::Done, "{end:?}"),
            _ => assert!(lost, "{point}: {end:?}"),
        }
        if lost {
            issuer.current += 10;
            logged_in(dir.path(), issuer.current);
        }
    }
}

/// A write that is late, because the disk was slow and whoever wanted it has gone, writes what stands by then.
#[tokio::test(flavor = "multi_thread")]
#[expect(
    clippy::await_holding_lock,
    reason = "the disk is slow as long as it is held"
)]
async fn a_late_write_brings_no_used_refresh_token_back() {
    let dir = tempfile::tempdir().unwrap();
    logged_in_async(dir.path(), 1).await;
    {
        let lineages = open(dir.path());
        let store = lineages.store.clone().unwrap();
        let teller = Teller(Mutex::default());
        let slow = store.lock().unwrap();
        let turn = lineages.turn(&grant(), &PRINT).await.unwrap();
        // Announced, and given up while the disk is busy: this write comes some time.
        let announced = tokio::time::timeout(Duration::from_millis(30), turn.announce(&teller));
        assert!(announced.await.is_err());
        drop(turn);
        // The next refresh goes on meanwhile, up to its answer. Its writes may overtake the first one.
        let turn = lineages.turn(&grant(), &PRINT).await.unwrap();
        let next = Some(Secret::new("rt-2".to_owned()));
        let renewed = tokio::time::timeout(Duration::from_millis(30), turn.renewed(next));
        assert!(renewed.await.is_err());
        drop((turn, slow));
        // All writes are done when the store is ours alone.
        while Arc::strong_count(&store) > 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let lineages = open(dir.path());
    assert!(lineages.in_doubt().is_empty());
    let turn = lineages.turn(&grant(), &PRINT).await.unwrap();
    assert_eq!(turn.refresh().expose(), "rt-2");
    // In doubt after a restart, there is room for the answer as well.
    let teller = Teller(Mutex::default());
    turn.announce(&teller).await.unwrap();
    turn.sending().unwrap();
    drop(turn);
    drop(lineages);
    let room = dir.path().join("store.room");
    std::fs::remove_file(&room).unwrap();
    let lineages = open(dir.path());
    let turn = lineages.turn(&grant(), &PRINT).await.unwrap();
    turn.announce(&teller).await.unwrap();
    assert!(room.exists());
}

/// A process that is killed between the two tells of the end twice, never not at all.
#[tokio::test]
async fn the_end_of_a_grant_is_written_before_its_row_goes() {
    /// Says what is on the disk when it was asked to settle.
    struct Settling(
        std::path::PathBuf,
        Mutex<Vec<String>>,
        Mutex<Option<Vec<u8>>>,
    );
    impl Journal for Settling {
        fn note(&self, note: &Note<'_>) {
            self.1.lock().unwrap().push(format!("{note:?}"));
        }

        fn settled(&self) -> futures_util::future::BoxFuture<'_, ()> {
            assert_eq!(self.1.lock().unwrap().len(), 1, "the note comes first");
            *self.2.lock().unwrap() = std::fs::read(&self.0).ok();
            Box::pin(std::future::ready(()))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    logged_in_async(dir.path(), 1).await;
    let file = dir.path().join("store");
    let settling = Settling(file.clone(), Mutex::default(), Mutex::default());
    let lineages = open(dir.path());
    let turn = lineages.turn(&grant(), &PRINT).await.unwrap();
    let before = std::fs::read(&file).unwrap();
    assert!(turn.refused(&settling).await);
    assert_eq!(
        settling.2.lock().unwrap().as_ref(),
        Some(&before),
        "the row is still there"
    );
    assert_ne!(std::fs::read(&file).unwrap(), before);
    assert!(!turn.refused(&settling).await);
    drop((turn, lineages));
    assert!(!open(dir.path()).has(&grant(), &PRINT));
}
