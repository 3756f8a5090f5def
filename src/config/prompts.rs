//! Secrets that a person types at the start: what is asked, and what was answered.
//!
//! Who asks is not this room's business. One text is one secret: it is asked for once, wherever the file uses it, and
//! the question says where that is. Answers stay in memory while we run, so that a reload finds them again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::problem::Findings;
use crate::vocab::Secret;

/// Longest text of a question, in characters.
const TEXT_MAX: usize = 200;

/// One question to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The words of the file.
    pub text: String,
    /// The keys that the answer is for, in the order of the file.
    pub keys: Vec<String>,
}

/// Why there is no answer: in one line, and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered {
    /// What went wrong.
    pub what: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// What a person has typed. It ends with the last plan that holds it.
#[derive(Debug, Clone, Default)]
pub struct Answers(Arc<BTreeMap<String, Secret<Vec<u8>>>>);

/// Whoever asks a person, all questions in their order, and gives one answer to each.
pub type Ask<'a> = &'a mut dyn FnMut(&[Question]) -> Result<Vec<Secret<Vec<u8>>>, Unanswered>;

/// Where answers come from.
pub(super) enum Prompts<'a> {
    /// A person is asked now.
    Ask(Ask<'a>),
    /// What was answered before, and nothing else.
    Kept(&'a Answers),
    /// Nobody is asked: the plan has nothing in these places.
    Leave,
}

impl Answers {
    pub(super) fn get(&self, text: &str) -> Option<Secret<Vec<u8>>> {
        self.0.get(text).cloned()
    }
}

/// Whether a person can be asked with these words.
pub(super) fn fits(text: &str) -> bool {
    !text.trim().is_empty()
        && text.chars().count() <= TEXT_MAX
        && !text.chars().any(char::is_control)
}

/// Adds a place to the question with this text, or a new one.
pub(super) fn note(questions: &mut Vec<Question>, text: &str, key: String) {
    match questions.iter_mut().find(|known| known.text == text) {
        Some(known) => known.keys.push(key),
        None => questions.push(Question {
            text: text.to_owned(),
            keys: vec![key],
        }),
    }
}

/// The answers to the questions of a file. Where one is missing, a finding says why.
pub(super) fn answers(
    questions: &[Question],
    prompts: Prompts<'_>,
    findings: &mut Findings,
) -> Answers {
    match prompts {
        Prompts::Leave => Answers::default(),
        Prompts::Kept(kept) => {
            let new = |question: &&Question| !kept.0.contains_key(&question.text);
            for question in questions.iter().filter(new) {
                let what = "nobody was asked for this secret when tokenward started";
                let remedy = "restart tokenward, which asks";
                for key in &question.keys {
                    findings.error(key, what, remedy);
                }
            }
            kept.clone()
        }
        // Whoever typed their secrets should not learn then that the file has a slip.
        Prompts::Ask(_) if questions.is_empty() || !findings.is_clean() => Answers::default(),
        Prompts::Ask(ask) => match ask(questions) {
            Ok(typed) => {
                let texts = questions.iter().map(|question| question.text.clone());
                Answers(Arc::new(texts.zip(typed).collect()))
            }
            Err(Unanswered { what, remedy }) => {
                let keys = questions.first().into_iter().flat_map(|first| &first.keys);
                for key in keys {
                    findings.error(key, what, remedy);
                }
                Answers::default()
            }
        },
    }
}
