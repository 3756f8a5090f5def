//! The only file that reads the environment. Everything else asks here, by a function that says what it is for, so
//! that one look shows all the variables that steer the program.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::vocab::Secret;

/// Variables by which clients find a proxy, in both spellings.
const PROXY: &[&str] = &[
    "ALL_PROXY",
    "FTP_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "JAVA_TOOL_OPTIONS",
    "NO_PROXY",
    "all_proxy",
    "ftp_proxy",
    "grpc_proxy",
    "http_proxy",
    "https_proxy",
    "no_grpc_proxy",
    "no_proxy",
    "npm_config_https_proxy",
    "npm_config_noproxy",
    "npm_config_proxy",
    "ws_proxy",
    "wss_proxy",
];

/// Variables by which clients find the CAs that they trust.
const CA: &[&str] = &[
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "CURL_CA_BUNDLE",
    "DENO_CERT",
    "GIT_SSL_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HTTPLIB2_CA_CERTS",
    "NIX_SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "WEBSOCKET_CLIENT_CA_BUNDLE",
    "WGETRC",
    "npm_config_cafile",
];

/// The environment of this process, or a given one in tests.
#[derive(Debug, Clone, Default)]
pub struct Environment(Option<BTreeMap<String, OsString>>);

/// The environment of this process.
#[must_use]
pub fn environment() -> Environment {
    Environment(None)
}

impl Environment {
    /// An environment of these variables and no others.
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let own = |(name, value): (&str, &str)| (name.to_owned(), OsString::from(value));
        Self(Some(variables.into_iter().map(own).collect()))
    }

    /// Default of `runtime_dir`: `/run/tokenward` for root, then `$XDG_RUNTIME_DIR/tokenward`, then a directory of
    /// this user in the system's temporary directory.
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        let user = rustix::process::geteuid();
        if user.is_root() {
            return PathBuf::from("/run/tokenward");
        }
        self.directory("XDG_RUNTIME_DIR").map_or_else(
            || {
                let own = format!("tokenward-{}", user.as_raw());
                self.directory("TMPDIR")
                    .unwrap_or_else(|| PathBuf::from("/tmp"))
                    .join(own)
            },
            |dir| dir.join("tokenward"),
        )
    }

    /// Where state is kept that outlives the process: `$XDG_STATE_HOME/tokenward`, then
    /// `$HOME/.local/state/tokenward`. `None` where neither is set.
    #[must_use]
    pub fn state_dir(&self) -> Option<PathBuf> {
        self.directory("XDG_STATE_HOME")
            .or_else(|| self.directory("HOME").map(|home| home.join(".local/state")))
            .map(|dir| dir.join("tokenward"))
    }

    /// The user's own folder.
    #[must_use]
    pub fn home(&self) -> Option<PathBuf> {
        self.directory("HOME")
    }

    /// Whether somebody may sit at a screen of this machine.
    #[must_use]
    pub fn has_screen(&self) -> bool {
        cfg!(target_os = "macos")
            || ["DISPLAY", "WAYLAND_DISPLAY"]
                .iter()
                .any(|name| self.text(name).is_some())
    }

    /// Where programs are looked for.
    #[must_use]
    pub fn path(&self) -> Option<OsString> {
        self.read("PATH")
    }

    /// Every variable: what a child of `run` inherits, less what is taken out by name.
    #[must_use]
    pub fn all(&self) -> Vec<(OsString, OsString)> {
        match &self.0 {
            Some(variables) => {
                let own = |(name, value): (&String, &OsString)| (name.into(), value.clone());
                variables.iter().map(own).collect()
            }
            None => std::env::vars_os().collect(),
        }
    }

    /// A value that `leakcheck` looks for.
    #[must_use]
    pub fn canary(&self, name: &str) -> Option<Secret<Vec<u8>>> {
        let value = self.read(name)?;
        Some(Secret::new(value.into_encoded_bytes()))
    }

    /// The filter of logs, as `tracing` reads it.
    #[must_use]
    pub fn log_filter(&self) -> Option<String> {
        self.text("TOKENWARD_LOG")
    }

    /// In which way this process is to be broken, where that can be built at all.
    #[cfg(feature = "variants")]
    #[must_use]
    pub fn variant(&self) -> Option<String> {
        self.text("TOKENWARD_VARIANT")
    }

    /// Names of the variables by which clients find a proxy, set or not: a child of `run` gets ours or none.
    #[must_use]
    pub fn proxy_variables(&self) -> &'static [&'static str] {
        PROXY
    }

    /// Names of the variables by which clients find the CAs that they trust, set or not.
    #[must_use]
    pub fn ca_variables(&self) -> &'static [&'static str] {
        CA
    }

    /// The value of a variable that the configuration names. `None`: not set, empty, or not UTF-8.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let value = self.read(name)?.into_string().ok()?;
        (!value.is_empty()).then_some(value)
    }

    /// A directory. The XDG Base Directory specification has relative ones ignored.
    fn directory(&self, name: &str) -> Option<PathBuf> {
        let dir = PathBuf::from(self.read(name)?);
        Path::is_absolute(&dir).then_some(dir)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this file is where the environment enters"
    )]
    fn read(&self, name: &str) -> Option<OsString> {
        match &self.0 {
            Some(variables) => variables.get(name).cloned(),
            None => std::env::var_os(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_follows_xdg_and_ignores_relative_directories() {
        let state = |variables: &[(&str, &str)]| {
            Environment::of(variables.iter().copied())
                .state_dir()
                .map(|dir| dir.display().to_string())
        };
        assert_eq!(
            state(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]).unwrap(),
            "/s/tokenward"
        );
        assert_eq!(
            state(&[("XDG_STATE_HOME", "s"), ("HOME", "/h")]).unwrap(),
            "/h/.local/state/tokenward"
        );
        assert_eq!(state(&[]), None);
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        let environment = Environment::of([("EMPTY", ""), ("FULL", "x")]);
        assert_eq!(environment.text("EMPTY"), None);
        assert_eq!(environment.text("FULL").as_deref(), Some("x"));
        assert_eq!(environment.text("HOME"), None);
        assert_eq!(environment.all().len(), 2);
    }
}
