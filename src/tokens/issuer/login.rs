//! The operator's part of `authorization_code` (RFC 6749 §4.1): a URL to open, and the answer that comes back through
//! the loopback redirect (RFC 8252 §7.3).
//!
//! What ties the answer to us: a PKCE challenge (RFC 7636, S256), `state`, the key's thumbprint (RFC 9449 §10) and the
//! issuer's name (RFC 9207). Parameters are pushed where the issuer takes that (RFC 9126), so that nobody on the way
//! through the browser can change them. Agents see neither URL nor code. An answer counts once.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::address::Address;
use super::answer;
use super::client::Client;
use super::form::{Form, pairs};
use super::metadata::Metadata;
use super::strict::Members;
use crate::proof::Signer as _;
use crate::tokens::failure::Failure;
use crate::tokens::journal::Journal;
use crate::tokens::settings::{ClientAuth, Grant};
use crate::upstream::IssuerReply;
use crate::vocab::{Code, GrantId, Secret};

/// Longest authorization code, `request_uri` or answer that is read, in bytes.
const TEXT_MAX: usize = 4 * 1024;

/// A login that was begun: what the answer must be like. Used up by the first one that fits.
pub struct Login {
    pub(in crate::tokens) grant: GrantId,
    pub(in crate::tokens) edition: u64,
    /// The last revocation before it began.
    pub(in crate::tokens) epoch: u64,
    url: String,
    state: Secret<String>,
    verifier: Secret<String>,
    redirect_uri: String,
    issuer: String,
    /// The issuer says that its answers name it.
    names_itself: bool,
}

/// What a login brought. The next token request uses it up.
pub enum Answered {
    /// A code.
    Code(Brought),
    /// The answer to a device's question, with the tokens in it.
    Device(IssuerReply),
}

/// A code and what the token request must repeat.
pub struct Brought {
    pub(super) code: Secret<String>,
    pub(super) verifier: Secret<String>,
    pub(super) redirect_uri: String,
}

/// What an answer at the redirect means.
pub enum Verdict {
    /// It does not belong to this login: anybody on this machine can call the redirect. The login goes on.
    Foreign,
    /// It does, and brings a code.
    Answered(Box<Answered>),
    /// It does, and ends the login.
    Refused(LoginError),
}

/// Why a login came to nothing. Carries no text of the issuer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// The answer names another issuer, or none although this one always does.
    #[error("the answer is not the configured issuer's")]
    AnotherIssuer,
    /// Nobody answered in time.
    #[error("nobody logged in in time")]
    Late,
    /// The redirect cannot be listened on.
    #[error("the redirect's address cannot be listened on")]
    Listener,
    /// The issuer's metadata has no authorization endpoint, or other challenges than S256 only.
    #[error("the issuer offers no authorization endpoint with S256")]
    NotOffered,
    /// The issuer has no endpoint for devices.
    #[error("the issuer offers no device_authorization_endpoint")]
    NoDevices,
    /// The profile wants pushed parameters, and the issuer takes none.
    #[error("the profile wants pushed parameters, and the issuer has no endpoint for them")]
    NotPushed,
    /// The service has no such grant.
    #[error("the service has no grant that somebody logs in for")]
    OtherGrant,
    /// The issuer, or the person at it, said no.
    #[error("the issuer refused{}{}", if .0.is_empty() { "" } else { ": " }, .0)]
    Refused(&'static str),
    /// A code of the closed list.
    #[error("{}", .0.as_str())]
    Unavailable(Code),
}

impl From<Code> for LoginError {
    fn from(code: Code) -> Self {
        Self::Unavailable(code)
    }
}

impl From<Failure> for LoginError {
    fn from(failure: Failure) -> Self {
        match failure.oauth_error {
            Some(error) => Self::Refused(error),
            None => Self::Unavailable(failure.code),
        }
    }
}

impl Login {
    /// The URL to open, alone on its line. It is worth nothing without this process.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Judges the query of a request to the redirect.
    #[must_use]
    pub fn judge(&self, query: &str) -> Verdict {
        let Some(pairs) = (query.len() <= TEXT_MAX).then(|| pairs(query)).flatten() else {
            return Verdict::Foreign;
        };
        let one = |name: &str| {
            let mut of = pairs.iter().filter(|(n, _)| n == name);
            of.next().map(|(_, value)| (value.as_str(), of.next()))
        };
        let text = |name: &str| match one(name) {
            Some((value, None)) => Ok(Some(value)),
            Some(_) => Err(()),
            None => Ok(None),
        };
        let (Ok(state), Ok(iss), Ok(code), Ok(error)) =
            (text("state"), text("iss"), text("code"), text("error"))
        else {
            return Verdict::Foreign;
        };
        let state = state.unwrap_or_default();
        if verify_slices_are_equal(state.as_bytes(), self.state.expose().as_bytes()).is_err() {
            return Verdict::Foreign;
        }
        // RFC 9207 §2.4: compared as it stands, before anything else in the answer is believed.
        if iss.map_or(self.names_itself, |iss| iss != self.issuer) {
            return Verdict::Refused(LoginError::AnotherIssuer);
        }
        if let Some(error) = error {
            return Verdict::Refused(LoginError::Refused(answer::known_error(error)));
        }
        let visible =
            |code: &&str| !code.is_empty() && code.bytes().all(|b| matches!(b, 0x20..=0x7e));
        match code.filter(visible) {
            Some(code) => Verdict::Answered(Box::new(Answered::Code(Brought {
                code: Secret::new(code.to_owned()),
                verifier: self.verifier.clone(),
                redirect_uri: self.redirect_uri.clone(),
            }))),
            None => Verdict::Refused(LoginError::Refused("")),
        }
    }
}

