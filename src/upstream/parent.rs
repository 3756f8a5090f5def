//! The corporate proxy through which everything leaves: a tunnel for each connection, opened with CONNECT.
//!
//! It sees host names and ports, never a request: TLS to the destination is ours from end to end, and is verified as
//! without it. Its credential goes to it alone. Names are looked up by it, so what they resolve to is its to judge;
//! literal addresses are judged here, as ever.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::error::{EndpointError, UpstreamError};
use super::tls::{self, Roots};
use super::way::{Road, Way};
use crate::vocab::{Authority, Host, Scheme, Secret};
use crate::wire::{TunnelAnswer, tunnel_answer};

/// How the parent proxy is reached.
#[derive(Debug, Clone)]
pub struct ParentSettings {
    /// Where it is; `https` where it is spoken to in TLS.
    pub authority: Authority,
    /// `user:password` for Basic (RFC 7617).
    pub credential: Option<Secret<String>>,
    /// Destinations that are dialled without it.
    pub except: Vec<Except>,
    /// Roots to trust for its own certificate, in addition to the system's.
    pub extra_roots: Vec<CertificateDer<'static>>,
}

/// A destination that is dialled without the parent proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Except {
    /// This host, and where it is a name, those below it.
    Host(Host),
    /// Literal addresses whose first so many bits are these.
    Network(IpAddr, u8),
}

impl Except {
    fn holds(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Host(Host::Name(known)), Host::Name(name)) => {
                let above = name.strip_suffix(&**known);
                above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
            }
            (Self::Host(Host::Ip(known)), Host::Ip(ip)) => known == ip,
            (Self::Network(network, bits), Host::Ip(ip)) => same_bits(*network, *ip, *bits),
            _ => false,
        }
    }
}

/// Whether two addresses of one family begin with the same bits.
fn same_bits(a: IpAddr, b: IpAddr, bits: u8) -> bool {
    let (a, b, width) = match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits(), 128),
        _ => return false,
    };
    let rest = 128_u32.min(width).saturating_sub(u32::from(bits));
    (a ^ b).checked_shr(rest).unwrap_or(0) == 0
}

/// The parent proxy, ready to be used.
pub struct Parent {
    pub(super) host: Host,
    pub(super) port: u16,
    tls: Option<(ServerName<'static>, Arc<ClientConfig>)>,
    authorization: Option<Zeroizing<String>>,
    except: Vec<Except>,
}

impl Parent {
    /// Compiles the settings.
    ///
    /// # Errors
    /// [`EndpointError`] where an additional root is no certificate, or is our own.
    pub fn compile(roots: &Roots, settings: &ParentSettings) -> Result<Self, EndpointError> {
        let authority = &settings.authority;
        let tls = match authority.scheme() {
            Scheme::Http => None,
            Scheme::Https => {
                let store = roots.and(&settings.extra_roots)?;
                let name = tls::server_name(authority.host()).map_err(|_| EndpointError::Tls)?;
                Some((name, tls::config(store, &[b"http/1.1"])?))
            }
        };
        let basic = |credential: &Secret<String>| {
            let encoded = Zeroizing::new(STANDARD.encode(credential.expose()));
            Zeroizing::new(format!("Proxy-Authorization: Basic {}\r\n", *encoded))
        };
        Ok(Self {
            host: authority.host().clone(),
            port: authority.port(),
            tls,
            authorization: settings.credential.as_ref().map(basic),
            except: settings.except.clone(),
        })
    }

    /// Whether a destination of this name, which is dialled at `host`, is reached without it.
    pub(super) fn excepts(&self, name: &Host, host: &Host) -> bool {
        let held = |except: &Except| except.holds(name) || except.holds(host);
        self.except.iter().any(held)
    }

    /// Opens a tunnel over a connection to the proxy.
    pub(super) async fn tunnel(
        &self,
        stream: TcpStream,
        host: &Host,
        port: u16,
    ) -> Result<Way, UpstreamError> {
        let mut road = match &self.tls {
            None => Road::Tcp(stream),
            Some((name, config)) => {
                let connector = TlsConnector::from(config.clone());
                let connected = connector.connect(name.clone(), stream).await;
                Road::Tls(Box::new(connected.map_err(tls::failure)?))
            }
        };
        let authorization = self.authorization.as_ref().map_or("", |line| line.as_str());
        let head = Zeroizing::new(format!(
            "CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{authorization}\r\n"
        ));
        let lost = |_| UpstreamError::Unreachable;
        road.write_all(head.as_bytes()).await.map_err(lost)?;
        road.flush().await.map_err(lost)?;
        let ahead = opened(&mut road).await?;
        Ok(Way::new(road, ahead))
    }
}

/// Reads the answer to a CONNECT, and gives what came behind it.
async fn opened(road: &mut Road) -> Result<Bytes, UpstreamError> {
    let mut came = BytesMut::new();
    loop {
        let read = road.read_buf(&mut came).await;
        if read.map_err(|_| UpstreamError::Unreachable)? == 0 {
            return Err(UpstreamError::Unreachable);
        }
        let (status, length) = match tunnel_answer(&came) {
            TunnelAnswer::More => continue,
            TunnelAnswer::Broken => return Err(UpstreamError::Protocol),
            TunnelAnswer::Is { status, length } => (status, length),
        };
        if (200..=299).contains(&status) {
            return Ok(came.split_off(length).freeze());
        }
        // What the agent is told names neither the proxy nor its reason; whoever runs us needs both.
        tracing::warn!(status, "the parent proxy refused a tunnel");
        return Err(match status {
            504 => UpstreamError::ConnectTimeout,
            _ => UpstreamError::Unreachable,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn exceptions_are_hosts_what_is_below_them_and_networks() {
        let name = Except::Host(host("internal.example"));
        for (text, held) in [
            ("internal.example", true),
            ("a.b.internal.example", true),
            ("notinternal.example", false),
            ("example", false),
            ("internal.example.evil.test", false),
            ("10.0.0.1", false),
        ] {
            assert_eq!(name.holds(&host(text)), held, "{text}");
        }
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (network, bits, text, held) in [
            ("10.0.0.0", 8, "10.255.0.1", true),
            ("10.0.0.0", 8, "11.0.0.1", false),
            ("192.168.4.0", 22, "192.168.7.255", true),
            ("192.168.4.0", 22, "192.168.8.0", false),
            ("0.0.0.0", 0, "203.0.113.9", true),
            ("0.0.0.0", 0, "[2001:db8::1]", false),
            ("10.0.0.1", 32, "10.0.0.1", true),
            ("10.0.0.1", 32, "10.0.0.0", false),
            ("fd00::", 8, "[fdff::1]", true),
            ("fd00::", 8, "[fc00::1]", false),
            ("::", 0, "[::1]", true),
            ("::1", 128, "[::1]", true),
        ] {
            let except = Except::Network(ip(network), bits);
            assert_eq!(except.holds(&host(text)), held, "{network}/{bits} {text}");
        }
        assert!(Except::Host(host("10.0.0.1")).holds(&host("10.0.0.1")));
        assert!(!Except::Host(host("10.0.0.1")).holds(&host("10.0.0.2")));
    }
}
