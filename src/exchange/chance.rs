//! Random identifiers, drawn from a stock: asking the generator costs the same for sixteen bytes and for a thousand.

use std::cell::RefCell;

use zeroize::Zeroize;

/// Bytes of one draw.
const STOCK: usize = 1024;
/// Bytes of one identifier.
const PIECE: usize = 16;

thread_local! {
    /// One for each thread, so nobody waits. This process starts programs and never forks itself in two, so no stock has a
    /// twin that would hand out the same.
    static HERE: RefCell<Stock> = const { RefCell::new(Stock { bytes: [0; STOCK], left: 0 }) };
}

struct Stock {
    bytes: [u8; STOCK],
    left: usize,
}

impl Stock {
    /// Sixteen bytes that nobody else has had or will have.
    fn take(&mut self) -> [u8; PIECE] {
        if self.left < PIECE {
            if aws_lc_rs::rand::fill(&mut self.bytes).is_err() {
                tracing::error!("the system has no randomness");
                return [0; PIECE];
            }
            self.left = STOCK;
        }
        let mut piece = [0; PIECE];
        let place = &mut self.bytes[self.left - PIECE..self.left];
        piece.copy_from_slice(place);
        place.zeroize();
        self.left -= PIECE;
        piece
    }
}

/// Sixteen random bytes for an identifier. A machine without randomness cannot sign proofs either, and its requests
/// fail there; until then a name of zeros is a name.
pub(super) fn random() -> [u8; PIECE] {
    HERE.with_borrow_mut(Stock::take)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_are_alike_and_none_is_kept() {
        let all: HashSet<_> = (0..1000).map(|_| random()).collect();
        assert_eq!(all.len(), 1000);
        assert!(!all.contains(&[0; PIECE]));
        let kept = HERE.with_borrow(|stock| stock.bytes[stock.left..].iter().any(|b| *b != 0));
        assert!(!kept);
        let elsewhere = std::thread::spawn(random).join().unwrap();
        assert!(!all.contains(&elsewhere));
    }
}
