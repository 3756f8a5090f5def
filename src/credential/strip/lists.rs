//! What is known by name: fields, parameters, codings and subprotocols.

/// Fields that carry credentials by standard or custom; removed from every request, whatever the service. Names that
/// say so themselves are recognised by [`sounds_like_a_credential`](super::sounds_like_a_credential).
pub(super) const CREDENTIALS: [&str; 17] = [
    "api-key",
    "apikey",
    "authorization",
    "cf-access-client-id",
    "cookie2",
    "dd-application-key",
    "dpop",
    "ocp-apim-subscription-key",
    "x-amz-security-token",
    "x-api-key",
    "x-apikey",
    "x-auth",
    "x-authorization",
    "x-functions-key",
    "x-goog-iap-jwt-assertion",
    "x-rapidapi-key",
    "x-token",
];

/// Ends of names that carry credentials (`x-vault-token`, `xi-api-key`, `cf-access-client-secret`).
pub(super) const CREDENTIAL_ENDS: [&str; 6] = [
    "-access-key",
    "-api-key",
    "-apikey",
    "-auth-key",
    "-secret",
    "-token",
];

/// Words in names that end in `-token` and are no credentials: positions in lists, proofs against forged forms.
pub(super) const TOKENS_OF_OTHER_KINDS: [&str; 6] = [
    "continuation",
    "csrf",
    "idempotency",
    "page",
    "sync",
    "xsrf",
];

/// Fields by which somebody in between tells a server who the caller is or what was really asked: an agent that sets
/// them speaks for a proxy that it is not (RFC 9700 §4.13).
pub(super) const ROLE_FIELDS: [&str; 37] = [
    "alt-used",
    "cf-access-jwt-assertion",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "client-cert",
    "client-cert-chain",
    "client-ip",
    "dpop-nonce",
    "fastly-client-ip",
    "forwarded",
    // Read as the variable HTTP_PROXY by programs behind CGI (CVE-2016-5385 and its kin).
    "proxy",
    "front-end-https",
    "http2-settings",
    "max-forwards",
    "remote-addr",
    "remote-user",
    "true-client-ip",
    "x-arr-clientcert",
    "x-client-dn",
    "x-client-ip",
    "x-client-verify",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-host",
    "x-http-host-override",
    "x-override-url",
    "x-proxyuser-ip",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-remote-user",
    "x-rewrite-uri",
    "x-rewrite-url",
    "x-scheme",
    "x-url-scheme",
    "x-user-dn",
    "x-verified-user",
];

/// Beginnings of such names.
pub(super) const ROLE_BEGINNINGS: [&str; 18] = [
    "proxy-",
    "ssl-client-",
    "tls-client-",
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-appengine-",
    "x-auth-request-",
    "x-authenticated-",
    "x-client-cert",
    "x-envoy-",
    "x-forwarded-",
    "x-goog-authenticated-user-",
    "x-ms-client-principal",
    "x-original-",
    "x-ssl-",
    "x-tls-client-",
    "x-tokenward",
    "x-webauth-",
];

/// Trailers that an agent may send: digests of the body (RFC 9530).
pub(super) const TRAILERS: [&str; 2] = ["content-digest", "repr-digest"];

/// Hop-by-hop fields (RFC 9110 §7.6.1), framing, and what we write ourselves.
pub(super) const HOP_FIELDS: [&str; 8] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Fields that make a server act on another method than the one that policy judged. The same names count in queries.
pub(super) const METHOD_OVERRIDES: [&str; 4] = [
    "http-method-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// Query parameters that do the same (Rails, Laravel and Express; Salesforce), in the form of [`parameter_name`](super::parameter_name).
pub(super) const METHOD_PARAMETERS: [&str; 2] = ["_httpmethod", "_method"];

/// Query parameters that carry credentials (RFC 6750 §2.3 and custom), in the form of [`parameter_name`](super::parameter_name); they would
/// also end in every log on the way. Signatures of presigned URLs count: they are keys to what they name.
pub(super) const QUERY_CREDENTIALS: [&str; 32] = [
    "access_key",
    "access_token",
    "accesskey",
    "accesstoken",
    "api_key",
    "api_token",
    "apikey",
    "apitoken",
    "auth",
    "auth_key",
    "auth_token",
    "authkey",
    "authorization",
    "authtoken",
    "bearer",
    "bearer_token",
    "client_assertion",
    "client_secret",
    "id_token",
    "jwt",
    "oauth_token",
    "personal_access_token",
    "private_token",
    "refresh_token",
    "session_token",
    "subscription_key",
    "token",
    "x_amz_credential",
    "x_amz_security_token",
    "x_amz_signature",
    "x_api_key",
    "x_goog_signature",
];

/// Codings of content that are offered to an API to which a credential of ours goes: what comes back in any other could
/// not be read on the way (RFC 9110 §8.4.1, RFC 7932, RFC 8878).
pub(super) const CODINGS: [&str; 6] = ["br", "deflate", "gzip", "identity", "x-gzip", "zstd"];

/// Codings whose reader gives nothing out before a whole window is full: a stream would stand still while it is searched.
pub(super) const HELD_CODINGS: [&str; 1] = ["zstd"];

/// Fields that ask for what cannot be searched: parts of an answer, in which a credential may be cut in two, differences
/// to another one, and messages that are compressed one by one.
pub(super) const NOT_SEARCHED: [&str; 5] = [
    "a-im",
    "connect-accept-encoding",
    "grpc-accept-encoding",
    "if-range",
    "range",
];

/// Words in WebSocket subprotocols by which browsers send credentials for want of a field.
pub(super) const SECRET_PROTOCOLS: [&str; 5] =
    ["api-key", "apikey", "authorization", "bearer", "token"];
