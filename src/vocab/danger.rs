//! What only a build for tests may do, each with a feature of its own whose name begins with `danger-`.
//!
//! No such feature is a default, none is built without debug assertions, so none can reach a release or the image; a
//! program that has one says so in `--version` and at every start. Without the feature the answer is a constant no.

use super::Host;

#[cfg(all(feature = "danger-plain-http", not(debug_assertions)))]
compile_error!(
    "`danger-plain-http` sends credentials in clear text for tests; it is not built without debug assertions"
);

/// Whether this build may send credentials to loopback in clear text (`danger-plain-http`): for conformance suites,
/// whose servers speak plain HTTP.
pub const PLAIN_HTTP: bool = cfg!(feature = "danger-plain-http");

/// Whether a credential may go to this host in clear text: never, but to loopback in such a build.
#[must_use]
pub fn plain_http(host: &Host) -> bool {
    PLAIN_HTTP
        && match host {
            Host::Ip(ip) => ip.to_canonical().is_loopback(),
            // RFC 6761 §6.3: this name is loopback everywhere.
            Host::Name(name) => &**name == "localhost",
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_text_is_for_loopback_in_a_build_for_tests() {
        for host in ["localhost", "127.0.0.1", "[::1]"] {
            let host = Host::parse(host).unwrap();
            assert_eq!(plain_http(&host), PLAIN_HTTP, "{host}");
        }
        for host in ["localhost.test", "10.0.0.1", "128.0.0.1", "[2001:db8::1]"] {
            assert!(!plain_http(&Host::parse(host).unwrap()), "{host}");
        }
    }
}
