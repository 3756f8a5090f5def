//! What has gone out and could come back with the answer.

use http::header::HeaderValue;
use hyper::upgrade::OnUpgrade;

use super::bare::Bare;
use crate::credential::{BareHead, Lease};

/// What went out with the attempts for one answer.
pub(super) struct Used {
    pub(super) head: BareHead,
    pub(super) upgrade: Option<OnUpgrade>,
    /// Every lease that went out, and the proofs that went with them.
    pub(super) leases: Vec<Lease>,
    pub(super) proofs: Vec<HeaderValue>,
}

/// What has gone out so far: at most one lease and one proof for each attempt.
#[derive(Default)]
pub(super) struct Sent {
    before: Vec<Lease>,
    proofs: Vec<HeaderValue>,
}

impl Sent {
    /// A proof went out.
    pub(super) fn proof(&mut self, proof: Option<&HeaderValue>) {
        self.proofs.extend(proof.cloned());
    }

    /// This lease went out, and another one will.
    pub(super) fn replaced(&mut self, lease: &Lease) {
        self.before.push(lease.clone());
    }

    /// The answer stands; `last` went out for it.
    pub(super) fn used(self, bare: Bare, last: Lease) -> Used {
        let mut leases = self.before;
        leases.push(last);
        Used {
            head: bare.head,
            upgrade: bare.upgrade,
            leases,
            proofs: self.proofs,
        }
    }
}
