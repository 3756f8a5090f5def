//! How answers are written: JSON, or a problem document (RFC 9457), and never kept by anybody on the way.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};

/// A refusal: a word for programs and a sentence for people.
pub(super) fn refuse(status: StatusCode, code: &str, what: &str) -> Response<Full<Bytes>> {
    written(
        status,
        "application/problem+json",
        &problem(status, code, what),
    )
}

/// A refusal for several reasons at once.
pub(super) fn refuse_all(
    status: StatusCode,
    code: &str,
    problems: &[String],
) -> Response<Full<Bytes>> {
    let mut problem = problem(status, code, &problems.join("\n"));
    problem["problems"] = json!(problems);
    written(status, "application/problem+json", &problem)
}

fn problem(status: StatusCode, code: &str, what: &str) -> Value {
    json!({
        "type": format!("urn:tokenward:admin:{code}"),
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": what,
        "code": code,
    })
}

pub(super) fn json_answer(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    written(status, "application/json", value)
}

fn written(status: StatusCode, kind: &'static str, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{value}\n"))));
    *response.status_mut() = status;
    sealed(&mut response, kind);
    response
}

/// What every answer says of itself: no cache keeps it, nothing guesses at its type, no page frames it.
pub(super) fn sealed<B>(response: &mut Response<B>, kind: &'static str) {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
