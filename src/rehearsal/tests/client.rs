//! A client that can do everything right, so that a test can do one thing wrong.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::rehearsal::jose::{Key, random_text, sha256_base64url};
use crate::rehearsal::{Options, Rehearsal, Service};

pub(super) struct Got {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) trailers: HeaderMap,
}

impl Got {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap())
    }

    pub(super) fn error(&self) -> String {
        self.json()["error"].as_str().unwrap().to_owned()
    }
}

pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;

pub(super) struct Client {
    pub(super) rehearsal: Rehearsal,
    pub(super) key: Key,
    pub(super) h2: bool,
}

impl Client {
    pub(super) async fn start() -> Self {
        Self::with(Options::default()).await
    }

    pub(super) async fn with(options: Options) -> Self {
        Self {
            rehearsal: Rehearsal::start(options).await.unwrap(),
            key: Key::generate().unwrap(),
            h2: false,
        }
    }

    pub(super) async fn tls(
        &self,
        at: SocketAddr,
        name: &str,
    ) -> Result<TlsStream<TcpStream>, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(
            self.rehearsal.ca_pem().as_bytes(),
        )?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![if self.h2 { "h2" } else { "http/1.1" }.into()];
        let stream = TcpStream::connect(at).await?;
        let name = ServerName::try_from(name.to_owned())?;
        Ok(TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?)
    }

    pub(super) async fn try_send(&self, request: Request<Full<Bytes>>) -> Result<Got, Error> {
        let host = request.uri().host().unwrap().to_owned();
        let at = match host.split('.').next().unwrap() {
            "issuer" => self.rehearsal.issuer_addr(),
            "static" | "plain" => self.rehearsal.static_addr(),
            _ => self.rehearsal.api_addr(),
        };
        let io = TokioIo::new(self.tls(at, &host).await?);
        let response = if self.h2 {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            sender.send_request(request).await?
        } else {
            let (mut sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            let (mut head, body) = request.into_parts();
            let authority = head.uri.authority().unwrap().as_str().parse().unwrap();
            head.headers.entry("host").or_insert(authority);
            head.uri = head.uri.path_and_query().unwrap().as_str().parse()?;
            sender.send_request(Request::from_parts(head, body)).await?
        };
        let (head, mut incoming) = response.into_parts();
        let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
        while let Some(frame) = incoming.frame().await {
            match frame?.into_data() {
                Ok(data) => body.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().unwrap(),
            }
        }
        Ok(Got {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
            trailers,
        })
    }

    pub(super) async fn send(&self, request: Request<Full<Bytes>>) -> Got {
        self.try_send(request).await.unwrap()
    }

    pub(super) async fn fetch(&self, url: &str) -> Got {
        self.send(Request::get(url).body(Full::default()).unwrap())
            .await
    }

    pub(super) fn now() -> i64 {
        crate::vocab::Clock::system().wall().seconds()
    }

    /// The claims of a good proof.
    pub(super) fn claims(
        method: &str,
        htu: &str,
        token: Option<&str>,
        nonce: Option<&str>,
    ) -> Value {
        let mut claims = json!({
            "htm": method, "htu": htu, "iat": Self::now(), "jti": random_text(16).unwrap(),
        });
        if let Some(token) = token {
            claims["ath"] = json!(sha256_base64url(token));
        }
        if let Some(nonce) = nonce {
            claims["nonce"] = json!(nonce);
        }
        claims
    }

    pub(super) fn proof(&self, claims: &Value) -> String {
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.key.jwk()});
        self.key.sign(&header, claims)
    }

    fn client_key(&self, id: &str) -> &Key {
        let clients = &self.rehearsal.stage.clients;
        &clients
            .iter()
            .find(|c| c.registration.id == id)
            .unwrap()
            .key
    }

    /// The claims of a good client assertion.
    pub(super) fn assertion_claims(&self, id: &str) -> Value {
        let now = Self::now();
        json!({
            "iss": id, "sub": id, "aud": self.rehearsal.issuer_url(),
            "iat": now, "exp": now + 60, "jti": random_text(16).unwrap(),
        })
    }

    pub(super) fn assertion(&self, id: &str, typ: &str, claims: &Value) -> String {
        self.client_key(id)
            .sign(&json!({"alg": "ES256", "typ": typ}), claims)
    }

    /// The form of a good request of a `private_key_jwt` client.
    pub(super) fn form(&self, id: &str) -> String {
        let claims = self.assertion_claims(id);
        self.form_with(&self.assertion(id, "client-authentication+jwt", &claims))
    }

    pub(super) fn form_with(&self, assertion: &str) -> String {
        format!(
            "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3A\
             client-assertion-type%3Ajwt-bearer&client_assertion={assertion}"
        )
    }

    pub(super) fn token_request(&self) -> http::request::Builder {
        Request::post(self.rehearsal.token_endpoint())
            .header("content-type", "application/x-www-form-urlencoded")
    }

    pub(super) async fn ask(&self, form: &str, nonce: Option<&str>) -> Got {
        let claims = Self::claims("POST", &self.rehearsal.token_endpoint(), None, nonce);
        let request = self
            .token_request()
            .header("dpop", self.proof(&claims))
            .body(Full::from(form.to_owned()))
            .unwrap();
        self.send(request).await
    }

    /// A nonce of the issuer, from its challenge.
    pub(super) async fn issuer_nonce(&self) -> String {
        let challenged = self.ask(&self.form("svc-pkjwt"), None).await;
        assert_eq!(challenged.status, 400);
        challenged.header("dpop-nonce").to_owned()
    }

    /// An access token of a DPoP client.
    pub(super) async fn token(&self, more: &str) -> String {
        let nonce = self.issuer_nonce().await;
        let form = self.form("svc-pkjwt") + more;
        let got = self.ask(&form, Some(&nonce)).await;
        assert_eq!(got.status, 200, "{}", String::from_utf8_lossy(&got.body));
        got.json()["access_token"].as_str().unwrap().to_owned()
    }

    /// A nonce of the API.
    pub(super) async fn api_nonce(&self, token: &str) -> String {
        let got = self.call("GET", "/v1/items", token, None).await;
        got.header("dpop-nonce").to_owned()
    }

    pub(super) fn api_request(
        &self,
        method: &str,
        path: &str,
        token: &str,
        nonce: Option<&str>,
    ) -> http::request::Builder {
        let url = format!("{}{path}", self.rehearsal.api_origin());
        let htu = url.split('?').next().unwrap();
        let claims = Self::claims(method, htu, Some(token), nonce);
        Request::builder()
            .method(method)
            .uri(&url)
            .header("authorization", format!("DPoP {token}"))
            .header("dpop", self.proof(&claims))
    }

    pub(super) async fn call(
        &self,
        method: &str,
        path: &str,
        token: &str,
        nonce: Option<&str>,
    ) -> Got {
        let request = self.api_request(method, path, token, nonce);
        self.send(request.body(Full::default()).unwrap()).await
    }

    pub(super) fn last_note(&self, service: Service) -> String {
        let seen = self.rehearsal.seen_by(service);
        seen.last().unwrap().note.clone().unwrap_or_default()
    }
}

pub(super) fn basic(id: &str, secret: &str) -> String {
    use base64::Engine as _;
    let encode = |text: &str| -> String {
        text.bytes()
            .map(|b| match b {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(b).to_string(),
                b' ' => "+".into(),
                other => format!("%{other:02X}"),
            })
            .collect()
    };
    let pair = format!("{}:{}", encode(id), encode(secret));
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(pair)
    )
}

pub(super) fn encoded(text: &str) -> String {
    text.bytes().map(|b| format!("%{b:02X}")).collect()
}
