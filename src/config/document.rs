//! YAML text to a tree of nodes that know their lines.
//!
//! Not serde straight from the text, for three reasons: every duplicate key is to be reported and not the first one;
//! the parser's messages quote the file, which may hold a secret in the wrong place; and an alias must not multiply
//! without a bound (the "billion laughs" file). Tags, directives, merge keys and further documents are refused: a
//! configuration needs none of them, and each is a way to mean something else than what is seen.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use serde_saphyr::granit_parser::{
    ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span,
};

use super::problem::{Findings, KeyPath, Place};

/// Deepest nesting; the deepest path of a valid file has about ten steps.
const DEPTH_MAX: usize = 32;
/// Most nodes, those counted that aliases repeat.
const NODES_MAX: usize = 100_000;

/// A value of the file.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
    /// Nodes in it, itself counted, aliases expanded.
    size: usize,
    /// Levels below it.
    height: usize,
}

#[derive(Debug)]
pub(super) enum Kind {
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
    Scalar {
        text: String,
        /// Written without quotes, so that `8080` may be a number and `true` a truth value.
        plain: bool,
    },
}

/// A key, where it stands, and its value.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: Rc<Node>,
}

impl Node {
    /// Whether nothing was written.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// Why no tree came out.
struct Refused {
    place: Place,
    what: &'static str,
    remedy: &'static str,
}

/// Reads the text. `None`: nothing can be said about the content, and a finding tells why.
pub(super) fn parse(text: &str, findings: &mut Findings) -> Option<Rc<Node>> {
    let mut builder = Builder::default();
    let built = builder.run(text, findings);
    match built {
        Ok(Some(root)) if !root.is_null() => Some(root),
        Ok(_) => {
            let remedy = "name at least one service under `services`";
            findings.error_at(Place::START, "(file)", "the file is empty", remedy);
            None
        }
        Err(Refused {
            place,
            what,
            remedy,
        }) => {
            let path = builder.path().to_string();
            findings.error_at(place, &path, what, remedy);
            None
        }
    }
}

/// A list or mapping that is not closed yet.
struct Frame {
    place: Place,
    anchor: usize,
    size: usize,
    height: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Rc<Node>>),
    Map {
        entries: Vec<Entry>,
        seen: HashSet<String>,
        key: Option<(String, Place)>,
    },
}

#[derive(Default)]
struct Builder {
    stack: Vec<Frame>,
    anchors: HashMap<usize, Rc<Node>>,
    nodes: usize,
    root: Option<Rc<Node>>,
    documents: usize,
}

impl Builder {
    fn run(&mut self, text: &str, findings: &mut Findings) -> Result<Option<Rc<Node>>, Refused> {
        let mut options = Options::default();
        options.disallow_directives = true;
        let mut parser = Parser::new_from_str_with_options(text, options);
        while let Some(next) = parser.next_event() {
            let (event, span) = next.map_err(|error| refused(&error))?;
            self.take(event, &span, findings)?;
        }
        Ok(self.root.take())
    }

