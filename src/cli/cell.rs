//! The cell of `run --isolate`: what it hides, what answers in it, and how its command is started and told to end.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::args::Isolation;
use super::run::{self, FAILED, Signals};
use super::{Failure, out};
use crate::app::Inlets;
use crate::audit::SinkSettings;
use crate::config::{self, AdminAt, CaPlan, Plan, StorePlan};
use crate::isolation::{self, Cell, CellError, Fenced, Inmate, Order, Outline, Started};
use crate::listen::NameSockets;
use crate::vocab::{AgentName, ServiceName};

/// Ports on which every address of a cell is answered, beside those of the agent's services. A request in clear is told
/// what is wrong with it.
const PORTS: [u16; 2] = [80, 443];
/// Says whether a program may type into its controlling terminal (tty_ioctl(4), `TIOCSTI`); absent on kernels that let it.
const TYPING: &str = "/proc/sys/dev/tty/legacy_tiocsti";

/// What a cell for this agent is to be like. `plan` is that of `file`, before `run` makes it private.
pub(super) fn outline(
    (plan, file): (&Plan, &Path),
    services: &[ServiceName],
    private: &Path,
) -> Outline {
    let own = |service: &&crate::policy::ServiceSettings| services.contains(&service.name);
    let of_services = plan.policy.services.iter().filter(own).map(|s| s.port);
    let tunnels = plan.policy.tunnel.iter().map(|tunnel| tunnel.port());
    let mut ports: BTreeSet<u16> = PORTS
        .into_iter()
        .chain(of_services)
        .chain(tunnels)
        .collect();
    // Names are asked for there. Clients that know of the proxy reach such a service.
    ports.remove(&53);
    let here = std::env::current_dir().ok();
    let kept = here.into_iter().chain([private.to_owned()]);
    let home = config::environment().home();
    let searched = home
        .iter()
        .flat_map(|home| [home.clone(), home.join(".ssh"), home.join(".gnupg")]);
    Outline {
        // It says what the command may do: next time as well.
        fixed: vec![absolute(file.to_owned()).into()],
        searched: searched.map(OsString::from).collect(),
        ports: ports.into_iter().collect(),
        hidden: hidden(plan).into_iter().map(OsString::from).collect(),
        kept: kept.map(OsString::from).collect(),
    }
}

/// Everything that belongs to tokenward and not to the command.
fn hidden(plan: &Plan) -> BTreeSet<PathBuf> {
    let mut hidden: BTreeSet<PathBuf> = plan.secret_files.iter().cloned().collect();
    hidden.extend(config::environment().state_dir());
    // What other agents are given.
    hidden.insert(plan.runtime_dir.join("agents"));
    if let CaPlan::Dir(dir) = &plan.ca {
        hidden.insert(dir.clone());
    }
    if let StorePlan::File { path, .. } = &plan.store {
        hidden.extend(with_companions(path));
    }
    if let Some(AdminAt::Unix(path)) = plan.admin.as_ref().map(|admin| &admin.at) {
        hidden.insert(path.clone());
        hidden.extend(
            path.parent()
                .filter(|folder| is_dedicated(folder))
                .map(Path::to_owned),
        );
    }
    if let SinkSettings::File(path) = &plan.audit.sink {
        hidden.insert(path.clone());
    }
    hidden.into_iter().map(absolute).collect()
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

/// A file that is replaced with each write, and what stands beside it: its folder, where that is for it alone.
fn with_companions(path: &Path) -> Vec<PathBuf> {
    let folder = path.parent().filter(|folder| is_dedicated(folder));
    if let Some(folder) = folder {
        return vec![folder.to_owned()];
    }
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    vec![path.to_owned(), beside(".new"), beside(".room")]
}

/// Whether a folder can be covered as a whole: it is this user's alone, or will be made so, and the command does not start in
/// it.
fn is_dedicated(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(real) = fs::canonicalize(folder) else {
        return !folder.exists();
    };
    let closed = fs::metadata(&real).is_ok_and(|found| found.mode() & 0o077 == 0);
    let home = config::environment().home();
    let holds = |place: Option<PathBuf>| place.is_some_and(|place| place.starts_with(&real));
    closed && !holds(std::env::current_dir().ok()) && !holds(home)
}

/// What stands around the command.
pub(super) enum Walls {
    Nothing,
    Cell(Cell),
    Fence(Outline),
}

/// Makes a cell, and what the proxy serves in it; or says that a fence must do.
pub(super) fn build(
    outline: Outline,
    agent: &AgentName,
    forced: Option<Isolation>,
) -> Result<(Walls, Option<Inlets>), Failure> {
    if forced == Some(Isolation::Landlock) {
        say_weaker("as you wished");
        return Ok((Walls::Fence(outline), None));
    }
    match Cell::build(&outline) {
        Ok((cell, sockets)) => {
            let inlets = Inlets {
                agent: agent.clone(),
                proxy: sockets.proxy,
                doors: sockets.doors,
                names: NameSockets {
                    tcp: sockets.names_tcp,
                    udp: sockets.names_udp,
                },
            };
            Ok((Walls::Cell(cell), Some(inlets)))
        }
        Err(error @ CellError::Forbidden { .. }) if forced.is_none() => {
            say_weaker(&error.to_string());
            Ok((Walls::Fence(outline), None))
        }
        Err(error) => Err(Failure(format!("--isolate: {error}; nothing was started"))),
    }
}

fn say_weaker(why: &str) {
    out::say(&format!(
        "tokenward: --isolate: {why}. Landlock is used instead, and it is WEAKER: the command can connect over TCP to the \
         proxy's port alone, but to that port of any host; before Linux 7.2 it can send UDP, and so ask for names; before 7.1 \
         it can use every unix socket that you can, your session's among them"
    ));
}

/// What is to be run.
pub(super) fn order(
    command: &[OsString],
    environment: Vec<(OsString, OsString)>,
) -> Result<Order, Failure> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| Failure("a command is needed".into()))?;
    Ok(Order {
        program: program.clone(),
        arguments: arguments.to_vec(),
        environment,
        directory: std::env::current_dir().map_err(Failure::of)?.into(),
        apart: may_type(),
    })
}

