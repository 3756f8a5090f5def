//! A login, from what the operator is shown to the token: through a browser that comes back to a loopback redirect, or
//! on another device. Nothing of it goes to an agent.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::redirect::redirected;
use crate::credential::BoxFuture;
use crate::tokens::{Answered, Door, Expected, LoginError, LoginWay, Redirect, Verdict};
use crate::vocab::GrantId;

/// How long a person may take.
const PERSON_MAX: Duration = Duration::from_mins(10);

/// What the operator is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The URL to open.
    pub url: String,
    /// What to type there, where it is a device's login.
    pub user_code: Option<String>,
    /// The URL with that code in it, where the issuer has one.
    pub complete: Option<String>,
    /// How long the person has.
    pub life: Duration,
}

/// A login that was begun.
pub struct Begun {
    /// What the operator is shown.
    pub shown: Shown,
    /// Comes to its end with the token, or with why there is none. Dropping it ends the login.
    pub outcome: BoxFuture<'static, Result<(), LoginError>>,
}

/// Begins a login for this grant; `device`: on another device, also where the configuration has a browser in mind.
/// Agents that wait for the grant are told `approval-pending` until the outcome is there or dropped.
///
/// # Errors
/// [`LoginError`] where the service has no such grant, the redirect cannot be listened on, or the issuer says no.
pub async fn log_in(door: &Arc<Door>, grant: GrantId, device: bool) -> Result<Begun, LoginError> {
    let way = door.login_way(&grant.service);
    match way.ok_or(LoginError::OtherGrant)? {
        LoginWay::Browser(redirect) if !device => by_browser(door, grant, redirect).await,
        LoginWay::Browser(_) | LoginWay::Device => by_device(door, grant).await,
    }
}

async fn by_browser(
    door: &Arc<Door>,
    grant: GrantId,
    redirect: Redirect,
) -> Result<Begun, LoginError> {
    let expected = door.expect(&grant);
    // Bound before the issuer is told of it: nobody else can wait there in our place.
    let address = SocketAddr::new(redirect.address, redirect.port.unwrap_or(0));
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|_| LoginError::Listener)?;
    let bound = listener.local_addr().map_err(|_| LoginError::Listener)?;
    let uri = redirect.uri(bound.port());
    let login = Arc::new(door.begin_login(grant, uri).await?);
    let shown = Shown {
        url: login.url().to_owned(),
        user_code: None,
        complete: None,
        life: PERSON_MAX,
    };
    let door = Arc::clone(door);
    let outcome = Box::pin(async move {
        let _expected: Expected = expected;
        let judge = {
            let login = Arc::clone(&login);
            move |query: &str| match login.judge(query) {
                Verdict::Foreign => None,
                Verdict::Answered(answered) => Some(Ok(answered)),
                Verdict::Refused(error) => Some(Err(error)),
            }
        };
        let waiting = redirected(listener, redirect.path, judge);
        let answer: Option<Result<Box<Answered>, LoginError>> =
            tokio::time::timeout(PERSON_MAX, waiting)
                .await
                .map_err(|_| LoginError::Late)?;
        let answered = answer.ok_or(LoginError::Late)??;
        door.finish_login(&login, *answered).await
    });
    Ok(Begun { shown, outcome })
}

async fn by_device(door: &Arc<Door>, grant: GrantId) -> Result<Begun, LoginError> {
    let expected = door.expect(&grant);
    let device = Arc::new(door.begin_device(grant).await?);
    let shown = Shown {
        url: device.url().to_owned(),
        user_code: Some(device.user_code().to_owned()),
        complete: device.complete().map(str::to_owned),
        life: device.life(),
    };
    let door = Arc::clone(door);
    let outcome = Box::pin(async move {
        let _expected: Expected = expected;
        let answered = door.await_device(&device).await?;
        door.finish_device(&device, answered).await
    });
    Ok(Begun { shown, outcome })
}
