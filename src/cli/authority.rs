//! `ca init|show|bundle`: only certificates are ever printed.

use std::process::ExitCode;

use serde_json::json;

use super::args::{Args, CaInit};
use super::serve::{config_path, plan_without_secrets};
use super::{Failure, out};
use crate::app;
use crate::ca::{self, CaError, NameConstraints, Permitted, Root};
use crate::config::{CaPlan, Plan};
use crate::vocab::{Clock, Host};

pub(super) fn init(args: &Args, wish: &CaInit) -> Result<ExitCode, Failure> {
    // With a directory and no constraints, or constraints of its own, there is nothing that a file has to say.
    let free = wish.dir.is_some() && (wish.unconstrained || !wish.permit.is_empty());
    let plan = match config_path(args) {
        Err(_) if free => None,
        _ => Some(plan_without_secrets(args)?),
    };
    let configured = match (&wish.dir, &plan) {
        (Some(dir), _) => CaPlan::Dir(dir.clone()),
        (None, Some(plan)) => plan.ca.clone(),
        (None, None) => CaPlan::Memory,
    };
    let CaPlan::Dir(dir) = configured else {
        return Err(Failure(
            "the configuration keeps no CA directory; write `ca: {dir: PATH}`, or name one with --dir".into(),
        ));
    };
    let permitted = if wish.unconstrained {
        Permitted::Everything
    } else {
        named(plan.as_ref(), &wish.permit)?
    };
    let root = Root::generate(&Clock::system(), &permitted).map_err(Failure::of)?;
    if wish.force {
        root.replace(&dir).map_err(Failure::of)?;
    } else {
        root.save(&dir).map_err(|error| match error {
            CaError::Exists { .. } => Failure(format!(
                "{error}; `--force` replaces the CA, and agents then need the new certificate"
            )),
            other => Failure::of(other),
        })?;
    }
    ca::load_or_create_instance_key(&dir).map_err(Failure::of)?;
    out::say(&format!(
        "a new CA is in {}; give agents its certificate, never ca.key",
        dir.display()
    ));
    say_constraints(root.constraints());
    out::data(&root.certificate_pem());
    Ok(ExitCode::SUCCESS)
}

/// The hosts of the configuration, and what was named beside them.
fn named(plan: Option<&Plan>, more: &[String]) -> Result<Permitted, Failure> {
    let mut hosts = match plan.map(|plan| app::permitted(&plan.policy)) {
        Some(Permitted::Only(hosts)) => hosts,
        _ => Vec::new(),
    };
    for name in more {
        let host = Host::parse(name).map_err(|error| {
            Failure(format!(
                "--permit {name:?}: {error}; write a name such as api.example"
            ))
        })?;
        hosts.push(host);
    }
    Ok(Permitted::Only(hosts))
}

/// One line for people: what the CA can sign for.
fn say_constraints(constraints: &NameConstraints) {
    let (permitted, excluded) = constraints.subtrees();
    out::say(&if constraints.is_empty() {
        "name constraints: none; its key can sign for every host".to_owned()
    } else {
        let list = |all: Vec<String>| {
            if all.is_empty() {
                "nothing".to_owned()
            } else {
                all.join(", ")
            }
        };
        format!(
            "name constraints: permitted {}; excluded {}",
            list(permitted),
            list(excluded)
        )
    });
}

pub(super) fn show(args: &Args) -> Result<ExitCode, Failure> {
    let pem = certificate(args)?;
    let constraints = NameConstraints::of_pem(pem.as_bytes()).map_err(Failure::of)?;
    if args.json {
        let (permitted, excluded) = constraints.subtrees();
        let constraints = (!constraints.is_empty())
            .then(|| json!({ "permitted": permitted, "excluded": excluded }));
        let text = json!({ "certificate": pem, "name_constraints": constraints });
        out::data(&format!("{text:#}\n"));
    } else {
        say_constraints(&constraints);
        out::data(&pem);
    }
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
        CaPlan::Given { cert_pem, .. } if cert_pem.is_empty() => {
            Err(Failure("the file of `ca.cert` cannot be read".into()))
        }
        CaPlan::Given { cert_pem, .. } => Ok(String::from_utf8_lossy(cert_pem).into_owned()),
        CaPlan::Memory => std::fs::read_to_string(plan.runtime_dir.join("ca.pem")).map_err(|_| {
            Failure("the CA lives in the memory of `serve`, which is not running; write `ca: {dir: PATH}` to keep one".into())
        }),
    }
}
