//! The environment that an agent needs: proxy variables, trust variables, placeholders. Every variable that real
//! clients read and that an environment can set; what each client honours is in the README's table.

use std::net::SocketAddr;
use std::path::Path;

use crate::ca::TrustFiles;
use crate::vocab::{AgentName, Secret};

/// Variables that name the proxy.
const PROXY: [&str; 4] = ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"];

/// Variables that name trusted roots; all take the bundle, only `NODE_EXTRA_CA_CERTS` adds to what a client has.
const TRUST: [&str; 13] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "AWS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "CARGO_HTTP_CAINFO",
    "HTTPLIB2_CA_CERTS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "WEBSOCKET_CLIENT_CA_BUNDLE",
    "DENO_CERT",
    "npm_config_cafile",
    "NODE_EXTRA_CA_CERTS",
];

/// How one agent reaches the proxy.
pub struct Access<'a> {
    /// Where the proxy listens.
    pub proxy: SocketAddr,
    /// The agent's name and proxy token, where agents are named.
    pub credential: Option<(&'a AgentName, &'a Secret<String>)>,
    /// The public files: system roots and ours.
    pub trust: &'a TrustFiles,
}

/// The variables, in the order in which they are printed.
#[must_use]
pub fn environment(
    access: &Access<'_>,
    placeholders: &[(String, String)],
) -> Vec<(String, String)> {
    let proxy = proxy_url(access);
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| variables.push((name.to_owned(), value.to_owned()));
    for name in PROXY {
        set(name, &proxy);
    }
    // Empty, not unset: an inherited exception would be a way around the proxy.
    set("NO_PROXY", "");
    set("no_proxy", "");
    let bundle = access.trust.bundle.to_string_lossy();
    for name in TRUST {
        set(name, &bundle);
    }
    set("WGETRC", &access.trust.wget.to_string_lossy());
    set("NODE_USE_ENV_PROXY", "1");
    set("JAVA_TOOL_OPTIONS", &java(access));
    variables.extend(placeholders.iter().cloned());
    variables
}

/// Options that every Java machine reads. Its own trust store is replaced, its exceptions for loopback are off, and Basic
/// towards the proxy is allowed in tunnels, for programs that set an `Authenticator`: Java has no property for the proxy
/// token. The password is no secret, see [`TrustFiles::java`].
fn java(access: &Access<'_>) -> String {
    let address = dialled(access.proxy);
    let (host, port) = (address.ip(), address.port());
    let store = quoted(&access.trust.java);
    [
        format!("-Dhttps.proxyHost={host} -Dhttps.proxyPort={port}"),
        format!("-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttp.nonProxyHosts="),
        format!("-Djavax.net.ssl.trustStore={store}"),
        "-Djavax.net.ssl.trustStoreType=PKCS12".to_owned(),
        "-Djavax.net.ssl.trustStorePassword=changeit".to_owned(),
        "-Djdk.http.auth.tunneling.disabledSchemes=".to_owned(),
    ]
    .join(" ")
}

/// A path in the options of Java, which are split at spaces outside quotes. It knows no escapes: a path with quotes of
/// both kinds cannot be said.
fn quoted(path: &Path) -> String {
    let path = path.to_string_lossy();
    if !path.contains([' ', '\t', '\n', '"', '\'']) {
        path.into_owned()
    } else if path.contains('"') {
        format!("'{path}'")
    } else {
        format!("\"{path}\"")
    }
}

/// The proxy's address as agents on this machine dial it. A wildcard listener is reached on loopback.
fn dialled(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback = match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    address
}

fn proxy_url(access: &Access<'_>) -> String {
    let address = dialled(access.proxy);
    match access.credential {
        Some((name, token)) => format!("http://{name}:{}@{address}", percent(token.expose())),
        None => format!("http://{address}"),
    }
}

/// User information in a URL: everything but unreserved characters is escaped.
fn percent(text: &str) -> String {
    let escape = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(b).to_string()
        }
        _ => format!("%{b:02X}"),
    };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_agent_gets_its_credential_in_the_proxy_url() {
        let name = AgentName::new("coder").unwrap();
        let token = Secret::new("a/b:c".to_owned());
        let file = |name: &str| Path::new("/run/token ward").join(name);
        let trust = TrustFiles {
            ca: file("ca.pem"),
            bundle: file("bundle.pem"),
            java: file("trust.p12"),
            wget: file("wgetrc"),
            system_roots: 0,
            others_may_write: false,
        };
        let access = Access {
            proxy: "0.0.0.0:8080".parse().unwrap(),
            credential: Some((&name, &token)),
            trust: &trust,
        };
        let variables = environment(&access, &[("ITEMS_TOKEN".into(), "tw-x".into())]);
        let value = |name: &str| {
            variables
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v.as_str())
        };
        assert_eq!(
            value("https_proxy"),
            Some("http://coder:a%2Fb%3Ac@127.0.0.1:8080")
        );
        assert_eq!(value("SSL_CERT_FILE"), Some("/run/token ward/bundle.pem"));
        assert_eq!(value("WGETRC"), Some("/run/token ward/wgetrc"));
        let java = value("JAVA_TOOL_OPTIONS").unwrap();
        assert!(java.contains("-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=8080 "));
        assert!(java.contains(" -Djavax.net.ssl.trustStore=\"/run/token ward/trust.p12\" "));
        assert!(!java.contains("a/b") && !java.contains("coder"));
        assert_eq!(value("NO_PROXY"), Some(""));
        assert_eq!(value("ITEMS_TOKEN"), Some("tw-x"));
    }
}
