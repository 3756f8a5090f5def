//! One value, prepared to be looked for.

use std::fmt;

use aho_corasick::packed::{self, Searcher};
use aho_corasick::{AhoCorasick, Input, MatchKind, Span};
use memchr::memmem;
use zeroize::Zeroizing;

use super::form::{Form, Text};
use super::view::View;

/// Shortest value that can be looked for, in bytes. A shorter one would be found by chance.
pub const VALUE_MIN: usize = 8;
/// Longest value, in bytes; what a request's head can carry is shorter.
const VALUE_MAX: usize = 16 * 1024;
/// Bytes of a piece by which a form is noticed: 48 bits and more in any of them.
const ANCHOR: usize = 8;
/// Bytes of a piece by which the beginning of a form is noticed.
const HEAD: usize = 4;
/// Most bytes of the beginning that are kept, so that no form is written anew for what begins like it by chance.
const START: usize = 16;

/// A value in all its forms, of which only the pieces are kept by which they are noticed: the rest is written anew
/// where one was.
pub struct Sought {
    /// The value, and what remains of it where its own letters look like escapes.
    values: Vec<Text>,
    /// Each form with the number of its value. The first is the value itself.
    forms: Vec<(usize, Form)>,
    lengths: Vec<usize>,
    /// How each form begins; behind the end of a shorter one are zeros, which nothing is compared to.
    starts: Zeroizing<Vec<[u8; START]>>,
    anchors: Pieces,
    heads: Pieces,
    longest: usize,
    shortest: usize,
    /// Whether a quote may be a part of it.
    quoted: bool,
}

/// Pieces of one length, each with the forms that it is a piece of, and where in them.
struct Pieces {
    finder: Finder,
    places: Vec<Vec<(usize, usize)>>,
}

enum Finder {
    /// One piece: made in no time, which is what counts for a proof, that is looked for in one answer.
    One(Box<memmem::Finder<'static>>),
    /// A few vector instructions for each 16 or 32 bytes.
    Packed(Searcher),
    /// Where the processor has none of these.
    Automaton(AhoCorasick),
}

impl Pieces {
    /// `None`: more pieces than one search is for.
    fn new(all: Vec<(Vec<u8>, usize, usize)>) -> Option<Self> {
        let (mut texts, mut places) = (Vec::<Vec<u8>>::new(), Vec::<Vec<(usize, usize)>>::new());
        for (text, form, at) in all {
            match texts.iter().position(|known| *known == text) {
                Some(known) => places[known].push((form, at)),
                None => {
                    texts.push(text);
                    places.push(vec![(form, at)]);
                }
            }
        }
        if let [only] = texts.as_slice() {
            let finder = Finder::One(Box::new(memmem::Finder::new(only).into_owned()));
            return Some(Self { finder, places });
        }
        let packed = packed::Config::new()
            .match_kind(packed::MatchKind::LeftmostFirst)
            .builder()
            .extend(&texts)
            .build();
        let finder = if let Some(packed) = packed {
            Finder::Packed(packed)
        } else {
            let automaton = AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostFirst)
                .build(&texts);
            Finder::Automaton(automaton.ok()?)
        };
        Some(Self { finder, places })
    }

    /// The first piece at or behind `from`: its place, and what it is a piece of.
    fn find(&self, text: &[u8], from: usize) -> Option<(usize, &[(usize, usize)])> {
        let span = Span {
            start: from,
            end: text.len(),
        };
        let found = match &self.finder {
            Finder::One(one) => {
                let at = from + one.find(text.get(from..)?)?;
                return Some((at, self.places.first()?));
            }
            Finder::Packed(packed) => packed.find_in(text, span),
            Finder::Automaton(automaton) => automaton.find(Input::new(text).span(span)),
        }?;
        let places = self.places.get(found.pattern().as_usize())?;
        Some((found.start(), places))
    }
}

impl Sought {
    /// Prepares a value in all forms. `None`: it is too short or too long to be looked for.
    #[must_use]
    pub fn new(value: &[u8]) -> Option<Self> {
        Self::of(value, Form::all())
    }

    /// Prepares a value that is looked for as it is, and in escapes; for what is gone soon and worthless elsewhere.
    #[must_use]
    pub fn plain(value: &[u8]) -> Option<Self> {
        Self::of(value, std::iter::once(Form::PLAIN))
    }

