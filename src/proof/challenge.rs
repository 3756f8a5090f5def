//! `WWW-Authenticate` (RFC 9110 §11.6.1): a list of challenges over all field lines.
//!
//! The comma separates challenges as well as parameters, so a search for `DPoP ` at the beginning of the first line,
//! which is what several DPoP clients do, misses most of what real servers send. Malformed elements are skipped and
//! the rest is read: a challenge that we overlook costs a retry, one that we invent costs nothing more.

/// Most challenges that are read.
const CHALLENGES_MAX: usize = 32;
/// Most bytes that are read, over all lines.
const BYTES_MAX: usize = 16 * 1024;

/// One challenge of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The scheme in lower case.
    pub scheme: String,
    /// Name in lower case and value, unquoted, in the order sent.
    pub params: Vec<(String, String)>,
    /// What stands in place of parameters, as with `Negotiate`.
    pub token68: Option<String>,
}

impl Challenge {
    /// The first value of a parameter; `name` in lower case.
    #[must_use]
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Reads the challenges of all field lines as the one list that they are (RFC 9110 §5.3); at most 32 challenges and
/// 16 KiB, what lies beyond is not read.
pub fn parse_challenges<'a>(field_lines: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut budget = BYTES_MAX;
    for line in field_lines {
        let Some(left) = budget.checked_sub(line.len() + 1) else {
            break;
        };
        budget = left;
        let mut cursor = Cursor { rest: line };
        loop {
            match cursor.element(&mut found) {
                Step::Line => break,
                Step::List => return found,
                Step::More => {}
            }
        }
    }
    found
}

/// How far one step got.
enum Step {
    /// The line has ended.
    Line,
    /// The list is full; a parameter further on would hang itself on the wrong challenge.
    List,
    /// There is more on this line.
    More,
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// Reads one list element: a scheme with its first argument, or a further parameter of the last challenge.
    fn element(&mut self, found: &mut Vec<Challenge>) -> Step {
        self.rest = self.rest.trim_start_matches([' ', '\t', ',']);
        if self.rest.is_empty() {
            return Step::Line;
        }
        let name = self.token();
        if name.is_empty() {
            self.skip_element();
            return Step::More;
        }
        if let Some(value) = self.parameter_value() {
            match (value, found.last_mut()) {
                (Some(value), Some(challenge)) => challenge.add(name, value),
                (Some(_), None) => {}
                (None, _) => self.skip_element(),
            }
            return Step::More;
        }
        if found.len() == CHALLENGES_MAX {
            return Step::List;
        }
        let mut challenge = Challenge {
            scheme: name.to_ascii_lowercase(),
            params: Vec::new(),
            token68: None,
        };
        self.first_argument(&mut challenge);
        found.push(challenge);
        Step::More
    }

    /// What follows a scheme: a parameter, or a token68 that fills the whole element. `abc=` is a token68, `abc=d` a
    /// parameter. Anything else is left for the next step.
    fn first_argument(&mut self, challenge: &mut Challenge) {
        self.blanks();
        let start = self.rest;
        let name = self.token();
        if !name.is_empty()
            && let Some(Some(value)) = self.parameter_value()
        {
            challenge.add(name, value);
            return;
        }
        let body = start.trim_start_matches(|c: char| {
            c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | '+' | '/')
        });
        let after = body.trim_start_matches('=');
        self.rest = after;
        self.blanks();
        if body.len() < start.len() && (self.rest.is_empty() || self.rest.starts_with(',')) {
            challenge.token68 = Some(start[..start.len() - after.len()].to_owned());
        } else {
            self.rest = start;
        }
    }

    /// After a name: `None` where no `=` follows (nothing is consumed but blanks), `Some(None)` where it is followed
    /// by no value.
    fn parameter_value(&mut self) -> Option<Option<String>> {
        self.blanks();
        self.rest = self.rest.strip_prefix('=')?;
        self.blanks();
        if self.rest.starts_with('"') {
            return Some(self.quoted());
        }
        let value = self.token();
        Some((!value.is_empty()).then(|| value.to_owned()))
    }

    fn blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// A token (RFC 9110 §5.6.2), empty where none stands here.
    fn token(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| !is_tchar(c))
            .unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    /// A quoted string (RFC 9110 §5.6.4) without its quotes. One that never closes swallows the line, not the next.
    fn quoted(&mut self) -> Option<String> {
        let mut value = String::new();
        let mut clean = true;
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            let c = match c {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return clean.then_some(value);
                }
                '\\' => match chars.next() {
                    Some((_, escaped)) => escaped,
                    None => break,
                },
                plain => plain,
            };
            clean &= c == '\t' || !c.is_control();
            value.push(c);
        }
        self.rest = "";
        None
    }

    /// Goes to the comma that ends a malformed element; commas inside quotes do not.
    fn skip_element(&mut self) {
        loop {
            let end = self.rest.find([',', '"']).unwrap_or(self.rest.len());
            self.rest = &self.rest[end..];
            if !self.rest.starts_with('"') {
                return;
            }
            let _skipped = self.quoted();
        }
    }
}

impl Challenge {
    fn add(&mut self, name: &str, value: String) {
        self.params.push((name.to_ascii_lowercase(), value));
    }
}

fn is_tchar(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests;