impl Client {
    /// Begins a login of this agent. Nothing is kept: what the answer must be like is in the [`Login`].
    pub(in crate::tokens) async fn begin_login(
        &self,
        grant: &GrantId,
        edition: u64,
        redirect_uri: String,
        journal: &dyn Journal,
    ) -> Result<Login, LoginError> {
        let Grant::AuthorizationCode { scopes, .. } = &self.settings().grant else {
            return Err(LoginError::OtherGrant);
        };
        let (epoch, compromised) = self.stopped(&grant.agent);
        let metadata = self.metadata(journal).await?;
        let endpoint = metadata
            .authorization_endpoint
            .as_ref()
            .filter(|_| metadata.takes_s256())
            .ok_or(LoginError::NotOffered)?;
        let fapi = self.settings().fapi;
        if fapi && metadata.pushed_endpoint.is_none() {
            return Err(LoginError::NotPushed);
        }
        // A person would type a password there, and we would push a client credential.
        for url in [Some(endpoint), metadata.pushed_endpoint.as_ref()] {
            if url.is_some_and(|url| self.issuer().is_anothers(url)) {
                return Err(Code::AsMetadataInvalid.into());
            }
        }
        let (state, verifier) = (unguessable()?, unguessable()?);
        let challenge = digest(&SHA256, verifier.expose().as_bytes());
        let mut form = Form::new();
        form.add("response_type", "code");
        form.add("redirect_uri", &redirect_uri);
        form.add("state", state.expose());
        form.add("code_challenge", &URL_SAFE_NO_PAD.encode(challenge));
        form.add("code_challenge_method", "S256");
        self.say_what_for(&mut form, scopes);
        if compromised {
            // OpenID Connect Core §3.1.2.1: whoever holds the browser's session must not be enough.
            form.add("prompt", "login");
            form.add("max_age", "0");
        }
        if self.proves() {
            form.add("dpop_jkt", self.key(&grant.agent)?.thumbprint());
        }
        let query = match &metadata.pushed_endpoint {
            Some(url) => self.push(form, url, &metadata).await?,
            None => {
                form.add("client_id", &self.settings().client_id);
                form.finish()
            }
        };
        let joint = if endpoint.has_query() { '&' } else { '?' };
        Ok(Login {
            grant: grant.clone(),
            edition,
            epoch,
            url: format!("{}{joint}{}", endpoint.as_str(), query.expose()),
            state,
            verifier,
            redirect_uri,
            issuer: self.issuer().settings().url.clone(),
            // FAPI 2.0 §5.3.3: an answer without `iss` is none, whatever the metadata says.
            names_itself: metadata.names_itself || fapi,
        })
    }

    /// `client_id`, which every other way of proving the name puts into the form.
    pub(super) fn name_ourselves(&self, form: &mut Form) {
        if matches!(self.settings().client_auth, ClientAuth::SecretBasic(_)) {
            form.add("client_id", &self.settings().client_id);
        }
    }

    /// RFC 9126 §2: the parameters go to the issuer directly; the browser carries a reference.
    async fn push(
        &self,
        mut form: Form,
        url: &Address,
        metadata: &Metadata,
    ) -> Result<Secret<String>, LoginError> {
        self.name_ourselves(&mut form);
        let call = self.call(form, url, metadata).await?;
        let issuer = self.issuer();
        let reply = issuer.transport.send(call).await.map_err(Failure::from)?;
        if !matches!(reply.status, 200 | 201) {
            return Err(answer::failure(&reply, issuer.clock.wall()).into());
        }
        let members = Members::read(&reply.body).map_err(|_| Code::AsUnavailable)?;
        let reference = members
            .text("request_uri")
            .filter(|text| text.len() <= TEXT_MAX)
            .ok_or(Code::AsUnavailable)?;
        let mut query = Form::new();
        query.add("client_id", &self.settings().client_id);
        query.add("request_uri", reference);
        Ok(query.finish())
    }
}

/// 256 random bits as text, also a PKCE verifier (RFC 7636 §4.1).
fn unguessable() -> Result<Secret<String>, LoginError> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).map_err(|_| Code::Internal)?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

#[cfg(test)]
mod tests;
