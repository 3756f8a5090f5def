//! Path patterns: literals, globs inside a segment, whole-segment wildcards and a final `**`.
//!
//! Everything here works on *atoms*: the compared form of a path with each remaining escape (`%3B`) folded into one
//! character. Otherwise a `*` could end in the middle of an escape and `/x*20` would match `/x%20`, a path that ends
//! in a space and not in "20".

use std::borrow::Cow;
use std::cmp::Ordering;

/// Folds each escape of a compared path into one character from U+0100 on. A reserved character and its escape stay
/// different, as RFC 3986 §2.2 wants; searches stay aligned because UTF-8 is.
pub(super) fn atoms(compared: &str) -> Cow<'_, str> {
    if !compared.contains('%') {
        return Cow::Borrowed(compared);
    }
    let mut out = String::with_capacity(compared.len());
    let mut rest = compared;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let folded = after
            .get(..2)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(|value| char::from_u32(0x100 + value));
        match folded {
            Some(atom) => {
                out.push(atom);
                rest = &after[2..];
            }
            // `RequestPath` lets no such text through; kept as it is, it can only fail to match.
            None => {
                out.push('%');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// Steps of one decision: a byte that is searched is one. Some half of a millisecond; requests that people send take a
/// thousandth of it.
const EFFORT: usize = 256 * 1024;
/// Steps that comparing one segment costs.
const COMPARISON: usize = 4;

/// What one decision may still cost. A path of 8 KiB against a thousand globs is otherwise eight million steps, which
/// an agent could ask for as often as it likes.
pub(super) struct Effort(Option<usize>);

impl Effort {
    pub(super) fn new() -> Self {
        Self(Some(EFFORT))
    }

    /// Whether it was not enough: then nothing that did not match is known not to.
    pub(super) fn spent(&self) -> bool {
        self.0.is_none()
    }

    /// Takes steps; false where there are not so many left.
    fn take(&mut self, steps: usize) -> bool {
        self.0 = self.0.and_then(|left| left.checked_sub(steps));
        self.0.is_some()
    }
}

/// A segment with at least one `*` beside other characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Glob {
    head: Box<str>,
    middle: Box<[Box<str>]>,
    tail: Box<str>,
}

impl Glob {
    /// Reads a segment that holds a `*`; none where it holds no `*`.
    fn new(segment: &str) -> Option<Self> {
        let (head, rest) = segment.split_once('*')?;
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        Some(Self {
            head: head.into(),
            middle: middle
                .split('*')
                .filter(|piece| !piece.is_empty())
                .map(Box::from)
                .collect(),
            tail: tail.into(),
        })
    }

    /// Takes each piece at its leftmost place, which is enough because a `*` may stand for anything. Every byte of
    /// the segment is looked at once: an agent cannot make this slow, as it can with a glob that backtracks.
    fn matches(&self, segment: &str, effort: &mut Effort) -> bool {
        let inner = segment
            .strip_prefix(&*self.head)
            .and_then(|rest| rest.strip_suffix(&*self.tail));
        let Some(mut rest) = inner else {
            return false;
        };
        for piece in &self.middle {
            let found = rest.split_once(&**piece);
            let after = found.map_or("", |(_, after)| after);
            // A short step too many is nothing; a long one is taken before the next.
            if !effort.take(rest.len() - after.len()) || found.is_none() {
                return false;
            }
            rest = after;
        }
        true
    }

    /// Whether one segment could match both. Only the fixed ends can disagree: between them, the pieces of one glob
    /// followed by those of the other satisfy both.
    fn meets(&self, other: &Self) -> bool {
        let heads = self.head.starts_with(&*other.head) || other.head.starts_with(&*self.head);
        let tails = self.tail.ends_with(&*other.tail) || other.tail.ends_with(&*self.tail);
        heads && tails
    }
}

/// One segment of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// Exactly one segment, which is not empty.
    Any,
    Literal(Box<str>),
    Part(Glob),
}

impl Segment {
    fn new(text: &str) -> Self {
        if text == "*" {
            return Self::Any;
        }
        Glob::new(text).map_or_else(|| Self::Literal(text.into()), Self::Part)
    }

    fn matches(&self, segment: &str, effort: &mut Effort) -> bool {
        match self {
            Self::Any => !segment.is_empty(),
            Self::Literal(text) => **text == *segment,
            Self::Part(glob) => glob.matches(segment, effort),
        }
    }
}

/// A path pattern, ready to match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PathPattern {
    segments: Box<[Segment]>,
    /// Whether `/**` stands behind the segments: nothing, or anything below.
    open: bool,
}

/// What two patterns must have in common before they can tie: everything except the text of their part-globs.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Outline<'a> {
    Any,
    Literal(&'a str),
    Open,
    Part,
}

impl PathPattern {
    /// Reads a path in compared form that begins with a slash; none where `**` stands anywhere but as last segment.
    pub(super) fn new(compared: &str) -> Option<Self> {
        let text = atoms(compared);
        let (fixed, open) = match text.strip_suffix("/**") {
            Some(before) => (before, true),
            None => (&*text, false),
        };
        if fixed.contains("**") {
            return None;
        }
        let segments = match fixed.strip_prefix('/') {
            Some(inside) => inside.split('/').map(Segment::new).collect(),
            None => Box::default(),
        };
        Some(Self { segments, open })
    }

