//! Content codings, taken off step by step (RFC 9110 §8.4.1): a few bytes in, what they become out.

use std::io::{self, Write};

use bytes::{Buf, Bytes, BytesMut};
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use ruzstd::decoding::FrameDecoder;
use ruzstd::io::Read as _;

/// Most codings, one over the other.
const LAYERS_MAX: usize = 3;
/// Bytes that are taken in one step.
const STEP: usize = 1024;
/// Most bytes that one step may become: all that DEFLATE can make of them, twice.
const STEP_OUT_MAX: usize = 2 * 1032 * STEP;
/// Most bytes that one byte may become on average, once there are more than [`FREE`].
const RATIO_MAX: u64 = 256;
/// Bytes that no ratio is asked of.
const FREE: u64 = 1024 * 1024;
/// Largest window of zstd (RFC 9659 §3).
const WINDOW_MAX: u64 = 8 * 1024 * 1024;
/// What Brotli writes to at a time.
const BROTLI_BUFFER: usize = 16 * 1024;

/// Why a body cannot be searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is not what its coding says, or it ends in the middle.
    #[error("the body is not in the coding that it names")]
    Damaged,
    /// It becomes too much, or asks for too much memory.
    #[error("the body becomes more than its size allows")]
    Bomb,
    /// Nobody here reads this coding.
    #[error("the coding is not known")]
    Unknown,
}

/// A coding that can be taken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 7932.
    Brotli,
    /// RFC 1950, or RFC 1951 alone, as some servers have it.
    Deflate,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Coding {
    /// The codings of a list as it stands in `Content-Encoding`, in the order in which they were put on; without
    /// `identity`.
    ///
    /// # Errors
    /// [`Unreadable::Unknown`] where one is not known, or too many are given.
    pub fn list(text: &str) -> Result<Vec<Self>, Unreadable> {
        let names = text.split(',').map(str::trim).filter(|n| !n.is_empty());
        let mut all = Vec::new();
        for name in names {
            match name.to_ascii_lowercase().as_str() {
                "identity" => {}
                "br" => all.push(Self::Brotli),
                "deflate" => all.push(Self::Deflate),
                "gzip" | "x-gzip" => all.push(Self::Gzip),
                "zstd" => all.push(Self::Zstd),
                _ => return Err(Unreadable::Unknown),
            }
        }
        if all.len() > LAYERS_MAX {
            return Err(Unreadable::Unknown);
        }
        Ok(all)
    }
}

/// A body in codings, on its way to what it is.
pub struct Unpacker {
    /// The outermost first.
    layers: Vec<Layer>,
    waiting: Bytes,
    taken: u64,
    given: u64,
}

impl Unpacker {
    /// Takes off these codings, the last one first.
    #[must_use]
    pub fn new(codings: &[Coding]) -> Self {
        Self {
            layers: codings.iter().rev().map(|c| Layer::new(*c)).collect(),
            waiting: Bytes::new(),
            taken: 0,
            given: 0,
        }
    }

    /// Takes the next piece. The one before must be used up.
    pub fn feed(&mut self, piece: Bytes) {
        self.waiting = piece;
    }

    /// Whether all that came was looked at.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.waiting.has_remaining()
    }

    /// One step: what comes of the next bytes, at most 2 MiB; maybe nothing yet.
    ///
    /// # Errors
    /// [`Unreadable`]; nothing more can be had then.
    pub fn step(&mut self) -> Result<Bytes, Unreadable> {
        let many = self.waiting.len().min(STEP);
        let bytes = self.waiting.split_to(many);
        self.taken += many as u64;
        let mut text = bytes;
        for layer in &mut self.layers {
            text = layer.step(&text)?;
        }
        self.given += text.len() as u64;
        if self.given > FREE && self.given / RATIO_MAX > self.taken {
            return Err(Unreadable::Bomb);
        }
        Ok(text)
    }

    /// Nothing follows.
    ///
    /// # Errors
    /// [`Unreadable::Damaged`] where something is missing.
    pub fn finish(&mut self) -> Result<Bytes, Unreadable> {
        let mut text = Bytes::new();
        let began = self.taken > 0;
        for layer in &mut self.layers {
            let mut whole = BytesMut::from(layer.step(&text)?);
            if began {
                whole.extend_from_slice(&layer.finish()?);
            }
            text = whole.freeze();
        }
        Ok(text)
    }
}

enum Layer {
    /// Made when the first byte has told how large its window is.
    Brotli(Option<Box<Brotli>>),
    /// The first byte tells which.
    Deflate,
    Gzip(Box<MultiGzDecoder<Room>>),
    Raw(Box<DeflateDecoder<Room>>),
    Zlib(Box<ZlibDecoder<Room>>),
    Zstd(Box<Zstd>),
}

