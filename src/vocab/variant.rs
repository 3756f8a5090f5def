//! Deliberately broken variants of the proxy, for the tests of its tests: an attack that no variant lets through was
//! never an attack, and a check that no variant fails has shown nothing.
//!
//! They exist only with the feature `variants`, which is never a default, is refused without debug assertions and so
//! cannot reach a release. Without it [`broken`] is a constant no, and what hangs on it is not in the program.
//! `tests/walls.rs` lists every file that asks.

#[cfg(all(feature = "variants", not(debug_assertions)))]
compile_error!(
    "`variants` makes broken proxies for tests; it is not built without debug assertions"
);

macro_rules! variants {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One way of being broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Variant {
            $($(#[$doc])* $variant,)*
        }

        #[cfg(feature = "variants")]
        impl Variant {
            const ALL: &[(Self, &'static str)] = &[$((Self::$variant, $name),)*];
        }
    };
}

variants! {
    /// A refused request leaves no line in the audit file.
    AuditGap = "audit-gap",
    /// Heads with bare line feeds are taken.
    BareLf = "bare-lf",
    /// A DPoP-bound token is sent as a bearer token once the API has sent a nonce.
    BearerDowngrade = "bearer-downgrade",
    /// An ambiguous head ends the process.
    Crash = "crash",
    /// Policy is asked once for each tunnel; later requests ride on its first permit.
    DecidesOnce = "decides-once",
    /// A destination is dialled before it is judged.
    DialsFirst = "dials-first",
    /// What upstreams, resolvers and the system said stands in refusals.
    EchoUpstreamErrors = "echo-upstream-errors",
    /// Contradictory lengths are taken, the agent's framing and trailers are sent on, and a chunked head has a length too.
    FramingKept = "framing-kept",
    /// Inside a tunnel the `Host` field says where a request goes and which service it is for.
    HostTrusting = "host-trusting",
    /// Nonce challenges are answered as often as they come.
    NonceUncapped = "nonce-uncapped",
    /// What policy denies goes through, without a credential.
    PassThrough = "pass-through",
    /// Paths are judged and sent as they came, dot segments and escapes and all.
    PathAsSent = "path-as-sent",
    /// Connections to upstreams are shared by all agents and services.
    PoolUnkeyed = "pool-unkeyed",
    /// Every address may be dialled.
    PrivateAllowed = "private-allowed",
    /// The name is looked up again for dialling, and that answer is not checked.
    Rebinding = "rebinding",
    /// Redirects are followed with the credential.
    RedirectFollower = "redirect-follower",
    /// Nonces, challenges and reflected credentials stay in answers.
    ReflectsProof = "reflects-proof",
    /// The agent's own credentials are sent on.
    StripNothing = "strip-nothing",
    /// Host patterns match any name that ends like them.
    SuffixWithoutDot = "suffix-without-dot",
    /// Another agent's or service's placeholder is as good as the right one.
    AnyPlaceholder = "any-placeholder",
    /// The access token stands in a log line.
    TokenInLog = "token-in-log",
    /// An upstream's certificate is not looked at.
    TrustsAnyCertificate = "trusts-any-certificate",
}

/// Whether this process is broken in that way.
#[cfg(not(feature = "variants"))]
#[must_use]
pub const fn broken(_: Variant) -> bool {
    false
}

#[cfg(feature = "variants")]
pub use chosen::{UnknownVariant, broken, choose, overhear, overheard};

#[cfg(feature = "variants")]
mod chosen {
    use std::sync::{Mutex, OnceLock, PoisonError};

    use super::Variant;

    static CHOSEN: OnceLock<Variant> = OnceLock::new();
    static OVERHEARD: Mutex<String> = Mutex::new(String::new());

    /// A name that is no variant's.
    #[derive(Debug, thiserror::Error)]
    #[error("there is no variant of that name; there are: {}", names())]
    pub struct UnknownVariant;

    fn names() -> String {
        let names: Vec<&str> = Variant::ALL.iter().map(|(_, name)| *name).collect();
        names.join(", ")
    }

    /// Breaks this process for the rest of its life. The first choice counts.
    ///
    /// # Errors
    /// [`UnknownVariant`]; nothing is broken then.
    pub fn choose(name: &str) -> Result<Variant, UnknownVariant> {
        let found = Variant::ALL.iter().find(|(_, known)| *known == name);
        let (variant, _) = found.ok_or(UnknownVariant)?;
        Ok(*CHOSEN.get_or_init(|| *variant))
    }

    /// Whether this process is broken in that way.
    #[must_use]
    pub fn broken(variant: Variant) -> bool {
        CHOSEN.get() == Some(&variant)
    }

    /// Remembers what somebody else said, for [`Variant::EchoUpstreamErrors`].
    pub fn overhear(text: impl FnOnce() -> String) {
        if broken(Variant::EchoUpstreamErrors) {
            *OVERHEARD.lock().unwrap_or_else(PoisonError::into_inner) = text();
        }
    }

    /// What was heard last.
    #[must_use]
    pub fn overheard() -> String {
        OVERHEARD
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Remembers nothing and asks for nothing.
#[cfg(not(feature = "variants"))]
pub fn overhear(_: impl FnOnce() -> String) {}
