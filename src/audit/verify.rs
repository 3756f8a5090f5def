//! `audit verify`: reads a whole file and tells whether its chain holds.

use std::fmt;
use std::io::{BufRead, Read};

use super::chain::{Chain, Fault, LINE_MAX, Link, TornSum, read};

/// A chain that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// How many lines it has.
    pub lines: u64,
    /// How often a crash left a line half written; each is closed by a line that says so.
    pub torn: u64,
    /// Its first line.
    pub first: Option<Mark>,
    /// Its last line. Lines cut off the end are missed by nobody who does not know this hash from elsewhere.
    pub last: Option<Mark>,
}

/// One line of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Its number.
    pub seq: u64,
    /// When it was written.
    pub time: String,
    /// Its hash.
    pub hash: String,
}

/// A chain that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct Broken {
    /// The line of the file, counted from 1.
    pub line: u64,
    /// What is wrong there.
    pub what: Damage,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The line is not the first of its chain, but the first of the file.
    Beginning,
    /// The line was changed after it was written.
    Edited,
    /// The line is not an audit line.
    Foreign,
    /// The line before it is not the one it was written behind: one was removed, inserted or moved.
    Order,
    /// The line is longer than any audit line.
    TooLong,
    /// The line was not finished, and no later line accounts for that.
    Torn,
    /// The file cannot be read further.
    Unreadable,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Beginning => "the chain does not begin here; what came before is missing",
            Self::Edited => "the line was changed after it was written",
            Self::Foreign => "not an audit line",
            Self::Order => {
                "the line does not follow the one before; one was removed, inserted or moved"
            }
            Self::TooLong => "longer than any audit line",
            Self::Torn => "the line was not finished, and no later line accounts for it",
            Self::Unreadable => "the file cannot be read",
        })
    }
}

/// Checks every line and its place. An empty file is an empty chain.
///
/// # Errors
/// [`Broken`] names the first line that is not as it was written.
pub fn verify(mut reader: impl BufRead) -> Result<Verified, Broken> {
    let mut walk = Walk {
        line: 0,
        chain: Chain::start(),
        open: None,
        verified: Verified {
            lines: 0,
            torn: 0,
            first: None,
            last: None,
        },
    };
    while let Some(bytes) = walk.next_line(&mut reader)? {
        walk.take(&bytes)?;
    }
    match walk.open {
        Some((line, _)) => Err(Broken {
            line,
            what: Damage::Torn,
        }),
        None => Ok(walk.verified),
    }
}

struct Walk {
    line: u64,
    chain: Chain,
    /// Unfinished lines that the next good one must account for, and where they begin.
    open: Option<(u64, TornSum)>,
    verified: Verified,
}

