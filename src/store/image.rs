//! The bytes of a store's file, as pure functions.
//!
//! ```text
//! head | row | row | … | head again | length of the head, 4 bytes
//! head = magic | salt | check | sequence, 8 bytes | length, 4 bytes | sealed list of rows
//! ```
//!
//! The list names every row, the write that brought it and its length, so no row is found by what stands in another,
//! and one damaged byte costs one row or one of two heads. Numbers are big-endian.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::error::{Lost, Why};
use super::seal::{CHECK_LEN, Kind, Place, SALT_LEN, SEAL_LEN, Sealer, StoreKey, random};
use super::{FILE_MAX, ROW_MAX, ROWS_MAX, RowId};

const MAGIC: &[u8; 18] = b"tokenward store 1\n";
/// What stands before the sealed list.
const HEAD_LEN: usize = MAGIC.len() + SALT_LEN + CHECK_LEN + 8 + 4;

/// What a file holds, still sealed.
#[derive(Debug)]
pub(super) struct Image {
    /// Counts writes; the version of whatever the next one brings is one more.
    pub(super) sequence: u64,
    rows: BTreeMap<RowId, Sealed>,
}

/// One row as it stands in the file. A damaged one stays as it is until it is replaced or removed.
#[derive(Debug, Clone)]
struct Sealed {
    version: u64,
    bytes: Vec<u8>,
}

impl Image {
    /// Nothing, before the first write.
    pub(super) fn empty() -> Self {
        Self {
            sequence: 0,
            rows: BTreeMap::new(),
        }
    }

    /// Reads a file. The rows are opened one by one afterwards.
    pub(super) fn read(bytes: &[u8], key: &StoreKey) -> Result<(Self, Sealer, Lost), Why> {
        let front = Head::read(bytes, key);
        let back = behind(bytes).map_or(Err(Why::Other), |at| {
            Head::read(bytes.get(at..).unwrap_or_default(), key)
        });
        let mut lost = Lost::default();
        let (head, mut at) = match (front, back) {
            // Two that disagree: one was put there from another time. The newer one is the one that rows must fit.
            (Ok(front), Ok(back)) => {
                lost.head = front.sequence != back.sequence;
                if front.sequence >= back.sequence {
                    let at = front.length;
                    (front, at)
                } else {
                    let at = back.rows_before(bytes);
                    (back, at)
                }
            }
            (Ok(front), Err(_)) => {
                lost.head = true;
                let at = front.length;
                (front, at)
            }
            (Err(_), Ok(back)) => {
                lost.head = true;
                let at = back.rows_before(bytes);
                (back, at)
            }
            (Err(one), Err(other)) => return Err(worst(one, other)),
        };
        let mut rows = BTreeMap::new();
        for (id, version, length) in head.list {
            let end = at.saturating_add(length).min(bytes.len());
            let found = bytes.get(at.min(end)..end).unwrap_or_default().to_vec();
            at = at.saturating_add(length);
            let sealed = Sealed {
                version,
                bytes: found,
            };
            if open(&head.sealer, &id, &sealed).is_none() {
                lost.rows.push(id.clone());
            }
            rows.insert(id, sealed);
        }
        let image = Self {
            sequence: head.sequence,
            rows,
        };
        Ok((image, head.sealer, lost))
    }

    /// The names of all rows, damaged ones too.
    pub(super) fn names(&self) -> impl Iterator<Item = &RowId> {
        self.rows.keys()
    }

    /// A row's content; `None` where there is none, or a damaged one.
    pub(super) fn get(&self, sealer: &Sealer, id: &RowId) -> Option<Zeroizing<Vec<u8>>> {
        open(sealer, id, self.rows.get(id)?)
    }

    /// The image after one more write: `Some` content replaces a row, `None` removes it.
    pub(super) fn with(
        &self,
        sealer: &Sealer,
        id: &RowId,
        content: Option<&[u8]>,
    ) -> Result<Self, Why> {
        let version = self.sequence.checked_add(1).ok_or(Why::TooLarge)?;
        let mut rows = self.rows.clone();
        match content {
            Some(content) => {
                let known = rows.contains_key(id);
                if content.len() > ROW_MAX
                    || id.name.len() > 255
                    || (!known && rows.len() >= ROWS_MAX)
                {
                    return Err(Why::TooLarge);
                }
                let place = Place {
                    kind: Kind::Row,
                    row: Some(id),
                    version,
                };
                let bytes = sealer.seal(&place, content)?;
                rows.insert(id.clone(), Sealed { version, bytes });
            }
            None => {
                rows.remove(id);
            }
        }
        Ok(Self {
            sequence: version,
            rows,
        })
    }

    /// The image after one more write, which seals every row with another key, under a new salt. A damaged row is carried
    /// over as it is: it stays damaged, and stays known.
    pub(super) fn sealed_anew(
        &self,
        sealer: &Sealer,
        key: &StoreKey,
    ) -> Result<(Self, Sealer), Why> {
        let version = self.sequence.checked_add(1).ok_or(Why::TooLarge)?;
        let next = Sealer::new(key, random()?)?;
        let mut rows = BTreeMap::new();
        for (id, row) in &self.rows {
            let place = Place {
                kind: Kind::Row,
                row: Some(id),
                version,
            };
            let bytes = match open(sealer, id, row) {
                Some(content) => next.seal(&place, &content)?,
                None => row.bytes.clone(),
            };
            rows.insert(id.clone(), Sealed { version, bytes });
        }
        let image = Self {
            sequence: version,
            rows,
        };
        Ok((image, next))
    }

