//! `profile: fapi2`: what the FAPI 2.0 Security Profile wants of a client (§5.3.3), as far as the configuration decides it. The rest is
//! held against each issuer while we run.

use super::Context;
use crate::config::raw::RawProfile;
use crate::tokens::{AssertionAudience, ClientAuth, Grant, OauthSettings};
use crate::vocab::Binding;

/// Complains where the client at `key` is not what its profile wants.
pub(super) fn check(
    key: &str,
    profile: Option<RawProfile>,
    oauth: &OauthSettings,
    it: &mut Context<'_>,
) {
    if !matches!(profile, Some(RawProfile::Fapi2)) {
        return;
    }
    let mut complain = |name: &str, what: &str, remedy: &str| {
        it.findings.error(&format!("{key}.{name}"), what, remedy);
    };
    if !matches!(oauth.binding, Binding::Dpop | Binding::Mtls) {
        let what = "profile fapi2 wants tokens that are bound to a key";
        complain("binding", what, "use `dpop` or `mtls`");
    }
    if !matches!(
        oauth.client_auth,
        ClientAuth::Mtls(_) | ClientAuth::PrivateKeyJwt { .. }
    ) {
        let what = "profile fapi2 wants a client that proves its name by a key";
        complain("client_auth", what, "use `private_key_jwt` or `mtls`");
    }
    if oauth.issuer.assertion_audience != AssertionAudience::Issuer {
        let what = "profile fapi2 wants assertions that are meant for the issuer";
        complain(
            "issuer",
            what,
            "remove `assertion_audience: token_endpoint` from the issuer",
        );
    }
    if matches!(oauth.grant, Grant::DeviceCode { .. }) {
        let what = "profile fapi2 knows no logins on another device";
        complain("grant", what, "use `authorization_code`");
    }
}
