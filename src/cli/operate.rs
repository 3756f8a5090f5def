//! Speaks to the running proxy over its admin socket: one call, one answer.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::Value;

use super::Failure;
use super::args::Args;
use super::serve::{config_path, plan_without_secrets};
use crate::config::{self, AdminPlan, Plan};

/// Largest answer.
const ANSWER_MAX: u64 = 4 * 1024 * 1024;
/// Longest wait for an answer: a little more than a login may take.
const TIMEOUT: Duration = Duration::from_secs(660);

/// Where the operator's socket of this configuration is: what the file says, else a place in the state directory that
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
        path: state.join("admin").join(format!("{name}.sock")),
        required: false,
    }))
}

/// The socket of a running proxy.
pub(super) struct Operator {
    path: PathBuf,
}

/// An answer of the proxy.
pub(super) struct Reply {
    status: u16,
    /// What it says.
    pub(super) body: Value,
}

impl Operator {
    /// The proxy that runs with this configuration; `None` where none does.
    pub(super) fn find(args: &Args, plan: &Plan) -> Result<Option<Self>, Failure> {
        Self::at(place(args, plan)?)
    }

    fn at(place: Option<AdminPlan>) -> Result<Option<Self>, Failure> {
        let Some(place) = place else {
            return Ok(None);
        };
        match connect(&place.path) {
            Ok(_) => Ok(Some(Self { path: place.path })),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(Failure(format!("{}: {error}", place.path.display()))),
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
        let asked = self.ask(method, target, body);
        let text = asked.map_err(|e| Failure(format!("{}: {e}", self.path.display())))?;
        let odd = || {
            Failure(format!(
                "{}: not the answer of a proxy",
                self.path.display()
            ))
        };
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(odd)?;
        let status = head.split_ascii_whitespace().nth(1);
        let status = status.and_then(|s| s.parse().ok()).ok_or_else(odd)?;
        let body = serde_json::from_str(body).map_err(|_| odd())?;
        let reply = Reply { status, body };
        if reply.status >= 400 {
            let what = reply.body["error"]["message"].as_str();
            return Err(Failure(what.unwrap_or("the proxy refused").to_owned()));
        }
        Ok(reply)
    }

    fn ask(&self, method: &str, target: &str, body: Option<&Value>) -> io::Result<String> {
        let mut stream = connect(&self.path)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let body = body.map(ToString::to_string).unwrap_or_default();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut text = String::new();
        stream.take(ANSWER_MAX).read_to_string(&mut text)?;
        Ok(text)
    }
}

/// A socket that somebody else made would be told what we want, and could show us a URL of theirs.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let found = fs::symlink_metadata(path)?;
    if found.uid() != 0 && found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    UnixStream::connect(path)
}
