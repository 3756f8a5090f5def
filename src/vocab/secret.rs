//! A value that cannot be printed, compared in variable time or left behind in memory by accident.

use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// Holds a secret. There is no `Display`, no `Serialize`, no `PartialEq`; `Debug` prints `[secret]`; the memory is
/// overwritten on drop. `expose` is called in a handful of files, which `tests/walls.rs` lists.
pub struct Secret<T: Zeroize>(Zeroizing<T>);

impl<T: Zeroize> Secret<T> {
    /// Takes charge of a secret value.
    pub fn new(value: T) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself. Whoever calls this must not copy it anywhere that outlives the use.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize + Clone> Clone for Secret<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_says_nothing() {
        let secret = Secret::new(String::from("canary-8841"));
        assert_eq!(
            format!("{secret:?} {:#?}", Some(&secret))
                .matches("canary")
                .count(),
            0
        );
        assert_eq!(secret.expose(), "canary-8841");
    }
}
