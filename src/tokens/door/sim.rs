//! Seeded lives of one login: door, worker, keeper, client and lineages as they are, over a disk and an issuer that do
//! their worst. Agents ask and leave, answers are late, lost or nonsense, the process dies at any point of a write or a
//! request, the disk is full, clocks leap, the process ends in order and comes back.
//!
//! What must hold: no refresh token is sent again whose successor was read; with an issuer that is patient about lost
//! answers no login is lost; with one that is not, a login is lost only where an answer was, and that is told.
//!
//! 256 seeds in each run of the tests; `TOKENWARD_SEEDS=100000` (or `50000..100000`) for more, `TOKENWARD_SEED=n` for that one.

use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use serde_json::json;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::super::issuer::tests::{Notebook, answered, metadata, oauth, refused, reply};
use super::super::lineage::Disk;
use super::super::settings::{CredentialSettings, Grant, IssuerSettings, Redirect};
use super::super::transport::Transport;
use super::*;
use crate::store::{RowId, StoreError, Why};
use crate::upstream::{IssuerError, IssuerReply, IssuerRequest, TargetSettings};
use crate::vocab::{Moment, WallTime};

const STEPS: usize = 60;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// What a disk remembers when the process does not.
#[derive(Default)]
struct Platter {
    rows: Mutex<BTreeMap<RowId, Vec<u8>>>,
    full: AtomicBool,
    /// So many more writes, and the process dies in the next; 0: it lives.
    dies_in: AtomicU32,
    /// Whether that last write arrives.
    arrives: AtomicBool,
}

/// The disk as one process sees it.
struct Plate {
    platter: Arc<Platter>,
    dead: Arc<AtomicBool>,
    room: bool,
}

impl Plate {
    fn write(
        &mut self,
        ahead: bool,
        change: impl FnOnce(&mut BTreeMap<RowId, Vec<u8>>),
    ) -> Result<(), StoreError> {
        let gone = || {
            Err(StoreError {
                path: "disk".into(),
                why: Why::Io {
                    what: "writing",
                    why: std::io::ErrorKind::StorageFull,
                },
            })
        };
        if self.dead.load(Ordering::SeqCst) {
            return gone();
        }
        if self.platter.full.load(Ordering::SeqCst) {
            if ahead || !self.room {
                return gone();
            }
            self.room = false;
        }
        let left = self.platter.dies_in.load(Ordering::SeqCst);
        self.platter
            .dies_in
            .store(left.saturating_sub(1), Ordering::SeqCst);
        if left == 1 {
            self.dead.store(true, Ordering::SeqCst);
            if !self.platter.arrives.load(Ordering::SeqCst) {
                return gone();
            }
        }
        change(&mut self.platter.rows.lock().unwrap());
        if left == 1 { gone() } else { Ok(()) }
    }
}

impl Disk for Plate {
    fn rows(&self, kind: u8) -> Vec<(RowId, Zeroizing<Vec<u8>>)> {
        let rows = self.platter.rows.lock().unwrap();
        let row = |(id, row): (&RowId, &Vec<u8>)| (id.clone(), Zeroizing::new(row.clone()));
        let of_kind = rows.iter().filter(|(id, _)| id.kind == kind);
        of_kind.map(row).collect()
    }

    fn put(&mut self, id: &RowId, content: &[u8], ahead: bool) -> Result<(), StoreError> {
        self.write(ahead, |rows| {
            drop(rows.insert(id.clone(), content.to_vec()))
        })
    }

    fn remove(&mut self, id: &RowId) -> Result<(), StoreError> {
        self.write(false, |rows| drop(rows.remove(id)))
    }

    fn reserve(&mut self) -> Result<(), StoreError> {
        if self.room {
            return Ok(());
        }
        self.write(true, |_| {})?;
        self.room = true;
        Ok(())
    }

