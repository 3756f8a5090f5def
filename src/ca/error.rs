//! What can go wrong, in words for the operator. Files are named by role, never by path: the caller knows the folder.

use std::io;

/// Why a root, a leaf or a file of this room is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    /// Another process held the folder's lock for two seconds.
    #[error("another process is creating keys in the same folder; try again")]
    Busy,
    /// The file is not what its name says, is cut off or is too large.
    #[error("{file} is damaged or not what it should be: {what}")]
    Corrupt {
        /// The file's role.
        file: &'static str,
        /// What was expected.
        what: &'static str,
    },
    /// A file that would be overwritten is there.
    #[error("{file} is there already; it is never overwritten")]
    Exists {
        /// The file's role.
        file: &'static str,
    },
    /// The root's life is over: nothing is minted by it any more.
    #[error("the CA certificate has expired; make a new one")]
    Expired,
    /// A secret file that others may read or write.
    #[error(
        "{file} is open to others than its owner (mode {mode:03o}); chmod 600 it, and make a new one if anyone may have read it"
    )]
    Exposed {
        /// The file's role.
        file: &'static str,
        /// Its permission bits.
        mode: u32,
    },
    /// The folder itself cannot be trusted with keys.
    #[error("the folder {what}")]
    Folder {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A secret file that belongs to somebody else, who then knows what is in it.
    #[error("{file} belongs to another user; it has to be ours or root's")]
    Foreign {
        /// The file's role.
        file: &'static str,
    },
    /// The operating system refused.
    #[error("{file}: {kind}")]
    Io {
        /// The file's role.
        file: &'static str,
        /// The operating system's reason.
        kind: io::ErrorKind,
    },
    /// Key and certificate do not belong together.
    #[error("the CA key does not belong to the CA certificate")]
    Mismatch,
    /// The file is not there.
    #[error("{file} is missing")]
    Missing {
        /// The file's role.
        file: &'static str,
    },
    /// The certificate may not sign others.
    #[error(
        "the CA certificate may not sign certificates: basicConstraints CA:TRUE and keyUsage keyCertSign are needed"
    )]
    NotCa,
    /// The CA's name constraints do not permit the host.
    #[error("the CA's name constraints do not permit this host")]
    NotPermitted,
    /// A symbolic link, a directory or a device where a file should be.
    #[error("{file} is not a regular file; symbolic links are not followed")]
    NotRegular {
        /// The file's role.
        file: &'static str,
    },
    /// The clock stands before the root's first moment.
    #[error("the CA certificate is not valid yet; is the clock right?")]
    NotYetValid,
    /// The system's randomness failed.
    #[error("no randomness to be had")]
    Random,
    /// Signing or encoding failed.
    #[error("a certificate could not be made")]
    Signing,
    /// The CA's own name is one that certificates signed here could not repeat byte for byte.
    #[error(
        "the CA certificate's subject repeats an attribute or joins several in one; use a CA with a plain subject"
    )]
    Subject,
    /// More hosts than a certificate can carry as name constraints.
    #[error(
        "there are too many hosts for name constraints; use wildcards, or make a CA with `tokenward ca init --unconstrained`"
    )]
    TooManyHosts,
}