    fn take(
        &mut self,
        event: Event<'_>,
        span: &Span,
        findings: &mut Findings,
    ) -> Result<(), Refused> {
        let place = Place {
            line: span.start.line(),
            column: span.start.col() + 1,
        };
        if event.tag().is_some() {
            return Err(Refused {
                place,
                what: "YAML tags are not accepted",
                remedy: "remove the `!` word before the value",
            });
        }
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Refused {
                        place,
                        what: "a second YAML document begins here",
                        remedy: "keep one document in the file",
                    });
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, _) => {
                let kind = Kind::Scalar {
                    text: text.into_owned(),
                    plain: style == ScalarStyle::Plain,
                };
                let node = Rc::new(Node {
                    place,
                    kind,
                    size: 1,
                    height: 0,
                });
                self.anchor(anchor, &node);
                self.add(node, place, findings)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open(place, anchor, Inside::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, _) => self.open(
                place,
                anchor,
                Inside::Map {
                    entries: Vec::new(),
                    seen: HashSet::new(),
                    key: None,
                },
            ),
            Event::SequenceEnd | Event::MappingEnd => self.close(findings),
            Event::Alias(id) => {
                // An anchor whose node is still open is not here yet: it would contain itself.
                let node = self.anchors.get(&id).cloned().ok_or(Refused {
                    place,
                    what: "an alias refers to what it is part of",
                    remedy: "write the value out",
                })?;
                self.add(node, place, findings)
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, place: Place, anchor: usize, inside: Inside) -> Result<(), Refused> {
        if self.stack.len() >= DEPTH_MAX {
            return Err(too_deep(place));
        }
        if self.key_is_due() {
            return Err(odd_key(place));
        }
        self.stack.push(Frame {
            place,
            anchor,
            size: 1,
            height: 0,
            inside,
        });
        Ok(())
    }

    fn close(&mut self, findings: &mut Findings) -> Result<(), Refused> {
        let Some(frame) = self.stack.pop() else {
            return Ok(());
        };
        let place = frame.place;
        let kind = match frame.inside {
            Inside::List(items) => Kind::List(items),
            Inside::Map { entries, .. } => Kind::Map(entries),
        };
        let node = Rc::new(Node {
            place,
            kind,
            size: frame.size,
            height: frame.height,
        });
        self.anchor(frame.anchor, &node);
        self.add(node, place, findings)
    }

    fn anchor(&mut self, id: usize, node: &Rc<Node>) {
        if id != 0 {
            self.anchors.insert(id, Rc::clone(node));
        }
    }

    fn key_is_due(&self) -> bool {
        matches!(
            self.stack.last(),
            Some(Frame {
                inside: Inside::Map { key: None, .. },
                ..
            })
        )
    }

    /// Puts a finished node, or an alias of one, where the parser stands.
    fn add(
        &mut self,
        node: Rc<Node>,
        place: Place,
        findings: &mut Findings,
    ) -> Result<(), Refused> {
        let path = self.path();
        let depth = self.stack.len();
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        if let Inside::Map {
            key: key @ None, ..
        } = &mut frame.inside
        {
            let Kind::Scalar { text, .. } = &node.kind else {
                return Err(odd_key(place));
            };
            *key = Some((text.clone(), place));
            return Ok(());
        }
        if depth + node.height > DEPTH_MAX {
            return Err(too_deep(place));
        }
        frame.size = frame.size.saturating_add(node.size);
        frame.height = frame.height.max(node.height + 1);
        self.nodes += 1;
        if self.nodes > NODES_MAX || frame.size > NODES_MAX {
            return Err(Refused {
                place,
                what: "the file holds too many values",
                remedy: "repeat less by aliases",
            });
        }
        match &mut frame.inside {
            Inside::List(items) => items.push(node),
            Inside::Map { entries, seen, key } => {
                let Some((key, place)) = key.take() else {
                    return Ok(());
                };
                if seen.insert(key.clone()) {
                    entries.push(Entry {
                        key,
                        place,
                        value: node,
                    });
                } else {
                    let remedy = "keep one of the two";
                    findings.error_at(place, &path.to_string(), "duplicate key", remedy);
                }
            }
        }
        Ok(())
    }

    /// The keys and indexes that lead to where the parser stands.
    fn path(&self) -> KeyPath {
        let mut path = KeyPath::default();
        for frame in &self.stack {
            match &frame.inside {
                Inside::List(items) => path = path.index(items.len()),
                Inside::Map {
                    key: Some((key, _)),
                    ..
                } => path = path.key(key),
                Inside::Map { key: None, .. } => {}
            }
        }
        path
    }
}

fn too_deep(place: Place) -> Refused {
    Refused {
        place,
        what: "nested too deeply",
        remedy: "no key lies deeper than 32 levels",
    }
}

fn odd_key(place: Place) -> Refused {
    Refused {
        place,
        what: "a key must be plain text",
        remedy: "put braces or brackets in the value into quotes",
    }
}

/// Puts the parser's complaint into our words: its own quote the file.
fn refused(error: &ScanError) -> Refused {
    let (what, remedy) = match error.kind() {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart => {
            ("a tab where only spaces may indent", "indent with spaces")
        }
        ErrorKind::UnknownAnchor => (
            "an alias without an anchor",
            "put text that begins with `*` into quotes",
        ),
        ErrorKind::RecursionLimitExceeded => {
            ("nested too deeply", "no key lies deeper than 32 levels")
        }
        ErrorKind::DirectiveDisallowed => {
            ("YAML directives are not accepted", "remove the `%` line")
        }
        _ => (
            "not valid YAML",
            "look for indentation, a quote or a bracket, here or on the line before",
        ),
    };
    Refused {
        place: Place {
            line: error.marker().line().max(1),
            column: error.marker().col() + 1,
        },
        what,
        remedy,
    }
}
