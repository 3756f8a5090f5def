//! The public folder: `ca.pem` for clients that add a root, `bundle.pem` for those that replace all of theirs, the same
//! for Java and for wget, which take no PEM file by environment, and one private folder per agent.

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::error::CaError;
use super::files::{Existing, Folder, PUBLIC, PUBLIC_DIR, SECRET_DIR, read_all};
use super::pem;
use super::pkcs12;
use super::root::Root;
use crate::vocab::AgentName;

const CERTIFICATE: &str = "ca.pem";
const BUNDLE: &str = "bundle.pem";
const JAVA: &str = "trust.p12";
const WGET: &str = "wgetrc";
const SYSTEM: &str = "the system's root certificates";
/// Distributions ship about 250 KiB.
const SYSTEM_MAX: usize = 8 * 1024 * 1024;

/// Where the trust files lie, and what went into the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustFiles {
    /// Our certificate alone.
    pub ca: PathBuf,
    /// The system's roots and ours.
    pub bundle: PathBuf,
    /// The same for Java, as PKCS#12. It opens with any password.
    pub java: PathBuf,
    /// A start-up file of wget that names the bundle.
    pub wget: PathBuf,
    /// How many of the system's roots are in it. Zero deserves a warning: hosts in `tunnel` will not verify then.
    pub system_roots: usize,
    /// Whether everybody may put files into the folder, and so swap these: an agent for another, say. True for a
    /// Kubernetes `emptyDir`, which is why it is not refused; mount it read-only into agents.
    pub others_may_write: bool,
}

/// Writes `ca.pem`, `bundle.pem`, `trust.p12` and `wgetrc` (0644) into the public folder, which is made (0755) where it does not exist. Each
/// appears whole or not at all, so that an agent which starts at this moment reads the old one or the new one.
///
/// `system` is the distribution's bundle, by path: never what `SSL_CERT_FILE` says, which is set to `bundle.pem` itself
/// in the environments that we hand out.
///
/// # Errors
/// [`CaError`] where the system's bundle cannot be read or a file cannot be written.
pub fn write_trust_files(
    runtime_dir: &Path,
    root: &Root,
    system: Option<&Path>,
) -> Result<TrustFiles, CaError> {
    let ours = root.certificate_pem();
    let mut roots = match system {
        Some(path) => system_roots(path, root)?,
        None => Vec::new(),
    };
    let system_roots = roots.len();
    roots.push(root.certificate_der().clone());
    let bundle: String = roots.iter().map(|der| pem::certificate(der)).collect();
    let wget = format!("ca_certificate = {}\n", runtime_dir.join(BUNDLE).display());
    let folder = Folder::create(runtime_dir, PUBLIC_DIR)?;
    folder.place(CERTIFICATE, PUBLIC, ours.as_bytes(), Existing::Replace)?;
    folder.place(BUNDLE, PUBLIC, bundle.as_bytes(), Existing::Replace)?;
    let java = pkcs12::trust_store(&roots);
    folder.place(JAVA, PUBLIC, &java, Existing::Replace)?;
    folder.place(WGET, PUBLIC, wget.as_bytes(), Existing::Replace)?;
    Ok(TrustFiles {
        ca: runtime_dir.join(CERTIFICATE),
        bundle: runtime_dir.join(BUNDLE),
        java: runtime_dir.join(JAVA),
        wget: runtime_dir.join(WGET),
        system_roots,
        others_may_write: folder.others_may_write()?,
    })
}

/// Opens or makes an agent's own folder below the public one: `agents/<name>`, mode 0700. What lies in it is for that
/// agent alone.
///
/// # Errors
/// [`CaError`] where it cannot be made, or a symbolic link stands in its place.
pub fn agent_dir(runtime_dir: &Path, agent: &AgentName) -> Result<PathBuf, CaError> {
    Folder::create(runtime_dir, PUBLIC_DIR)?
        .subfolder("agents", PUBLIC_DIR)?
        .subfolder(agent.as_str(), SECRET_DIR)?;
    Ok(runtime_dir.join("agents").join(agent.as_str()))
}

/// The distribution's certificates: comments and whatever else stands in the file stay out, and so does our own root
/// where somebody installed it system-wide.
fn system_roots(path: &Path, root: &Root) -> Result<Vec<CertificateDer<'static>>, CaError> {
    // Followed on purpose: distributions keep this file behind a symbolic link, and only root can change it.
    let fd = rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| CaError::Io {
            file: SYSTEM,
            kind: std::io::Error::from(error).kind(),
        })?;
    let bytes = read_all(fd, SYSTEM, SYSTEM_MAX)?;
    let mut roots = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|_| CaError::Corrupt {
            file: SYSTEM,
            what: "PEM certificates are expected",
        })?;
        if certificate != *root.certificate_der() {
            roots.push(certificate);
        }
    }
    Ok(roots)
}
