//! `audit verify`: checks the hash chain of an audit file.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::args::Args;
use super::{Failure, out};
use crate::audit;

pub(super) fn verify(args: &Args, file: &Path) -> Result<ExitCode, Failure> {
    let opened = File::open(file).map_err(|e| Failure(format!("{}: {e}", file.display())))?;
    match audit::verify(BufReader::new(opened)) {
        Ok(good) => {
            if args.json {
                out::data(&format!("{}\n", json!({ "ok": true, "lines": good.lines })));
            } else {
                out::data(&format!(
                    "{}: the chain holds over {} lines\n",
                    file.display(),
                    good.lines
                ));
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(broken) => {
            if args.json {
                out::data(&format!(
                    "{}\n",
                    json!({ "ok": false, "what": broken.to_string() })
                ));
            }
            Err(Failure(format!("{}: {broken}", file.display())))
        }
    }
}
