//! `run`: a private proxy for one command, which gets placeholders and nothing else.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::args::{Args, RunWish};
use super::cell::{self, Walls};
use super::serve::{close_process, config_path, data_runtime};
use super::{Failure, env, out, terminal};
use crate::admin::Shown;
use crate::agent::KnownBy;
use crate::app::{self, Running};
use crate::audit::SinkSettings;
use crate::config::{self, Plan, ProxyAddress, ProxyAt};
use crate::vocab::{AgentName, Clock, ServiceName};

/// We ourselves failed.
pub(super) const FAILED: u8 = 125;
/// The command was found and cannot be run.
const NOT_RUNNABLE: u8 = 126;
/// The command was not found.
const NOT_FOUND: u8 = 127;

pub(super) fn run(args: &Args, wish: &RunWish) -> ExitCode {
    match attempt(args, wish) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            out::say(&format!("tokenward: {failure}"));
            ExitCode::from(FAILED)
        }
    }
}

fn attempt(args: &Args, wish: &RunWish) -> Result<u8, Failure> {
    close_process();
    let file = config_path(args)?;
    let before = fs::read(&file).ok();
    let mut plan = config::load_asking(&file, &mut terminal::ask).map_err(Failure::of)?;
    let agent = env::chosen(&plan, wish.agent.as_deref())?;
    known_by_token(&plan, &agent)?;
    if out::person_reads() && !wish.isolate {
        out::say(
            "tokenward: the command runs as you and can read what you can read, secret files included; see --isolate",
        );
    }
    let private = PrivateDir::new()?;
    let services = services_of(&plan, &agent);
    // Of the file's own plan: what is made private is no longer where the file says.
    let outline = wish
        .isolate
        .then(|| cell::outline((&plan, &file), &services, &private.0));
    make_private(&mut plan, &private.0)?;
    let removed = Removed::of(&plan);
    // Before there is a second thread, and on the one that lives to the end: the cell ends with it.
    let (walls, inlets) = match outline {
        None => (Walls::Nothing, None),
        Some(outline) => cell::build(outline, &agent, wish.isolation)?,
    };
    let code = data_runtime()?.block_on(async {
        let running = app::start_with(plan, Clock::system(), inlets)
            .await
            .map_err(Failure::of)?;
        let task = Task {
            agent: &agent,
            services: &services,
            command: &wish.command,
            removed: &removed,
        };
        let code = play(&running, &task, walls).await;
        stop(running).await;
        code
    });
    // What the command could not write it may have moved away, with the folder around it.
    if fs::read(&file).ok() != before {
        out::say(&format!(
            "tokenward: WARNING: {} is not what it was when the command started; read it before you use it again",
            file.display()
        ));
    }
    code
}

/// The proxy of a command listens on TCP in clear, where only a token can say who calls.
fn known_by_token(plan: &Plan, agent: &AgentName) -> Result<(), Failure> {
    let found = plan.agents.agents.iter().find(|known| known.name == *agent);
    if found.is_none_or(|known| matches!(known.known_by, KnownBy::Token(_))) {
        return Ok(());
    }
    Err(Failure(format!(
        "agents.{agent}.auth: `run` starts a proxy of its own, which only a token can tell who calls; run it as an agent with `token`"
    )))
}

/// What is to be done.
struct Task<'a> {
    agent: &'a AgentName,
    services: &'a [ServiceName],
    command: &'a [OsString],
    removed: &'a Removed,
}

/// Logs in where that is needed, then runs the command.
async fn play(running: &Running, task: &Task<'_>, walls: Walls) -> Result<u8, Failure> {
    // Before anything waits: a signal that came in between would end us and leave the command behind.
    let mut signals = Signals::listen()?;
    tokio::select! {
        done = log_in(running, task.agent, task.services) => done?,
        () = signals.either() => return Err(Failure("nobody logged in".into())),
    }
    let seat = running
        .seats()
        .iter()
        .find(|seat| seat.agent == *task.agent);
    let variables = seat.map(|seat| seat.environment.as_slice());
    let environment = task.removed.environment(variables.unwrap_or_default());
    match walls {
        Walls::Nothing => supervise(task.command, environment, signals).await,
        Walls::Cell(cell) => cell::supervise(cell, task.command, environment, signals).await,
        Walls::Fence(outline) => {
            let port = running.proxies().first().map_or(0, SocketAddr::port);
            let order = cell::order(task.command, environment)?;
            cell::fenced(&outline, port, order, signals).await
        }
    }
}

/// Lets a person log in for each service of the agent that needs it. A login that the store still
/// holds is enough; a memory store knows none of yesterday.
async fn log_in(
    running: &Running,
    agent: &AgentName,
    services: &[ServiceName],
) -> Result<(), Failure> {
    for service in services {
        let show = |shown: &Shown| {
            out::say(&format!("tokenward: {service}: to log in, open"));
            out::say(&shown.url);
            if let Some(code) = &shown.user_code {
                out::say("and type there");
                out::say(code);
            }
        };
        let done = running.log_in(agent, service, show).await;
        if done.map_err(|error| Failure(format!("{service}: {error}")))? {
            out::say(&format!("tokenward: {service}: logged in"));
        }
    }
    Ok(())
}

