//! A login through the browser, from the URL to the token.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;

use super::running::Running;
use crate::admin;
use crate::tokens::{Answered, LoginError, Verdict};
use crate::vocab::{AgentName, GrantId, ServiceName};

/// How long a person may take.
const PERSON_MAX: Duration = Duration::from_mins(10);

impl Running {
    /// Lets a person log in for one grant. `show` is given the URL to open; the call ends when the token is there.
    /// `false`: the service's tokens need no person.
    ///
    /// # Errors
    /// [`LoginError`]; the grant is as it was.
    pub async fn log_in(
        &self,
        agent: &AgentName,
        service: &ServiceName,
        show: impl FnOnce(&str),
    ) -> Result<bool, LoginError> {
        let Some(redirect) = self.door.redirect(service) else {
            return Ok(false);
        };
        // Bound before the issuer is told of it: nobody else can wait there in our place.
        let address = SocketAddr::new(redirect.address, redirect.port.unwrap_or(0));
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|_| LoginError::Listener)?;
        let bound = listener.local_addr().map_err(|_| LoginError::Listener)?;
        let grant = GrantId {
            service: service.clone(),
            agent: agent.clone(),
        };
        let uri = redirect.uri(bound.port());
        let login = std::sync::Arc::new(self.door.begin_login(grant, uri).await?);
        show(login.url());
        let judge = {
            let login = login.clone();
            move |query: &str| match login.judge(query) {
                Verdict::Foreign => None,
                Verdict::Answered(answered) => Some(Ok(answered)),
                Verdict::Refused(error) => Some(Err(error)),
            }
        };
        let waiting = admin::redirected(listener, redirect.path, judge);
        let answer: Option<Result<Box<Answered>, LoginError>> =
            tokio::time::timeout(PERSON_MAX, waiting)
                .await
                .map_err(|_| LoginError::Late)?;
        let answered = answer.ok_or(LoginError::Late)??;
        self.door.finish_login(&login, *answered).await?;
        Ok(true)
    }
}
