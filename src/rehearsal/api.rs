//! The API that takes DPoP-bound tokens only (RFC 9449 §7, §9), and says no in every way that servers say no.

use http::header::{AUTHORIZATION, HeaderName, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, Response};
use hyper::body::Incoming;

use super::controls::{ApiSettings, ChallengeForm, ChallengeNonce, HtuRule, Service};
use super::form;
use super::issuer::DPOP_NONCE;
use super::reply::{self, Body, Cut};
use super::routes;
use super::seen::Visit;
use super::server::Wire;
use super::stage::Stage;
use super::verify::{self, GoodProof, ProofFault, TokenClaims};

const DPOP: HeaderName = HeaderName::from_static("dpop");

/// A request that is not let in.
struct Refusal {
    status: u16,
    error: Option<&'static str>,
    scope: Option<&'static str>,
    note: String,
}

impl Refusal {
    fn new(status: u16, error: &'static str, note: impl ToString) -> Self {
        Self {
            status,
            error: Some(error),
            scope: None,
            note: note.to_string(),
        }
    }
}

/// Answers a request to the DPoP API.
///
/// # Errors
/// [`Cut`] where the client breaks off or the connection is to be cut.
pub(super) async fn answer(
    stage: &Stage,
    visit: &Visit,
    wire: &Wire,
    authority: &str,
    head: Parts,
    body: Incoming,
) -> Result<Response<Body>, Cut> {
    let settings = stage.controls.api_now();
    let path = effective_path(&settings.htu, head.uri.path()).to_owned();
    let mut response = match admit(stage, &settings, visit, authority, &head, &path) {
        Ok(()) => routes::answer(wire, head, &path, body).await?,
        Err(refusal) => {
            visit.note(&refusal.note);
            if !settings.early_answer {
                reply::drain(body).await;
            }
            refused(stage, &settings, &head.headers, &refusal)
        }
    };
    if !response.headers().contains_key(DPOP_NONCE)
        && settings.challenge_nonce != ChallengeNonce::Missing
        && let Some(nonce) = stage.api_memory.nonces.to_send(settings.nonces)
    {
        reply::add(response.headers_mut(), DPOP_NONCE, &nonce);
    }
    Ok(response)
}

/// The path as the server behind a gateway knows it.
fn effective_path<'a>(rule: &HtuRule, path: &'a str) -> &'a str {
    match rule {
        HtuRule::Exact | HtuRule::PercentDecoded => path,
        HtuRule::WithoutPrefix(prefix) => path.strip_prefix(prefix.as_str()).unwrap_or(path),
    }
}

fn admit(
    stage: &Stage,
    settings: &ApiSettings,
    visit: &Visit,
    authority: &str,
    head: &Parts,
    path: &str,
) -> Result<(), Refusal> {
    let token = presented_token(settings, &head.headers)?;
    let claims = checked_token(stage, settings, token)?;
    visit.client(&claims.client_id);
    if !settings.trusting {
        let proof = checked_proof(stage, settings, authority, head, path, token)?;
        checked_binding(stage, settings, &claims, &proof)?;
    }
    match routes::scope_for(&head.method, path) {
        Some(scope) if !claims.has_scope(scope) => Err(Refusal {
            scope: Some(scope),
            ..Refusal::new(403, "insufficient_scope", "the token lacks the scope")
        }),
        _ => Ok(()),
    }
}

fn presented_token<'a>(settings: &ApiSettings, headers: &'a HeaderMap) -> Result<&'a str, Refusal> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let line = match (lines.next(), lines.next()) {
        (Some(line), None) => line,
        (None, _) => {
            return Err(Refusal {
                error: None,
                ..Refusal::new(settings.challenge_status, "", "no token")
            });
        }
        _ => {
            return Err(Refusal::new(
                400,
                "invalid_request",
                "two Authorization fields",
            ));
        }
    };
    let (scheme, token) = line
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .ok_or_else(|| Refusal::new(400, "invalid_request", "unreadable Authorization"))?;
    // RFC 9449 §7.2: a bound token must not pass as a bearer token.
    if scheme.eq_ignore_ascii_case("dpop") || settings.trusting {
        Ok(token)
    } else {
        let status = settings.challenge_status;
        Err(Refusal::new(status, "invalid_token", "not the DPoP scheme"))
    }
}

fn checked_token(
    stage: &Stage,
    settings: &ApiSettings,
    token: &str,
) -> Result<TokenClaims, Refusal> {
    let invalid = |note: String| Refusal::new(settings.challenge_status, "invalid_token", note);
    let claims = verify::token(
        token,
        &stage.issuer_key.public(),
        &stage.issuer_url,
        &stage.api_origins,
        stage.now(Service::Api),
    )
    .map_err(|fault| invalid(fault.to_string()))?;
    if settings.reject_tokens || !stage.living_tokens.contains(&claims.jti) {
        return Err(invalid("the token is revoked".into()));
    }
    Ok(claims)
}

