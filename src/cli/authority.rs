//! `ca init|show|bundle`: only certificates are ever printed.

use std::path::Path;
use std::process::ExitCode;

use super::args::Args;
use super::serve::plan_without_secrets;
use super::{Failure, out};
use crate::ca::{self, Root};
use crate::config::CaPlan;
use crate::vocab::Clock;

pub(super) fn init(args: &Args, dir: Option<&Path>) -> Result<ExitCode, Failure> {
    let configured = match dir {
        Some(dir) => CaPlan::Dir(dir.to_path_buf()),
        None => plan_without_secrets(args)?.ca,
    };
    let CaPlan::Dir(dir) = configured else {
        return Err(Failure(
            "the configuration keeps no CA directory; write `ca: {dir: PATH}`, or name one with --dir".into(),
        ));
    };
    let root = Root::generate(&Clock::system(), &[]).map_err(Failure::of)?;
    root.save(&dir).map_err(Failure::of)?;
    ca::load_or_create_instance_key(&dir).map_err(Failure::of)?;
    out::say(&format!(
        "a new CA is in {}; give agents its certificate, never ca.key",
        dir.display()
    ));
    out::data(&root.certificate_pem());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn show(args: &Args) -> Result<ExitCode, Failure> {
    out::data(&certificate(args)?);
    Ok(ExitCode::SUCCESS)
}

pub(super) fn bundle(args: &Args) -> Result<ExitCode, Failure> {
    let ours = certificate(args)?;
    let roots = crate::upstream::Roots::system(&[]).map_err(Failure::of)?;
    let system = roots
        .bundle()
        .map(std::fs::read_to_string)
        .transpose()
        .map_err(Failure::of)?;
    out::data(&(system.unwrap_or_default() + &ours));
    Ok(ExitCode::SUCCESS)
}

/// The certificate in use: from the directory, the configured file, or what a running `serve` has made public.
fn certificate(args: &Args) -> Result<String, Failure> {
    let plan = plan_without_secrets(args)?;
    match &plan.ca {
        CaPlan::Dir(dir) => Root::load(dir).map(|root| root.certificate_pem()).map_err(Failure::of),
        CaPlan::Given { cert_pem, .. } => Ok(String::from_utf8_lossy(cert_pem).into_owned()),
        CaPlan::Memory => std::fs::read_to_string(plan.runtime_dir.join("ca.pem")).map_err(|_| {
            Failure("the CA lives in the memory of `serve`, which is not running; write `ca: {dir: PATH}` to keep one".into())
        }),
    }
}
