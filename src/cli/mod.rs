//! The command line: one file a verb. Data goes to standard output, logs to standard error.
//!
//! Exit codes: 0 ok, 1 refused or failed, 2 wrong usage; `run` exits as its command does. Only here may an error be a
//! mere text: it goes to a person.

mod args;
mod audit;
mod authority;
mod check;
#[cfg(feature = "demo")]
mod demo;
mod env;
mod explain;
mod healthcheck;
mod leakcheck;
mod log;
mod login;
mod netfilter;
mod operate;
mod out;
mod revoke;
mod run;
mod schema;
mod serve;
mod status;
mod terminal;

use std::panic::PanicHookInfo;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, AuditVerb, CaVerb, Verb};

use crate::vocab::danger;
#[cfg(feature = "variants")]
use crate::vocab::variant;

/// Why a verb failed: one message for a person.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failure(String);

impl Failure {
    fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// Breaks this process in the way that the environment names, and says so whether or not anybody reads logs.
#[cfg(feature = "variants")]
fn break_process() -> Result<(), Failure> {
    let wanted = crate::config::environment().variant();
    let chosen = wanted.map(|name| variant::choose(&name)).transpose();
    let how = match chosen.map_err(Failure::of)? {
        Some(variant) => format!("this process is broken on purpose ({variant:?})"),
        None => "nothing is broken so far".to_owned(),
    };
    out::say(&format!(
        "tokenward: WARNING: built with broken variants, for tests only; {how}"
    ));
    Ok(())
}

/// Says what is wrong with the command line; `--help` and `--version` arrive here too, and are no errors.
fn usage(error: &clap::Error) -> ExitCode {
    let code = if error.use_stderr() { 2 } else { 0 };
    if error.print().is_ok() {
        ExitCode::from(code)
    } else {
        ExitCode::from(1)
    }
}

/// What a panic says: where, and nothing of what it was about, for its message may quote a request or a secret.
fn say_where(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    out::say(&format!(
        "tokenward: PANIC at {}; what it was about is not told, it may be a secret",
        place.as_deref().unwrap_or("a place unknown")
    ));
}

/// Parses the command line and does what it says.
#[must_use]
pub fn run() -> ExitCode {
    std::panic::set_hook(Box::new(say_where));
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    let log = log::start(&args);
    let code = act(&args);
    log.end();
    code
}

/// Does what the command line says.
fn act(args: &Args) -> ExitCode {
    if danger::PLAIN_HTTP {
        out::say(
            "tokenward: WARNING: built with danger-plain-http, for tests only; credentials may cross loopback in clear text",
        );
    }
    #[cfg(feature = "variants")]
    if let Err(failure) = break_process() {
        out::say(&format!("tokenward: TOKENWARD_VARIANT: {failure}"));
        return ExitCode::from(2);
    }
    let outcome = match &args.verb {
        Verb::Audit {
            verb: AuditVerb::Verify { file },
        } => audit::verify(args, file),
        Verb::Audit {
            verb:
                AuditVerb::Tail {
                    agent,
                    service,
                    decision,
                },
        } => audit::tail(args, agent.as_deref(), service.as_deref(), *decision),
        Verb::Ca {
            verb: CaVerb::Init(wish),
        } => authority::init(args, wish),
        Verb::Ca { verb: CaVerb::Show } => authority::show(args),
        Verb::Ca {
            verb: CaVerb::Bundle,
        } => authority::bundle(args),
        Verb::Check => check::check(args),
        #[cfg(feature = "demo")]
        Verb::Demo { sabotage } => demo::demo(args, *sabotage),
        Verb::Env { agent, format } => env::env(args, agent.as_deref(), *format),
        Verb::Explain { method, url, agent } => {
            explain::explain(args, method, url, agent.as_deref())
        }
        Verb::Healthcheck => healthcheck::healthcheck(args),
        Verb::Leakcheck(wish) => leakcheck::leakcheck(args, wish),
        Verb::Login(wish) => login::login(args, wish),
        Verb::Netfilter { verb } => netfilter::netfilter(args, verb),
        Verb::Reload => revoke::reload(args),
        Verb::Revoke(wish) => revoke::revoke(args, wish),
        Verb::Rotate { service, agent } => {
            status::rotate(args, service.as_deref(), agent.as_deref())
        }
        Verb::Run { agent, command } => return run::run(args, agent.as_deref(), command),
        Verb::Schema => schema::schema(),
        Verb::Serve => serve::serve(args),
        Verb::Status => status::status(args),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            out::say(&format!("tokenward: {failure}"));
            ExitCode::from(1)
        }
    }
}
