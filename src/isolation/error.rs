//! Why there is no cell.

use std::io;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// Why there is no cell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum CellError {
    /// The system does not let this user make namespaces.
    #[error(
        "this system does not let you make a network of your own ({step}: {why}); allow unprivileged user namespaces: \
         `sysctl user.max_user_namespaces` must not be 0, and where AppArmor restricts them, `sysctl \
         kernel.apparmor_restrict_unprivileged_userns=0` or a profile for tokenward that says `userns,`"
    )]
    Forbidden {
        /// What was tried.
        step: String,
        /// The system's word.
        why: String,
    },
    /// Something else went wrong.
    #[error("the cell could not be made ({step}: {why})")]
    Failed {
        /// What was tried.
        step: String,
        /// The system's word.
        why: String,
    },
}

impl CellError {
    /// What a step that failed means. Before the network stands, a lack of rights or of room is the system's policy.
    pub(super) fn building(step: &str, error: &io::Error) -> Self {
        let forbidden = [
            Errno::ACCESS,
            Errno::INVAL,
            Errno::NOSPC,
            Errno::NOSYS,
            Errno::PERM,
            Errno::ROFS,
            Errno::USERS,
        ];
        let code = error.raw_os_error();
        if forbidden.iter().any(|e| code == Some(e.raw_os_error())) {
            return Self::Forbidden {
                step: step.to_owned(),
                why: error.to_string(),
            };
        }
        Self::failed(step, error)
    }

    pub(super) fn failed(step: &str, why: impl std::fmt::Display) -> Self {
        Self::Failed {
            step: step.to_owned(),
            why: why.to_string(),
        }
    }
}

/// Names the step that an error belongs to.
pub(super) trait Step<T> {
    fn step(self, step: &str) -> Result<T, CellError>;
    fn building(self, step: &str) -> Result<T, CellError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, CellError> {
        self.map_err(|error| CellError::failed(step, error.into()))
    }

    fn building(self, step: &str) -> Result<T, CellError> {
        self.map_err(|error| CellError::building(step, &error.into()))
    }
}