type Brotli = brotli_decompressor::DecompressorWriter<Room>;

/// A reader of Brotli, whose first byte is this.
fn brotli(first: u8) -> Result<Box<Brotli>, Unreadable> {
    // What RFC 7932 §9.1 leaves unused begins a window of up to 1 GiB, which the decoder would make. Without it, the
    // largest is 16 MiB.
    if first & 0x7f == 0x11 {
        return Err(Unreadable::Bomb);
    }
    let room = Room::default();
    Ok(Box::new(Brotli::new(room, BROTLI_BUFFER)))
}

/// Where a step's bytes go.
#[derive(Default)]
struct Room {
    text: BytesMut,
    full: bool,
}

impl Write for Room {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.text.len() + bytes.len() > STEP_OUT_MAX {
            self.full = true;
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Room {
    fn take(&mut self, outcome: io::Result<()>) -> Result<Bytes, Unreadable> {
        match outcome {
            Ok(()) => Ok(self.text.split().freeze()),
            Err(_) if self.full => Err(Unreadable::Bomb),
            Err(_) => Err(Unreadable::Damaged),
        }
    }
}

impl Layer {
    fn new(coding: Coding) -> Self {
        match coding {
            Coding::Brotli => Self::Brotli(None),
            Coding::Deflate => Self::Deflate,
            Coding::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(Room::default()))),
            Coding::Zstd => Self::Zstd(Box::new(Zstd::new())),
        }
    }

    fn step(&mut self, bytes: &[u8]) -> Result<Bytes, Unreadable> {
        let Some(first) = bytes.first() else {
            return Ok(Bytes::new());
        };
        if matches!(self, Self::Deflate) {
            // RFC 1950 §2.2: the method is 8.
            *self = if first & 0x0f == 8 {
                Self::Zlib(Box::new(ZlibDecoder::new(Room::default())))
            } else {
                Self::Raw(Box::new(DeflateDecoder::new(Room::default())))
            };
        }
        match self {
            Self::Brotli(out) => {
                let out = match out {
                    Some(out) => out,
                    None => out.insert(brotli(*first)?),
                };
                let outcome = out.write_all(bytes).and_then(|()| out.flush());
                out.get_mut().take(outcome)
            }
            Self::Gzip(out) => {
                let outcome = out.write_all(bytes).and_then(|()| out.flush());
                out.get_mut().take(outcome)
            }
            Self::Raw(out) => {
                let outcome = out.write_all(bytes).and_then(|()| out.flush());
                out.get_mut().take(outcome)
            }
            Self::Zlib(out) => {
                let outcome = out.write_all(bytes).and_then(|()| out.flush());
                out.get_mut().take(outcome)
            }
            Self::Zstd(out) => out.step(bytes),
            Self::Deflate => Ok(Bytes::new()),
        }
    }

    fn finish(&mut self) -> Result<Bytes, Unreadable> {
        match self {
            Self::Brotli(None) => Err(Unreadable::Damaged),
            Self::Brotli(Some(out)) => {
                let outcome = out.close();
                out.get_mut().take(outcome)
            }
            Self::Gzip(out) => {
                let outcome = out.try_finish();
                out.get_mut().take(outcome)
            }
            Self::Raw(out) => {
                let outcome = out.try_finish();
                out.get_mut().take(outcome)
            }
            Self::Zlib(out) => {
                let outcome = out.try_finish();
                out.get_mut().take(outcome)
            }
            Self::Zstd(out) => out.finish(),
            Self::Deflate => Ok(Bytes::new()),
        }
    }
}

/// Frames of zstd, one after the other (RFC 8878 §3.1), given to the decoder block by block: a few bytes may stand for
/// a block of 128 KiB.
struct Zstd {
    decoder: FrameDecoder,
    /// What is not a whole header or block yet: at most a block.
    waiting: BytesMut,
    next: Part,
    checksum: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Block,
    Checksum,
    /// A frame that holds nothing of the content, and what of it is still to come.
    Skipped(usize),
}

impl Zstd {
    fn new() -> Self {
        Self {
            decoder: FrameDecoder::new(),
            waiting: BytesMut::new(),
            next: Part::Head,
            checksum: false,
        }
    }

    fn step(&mut self, bytes: &[u8]) -> Result<Bytes, Unreadable> {
        self.waiting.extend_from_slice(bytes);
        let mut text = BytesMut::new();
        while self.part(&mut text)? {
            if text.len() > STEP_OUT_MAX {
                return Err(Unreadable::Bomb);
            }
        }
        Ok(text.freeze())
    }

