//! What fuzz targets ask of this room, see `fuzz/`. It decides nothing itself.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

use super::answer::{Issued, Wanted, failure, oauth_error};
use crate::upstream::IssuerReply;
use crate::vocab::{Binding, ScopeSet, WallTime};

/// The token that a 200 with this JSON brings, where a DPoP-bound one was asked for with the key of this thumbprint.
#[must_use]
pub fn taken(body: &[u8], jkt: &str, scopes: &ScopeSet) -> Option<(String, ScopeSet)> {
    let issued = Issued::read(&reply(200, body)).ok()?;
    let wanted = Wanted {
        binding: Binding::Dpop,
        jkt: Some(jkt),
        scopes,
        most: None,
        certificate: None,
        exchanged: false,
        any_scopes: false,
    };
    let granted = issued.weigh(&wanted).ok()?;
    Some((issued.access.expose().clone(), granted))
}

/// What another answer means: our code, and the error's name where it is a standard one.
#[must_use]
pub fn refused(status: u16, body: &[u8]) -> (&'static str, Option<&'static str>) {
    let reply = reply(status, body);
    let code = failure(&reply, WallTime(0)).code.as_str();
    (code, oauth_error(&reply).map(|(name, _)| name))
}

fn reply(status: u16, body: &[u8]) -> IssuerReply {
    let mut headers = HeaderMap::new();
    let json = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, json);
    IssuerReply {
        status,
        headers,
        body: Bytes::copy_from_slice(body),
    }
}
