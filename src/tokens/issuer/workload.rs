//! Tokens that a platform gives us and that we show to an issuer: a projected service-account token, a JWT-SVID, a
//! subject token. They are somebody else's; we look at them only to refuse what would be refused, and to say why.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use zeroize::Zeroizing;

use super::strict::Members;

/// Most names of a delegation chain that are written down.
const CHAIN_MAX: usize = 8;
/// Longest name of one.
const NAME_MAX: usize = 200;

/// What a platform's token must be.
pub(super) struct Wanted<'a> {
    /// Its one audience.
    pub(super) audience: &'a str,
    /// Seconds since 1970, by our own clock.
    pub(super) now: i64,
    /// Its subject is a SPIFFE ID (JWT-SVID §3.1).
    pub(super) spiffe: bool,
}

/// Why a platform's token is not shown to anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// It is for somebody else, or for others too, who could use it in our name.
    #[error("the workload token's audience is not the configured one alone")]
    Audience,
    /// Its time is over: the platform has not replaced it.
    #[error("the workload token has expired and was not replaced")]
    Expired,
    /// It is no JWT, or has no end.
    #[error("the workload token is no JWT with an expiry")]
    Malformed,
    /// There is nothing to be read.
    #[error("the workload token cannot be read")]
    Missing,
    /// Its subject is not a SPIFFE ID.
    #[error("the workload token's subject is not a SPIFFE ID")]
    Subject,
}

/// Looks at a token before it is shown.
pub(super) fn vet(token: &str, wanted: &Wanted<'_>) -> Result<(), Unfit> {
    let claims = claims(token).ok_or(Unfit::Malformed)?;
    let ends = claims.value("exp").and_then(Value::as_f64);
    if ends.ok_or(Unfit::Malformed)? <= seconds(wanted.now) {
        return Err(Unfit::Expired);
    }
    let mine = match claims.value("aud") {
        Some(Value::String(one)) => one == wanted.audience,
        Some(Value::Array(all)) => {
            matches!(all.as_slice(), [Value::String(one)] if one == wanted.audience)
        }
        _ => false,
    };
    if !mine {
        return Err(Unfit::Audience);
    }
    let subject = claims.text("sub").unwrap_or_default();
    if wanted.spiffe && !subject.starts_with("spiffe://") {
        return Err(Unfit::Subject);
    }
    Ok(())
}

/// Whether a token is a JWT whose time is over.
pub(super) fn expired(token: &str, now: i64) -> bool {
    let ends = claims(token).and_then(|claims| claims.value("exp").and_then(Value::as_f64));
    ends.is_some_and(|ends| ends <= seconds(now))
}

/// Whom a token speaks for, and who acts for them, the nearest first (RFC 8693 §4.1). Names only, and only such as
/// can stand in a line.
pub(super) fn delegation(token: &str) -> Vec<String> {
    let Some(claims) = claims(token) else {
        return Vec::new();
    };
    let mut chain = vec![name(claims.value("sub"))];
    let mut act = claims.value("act");
    while let Some(Value::Object(actor)) = act {
        if chain.len() == CHAIN_MAX {
            break;
        }
        chain.push(name(actor.get("sub")));
        act = actor.get("act");
    }
    chain
}

fn name(value: Option<&Value>) -> String {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    let plain = text.len() <= NAME_MAX && text.bytes().all(|b| matches!(b, 0x21..=0x7e));
    if plain { text } else { "" }.to_owned()
}

/// Dates of tokens are small: a float holds them exactly.
#[expect(
    clippy::cast_precision_loss,
    reason = "seconds since 1970 need 31 bits"
)]
fn seconds(now: i64) -> f64 {
    now as f64
}

/// The claims of a JWT. Nothing is verified: this is not for trusting.
pub(super) fn claims(token: &str) -> Option<Members> {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(claims).ok()?);
    Members::read(&json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn jwt(claims: &Value) -> String {
        let body = URL_SAFE_NO_PAD.encode(claims.to_string());
        format!("e30.{body}.sig")
    }

    #[test]
    fn a_platforms_token_is_looked_at_before_it_is_shown() {
        let k8s = "system:serviceaccount:ns:agent";
        let svid = "spiffe://example.test/agent";
        let wanted = |spiffe| Wanted {
            audience: "https://as.test",
            now: 1000,
            spiffe,
        };
        let table = [
            (
                json!({"aud": ["https://as.test"], "exp": 1001, "sub": k8s}),
                false,
                Ok(()),
            ),
            (
                json!({"aud": "https://as.test", "exp": 1001.5, "sub": svid}),
                true,
                Ok(()),
            ),
            (
                json!({"aud": ["https://as.test"], "exp": 1000}),
                false,
                Err(Unfit::Expired),
            ),
            (
                json!({"aud": ["https://as.test"]}),
                false,
                Err(Unfit::Malformed),
            ),
            (
                json!({"aud": ["https://as.test"], "exp": "1001"}),
                false,
                Err(Unfit::Malformed),
            ),
            (json!({"exp": 1001}), false, Err(Unfit::Audience)),
            (json!({"aud": [], "exp": 1001}), false, Err(Unfit::Audience)),
            (
                json!({"aud": ["https://as.test/"], "exp": 1001}),
                false,
                Err(Unfit::Audience),
            ),
            (
                json!({"aud": ["https://as.test", "x"], "exp": 1001}),
                false,
                Err(Unfit::Audience),
            ),
            (
                json!({"aud": ["https://as.test"], "exp": 1001, "sub": k8s}),
                true,
                Err(Unfit::Subject),
            ),
        ];
        for (claims, spiffe, verdict) in table {
            assert_eq!(vet(&jwt(&claims), &wanted(spiffe)), verdict, "{claims}");
        }
        for bad in ["", "a.b", "a.b.c", "a.b.c.d", "opaque"] {
            assert_eq!(vet(bad, &wanted(false)), Err(Unfit::Malformed), "{bad}");
        }
    }

    #[test]
    fn only_a_jwt_is_known_to_have_expired() {
        assert!(expired(&jwt(&json!({"exp": 10})), 10));
        assert!(!expired(&jwt(&json!({"exp": 11})), 10));
        assert!(!expired(&jwt(&json!({})), 10));
        assert!(!expired("opaque", 10));
    }

    #[test]
    fn a_chain_is_names_and_ends() {
        let two = json!({"sub": "alice", "act": {"sub": "agent", "act": {"sub": "gate\nway", "iss": "x"}}});
        assert_eq!(delegation(&jwt(&two)), ["alice", "agent", ""]);
        assert_eq!(delegation("opaque"), Vec::<String>::new());
        let mut deep = json!({"sub": "end"});
        for _ in 0..20 {
            deep = json!({"sub": "more", "act": deep});
        }
        assert_eq!(delegation(&jwt(&deep)).len(), CHAIN_MAX);
    }
}
