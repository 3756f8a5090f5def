//! Files and folders.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use super::canary::Canaries;
use super::scan::{Finding, scan};
use super::unpack::Search;

/// Deepest folder.
const DEPTH_MAX: usize = 256;

/// Something that was not searched, or not to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsearched {
    /// Where.
    pub place: String,
    /// Why, for people.
    pub why: String,
}

/// What a search came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Where values were found.
    pub findings: Vec<Finding>,
    /// What the search cannot speak for.
    pub unsearched: Vec<Unsearched>,
    /// Files that were looked at.
    pub files: u64,
    /// Bytes that were looked at, after unpacking.
    pub bytes: u64,
}

/// Searches a file, or everything below a folder. Links are not followed, but what they say is looked at; sockets, pipes
/// and devices are passed over.
pub fn search_path(canaries: &Canaries, path: &Path, report: &mut Report) {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => search_file(canaries, path, report),
        Ok(found) if found.is_dir() => search_folder(canaries, path, 0, report),
        Ok(_) => unsearched(path, "it is neither a file nor a folder", report),
        Err(error) => unsearched(path, &error.kind().to_string(), report),
    }
}

/// Searches standard input to its end.
pub fn search_stdin(canaries: &Canaries, report: &mut Report) {
    let mut input = io::stdin().lock();
    search_stream(canaries, "(standard input)", "", &mut input, report);
}

fn search_folder(canaries: &Canaries, folder: &Path, depth: usize, report: &mut Report) {
    if depth > DEPTH_MAX {
        return unsearched(folder, "folders stand in each other too deep", report);
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return unsearched(folder, &error.kind().to_string(), report),
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return unsearched(folder, &error.kind().to_string(), report),
        };
        let path = entry.path();
        let name = entry.file_name();
        words(canaries, &path, "its name", name.as_bytes(), report);
        match entry.file_type() {
            Ok(kind) if kind.is_file() => search_file(canaries, &path, report),
            Ok(kind) if kind.is_dir() => search_folder(canaries, &path, depth + 1, report),
            Ok(kind) if kind.is_symlink() => {
                if let Ok(target) = fs::read_link(&path) {
                    let target = target.as_os_str().as_bytes();
                    words(canaries, &path, "where it leads", target, report);
                }
            }
            Ok(_) => {}
            Err(error) => unsearched(&path, &error.kind().to_string(), report),
        }
    }
}

fn search_file(canaries: &Canaries, path: &Path, report: &mut Report) {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return unsearched(path, &error.kind().to_string(), report),
    };
    let place = path.display().to_string();
    search_stream(canaries, &place, &place, &mut file, report);
}

fn search_stream(
    canaries: &Canaries,
    place: &str,
    name: &str,
    stream: &mut dyn io::Read,
    report: &mut Report,
) {
    report.files += 1;
    // A container is searched for what it holds. Its own bytes too, for values beside what is packed.
    let mut stream = io::BufReader::with_capacity(64 * 1024, stream);
    let mut search = Search::new(canaries, &mut report.findings);
    search.stream(place, name, &mut stream.by_ref());
    report.bytes += search.bytes;
    let stopped = search.stopped.into_iter();
    report
        .unsearched
        .extend(stopped.map(|(place, why)| Unsearched {
            place,
            why: why.to_string(),
        }));
}

/// Searches a few bytes about a file.
fn words(canaries: &Canaries, path: &Path, what: &str, bytes: &[u8], report: &mut Report) {
    let place = format!("{} ({what})", path.display());
    let mut bytes = bytes;
    if scan(canaries, &place, &mut bytes, &mut report.findings).is_err() {
        unsearched(path, "it could not be read", report);
    }
}

fn unsearched(path: &Path, why: &str, report: &mut Report) {
    report.unsearched.push(Unsearched {
        place: path.display().to_string(),
        why: why.to_owned(),
    });
}
