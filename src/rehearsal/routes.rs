//! The routes below `/v1` that both APIs have. Who may call them is decided before.

use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use futures_util::stream;
use http::header::{HOST, HeaderName, LOCATION};
use http::request::Parts;
use http::{HeaderMap, Method, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::form;
use super::reply::{self, Body, Cut};
use super::seen;
use super::server::Wire;
use super::websocket;

/// What `/v1/echo` and `/v1/items` take.
const BODY_MAX: usize = 16 * 1024 * 1024;

const TRAILER: HeaderName = HeaderName::from_static("trailer");

/// The scope that a route wants.
pub(super) fn scope_for(method: &Method, path: &str) -> Option<&'static str> {
    let items = path == "/v1/items" || path.starts_with("/v1/items/");
    match method.as_str() {
        "GET" | "HEAD" if items => Some("items:read"),
        "POST" if items => Some("items:write"),
        "DELETE" if items => Some("items:admin"),
        _ => None,
    }
}

/// Answers a request that was let in.
///
/// # Errors
/// [`Cut`] where the client breaks off.
pub(super) async fn answer(
    wire: &Wire,
    mut head: Parts,
    path: &str,
    body: Incoming,
) -> Result<Response<Body>, Cut> {
    let query = form::pairs(head.uri.query().unwrap_or_default()).unwrap_or_default();
    match path {
        "/v1/echo" => echo(&head, body).await,
        "/v1/upload" => upload(body).await,
        "/v1/download" => {
            let filler = reply::Filler::new(0, number(&query, "bytes", 0));
            Ok(reply::streamed(200, "application/octet-stream", filler))
        }
        "/v1/stream" => Ok(events(number(&query, "n", 3), number(&query, "ms", 10))),
        "/v1/trailers" => trailers(body).await,
        "/v1/slow" => {
            tokio::time::sleep(Duration::from_millis(number(&query, "ms", 100))).await;
            Ok(reply::json(200, &json!({"slow": true})))
        }
        "/v1/ws" => Ok(websocket::upgrade(wire, &mut head)),
        "/v1/redirect" => {
            let status = u16::try_from(number(&query, "status", 302)).unwrap_or(302);
            let mut response = reply::empty(status);
            let to = form::value(&query, "to").unwrap_or("/v1/items");
            reply::add(response.headers_mut(), LOCATION, to);
            Ok(response)
        }
        _ if path.starts_with("/v1/status/") => {
            reply::drain(body).await;
            Ok(status(path))
        }
        _ => items(&head.method, path, body).await,
    }
}

fn number(query: &[(String, String)], name: &str, otherwise: u64) -> u64 {
    form::value(query, name)
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

async fn items(method: &Method, path: &str, body: Incoming) -> Result<Response<Body>, Cut> {
    let (bytes, _) = reply::read(body, BODY_MAX).await?;
    if scope_for(&Method::GET, path).is_none() {
        return Ok(reply::empty(404));
    }
    let one = path.strip_prefix("/v1/items/").unwrap_or_default();
    Ok(match (method.as_str(), one) {
        ("GET" | "HEAD", "") => {
            let all = json!([{"id": "1", "name": "lamp"}, {"id": "2", "name": "chair"}]);
            reply::json(200, &json!({"items": all}))
        }
        ("GET" | "HEAD", id) => reply::json(200, &json!({"id": id, "name": "lamp"})),
        ("POST", _) => {
            let sent: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            reply::json(201, &json!({"id": "3", "sent": sent}))
        }
        ("DELETE", _) => reply::empty(204),
        _ => reply::empty(405),
    })
}

async fn echo(head: &Parts, body: Incoming) -> Result<Response<Body>, Cut> {
    let (bytes, trailers) = reply::read(body, BODY_MAX).await?;
    let host = head.uri.authority().map(|authority| authority.as_str());
    let host = host.or_else(|| head.headers.get(HOST).and_then(|h| h.to_str().ok()));
    Ok(reply::json(
        200,
        &json!({
            "method": head.method.as_str(),
            "path": head.uri.path(),
            "query": head.uri.query(),
            "host": host,
            "headers": seen::readable(&head.headers),
            "body": String::from_utf8_lossy(&bytes),
            "trailers": seen::readable(&trailers),
        }),
    ))
}

async fn upload(mut body: Incoming) -> Result<Response<Body>, Cut> {
    let (mut length, mut hash) = (0_usize, digest::Context::new(&digest::SHA256));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|_| Cut)?.into_data() {
            length += data.len();
            hash.update(&data);
        }
    }
    let hex: String = hash
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(reply::json(200, &json!({"length": length, "sha256": hex})))
}

/// Server-sent events, the next one only when the last one was taken.
fn events(count: u64, pause: u64) -> Response<Body> {
    let frames = stream::unfold(0, move |at| async move {
        if at >= count {
            return None;
        }
        if at > 0 {
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        let event = Bytes::from(format!("id: {at}\ndata: event {at}\n\n"));
        Some((Ok(Frame::data(event)), at + 1))
    });
    reply::streamed(200, "text/event-stream", StreamBody::new(frames))
}

async fn trailers(body: Incoming) -> Result<Response<Body>, Cut> {
    let (bytes, received) = reply::read(body, BODY_MAX).await?;
    let report = json!({"length": bytes.len(), "trailers": seen::readable(&received)});
    let mut fields = HeaderMap::new();
    reply::add(
        &mut fields,
        HeaderName::from_static("x-checksum"),
        "rehearsed",
    );
    let frames = stream::iter([
        Ok(Frame::data(Bytes::from(report.to_string()))),
        Ok(Frame::trailers(fields)),
    ]);
    let mut response = reply::streamed(200, "application/json", StreamBody::new(frames));
    reply::add(response.headers_mut(), TRAILER, "x-checksum");
    Ok(response)
}

fn status(path: &str) -> Response<Body> {
    let status = path.rsplit('/').next().and_then(|text| text.parse().ok());
    match status {
        // Interim answers are not for handlers to give; these two have no body.
        Some(status @ (204 | 304)) => reply::empty(status),
        Some(status @ 200..=999) => reply::json(status, &json!({"status": status})),
        _ => reply::empty(400),
    }
}
