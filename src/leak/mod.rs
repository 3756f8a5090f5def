//! Finds known values in whatever somebody might have written them into: as they are, in the encodings that software puts
//! secrets into, and inside compressed files and archives.
//!
//! Everything streams: what is held at a time is one window and what the container formats need. What could not be
//! searched is told as such; a search that skipped something found nothing is no answer.
//!
//! Invariant: no result, message or error repeats a value, or a part of one.

mod canary;
mod needle;
mod scan;
mod unpack;
mod view;
mod walk;

#[cfg(test)]
mod tests;

pub use canary::{BadCanary, Canaries, Canary};
pub use scan::Finding;
pub use walk::{Report, Unsearched, search_path, search_stdin};
