//! What is known about one request when its line is written.

use std::borrow::Cow;
use std::sync::Arc;

use super::line::{HOST_MAX, Members, is_host, is_tchar, scrub};
use crate::vocab::{
    AgentName, Binding, Code, Generation, RequestId, RuleName, ScopeSet, ServiceName,
};

/// Longest method and path in a line, in bytes.
const METHOD_MAX: usize = 64;
const PATH_MAX: usize = 2 * 1024;
/// Longest rule text in a line, in characters.
const RULE_MAX: usize = 512;
/// Most proofs of one request: three rounds, and room.
const PROOFS_MAX: usize = 8;
/// Most names of header fields that were taken off.
const STRIPPED_MAX: usize = 32;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verdict {
    /// Nobody saw its end: the agent went away, or the task that carried it died.
    #[default]
    Abandoned,
    /// It was carried, and the response ended.
    Allowed,
    /// It got a problem instead of an answer.
    Refused,
}

impl Verdict {
    /// The word in audit lines and labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Abandoned => "abandoned",
            Self::Allowed => "allowed",
            Self::Refused => "refused",
        }
    }
}

/// The facts of a request, filled in as they become known. What stays empty is left out of the line.
#[derive(Debug, Clone, Default)]
pub struct RequestFacts {
    /// Who called.
    pub agent: Option<AgentName>,
    /// Which service the destination belongs to.
    pub service: Option<ServiceName>,
    /// The rule that allowed or denied it.
    pub rule: Option<RuleName>,
    /// How it ended.
    pub decision: Verdict,
    /// Why it was refused.
    pub code: Option<Code>,
    /// The method as the agent sent it.
    pub method: String,
    /// The destination's host.
    pub host: String,
    /// The path; a query is cut off here too, for agents put secrets into queries.
    pub path: String,
    /// The scopes of the token that was lent.
    pub scopes: ScopeSet,
    /// How the credential is bound.
    pub binding: Option<Binding>,
    /// The thumbprint of the key that signed.
    pub jkt: Option<Arc<str>>,
    /// The number of the lease.
    pub lease: Option<u64>,
    /// The `jti` of each proof that went out.
    pub proofs: Vec<String>,
    /// The status that the agent got.
    pub status: Option<u16>,
    /// The status that the API gave.
    pub upstream_status: Option<u16>,
    /// Whether the response reached its end.
    pub complete: bool,
    /// Body bytes from the agent.
    pub bytes_in: u64,
    /// Body bytes to the agent.
    pub bytes_out: u64,
    /// From the head's arrival to the response's end.
    pub duration_ms: u64,
    /// Our own part of it.
    pub overhead_us: u64,
    /// The API's part, where it was asked.
    pub upstream_ms: Option<u64>,
    /// How often the request was sent.
    pub attempts: u8,
    /// The policy snapshot that judged it.
    pub generation: Option<Generation>,
    /// The door it came through.
    pub listener: &'static str,
    /// What was found where the placeholder belongs.
    pub placeholder: Option<&'static str>,
    /// Names of header fields that were taken off.
    pub stripped: Vec<String>,
}

impl RequestFacts {
    /// Gives back the memory of overlong texts, so that a full queue holds megabytes and not gigabytes.
    pub(super) fn bound(&mut self) {
        // One byte more than the line shows: the line then says that it was cut.
        cut(&mut self.method, METHOD_MAX + 1);
        cut(&mut self.host, HOST_MAX + 1);
        cut(&mut self.path, PATH_MAX + 1);
        self.proofs.truncate(PROOFS_MAX);
        self.stripped.truncate(STRIPPED_MAX);
        for text in self.proofs.iter_mut().chain(&mut self.stripped) {
            cut(text, METHOD_MAX + 1);
        }
    }

    pub(super) fn members(&self, request: RequestId) -> Members {
        let mut line = Members::default();
        line.shown("request", request);
        self.who_and_what(&mut line);
        self.credential(&mut line);
        self.outcome(&mut line);
        line
    }

    fn who_and_what(&self, line: &mut Members) {
        line.text("agent", self.agent.as_ref().map_or("", AgentName::as_str));
        line.text(
            "service",
            self.service.as_ref().map_or("", ServiceName::as_str),
        );
        if let Some(rule) = &self.rule {
            let text = rule.as_str();
            let end = text.char_indices().nth(RULE_MAX).map(|(at, _)| at);
            line.text("rule", &text[..end.unwrap_or(text.len())]);
        }
        line.text("decision", self.decision.as_str());
        if let Some(code) = self.code {
            line.text("code", code.as_str());
            line.text("fault", code.fault().as_str());
        }
        line.text("method", &scrub(&self.method, METHOD_MAX, is_tchar));
        line.text("host", &scrub(&self.host, HOST_MAX, is_host));
        let path = self.path.split(['?', '#']).next().unwrap_or_default();
        line.text("path", &scrub(path, PATH_MAX, |_| true));
    }

    fn credential(&self, line: &mut Members) {
        line.list("scopes", self.scopes.iter().map(|s| s.as_str()));
        line.text("binding", self.binding.map_or("", Binding::as_str));
        line.text("jkt", self.jkt.as_deref().unwrap_or_default());
        if let Some(lease) = self.lease {
            line.number("lease", lease);
        }
        line.list("proofs", names(&self.proofs).iter().map(|name| &**name));
    }

