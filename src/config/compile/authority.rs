//! Whether the CA that is there can sign for the hosts of the file. Where it cannot, agents would refuse every answer,
//! and say no more than that a certificate is bad.

use super::{Context, Origins};
use crate::ca::{CaError, NameConstraints};
use crate::config::SecretReading;
use crate::config::plan::CaPlan;
use crate::policy;

/// Reports each host that needs a leaf and that the CA does not permit.
///
/// A CA that does not exist yet will be made for the hosts of the file. Where files are not read nothing is said:
/// `ca init --force`, the remedy, reads the file in that way.
pub(super) fn check(
    ca: &CaPlan,
    policy: &policy::Settings,
    origins: &Origins,
    it: &mut Context<'_>,
) {
    if it.reading != SecretReading::Resolve {
        return;
    }
    let (key, read, remedy) = match ca {
        CaPlan::Memory => return,
        CaPlan::Dir(dir) => (
            "ca.dir",
            NameConstraints::of_folder(dir),
            "run `tokenward ca init --force`, which makes a new CA for the hosts of this file, and give agents its certificate",
        ),
        CaPlan::Given { cert_pem, .. } => (
            "ca.cert.file",
            NameConstraints::of_pem(cert_pem).map(Some),
            "give a CA whose name constraints cover it",
        ),
    };
    let constraints = match read {
        Ok(Some(constraints)) => constraints,
        Ok(None) => return,
        // `serve` says what is wrong with its folder; whoever only checks may be somebody who must not look inside.
        Err(error @ CaError::Io { .. }) => {
            let what = format!("whether the CA permits the hosts cannot be said: {error}");
            return it
                .findings
                .warn(key, &what, "run this as the user of `serve`");
        }
        Err(error) => {
            return it.findings.error(
                key,
                &error.to_string(),
                "see the section on the CA in the README",
            );
        }
    };
    for service in policy.intercepted() {
        let list = format!("services.{}.hosts", service.name);
        for (i, pattern) in service.hosts.iter().enumerate() {
            if constraints.permit(&pattern.sample()) {
                continue;
            }
            let place = origins.get(&list).and_then(|places| places.get(i));
            let key = format!("{list}[{}]", place.copied().unwrap_or(i));
            let what = format!(
                "the name constraints of the CA do not permit {pattern}: agents would refuse its certificates"
            );
            it.findings.error(&key, &what, remedy);
        }
    }
}
