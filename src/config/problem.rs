//! What is wrong with a file, and the collector that gathers everything before anybody is told.
//!
//! A problem says where, what and what to do. It never repeats a value of the file and never shows a line of it: a
//! secret that was written where it does not belong must not be spread by the message about it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// Most problems that are reported; a binary file would otherwise answer with a book.
const PROBLEMS_MAX: usize = 100;

/// Where something stands in the file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Place {
    /// The beginning of the file.
    pub(super) const START: Self = Self { line: 1, column: 1 };
}

/// One thing that is wrong, or worth a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The configuration file, as it was named.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: usize,
    /// The column, from 1.
    pub column: usize,
    /// The path of keys, such as `services.items.rules[0].allow`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

/// `FILE:LINE: KEY: WHAT; REMEDY`
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            key,
            what,
            remedy,
            ..
        } = self;
        write!(f, "{file}:{line}: {key}: {what}; {remedy}")
    }
}

/// Everything that is wrong with a file, in the order of its lines; never empty. Displays one line a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub(super) Vec<Problem>);

impl Problems {
    /// The problems in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            let end = if i == 0 { "" } else { "\n" };
            write!(f, "{end}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A path of keys, kept in parts so that patterns can be matched and nothing unprintable gets out.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyPath(Vec<Step>);

#[derive(Debug, Clone)]
enum Step {
    Index(usize),
    Key(String),
}

impl KeyPath {
    pub(super) fn key(&self, key: &str) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Key(key.to_owned()));
        Self(steps)
    }

    pub(super) fn index(&self, index: usize) -> Self {
        let mut steps = self.0.clone();
        steps.push(Step::Index(index));
        Self(steps)
    }

    /// The path of what is around.
    pub(super) fn parent(&self) -> Self {
        let mut steps = self.0.clone();
        steps.pop();
        Self(steps)
    }

    /// The keys without the numbers of list entries.
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|step| match step {
            Step::Index(_) => None,
            Step::Key(key) => Some(key.as_str()),
        })
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("(file)");
        }
        for (i, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    let dot = if i == 0 { "" } else { "." };
                    let key = if printable(key) { key } else { "?" };
                    write!(f, "{dot}{key}")?;
                }
            }
        }
        Ok(())
    }
}

/// Whether a name of the file may be repeated to the user: what could not be an agent's or service's name is not.
pub(super) fn printable(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= 64
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Gathers problems and warnings, and knows where each key stands.
pub(super) struct Findings {
    file: Arc<str>,
    places: HashMap<String, Place>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Findings {
    pub(super) fn new(file: &str) -> Self {
        let file: String = file.chars().flat_map(char::escape_debug).collect();
        Self {
            file: file.into(),
            places: HashMap::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Remembers where a key or a list entry stands.
    pub(super) fn place(&mut self, path: &KeyPath, place: Place) {
        self.places.entry(path.to_string()).or_insert(place);
    }

    /// Adds a problem at a known place.
    pub(super) fn error_at(&mut self, place: Place, key: &str, what: &str, remedy: &str) {
        let problem = self.problem(place, key, what, remedy);
        if self.problems.len() < PROBLEMS_MAX && !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Adds a problem at a key; where the key is absent, at the nearest one around it.
    pub(super) fn error(&mut self, key: &str, what: &str, remedy: &str) {
        self.error_at(self.locate(key), key, what, remedy);
    }

    /// Adds a warning at a key.
    pub(super) fn warn(&mut self, key: &str, what: &str, remedy: &str) {
        let problem = self.problem(self.locate(key), key, what, remedy);
        if self.warnings.len() < PROBLEMS_MAX {
            self.warnings.push(problem);
        }
    }

    /// Whether something at or below this key was refused already, so that nothing can be concluded from its absence.
    pub(super) fn tainted(&self, key: &str) -> bool {
        self.problems.iter().any(|problem| {
            problem
                .key
                .strip_prefix(key)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    /// The warnings, or the problems where there are any.
    pub(super) fn finish(self) -> Result<Vec<Problem>, Problems> {
        let mut problems = self.problems;
        if problems.is_empty() {
            let mut warnings = self.warnings;
            warnings.sort_by_key(|p| (p.line, p.column));
            return Ok(warnings);
        }
        problems.sort_by_key(|p| (p.line, p.column));
        Err(Problems(problems))
    }

    fn problem(&self, place: Place, key: &str, what: &str, remedy: &str) -> Problem {
        Problem {
            file: Arc::clone(&self.file),
            line: place.line,
            column: place.column,
            key: key.to_owned(),
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        }
    }

    fn locate(&self, key: &str) -> Place {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return *place;
            }
            match key.rfind(['.', '[']) {
                Some(end) => key = &key[..end],
                None => return Place::START,
            }
        }
    }
}
