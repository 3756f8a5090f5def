//! The rules on this machine: programs of the system are called, with an empty environment and a bounded wait, and asked
//! afterwards what stands.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::legacy::{self, Family};
use super::{Ground, MARK, TABLE, nft};

/// Where programs are looked for, in this order. `PATH` may be anybody's.
const FOLDERS: [&str; 5] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"];
/// How long one program may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Rules of the same kind that `ip rule` may have piled up.
const RULES_MAX: usize = 8;

/// Why the rules are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum NetfilterError {
    /// A program is not there.
    #[error("the program {0} was not found; {1}")]
    Absent(&'static str, &'static str),
    /// A program did what it could.
    #[error("{0} failed: {1}")]
    Failed(&'static str, String),
    /// Rules are a matter of the network's administrator.
    #[error(
        "{0}: not permitted; changing rules takes CAP_NET_ADMIN in this network namespace: run this as root, or in a container that has that capability"
    )]
    NotPermitted(&'static str),
    /// A program did not end.
    #[error("{0} did not end within 10 seconds and was stopped")]
    Slow(&'static str),
    /// The check afterwards.
    #[error("{0} is not covered by what stands now; nothing may start behind these rules")]
    Uncovered(&'static str),
}

/// What stands after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// What was asked.
    pub by: &'static str,
    /// The families that are covered.
    pub families: Vec<&'static str>,
}

/// The resolvers of this machine, without those that a rule cannot name.
#[must_use]
pub fn resolvers() -> Vec<IpAddr> {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    named_in(&text)
}

fn named_in(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    // An address with a zone (fe80::1%eth0) is no address to the parser: it stays rejected.
    lines.filter_map(|word| word.parse().ok()).collect()
}

/// Puts the rules in the place of what was there, and looks whether they stand. What fails before the last step leaves what was.
///
/// # Errors
/// [`NetfilterError`].
pub async fn apply(ground: &Ground, legacy: bool) -> Result<Seen, NetfilterError> {
    if ground.tproxy() {
        lead_marked().await?;
    }
    if legacy {
        return apply_legacy(ground).await;
    }
    run("nft", &["-f", "-"], &ground.nft()).await?;
    let stands = run("nft", &["list", "table", "inet", TABLE], "").await?;
    let families = covered(&stands, ground)?;
    Ok(Seen {
        by: "nft list table inet tokenward",
        families,
    })
}

/// The families that a listing covers: both have to be, by a rule that leads to their listener or by the one that rejects.
pub(super) fn covered(listing: &str, ground: &Ground) -> Result<Vec<&'static str>, NetfilterError> {
    let lines: Vec<&str> = listing.lines().map(str::trim).collect();
    // Without a family the last rule is for both, and nft prints `reject` alone where the reason is the default.
    let rejects = lines.iter().any(|line| {
        let bare = line.starts_with("counter") || line.starts_with("iifname");
        bare && line.ends_with("reject") && !line.contains("port")
    });
    let mut families = Vec::new();
    for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let led = ground.listener(family).is_none_or(|listener| {
            let (nfproto, port) = (family.nfproto(), format!(":{}", listener.port()));
            let leads = |line: &&&str| line.contains("redirect to") || line.contains("tproxy ");
            let mut leading = lines.iter().filter(leads);
            leading.any(|line| {
                let mut words = line.split_whitespace();
                line.contains(nfproto) && words.any(|word| word.ends_with(&port))
            })
        });
        if !rejects || !led {
            return Err(NetfilterError::Uncovered(name));
        }
        families.push(name);
    }
    Ok(families)
}

async fn apply_legacy(ground: &Ground) -> Result<Seen, NetfilterError> {
    // IPv6 first: should it fail, IPv4 is still as it was.
    for family in [Family::V6, Family::V4] {
        let saved = save(family).await?;
        let text = ground.legacy(family, &saved);
        run(restore(family), &["--noflush", "-w", "5"], &text).await?;
    }
    let mut families = Vec::new();
    for (family, name) in [(Family::V4, "IPv4"), (Family::V6, "IPv6")] {
        let saved = save(family).await?;
        for ((_, hook, chain), _) in legacy::chains(ground, family) {
            if !legacy::is_told(&saved, hook, chain) {
                return Err(NetfilterError::Uncovered(name));
            }
        }
        families.push(name);
    }
    Ok(Seen {
        by: "iptables-save and ip6tables-save",
        families,
    })
}

