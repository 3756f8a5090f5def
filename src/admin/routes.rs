//! What can be asked, in one table. `openapi.json` beside this file says the same to programs, and a test holds the two
//! against each other.

use http::Method;

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Describes the API.
    Describe,
    /// Follows the audit lines.
    Follow,
    /// Begins a login.
    LogIn,
    /// Ends one login.
    LoginCancel,
    /// Shows one login.
    LoginShow,
    /// Lists logins.
    Logins,
    /// Reads the configuration again.
    Reload,
    /// Stops lending.
    Revoke,
    /// New keys and tokens.
    Rotate,
    /// How everything stands.
    Status,
}

/// Method, path and act. A segment in braces stands for whatever is there.
pub(super) const ROUTES: &[(Method, &str, Act)] = &[
    (Method::GET, "/openapi.json", Act::Describe),
    (Method::GET, "/v1/audit", Act::Follow),
    (Method::GET, "/v1/logins", Act::Logins),
    (Method::POST, "/v1/logins", Act::LogIn),
    (Method::GET, "/v1/logins/{id}", Act::LoginShow),
    (Method::DELETE, "/v1/logins/{id}", Act::LoginCancel),
    (Method::POST, "/v1/reload", Act::Reload),
    (Method::POST, "/v1/revoke", Act::Revoke),
    (Method::POST, "/v1/rotate", Act::Rotate),
    (Method::GET, "/v1/status", Act::Status),
];

/// Where a request leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// To this act; with what stands for the segment in braces, or nothing.
    Act(Act, &'a str),
    /// To a path that is not spoken to with this method.
    OtherMethod,
    /// Nowhere.
    Nothing,
}

/// Looks a request up.
pub(super) fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
    let mut found = Found::Nothing;
    for (with, route, act) in ROUTES {
        let Some(segment) = fits(route, path) else {
            continue;
        };
        if with == method {
            return Found::Act(*act, segment);
        }
        found = Found::OtherMethod;
    }
    found
}

fn fits<'a>(route: &str, path: &'a str) -> Option<&'a str> {
    let mut found = "";
    let (mut wanted, mut given) = (route.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(found),
            (Some(name), Some(segment)) if name.starts_with('{') && !segment.is_empty() => {
                found = segment;
            }
            (Some(name), Some(segment)) if name == segment => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::desk::OPENAPI;
    use super::*;

    #[test]
    fn paths_lead_where_the_table_says() {
        let get = |path| find(&Method::GET, path);
        assert_eq!(get("/v1/status"), Found::Act(Act::Status, ""));
        assert_eq!(get("/v1/logins/7"), Found::Act(Act::LoginShow, "7"));
        assert_eq!(get("/v1/rotate"), Found::OtherMethod);
        for nowhere in [
            "",
            "/",
            "/v1",
            "/v1/status/",
            "//v1/status",
            "/v1/logins/",
            "/v1/logins/7/8",
            "/V1/status",
        ] {
            assert_eq!(get(nowhere), Found::Nothing, "{nowhere}");
        }
        assert_eq!(find(&Method::HEAD, "/v1/status"), Found::OtherMethod);
    }

    #[test]
    fn the_document_describes_every_route_and_no_other() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut described = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                if method != "parameters" {
                    described.insert(format!("{} {path}", method.to_uppercase()));
                }
            }
        }
        let routes = ROUTES
            .iter()
            .map(|(method, path, _)| format!("{method} {path}"));
        assert_eq!(described, routes.collect());
    }
}
