//! What a running proxy cannot change: compared between the plan it runs and the next one.

use zeroize::Zeroize;

use super::plan::{AdminPlan, CaPlan, ListenPlan, ListenerTls, Plan, StorePlan};
use crate::upstream;
use crate::vocab::Secret;

impl Plan {
    /// The first key in which `next` differs and that only a restart can change; `None`: a running proxy can take `next`.
    #[must_use]
    pub fn fixed_in(&self, next: &Self) -> Option<&'static str> {
        let same = [
            ("listen", self.listen.same(&next.listen)),
            ("health", self.health == next.health),
            ("admin", same_admin(self.given_admin(), next.given_admin())),
            ("runtime_dir", self.runtime_dir == next.runtime_dir),
            ("ca", self.ca.same(&next.ca)),
            ("store", self.store.same(&next.store)),
            ("audit", self.audit == next.audit),
            (
                "parent_proxy",
                same_parent(self.parent.as_ref(), next.parent.as_ref()),
            ),
            ("limits", self.limits == next.limits),
            ("drain", self.drain == next.drain),
        ];
        same.into_iter().find(|(_, same)| !same).map(|(key, _)| key)
    }
}

impl Plan {
    /// The operator's socket as the file has it; where it has none, the verb that runs has put one in.
    fn given_admin(&self) -> Option<&AdminPlan> {
        self.admin.as_ref().filter(|admin| admin.required)
    }
}

impl ListenPlan {
    fn same(&self, other: &Self) -> bool {
        let pairs = self.proxy.iter().zip(&other.proxy);
        self.transparent == other.transparent
            && self.proxy.len() == other.proxy.len()
            && pairs
                .into_iter()
                .all(|(a, b)| a.at == b.at && same_tls(a.tls.as_ref(), b.tls.as_ref()))
    }
}

impl CaPlan {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dir(a), Self::Dir(b)) => a == b,
            (
                Self::Given { cert_pem, key_pem },
                Self::Given {
                    cert_pem: other_cert,
                    key_pem: other_key,
                },
            ) => cert_pem == other_cert && same_secret(key_pem, other_key),
            (Self::Memory, Self::Memory) => true,
            _ => false,
        }
    }
}

impl StorePlan {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            // The key before this one was of use at the start only.
            (
                Self::File { path, key, .. },
                Self::File {
                    path: other_path,
                    key: other_key,
                    ..
                },
            ) => {
                path == other_path
                    && match (key, other_key) {
                        (Some(key), Some(other)) => key.same(other),
                        (key, other) => key.is_none() && other.is_none(),
                    }
            }
            (Self::Memory, Self::Memory) => true,
            _ => false,
        }
    }
}

fn same_admin(a: Option<&AdminPlan>, b: Option<&AdminPlan>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            let token = match (&a.token, &b.token) {
                (None, None) => true,
                (Some(a), Some(b)) => same_secret(a, b),
                _ => false,
            };
            token && a.at == b.at && same_tls(a.tls.as_ref(), b.tls.as_ref())
        }
        _ => false,
    }
}

fn same_tls(a: Option<&ListenerTls>, b: Option<&ListenerTls>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => a.cert_pem == b.cert_pem && same_secret(&a.key_pem, &b.key_pem),
        _ => false,
    }
}

fn same_parent(a: Option<&upstream::ParentSettings>, b: Option<&upstream::ParentSettings>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => {
            let credential = match (&a.credential, &b.credential) {
                (None, None) => true,
                (Some(a), Some(b)) => same_secret(a, b),
                _ => false,
            };
            credential
                && a.authority == b.authority
                && a.except == b.except
                && a.extra_roots == b.extra_roots
        }
        _ => false,
    }
}

/// Compares secrets without telling by its duration where they differ.
fn same_secret<T: AsRef<[u8]> + Zeroize>(a: &Secret<T>, b: &Secret<T>) -> bool {
    let (a, b) = (a.expose().as_ref(), b.expose().as_ref());
    aws_lc_rs::constant_time::verify_slices_are_equal(a, b).is_ok()
}
