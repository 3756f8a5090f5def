//! Containers: gzip, zlib, Brotli, zstd and tar, one inside the other.

use std::io::{self, BufRead, BufReader, Cursor, Read};

use super::canary::Canaries;
use super::scan::{Finding, scan};

/// How deep containers are followed.
const DEPTH_MAX: usize = 8;
/// Most bytes that one file may unpack to.
const UNPACKED_MAX: u64 = 64 << 30;
/// Bytes by which a container is known.
const HEAD: usize = 512;

/// Why something could not be searched to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stopped {
    #[error("it ends in the middle, or is damaged ({0})")]
    Damaged(io::ErrorKind),
    #[error("containers stand in each other more than {DEPTH_MAX} deep")]
    Deep,
    #[error("it unpacks to more than {} GiB", UNPACKED_MAX >> 30)]
    Large,
}

enum Container {
    Brotli,
    Gzip,
    Tar,
    Zlib,
    Zstd,
}

/// One file and what is in it.
pub(super) struct Search<'a> {
    pub(super) canaries: &'a Canaries,
    pub(super) findings: &'a mut Vec<Finding>,
    /// What could not be searched, by place.
    pub(super) stopped: Vec<(String, Stopped)>,
    /// Bytes that were looked at.
    pub(super) bytes: u64,
    /// Bytes that may still be unpacked.
    left: u64,
}

impl<'a> Search<'a> {
    pub(super) fn new(canaries: &'a Canaries, findings: &'a mut Vec<Finding>) -> Self {
        Self {
            canaries,
            findings,
            stopped: Vec::new(),
            bytes: 0,
            left: UNPACKED_MAX,
        }
    }

    /// Searches a stream as what it is. `name` tells Brotli, which has no mark of its own.
    pub(super) fn stream(&mut self, place: &str, name: &str, stream: &mut dyn Read) {
        self.inside(place, name, stream, 0);
    }

    fn inside(&mut self, place: &str, name: &str, stream: &mut dyn Read, depth: usize) {
        let mut head = Vec::with_capacity(HEAD);
        if let Err(error) = stream.take(HEAD as u64).read_to_end(&mut head) {
            return self.stop(place, &error);
        }
        let container = container(&head, name);
        let mut whole = Cursor::new(head).chain(stream);
        let Some(container) = container else {
            return self.plain(place, &mut whole, depth);
        };
        if depth >= DEPTH_MAX {
            self.stopped.push((place.to_owned(), Stopped::Deep));
            return self.plain(place, &mut whole, depth);
        }
        let bare = stem(name);
        match container {
            Container::Brotli => {
                let mut plain = brotli_decompressor::Decompressor::new(whole, 64 * 1024);
                self.inside(&format!("{place}!br"), bare, &mut plain, depth + 1);
            }
            Container::Gzip => {
                let mut plain = flate2::read::MultiGzDecoder::new(whole);
                self.inside(&format!("{place}!gzip"), bare, &mut plain, depth + 1);
            }
            Container::Zlib => {
                let mut plain = flate2::read::ZlibDecoder::new(whole);
                self.inside(&format!("{place}!zlib"), bare, &mut plain, depth + 1);
            }
            Container::Zstd => self.zstd(place, bare, whole, depth),
            Container::Tar => self.tar(place, whole, depth),
        }
    }

    fn plain(&mut self, place: &str, stream: &mut dyn Read, depth: usize) {
        let most = if depth == 0 { u64::MAX } else { self.left };
        let mut bounded = stream.take(most);
        match scan(self.canaries, place, &mut bounded, self.findings) {
            Ok(bytes) => {
                self.bytes += bytes;
                if depth > 0 {
                    self.left -= bytes;
                    if self.left == 0 {
                        self.stopped.push((place.to_owned(), Stopped::Large));
                    }
                }
            }
            Err(error) => self.stop(place, &error),
        }
    }

    /// Frames of zstd, one after the other (RFC 8878 §3.1).
    fn zstd(&mut self, place: &str, name: &str, whole: impl Read, depth: usize) {
        let place = format!("{place}!zstd");
        let mut rest = BufReader::new(whole);
        loop {
            match rest.fill_buf() {
                Ok([]) => return,
                Ok(_) => {}
                Err(error) => return self.stop(&place, &error),
            }
            match ruzstd::decoding::StreamingDecoder::new(&mut rest) {
                Ok(mut plain) => {
                    self.inside(&place, name, &mut plain, depth + 1);
                    // What a container inside did not read, so that the next frame begins where it begins.
                    if let Err(error) = io::copy(&mut plain.take(self.left), &mut io::sink()) {
                        return self.stop(&place, &error);
                    }
                }
                Err(_) => {
                    let kind = Stopped::Damaged(io::ErrorKind::InvalidData);
                    return self.stopped.push((place, kind));
                }
            }
            if !self.stopped.is_empty() {
                return;
            }
        }
    }

    fn tar(&mut self, place: &str, whole: impl Read, depth: usize) {
        let mut archive = tar::Archive::new(whole);
        archive.set_ignore_zeros(true);
        let entries = match archive.entries() {
            Ok(entries) => entries,
            Err(error) => return self.stop(place, &error),
        };
        for entry in entries {
            let mut entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.stop(place, &error),
            };
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let inner = format!("{place}!{name}");
            // Names, links and attributes leak as well as contents do.
            let mut told = entry.path_bytes().into_owned();
            if let Some(link) = entry.link_name_bytes() {
                told.extend_from_slice(b"\n");
                told.extend_from_slice(&link);
            }
            let place = format!("{inner} (its name)");
            self.plain(&place, &mut told.as_slice(), depth + 1);
            self.inside(&inner, &name, &mut entry, depth + 1);
        }
    }

    fn stop(&mut self, place: &str, error: &io::Error) {
        let why = Stopped::Damaged(error.kind());
        self.stopped.push((place.to_owned(), why));
    }
}

fn container(head: &[u8], name: &str) -> Option<Container> {
    match head {
        [0x1f, 0x8b, 8, ..] => return Some(Container::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => return Some(Container::Zstd),
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] if ends(name, ".zlib") => {
            return Some(Container::Zlib);
        }
        _ => {}
    }
    if head.get(257..262) == Some(b"ustar") {
        return Some(Container::Tar);
    }
    ends(name, ".br").then_some(Container::Brotli)
}

fn ends(name: &str, with: &str) -> bool {
    name.to_ascii_lowercase().ends_with(with)
}

/// The name without its last ending: what `a.json.br` unpacks to is `a.json`.
fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}