/// Runs the command behind a fence, to its end.
pub(super) async fn fenced(
    outline: &Outline,
    port: u16,
    order: Order,
    signals: Signals,
) -> Result<u8, Failure> {
    let apart = order.apart;
    match isolation::fence(outline, port, order).await {
        Ok(Fenced::Runs(child)) => run::wait(child, signals, apart).await,
        Ok(Fenced::Not { why, code }) => {
            out::say(&format!("tokenward: {why}"));
            Ok(code)
        }
        Err(error) => Err(Failure(format!("--isolate: {error}"))),
    }
}

/// Runs the command in its cell, to its end.
pub(super) async fn supervise(
    cell: Cell,
    command: &[OsString],
    environment: Vec<(OsString, OsString)>,
    mut signals: Signals,
) -> Result<u8, Failure> {
    let order = order(command, environment)?;
    let apart = order.apart;
    let started = tokio::task::spawn_blocking(move || cell.start(&order));
    match started.await.map_err(Failure::of)?.map_err(Failure::of)? {
        Started::Not { why, code } => {
            out::say(&format!("tokenward: {why}"));
            Ok(code)
        }
        Started::Runs { inmate, own_proc } => {
            if !own_proc {
                tracing::warn!(
                    "the command sees the names of processes outside its cell: this system refuses it a /proc of its own"
                );
            }
            wait(inmate, apart, &mut signals).await
        }
    }
}

async fn wait(mut inmate: Inmate, apart: bool, signals: &mut Signals) -> Result<u8, Failure> {
    loop {
        let signal = tokio::select! {
            status = inmate.wait() => {
                let status = status.map_err(Failure::of)?;
                let code = status.code().or_else(|| status.signal().map(|n| 128 + n));
                return Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED));
            }
            _ = signals.interrupt.recv() => apart.then_some(Signal::INT),
            _ = signals.terminate.recv() => Some(Signal::TERM),
        };
        // A terminal tells the command itself, unless it was taken away from it.
        if let Some(signal) = signal
            && let Err(error) = inmate.signal(signal)
        {
            tracing::warn!(%error, "a signal could not be passed on");
        }
    }
}

/// Whether a program could type into our terminal, for the shell to run when we have ended.
fn may_type() -> bool {
    let terminal =
        io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal();
    let forbidden = fs::read_to_string(TYPING).is_ok_and(|text| text.trim() == "0");
    terminal && !forbidden
}