fn checked_proof(
    stage: &Stage,
    settings: &ApiSettings,
    authority: &str,
    head: &Parts,
    path: &str,
    token: &str,
) -> Result<GoodProof, Refusal> {
    let invalid =
        |note: String| Refusal::new(settings.challenge_status, "invalid_dpop_proof", note);
    let mut lines = head.headers.get_all(DPOP).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(invalid("not exactly one DPoP field".into()));
    };
    let text = line
        .to_str()
        .map_err(|_| invalid(ProofFault::Shape.to_string()))?;
    let path = match settings.htu {
        HtuRule::PercentDecoded => {
            form::decode(&path.replace('+', "%2B")).unwrap_or_else(|| path.to_owned())
        }
        HtuRule::Exact | HtuRule::WithoutPrefix(_) => path.to_owned(),
    };
    let request = verify::Request {
        method: head.method.as_str(),
        uris: &[format!("https://{authority}{path}")],
        token: Some(token),
        now: stage.now(Service::Api),
        window: settings.iat_window,
    };
    verify::proof(text, &request).map_err(|fault| invalid(fault.to_string()))
}

fn checked_binding(
    stage: &Stage,
    settings: &ApiSettings,
    claims: &TokenClaims,
    proof: &GoodProof,
) -> Result<(), Refusal> {
    let status = settings.challenge_status;
    if claims.cnf.as_ref().map(|cnf| cnf.jkt.as_str()) != Some(proof.jkt.as_str()) {
        let note = "the token is bound to another key, or to none";
        return Err(Refusal::new(status, "invalid_token", note));
    }
    let memory = &stage.api_memory;
    // Spent before the nonce is looked at: whoever answers a challenge must sign anew.
    let fresh = memory.proofs.spend(&proof.jti);
    if !fresh || settings.reject_proofs {
        let note = if fresh {
            "every proof is refused"
        } else {
            "jti was used before"
        };
        return Err(Refusal::new(status, "invalid_dpop_proof", note));
    }
    let accepted = memory
        .nonces
        .accepts(settings.nonces, proof.nonce.as_deref());
    if accepted && !settings.always_challenge {
        return Ok(());
    }
    if settings.always_challenge {
        memory.nonces.rotate();
    }
    Err(Refusal::new(
        status,
        "use_dpop_nonce",
        "the proof needs another nonce",
    ))
}

fn refused(
    stage: &Stage,
    settings: &ApiSettings,
    headers: &HeaderMap,
    refusal: &Refusal,
) -> Response<Body> {
    let error = refusal.error.unwrap_or("unauthorized");
    let body = serde_json::json!({"error": error, "error_description": refusal.note});
    let mut response = reply::json(refusal.status, &body);
    let out = response.headers_mut();
    for line in challenges(settings.challenge, refusal) {
        reply::add(out, WWW_AUTHENTICATE, &line);
    }
    if refusal.error == Some("use_dpop_nonce") {
        // A server that wants nonces only while it always challenges still has to send some.
        let nonces = &stage.api_memory.nonces;
        let good = nonces
            .to_send(settings.nonces)
            .or_else(|| nonces.rotate())
            .unwrap_or_default();
        match settings.challenge_nonce {
            ChallengeNonce::Good => reply::add(out, DPOP_NONCE, &good),
            ChallengeNonce::Malformed => reply::add(out, DPOP_NONCE, "not \"one\" nonce"),
            ChallengeNonce::Missing => {}
            ChallengeNonce::Same => {
                let same = presented_nonce(headers).unwrap_or(good);
                reply::add(out, DPOP_NONCE, &same);
            }
            ChallengeNonce::Twice => {
                reply::add(out, DPOP_NONCE, &good);
                reply::add(out, DPOP_NONCE, "another-nonce");
            }
        }
    }
    response
}

fn presented_nonce(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(DPOP)?.to_str().ok()?;
    let compact = super::jose::Compact::parse(text)?;
    let claims: serde_json::Value = serde_json::from_slice(&compact.claims).ok()?;
    Some(claims.get("nonce")?.as_str()?.to_owned())
}

/// The lines of `WWW-Authenticate`. All of these mean the same to who reads RFC 9110 §11.6.1.
fn challenges(form: ChallengeForm, refusal: &Refusal) -> Vec<String> {
    let error = match refusal.error {
        Some(error) => format!("error=\"{error}\", "),
        None => String::new(),
    };
    let scope = match refusal.scope {
        Some(scope) => format!("scope=\"{scope}\", "),
        None => String::new(),
    };
    let dpop = format!("DPoP {error}{scope}algs=\"ES256\"");
    let bearer = "Bearer realm=\"rehearsal\"";
    match form {
        ChallengeForm::AfterBearer => vec![format!("{bearer}, {dpop}")],
        ChallengeForm::BearerOnly => vec![format!("{bearer}, error=\"invalid_token\"")],
        ChallengeForm::Dpop => vec![dpop],
        ChallengeForm::LastParameter => {
            let last = error.trim_end_matches([',', ' ']);
            vec![format!(
                "DPoP realm=\"a, Bearer error=\\\"x\\\", b\", algs=\"ES256\", {scope}{last}"
            )]
        }
        ChallengeForm::OddCase => {
            let bare = refusal.error.unwrap_or("unauthorized");
            vec![format!("dPOP ALGS=ES256 , ERROR={bare}")]
        }
        ChallengeForm::SecondLine => vec![bearer.to_owned(), dpop],
    }
}