impl Walk {
    fn next_line(&mut self, reader: &mut impl BufRead) -> Result<Option<Vec<u8>>, Broken> {
        self.line += 1;
        let mut bytes = Vec::new();
        let mut bounded = reader.by_ref().take(LINE_MAX as u64 + 1);
        bounded
            .read_until(b'\n', &mut bytes)
            .map_err(|_| self.broken(Damage::Unreadable))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        } else if bytes.len() > LINE_MAX {
            return Err(self.broken(Damage::TooLong));
        }
        Ok(Some(bytes))
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        match read(bytes) {
            Ok(link) => self.link(link),
            // Only what lacks its seal can be the work of a crash. A sealed line that does not verify was edited.
            Err(Fault::Unsealed) => {
                let line = self.line;
                let (_, sum) = self.open.get_or_insert_with(|| (line, TornSum::new()));
                sum.add(bytes);
                Ok(())
            }
            Err(Fault::Hash) => Err(self.broken(Damage::Edited)),
            Err(Fault::Form) => Err(self.broken(Damage::Foreign)),
        }
    }

    fn link(&mut self, link: Link) -> Result<(), Broken> {
        if let Some((line, sum)) = self.open.take() {
            if link.torn != Some(sum.finish()) {
                return Err(Broken {
                    line,
                    what: Damage::Torn,
                });
            }
            self.verified.torn += 1;
        } else if link.torn.is_some() {
            return Err(self.broken(Damage::Order));
        }
        if link.prev != self.chain.hash || link.seq != self.chain.seq + 1 {
            let first = self.verified.lines == 0;
            return Err(self.broken(if first {
                Damage::Beginning
            } else {
                Damage::Order
            }));
        }
        self.chain = Chain {
            seq: link.seq,
            hash: link.hash.clone(),
        };
        let mark = Mark {
            seq: link.seq,
            time: link.time,
            hash: link.hash,
        };
        self.verified.lines += 1;
        self.verified.first.get_or_insert_with(|| mark.clone());
        self.verified.last = Some(mark);
        Ok(())
    }

    fn broken(&self, what: Damage) -> Broken {
        Broken {
            line: self.line,
            what,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::Members;
    use super::*;
    use crate::vocab::WallTime;

    fn chain_of(lines: u64) -> Vec<String> {
        let mut chain = Chain::start();
        (0..lines)
            .map(|i| {
                let mut out = String::new();
                let mut members = Members::default();
                members.number("status", 200 + i);
                chain.seal(&mut out, WallTime(i * 1000), "request", &members);
                out
            })
            .collect()
    }

    fn verdict(text: &str) -> Result<Verified, Broken> {
        verify(text.as_bytes())
    }

    fn broken(line: u64, what: Damage) -> Result<Verified, Broken> {
        Err(Broken { line, what })
    }

    #[test]
    fn an_untouched_chain_holds() {
        let lines = chain_of(5);
        let verified = verdict(&lines.concat()).unwrap();
        assert_eq!((verified.lines, verified.torn), (5, 0));
        assert_eq!(verified.first.unwrap().seq, 1);
        let last = verified.last.unwrap();
        assert_eq!(
            (last.seq, last.time.as_str()),
            (5, "1970-01-01T00:00:04.000Z")
        );
        assert!(lines[4].contains(&last.hash));
        assert_eq!(verdict("").unwrap().lines, 0);
        // The last line may lack its line end: the process died between two writes.
        assert_eq!(verdict(lines.concat().trim_end()).unwrap().lines, 5);
    }

    #[test]
    fn every_touch_is_found() {
        let lines = chain_of(5);
        let edited = lines.concat().replace("\"status\":202", "\"status\":500");
        assert_eq!(verdict(&edited), broken(3, Damage::Edited));

        let mut deleted = lines.clone();
        deleted.remove(2);
        assert_eq!(verdict(&deleted.concat()), broken(3, Damage::Order));

        let mut beheaded = lines.clone();
        beheaded.remove(0);
        assert_eq!(verdict(&beheaded.concat()), broken(1, Damage::Beginning));

        let mut swapped = lines.clone();
        swapped.swap(1, 2);
        assert_eq!(verdict(&swapped.concat()), broken(2, Damage::Order));

        let mut repeated = lines.clone();
        repeated.insert(3, lines[2].clone());
        assert_eq!(verdict(&repeated.concat()), broken(4, Damage::Order));

        let mut cut = lines.clone();
        cut[2].truncate(40);
        cut[2].push('\n');
        assert_eq!(verdict(&cut.concat()), broken(3, Damage::Torn));

        let mut joined = lines.clone();
        joined[1].pop();
        assert_eq!(verdict(&joined.concat()), broken(2, Damage::Edited));

        let mut blank = lines.clone();
        blank.insert(2, "\n".to_owned());
        assert_eq!(verdict(&blank.concat()), broken(3, Damage::Torn));

        let torn = &lines.concat()[..lines.concat().len() - 30];
        assert_eq!(verdict(torn), broken(5, Damage::Torn));
    }

    #[test]
    fn an_edited_line_with_a_new_hash_breaks_the_next() {
        let mut lines = chain_of(4);
        let mut forged = String::new();
        let mut chain = Chain::start();
        chain.seal(&mut forged, WallTime(0), "request", &Members::default());
        lines[0] = forged;
        assert_eq!(verdict(&lines.concat()), broken(2, Damage::Order));
    }

    #[test]
    fn a_torn_line_that_is_accounted_for_holds() {
        let mut chain = Chain::start();
        let mut text = String::new();
        chain.seal(&mut text, WallTime(0), "request", &Members::default());
        for piece in ["{\"time\":\"19", "\nx"] {
            let start = text.len();
            text.push_str(piece);
            let mut sum = TornSum::new();
            piece.split('\n').for_each(|p| sum.add(p.as_bytes()));
            let torn = sum.finish();
            assert_eq!(torn.bytes, (text.len() - start) as u64);
            text.push('\n');
            chain.seal(&mut text, WallTime(0), "audit.torn", &torn.members());
        }
        assert_eq!(verdict(&text).unwrap().torn, 2);
        // Changing what was left behind is found as well.
        let changed = text.replace("\n{\"time\":\"19\n", "\n{\"time\":\"20\n");
        assert_ne!(changed, text);
        assert_eq!(verdict(&changed), broken(2, Damage::Torn));
        let removed = text.replace("\n{\"time\":\"19\n", "\n");
        assert_eq!(verdict(&removed), broken(2, Damage::Order));
    }

    #[test]
    fn rubbish_is_bounded() {
        assert_eq!(verdict("hello\n"), broken(1, Damage::Torn));
        let endless = std::io::BufReader::new(std::io::repeat(b'a'));
        assert_eq!(verify(endless), broken(1, Damage::TooLong));
        assert_eq!(
            Broken {
                line: 7,
                what: Damage::Edited
            }
            .to_string(),
            "line 7: the line was changed after it was written"
        );
    }
}
