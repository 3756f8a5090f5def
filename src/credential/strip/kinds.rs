//! What a credential that is not ours is known by: the beginnings that issuers gave their tokens so that leaks are noticed.

use std::fmt;

/// Whose token a text looks like. A closed set: the words stand in audit lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Anthropic, `sk-ant-`.
    Anthropic,
    /// An access key of AWS, `AKIA` and `ASIA`.
    Aws,
    /// GitHub, `ghp_` and its kin, `github_pat_`.
    Github,
    /// GitLab, `glpat-`.
    Gitlab,
    /// Google, `AIza` and `ya29.`.
    Google,
    /// Hugging Face, `hf_`.
    HuggingFace,
    /// A JWT (RFC 7519), signed or encrypted.
    Jwt,
    /// npm, `npm_`.
    Npm,
    /// OpenAI, `sk-`.
    Openai,
    /// Slack, `xoxb-` and its kin, `xapp-`.
    Slack,
    /// Stripe, `sk_live_`, `rk_live_` and the same for tests.
    Stripe,
}

/// Beginnings, and how many letters must follow at least. The first that fits counts.
const BEGINNINGS: [(&str, usize, TokenKind); 22] = [
    ("sk-ant-", 20, TokenKind::Anthropic),
    ("AKIA", 16, TokenKind::Aws),
    ("ASIA", 16, TokenKind::Aws),
    ("github_pat_", 20, TokenKind::Github),
    ("gho_", 20, TokenKind::Github),
    ("ghp_", 20, TokenKind::Github),
    ("ghr_", 20, TokenKind::Github),
    ("ghs_", 20, TokenKind::Github),
    ("ghu_", 20, TokenKind::Github),
    ("glpat-", 16, TokenKind::Gitlab),
    ("AIza", 30, TokenKind::Google),
    ("ya29.", 20, TokenKind::Google),
    ("hf_", 20, TokenKind::HuggingFace),
    ("npm_", 20, TokenKind::Npm),
    ("sk-", 20, TokenKind::Openai),
    ("xapp-", 10, TokenKind::Slack),
    ("xoxa-", 10, TokenKind::Slack),
    ("xoxb-", 10, TokenKind::Slack),
    ("xoxp-", 10, TokenKind::Slack),
    ("xoxs-", 10, TokenKind::Slack),
    ("rk_live_", 16, TokenKind::Stripe),
    ("sk_live_", 16, TokenKind::Stripe),
];

impl TokenKind {
    /// What a token looks like; `None`: like nothing that is known.
    pub(super) fn of(token: &str) -> Option<Self> {
        let letter = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
        let known = BEGINNINGS.iter().find(|(beginning, least, _)| {
            let rest = token.strip_prefix(beginning);
            rest.is_some_and(|rest| rest.len() >= *least && rest.bytes().all(letter))
        });
        known
            .map(|(_, _, kind)| *kind)
            .or_else(|| is_jwt(token).then_some(Self::Jwt))
    }

    /// The word in audit lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::Aws => "aws",
            Self::Github => "github",
            Self::Gitlab => "gitlab",
            Self::Google => "google",
            Self::HuggingFace => "hugging_face",
            Self::Jwt => "jwt",
            Self::Npm => "npm",
            Self::Openai => "openai",
            Self::Slack => "slack",
            Self::Stripe => "stripe",
        }
    }
}

impl fmt::Display for TokenKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Three or five parts of base64url, the first of which is the beginning of a JSON object.
fn is_jwt(token: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let parts = token.split('.').count();
    token.starts_with("eyJ")
        && (parts == 3 || parts == 5)
        && token.split('.').next().is_some_and(|head| head.len() >= 16)
        && token.split('.').all(|part| part.bytes().all(letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_known_by_how_they_begin() {
        let long = "0123456789abcdefghijABCDEFGHIJ0123456789";
        for (beginning, word) in [
            ("sk-ant-api03-", "anthropic"),
            ("sk-proj-", "openai"),
            ("sk-", "openai"),
            ("ghp_", "github"),
            ("github_pat_", "github"),
            ("AKIA", "aws"),
            ("AIza", "google"),
            ("ya29.", "google"),
            ("xoxb-", "slack"),
            ("sk_live_", "stripe"),
            ("glpat-", "gitlab"),
            ("hf_", "hugging_face"),
            ("npm_", "npm"),
        ] {
            let kind = TokenKind::of(&format!("{beginning}{long}"));
            assert_eq!(kind.map(TokenKind::as_str), Some(word), "{beginning}");
            assert_eq!(TokenKind::of(beginning), None);
        }
        let jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl";
        assert_eq!(TokenKind::of(jwt), Some(TokenKind::Jwt));
        for other in [
            "",
            "sk-short",
            "a.b.c",
            "eyJ.a",
            "tw-0123456789abcdefghij",
            "sk-0123456789 0123456789abc",
        ] {
            assert_eq!(TokenKind::of(other), None, "{other}");
        }
    }
}
