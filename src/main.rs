//! The `tokenward` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tokenward::cli::run()
}