    fn of(value: &[u8], all: impl Iterator<Item = Form>) -> Option<Self> {
        if !(VALUE_MIN..=VALUE_MAX).contains(&value.len()) {
            return None;
        }
        let quoted = value.contains(&b'"');
        let values = readings(value, quoted);
        let mut forms: Vec<(usize, Form)> = all.map(|form| (0, form)).collect();
        forms.extend((1..values.len()).map(|reading| (reading, Form::PLAIN)));
        let (mut kept, mut known) = (Vec::new(), Vec::<Text>::new());
        let (mut anchors, mut heads) = (Vec::new(), Vec::new());
        for (reading, form) in forms {
            let text = form.text(values.get(reading)?);
            if known.contains(&text) {
                continue;
            }
            let number = kept.len();
            let piece = |into: &mut Vec<_>, at: usize, length: usize| {
                let letters = text.get(at..at + length).unwrap_or_default();
                let other: Vec<u8> = letters.iter().map(|l| form.other(*l)).collect();
                if other != letters {
                    into.push((other, number, at));
                }
                into.push((letters.to_vec(), number, at));
            };
            piece(&mut anchors, anchor(form, &text), ANCHOR);
            piece(&mut heads, 0, HEAD);
            kept.push((reading, form));
            known.push(text);
        }
        let start = |text: &Text| {
            let mut start = [0; START];
            start
                .iter_mut()
                .zip(text.iter())
                .for_each(|(to, from)| *to = *from);
            start
        };
        let starts = Zeroizing::new(known.iter().map(start).collect());
        let lengths: Vec<usize> = known.iter().map(|text| text.len()).collect();
        Some(Self {
            longest: lengths.iter().copied().max()?,
            shortest: lengths.iter().copied().min()?,
            values,
            forms: kept,
            starts,
            lengths,
            anchors: Pieces::new(anchors)?,
            heads: Pieces::new(heads)?,
            quoted,
        })
    }

    /// Bytes of the shortest form, which is the value itself in most cases.
    #[must_use]
    pub fn shortest(&self) -> usize {
        self.shortest
    }

    pub(super) fn quoted(&self) -> bool {
        self.quoted
    }

    /// Whether a short text that has lost its capitals holds a form of the value.
    pub(super) fn is_in_name(&self, name: &[u8]) -> bool {
        let same = |form: Form, seen: &[u8], text: &[u8]| {
            let mut letters = seen.iter().zip(text);
            letters.all(|(seen, text)| form.fold(*seen).eq_ignore_ascii_case(text))
        };
        let fitting = self.forms.iter().zip(&self.lengths);
        let mut fitting = fitting.filter(|(_, length)| **length <= name.len());
        fitting.any(|((reading, form), length)| {
            let value = self.values.get(*reading);
            let text = value.map(|value| form.text(value)).unwrap_or_default();
            name.windows(*length).any(|seen| same(*form, seen, &text))
        })
    }

    /// What stands in for a form of the value: `length` bytes. A form that has this length is kept.
    pub(super) fn stand_in(&self, form: usize, fill: &[u8], length: usize) -> Vec<u8> {
        let round = |length| fill.iter().copied().cycle().take(length);
        match (self.forms.get(form), self.lengths.get(form)) {
            (Some((reading, form)), Some(whole)) if *whole == length => {
                let many = self.values.get(*reading).map_or(0, |value| value.len());
                let value: Vec<u8> = round(many).collect();
                let text = form.text(&value).to_vec();
                if text.len() == length {
                    return text;
                }
            }
            _ => {}
        }
        round(length).collect()
    }
}

/// The value as it is, and as it looks where its own letters are taken for escapes once or twice.
fn readings(value: &[u8], quoted: bool) -> Vec<Text> {
    let mut all = vec![Text::new(value.to_vec())];
    while all.len() < 3 {
        let view = all.last().and_then(|last| View::of(last, quoted, true));
        match view {
            Some(view) if view.text.len() >= VALUE_MIN => all.push(Text::new(view.text)),
            _ => break,
        }
    }
    all
}

