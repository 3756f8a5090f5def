//! Rust source as the walls see it: comments and texts blanked out, test code told apart, paths read with the names
//! that `use` gave them.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::{fs, io};

/// One file under `src/`.
pub(crate) struct Source {
    /// Relative to `src/`, with `/` between names.
    pub(crate) path: String,
    /// Without comments and texts; lines are where they were.
    pub(crate) code: String,
    /// `code` without test modules; empty in a file of tests.
    pub(crate) production: String,
    /// Every path in the file, tests included.
    pub(crate) all_paths: Vec<Named>,
    /// Every path in the file outside tests.
    pub(crate) production_paths: Vec<Named>,
}

/// A path that the code names, from its first segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) line: usize,
    pub(crate) segments: Vec<String>,
}

impl Named {
    /// Whether the path ends in these segments.
    pub(crate) fn ends_in(&self, tail: &[&str]) -> bool {
        self.segments.len() >= tail.len()
            && self
                .segments
                .iter()
                .rev()
                .zip(tail.iter().rev())
                .all(|(a, b)| a == b)
    }
}

impl Source {
    /// Reads a file's text. `test` says that its parent declares it for tests only.
    pub(crate) fn of(path: &str, text: &str, test: bool) -> Self {
        let code = blank(text);
        let test = test
            || path
                .split('/')
                .any(|part| part == "tests" || part == "tests.rs");
        let production = if test {
            String::new()
        } else {
            without_tests(&code)
        };
        let module = module(path);
        let (all_paths, production_paths) = (paths(&code, &module), paths(&production, &module));
        Self {
            path: path.to_owned(),
            code,
            production,
            all_paths,
            production_paths,
        }
    }

    /// The room that the file belongs to; `None` for `main.rs` and `lib.rs`.
    pub(crate) fn room(&self) -> Option<&str> {
        self.path.split_once('/').map(|(room, _)| room)
    }
}

/// The module path of a file, from the crate's root.
fn module(path: &str) -> Vec<String> {
    let bare = path.trim_end_matches(".rs");
    let bare = bare.strip_suffix("/mod").unwrap_or(bare);
    if matches!(bare, "lib" | "main") {
        Vec::new()
    } else {
        bare.split('/').map(str::to_owned).collect()
    }
}

/// Reads every file under `src`.
pub(crate) fn sources(src: &Path) -> io::Result<Vec<Source>> {
    let mut texts = Vec::new();
    collect(src, "", &mut texts)?;
    texts.sort();
    let tests: HashSet<String> = texts
        .iter()
        .flat_map(|(path, text)| test_files(path, &blank(text)))
        .collect();
    let only_tests = |path: &str| {
        let bare = path.trim_end_matches(".rs");
        tests
            .iter()
            .any(|test| bare == test || bare.starts_with(&format!("{test}/")))
    };
    Ok(texts
        .iter()
        .map(|(path, text)| Source::of(path, text, only_tests(path)))
        .collect())
}

fn collect(dir: &Path, prefix: &str, texts: &mut Vec<(String, String)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{path}/"), texts)?;
        } else if name.ends_with(".rs") {
            texts.push((path, fs::read_to_string(entry.path())?));
        }
    }
    Ok(())
}

/// Files that `#[cfg(test)] mod name;` declares, without `.rs`.
fn test_files(path: &str, code: &str) -> Vec<String> {
    let bare = path.trim_end_matches(".rs");
    let dir = match bare.rsplit_once('/') {
        Some((dir, "mod")) => dir,
        _ => bare,
    };
    let declared = code
        .match_indices("#[cfg(test)]")
        .filter_map(|(at, attribute)| {
            let rest = code[at + attribute.len()..].trim_start();
            let name = rest.strip_prefix("mod ")?.split(';').next()?.trim();
            name.chars().all(word).then(|| format!("{dir}/{name}"))
        });
    declared.collect()
}

/// Lines of code: not blank, not comment, not test.
pub(crate) fn code_lines(source: &Source) -> usize {
    source
        .production
        .lines()
        .filter(|line| !line.trim().is_empty())
        .count()
}

fn word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Replaces comments and the inside of texts by spaces. Lines stay where they were.
pub(crate) fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = past(&chars, at);
        let hidden = end > at + 1;
        for c in &chars[at..end] {
            out.push(if hidden && *c != '\n' { ' ' } else { *c });
        }
        at = end;
    }
    out
}

