//! The two places where the program writes to a terminal.

use std::io::{self, IsTerminal, Write};

/// Writes data. A reader that went away (`| head`) is not an error.
pub(super) fn data(text: &str) {
    if !data_read(text) {
        tracing::debug!("standard output is closed");
    }
}

/// Writes data, and tells whether somebody may still read it.
pub(super) fn data_read(text: &str) -> bool {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    written.is_ok()
}

/// Writes one line for a person.
pub(super) fn say(line: &str) {
    let mut stderr = io::stderr().lock();
    if writeln!(stderr, "{line}").is_err() {
        tracing::debug!("standard error is closed");
    }
}

/// Whether a person reads what is said.
pub(super) fn person_reads() -> bool {
    io::stderr().is_terminal()
}
