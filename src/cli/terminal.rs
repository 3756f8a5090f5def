//! Asks a person for secrets: on the controlling terminal, whatever standard input and output are, with echo off. The
//! terminal is as it was on every way out but SIGKILL and SIGQUIT.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::thread;
use std::time::Duration;

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr,
};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::config::{Question, Unanswered};
use crate::vocab::Secret;

/// Longest line that a terminal passes on (`MAX_CANON` of Linux); what is typed beyond it is lost without a word.
const LINE_MAX: usize = 4095;
/// How long one answer is waited for.
const PATIENCE: Duration = Duration::from_secs(600);

type Answer = Result<Secret<Vec<u8>>, Unanswered>;

const NO_TERMINAL: Unanswered = Unanswered {
    what: "there is no terminal at which to ask for this secret",
    remedy: "start tokenward at a terminal, or give the secret with {file: PATH}, {env: NAME} or {exec: [CMD, ARG]}",
};
const BACKGROUND: Unanswered = Unanswered {
    what: "this secret is asked for, and tokenward runs in the background of its terminal",
    remedy: "start it in the foreground",
};
const NOBODY: Unanswered = Unanswered {
    what: "nobody typed this secret",
    remedy: "start tokenward again",
};
const EMPTY: Unanswered = Unanswered {
    what: "nothing was typed for this secret",
    remedy: "start tokenward again",
};
const LONG: Unanswered = Unanswered {
    what: "what was typed for this secret is longer than a terminal can pass on",
    remedy: "give it with {file: PATH}",
};

/// Asks all questions, one after the other.
pub(super) fn ask(questions: &[Question]) -> Result<Vec<Secret<Vec<u8>>>, Unanswered> {
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    let terminal = terminal.map_err(|_| NO_TERMINAL)?;
    let in_front = tcgetpgrp(&terminal).map_err(|_| NO_TERMINAL)?;
    // Whoever touches a terminal from its background is stopped, and waits there without a word.
    if in_front != rustix::process::getpgrp() {
        return Err(BACKGROUND);
    }
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|_| NO_TERMINAL)?;
    let asked = runtime.block_on(in_turn(terminal, questions));
    // The reader may still wait for a line; it ends with the process.
    runtime.shutdown_background();
    asked
}

async fn in_turn(
    terminal: File,
    questions: &[Question],
) -> Result<Vec<Secret<Vec<u8>>>, Unanswered> {
    let listen = |kind| signal(kind).map_err(|_| NO_TERMINAL);
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let source = terminal.try_clone().map_err(|_| NO_TERMINAL)?;
    let mut quiet = Quiet::make(terminal).map_err(|_| NO_TERMINAL)?;
    let mut lines = lines(source, questions.len());
    let mut answers = Vec::with_capacity(questions.len());
    for question in questions {
        let words = format!(
            "tokenward: {} ({}): ",
            question.text,
            question.keys.join(", ")
        );
        quiet.say(&words).map_err(|_| NO_TERMINAL)?;
        let line = tokio::select! {
            line = timeout(PATIENCE, lines.recv()) => line.ok().flatten(),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
            _ = hangup.recv() => None,
        };
        match line {
            Some(line) => answers.push(line?),
            None => {
                // The cursor stands behind the question. Where the terminal is gone there is nobody to tell.
                drop(quiet.say("\n"));
                return Err(NOBODY);
            }
        }
    }
    Ok(answers)
}

/// Reads so many lines, on a thread of its own: a read of a terminal cannot be called off.
fn lines(mut source: File, count: usize) -> mpsc::Receiver<Answer> {
    let (sender, receiver) = mpsc::channel(1);
    thread::spawn(move || {
        for _ in 0..count {
            let Some(line) = line(&mut source) else {
                return;
            };
            let failed = line.is_err();
            if sender.blocking_send(line).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// One line without its end. `None`: the terminal is gone, or was closed by its end-of-file key.
fn line(source: &mut File) -> Option<Answer> {
    let mut typed = Zeroizing::new(Vec::with_capacity(LINE_MAX + 1));
    let mut byte = Zeroizing::new([0]);
    loop {
        if source.read(byte.as_mut_slice()).ok()? == 0 {
            return None;
        }
        match *byte {
            [b'\n'] => break,
            [byte] if typed.len() < LINE_MAX => typed.push(byte),
            _ => return Some(Err(LONG)),
        }
    }
    Some(match typed.len() {
        0 => Err(EMPTY),
        LINE_MAX.. => Err(LONG),
        _ => Ok(Secret::new(std::mem::take(&mut *typed))),
    })
}

/// A terminal that echoes nothing but the end of a line, until this is dropped.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    fn make(terminal: File) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        quiet
            .local_modes
            .insert(LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG);
        // Their keys would stop or end us without a chance to give the terminal back.
        quiet.special_codes[SpecialCodeIndex::VSUSP] = 0;
        quiet.special_codes[SpecialCodeIndex::VQUIT] = 0;
        let made = Self { terminal, before };
        // What was typed before the question was not typed for it.
        tcsetattr(&made.terminal, OptionalActions::Flush, &quiet)?;
        Ok(made)
    }

    fn say(&mut self, words: &str) -> io::Result<()> {
        self.terminal.write_all(words.as_bytes())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // What was typed and not taken may be half a secret, and must not come to the shell.
        if tcsetattr(&self.terminal, OptionalActions::Flush, &self.before).is_err() {
            tracing::debug!("the terminal is gone");
        }
    }
}
