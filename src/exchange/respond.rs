//! The only place where a refusal becomes HTTP: a problem document (RFC 9457) with a `Proxy-Status` (RFC 9209), or a
//! trailers-only answer for gRPC.

use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode, Version};
use serde_json::json;

use super::body::AgentBody;
use super::media::Media;
use super::refusal::Refusal;
#[cfg(feature = "variants")]
use crate::vocab::variant::{self, Variant};
use crate::vocab::{Code, RequestId};

/// What the answer's form depends on.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// The media type of an answer in which the outcome is all there is.
    grpc: Option<&'static str>,
    version: Version,
}

impl Form {
    /// Reads from a request's head what its refusal would have to look like.
    #[must_use]
    pub fn of(method: &Method, headers: &HeaderMap, version: Version) -> Self {
        let outcome = Media::of(headers).outcome();
        Self {
            // A CONNECT that is refused must not look like an open tunnel, whatever it calls its body.
            grpc: outcome.filter(|_| method != Method::CONNECT),
            version,
        }
    }

    /// The status of the answer to a refusal.
    pub(super) fn status(self, code: Code) -> u16 {
        if self.trailers_only(code).is_some() {
            200
        } else {
            code.status()
        }
    }

    fn trailers_only(self, code: Code) -> Option<&'static str> {
        self.grpc.filter(|_| code != Code::AgentUnauthenticated)
    }

    /// For requests whose head was never read.
    #[must_use]
    pub fn plain(version: Version) -> Self {
        Self {
            grpc: None,
            version,
        }
    }
}

/// Turns a refusal into an answer.
#[must_use]
pub fn respond(refusal: &Refusal, id: RequestId, form: Form) -> Response<AgentBody> {
    let code = refusal.code;
    let mut response = match form.trailers_only(code) {
        Some(kind) => trailers_only(code, kind),
        None => problem(refusal, id),
    };
    let headers = response.headers_mut();
    put(headers, "proxy-status", &proxy_status(refusal));
    if let Some(wait) = refusal.retry_after() {
        put(headers, "retry-after", &seconds(wait).to_string());
    }
    if code == Code::AgentUnauthenticated {
        put(
            headers,
            "proxy-authenticate",
            "Basic realm=\"tokenward\", charset=\"UTF-8\"",
        );
    }
    if code == Code::MethodNotSupported {
        put(
            headers,
            "allow",
            "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
        );
    }
    // What was ambiguous may have been read to the wrong end: the connection has no second request.
    let ends = matches!(
        code,
        Code::BadRequest
            | Code::AuthorityMismatch
            | Code::RequestTimeout
            | Code::HeadTooLarge
            | Code::UriTooLong
            | Code::UpgradeNotSupported
    );
    if ends && form.version != Version::HTTP_2 {
        put(headers, "connection", "close");
    }
    response
}

/// The same answer as the bytes of HTTP/1.1, for a connection whose parser was never given the head.
pub(super) fn last_words(refusal: &Refusal, id: RequestId) -> Bytes {
    let text = document(refusal, id);
    let Ok(status) = StatusCode::from_u16(refusal.code.status()) else {
        return Bytes::new();
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\n\
         proxy-status: {}\r\ncontent-length: {}\r\nconnection: close\r\n",
        proxy_status(refusal),
        text.len()
    );
    let retry = refusal.retry_after().map_or_else(String::new, |wait| {
        format!("retry-after: {}\r\n", seconds(wait))
    });
    Bytes::from(format!("{head}{retry}\r\n{text}"))
}

/// Whole seconds, rounded up: an early retry would be refused again.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

fn problem(refusal: &Refusal, id: RequestId) -> Response<AgentBody> {
    let code = refusal.code;
    let mut response = Response::new(AgentBody::whole(Bytes::from(document(refusal, id))));
    *response.status_mut() = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::BAD_GATEWAY);
    put(
        response.headers_mut(),
        "content-type",
        "application/problem+json",
    );
    put(response.headers_mut(), "cache-control", "no-store");
    response
}

fn document(refusal: &Refusal, id: RequestId) -> String {
    let code = refusal.code;
    let mut document = json!({
        "type": format!("urn:tokenward:problem:{code}"),
        "title": code.title(),
        "status": code.status(),
        "detail": detail(code),
        "instance": format!("urn:uuid:{id}"),
        "code": code.as_str(),
        "retryable": code.retryable(),
        "remedy": code.remedy().as_str(),
    });
    let mut set = |name: &str, value: serde_json::Value| document[name] = value;
    if let Some(service) = &refusal.service {
        set("service", json!(service.as_str()));
    }
    if let Some(rule) = &refusal.rule {
        set("rule", json!(rule.as_str()));
    }
    if let Some(wait) = refusal.retry_after() {
        set("retry_after", json!(wait.as_secs()));
    }
    if let Some(error) = refusal.oauth_error {
        set("oauth_error", json!(error));
    }
    #[cfg(feature = "variants")]
    if variant::broken(Variant::EchoUpstreamErrors) {
        set("detail", json!(variant::overheard()));
    }
    if let Some(status) = refusal.upstream_status {
        set("upstream_status", json!(status));
    }
    document.to_string()
}

