//! The authorization server: metadata (RFC 8414), keys, and a token endpoint for client credentials with DPoP
//! (RFC 9449 §5, §8) and resource indicators (RFC 8707).

use http::header::{CONTENT_TYPE, HeaderName, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, Method, Response};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::clients::{Client, TokenKind, authenticate};
use super::controls::{ExpiresIn, Introspection, IssuerSettings, MetadataFault, Service};
use super::form;
use super::jose::random_text;
use super::reply::{self, Body, Cut};
use super::seen::Visit;
use super::stage::Stage;
use super::verify::{self, ProofFault, TokenClaims};

const DPOP: HeaderName = HeaderName::from_static("dpop");
pub(super) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// A refusal of the token endpoint (RFC 6749 §5.2).
pub(super) struct Refused {
    status: u16,
    error: &'static str,
    note: String,
}

impl Refused {
    fn new(status: u16, error: &'static str, note: impl ToString) -> Self {
        Self {
            status,
            error,
            note: note.to_string(),
        }
    }

    pub(super) fn client(note: &str) -> Self {
        Self::new(401, "invalid_client", note)
    }

    pub(super) fn request(note: &str) -> Self {
        Self::new(400, "invalid_request", note)
    }

    fn proof(fault: impl ToString) -> Self {
        Self::new(400, "invalid_dpop_proof", fault)
    }
}

/// Answers a request to the authorization server.
///
/// # Errors
/// [`Cut`] where the client breaks off.
pub(super) async fn answer(
    stage: &Stage,
    visit: &Visit,
    head: &Parts,
    body: Incoming,
) -> Result<Response<Body>, Cut> {
    let settings = stage.controls.issuer_now();
    let path = head.uri.path();
    if head.method == Method::GET && path == stage.metadata_path() {
        return Ok(metadata(stage, &settings));
    }
    if head.method == Method::GET && path == stage.issuer_path("/jwks") {
        return Ok(reply::json(200, &json!({"keys": [stage.issuer_key.jwk()]})));
    }
    let revokes = path == stage.issuer_path("/revoke");
    let asked_after = path == stage.issuer_path("/introspect");
    if path != stage.issuer_path("/token") && !revokes && !asked_after {
        return Ok(reply::empty(404));
    }
    if head.method != Method::POST {
        return Ok(reply::empty(405));
    }
    let (bytes, _) = reply::read(body, 64 * 1024).await?;
    let answer = if asked_after {
        introspect(stage, &settings, visit, &head.headers, &bytes)
    } else if revokes {
        revoke(stage, &settings, visit, &head.headers, &bytes)
    } else {
        token(stage, &settings, visit, &head.headers, &bytes)
    };
    let mut response = answer.unwrap_or_else(|refused| {
        visit.note(&refused.note);
        refusal(&refused)
    });
    if let Some(nonce) = stage.issuer_memory.nonces.to_send(settings.nonces) {
        reply::add(response.headers_mut(), DPOP_NONCE, &nonce);
    }
    Ok(response)
}

fn refusal(refused: &Refused) -> Response<Body> {
    let body = json!({"error": refused.error, "error_description": refused.note});
    let mut response = reply::json(refused.status, &body);
    if refused.status == 401 {
        let headers = response.headers_mut();
        reply::add(headers, WWW_AUTHENTICATE, "Basic realm=\"rehearsal\"");
    }
    response
}

fn metadata(stage: &Stage, settings: &IssuerSettings) -> Response<Body> {
    let issuer = &stage.issuer_url;
    let mut document = json!({
        "issuer": issuer,
        "token_endpoint": stage.token_endpoint(),
        "jwks_uri": format!("{issuer}/jwks"),
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported":
            ["private_key_jwt", "client_secret_basic", "client_secret_post"],
        "token_endpoint_auth_signing_alg_values_supported": ["ES256"],
        "dpop_signing_alg_values_supported": ["ES256"],
    });
    if settings.introspection.is_some() {
        document["introspection_endpoint"] = json!(format!("{issuer}/introspect"));
    }
    if settings.revokes {
        document["revocation_endpoint"] = json!(format!("{issuer}/revoke"));
    }
    const ALGORITHMS: &str = "dpop_signing_alg_values_supported";
    match &settings.metadata {
        None => {}
        Some(MetadataFault::Algorithms(names)) => document[ALGORITHMS] = json!(names),
        Some(MetadataFault::DuplicateMembers) => {
            let text = doubled("issuer", "https://other.rehearsal.test", &document);
            return reply::with(200, "application/json", text);
        }
        Some(MetadataFault::Huge) => {
            return reply::streamed(200, "application/json", reply::Filler::new(b' ', 8 << 20));
        }
        Some(MetadataFault::HttpTokenEndpoint) => {
            let plain = stage.token_endpoint().replacen("https:", "http:", 1);
            document["token_endpoint"] = json!(plain);
        }
        Some(MetadataFault::NoDpop) => {
            if let Some(members) = document.as_object_mut() {
                members.remove(ALGORITHMS);
            }
        }
        Some(MetadataFault::TokenEndpoint(url)) => document["token_endpoint"] = json!(url),
        Some(MetadataFault::WrongIssuer) => document["issuer"] = json!(format!("{issuer}/other")),
    }
    reply::json(200, &document)
}

