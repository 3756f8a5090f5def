//! A fence: what is left where the system allows no namespaces. Landlock (landlock(7)) lets the command connect over TCP to the
//! proxy's port alone, and open no file that is hidden.
//!
//! It is weaker than a cell, and whoever uses it says so. Only the port is compared, so the same port of another host is
//! reached too; UDP, and with it names, and unix sockets are filtered by newer kernels only. Landlock
//! knows no exceptions below a folder, so of each folder above a hidden path the other entries are allowed one by one: a file
//! that is made there later can be written and not read.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError,
    Scope,
};
use serde::{Deserialize, Serialize};

use super::channel;
use super::first::{Report, not_started};
use super::outside::Order;
use super::privileges;
use super::wall::FAILED;

/// Most rules; each is a walk of one path.
const RULES_MAX: usize = 65_536;

/// What a fence is to be like.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Fence {
    /// The port that can be connected to.
    pub(super) port: u16,
    pub(super) hidden: Vec<std::ffi::OsString>,
    pub(super) order: Order,
}

/// Builds the fence around this process, which becomes the command.
pub(super) fn run() -> ExitCode {
    ExitCode::from(become_command().unwrap_or(FAILED))
}

fn become_command() -> io::Result<u8> {
    let channel = super::wall::channel()?;
    let (fence, mut descriptors): (Fence, Vec<OwnedFd>) = channel::receive(&channel)?;
    let input = descriptors.pop().ok_or(io::ErrorKind::InvalidData)?;
    let refused = |channel: &UnixStream, why: String, code: u8| {
        channel::send(channel, &Report::NotStarted { why, code }, &[])?;
        Ok(code)
    };
    if let Err(why) = build(&fence) {
        return refused(&channel, why, FAILED);
    }
    let order = fence.order;
    let environment = order.environment.iter().map(|(name, value)| (name, value));
    // Whoever waits sees the end of the channel when this has succeeded.
    let error = Command::new(&order.program)
        .args(&order.arguments)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::from(input))
        .exec();
    let (why, code) = not_started(&order.program, &error);
    refused(&channel, why, code)
}

fn build(fence: &Fence) -> Result<(), String> {
    privileges::bind_to_parent().map_err(|e| e.to_string())?;
    if fence.order.apart {
        rustix::process::setsid().map_err(|e| e.to_string())?;
    }
    let hidden = fence.hidden.iter().map(Path::new).filter_map(real);
    let mut open = Vec::new();
    allow(Path::new("/"), &hidden.collect(), &mut open);
    if open.len() > RULES_MAX {
        return Err("the folders beside hidden files have more than 65536 entries".into());
    }
    restrict(fence.port, &open).map_err(|error| {
        format!("Landlock does not do it (it takes Linux 6.7 or newer with Landlock enabled: `lsm=landlock,…`): {error}")
    })?;
    // Ambient capabilities of a caller who has some would be a way around.
    privileges::drop_held().map_err(|e| format!("dropping capabilities: {e}"))
}

/// The whole path of something that is there, or that may come.
fn real(path: &Path) -> Option<PathBuf> {
    if let Ok(real) = fs::canonicalize(path) {
        return Some(real);
    }
    let folder = fs::canonicalize(path.parent()?).ok()?;
    Some(folder.join(path.file_name()?))
}

/// Gathers what may be read: everything but what is hidden, with as few paths as that takes.
fn allow(path: &Path, hidden: &BTreeSet<PathBuf>, open: &mut Vec<PathBuf>) {
    if hidden.contains(path) || open.len() > RULES_MAX {
        return;
    }
    if !hidden.iter().any(|hidden| hidden.starts_with(path)) {
        return open.push(path.to_owned());
    }
    // What cannot be listed holds nothing that we could allow.
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries {
        // A link is judged by where it leads.
        if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
            allow(&entry.path(), hidden, open);
        }
    }
}

fn restrict(port: u16, open: &[PathBuf]) -> Result<(), RulesetError> {
    // To carry a file to another folder is to be allowed as long as nothing becomes readable by it.
    let files = AccessFs::ReadFile | AccessFs::Refer;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessNet::ConnectTcp)?
        .handle_access(files)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessNet::ConnectSendUdp)?
        .handle_access(AccessFs::ResolveUnix)?
        .scope(Scope::from_all(ABI::V6))?
        .create()?
        .set_compatibility(CompatLevel::HardRequirement)
        .add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
    let ruleset = open.iter().try_fold(ruleset, |ruleset, path| {
        permit(ruleset, path, AccessFs::ReadFile)
    })?;
    permit(ruleset, Path::new("/"), AccessFs::Refer)?.restrict_self()?;
    Ok(())
}

/// What has gone meanwhile needs no permission.
fn permit(
    ruleset: RulesetCreated,
    path: &Path,
    access: AccessFs,
) -> Result<RulesetCreated, RulesetError> {
    match PathFd::new(path) {
        Ok(found) => ruleset.add_rule(PathBeneath::new(found, access)),
        Err(_) => Ok(ruleset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_beside_what_is_hidden_is_allowed() {
        let dir = tempfile::TempDir::new().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        for path in ["a/b", "a/c", "d"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["a/b/secret", "a/b/other", "a/c/file", "top"] {
            fs::write(root.join(path), "").unwrap();
        }
        std::os::unix::fs::symlink("b/secret", root.join("a/link")).unwrap();
        let hidden = [root.join("a/b/secret"), root.join("d"), root.join("later")];
        let mut open = Vec::new();
        allow(&root, &hidden.into_iter().collect(), &mut open);
        open.sort();
        let expected = ["a/b/other", "a/c", "top"].map(|path| root.join(path));
        assert_eq!(open, expected);
        assert_eq!(real(&root.join("a/link")), Some(root.join("a/b/secret")));
        assert_eq!(real(&root.join("later")), Some(root.join("later")));
        assert_eq!(real(&root.join("no/where")), None);
    }
}