/// One sentence more than the title where there is something to do.
fn detail(code: Code) -> &'static str {
    match code {
        Code::PolicyDenied => {
            "Nothing was sent. An operator can add a rule; `tokenward explain` prints the line."
        }
        Code::DestinationDenied => {
            "Nothing was sent. An operator can add the host to a service of this agent."
        }
        Code::PlaceholderRequired => {
            "Send the placeholder from the environment that `tokenward env` prints."
        }
        Code::SignedRequest => {
            "A signature (AWS Signature Version 4) cannot be exchanged for a credential, and tokenward does not sign for this service."
        }
        Code::DpopNonceRetry => {
            "The body was streamed and not kept, so only the caller can send it again."
        }
        Code::DpopProofRejected => "Check the clock offset and the service's `htu` setting.",
        Code::ReauthorizationRequired => {
            "An operator has to run `tokenward login` for this service."
        }
        Code::TlsRequired => "Use https.",
        code => code.title(),
    }
}

/// gRPC over HTTP 200 with the outcome in the head (gRPC over HTTP/2, "Trailers-Only").
fn trailers_only(code: Code, kind: &str) -> Response<AgentBody> {
    let status = match code.status() {
        403 => 7,
        407 => 16,
        429 => 8,
        502 | 503 => 14,
        504 => 4,
        500 => 13,
        501 => 12,
        _ => 9,
    };
    let mut response = Response::new(AgentBody::empty());
    let headers = response.headers_mut();
    put(headers, "content-type", kind);
    put(headers, "grpc-status", &status.to_string());
    put(headers, "grpc-message", code.as_str());
    response
}

fn proxy_status(refusal: &Refusal) -> String {
    let code = refusal.code;
    let mut text = format!(
        "tokenward; error={}; details=\"{code}\"",
        code.proxy_error().as_str()
    );
    if let Some(status) = refusal.upstream_status {
        text.push_str(&format!("; received-status={status}"));
    }
    text
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::ServiceName;

    fn answer(refusal: &Refusal, form: Form) -> Response<AgentBody> {
        respond(refusal, RequestId::from_random([1; 16]), form)
    }

    #[test]
    fn every_code_has_an_answer_without_401() {
        for code in Code::ALL {
            let response = answer(&Refusal::from(*code), Form::plain(Version::HTTP_11));
            assert_eq!(response.status().as_u16(), code.status());
            let status = response.headers()["proxy-status"].to_str().unwrap();
            assert!(
                status.starts_with("tokenward; error=") && status.contains(code.as_str()),
                "{status}"
            );
            assert_eq!(
                response.headers().contains_key("retry-after"),
                code.retryable(),
                "{code}"
            );
        }
    }

    #[test]
    fn grpc_callers_get_trailers_only() {
        let mut headers = HeaderMap::new();
        headers.insert(
            "content-type",
            HeaderValue::from_static("application/grpc+proto"),
        );
        let form = Form::of(&Method::POST, &headers, Version::HTTP_2);
        let response = answer(&Refusal::from(Code::PolicyDenied), form);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "7");
        assert_eq!(response.headers()["grpc-message"], "policy-denied");
    }

    #[tokio::test]
    async fn the_document_is_a_problem_of_rfc_9457() {
        let refusal = Refusal::from(Code::AsUnavailable).about(&ServiceName::new("items").unwrap());
        let response = answer(&refusal, Form::plain(Version::HTTP_11));
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        let body = response.into_body().text().await;
        let document: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(document["type"], "urn:tokenward:problem:as-unavailable");
        assert_eq!(document["service"], "items");
        assert_eq!(document["retryable"], true);
        assert_eq!(
            document["instance"],
            "urn:uuid:01010101-0101-4101-8101-010101010101"
        );
    }

    #[test]
    fn an_ambiguous_request_has_no_successor_on_its_connection() {
        let response = answer(
            &Refusal::from(Code::BadRequest),
            Form::plain(Version::HTTP_11),
        );
        assert_eq!(response.headers()["connection"], "close");
        let h2 = answer(
            &Refusal::from(Code::BadRequest),
            Form::plain(Version::HTTP_2),
        );
        assert!(!h2.headers().contains_key("connection"));
    }
}
