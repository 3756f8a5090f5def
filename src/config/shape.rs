//! Checks a tree against the JSON schema and keeps what fits.
//!
//! The schema is the one that users get, made from `raw`, so the two cannot disagree. What does not fit becomes a
//! finding and a hole; the rest is read on, so that one run finds every mistake. Types come from the schema and not
//! from the look of a value: `kid: 0123` is the text it seems to be, `plaintext: yes` is not a truth value.
//!
//! Invariant: no value of the file gets into a finding, and no key from where a secret is expected.

use serde_json::{Map, Number, Value};

use super::document::{Entry, Kind, Node};
use super::known;
use super::problem::{Findings, KeyPath, Place, printable};
use super::prompts::{self, Question};

const SECRET: &str = "#/$defs/SecretRef";
const SECRET_REMEDY: &str = "write {env: NAME}, {file: PATH}, {exec: [CMD, ARG]} or {prompt: TEXT}";

/// Reads a tree by a schema. What comes out has the shape that the schema describes, with `null` for holes; with it come
/// the questions to a person, in the order of the file.
pub(super) fn check(
    node: &Node,
    schema: &Value,
    findings: &mut Findings,
) -> (Value, Vec<Question>) {
    let mut shape = Shape {
        root: schema,
        findings,
        questions: Vec::new(),
    };
    let read = shape
        .read(node, schema, &KeyPath::default(), node.place)
        .unwrap_or_else(|| Value::Object(Map::new()));
    (read, shape.questions)
}

struct Shape<'a> {
    root: &'a Value,
    findings: &'a mut Findings,
    questions: Vec<Question>,
}

/// What may stand somewhere, by the kind of node.
#[derive(Default)]
struct Choice<'a> {
    /// Mappings with fixed keys, each a way to write one variant, or the one struct.
    structs: Vec<&'a Map<String, Value>>,
    /// Whether `structs` are variants: without its content a variant is nothing.
    variants: bool,
    list: Option<&'a Value>,
    named: Option<&'a Value>,
    scalar: Option<&'a Map<String, Value>>,
    words: Vec<&'a str>,
}

impl<'a> Shape<'a> {
    fn read(
        &mut self,
        node: &Node,
        schema: &'a Value,
        path: &KeyPath,
        place: Place,
    ) -> Option<Value> {
        if node.is_null() {
            let remedy = "give it one or remove the key";
            return self.refuse(place, path, "has no value", remedy);
        }
        if schema.get("$ref").is_some_and(|r| r == SECRET) {
            return self.secret(node, path, place);
        }
        let mut choice = Choice::default();
        self.choose(schema, &mut choice, false);
        match &node.kind {
            Kind::Scalar { text, plain } => self.scalar(text, *plain, &choice, path, place),
            Kind::List(items) => {
                let Some(of) = choice.list else {
                    return self.wrong_kind(&choice, path, place);
                };
                let read = items.iter().enumerate().map(|(i, item)| {
                    let path = path.index(i);
                    self.findings.place(&path, item.place);
                    self.read(item, of, &path, item.place)
                        .unwrap_or(Value::Null)
                });
                Some(Value::Array(read.collect()))
            }
            Kind::Map(entries) => self.map(entries, &choice, path, place),
        }
    }

