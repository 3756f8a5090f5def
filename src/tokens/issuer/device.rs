//! A login on another device (RFC 8628): a code that the operator types there, and our questions whether that was done.
//!
//! Both go to the operator and nowhere else (§5.4): an agent that could show them would have somebody else log in for it.

use std::time::Duration;

use super::address::Address;
use super::answer;
use super::client::Client;
use super::form::Form;
use super::login::{Answered, LoginError};
use super::strict::Members;
use crate::tokens::failure::Failure;
use crate::tokens::journal::Journal;
use crate::upstream::IssuerReply;
use crate::vocab::{Code, GrantId, Secret};

/// Longest wait for the person, whatever the issuer says.
const LIFE_MAX: Duration = Duration::from_mins(10);
/// RFC 8628 §3.2: where the issuer does not say.
const INTERVAL: Duration = Duration::from_secs(5);
/// RFC 8628 §3.5: `slow_down`, for good.
const SLOWER: Duration = Duration::from_secs(5);
/// Longest pause that our own caution makes.
const PAUSE_MAX: Duration = Duration::from_mins(1);
/// Longest code, in bytes.
const CODE_MAX: usize = 4 * 1024;
/// Longest code that a person types.
const USER_CODE_MAX: usize = 64;

/// A device login that was begun.
pub struct Device {
    pub(in crate::tokens) grant: GrantId,
    pub(in crate::tokens) edition: u64,
    /// The last revocation before it began.
    pub(in crate::tokens) epoch: u64,
    code: Secret<String>,
    user_code: String,
    url: String,
    complete: Option<String>,
    interval: Duration,
    life: Duration,
}

impl Device {
    /// What the person types at [`url`](Self::url).
    #[must_use]
    pub fn user_code(&self) -> &str {
        &self.user_code
    }

    /// Where the person goes.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The same with the code in it, where the issuer has such a URL.
    #[must_use]
    pub fn complete(&self) -> Option<&str> {
        self.complete.as_deref()
    }

    /// How long the person has.
    #[must_use]
    pub fn life(&self) -> Duration {
        self.life
    }
}

impl Client {
    /// Begins a device login. Nothing is kept: what the questions need is in the [`Device`].
    pub(in crate::tokens) async fn begin_device(
        &self,
        grant: &GrantId,
        edition: u64,
        journal: &dyn Journal,
    ) -> Result<Device, LoginError> {
        let whole = self.settings().grant.whole();
        let scopes = whole.filter(|_| self.settings().grant.by_login());
        let scopes = scopes.ok_or(LoginError::OtherGrant)?;
        let (epoch, _) = self.stopped(&grant.agent);
        let metadata = self.metadata(journal).await?;
        let endpoint = metadata.device_endpoint.as_ref();
        let endpoint = endpoint.ok_or(LoginError::NoDevices)?;
        // We show a client credential there.
        if self.issuer().is_anothers(endpoint) {
            return Err(Code::AsMetadataInvalid.into());
        }
        let mut form = Form::new();
        self.say_what_for(&mut form, scopes);
        self.name_ourselves(&mut form);
        let call = self.call(form, endpoint, &metadata).await?;
        let issuer = self.issuer();
        let reply = issuer.transport.send(call).await.map_err(Failure::from)?;
        if reply.status != 200 {
            return Err(answer::failure(&reply, issuer.clock.wall()).into());
        }
        let device = read(&reply, grant, (edition, epoch)).ok_or(Code::AsUnavailable)?;
        // A person would type a password there.
        let leads = [Some(&device.url), device.complete.as_ref()];
        let elsewhere =
            |url: &String| Address::parse(url).is_ok_and(|url| issuer.is_anothers(&url));
        if leads.into_iter().flatten().any(elsewhere) {
            return Err(Code::AsMetadataInvalid.into());
        }
        Ok(device)
    }

    /// Asks until the person has logged in, or has not in time. Never more often than the issuer wants it (RFC 8628 §3.5).
    pub(in crate::tokens) async fn await_device(
        &self,
        device: &Device,
        journal: &dyn Journal,
    ) -> Result<Answered, LoginError> {
        let clock = &self.issuer().clock;
        let began = clock.now();
        let mut pace = Pace(device.interval);
        let mut pause = pace.0;
        loop {
            let left = device.life.checked_sub(clock.now().since(began));
            if left.is_none_or(|left| left < pause) {
                return Err(LoginError::Late);
            }
            tokio::time::sleep(pause).await;
            let asked = self.ask_device(&device.grant.agent, &device.code, journal);
            let failure = match asked.await {
                Ok(reply) if reply.status == 200 => return Ok(Answered::Device(reply)),
                Ok(reply) => answer::failure(&reply, clock.wall()),
                Err(failure) => failure,
            };
            pause = pace.after(failure)?;
        }
    }
}

/// The shortest time between two questions.
struct Pace(Duration);

impl Pace {
    /// The pause after an answer that was no token; an error ends the questions.
    fn after(&mut self, failure: Failure) -> Result<Duration, LoginError> {
        match failure.oauth_error {
            Some("authorization_pending") => {}
            Some("slow_down") => self.0 += SLOWER,
            _ if failure.terminal() => return Err(failure.into()),
            // No answer, or that of a server in trouble: twice as long, for good.
            _ => self.0 = (self.0 * 2).min(PAUSE_MAX.max(self.0)),
        }
        Ok(self.0.max(failure.retry_after.unwrap_or_default()))
    }
}

/// Reads RFC 8628 §3.2. `None`: it is none, or holds what cannot be shown to a person.
fn read(reply: &IssuerReply, grant: &GrantId, (edition, epoch): (u64, u64)) -> Option<Device> {
    let mut members = Members::read(&reply.body).ok()?;
    let code = members.take_secret("device_code")?;
    let printable = |text: &str| text.bytes().all(|b| matches!(b, 0x20..=0x7e));
    if code.expose().is_empty() || code.expose().len() > CODE_MAX || !printable(code.expose()) {
        return None;
    }
    let user_code = members.text("user_code")?.to_owned();
    if user_code.is_empty() || user_code.len() > USER_CODE_MAX || !printable(&user_code) {
        return None;
    }
    let url = |name: &str| {
        let text = members.text(name)?;
        Address::parse(text).ok().map(|_| text.to_owned())
    };
    let seconds = |name: &str| members.value(name)?.as_u64().map(Duration::from_secs);
    let least = Duration::from_secs(1);
    Some(Device {
        grant: grant.clone(),
        edition,
        epoch,
        user_code,
        url: url("verification_uri")?,
        complete: url("verification_uri_complete"),
        interval: seconds("interval").unwrap_or(INTERVAL).max(least),
        life: seconds("expires_in")?.min(LIFE_MAX),
        code,
    })
}

#[cfg(test)]
mod tests;