    fn waits(&self) -> bool {
        false
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Healthy,
    Sick,
    Away,
}

type Outcome = Result<IssuerReply, IssuerError>;

/// An answer on its way, and the refresh token that it brings.
struct Pending {
    due: Moment,
    to: oneshot::Sender<Outcome>,
    outcome: Outcome,
    brings: Option<u32>,
}

/// An issuer that rotates. It ends the login where a refresh token is used that it does not expect any more.
struct Issuer {
    random: Random,
    mood: Mood,
    /// A lost answer is forgiven: the last refresh token is taken until its successor was used.
    patient: bool,
    /// Only the whole login's scopes are given, whatever is asked for.
    coarse: bool,
    current: u32,
    dead: bool,
    pending: Vec<Pending>,
    /// No refresh token below this may come any more: its successor was read.
    floor: u32,
    answers_lost: u32,
    requests: u32,
    used_twice: Option<(u32, u32)>,
    /// One seed alone is told step by step.
    verbose: bool,
}

struct Wire {
    issuer: Mutex<Issuer>,
    clock: Clock,
}

impl Wire {
    fn issuer(&self) -> MutexGuard<'_, Issuer> {
        self.issuer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of one token request: now, what the process sees and when.
    fn fate(&self, form: &str, to: oneshot::Sender<Outcome>) {
        let mut issuer = self.issuer();
        issuer.requests += 1;
        let field = |name: &str| {
            let of = form.split('&').find_map(|pair| pair.strip_prefix(name));
            of.map(str::to_owned)
        };
        let sent = field("refresh_token=rt-").map(|n| n.parse::<u32>().unwrap());
        // Told later: a panic in here would be one more failed fetch.
        if let Some(sent) = sent.filter(|sent| *sent < issuer.floor) {
            issuer.used_twice = Some((sent, issuer.floor));
        }
        let asked = field("scope=").filter(|_| !issuer.coarse);
        let asked = asked.unwrap_or_else(|| "a+b".to_owned()).replace('+', " ");
        let lot = match issuer.mood {
            Mood::Healthy => 100,
            Mood::Sick => issuer.random.below(9),
            Mood::Away => issuer.random.below(2),
        };
        let delay = match issuer.random.below(6) {
            0 => issuer.random.below(9_000),
            _ => issuer.random.below(400),
        };
        let due = self.clock.now() + Duration::from_millis(delay);
        let (outcome, brings) = match lot {
            0 => (Err(IssuerError::Connect), None),
            1 => (Err(IssuerError::Unreachable), None),
            2 => (Ok(refused(429, "slow_down")), None),
            3 => (Ok(reply(503, &[], &json!({}))), None),
            // It was done, and nobody will hear of it.
            4..=6 => {
                drop(issuer.serve(sent, &asked));
                issuer.answers_lost += 1;
                let nonsense = [
                    Err(IssuerError::Timeout),
                    Ok(reply(200, &[], &json!("nonsense"))),
                    Ok(reply(500, &[], &json!({}))),
                ];
                let [first, second, third] = nonsense;
                (
                    if lot == 4 {
                        first
                    } else if lot == 5 {
                        second
                    } else {
                        third
                    },
                    None,
                )
            }
            _ => issuer.serve(sent, &asked),
        };
        issuer.tell(|| format!("sent {sent:?} for {asked:?}, answered {brings:?} at {due:?}"));
        issuer.pending.push(Pending {
            due,
            to,
            outcome,
            brings,
        });
    }
}

impl Issuer {
    fn tell(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{}", what());
        }
    }

    fn serve(&mut self, sent: Option<u32>, scope: &str) -> (Outcome, Option<u32>) {
        let expected = sent
            .is_none_or(|sent| sent == self.current || (self.patient && sent + 1 == self.current));
        if !expected || (self.dead && sent.is_some()) {
            self.dead = true;
            return (Ok(refused(400, "invalid_grant")), None);
        }
        self.dead = false;
        self.current = match sent {
            Some(sent) => sent + 1,
            None => self.current + 10,
        };
        let life = 20 + self.random.below(900);
        let body = json!({
            "access_token": format!("at-{}", self.current), "token_type": "Bearer", "expires_in": life,
            "refresh_token": format!("rt-{}", self.current), "scope": scope,
        });
        (Ok(reply(200, &[], &body)), Some(self.current))
    }
}

/// The wire of one process: a dead one sends nothing, not even what was just about to go out.
struct Way {
    wire: Arc<Wire>,
    dead: Arc<AtomicBool>,
}

impl Transport for Way {
    fn send<'a>(&'a self, call: IssuerRequest<'a>) -> BoxFuture<'a, Outcome> {
        if call.url.path().contains("/.well-known/") {
            return Box::pin(async { Ok(reply(200, &[], &metadata())) });
        }
        let form = call
            .form
            .map(|form| form.expose().clone())
            .unwrap_or_default();
        if self.dead.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        let (to, answer) = oneshot::channel();
        self.wire.fate(&form, to);
        Box::pin(async move { answer.await.unwrap_or(Err(IssuerError::Unreachable)) })
    }
}