    /// The file.
    pub(super) fn write(&self, sealer: &Sealer) -> Result<Vec<u8>, Why> {
        let head = self.head(sealer)?;
        let length = u32::try_from(head.len()).map_err(|_| Why::TooLarge)?;
        let mut bytes = head.clone();
        for row in self.rows.values() {
            bytes.extend_from_slice(&row.bytes);
        }
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&length.to_be_bytes());
        if bytes.len() > FILE_MAX {
            return Err(Why::TooLarge);
        }
        Ok(bytes)
    }

    fn head(&self, sealer: &Sealer) -> Result<Vec<u8>, Why> {
        let mut list = Vec::new();
        for (id, row) in &self.rows {
            list.push(id.kind);
            list.push(u8::try_from(id.name.len()).map_err(|_| Why::TooLarge)?);
            list.extend_from_slice(id.name.as_bytes());
            list.extend_from_slice(&row.version.to_be_bytes());
            let length = u32::try_from(row.bytes.len()).map_err(|_| Why::TooLarge)?;
            list.extend_from_slice(&length.to_be_bytes());
        }
        let sealed = sealer.seal(&head_place(self.sequence), &list)?;
        let length = u32::try_from(sealed.len()).map_err(|_| Why::TooLarge)?;
        let mut head = Vec::with_capacity(HEAD_LEN + sealed.len());
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(sealer.salt());
        head.extend_from_slice(sealer.check());
        head.extend_from_slice(&self.sequence.to_be_bytes());
        head.extend_from_slice(&length.to_be_bytes());
        head.extend_from_slice(&sealed);
        Ok(head)
    }
}

/// A head that was opened.
struct Head {
    sealer: Sealer,
    sequence: u64,
    /// Name, version and length, in the order of the file.
    list: Vec<(RowId, u64, usize)>,
    /// Its own length.
    length: usize,
}

impl Head {
    fn read(bytes: &[u8], key: &StoreKey) -> Result<Self, Why> {
        let mut rest = bytes;
        if take(&mut rest, MAGIC.len()) != Some(MAGIC.as_slice()) {
            return Err(Why::Other);
        }
        let salt = array(&mut rest).ok_or(Why::Damaged)?;
        let check: [u8; CHECK_LEN] = array(&mut rest).ok_or(Why::Damaged)?;
        let sequence = u64::from_be_bytes(array(&mut rest).ok_or(Why::Damaged)?);
        let length = number(&mut rest).ok_or(Why::Damaged)?;
        let sealer = Sealer::new(key, salt)?;
        if !sealer.is_right(&check) {
            return Err(Why::WrongKey);
        }
        let sealed = take(&mut rest, length).ok_or(Why::Damaged)?;
        let list = sealer
            .open(&head_place(sequence), sealed)
            .ok_or(Why::Damaged)?;
        let list = entries(&list).ok_or(Why::Damaged)?;
        Ok(Self {
            sealer,
            sequence,
            list,
            length: HEAD_LEN + length,
        })
    }

    /// Where the rows begin, told from the end of the file.
    fn rows_before(&self, bytes: &[u8]) -> usize {
        let rows: usize = self.list.iter().map(|(_, _, length)| length).sum();
        bytes
            .len()
            .saturating_sub(4 + self.length)
            .saturating_sub(rows)
    }
}

fn head_place(version: u64) -> Place<'static> {
    Place {
        kind: Kind::Head,
        row: None,
        version,
    }
}

fn open(sealer: &Sealer, id: &RowId, row: &Sealed) -> Option<Zeroizing<Vec<u8>>> {
    let place = Place {
        kind: Kind::Row,
        row: Some(id),
        version: row.version,
    };
    sealer.open(&place, &row.bytes)
}

/// Where the second head begins.
fn behind(bytes: &[u8]) -> Option<usize> {
    let end = bytes.len().checked_sub(4)?;
    let length = number(&mut bytes.get(end..)?)?;
    end.checked_sub(length)
}

/// A wrong key is told only where neither head says more: a single damaged byte can look like one.
fn worst(one: Why, other: Why) -> Why {
    match (one, other) {
        (Why::Damaged, _) | (_, Why::Damaged) => Why::Damaged,
        (Why::WrongKey, _) | (_, Why::WrongKey) => Why::WrongKey,
        (one, _) => one,
    }
}

fn entries(mut rest: &[u8]) -> Option<Vec<(RowId, u64, usize)>> {
    let mut list = Vec::new();
    while !rest.is_empty() {
        let [kind, length] = array(&mut rest)?;
        let name = std::str::from_utf8(take(&mut rest, usize::from(length))?).ok()?;
        let version = u64::from_be_bytes(array(&mut rest)?);
        let length = number(&mut rest)?;
        if list.len() >= ROWS_MAX || length > ROW_MAX + SEAL_LEN {
            return None;
        }
        let name = name.to_owned();
        list.push((RowId { kind, name }, version, length));
    }
    Some(list)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    take(rest, N)?.try_into().ok()
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(array(rest)?)).ok()
}
