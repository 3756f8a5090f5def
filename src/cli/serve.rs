//! `serve`: the proxy until SIGTERM or SIGINT, then the drain.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use super::args::Args;
use super::{Failure, env, operate, terminal};
use crate::app::{self, Changes, Running, Seat};
use crate::ca;
use crate::config::{self, Answers, Plan, SecretReading};
use crate::vocab::Clock;

pub(super) fn serve(args: &Args) -> Result<ExitCode, Failure> {
    close_process();
    app::raise_descriptors();
    let path = config_path(args)?;
    let mut changes = Changes::of(path.clone());
    let mut plan = config::load_asking(&path, &mut terminal::ask).map_err(Failure::of)?;
    plan.admin = operate::place(args, &plan)?;
    if let (None, Some(service)) = (&plan.admin, plan.tokens.needs_login()) {
        tracing::warn!(%service, "nobody can log in while this runs: neither XDG_STATE_HOME nor HOME is set, and there is no `admin`");
    }
    changes.beside(&plan.watched);
    for warning in &plan.warnings {
        tracing::warn!(warning = %warning, "the configuration works and deserves a second look");
    }
    data_runtime()?.block_on(async {
        let (runtime_dir, answers) = (plan.runtime_dir.clone(), plan.answers.clone());
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::of)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::of)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(Failure::of)?;
        let running = app::start(plan, Clock::system())
            .await
            .map_err(Failure::of)?;
        write_environments(running.seats(), &runtime_dir)?;
        running.open();
        tracing::info!(proxy = running.listening().join(","), "listening");
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => drop(reload(&running, &path, &answers, &mut changes).await),
                () = changes.next() => drop(reload(&running, &path, &answers, &mut changes).await),
                wish = running.reload_wish() => {
                    wish.answer(reload(&running, &path, &answers, &mut changes).await);
                }
            }
        }
        tracing::info!("draining");
        let finished = running.shut_down().await;
        tracing::info!(finished, "stopped");
        Ok(ExitCode::SUCCESS)
    })
}

/// Reads the file again and takes it into force. Whatever is wrong with it is said, and changes nothing.
async fn reload(
    running: &Running,
    path: &Path,
    answers: &Answers,
    changes: &mut Changes,
) -> Result<u64, Vec<String>> {
    let (read, answers) = (path.to_path_buf(), answers.clone());
    let read = tokio::task::spawn_blocking(move || config::load_again(&read, &answers));
    let plan = match read.await {
        Ok(Ok(plan)) => plan,
        Ok(Err(problems)) => {
            running.note_unreadable().await;
            // A line each: all in one may be longer than a line of the log can be.
            for problem in problems.iter() {
                tracing::error!(%problem, "the changed configuration is not used");
            }
            return Err(problems.to_string().lines().map(str::to_owned).collect());
        }
        Err(_) => {
            running.note_unreadable().await;
            return Err(vec![
                "reading the configuration ended in a panic".to_owned(),
            ]);
        }
    };
    for warning in &plan.warnings {
        tracing::warn!(warning = %warning, "the configuration works and deserves a second look");
    }
    let (runtime_dir, watched) = (plan.runtime_dir.clone(), plan.watched.clone());
    match running.reload(plan).await {
        Ok(done) => {
            changes.beside(&watched);
            if let Err(failure) = write_environments(&done.seats, &runtime_dir) {
                tracing::error!(error = %failure.0, "an agent's environment is that of before");
            }
            let generation = done.generation.0;
            tracing::info!(
                generation,
                ended = done.ended,
                "the configuration was taken"
            );
            Ok(generation)
        }
        Err(error) => {
            tracing::error!(%error, "the changed configuration is not used");
            Err(vec![error.to_string()])
        }
    }
}

/// Closes the process before the first secret is read.
pub(super) fn close_process() {
    let closed = app::close();
    if !(closed.not_dumpable && closed.no_core) {
        tracing::warn!(
            not_dumpable = closed.not_dumpable,
            no_core = closed.no_core,
            "the process could not be closed to others of the same user"
        );
    }
}

/// The runtime of the data wing: a thread for each processor that we may use. Its tasks never block, so on one processor a
/// second thread would only be woken for what the first is about to do.
pub(super) fn data_runtime() -> Result<Runtime, Failure> {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(Failure::of)
}

/// The file that `--config` names, or the first default that exists.
pub(super) fn config_path(args: &Args) -> Result<std::path::PathBuf, Failure> {
    if let Some(path) = &args.config {
        return Ok(path.clone());
    }
    let defaults = ["tokenward.yaml", "/etc/tokenward/tokenward.yaml"];
    let found = defaults.iter().map(Path::new).find(|path| path.exists());
    found.map(Path::to_path_buf).ok_or_else(|| {
        let first = "no configuration: neither ./tokenward.yaml nor /etc/tokenward/tokenward.yaml exists; name one \
                     with --config FILE";
        let demo = if cfg!(feature = "demo") {
            ", or see the whole job with `tokenward demo`"
        } else {
            ""
        };
        Failure(format!("{first}{demo}"))
    })
}

/// Reads the configuration without the values of its secrets.
pub(super) fn plan_without_secrets(args: &Args) -> Result<Plan, Failure> {
    config::load(&config_path(args)?, SecretReading::Skip).map_err(Failure::of)
}

/// Each agent's own folder gets its environment, readable by its owner alone.
fn write_environments(seats: &[Seat], runtime_dir: &Path) -> Result<(), Failure> {
    for seat in seats {
        let dir = ca::agent_dir(runtime_dir, &seat.agent).map_err(Failure::of)?;
        let text = env::print(&seat.environment, super::args::Format::Dotenv);
        // Written beside and renamed, so that an agent that starts now reads a whole file; `create_new` follows no link.
        let (part, whole) = (dir.join(".env.part"), dir.join("env"));
        if part.exists() {
            fs::remove_file(&part).map_err(Failure::of)?;
        }
        let written = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&part, &whole));
        written.map_err(|e| {
            Failure(format!(
                "runtime_dir: the environment of agent {} cannot be written: {e}",
                seat.agent
            ))
        })?;
    }
    Ok(())
}