impl Lines for Way {
    fn open(&self, _: &IssuerSettings) -> Option<Arc<dyn Transport>> {
        Some(Arc::new(Self {
            wire: Arc::clone(&self.wire),
            dead: Arc::clone(&self.dead),
        }))
    }

    fn to_api(&self, _: &TargetSettings) -> Option<Arc<dyn Transport>> {
        Some(Arc::new(Self {
            wire: Arc::clone(&self.wire),
            dead: Arc::clone(&self.dead),
        }))
    }
}

/// One process.
struct Process {
    door: Arc<Door>,
    worker: JoinHandle<()>,
    asks: Vec<JoinHandle<Result<Lease, Unavailable>>>,
    dead: Arc<AtomicBool>,
}

struct World {
    seed: u64,
    random: Random,
    clock: Clock,
    wire: Arc<Wire>,
    platter: Arc<Platter>,
    notes: Arc<Notebook>,
    process: Option<Process>,
    served: u32,
    lost: u32,
    crashes: u32,
}

fn service() -> ServiceName {
    ServiceName::new("items").unwrap()
}

fn credential() -> CredentialSettings {
    let mut client = oauth();
    client.binding = Binding::Bearer;
    client.grant = Grant::AuthorizationCode {
        redirect: Redirect {
            address: [127, 0, 0, 1].into(),
            port: None,
            path: "/callback".into(),
        },
        scopes: ScopeSet::parse("a b").unwrap(),
    };
    CredentialSettings::Oauth(Box::new(client))
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed ^ 0x7061_7469_656e_6365);
        let clock = Clock::manual(WallTime(1_700_000_000_000));
        let issuer = Issuer {
            random: Random(random.next()),
            mood: Mood::Healthy,
            patient: !random.one_in(3),
            coarse: random.one_in(4),
            current: 0,
            dead: true,
            pending: Vec::new(),
            floor: 0,
            answers_lost: 0,
            requests: 0,
            used_twice: None,
            verbose: variable("TOKENWARD_SEED").is_some(),
        };
        let wire = Wire {
            issuer: Mutex::new(issuer),
            clock: clock.clone(),
        };
        Self {
            seed,
            random,
            clock,
            wire: Arc::new(wire),
            platter: Arc::default(),
            notes: Arc::default(),
            process: None,
            served: 0,
            lost: 0,
            crashes: 0,
        }
    }

    fn start(&mut self) {
        let dead = Arc::new(AtomicBool::new(false));
        let plate = Plate {
            platter: Arc::clone(&self.platter),
            dead: Arc::clone(&dead),
            room: false,
        };
        // What the disk has is what this process knows.
        let on_disk = plate.rows(1).first().map(|(_, row)| {
            let text = String::from_utf8_lossy(row);
            let number = text.rsplit_once("rt-").unwrap().1;
            number.parse::<u32>().unwrap()
        });
        {
            let mut issuer = self.wire.issuer();
            issuer.floor = on_disk.unwrap_or(0);
            issuer.tell(|| format!("start at {:?} with {on_disk:?}", self.clock.now()));
        }
        let lineages = Arc::new(Lineages::load(plate, &[], self.notes.as_ref()));
        let (door, worker) = assemble(
            Settings {
                services: vec![(service(), credential())],
            },
            self.clock.clone(),
            Arc::new(Way {
                wire: Arc::clone(&self.wire),
                dead: Arc::clone(&dead),
            }),
            Arc::<Notebook>::clone(&self.notes),
            lineages,
            self.random.next(),
        )
        .unwrap();
        self.process = Some(Process {
            door,
            worker: tokio::spawn(worker.run()),
            asks: Vec::new(),
            dead,
        });
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    /// The process is gone from one moment to the next.
    async fn crash(&mut self) {
        self.wire.issuer().tell(|| "crash".to_owned());
        let process = self.process.take().unwrap();
        process.dead.store(true, Ordering::SeqCst);
        process.worker.abort();
        for ask in &process.asks {
            ask.abort();
        }
        drop(process);
        self.platter.dies_in.store(0, Ordering::SeqCst);
        {
            // Answers that nobody hears.
            let mut issuer = self.wire.issuer();
            let unheard = issuer
                .pending
                .drain(..)
                .filter(|p| p.brings.is_some())
                .count();
            issuer.answers_lost += u32::try_from(unheard).unwrap();
        }
        tokio::task::yield_now().await;
        self.crashes += 1;
        self.start();
        self.settle().await;
    }

    /// Lets everybody work until nobody has anything to do.
    async fn settle(&mut self) {
        let commands = self.process().door.commands.clone();
        drop(commands.try_send(Command::Look));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        let mut served = 0;
        let process = self.process();
        let mut waiting = Vec::new();
        for ask in std::mem::take(&mut process.asks) {
            if !ask.is_finished() {
                waiting.push(ask);
                continue;
            }
            served += u32::from(ask.await.is_ok_and(|lease| lease.is_ok()));
        }
        process.asks = waiting;
        self.served += served;
        self.take_note();
        if self.process().dead.load(Ordering::SeqCst) {
            Box::pin(self.crash()).await;
        }
    }

    /// A login that ended was told; how it may end depends on the issuer.
    fn take_note(&mut self) {
        if let Some((sent, read)) = self.wire.issuer().used_twice {
            let seed = self.seed;
            panic!("seed {seed}: rt-{sent} was sent after rt-{read} had been read");
        }
        let notes: Vec<String> = std::mem::take(&mut *self.notes.0.lock().unwrap());
        for note in &notes {
            self.wire.issuer().tell(|| note.clone());
        }
        for note in notes.iter().filter(|note| note.starts_with("GrantDead")) {
            let issuer = self.wire.issuer();
            assert!(
                !issuer.patient,
                "seed {}: a login was lost: {note}",
                self.seed
            );
            assert!(
                note.contains("RefusedInDoubt"),
                "seed {}: {note}",
                self.seed
            );
            assert!(issuer.answers_lost > 0, "seed {}: {note}", self.seed);
            drop(issuer);
            self.lost += 1;
        }
    }

    async fn pass(&mut self, span: Duration) {
        let end = self.clock.now() + span;
        loop {
            let now = self.clock.now();
            let next = self.wire.issuer().pending.iter().map(|p| p.due).min();
            // A look every few seconds, as the worker's own naps would have it.
            let nap = now + Duration::from_secs(20);
            let next = next.unwrap_or(end).max(now).min(end).min(nap);
            self.clock.advance(next.since(now));
            self.deliver().await;
            if next >= end {
                return;
            }
        }
    }

    async fn deliver(&mut self) {
        let now = self.clock.now();
        let due: Vec<Pending> = {
            let mut issuer = self.wire.issuer();
            issuer.pending.extract_if(.., |p| p.due <= now).collect()
        };
        for answer in due {
            let heard = answer.to.send(answer.outcome).is_ok();
            let brings = answer.brings;
            self.wire
                .issuer()
                .tell(|| format!("delivered {brings:?}, heard: {heard}"));
            // The process may die with the answer in its hands.
            if self.random.one_in(40) {
                if answer.brings.is_some() {
                    self.wire.issuer().answers_lost += 1;
                }
                self.crash().await;
                continue;
            }
            let crashes = self.crashes;
            self.settle().await;
            if heard && crashes == self.crashes {
                let mut issuer = self.wire.issuer();
                issuer.floor = issuer.floor.max(answer.brings.unwrap_or(0));
            } else if answer.brings.is_some() {
                self.wire.issuer().answers_lost += 1;
            }
        }
        self.settle().await;
    }

    async fn ask(&mut self) {
        let scopes = ["a", "b", "a b"][usize::try_from(self.random.below(3)).unwrap()];
        let scopes = ScopeSet::parse(scopes).unwrap();
        let door = Arc::clone(&self.process().door);
        let ask = tokio::spawn(async move {
            door.lend(&service(), &AgentName::fallback(), &scopes, Generation(1))
                .await
        });
        self.process().asks.push(ask);
        self.settle().await;
    }

    async fn log_in(&mut self) {
        let door = Arc::clone(&self.process().door);
        let (edition, client) = door.client(&service()).unwrap();
        client.take_answer(&AgentName::fallback(), answered(), u64::MAX);
        let key = Key {
            edition,
            scopes: client.scopes(&ScopeSet::default()).clone(),
            grant: GrantId {
                service: service(),
                agent: AgentName::fallback(),
            },
        };
        drop(door.commands.try_send(Command::Answered(key)));
        self.settle().await;
        self.ask_all().await;
    }

    async fn ask_all(&mut self) {
        for _ in 0..3 {
            self.ask().await;
        }
    }

    fn logged_in(&mut self) -> bool {
        let (_, client) = self.process().door.client(&service()).unwrap();
        client.is_logged_in(&AgentName::fallback())
    }

    /// The process ends in order: what is under way has its time.
    async fn restart(&mut self) {
        self.wire.issuer().tell(|| "the end in order".to_owned());
        let door = Arc::clone(&self.process().door);
        let closing = tokio::spawn(async move { door.close().await });
        let crashes = self.crashes;
        tokio::task::yield_now().await;
        for _ in 0..40 {
            if closing.is_finished() {
                break;
            }
            self.pass(Duration::from_millis(500)).await;
        }
        if self.crashes != crashes {
            return;
        }
        if self.process().dead.load(Ordering::SeqCst) || !closing.is_finished() {
            closing.abort();
            return self.crash().await;
        }
        let before = self.wire.issuer().floor;
        let full = self.platter.full.load(Ordering::SeqCst);
        self.process = None;
        self.start();
        let issuer = self.wire.issuer();
        // A disk that took nothing is the one excuse.
        if !full && !issuer.dead && issuer.floor > 0 {
            assert!(
                issuer.floor >= before,
                "seed {}: forgotten at an orderly end",
                self.seed
            );
        }
    }

    fn leap(&mut self) {
        let wall = self.clock.wall().0;
        let far = self.random.below(7_200_000);
        self.clock.set_wall(WallTime(match self.random.below(3) {
            0 => wall.saturating_sub(far),
            1 => wall + far,
            _ => wall + 315_360_000_000 % (far + 1),
        }));
    }

    async fn step(&mut self) {
        match self.random.below(100) {
            0..=44 => self.ask().await,
            45..=69 => {
                let span = self.random.below(20_000);
                self.pass(Duration::from_millis(span)).await;
            }
            70..=72 => self.pass(Duration::from_mins(11)).await,
            73..=77 => self.crash().await,
            78..=80 => self.restart().await,
            81..=87 => {
                let mood = [Mood::Healthy, Mood::Sick, Mood::Away];
                self.wire.issuer().mood = mood[usize::try_from(self.random.below(3)).unwrap()];
            }
            88..=90 => self.leap(),
            91 | 92 => {
                let full = self.random.one_in(2);
                self.platter.full.store(full, Ordering::SeqCst);
            }
            93..=96 => {
                let writes = u32::try_from(1 + self.random.below(3)).unwrap();
                self.platter.dies_in.store(writes, Ordering::SeqCst);
                let arrives = self.random.one_in(2);
                self.platter.arrives.store(arrives, Ordering::SeqCst);
            }
            _ => {
                // Whoever asked leaves.
                for ask in self.process().asks.drain(..) {
                    ask.abort();
                }
            }
        }
        self.log_in_again().await;
    }

    /// A person logs in where that is needed, and not while a login is just being finished.
    async fn log_in_again(&mut self) {
        if !self.logged_in() && self.wire.issuer().pending.is_empty() {
            self.log_in().await;
        }
    }

    /// With a healthy issuer, a disk with room and a quiet clock, agents are served in the end.
    async fn recovers(&mut self) {
        self.wire.issuer().mood = Mood::Healthy;
        self.platter.full.store(false, Ordering::SeqCst);
        self.platter.dies_in.store(0, Ordering::SeqCst);
        let before = self.served;
        for _ in 0..120 {
            self.log_in_again().await;
            self.ask_all().await;
            self.pass(Duration::from_secs(5)).await;
            if self.served > before {
                return;
            }
        }
        panic!("seed {}: nobody is served any more", self.seed);
    }
}

