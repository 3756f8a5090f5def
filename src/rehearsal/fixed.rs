//! The API that takes an API key, a fixed bearer token, or a bearer token of the issuer. Bound tokens are refused:
//! they have another home.

use http::header::{AUTHORIZATION, HeaderName, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, Response};
use hyper::body::Incoming;

use super::controls::Service;
use super::reply::{self, Body, Cut};
use super::routes;
use super::seen::Visit;
use super::server::Wire;
use super::stage::Stage;
use super::verify;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Answers a request to the static API.
///
/// # Errors
/// [`Cut`] where the client breaks off or the connection is to be cut.
pub(super) async fn answer(
    stage: &Stage,
    visit: &Visit,
    wire: &Wire,
    head: Parts,
    body: Incoming,
) -> Result<Response<Body>, Cut> {
    let path = head.uri.path().to_owned();
    match admit(stage, visit, &head, &path) {
        Ok(()) => routes::answer(wire, head, &path, body).await,
        Err((status, note)) => {
            visit.note(note);
            reply::drain(body).await;
            let mut response = reply::json(status, &serde_json::json!({"error": note}));
            if status == 401 {
                let headers = response.headers_mut();
                let challenge = "Bearer realm=\"rehearsal\", error=\"invalid_token\"";
                reply::add(headers, WWW_AUTHENTICATE, challenge);
            }
            Ok(response)
        }
    }
}

fn admit(
    stage: &Stage,
    visit: &Visit,
    head: &Parts,
    path: &str,
) -> Result<(), (u16, &'static str)> {
    let keys = lines(&head.headers, &X_API_KEY);
    let tokens = lines(&head.headers, &AUTHORIZATION);
    match (keys.as_slice(), tokens.as_slice()) {
        ([key], []) if *key == stage.api_key => Ok(()),
        ([], [line]) => {
            let (scheme, token) = line.split_once(' ').unwrap_or((line, ""));
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err((401, "not the Bearer scheme"));
            }
            if token == stage.bearer_key {
                return Ok(());
            }
            by_token(stage, visit, head, path, token)
        }
        ([], []) => Err((401, "no credential")),
        ([_], []) => Err((401, "wrong key")),
        _ => Err((400, "more than one credential")),
    }
}

fn by_token(
    stage: &Stage,
    visit: &Visit,
    head: &Parts,
    path: &str,
    token: &str,
) -> Result<(), (u16, &'static str)> {
    let claims = verify::token(
        token,
        &stage.issuer_key.public(),
        &stage.issuer_url,
        &stage.static_origins,
        stage.now(Service::Static),
    )
    .map_err(|_| (401, "not a token for this API"))?;
    visit.client(&claims.client_id);
    if claims.cnf.is_some() || !stage.living_tokens.contains(&claims.jti) {
        return Err((401, "the token is bound or revoked"));
    }
    match routes::scope_for(&head.method, path) {
        Some(scope) if !claims.has_scope(scope) => Err((403, "the token lacks the scope")),
        _ => Ok(()),
    }
}

fn lines<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().unwrap_or_default())
        .collect()
}
