//! A piece of text, as it stands and without its escapes.

use std::sync::Arc;

use super::sought::{Scratch, Sought};
use super::view::View;

/// How often escapes are taken back: a text in JSON that was itself put into JSON.
const LAYERS: usize = 2;
/// What stands in where a placeholder could end a string or an element.
const NEUTRAL: &[u8] = b"redacted.";

/// All that must not pass, and what passes in its place.
#[derive(Clone)]
pub struct Watched {
    sought: Vec<Arc<Sought>>,
    fill: Arc<[u8]>,
    quotes: bool,
    shortest: usize,
}

/// What a search found.
#[derive(Debug, Default)]
pub struct Found {
    /// Where values stand, in order and apart from each other, with what stands in for each: as many bytes.
    pub spans: Vec<(usize, Vec<u8>)>,
    /// Up to where the text is done with: what is behind could be the beginning of a value, and is looked at again as it
    /// is now, with what comes.
    pub clear: usize,
    /// Up to where it can go on its way, as it is without what was found: further than that, where another value may begin
    /// inside the last one.
    pub gone: usize,
}

/// A value that was found.
struct Hit {
    begin: usize,
    end: usize,
    sought: usize,
    form: usize,
}

impl Watched {
    /// Watches for these values; `fill` stands in for them, or a neutral word where it has letters that mean something.
    #[must_use]
    pub fn new(sought: Vec<Arc<Sought>>, fill: &str) -> Self {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let fill = if !fill.is_empty() && fill.bytes().all(plain) {
            fill.as_bytes()
        } else {
            NEUTRAL
        };
        let mut watched = Self {
            fill: fill.into(),
            quotes: false,
            shortest: usize::MAX,
            sought,
        };
        watched.measure();
        watched
    }

    /// Watches for these values instead of all but the last `kept`.
    pub fn renew(&mut self, sought: Vec<Arc<Sought>>, kept: usize) {
        let last = self.sought.len().saturating_sub(kept);
        let kept = self.sought.split_off(last);
        self.sought = sought;
        self.sought.extend(kept);
        self.measure();
    }

    fn measure(&mut self) {
        self.quotes = self.sought.iter().any(|sought| sought.quoted());
        let lengths = self.sought.iter().map(|sought| sought.shortest());
        self.shortest = lengths.min().unwrap_or(usize::MAX);
    }

    /// Whether there is nothing to watch for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sought.is_empty()
    }

    /// A whole text without the values; `None`: it has none.
    #[must_use]
    pub fn without(&self, text: &[u8]) -> Option<Vec<u8>> {
        if text.len() < self.shortest {
            return None;
        }
        let found = self.search(text, true);
        (!found.spans.is_empty()).then(|| {
            let mut text = text.to_vec();
            found.overwrite(&mut text);
            text
        })
    }

    /// Whether a field's name holds a value. Its capitals are lost, so letters are compared without their case.
    #[must_use]
    pub fn is_in_name(&self, name: &[u8]) -> bool {
        if name.len() < self.shortest {
            return false;
        }
        let held = |name: &[u8]| self.sought.iter().any(|sought| sought.is_in_name(name));
        let mut view: Option<View> = None;
        for _ in 0..=LAYERS {
            let source = view.as_ref().map_or(name, |view| view.text.as_slice());
            if held(source) {
                return true;
            }
            match View::of(source, self.quotes, true) {
                Some(next) => view = Some(next),
                None => return false,
            }
        }
        false
    }

    /// Searches a piece of text. `last`: nothing follows.
    #[must_use]
    pub fn search(&self, text: &[u8], last: bool) -> Found {
        let mut hits = Vec::new();
        let mut clear = text.len();
        let mut views: Vec<View> = Vec::new();
        loop {
            let source = views.last().map_or(text, |view| view.text.as_slice());
            if views.last().is_none_or(View::changed) || !last {
                let begun = self.look(source, last, &views, &mut hits);
                clear = clear.min(begun);
            }
            if views.len() == LAYERS {
                break;
            }
            let Some(view) = View::of(source, self.quotes, last) else {
                break;
            };
            clear = clear.min(sourced(&views, view.open));
            views.push(view);
        }
        // No escape is cut: what is read again is read as before.
        let mut at = clear;
        let mut down = Vec::with_capacity(views.len());
        for view in &views {
            at = view.place(at);
            down.push(view);
        }
        for view in down.iter().rev() {
            at = view.source(at);
        }
        let clear = if last { text.len() } else { clear.min(at) };
        self.found(hits, clear)
    }

    /// Looks at one layer. Where in the text what could be the beginning of a value begins.
    fn look(&self, source: &[u8], last: bool, views: &[View], hits: &mut Vec<Hit>) -> usize {
        let mut clear = usize::MAX;
        for (number, sought) in self.sought.iter().enumerate() {
            let mut scratch = Scratch::new(sought);
            if source.len() >= sought.shortest() {
                scratch.whole(source, |form, begin, end| {
                    hits.push(Hit {
                        begin: sourced(views, begin),
                        end: sourced(views, end),
                        sought: number,
                        form,
                    });
                });
            }
            if !last && let Some(begun) = scratch.begun(source) {
                clear = clear.min(sourced(views, begun));
            }
        }
        clear
    }

    fn found(&self, mut hits: Vec<Hit>, clear: usize) -> Found {
        hits.sort_by_key(|hit| (hit.begin, std::cmp::Reverse(hit.end)));
        let mut spans: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut end = 0;
        for hit in hits {
            let begin = hit.begin.max(end);
            if hit.end <= begin {
                continue;
            }
            // What overlaps the one before is taken out from there on.
            let length = hit.end - begin;
            if let Some(sought) = self.sought.get(hit.sought) {
                spans.push((begin, sought.stand_in(hit.form, &self.fill, length)));
            }
            end = hit.end;
        }
        // A value that begins before that is whole: nothing of it waits.
        let begun = spans.iter().rev().find(|(begin, _)| *begin <= clear);
        let gone = begun.map_or(0, |(begin, stand_in)| begin + stand_in.len());
        Found {
            clear,
            gone: gone.max(clear),
            spans,
        }
    }
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let watched = self.sought.len();
        f.debug_struct("Watched")
            .field("values", &watched)
            .finish_non_exhaustive()
    }
}

impl Found {
    /// How many values end behind `from`, up to `to`: what goes on its way is counted once, however often it is looked at.
    #[must_use]
    pub fn ending(&self, from: usize, to: usize) -> usize {
        let ends = self.spans.iter().map(|(begin, with)| begin + with.len());
        ends.filter(|end| (from + 1..=to).contains(end)).count()
    }

    /// Puts what stands in over what was found.
    pub fn overwrite(&self, text: &mut [u8]) {
        for (begin, stand_in) in &self.spans {
            if let Some(room) = text.get_mut(*begin..begin + stand_in.len()) {
                room.copy_from_slice(stand_in);
            }
        }
    }
}

/// Where in the text a place of the last view stood.
fn sourced(views: &[View], at: usize) -> usize {
    views.iter().rev().fold(at, |at, view| view.source(at))
}
