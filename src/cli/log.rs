//! Logs on standard error: for people on a terminal, JSON elsewhere. Messages are fixed texts; values are fields.

use tracing_subscriber::EnvFilter;

use super::args::{Args, Verb};
use super::out;
use crate::config;

/// Starts logging. `--log` wins over the environment; `run` and `demo` are quiet unless asked.
pub(super) fn start(args: &Args) {
    let quiet = !matches!(args.verb, Verb::Serve);
    let default = if quiet { "warn" } else { "info" };
    let wanted = args
        .log
        .clone()
        .or_else(|| config::environment().log_filter());
    let filter = wanted
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = if out::person_reads() && !args.json {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    if started.is_err() {
        out::say("tokenward: logging is set up already");
    }
}