    /// Whether a path, as the segments of its [`atoms`], is one of those meant. Number and literals come first: a
    /// long segment is searched only by the globs that it gets that far with.
    pub(super) fn matches(&self, path: &[&str], effort: &mut Effort) -> bool {
        let number = if self.open {
            path.len() >= self.segments.len()
        } else {
            path.len() == self.segments.len()
        };
        if !number || effort.spent() {
            return false;
        }
        let pairs = || self.segments.iter().zip(path);
        let differs = pairs().position(
            |(wanted, have)| matches!(wanted, Segment::Literal(text) if **text != **have),
        );
        let compared = differs.map_or(self.segments.len(), |at| at + 1);
        effort.take(compared * COMPARISON)
            && differs.is_none()
            && pairs().all(|(wanted, have)| wanted.matches(have, effort))
    }

    /// Literal over part-glob over `*` over `**`, from the left. The end of a path counts as a literal: `/v1/items`
    /// says more about that path than `/v1/items/**` does.
    pub(super) fn specificity(&self, other: &Self) -> Ordering {
        self.ranks().cmp(other.ranks())
    }

    fn ranks(&self) -> impl Iterator<Item = u8> {
        let last = if self.open { 0 } else { 3 };
        self.segments
            .iter()
            .map(|segment| match segment {
                Segment::Any => 1,
                Segment::Part(_) => 2,
                Segment::Literal(_) => 3,
            })
            .chain([last])
    }

    /// Patterns with different outlines never tie on one path.
    pub(super) fn outline(&self) -> Vec<Outline<'_>> {
        self.segments
            .iter()
            .map(|segment| match segment {
                Segment::Any => Outline::Any,
                Segment::Literal(text) => Outline::Literal(text),
                Segment::Part(_) => Outline::Part,
            })
            .chain(self.open.then_some(Outline::Open))
            .collect()
    }

    /// Whether one path could match two patterns of the same outline.
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.segments
            .iter()
            .zip(&other.segments)
            .all(|pair| match pair {
                (Segment::Part(one), Segment::Part(two)) => one.meets(two),
                _ => true,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition of a glob, as plainly and as slowly as it can be written.
    fn oracle(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((&'*', rest)) => (0..=text.len()).any(|skip| oracle(rest, &text[skip..])),
            Some((c, rest)) => text.first() == Some(c) && oracle(rest, &text[1..]),
        }
    }

    fn glob(text: &str) -> Glob {
        Glob::new(text).unwrap()
    }

    fn hits(glob: &Glob, text: &str) -> bool {
        let mut effort = Effort::new();
        let hit = glob.matches(text, &mut effort);
        assert!(!effort.spent());
        hit
    }

    #[test]
    fn globs_overlap_only_where_their_ends_agree() {
        for (one, two, meet) in [
            ("a*", "*b", true),
            ("a*", "ab*", true),
            ("a*c", "b*c", false),
            ("*ab", "*b", true),
            ("*ab", "*cb", false),
            ("x*y*z", "x*q*z", true),
        ] {
            assert_eq!(glob(one).meets(&glob(two)), meet, "{one} {two}");
            assert_eq!(glob(two).meets(&glob(one)), meet, "{two} {one}");
        }
    }

    #[test]
    fn an_escape_is_one_character() {
        assert_eq!(atoms("/a%3B%C3%A9"), "/a\u{13b}\u{1c3}\u{1a9}");
        assert_eq!(atoms("/a%"), "/a%");
        assert!(matches!(atoms("/plain"), Cow::Borrowed(_)));
        let ends_in_20 = PathPattern::new("/x*20").unwrap();
        assert!(ends_in_20.matches(&["x120"], &mut Effort::new()));
        assert!(!ends_in_20.matches(&[&*atoms("x%20")], &mut Effort::new()));
        assert!(!glob("*20").meets(&glob(&atoms("*%20"))));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn a_glob_matches_what_its_definition_says(
            pieces in prop::collection::vec("[ab]{0,2}", 2..5),
            text in "[ab]{0,8}",
        ) {
            let pattern = pieces.join("*");
            prop_assume!(!pattern.contains("**"));
            let chars: Vec<char> = pattern.chars().collect();
            let given: Vec<char> = text.chars().collect();
            prop_assert_eq!(hits(&glob(&pattern), &text), oracle(&chars, &given));
        }

        #[test]
        fn what_matches_two_globs_shows_that_they_meet(
            one in "[ab]{0,2}\\*[ab]{0,2}", two in "[ab]{0,2}\\*[ab]{0,2}", text in "[ab]{0,6}",
        ) {
            let (one, two) = (glob(&one), glob(&two));
            prop_assert!(!(hits(&one, &text) && hits(&two, &text)) || one.meets(&two));
            // Witness: a text that must match both where they are said to meet.
            if one.meets(&two) {
                let longer = |a: &str, b: &str| if a.len() > b.len() { a.to_owned() } else { b.to_owned() };
                let witness = longer(&one.head, &two.head) + &longer(&one.tail, &two.tail);
                prop_assert!(hits(&one, &witness) && hits(&two, &witness));
            }
        }
    }
}
