//! Finds the running proxy's admin API and speaks to it: one call, one answer.

use std::fs;
use std::io;
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;

use super::Failure;
use super::args::Args;
use super::serve::{config_path, plan_without_secrets};
use crate::admin::{Caller, Reach};
use crate::config::{self, AdminAt, AdminPlan, Plan, SecretReading};

/// Where the admin API of this configuration is: what the file says, else a place in the state directory that
/// belongs to this file, so that two proxies of one user do not meet. `None` where there is no state directory.
pub(super) fn place(args: &Args, plan: &Plan) -> Result<Option<AdminPlan>, Failure> {
    if let Some(given) = &plan.admin {
        return Ok(Some(given.clone()));
    }
    usual_place(args)
}

fn usual_place(args: &Args) -> Result<Option<AdminPlan>, Failure> {
    let Some(state) = config::environment().state_dir() else {
        return Ok(None);
    };
    // The folder may be named in several ways. What the file itself is a link to may change while the proxy runs.
    let file = config_path(args)?;
    let name = file.file_name().unwrap_or_default().to_owned();
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = fs::canonicalize(folder.unwrap_or_else(|| Path::new(".")));
    let file = folder.map_or(file, |folder| folder.join(name));
    let name = digest(&SHA256, file.as_os_str().as_encoded_bytes());
    let name: String = name
        .as_ref()
        .iter()
        .take(8)
        .map(|b| format!("{b:02x}"))
        .collect();
    Ok(Some(AdminPlan {
        at: AdminAt::Unix(state.join("admin").join(format!("{name}.sock"))),
        token: None,
        tls: None,
        required: false,
    }))
}

/// The admin API of a running proxy.
pub(super) struct Operator {
    caller: Caller,
    /// Where it is, for people.
    place: String,
}

/// An answer of the proxy.
pub(super) struct Reply {
    /// What it says.
    pub(super) body: Value,
}

impl Operator {
    /// The proxy that runs with this configuration; `None` where none does.
    pub(super) fn find(args: &Args, plan: &Plan) -> Result<Option<Self>, Failure> {
        let mut found = place(args, plan)?;
        if found
            .as_ref()
            .is_some_and(|at| at.token.is_some() || at.tls.is_some())
        {
            let path = config_path(args)?;
            let again = config::load(&path, SecretReading::Operator).map_err(Failure::of)?;
            found = place(args, &again)?;
        }
        Self::at(found)
    }

    fn at(found: Option<AdminPlan>) -> Result<Option<Self>, Failure> {
        let Some(found) = found else {
            return Ok(None);
        };
        let place = match &found.at {
            AdminAt::Tcp(address) => address.to_string(),
            AdminAt::Unix(path) => path.display().to_string(),
        };
        let to = match found.at {
            AdminAt::Tcp(address) => Reach::Tcp(address, found.tls.map(|tls| tls.cert_pem)),
            AdminAt::Unix(path) => Reach::Unix(path),
        };
        let token = found.token;
        let it = Self {
            caller: Caller { to, token },
            place,
        };
        match it.caller.is_there() {
            Ok(there) => Ok(there.then_some(it)),
            Err(error) => Err(it.failed(&error)),
        }
    }

    /// The same, where nothing can be done without it.
    pub(super) fn need(args: &Args, plan: &Plan) -> Result<Self, Failure> {
        Self::find(args, plan)?.ok_or_else(|| {
            Failure(
                "no proxy runs with this configuration (`tokenward serve`), or it has another admin socket".into(),
            )
        })
    }

    /// The same, also where the file is broken just now: the proxy runs on with the one before, and an incident does not
    /// wait. Found then where the socket is unless the file says otherwise.
    pub(super) fn need_whatever_the_file(args: &Args) -> Result<Self, Failure> {
        match plan_without_secrets(args) {
            Ok(plan) => Self::need(args, &plan),
            Err(broken) => Self::at(usual_place(args)?)?.ok_or(broken),
        }
    }

    /// One call.
    pub(super) fn call(
        &self,
        method: &str,
        target: &str,
        body: Option<&Value>,
    ) -> Result<Reply, Failure> {
        let answered = self.caller.call(method, target, body);
        let answered = answered.map_err(|error| self.failed(&error))?;
        if answered.status >= 400 {
            return Err(refused(&answered.body));
        }
        Ok(Reply {
            body: answered.body,
        })
    }

    /// Follows a stream of events until `each` says no or the proxy ends.
    pub(super) fn follow(
        &self,
        target: &str,
        each: impl FnMut(&str, &str) -> bool,
    ) -> Result<(), Failure> {
        match self.caller.follow(target, each) {
            Ok(None) => Ok(()),
            Ok(Some(answered)) => Err(refused(&answered.body)),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &io::Error) -> Failure {
        let place = &self.place;
        if error.kind() == io::ErrorKind::InvalidData {
            Failure(format!("{place}: not the answer of a proxy ({error})"))
        } else {
            Failure(format!("{place}: {error}"))
        }
    }
}

/// What the proxy said instead of doing it.
fn refused(problem: &Value) -> Failure {
    let what = problem["detail"].as_str();
    Failure(what.unwrap_or("the proxy refused").to_owned())
}