/// A number that steers this test.
#[expect(clippy::disallowed_methods, reason = "a test's own variable")]
fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

async fn live(seed: u64) -> (u32, u32, u32, u32) {
    let mut world = World::new(seed);
    world.start();
    world.log_in().await;
    for _ in 0..STEPS {
        world.step().await;
    }
    world.recovers().await;
    let requests = world.wire.issuer().requests;
    (world.served, world.lost, world.crashes, requests)
}

#[test]
fn no_login_is_lost_and_no_refresh_token_used_twice_under_any_seed() {
    let seeds = match variable("TOKENWARD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("TOKENWARD_SEEDS").unwrap_or(256),
    };
    let all = seeds.end - seeds.start;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let (mut served, mut lost, mut crashes, mut requests) = (0_u64, 0_u64, 0_u64, 0_u64);
    for seed in seeds {
        let (s, l, c, r) = runtime.block_on(live(seed));
        served += u64::from(s);
        lost += u64::from(l);
        crashes += u64::from(c);
        requests += u64::from(r);
    }
    println!(
        "{all} schedules: {requests} token requests, {crashes} crashes, {served} asks served; \
         with patience 0 logins lost, without {lost}, each told; no refresh token sent after its successor was read"
    );
    assert!(served > all && crashes > all && requests > all);
}
