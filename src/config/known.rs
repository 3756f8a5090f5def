//! Keys that the product has but this version does not, and the nearest known key for a misspelt one.

use super::problem::KeyPath;

/// Paths of keys and words of the product's contract that are not built yet; `*` stands for a name that the user
/// chose. A path moves from here into `raw` when its feature works.
const NOT_YET: &[&str] = &[
    "agents.*.auth.kubernetes",
    "agents.*.auth.mtls",
    "agents.*.auth.peer_uid",
    "agents.*.auth.spiffe",
    "agents.*.uid",
    "listen.gateway",
    "services.*.body_inspection",
    "services.*.capture",
    "services.*.credential.aws_sigv4",
    "services.*.credential.basic",
    "services.*.credential.github_app",
    "services.*.credential.google_service_account",
    "services.*.credential.query",
    "services.*.rules.graphql",
    "services.*.rules.mcp",
    "store.postgres",
];

/// Ways to refer to a secret that are not built yet.
const SECRETS_NOT_YET: &[&str] = &["keyring", "vault"];

/// Whether this key, or this word as the value of the key around it, belongs to a feature that is not built yet.
pub(super) fn not_yet(path: &KeyPath) -> bool {
    NOT_YET.iter().any(|pattern| {
        let mut keys = path.keys();
        let same = pattern
            .split('.')
            .all(|part| keys.next().is_some_and(|key| part == "*" || part == key));
        same && keys.next().is_none()
    })
}

/// Whether this is a way to refer to a secret that is not built yet.
pub(super) fn secret_not_yet(key: &str) -> Option<&'static str> {
    SECRETS_NOT_YET.iter().copied().find(|known| *known == key)
}

/// The known word that is at most two slips away, at most one in short words.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let within = if word.len() <= 4 { 1 } else { 2 };
    known
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .filter(|(slips, _)| *slips <= within)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["hosts", "port", "rules", "htu"];
        assert_eq!(nearest("host", &known), Some("hosts"));
        assert_eq!(nearest("ruels", &known), Some("rules"));
        assert_eq!(nearest("prot", &known), None);
        assert_eq!(nearest("credential", &known), None);
    }

    #[test]
    fn patterns_match_whole_paths() {
        let path = KeyPath::default().key("services").key("a.b").key("capture");
        assert!(not_yet(&path));
        assert!(!not_yet(&path.key("issuer")));
        assert!(!not_yet(&KeyPath::default().key("services").key("capture")));
        let rule = KeyPath::default()
            .key("services")
            .key("x")
            .key("rules")
            .index(3)
            .key("mcp");
        assert!(not_yet(&rule));
    }
}