/// Where a form is noticed: late in it, where tokens are random, and where all its spellings agree.
fn anchor(form: Form, text: &[u8]) -> usize {
    let last = text.len().saturating_sub(ANCHOR);
    let wanted = last * 3 / 4;
    let agree = |at: &usize| {
        let letters = text.get(*at..*at + ANCHOR).unwrap_or_default();
        letters.iter().all(|letter| form.other(*letter) == *letter)
    };
    let behind = (wanted..=last).find(agree);
    behind
        .or_else(|| (0..wanted).rev().find(agree))
        .unwrap_or(wanted)
}

impl fmt::Debug for Sought {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sought").finish_non_exhaustive()
    }
}

/// Forms that were written while something was looked at.
pub(super) struct Scratch<'a> {
    sought: &'a Sought,
    texts: Vec<Text>,
}

impl<'a> Scratch<'a> {
    pub(super) fn new(sought: &'a Sought) -> Self {
        Self {
            sought,
            texts: Vec::new(),
        }
    }

    /// A form from its beginning: at least so much of it, or all.
    fn text(&mut self, form: usize, length: usize) -> &[u8] {
        let Sought { forms, values, .. } = self.sought;
        let Some((value, kind)) = forms
            .get(form)
            .and_then(|(reading, kind)| Some((values.get(*reading)?, kind)))
        else {
            return &[];
        };
        if *kind == Form::PLAIN {
            return value;
        }
        if self.texts.is_empty() {
            self.texts.resize_with(forms.len(), Text::default);
        }
        let Some(text) = self.texts.get_mut(form) else {
            return &[];
        };
        if text.len() < length {
            *text = kind.beginning(value, length);
        }
        text
    }

    /// How many bytes were written.
    #[cfg(test)]
    pub(super) fn written(&self) -> usize {
        self.texts.iter().map(|text| text.len()).sum()
    }

    /// Tells each whole form that stands in `text`: its number, where it begins and where it ends.
    pub(super) fn whole(&mut self, text: &[u8], mut tell: impl FnMut(usize, usize, usize)) {
        let sought = self.sought;
        let mut from = 0;
        while let Some((place, forms)) = sought.anchors.find(text, from) {
            from = place + 1;
            for &(number, at) in forms {
                let (Some((_, form)), Some(&length)) =
                    (sought.forms.get(number), sought.lengths.get(number))
                else {
                    continue;
                };
                let Some(begin) = place.checked_sub(at) else {
                    continue;
                };
                let seen = text.get(begin..begin + length);
                if seen.is_some_and(|seen| form.same(seen, self.text(number, length))) {
                    tell(number, begin, begin + length);
                }
            }
        }
    }

    /// Where the longest end of `text` begins that could be the beginning of a form.
    pub(super) fn begun(&mut self, text: &[u8]) -> Option<usize> {
        let sought = self.sought;
        let mut from = text.len().saturating_sub(sought.longest - 1);
        while let Some((place, forms)) = sought.heads.find(text, from) {
            from = place + 1;
            let seen = text.get(place..).unwrap_or_default();
            if forms.iter().any(|&(number, _)| self.begins(number, seen)) {
                return Some(place);
            }
        }
        let short = (1..HEAD).rev().filter(|length| *length <= text.len());
        short.map(|length| text.len() - length).find(|&place| {
            let seen = text.get(place..).unwrap_or_default();
            let mut starts = sought.forms.iter().zip(sought.starts.iter());
            starts.any(|((_, form), start)| {
                let start = start.get(..seen.len());
                start.is_some_and(|start| form.same(seen, start))
            })
        })
    }

    /// Whether a form begins with what is seen, and is longer. No more of it is written than can be compared.
    fn begins(&mut self, number: usize, seen: &[u8]) -> bool {
        let sought = self.sought;
        let (Some((_, form)), Some(&length), Some(start)) = (
            sought.forms.get(number),
            sought.lengths.get(number),
            sought.starts.get(number),
        ) else {
            return false;
        };
        let known = start.len().min(seen.len());
        let same = |seen: &[u8], text: &[u8]| {
            let text = text.get(..seen.len());
            text.is_some_and(|text| form.same(seen, text))
        };
        seen.len() < length
            && same(seen.get(..known).unwrap_or_default(), start)
            && (known == seen.len() || same(seen, self.text(number, seen.len())))
    }
}
