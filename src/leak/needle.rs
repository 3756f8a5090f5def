//! A value in the forms that can be looked for as they stand.

use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// How a value was written.
pub(super) type Form = &'static str;

/// All forms of all values.
pub(super) struct Needles {
    automaton: AhoCorasick,
    /// Which value and which form each pattern is.
    patterns: Vec<(usize, Form)>,
    longest: usize,
}

impl Needles {
    /// `None`: too much for one search.
    pub(super) fn of(values: &[&[u8]]) -> Option<Self> {
        let (mut texts, mut patterns) = (Vec::new(), Vec::new());
        for (number, value) in values.iter().enumerate() {
            for (form, text) in forms(value) {
                texts.push(text);
                patterns.push((number, form));
            }
        }
        let longest = values.iter().map(|value| value.len()).max()?;
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::Standard)
            .build(&texts)
            .ok()?;
        Some(Self {
            automaton,
            patterns,
            longest,
        })
    }

    /// Bytes of the longest value.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// Everything that stands in these bytes: which value, how, and where it begins.
    pub(super) fn found<'a>(
        &'a self,
        bytes: &'a [u8],
    ) -> impl Iterator<Item = (usize, Form, usize)> + 'a {
        let all = self.automaton.find_overlapping_iter(bytes);
        all.filter_map(|found| {
            let (number, form) = *self.patterns.get(found.pattern().as_usize())?;
            Some((number, form, found.start()))
        })
    }
}

fn forms(value: &[u8]) -> Vec<(Form, Vec<u8>)> {
    let mut forms = vec![("raw", value.to_vec())];
    let lower: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    forms.push(("hex", lower.to_uppercase().into_bytes()));
    forms.push(("hex", lower.into_bytes()));
    for shift in 0..3 {
        let standard = aligned(value, shift, |bytes| STANDARD_NO_PAD.encode(bytes));
        let url = aligned(value, shift, |bytes| URL_SAFE_NO_PAD.encode(bytes));
        if url != standard {
            forms.push(("base64url", url));
        }
        forms.push(("base64", standard));
    }
    forms
}

/// What base64 makes of the value behind `shift` other bytes (and any number of groups of three): the letters that
/// depend on the value alone.
fn aligned(value: &[u8], shift: usize, encode: impl Fn(&[u8]) -> String) -> Vec<u8> {
    let mut bytes = vec![0; shift];
    bytes.extend_from_slice(value);
    let whole = bytes.len() * 8 / 6;
    let first = (shift * 8).div_ceil(6);
    let text = encode(&bytes).into_bytes();
    text.get(first..whole)
        .map(<[u8]>::to_vec)
        .unwrap_or_default()
}