/// Where a comment or a text that begins at `at` ends; `at + 1` where none begins.
fn past(chars: &[char], at: usize) -> usize {
    let is = |i: usize, c: char| chars.get(i) == Some(&c);
    let fresh = at == 0 || !chars.get(at - 1).copied().is_some_and(word);
    let mut i = at;
    match chars[at] {
        '/' if is(at + 1, '/') => chars[at..]
            .iter()
            .position(|c| *c == '\n')
            .map_or(chars.len(), |n| at + n),
        '/' if is(at + 1, '*') => past_block(chars, at),
        '"' => past_text(chars, at + 1),
        '\'' if is(at + 1, '\\') => {
            let close = chars.iter().skip(at + 3).position(|c| *c == '\'');
            close.map_or(chars.len(), |n| at + 4 + n)
        }
        '\'' if is(at + 2, '\'') => at + 3,
        'b' | 'c' | 'r' if fresh => {
            while matches!(chars.get(i), Some('b' | 'c' | 'r')) && i < at + 2 {
                i += 1;
            }
            let raw = chars[at..i].contains(&'r');
            let hashes = chars
                .iter()
                .skip(i)
                .take_while(|c| raw && **c == '#')
                .count();
            match chars.get(i + hashes) {
                Some('"') if raw => past_raw(chars, i + hashes + 1, hashes),
                Some('"') => past_text(chars, i + 1),
                _ => at + 1,
            }
        }
        _ => at + 1,
    }
}

fn past_block(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0usize, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') if depth == 1 => return i + 2,
            ('*', '/') => depth -= 1,
            _ => {
                i += 1;
                continue;
            }
        }
        i += 2;
    }
    chars.len()
}

fn past_text(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() {
        match chars[i] {
            '"' => return i + 1,
            '\\' => i += 2,
            _ => i += 1,
        }
    }
    chars.len()
}

fn past_raw(chars: &[char], mut i: usize, hashes: usize) -> usize {
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take_while(|c| **c == '#').count() >= hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    chars.len()
}

/// Blanks every item that stands under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out
        .find("#[cfg(test)]")
        .or_else(|| out.find("#[cfg(all(test"))
    {
        let end = item_end(&out, start);
        let gone: String = out[start..end]
            .chars()
            .map(|c| if c == '\n' { '\n' } else { ' ' })
            .collect();
        out.replace_range(start..end, &gone);
    }
    out
}

/// Where the item that begins with an attribute at `start` ends: its closing brace, or the semicolon before any.
fn item_end(code: &str, start: usize) -> usize {
    let (mut braces, mut brackets) = (0usize, 0usize);
    for (i, c) in code[start..].char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets = brackets.saturating_sub(1),
            '{' => braces += 1,
            '}' => {
                braces = braces.saturating_sub(1);
                if braces == 0 {
                    return start + i + 1;
                }
            }
            ';' if braces == 0 && brackets == 0 => return start + i + 1,
            _ => {}
        }
    }
    code.len()
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Colons,
    Mark(char),
    Word(String),
}

fn tokens(code: &str) -> Vec<(usize, Token)> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let (token, length) = if word(first) {
                let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
                (Token::Word(rest[..end].to_owned()), end)
            } else if rest.starts_with("::") {
                (Token::Colons, 2)
            } else {
                (Token::Mark(first), first.len_utf8())
            };
            found.push((number + 1, token));
            rest = rest[length..].trim_start();
        }
    }
    found
}

/// All paths of two and more segments, absolute where they can be: names from `use` are put back, `super` and `self`
/// are resolved, and `crate` is the first segment of everything of ours.
pub(crate) fn paths(code: &str, module: &[String]) -> Vec<Named> {
    let mut reader = Reader {
        tokens: tokens(code),
        at: 0,
        module: module.to_vec(),
        inner: Vec::new(),
        found: Vec::new(),
    };
    let mut names: HashMap<String, Vec<String>> = HashMap::new();
    let mut local: HashSet<String> = HashSet::new();
    reader.read(&mut names, &mut local);
    let resolve = |mut named: Named| {
        let first = named.segments[0].clone();
        if let Some(full) = names.get(&first) {
            if full.as_slice() != std::slice::from_ref(&first) {
                named.segments.splice(0..1, full.iter().cloned());
            }
        } else if local.contains(&first) {
            named.segments.insert(0, "self".to_owned());
        }
        named
    };
    let found = std::mem::take(&mut reader.found);
    found
        .into_iter()
        .map(|(named, imported)| if imported { named } else { resolve(named) })
        .collect()
}

struct Reader {
    tokens: Vec<(usize, Token)>,
    at: usize,
    module: Vec<String>,
    /// Depths of braces at which inline modules began.
    inner: Vec<usize>,
    found: Vec<(Named, bool)>,
}

