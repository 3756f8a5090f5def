//! Name constraints (RFC 5280 §4.2.1.10): for which hosts a CA can sign leaves that agents accept.
//!
//! They are what limits a stolen `ca.key`: agents refuse what it signs for a host outside. They are read back from the
//! certificate itself and never remembered beside it, so that what we believe is what agents see.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use rcgen::{CidrSubnet, GeneralSubtree};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::CaError;
use super::files::Folder;
use super::root::{CERTIFICATE_FILE, CHAIN_MAX};
use crate::vocab::Host;

/// Most subtrees that we put into a certificate. Beyond it clients give up comparing (webpki counts to 250,000, each
/// name of a leaf against each subtree), and the certificate is larger than some of them read.
const SUBTREES_MAX: usize = 4096;

/// What a new root shall be able to sign for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permitted {
    /// Every host: for policies whose hosts change while agents keep trusting one root.
    Everything,
    /// These hosts and what is below the names; nothing where the list is empty.
    Only(Vec<Host>),
}

/// The name constraints of a CA and of the CAs above it, each of which binds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameConstraints(Vec<Constraint>);

/// Those of one certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Constraint {
    permitted: Vec<Subtree>,
    excluded: Vec<Subtree>,
    /// Constraints on directory names, which our leaves' subjects (one common name) cannot meet.
    shuts_subject: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subtree {
    /// In lower case. Empty: every name. With a leading dot: only what is below.
    Dns(String),
    /// Address and mask.
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}

impl NameConstraints {
    /// Reads them from a CA's certificates in PEM, its own first.
    ///
    /// # Errors
    /// [`CaError::Corrupt`] where a certificate or its constraints cannot be read.
    pub fn of_pem(pem: &[u8]) -> Result<Self, CaError> {
        let chain = CertificateDer::pem_slice_iter(pem)
            .take(CHAIN_MAX)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| DAMAGED)?;
        Self::of_chain(&chain)
    }

    /// Reads them from the `ca.pem` of a folder; `None` where there is no CA yet.
    ///
    /// # Errors
    /// [`CaError`] where folder or file cannot be read, or are not what they should be.
    pub fn of_folder(dir: &Path) -> Result<Option<Self>, CaError> {
        let Some(folder) = Folder::open(dir)? else {
            return Ok(None);
        };
        let pem = folder.read_public(CERTIFICATE_FILE)?;
        pem.map(|pem| Self::of_pem(&pem)).transpose()
    }

    pub(super) fn of_chain(chain: &[CertificateDer<'_>]) -> Result<Self, CaError> {
        let mut all = Vec::new();
        for der in chain {
            let (_, certificate) = X509Certificate::from_der(der).map_err(|_| DAMAGED)?;
            let Some(found) = certificate.name_constraints().map_err(|_| DAMAGED)? else {
                continue;
            };
            let mut one = Constraint::default();
            for subtree in found.value.permitted_subtrees.iter().flatten() {
                // A permitted directory name would have to begin our subject, which is one common name.
                one.shuts_subject |= matches!(subtree.base, GeneralName::DirectoryName(_));
                one.permitted.extend(Subtree::of(&subtree.base)?);
            }
            for subtree in found.value.excluded_subtrees.iter().flatten() {
                if let GeneralName::DirectoryName(name) = &subtree.base {
                    one.shuts_subject |= name.iter().count() == 0;
                }
                one.excluded.extend(Subtree::of(&subtree.base)?);
            }
            all.push(one);
        }
        Ok(Self(all))
    }

    /// Whether clients accept a leaf for this host.
    #[must_use]
    pub fn permit(&self, host: &Host) -> bool {
        self.0.iter().all(|one| one.permits(host))
    }

    /// Whether there are any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is permitted and what is excluded, as text, in the order of the certificates.
    #[must_use]
    pub fn subtrees(&self) -> (Vec<String>, Vec<String>) {
        let of = |pick: fn(&Constraint) -> &Vec<Subtree>| {
            let subtrees = self.0.iter().flat_map(pick);
            subtrees.map(ToString::to_string).collect()
        };
        (of(|one| &one.permitted), of(|one| &one.excluded))
    }
}

const DAMAGED: CaError = CaError::Corrupt {
    file: CERTIFICATE_FILE,
    what: "a certificate in it, or its name constraints, cannot be read",
};

impl Constraint {
    /// RFC 5280 §6.1.4 (g): a permitted subtree binds only names of its own kind, an excluded one always.
    fn permits(&self, host: &Host) -> bool {
        let mut of_kind = self
            .permitted
            .iter()
            .filter(|subtree| subtree.is_kind_of(host))
            .peekable();
        let permitted = of_kind.peek().is_none() || of_kind.any(|subtree| subtree.contains(host));
        permitted && !self.shuts_subject && !self.excluded.iter().any(|s| s.contains(host))
    }
}