    /// Takes the next part, where it is whole.
    fn part(&mut self, text: &mut BytesMut) -> Result<bool, Unreadable> {
        match self.next {
            Part::Head => return self.head(),
            Part::Block => return self.block(text),
            Part::Checksum => {
                if self.waiting.len() < 4 {
                    return Ok(false);
                }
                self.waiting.advance(4);
                self.next = Part::Head;
            }
            Part::Skipped(left) => {
                let many = left.min(self.waiting.len());
                self.waiting.advance(many);
                if many < left {
                    self.next = Part::Skipped(left - many);
                    return Ok(false);
                }
                self.next = Part::Head;
            }
        }
        Ok(true)
    }

    fn head(&mut self) -> Result<bool, Unreadable> {
        if self.waiting.is_empty() {
            return Ok(false);
        }
        let [a, b, c, d, descriptor, rest @ ..] = self.waiting.as_ref() else {
            return Ok(false);
        };
        let magic = u32::from_le_bytes([*a, *b, *c, *d]);
        if magic & 0xffff_fff0 == 0x184d_2a50 {
            let Some(size) = self.waiting.get(4..8) else {
                return Ok(false);
            };
            let size = u32::from_le_bytes([size[0], size[1], size[2], size[3]]);
            self.waiting.advance(8);
            self.next = Part::Skipped(usize::try_from(size).map_err(|_| Unreadable::Bomb)?);
            return Ok(true);
        }
        let single = descriptor & 0x20 != 0;
        if descriptor & 3 != 0 {
            // A dictionary, which nobody gave us.
            return Err(Unreadable::Unknown);
        }
        let content = match descriptor >> 6 {
            0 => usize::from(single),
            1 => 2,
            2 => 4,
            _ => 8,
        };
        let length = 5 + usize::from(!single) + content;
        if self.waiting.len() < length {
            return Ok(false);
        }
        let window = if single {
            let mut size = [0; 8];
            let field = rest.get(..content).unwrap_or_default();
            size[..content].copy_from_slice(field);
            u64::from_le_bytes(size)
        } else {
            let byte = u64::from(rest.first().copied().unwrap_or_default());
            let base = 1_u64 << (10 + (byte >> 3));
            base + base / 8 * (byte & 7)
        };
        if window > WINDOW_MAX {
            return Err(Unreadable::Bomb);
        }
        self.checksum = descriptor & 4 != 0;
        let head = self.waiting.split_to(length);
        self.decoder
            .init(head.as_ref())
            .map_err(|_| Unreadable::Damaged)?;
        self.next = Part::Block;
        Ok(true)
    }

    fn block(&mut self, text: &mut BytesMut) -> Result<bool, Unreadable> {
        let [a, b, c, ..] = self.waiting.as_ref() else {
            return Ok(false);
        };
        let header = u32::from_le_bytes([*a, *b, *c, 0]);
        let (last, kind, size) = (header & 1 == 1, (header >> 1) & 3, header >> 3);
        let size = if kind == 1 { 1 } else { size };
        let length = 3 + usize::try_from(size).map_err(|_| Unreadable::Damaged)?;
        if length > 3 + 128 * 1024 {
            return Err(Unreadable::Damaged);
        }
        if self.waiting.len() < length {
            return Ok(false);
        }
        let block = self.waiting.split_to(length);
        let (read, _) = self
            .decoder
            .decode_from_to(&block, &mut [])
            .map_err(|_| Unreadable::Damaged)?;
        if read != length {
            return Err(Unreadable::Damaged);
        }
        if last && self.checksum {
            // The decoder calls a frame finished when it has seen the checksum; what it holds back till then is had by
            // giving it one. It compares nothing.
            let _checksum = self.decoder.decode_from_to(&[0; 4], &mut []);
        }
        let mut room = [0; 16 * 1024];
        loop {
            let many = self
                .decoder
                .read(&mut room)
                .map_err(|_| Unreadable::Damaged)?;
            text.extend_from_slice(room.get(..many).unwrap_or_default());
            if many == 0 {
                break;
            }
        }
        self.next = match (last, self.checksum) {
            (false, _) => Part::Block,
            (true, true) => Part::Checksum,
            (true, false) => Part::Head,
        };
        Ok(true)
    }

    fn finish(&self) -> Result<Bytes, Unreadable> {
        if self.next == Part::Head && self.waiting.is_empty() {
            Ok(Bytes::new())
        } else {
            Err(Unreadable::Damaged)
        }
    }
}
