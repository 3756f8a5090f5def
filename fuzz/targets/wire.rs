//! The observers say the same of the same bytes, in whatever pieces they come, and what they call clean is clean.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tokenward::wire::{Asked, Came, Fault, Frames, Requests, Responses, Stop, Verdict};

const HEAD_MAX: usize = 4096;
const PIECES: [usize; 4] = [1, 2, 7, 100];

fuzz_target!(|data: &[u8]| {
    let whole = requests(data, data.len().max(1));
    for piece in PIECES {
        assert_eq!(
            requests(data, piece),
            whole,
            "requests in pieces of {piece}"
        );
        assert_eq!(
            frames(data, piece),
            frames(data, data.len().max(1)),
            "frames in pieces of {piece}"
        );
        for asked in [false, true].map(|yes| Asked {
            head_only: yes,
            switch: yes,
        }) {
            let whole = responses(data, data.len().max(1), asked);
            assert_eq!(
                responses(data, piece, asked),
                whole,
                "answers in pieces of {piece}"
            );
        }
    }
    // As long as all is clean, every line end of the first head has its CR.
    if let Some(Verdict { fault, .. }) = whole.1.first() {
        let end = head_end(data);
        let bare = data[..end]
            .split_inclusive(|b| *b == b'\n')
            .any(|line| !line.ends_with(b"\r\n"));
        assert!(!bare || fault.is_some(), "a bare line feed is seen");
    }
});

/// Behind the first empty line after a line that is not empty.
fn head_end(data: &[u8]) -> usize {
    let (mut at, mut begun) = (0, false);
    for line in data.split_inclusive(|b| *b == b'\n') {
        at += line.len();
        let empty = matches!(line, b"\n" | b"\r\n");
        if empty && begun {
            break;
        }
        begun |= !empty;
    }
    at
}

fn requests(data: &[u8], piece: usize) -> (Option<Stop>, Vec<Verdict>) {
    let mut observer = Requests::new(HEAD_MAX);
    let stop = data
        .chunks(piece)
        .find_map(|bytes| observer.feed(bytes).err());
    let verdicts = std::iter::from_fn(|| observer.verdict()).collect();
    (stop, verdicts)
}

/// Whether all of it belongs to the answer, and whether the answer is whole then.
fn responses(data: &[u8], piece: usize, asked: Asked) -> (bool, bool) {
    let mut observer = Responses::new(HEAD_MAX);
    assert!(observer.ask(asked) && !observer.idle());
    let fine = data
        .chunks(piece)
        .all(|bytes| observer.feed(bytes) == Came::Fine);
    (fine, fine && observer.idle())
}

fn frames(data: &[u8], piece: usize) -> bool {
    let mut observer = Frames::default();
    data.chunks(piece).all(|bytes| observer.feed(bytes))
}
