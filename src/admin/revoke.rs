//! `revoke` and `reload` for the operator: in which order things are ended, and what is said of them.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use super::answer::{json_answer, refuse, refuse_all};
use super::desk::{DeskFacts, Wish};
use super::logins::owner;
use crate::tokens::{Door, Fate, Return, Revocation, Revoked, Selection, Stopped};

/// Stops, cuts, then revokes; with `dry_run` only says what that would do.
pub(super) async fn revoke(
    door: &Arc<Door>,
    facts: &DeskFacts,
    wish: &Wish,
) -> Response<Full<Bytes>> {
    let selection = Selection {
        service: wish.service.clone(),
        agent: wish.agent.clone(),
    };
    let named = selection != Selection::default();
    if named == wish.all {
        let what = "say either `all`, or which `service` or `agent`";
        return refuse(StatusCode::BAD_REQUEST, "request", what);
    }
    let (done, cut) = if wish.dry_run {
        let grants = door.foresee(&selection, wish.compromise).await;
        let remembered = true;
        (Revocation { grants, remembered }, None)
    } else {
        // Nothing new is lent from here on, so what is cut now does not come back.
        door.stop(&selection, wish.compromise);
        let cut = (facts.sever)(&selection);
        (door.revoke(&selection, wish.compromise).await, Some(cut))
    };
    let grants: Value = done.grants.iter().map(show).collect();
    let body = json!({
        "dry_run": wish.dry_run,
        "compromise": wish.compromise,
        "cut": cut,
        "remembered": done.remembered,
        "grants": grants,
    });
    json_answer(StatusCode::OK, &body)
}

/// Takes the file into force, and lifts what was revoked without a compromise.
pub(super) async fn reload(door: &Arc<Door>, facts: &DeskFacts) -> Response<Full<Bytes>> {
    match (facts.reload)().await {
        Ok(generation) => {
            let restored = door.resume().await;
            let body = json!({"generation": generation, "restored": restored});
            json_answer(StatusCode::OK, &body)
        }
        Err(problems) => refuse_all(StatusCode::UNPROCESSABLE_ENTITY, "configuration", &problems),
    }
}

/// A stop that stands.
pub(super) fn show_stop(stop: &Stopped) -> Value {
    let returned: Value = stop
        .returned
        .iter()
        .map(|grant| json!({"service": grant.service.as_str(), "agent": owner(grant)}))
        .collect();
    json!({
        "service": stop.selection.service.as_ref().map(|name| name.as_str()),
        "agent": stop.selection.agent.as_ref().map(|name| name.as_str()),
        "compromise": stop.compromise,
        "came_back": returned,
    })
}

fn show(revoked: &Revoked) -> Value {
    let tokens: Value = revoked
        .tokens
        .iter()
        .map(|(kind, fate)| json!({"kind": kind, "issuer": word(*fate)}))
        .collect();
    json!({
        "service": revoked.grant.service.as_str(),
        "agent": owner(&revoked.grant),
        "grant": revoked.how,
        "shared_goes_on": revoked.rides,
        "tokens": tokens,
        "still_stored": revoked.still_stored,
        "comes_back_by": match revoked.back {
            Return::Login => "login",
            Return::NewValue => "new_value",
            Return::Reload => "reload",
            Return::Rotate => "rotate",
        },
    })
}

fn word(fate: Fate) -> &'static str {
    match fate {
        Fate::Confirmed => "confirmed",
        Fate::GivenUp => "given_up",
        Fate::Impossible => "impossible",
        Fate::Pending => "pending",
    }
}
