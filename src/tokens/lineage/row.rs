//! What the store keeps of a grant, as bytes: written whole, read whole or not at all.
//!
//! ```text
//! form, 1 byte | flags, 1 byte | number, 8 bytes | print, 32 bytes | key, 32 bytes if flagged | refresh token
//! ```

use zeroize::Zeroizing;

use crate::vocab::Secret;

const FORM: u8 = 1;
const DOUBT: u8 = 1;
const KEY: u8 = 2;

/// The state of a grant that outlives access tokens.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// What the grant was given for: a row is used only where the configuration still says the same.
    pub(super) print: [u8; 32],
    /// Counts the refresh tokens of this lineage.
    pub(super) number: u64,
    /// The refresh token may have been used already.
    pub(super) doubt: bool,
    pub(super) refresh: Secret<String>,
    /// The key that it is bound to.
    pub(super) key: Option<Secret<[u8; 32]>>,
}

impl Row {
    /// The bytes to be sealed.
    pub(super) fn write(&self) -> Zeroizing<Vec<u8>> {
        let refresh = self.refresh.expose().as_bytes();
        // Room for everything at once: a growing buffer would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(80 + refresh.len()));
        let doubt = if self.doubt { DOUBT } else { 0 };
        let key = if self.key.is_some() { KEY } else { 0 };
        bytes.extend_from_slice(&[FORM, doubt | key]);
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&self.print);
        if let Some(key) = &self.key {
            bytes.extend_from_slice(key.expose());
        }
        bytes.extend_from_slice(refresh);
        bytes
    }

    /// `None`: another version of tokenward wrote this.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (&[form, flags], rest) = bytes.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        let (print, mut rest) = rest.split_first_chunk()?;
        if form != FORM || flags & !(DOUBT | KEY) != 0 {
            return None;
        }
        let mut key = None;
        if flags & KEY != 0 {
            let (scalar, behind) = rest.split_first_chunk()?;
            (key, rest) = (Some(Secret::new(*scalar)), behind);
        }
        let refresh = std::str::from_utf8(rest).ok().filter(|t| !t.is_empty())?;
        Some(Self {
            print: *print,
            number: u64::from_be_bytes(*number),
            doubt: flags & DOUBT != 0,
            refresh: Secret::new(refresh.to_owned()),
            key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_as_they_were_written_or_not_at_all() {
        for (doubt, key) in [(false, None), (true, Some(Secret::new([9; 32])))] {
            let row = Row {
                print: [3; 32],
                number: 7,
                doubt,
                refresh: Secret::new("rt-7".to_owned()),
                key,
            };
            let bytes = row.write();
            let read = Row::read(&bytes).unwrap();
            assert_eq!((read.number, read.doubt, read.print), (7, doubt, [3; 32]));
            assert_eq!(read.refresh.expose(), "rt-7");
            assert_eq!(read.key.map(|k| *k.expose()), row.key.map(|k| *k.expose()));
            let shortest = bytes.len() - 4;
            assert!((0..=shortest).all(|length| Row::read(&bytes[..length]).is_none()));
        }
        let other = [2, 0];
        assert!(Row::read(&[&other[..], &[0; 80]].concat()).is_none());
        assert!(Row::read(&[&[1, 4][..], &[b'a'; 80]].concat()).is_none());
    }
}