impl Reader {
    fn peek(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead).map(|(_, token)| token)
    }

    fn word(&self, ahead: usize) -> Option<&str> {
        match self.peek(ahead) {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    fn read(&mut self, names: &mut HashMap<String, Vec<String>>, local: &mut HashSet<String>) {
        let mut depth = 0usize;
        while let Some(token) = self.peek(0).cloned() {
            match token {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => {
                    depth = depth.saturating_sub(1);
                    if self.inner.last() == Some(&depth) {
                        self.inner.pop();
                        self.module.pop();
                    }
                }
                Token::Word(word) if word == "mod" => {
                    if let Some(name) = self.word(1).map(str::to_owned) {
                        local.insert(name.clone());
                        self.at += 1;
                        if self.peek(1) == Some(&Token::Mark('{')) {
                            self.inner.push(depth);
                            self.module.push(name);
                            self.at += 1;
                            depth += 1;
                        }
                    }
                }
                Token::Word(word) if word == "use" && self.peek(1) != Some(&Token::Mark('<')) => {
                    self.at += 1;
                    self.tree(&[], names);
                    continue;
                }
                Token::Word(_) => {
                    self.expression();
                    continue;
                }
                Token::Colons | Token::Mark(_) => {}
            }
            self.at += 1;
        }
    }

    /// A path outside `use`.
    fn expression(&mut self) {
        let before = self
            .at
            .checked_sub(1)
            .and_then(|i| self.tokens.get(i))
            .map(|(_, token)| token.clone());
        let line = self.tokens[self.at].0;
        let mut segments = Vec::new();
        while let Some(word) = self.word(0) {
            segments.push(word.to_owned());
            self.at += 1;
            if self.peek(0) == Some(&Token::Colons) && self.word(1).is_some() {
                self.at += 1;
            } else {
                break;
            }
        }
        let continues = matches!(before, Some(Token::Colons));
        let global = continues && self.starts_global(segments.len());
        if segments.len() > 1 && (!continues || global) {
            let segments = self.absolute(segments);
            self.found.push((Named { line, segments }, global));
        }
    }

    /// Whether the `::` before the path just read begins it (`::http::Uri`), rather than going on after `>`.
    fn starts_global(&self, length: usize) -> bool {
        let colons = self.at.checked_sub(2 * length);
        let before = colons
            .and_then(|i| i.checked_sub(1))
            .and_then(|i| self.tokens.get(i));
        matches!(
            before,
            Some((
                _,
                Token::Mark('(' | ',' | '&' | '=' | '<' | ':' | '{' | ';' | '[')
            ))
        )
    }

    /// One branch of a `use` tree, up to its `,`, `}` or `;`.
    fn tree(&mut self, prefix: &[String], names: &mut HashMap<String, Vec<String>>) {
        let mut path = prefix.to_vec();
        let line = self.tokens.get(self.at).map_or(0, |(line, _)| *line);
        if self.peek(0) == Some(&Token::Colons) {
            self.at += 1;
        }
        while let Some(token) = self.peek(0).cloned() {
            match token {
                Token::Word(word) if word == "as" => {
                    self.at += 1;
                    if let Some(alias) = self.word(0).map(str::to_owned) {
                        self.import(line, &path, &alias, names);
                        self.at += 1;
                    }
                    return;
                }
                Token::Word(word) => {
                    self.at += 1;
                    path.push(word);
                }
                Token::Colons => self.at += 1,
                Token::Mark('{') => {
                    self.at += 1;
                    while !matches!(self.peek(0), None | Some(Token::Mark('}' | ';'))) {
                        self.tree(&path, names);
                        if self.peek(0) == Some(&Token::Mark(',')) {
                            self.at += 1;
                        }
                    }
                    if self.peek(0) == Some(&Token::Mark('}')) {
                        self.at += 1;
                    }
                    return;
                }
                Token::Mark('*') => {
                    self.at += 1;
                    path.push("*".to_owned());
                }
                Token::Mark(_) => break,
            }
        }
        if let Some(name) = path.iter().rev().find(|part| *part != "self").cloned() {
            self.import(line, &path, &name, names);
        }
    }

    fn import(
        &mut self,
        line: usize,
        path: &[String],
        name: &str,
        names: &mut HashMap<String, Vec<String>>,
    ) {
        let mut segments = path.to_vec();
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        let segments = self.absolute(segments);
        names.insert(name.to_owned(), segments.clone());
        self.found.push((Named { line, segments }, true));
    }

    /// Puts the module's own path in the place of leading `super` and `self`.
    fn absolute(&self, segments: Vec<String>) -> Vec<String> {
        let up = segments
            .iter()
            .take_while(|s| *s == "super" || *s == "self")
            .count();
        if up == 0 {
            return segments;
        }
        let supers = segments[..up].iter().filter(|s| *s == "super").count();
        let keep = self.module.len().saturating_sub(supers);
        let root = std::iter::once("crate".to_owned());
        root.chain(self.module[..keep].iter().cloned())
            .chain(segments[up..].iter().cloned())
            .collect()
    }
}