/// The document's text with one more member of a name that it has already, in front.
fn doubled(name: &str, value: &str, document: &Value) -> String {
    let text = document.to_string();
    let rest = text.strip_prefix('{').unwrap_or_default();
    format!("{{{}:{},{rest}", json!(name), json!(value))
}

/// RFC 7662, for clients of ours only.
fn introspect(
    stage: &Stage,
    settings: &IssuerSettings,
    visit: &Visit,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response<Body>, Refused> {
    let (form, _) = asked((stage, settings), visit, headers, body)?;
    let token = form::value(&form, "token").ok_or_else(|| Refused::request("no token"))?;
    let living = ours(stage, token).is_some_and(|claims| stage.living_tokens.contains(&claims.jti));
    match settings.introspection {
        None | Some(Introspection::Refused) => Err(Refused::client("not for this client")),
        Some(Introspection::AlwaysNo) => Ok(reply::json(200, &json!({"active": false}))),
        Some(Introspection::Honest) => Ok(reply::json(200, &json!({"active": living}))),
    }
}

fn token(
    stage: &Stage,
    settings: &IssuerSettings,
    visit: &Visit,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response<Body>, Refused> {
    let (form, client) = asked((stage, settings), visit, headers, body)?;
    match form::value(&form, "grant_type") {
        Some("client_credentials") => {}
        Some(_) => return Err(Refused::new(400, "unsupported_grant_type", "grant_type")),
        None => return Err(Refused::request("no grant_type")),
    }
    let jkt = match client.registration.kind {
        TokenKind::Bearer if headers.contains_key(DPOP) => {
            return Err(Refused::proof("a proof from a bearer client"));
        }
        TokenKind::Bearer => None,
        TokenKind::Dpop => Some(checked_proof(stage, settings, headers)?),
        TokenKind::RefreshOnly => {
            checked_proof(stage, settings, headers)?;
            None
        }
    };
    let audience = audience(stage, client, &form)?;
    let scope = match &settings.scope {
        Some(other) => other.clone(),
        None => granted(client, form::value(&form, "scope"))?,
    };
    issue(stage, settings, client, jkt.as_deref(), &audience, &scope)
}

/// RFC 7009 §2: the client proves its name, the token is its own or nobody's, and then it is over.
fn revoke(
    stage: &Stage,
    settings: &IssuerSettings,
    visit: &Visit,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Response<Body>, Refused> {
    let (form, client) = asked((stage, settings), visit, headers, body)?;
    let token = form::value(&form, "token").ok_or_else(|| Refused::request("no token"))?;
    // RFC 7009 §2.2: a token that nobody knows is over already.
    if let Some(claims) = ours(stage, token) {
        if claims.client_id != client.registration.id {
            return Err(Refused::new(400, "invalid_grant", "another client's token"));
        }
        stage.living_tokens.take(&claims.jti);
    }
    Ok(reply::empty(200))
}

/// Names and values, in their order.
type Form = Vec<(String, String)>;

/// Who asks for what: the form, and the client that has proved its name.
fn asked<'a>(
    (stage, settings): (&'a Stage, &IssuerSettings),
    visit: &Visit,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(Form, &'a Client), Refused> {
    let form = read_form(headers, body)?;
    visit.form(&form);
    let client = authenticate(stage, settings, headers, &form)?;
    visit.client(&client.registration.id);
    Ok((form, client))
}

/// What an access token of ours says, for whichever API it is.
fn ours(stage: &Stage, token: &str) -> Option<TokenClaims> {
    let all = stage.api_origins.iter().chain(&stage.static_origins);
    let all: Vec<String> = all.cloned().collect();
    let (key, now) = (stage.issuer_key.public(), stage.now(Service::Issuer));
    verify::token(token, &key, &stage.issuer_url, &all, now).ok()
}

fn read_form(headers: &HeaderMap, body: &[u8]) -> Result<Vec<(String, String)>, Refused> {
    let kind = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let kind = kind
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default();
    if !kind
        .trim()
        .eq_ignore_ascii_case("application/x-www-form-urlencoded")
    {
        return Err(Refused::request("content type"));
    }
    let form = std::str::from_utf8(body)
        .ok()
        .and_then(form::pairs)
        .ok_or_else(|| Refused::request("unreadable form"))?;
    // RFC 6749 §3.2: parameters MUST NOT be included more than once.
    for (at, (name, _)) in form.iter().enumerate() {
        if form.iter().take(at).any(|(earlier, _)| earlier == name) {
            return Err(Refused::request("a parameter twice"));
        }
    }
    Ok(form)
}

fn checked_proof(
    stage: &Stage,
    settings: &IssuerSettings,
    headers: &HeaderMap,
) -> Result<String, Refused> {
    let mut proofs = headers.get_all(DPOP).iter();
    let (Some(proof), None) = (proofs.next(), proofs.next()) else {
        return Err(Refused::proof("not exactly one proof"));
    };
    let proof = proof
        .to_str()
        .map_err(|_| Refused::proof(ProofFault::Shape))?;
    let request = verify::Request {
        method: "POST",
        uris: &[stage.token_endpoint()],
        token: None,
        now: stage.now(Service::Issuer),
        window: settings.iat_window,
    };
    let good = verify::proof(proof, &request).map_err(Refused::proof)?;
    // Spent before the nonce is looked at: whoever answers a challenge must sign anew.
    if !stage.issuer_memory.proofs.spend(&good.jti) {
        return Err(Refused::proof("jti was used before"));
    }
    let nonces = &stage.issuer_memory.nonces;
    let accepted = nonces.accepts(settings.nonces, good.nonce.as_deref());
    if !accepted || settings.always_challenge {
        if settings.always_challenge {
            nonces.rotate();
        }
        let note = "the proof needs another nonce";
        return Err(Refused::new(
            settings.challenge_status,
            "use_dpop_nonce",
            note,
        ));
    }
    Ok(good.jkt)
}

fn audience(stage: &Stage, client: &Client, form: &[(String, String)]) -> Result<String, Refused> {
    let known = || stage.api_origins.iter().chain(&stage.static_origins);
    let asked = form::value(form, "resource").or_else(|| form::value(form, "audience"));
    let bound = client.registration.kind == TokenKind::Dpop;
    let home = if bound {
        &stage.api_origins
    } else {
        &stage.static_origins
    };
    match asked {
        Some(asked) => known().find(|origin| *origin == asked).cloned(),
        None => home.first().cloned(),
    }
    .ok_or_else(|| Refused::new(400, "invalid_target", "unknown resource"))
}

fn granted(client: &Client, asked: Option<&str>) -> Result<String, Refused> {
    let allowed = &client.registration.scopes;
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else {
        return Ok(allowed.join(" "));
    };
    if asked
        .split(' ')
        .all(|one| allowed.iter().any(|scope| scope == one))
    {
        Ok(asked.to_owned())
    } else {
        Err(Refused::new(
            400,
            "invalid_scope",
            "not registered for this client",
        ))
    }
}

fn issue(
    stage: &Stage,
    settings: &IssuerSettings,
    client: &Client,
    jkt: Option<&str>,
    audience: &str,
    scope: &str,
) -> Result<Response<Body>, Refused> {
    let failed = |_| Refused::new(500, "server_error", "no randomness");
    let jti = random_text(16).map_err(failed)?;
    let other_jkt = random_text(32).map_err(failed)?;
    let now = stage.now(Service::Issuer);
    let life = i64::try_from(settings.token_life).unwrap_or(i64::MAX);
    let id = &client.registration.id;
    let mut claims = json!({
        "iss": stage.issuer_url, "sub": id, "client_id": id, "aud": audience, "scope": scope,
        "iat": now, "exp": now.saturating_add(life), "jti": jti,
    });
    if let Some(jkt) = jkt {
        let jkt = if settings.wrong_jkt { &other_jkt } else { jkt };
        claims["cnf"] = json!({"jkt": jkt});
    }
    let kid = stage.issuer_key.jwk().thumbprint();
    let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": kid});
    let token = stage.issuer_key.sign(&header, &claims);
    stage.living_tokens.spend(&jti);

    let true_type = if jkt.is_some() { "DPoP" } else { "Bearer" };
    let mut answer = Map::new();
    answer.insert("access_token".into(), json!(token));
    let kind = settings.token_type.as_deref().unwrap_or(true_type);
    answer.insert("token_type".into(), json!(kind));
    match &settings.expires_in {
        ExpiresIn::Omitted => {}
        ExpiresIn::Said(value) => {
            answer.insert("expires_in".into(), value.clone());
        }
        ExpiresIn::Truth => {
            answer.insert("expires_in".into(), json!(settings.token_life));
        }
    }
    if !settings.omit_scope {
        answer.insert("scope".into(), json!(scope));
    }
    let answer = Value::Object(answer);
    let text = if settings.duplicate_members {
        doubled("access_token", "other", &answer)
    } else {
        answer.to_string()
    };
    Ok(reply::with(200, "application/json", text))
}