/// Takes the rules away, and nothing else. Where there are none it does nothing.
///
/// # Errors
/// [`NetfilterError`].
pub async fn remove(legacy: bool, tproxy: bool) -> Result<(), NetfilterError> {
    if legacy {
        for family in [Family::V4, Family::V6] {
            let saved = save(family).await?;
            for table in ["nat", "mangle", "filter"] {
                if let Some(text) = legacy::removal(&saved, table) {
                    run(restore(family), &["--noflush", "-w", "5"], &text).await?;
                }
            }
        }
    } else {
        run("nft", &["-f", "-"], &nft::removal()).await?;
    }
    if tproxy {
        forget_marked().await?;
    }
    Ok(())
}

/// Routes marked packets to this machine. A rule that is there already stays alone.
async fn lead_marked() -> Result<(), NetfilterError> {
    for words in nft::routes() {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words[1] == "rule" && has_rule(words[0]).await? {
            continue;
        }
        run("ip", &words, "").await?;
    }
    Ok(())
}

async fn forget_marked() -> Result<(), NetfilterError> {
    let (mark, table) = (format!("{MARK:#x}"), MARK.to_string());
    for family in ["-4", "-6"] {
        for _ in 0..RULES_MAX {
            if !has_rule(family).await? {
                break;
            }
            let words = [family, "rule", "del", "fwmark", &mark, "lookup", &table];
            run("ip", &words, "").await?;
        }
        let routes = run("ip", &[family, "route", "show", "table", &table], "").await;
        // There is no such table where there is no route in it.
        if routes.is_ok_and(|routes| !routes.trim().is_empty()) {
            run("ip", &[family, "route", "flush", "table", &table], "").await?;
        }
    }
    Ok(())
}

async fn has_rule(family: &str) -> Result<bool, NetfilterError> {
    let rules = run("ip", &[family, "rule", "show"], "").await?;
    let (mark, table) = (format!("fwmark {MARK:#x}"), format!("lookup {MARK}"));
    let ours = |line: &str| line.contains(&mark) && line.contains(&table);
    Ok(rules.lines().any(ours))
}

async fn save(family: Family) -> Result<String, NetfilterError> {
    let program = match family {
        Family::V4 => "iptables-save",
        Family::V6 => "ip6tables-save",
    };
    run(program, &[], "").await
}

fn restore(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    }
}

/// Runs one program to its end; what it printed.
async fn run(program: &'static str, words: &[&str], input: &str) -> Result<String, NetfilterError> {
    let path = find(program).ok_or_else(|| NetfilterError::Absent(program, remedy(program)))?;
    let failed = |error: std::io::Error| NetfilterError::Failed(program, error.to_string());
    let mut child = Command::new(path)
        .args(words)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let stdin = child.stdin.take();
    let work = async {
        if let Some(mut stdin) = stdin
            && let Err(error) = stdin.write_all(input.as_bytes()).await
        {
            // It has gone without reading; its own words say why.
            tracing::debug!(%error, program, "the program did not read its input");
        }
        child.wait_with_output().await
    };
    let ended = timeout(PATIENCE, work).await;
    let output = ended
        .map_err(|_| NetfilterError::Slow(program))?
        .map_err(failed)?;
    judge(program, &output)
}

fn judge(program: &'static str, output: &Output) -> Result<String, NetfilterError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let denied = [
        "Operation not permitted",
        "Permission denied",
        "you must be root",
    ];
    if denied.iter().any(|words| said.contains(words)) {
        return Err(NetfilterError::NotPermitted(program));
    }
    let first = said.lines().find(|line| !line.trim().is_empty());
    let first: String = first
        .unwrap_or("it did not say why")
        .chars()
        .take(300)
        .collect();
    Err(NetfilterError::Failed(program, first))
}

fn find(program: &str) -> Option<PathBuf> {
    let places = FOLDERS.iter().map(|folder| Path::new(folder).join(program));
    places.into_iter().find(|path| path.is_file())
}

fn remedy(program: &str) -> &'static str {
    match program {
        "nft" => "install the package nftables, or take `--format iptables`",
        "ip" => "install the package iproute2; TPROXY needs a route for marked packets",
        _ => "install the package iptables, or take `--format nft`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_addresses() {
        let text = "# nameserver 9.9.9.9\nnameserver 10.0.0.10\nsearch a.test\nnameserver\nnameserver fe80::1%eth0\n nameserver fd00::a\n";
        let expected: [IpAddr; 2] = ["10.0.0.10".parse().unwrap(), "fd00::a".parse().unwrap()];
        assert_eq!(named_in(text), expected);
    }

    #[tokio::test]
    async fn what_is_not_there_is_named_with_its_package() {
        let failed = run("no-such-program-here", &[], "").await.unwrap_err();
        assert!(
            failed.to_string().contains("was not found; install"),
            "{failed}"
        );
    }
}
