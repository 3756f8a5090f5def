//! The environment that an agent needs: proxy variables, trust variables, placeholders. Every variable that real
//! clients read and that an environment can set; what each client honours is in the README's table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use crate::ca::TrustFiles;
use crate::vocab::{AgentName, Host, Scheme, Secret};

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

/// What the proxy is called by agents on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyName {
    scheme: Scheme,
    host: Host,
    port: u16,
}

impl ProxyName {
    /// The name of a listener at this address. One on all addresses is reached on loopback; one that speaks TLS by what
    /// its certificate calls it: by its address where that is there, else by the first of its `hosts`.
    #[must_use]
    pub fn of(address: SocketAddr, tls: Option<&[Host]>) -> Self {
        let ip = match address.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        let own = Host::Ip(ip);
        let (scheme, host) = match tls {
            None => (Scheme::Http, own),
            Some(hosts) if hosts.contains(&own) => (Scheme::Https, own),
            Some(hosts) => (Scheme::Https, hosts.first().cloned().unwrap_or(own)),
        };
        Self {
            scheme,
            host,
            port: address.port(),
        }
    }
}

/// How one agent reaches the proxy.
pub struct Access<'a> {
    /// What the proxy is called; `None`: it listens on unix sockets alone, and no variable can name one, or this agent's
    /// connections are redirected.
    pub proxy: Option<&'a ProxyName>,
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
    let mut variables: Vec<(String, String)> = Vec::new();
    let mut set = |name: &str, value: &str| variables.push((name.to_owned(), value.to_owned()));
    if let Some(proxy) = access.proxy {
        let url = proxy_url(proxy, access.credential);
        for name in PROXY {
            set(name, &url);
        }
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
/// token. The password is no secret, see [`TrustFiles::java`]. A proxy that speaks TLS is named all the same: Java knows
/// none of that kind and fails there, rather than go past it.
fn java(access: &Access<'_>) -> String {
    let mut options = Vec::new();
    if let Some(ProxyName { host, port, .. }) = access.proxy {
        // Without brackets: Java takes the address as it is.
        let host = host
            .ip()
            .map_or_else(|| host.to_string(), |ip| ip.to_string());
        options.push(format!("-Dhttps.proxyHost={host} -Dhttps.proxyPort={port}"));
        options.push(format!(
            "-Dhttp.proxyHost={host} -Dhttp.proxyPort={port} -Dhttp.nonProxyHosts="
        ));
    }
    let store = quoted(&access.trust.java);
    options.push(format!("-Djavax.net.ssl.trustStore={store}"));
    options.push("-Djavax.net.ssl.trustStoreType=PKCS12".to_owned());
    options.push("-Djavax.net.ssl.trustStorePassword=changeit".to_owned());
    options.push("-Djdk.http.auth.tunneling.disabledSchemes=".to_owned());
    options.join(" ")
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

/// The proxy's URL, with an agent's credential.
fn proxy_url(proxy: &ProxyName, credential: Option<(&AgentName, &Secret<String>)>) -> String {
    let ProxyName { scheme, host, port } = proxy;
    let scheme = scheme.as_str();
    match credential {
        Some((name, token)) => {
            format!(
                "{scheme}://{name}:{}@{host}:{port}",
                percent(token.expose())
            )
        }
        None => format!("{scheme}://{host}:{port}"),
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

    fn trust() -> TrustFiles {
        let file = |name: &str| Path::new("/run/token ward").join(name);
        TrustFiles {
            ca: file("ca.pem"),
            bundle: file("bundle.pem"),
            java: file("trust.p12"),
            wget: file("wgetrc"),
            system_roots: 0,
            others_may_write: false,
        }
    }

    #[test]
    fn a_named_agent_gets_its_credential_in_the_proxy_url() {
        let name = AgentName::new("coder").unwrap();
        let token = Secret::new("a/b:c".to_owned());
        let trust = trust();
        let access = Access {
            proxy: Some(&ProxyName::of("0.0.0.0:8080".parse().unwrap(), None)),
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

    #[test]
    fn a_proxy_that_speaks_tls_is_called_what_its_certificate_says() {
        let hosts = |names: &[&str]| -> Vec<Host> {
            names
                .iter()
                .map(|name| Host::parse(name).unwrap())
                .collect()
        };
        for (address, names, expected) in [
            ("10.1.0.5:8443", None, "http://10.1.0.5:8443"),
            ("[::]:8443", None, "http://[::1]:8443"),
            (
                "10.1.0.5:8443",
                Some(&["proxy.corp", "10.1.0.5"][..]),
                "https://10.1.0.5:8443",
            ),
            (
                "10.1.0.5:8443",
                Some(&["proxy.corp", "10.1.0.6"]),
                "https://proxy.corp:8443",
            ),
            (
                "0.0.0.0:8443",
                Some(&["proxy.corp"]),
                "https://proxy.corp:8443",
            ),
            (
                "0.0.0.0:8443",
                Some(&["127.0.0.1"]),
                "https://127.0.0.1:8443",
            ),
            ("10.1.0.5:8443", Some(&[]), "https://10.1.0.5:8443"),
        ] {
            let names = names.map(hosts);
            let name = ProxyName::of(address.parse().unwrap(), names.as_deref());
            assert_eq!(proxy_url(&name, None), expected);
        }
    }

    #[test]
    fn a_socket_has_no_url() {
        let access = Access {
            proxy: None,
            credential: None,
            trust: &trust(),
        };
        let variables = environment(&access, &[]);
        assert!(
            !variables
                .iter()
                .any(|(name, _)| PROXY.contains(&name.as_str()))
        );
        assert!(variables.contains(&("NO_PROXY".into(), String::new())));
        assert!(
            !variables
                .iter()
                .any(|(_, value)| value.contains("proxyHost"))
        );
    }
}