impl Subtree {
    /// `None` where it is of a kind that no leaf of ours has.
    fn of(name: &GeneralName<'_>) -> Result<Option<Self>, CaError> {
        match name {
            GeneralName::DNSName(name) => Ok(Some(Self::Dns(name.to_ascii_lowercase()))),
            GeneralName::IPAddress(bytes) => Self::address(bytes).ok_or(DAMAGED).map(Some),
            _ => Ok(None),
        }
    }

    /// Address and mask side by side.
    fn address(bytes: &[u8]) -> Option<Self> {
        let (address, mask) = bytes.split_at(bytes.len() / 2);
        let v4 = || Some(Self::V4(address.try_into().ok()?, mask.try_into().ok()?));
        v4().or_else(|| Some(Self::V6(address.try_into().ok()?, mask.try_into().ok()?)))
    }

    fn is_kind_of(&self, host: &Host) -> bool {
        matches!(
            (self, host),
            (Self::Dns(_), Host::Name(_))
                | (Self::V4(..), Host::Ip(IpAddr::V4(_)))
                | (Self::V6(..), Host::Ip(IpAddr::V6(_)))
        )
    }

    fn contains(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Dns(base), Host::Name(name)) => match name.strip_suffix(base.as_str()) {
                Some(above) => {
                    let dotted = base.starts_with('.');
                    base.is_empty()
                        || (dotted && !above.is_empty())
                        || (!dotted && (above.is_empty() || above.ends_with('.')))
                }
                None => false,
            },
            (Self::V4(address, mask), Host::Ip(IpAddr::V4(ip))) => {
                masked(&ip.octets(), mask).eq(masked(address, mask))
            }
            (Self::V6(address, mask), Host::Ip(IpAddr::V6(ip))) => {
                masked(&ip.octets(), mask).eq(masked(address, mask))
            }
            _ => false,
        }
    }
}

fn masked<'a>(address: &'a [u8], mask: &'a [u8]) -> impl Iterator<Item = u8> + 'a {
    address.iter().zip(mask).map(|(bits, mask)| bits & mask)
}

impl fmt::Display for Subtree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ones = |mask: &[u8]| mask.iter().map(|byte| byte.count_ones()).sum::<u32>();
        match self {
            Self::Dns(base) if base.is_empty() => f.write_str("every DNS name"),
            Self::Dns(base) => f.write_str(base),
            Self::V4(address, mask) => write!(f, "{}/{}", Ipv4Addr::from(*address), ones(mask)),
            Self::V6(address, mask) => write!(f, "{}/{}", Ipv6Addr::from(*address), ones(mask)),
        }
    }
}

/// The extension of a new root. A constraint binds only names of its own kind, so the kinds that are not permitted at
/// all are excluded as a whole; otherwise a root for DNS names could still sign for every address.
pub(super) fn extension(permitted: &Permitted) -> Result<Option<rcgen::NameConstraints>, CaError> {
    let Permitted::Only(hosts) = permitted else {
        return Ok(None);
    };
    let hosts = widest(hosts);
    if hosts.len() > SUBTREES_MAX {
        return Err(CaError::TooManyHosts);
    }
    let everything =
        |address: IpAddr| GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, 0));
    let mut excluded = Vec::new();
    if !hosts.iter().any(|host| host.name().is_some()) {
        excluded.push(GeneralSubtree::DnsName(String::new()));
    }
    if !hosts.iter().any(|h| h.ip().is_some_and(|ip| ip.is_ipv4())) {
        excluded.push(everything(Ipv4Addr::UNSPECIFIED.into()));
    }
    if !hosts.iter().any(|h| h.ip().is_some_and(|ip| ip.is_ipv6())) {
        excluded.push(everything(Ipv6Addr::UNSPECIFIED.into()));
    }
    let subtree = |host: &Host| match host {
        Host::Name(name) => GeneralSubtree::DnsName(name.to_string()),
        Host::Ip(ip) => {
            let whole = if ip.is_ipv4() { 32 } else { 128 };
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(*ip, whole))
        }
    };
    Ok(Some(rcgen::NameConstraints {
        permitted_subtrees: hosts.into_iter().map(subtree).collect(),
        excluded_subtrees: excluded,
    }))
}

/// The hosts in order, without those that another covers anyway.
fn widest(hosts: &[Host]) -> Vec<&Host> {
    let all: std::collections::BTreeSet<&Host> = hosts.iter().collect();
    let names: std::collections::HashSet<&str> = all.iter().filter_map(|h| h.name()).collect();
    let covered = |host: &Host| {
        let mut rest = host.name();
        std::iter::from_fn(|| {
            rest = rest.and_then(|name| name.split_once('.')).map(|(_, r)| r);
            rest
        })
        .any(|parent| names.contains(parent))
    };
    all.into_iter().filter(|host| !covered(host)).collect()
}
