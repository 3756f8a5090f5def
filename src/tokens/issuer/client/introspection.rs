//! Asking the issuer after one of its tokens (RFC 7662).

use super::super::answer::is_json;
use super::super::form::Form;
use super::super::metadata::Metadata;
use super::super::strict::Members;
use super::Client;
use crate::tokens::health::Verdict;
use crate::tokens::journal::Journal;
use crate::tokens::settings::ClientAuth;
use crate::upstream::IssuerReply;
use crate::vocab::Secret;

impl Client {
    /// Asks the issuer whether a token is still good. What it says counts for health and for nothing else, and no
    /// proof goes along, for RFC 9449 defines none here. Ends within twenty seconds.
    pub(in crate::tokens) async fn introspect(
        &self,
        access: &Secret<String>,
        journal: &dyn Journal,
    ) -> Verdict {
        // Whoever the metadata leads to is an issuer's business; an outage of it is told when a token is wanted.
        let Ok(metadata) = self.metadata(journal).await else {
            return Verdict::Unknown;
        };
        let Some(url) = &metadata.introspection_endpoint else {
            return Verdict::Unsupported;
        };
        if !self.may_introspect(&metadata) {
            return Verdict::Unsupported;
        }
        let mut form = Form::new();
        form.add_secret("token", access);
        form.add("token_type_hint", "access_token");
        let Ok(_place) = self.issuer.gate.acquire().await else {
            return Verdict::Unknown;
        };
        let Ok(call) = self.call(form, url, &metadata).await else {
            return Verdict::Unknown;
        };
        match self.issuer.transport.send(call).await {
            Ok(reply) => read(&reply),
            Err(_) => Verdict::Unknown,
        }
    }

    /// Whether the endpoint takes the way in which we prove our name. It may not be open to everybody (RFC 7662 §2.1), so a
    /// public client has nothing to show there.
    fn may_introspect(&self, metadata: &Metadata) -> bool {
        let method = match &self.settings.client_auth {
            ClientAuth::Nothing => return false,
            ClientAuth::SecretBasic(_) => "client_secret_basic",
            ClientAuth::SecretPost(_) => "client_secret_post",
            ClientAuth::PrivateKeyJwt { .. } => "private_key_jwt",
            // These have several names, or names that lists leave out.
            ClientAuth::Mtls(_) | ClientAuth::Workload(_) => return true,
        };
        let listed = metadata.introspection_methods.as_ref();
        listed.is_none_or(|list| list.iter().any(|name| name == method))
    }
}

/// What an answer says. Only a well-formed yes or no is one.
fn read(reply: &IssuerReply) -> Verdict {
    match reply.status {
        200 => {}
        // RFC 7662 §2.3, and what servers say where there is nothing for us.
        400 | 401 | 403..=405 | 410 | 501 => return Verdict::Unsupported,
        _ => return Verdict::Unknown,
    }
    if !is_json(&reply.headers) {
        return Verdict::Unknown;
    }
    let active = Members::read(&reply.body).ok();
    let active = active.and_then(|members| members.value("active")?.as_bool());
    match active {
        Some(true) => Verdict::Active,
        Some(false) => Verdict::Inactive,
        None => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::tokens::issuer::tests::{Bench, reply};

    #[test]
    fn only_a_clear_yes_or_no_is_one() {
        let table: [(u16, Value, Verdict); 9] = [
            (200, json!({"active": true, "scope": "a"}), Verdict::Active),
            (200, json!({"active": false}), Verdict::Inactive),
            (200, json!({"active": "false"}), Verdict::Unknown),
            (200, json!({}), Verdict::Unknown),
            (200, json!([]), Verdict::Unknown),
            (
                401,
                json!({"error": "invalid_client"}),
                Verdict::Unsupported,
            ),
            (404, json!({"active": false}), Verdict::Unsupported),
            (429, json!({"active": false}), Verdict::Unknown),
            (503, json!({"active": false}), Verdict::Unknown),
        ];
        for (status, body, wanted) in table {
            assert_eq!(read(&reply(status, &[], &body)), wanted, "{status} {body}");
        }
    }

    #[tokio::test]
    async fn it_is_asked_where_it_is_offered_and_as_who_we_are() {
        let offered = |more: Value| {
            let mut metadata = crate::tokens::issuer::tests::metadata();
            metadata["introspection_endpoint"] = json!("https://as.test/introspect");
            if !more.is_null() {
                metadata["introspection_endpoint_auth_methods_supported"] = more;
            }
            metadata
        };
        let basic = || ClientAuth::SecretBasic(Secret::new("s".into()));
        let table = [
            (basic(), Some(offered(Value::Null)), Verdict::Active, 1),
            (
                basic(),
                Some(offered(json!(["client_secret_basic"]))),
                Verdict::Active,
                1,
            ),
            (
                basic(),
                Some(offered(json!(["private_key_jwt"]))),
                Verdict::Unsupported,
                0,
            ),
            (
                ClientAuth::Nothing,
                Some(offered(Value::Null)),
                Verdict::Unsupported,
                0,
            ),
            (basic(), None, Verdict::Unsupported, 0),
        ];
        for (auth, metadata, wanted, calls) in table {
            let bench = Bench::new(|o| o.client_auth = auth);
            if let Some(metadata) = metadata {
                *bench.fake.metadata.lock().unwrap() = Ok((200, metadata));
            }
            bench
                .fake
                .always(|_| Ok(reply(200, &[], &json!({"active": true}))));
            let token = Secret::new("the-token".to_owned());
            let verdict = bench.client.introspect(&token, &bench.notes).await;
            assert_eq!(verdict, wanted);
            let seen = bench.fake.at("/introspect");
            assert_eq!(seen.len(), calls);
            for seen in seen {
                assert_eq!(seen.form["token"], "the-token");
                assert_eq!(seen.form["token_type_hint"], "access_token");
                assert!(seen.headers.contains_key("authorization"));
                assert!(!seen.headers.contains_key("dpop"));
            }
        }
    }
}
