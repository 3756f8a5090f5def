//! What only a broken variant does: see `vocab/variant.rs`.

use std::sync::{Arc, OnceLock};

use http::{Uri, header, request};

use super::attempts;
use super::bare::{Bare, Crossing};
use super::kept::{Kept, Patience};
use super::media::Media;
use super::record::Line;
use super::refusal::Refusal;
use super::sent::Used;
use super::story::Exchange;
use crate::policy::Permit;
use crate::upstream::Reply;
use crate::vocab::variant::{Variant, broken};
use crate::vocab::{Authority, RequestPath, Scheme};

/// Redirects followed for one request.
const FOLLOWED_MAX: usize = 5;

/// The first permit of a tunnel.
pub type Ride = Arc<OnceLock<Permit>>;

/// The request, with what it may ride on.
pub fn riding<B>(mut request: http::Request<B>, ride: &Ride) -> http::Request<B> {
    request.extensions_mut().insert(ride.clone());
    request
}

/// The permit that an earlier request of the tunnel got.
pub(super) fn first_of_tunnel(parts: &request::Parts) -> Option<Permit> {
    let ride = parts.extensions.get::<Ride>()?;
    broken(Variant::DecidesOnce).then(|| ride.get().cloned())?
}

pub(super) fn note_first(parts: &request::Parts, permit: &Permit) {
    if let Some(ride) = parts.extensions.get::<Ride>() {
        ride.get_or_init(|| permit.clone());
    }
}

/// Goes where an answer points, with the same credential and without a body.
pub(super) async fn follow(
    exchange: &Exchange,
    crossing: &Crossing<'_>,
    (mut reply, mut used): (Reply, Used),
    line: &mut Line,
) -> Result<(Reply, Used), Refusal> {
    let mut permit = crossing.permit.clone();
    for _ in 0..FOLLOWED_MAX {
        let Some((authority, path, query)) = target(&reply, &permit) else {
            break;
        };
        permit = permit.redirected(authority);
        let bare = Bare {
            guard: None,
            head: used.head.redirected(path, query),
            body: Kept::Empty,
            upgrade: None,
            patience: Patience {
                idle: crossing.service.settings.timeouts.idle,
                floor: exchange.body_floor,
                unhurried: true,
            },
            media: Media::Other,
            version: reply.response.version(),
            expects: false,
            may_wait: false,
            fill: None,
            interim: None,
        };
        let crossing = Crossing {
            permit: &permit,
            service: crossing.service,
        };
        (reply, used) = attempts::run(exchange, &crossing, bare, line).await?;
    }
    Ok((reply, used))
}

type Target = (Authority, RequestPath, Option<Box<str>>);

fn target(reply: &Reply, permit: &Permit) -> Option<Target> {
    let response = &reply.response;
    if !broken(Variant::RedirectFollower) || !response.status().is_redirection() {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?;
    let uri: Uri = location.parse().ok()?;
    let authority = match (uri.authority(), uri.scheme_str()) {
        (Some(named), Some("http")) => Authority::parse(Scheme::Http, named.as_str()).ok()?,
        (Some(named), _) => Authority::parse(Scheme::Https, named.as_str()).ok()?,
        (None, _) => permit.authority().clone(),
    };
    let path = RequestPath::parse(uri.path()).ok()?;
    Some((authority, path, uri.query().map(Into::into)))
}