/// The services that the agent may use, in the file's order.
fn services_of(plan: &Plan, agent: &AgentName) -> Vec<ServiceName> {
    let own = plan.policy.agents.iter().find(|a| a.name == *agent);
    let own = own.and_then(|agent| agent.services.as_ref());
    let all = plan.policy.services.iter().map(|service| &service.name);
    all.filter(|name| own.is_none_or(|own| own.contains(name)))
        .cloned()
        .collect()
}

/// The proxy of one command: a port of its own, no health listener, an audit file in the state directory.
pub(super) fn make_private(plan: &mut Plan, dir: &Path) -> Result<(), Failure> {
    plan.listen.proxy = vec![ProxyAddress {
        at: ProxyAt::Tcp((std::net::Ipv4Addr::LOCALHOST, 0).into()),
        tls: None,
        clients: None,
    }];
    plan.listen.transparent.clear();
    plan.health = None;
    plan.admin = None;
    plan.runtime_dir = dir.to_path_buf();
    plan.drain.pre_stop = std::time::Duration::ZERO;
    let state = config::environment().state_dir();
    let state = state.ok_or_else(|| {
        Failure("neither XDG_STATE_HOME nor HOME is set; the audit file has no place".into())
    })?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&state)
        .map_err(Failure::of)?;
    plan.audit.sink = SinkSettings::File(state.join("audit.jsonl"));
    Ok(())
}

/// Variables that the command does not inherit.
struct Removed(Vec<String>);

impl Removed {
    fn of(plan: &Plan) -> Self {
        let environment = config::environment();
        let ways_around = environment
            .proxy_variables()
            .iter()
            .chain(environment.ca_variables());
        let ours = ways_around.map(|name| (*name).to_owned());
        Self(plan.secret_variables.iter().cloned().chain(ours).collect())
    }

    fn holds(&self, name: &OsStr) -> bool {
        self.0.iter().any(|removed| name == removed.as_str())
    }

    /// What the command gets: what we inherited without these, then `variables`.
    fn environment(&self, variables: &[(String, String)]) -> Vec<(OsString, OsString)> {
        let mut all: BTreeMap<OsString, OsString> = config::environment()
            .all()
            .into_iter()
            .filter(|(name, _)| !self.holds(name))
            .collect();
        all.extend(variables.iter().map(|(n, v)| (n.into(), v.into())));
        all.into_iter().collect()
    }
}

async fn supervise(
    command: &[OsString],
    environment: Vec<(OsString, OsString)>,
    signals: Signals,
) -> Result<u8, Failure> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Failure("a command is needed".into()))?;
    // A cleared environment with named variables: taking one out of our own is not safe beside threads.
    let spawned = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(environment)
        .kill_on_drop(true)
        .spawn();
    match spawned {
        Ok(child) => wait(child, signals, false).await,
        Err(error) => {
            out::say(&format!(
                "tokenward: {}: {error}",
                program.to_string_lossy()
            ));
            Ok(if error.kind() == std::io::ErrorKind::NotFound {
                NOT_FOUND
            } else {
                NOT_RUNNABLE
            })
        }
    }
}

/// Waits for the command. A terminal sends its signals to the command as well; SIGTERM came to us alone and is passed
/// on, so that the command can end in order; and SIGINT, where the command is `apart` from the terminal.
pub(super) async fn wait(
    mut child: Child,
    mut signals: Signals,
    apart: bool,
) -> Result<u8, Failure> {
    loop {
        tokio::select! {
            status = child.wait() => return status.map(exit_code).map_err(Failure::of),
            _ = signals.interrupt.recv() => if apart { pass_on(&child, rustix::process::Signal::INT) },
            _ = signals.terminate.recv() => pass_on(&child, rustix::process::Signal::TERM),
        }
    }
}

/// The signals that concern the command.
pub(super) struct Signals {
    pub(super) interrupt: Signal,
    pub(super) terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let of = |kind| signal(kind).map_err(Failure::of);
        Ok(Self {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
        })
    }

    async fn either(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn pass_on(child: &Child, signal: rustix::process::Signal) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = rustix::process::kill_process(pid, signal)
    {
        tracing::warn!(%error, "a signal could not be passed on");
    }
}

/// The command's code, or 128 + n for signal n.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|n| 128 + n));
    code.and_then(|code| u8::try_from(code).ok())
        .unwrap_or(FAILED)
}

async fn stop(running: Running) {
    if !running.shut_down().await {
        tracing::warn!("some exchanges were cut when the command had ended");
    }
}

/// A directory for the trust files, removed at the end.
pub(super) struct PrivateDir(pub(super) PathBuf);

impl PrivateDir {
    pub(super) fn new() -> Result<Self, Failure> {
        // 0755: the command may drop to another user and must still read the CA certificate.
        private_folder("tokenward-run", 0o755).map(Self)
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        remove_folder(&self.0);
    }
}

/// Makes a folder with an unguessable name in the system's temporary directory; `mkdir` follows no link.
pub(super) fn private_folder(prefix: &str, mode: u32) -> Result<PathBuf, Failure> {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random)
        .map_err(|_| Failure("the system has no randomness".into()))?;
    let path = std::env::temp_dir().join(format!("{prefix}-{:016x}", u64::from_be_bytes(random)));
    fs::DirBuilder::new()
        .mode(mode)
        .create(&path)
        .map_err(Failure::of)?;
    Ok(path)
}

pub(super) fn remove_folder(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::debug!(%error, "a temporary folder could not be removed");
    }
}