    fn outcome(&self, line: &mut Members) {
        if let Some(status) = self.status {
            line.number("status", status);
        }
        if let Some(status) = self.upstream_status {
            line.number("upstream_status", status);
        }
        line.number("bytes_in", self.bytes_in);
        line.number("bytes_out", self.bytes_out);
        if self.decision == Verdict::Allowed && !self.complete {
            line.text("ended", "early");
        }
        line.number("duration_ms", self.duration_ms);
        line.number("overhead_us", self.overhead_us);
        if let Some(millis) = self.upstream_ms {
            line.number("upstream_ms", millis);
        }
        if self.attempts > 0 {
            line.number("attempts", self.attempts);
        }
        if let Some(generation) = self.generation {
            line.number("generation", generation.0);
        }
        line.text("listener", self.listener);
        line.text("placeholder", self.placeholder.unwrap_or_default());
        line.list("stripped", names(&self.stripped).iter().map(|name| &**name));
    }
}

fn names(texts: &[String]) -> Vec<Cow<'_, str>> {
    texts
        .iter()
        .map(|text| scrub(text, METHOD_MAX, is_tchar))
        .collect()
}

fn cut(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::vocab::Scope;

    fn members(facts: &RequestFacts) -> Value {
        let text = facts.members(RequestId::from_random([0; 16]));
        serde_json::from_str(&format!("{{{}}}", &text.as_str()[1..])).unwrap()
    }

    #[test]
    fn a_full_line_has_every_member_in_the_agreed_order() {
        let facts = RequestFacts {
            agent: Some(AgentName::fallback()),
            service: Some(ServiceName::new("items").unwrap()),
            rule: Some(RuleName::new("allow GET /v1/items/**")),
            decision: Verdict::Refused,
            code: Some(Code::DpopNonceLoop),
            method: "GET".to_owned(),
            host: "api.test".to_owned(),
            path: "/v1/items/1".to_owned(),
            scopes: ScopeSet::of([Scope::new("b").unwrap(), Scope::new("a").unwrap()]),
            binding: Some(Binding::Dpop),
            jkt: Some("thumb".into()),
            lease: Some(7),
            proofs: vec!["j-1".to_owned(), "j-2".to_owned()],
            status: Some(502),
            upstream_status: Some(401),
            complete: true,
            bytes_in: 1,
            bytes_out: 2,
            duration_ms: 3,
            overhead_us: 4,
            upstream_ms: Some(5),
            attempts: 2,
            generation: Some(Generation(9)),
            listener: "connect",
            placeholder: Some("own"),
            stripped: vec!["authorization".to_owned()],
        };
        let text = facts.members(RequestId::from_random([0; 16]));
        assert_eq!(
            text.as_str(),
            concat!(
                r#","request":"00000000-0000-4000-8000-000000000000","agent":"default","service":"items","#,
                r#""rule":"allow GET /v1/items/**","decision":"refused","code":"dpop-nonce-loop","fault":"service","#,
                r#""method":"GET","host":"api.test","path":"/v1/items/1","scopes":["a","b"],"binding":"dpop","#,
                r#""jkt":"thumb","lease":7,"proofs":["j-1","j-2"],"status":502,"upstream_status":401,"bytes_in":1,"#,
                r#""bytes_out":2,"duration_ms":3,"overhead_us":4,"upstream_ms":5,"attempts":2,"generation":9,"#,
                r#""listener":"connect","placeholder":"own","stripped":["authorization"]"#
            )
        );
    }

    #[test]
    fn what_is_not_known_is_not_there() {
        let line = members(&RequestFacts::default());
        assert_eq!(
            line,
            json!({"request": "00000000-0000-4000-8000-000000000000", "decision": "abandoned",
                "bytes_in": 0, "bytes_out": 0, "duration_ms": 0, "overhead_us": 0})
        );
    }

    #[test]
    fn hostile_text_is_escaped_and_bounded() {
        let mut facts = RequestFacts {
            method: "GET\r\n\"}".repeat(100),
            host: "api.test\u{1b}]0;x\u{7}".to_owned(),
            path: format!("/a\n{{\"seq\":1}}é{}?token=canary", "\u{0}".repeat(9000)),
            proofs: vec!["x".repeat(9000); 50],
            stripped: vec!["a\u{1b}".repeat(5000); 50],
            ..RequestFacts::default()
        };
        facts.bound();
        assert!(facts.path.capacity() <= 2 * PATH_MAX);
        let line = members(&facts);
        assert!(
            line["method"]
                .as_str()
                .unwrap()
                .starts_with(r"GET\x0d\x0a\x22\x7dGET")
        );
        assert!(line["method"].as_str().unwrap().chars().count() <= METHOD_MAX + 1);
        assert_eq!(line["host"], r"api.test\x1b]0\x3bx\x07");
        let path = line["path"].as_str().unwrap();
        assert!(path.starts_with(r#"/a\x0a{"seq":1}\xc3\xa9\x00"#));
        assert!(path.ends_with('\u{2026}') && path.len() < PATH_MAX + 8);
        assert_eq!(line["proofs"].as_array().unwrap().len(), PROOFS_MAX);
        assert_eq!(line["stripped"].as_array().unwrap().len(), STRIPPED_MAX);
        assert!(
            facts
                .members(RequestId::from_random([0; 16]))
                .as_str()
                .len()
                < 32 * 1024
        );
    }

    #[test]
    fn a_query_never_gets_into_a_line() {
        for path in ["/a?token=canary", "/a#canary"] {
            let facts = RequestFacts {
                path: path.to_owned(),
                ..RequestFacts::default()
            };
            assert_eq!(members(&facts)["path"], "/a");
        }
    }
}
