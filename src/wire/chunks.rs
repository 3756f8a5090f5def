//! A chunked body, followed as far as is needed to know where it ends (RFC 9112 §7.1).

/// Something that is no chunked coding, or is one to some readers only.
#[derive(Debug)]
pub(super) struct Broken;

/// Digits of a size. Leading zeros count, so that no size is endless.
const DIGITS_MAX: u8 = 16;

/// A chunked body that is being read. hyper bounds its extensions and its trailers by 16 KiB each.
pub(super) struct Chunks {
    place: Place,
    /// The size that is being read, then what is left of the data.
    size: u64,
}

#[derive(Clone, Copy)]
enum Place {
    /// In a size, of which this many digits have come.
    Size(u8),
    /// Behind a size: blanks and extensions.
    Tail,
    /// Behind the CR of a size's line.
    TailCr,
    Data,
    /// Behind data.
    DataEnd,
    /// Behind the CR behind data.
    DataEndCr,
    /// In the trailer section; whether the line is empty so far.
    Trailer(bool),
    /// Behind a CR there.
    TrailerCr(bool),
}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self {
            place: Place::Size(0),
            size: 0,
        }
    }

    /// Reads on: how many bytes were the body's, and whether it has ended with them.
    ///
    /// # Errors
    /// [`Broken`]; where the body ends cannot be known.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(usize, bool), Broken> {
        let mut at = 0;
        while at < bytes.len() {
            if matches!(self.place, Place::Data) {
                let here = bytes.len() - at;
                let here = usize::try_from(self.size).map_or(here, |left| left.min(here));
                self.size -= here as u64;
                at += here;
                if self.size == 0 {
                    self.place = Place::DataEnd;
                }
                continue;
            }
            let ended = self.take(bytes[at])?;
            at += 1;
            if ended {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    /// One byte of what is not data; whether it was the body's last.
    fn take(&mut self, byte: u8) -> Result<bool, Broken> {
        self.place = match (self.place, byte) {
            (Place::Size(digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == DIGITS_MAX {
                    return Err(Broken);
                }
                let digit = char::from(byte).to_digit(16).ok_or(Broken)?;
                self.size = self.size << 4 | u64::from(digit);
                Place::Size(digits + 1)
            }
            (Place::Size(0), _) => return Err(Broken),
            (Place::Size(_) | Place::Tail, b'\r') => Place::TailCr,
            (Place::Size(_), b' ' | b'\t' | b';') => Place::Tail,
            (Place::TailCr, b'\n') if self.size == 0 => Place::Trailer(true),
            (Place::TailCr, b'\n') => Place::Data,
            (Place::Tail, other) if other != b'\n' => Place::Tail,
            (Place::DataEnd, b'\r') => Place::DataEndCr,
            (Place::DataEndCr, b'\n') => Place::Size(0),
            (Place::Trailer(empty), b'\r') => Place::TrailerCr(empty),
            (Place::TrailerCr(true), b'\n') => return Ok(true),
            (Place::TrailerCr(false), b'\n') => Place::Trailer(true),
            (Place::Trailer(_), other) if other != b'\n' => Place::Trailer(false),
            // A bare LF, a stray CR, a size that is none: some reader takes each of them for something else.
            _ => return Err(Broken),
        };
        Ok(false)
    }
}
