//! The room seen from its door: certificates as clients judge them, files as an operator or an attacker leaves them.

mod certificates;
mod constraints;
mod disk;
mod given;

use std::path::Path;
use std::process::Command;

use rustls_pki_types::CertificateDer;

use super::{Leaves, Root};
use crate::vocab::{Clock, Host};

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

fn leaves(root: Root, clock: &Clock) -> Leaves {
    Leaves::new(root, clock.clone(), 100).unwrap()
}

fn chain_of(leaves: &Leaves, name: &str) -> Vec<CertificateDer<'static>> {
    leaves.leaf(&host(name)).unwrap().certified.cert.clone()
}

/// Runs openssl where the machine has it; `None` where not.
fn openssl(arguments: &[&str], dir: &Path) -> Option<(bool, String)> {
    let ran = Command::new("openssl")
        .args(arguments)
        .current_dir(dir)
        .output();
    let Ok(output) = ran else {
        println!("skipped: no openssl command");
        return None;
    };
    let text = [output.stdout, output.stderr].concat();
    Some((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}
