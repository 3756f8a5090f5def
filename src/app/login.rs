//! A login that is waited for here: that of `run`, and of `login` where no proxy runs.

use super::running::Running;
use crate::admin::{Shown, log_in};
use crate::tokens::LoginError;
use crate::vocab::{AgentName, GrantId, ServiceName};

impl Running {
    /// Lets a person log in for one agent's grant, unless it needs none now. `show` is given what the person needs; the call
    /// ends when the token is there. `false`: the service's tokens need no person, or an earlier login is still good.
    ///
    /// # Errors
    /// [`LoginError`]; the grant is as it was.
    pub async fn log_in(
        &self,
        agent: &AgentName,
        service: &ServiceName,
        show: impl FnOnce(&Shown),
    ) -> Result<bool, LoginError> {
        let grant = GrantId {
            service: service.clone(),
            agent: agent.clone(),
        };
        if self.door.login_way(service).is_none() || self.door.is_logged_in(&grant).await {
            return Ok(false);
        }
        self.log_in_anew(grant, false, show).await.map(|()| true)
    }

    /// Lets a person log in for a grant, whatever it had before.
    ///
    /// # Errors
    /// [`LoginError`]; the grant is as it was.
    pub async fn log_in_anew(
        &self,
        grant: GrantId,
        device: bool,
        show: impl FnOnce(&Shown),
    ) -> Result<(), LoginError> {
        let begun = log_in(&self.door, grant, device).await?;
        show(&begun.shown);
        begun.outcome.await
    }
}