    /// Sorts the alternatives of a schema by the kind of node that they take.
    fn choose(&self, schema: &'a Value, choice: &mut Choice<'a>, variant: bool) {
        let Some(schema) = self.resolve(schema).as_object() else {
            return;
        };
        for (word, variant) in [("anyOf", false), ("oneOf", true)] {
            let list = schema.get(word).and_then(Value::as_array);
            for alternative in list.into_iter().flatten() {
                self.choose(alternative, choice, variant);
            }
        }
        match schema.get("type").and_then(Value::as_str) {
            Some("array") => choice.list = schema.get("items"),
            Some("object") => {
                if let Some(of) = schema.get("additionalProperties").filter(|v| v.is_object()) {
                    choice.named = Some(of);
                } else {
                    choice.structs.push(schema);
                    choice.variants |= variant;
                }
            }
            Some(_) => {
                let many = schema.get("enum").and_then(Value::as_array);
                let words = many.into_iter().flatten().chain(schema.get("const"));
                let before = choice.words.len();
                choice.words.extend(words.filter_map(Value::as_str));
                if choice.words.len() == before {
                    choice.scalar = Some(schema);
                }
            }
            None => {}
        }
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let name = schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|reference| reference.strip_prefix('#'));
        name.and_then(|pointer| self.root.pointer(pointer))
            .unwrap_or(schema)
    }

    fn scalar(
        &mut self,
        text: &str,
        plain: bool,
        choice: &Choice<'_>,
        path: &KeyPath,
        place: Place,
    ) -> Option<Value> {
        if choice.words.contains(&text) {
            return Some(Value::String(text.to_owned()));
        }
        let worded = choice.variants || !choice.words.is_empty();
        if worded && known::not_yet(&path.key(text)) {
            return self.not_yet(place, path);
        }
        let Some(schema) = choice.scalar else {
            return self.wrong_kind(choice, path, place);
        };
        match schema.get("type").and_then(Value::as_str) {
            Some("boolean") => match text {
                "true" | "false" if plain => Some(Value::Bool(text == "true")),
                _ => self.refuse(place, path, "not a truth value", "write true or false"),
            },
            Some("integer") => {
                let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
                let min = bound("minimum").unwrap_or(0);
                let max = bound("maximum").unwrap_or_else(|| u64::from(u32::MAX));
                let number = text.parse::<u64>().ok().filter(|_| plain);
                if let Some(number) = number.filter(|n| (min..=max).contains(n)) {
                    return Some(Value::Number(Number::from(number)));
                }
                let remedy = format!("write a whole number from {min} to {max}");
                self.refuse(place, path, "not a number in range", &remedy)
            }
            _ => Some(Value::String(text.to_owned())),
        }
    }

    fn map(
        &mut self,
        entries: &[Entry],
        choice: &Choice<'a>,
        path: &KeyPath,
        place: Place,
    ) -> Option<Value> {
        if let Some(of) = choice.named {
            let mut read = Map::new();
            for entry in entries {
                let path = path.key(&entry.key);
                self.findings.place(&path, entry.place);
                let value = self.read(&entry.value, of, &path, entry.place);
                read.insert(entry.key.clone(), value.unwrap_or(Value::Null));
            }
            return Some(Value::Object(read));
        }
        if choice.structs.is_empty() {
            let unbuilt = entries.iter().any(|e| known::not_yet(&path.key(&e.key)));
            for entry in entries {
                let path = path.key(&entry.key);
                if known::not_yet(&path) {
                    self.not_yet(entry.place, &path);
                }
            }
            return if unbuilt {
                None
            } else {
                self.wrong_kind(choice, path, place)
            };
        }
        let properties: Vec<(&str, &'a Value)> = choice
            .structs
            .iter()
            .filter_map(|s| s.get("properties")?.as_object())
            .flatten()
            .map(|(key, schema)| (key.as_str(), schema))
            .collect();
        let mut read = Map::new();
        let mut refused = Vec::new();
        for entry in entries {
            let path = path.key(&entry.key);
            let Some((_, schema)) = properties.iter().find(|(key, _)| *key == entry.key) else {
                refused.push(entry.key.as_str());
                self.unknown(entry, &path, &properties, place);
                continue;
            };
            self.findings.place(&path, entry.place);
            match self.read(&entry.value, schema, &path, entry.place) {
                Some(value) => {
                    read.insert(entry.key.clone(), value);
                }
                None => refused.push(entry.key.as_str()),
            }
        }
        if choice.variants {
            return self.one_variant(read, refused.is_empty(), &properties, path, place);
        }
        for key in required(&choice.structs) {
            if !read.contains_key(key) && !refused.contains(&key) {
                let path = path.key(key);
                self.refuse::<()>(place, &path, "missing", "add this key");
            }
        }
        Some(Value::Object(read))
    }

    /// A variant is written as a mapping with its one key.
    fn one_variant(
        &mut self,
        read: Map<String, Value>,
        clean: bool,
        properties: &[(&str, &Value)],
        path: &KeyPath,
        place: Place,
    ) -> Option<Value> {
        if read.len() == 1 && clean {
            return Some(Value::Object(read));
        }
        if read.len() > 1 || (read.is_empty() && clean) {
            let remedy = format!("choose exactly one of {}", list(properties));
            return self.refuse(place, path, "exactly one of its forms is needed", &remedy);
        }
        None
    }

    /// A reference to a secret. Whatever else stands here may be the secret: not even a key of it is repeated.
    fn secret(&mut self, node: &Node, path: &KeyPath, place: Place) -> Option<Value> {
        const LITERAL: &str = "a secret must be a reference, never the value itself";
        let Kind::Map(entries) = &node.kind else {
            return self.refuse(place, path, LITERAL, SECRET_REMEDY);
        };
        if let Some(word) = entries.iter().find_map(|e| known::secret_not_yet(&e.key)) {
            return self.not_yet(place, &path.key(word));
        }
        let [Entry { key, value, .. }] = entries.as_slice() else {
            return self.refuse(place, path, LITERAL, SECRET_REMEDY);
        };
        let what = match key.as_str() {
            "env" => "not the name of a variable",
            "file" => "not the path of a file",
            "exec" => "not a command and its arguments",
            "prompt" => "not a text to ask with: one line of at most 200 characters",
            _ => return self.refuse(place, path, LITERAL, SECRET_REMEDY),
        };
        let forms = self.root.pointer("/$defs/SecretRef/oneOf")?.as_array()?;
        let form = forms
            .iter()
            .find_map(|form| form.get("properties")?.get(key))?;
        let around = path;
        let path = path.key(key);
        self.findings.place(&path, place);
        let fits = match (&value.kind, form.get("type").and_then(Value::as_str)) {
            (Kind::List(_), Some("array")) => true,
            (Kind::Scalar { text, .. }, Some("string")) => key != "prompt" || prompts::fits(text),
            _ => false,
        };
        if !fits || value.is_null() {
            return self.refuse(place, &path, what, SECRET_REMEDY);
        }
        let read = self.read(value, form, &path, place)?;
        let whole = read
            .as_array()
            .is_none_or(|items| items.iter().all(Value::is_string));
        if let (Kind::Scalar { text, .. }, "prompt") = (&value.kind, key.as_str()) {
            prompts::note(&mut self.questions, text, around.to_string());
        }
        whole.then(|| Value::Object(Map::from_iter([(key.clone(), read)])))
    }

    fn unknown(
        &mut self,
        entry: &Entry,
        path: &KeyPath,
        properties: &[(&str, &Value)],
        around: Place,
    ) {
        if known::not_yet(path) {
            self.not_yet(entry.place, path);
            return;
        }
        if entry.key == "<<" {
            let (what, remedy) = ("merge keys are not accepted", "write the keys out");
            self.refuse::<()>(entry.place, path, what, remedy);
            return;
        }
        let names: Vec<&str> = properties.iter().map(|(key, _)| *key).collect();
        let remedy = match known::nearest(&entry.key, &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known here: {}", list(properties)),
        };
        let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if printable(&entry.key) && entry.key.len() <= 40 && entry.key.bytes().all(word) {
            self.refuse::<()>(entry.place, path, "unknown key", &remedy);
        } else {
            // It does not look like a key at all; it may be a value that slid into the wrong place.
            let place = if entry.place.line > around.line {
                entry.place
            } else {
                around
            };
            let around = path.parent();
            self.refuse::<()>(place, &around, "holds an unknown key", &remedy);
        }
    }

    fn wrong_kind(&mut self, choice: &Choice<'_>, path: &KeyPath, place: Place) -> Option<Value> {
        let mut forms: Vec<String> = choice.words.iter().map(ToString::to_string).collect();
        if choice.variants {
            let properties = choice.structs.iter().filter_map(|s| s.get("properties"));
            let keys = properties.filter_map(Value::as_object).flat_map(Map::keys);
            forms.extend(keys.map(|key| format!("{{{key}: …}}")));
        } else if choice.named.is_some() || !choice.structs.is_empty() {
            forms.push("a mapping".into());
        }
        if choice.scalar.is_some() {
            forms.push("one value".into());
        }
        if choice.list.is_some() {
            forms.push("a list".into());
        }
        let remedy = format!("write {}", forms.join(" or "));
        self.refuse(
            place,
            path,
            "not one of the forms that this key takes",
            &remedy,
        )
    }

    fn not_yet(&mut self, place: Place, path: &KeyPath) -> Option<Value> {
        let remedy = "remove it; `tokenward schema` lists what works";
        self.refuse(place, path, "not supported yet", remedy)
    }

    fn refuse<T>(&mut self, place: Place, path: &KeyPath, what: &str, remedy: &str) -> Option<T> {
        self.findings
            .error_at(place, &path.to_string(), what, remedy);
        None
    }
}

fn required<'a>(structs: &[&'a Map<String, Value>]) -> Vec<&'a str> {
    let lists = structs.iter().filter_map(|s| s.get("required")?.as_array());
    lists.flatten().filter_map(Value::as_str).collect()
}

fn list(properties: &[(&str, &Value)]) -> String {
    let mut names: Vec<&str> = properties.iter().map(|(key, _)| *key).collect();
    names.sort_unstable();
    names.join(", ")
}
