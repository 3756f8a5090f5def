//! The cookies of one agent at one service. Pure: places and times are arguments.

use http::HeaderValue;
use zeroize::Zeroizing;

use super::given::{Cookie, Place};

/// Most cookies in a jar.
pub(super) const COOKIES_MAX: usize = 50;
/// Most bytes in a jar: names, values, paths and domains. All of it may go out with one request, and many servers take no
/// longer field.
pub(super) const BYTES_MAX: usize = 8 * 1024;

/// Cookies, in the order in which they were first given.
#[derive(Default)]
pub(super) struct Jar {
    all: Vec<Held>,
    uses: u64,
}

struct Held {
    cookie: Cookie,
    /// The number of the use that sent or set it last.
    used: u64,
}

impl Held {
    fn bytes(&self) -> usize {
        self.cookie.pair.expose().len() + self.cookie.bytes()
    }
}

impl Jar {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Takes a cookie in, in place of the same one before it. One that is over already takes that one away (RFC 6265
    /// §5.3, 11). Where there is no room, what is over goes first, then what was used longest ago.
    pub(super) fn put(&mut self, cookie: Cookie, now: i64) {
        self.uses += 1;
        let known = self
            .all
            .iter()
            .position(|held| held.cookie.is_same_as(&cookie));
        let over = cookie.is_over(now);
        let held = Held {
            cookie,
            used: self.uses,
        };
        match known.and_then(|at| self.all.get_mut(at)) {
            Some(before) if !over => *before = held,
            None if !over => self.all.push(held),
            _ => {}
        }
        if let (true, Some(at)) = (over, known) {
            self.all.remove(at);
        }
        self.all.retain(|held| !held.cookie.is_over(now));
        while self.all.len() > COOKIES_MAX || self.bytes() > BYTES_MAX {
            let oldest = self
                .all
                .iter()
                .enumerate()
                .min_by_key(|(_, held)| held.used);
            let Some((oldest, _)) = oldest else { break };
            self.all.remove(oldest);
        }
    }

    fn bytes(&self) -> usize {
        self.all.iter().map(Held::bytes).sum()
    }

    /// The `Cookie` field of a request, marked sensitive: longer paths first, then the older ones (RFC 6265 §5.4, 2).
    pub(super) fn field(&mut self, place: Place<'_>) -> Option<HeaderValue> {
        self.uses += 1;
        let uses = self.uses;
        self.all.retain(|held| !held.cookie.is_over(place.now));
        let mut going: Vec<&mut Held> = self
            .all
            .iter_mut()
            .filter(|held| held.cookie.goes_to(place))
            .collect();
        going.sort_by_key(|held| std::cmp::Reverse(held.cookie.path.len()));
        let pair = |held: &&mut Held| held.cookie.pair.expose().len() + 2;
        let room = going.iter().map(pair).sum();
        let mut text = Zeroizing::new(Vec::with_capacity(room));
        for held in going {
            if !text.is_empty() {
                text.extend_from_slice(b"; ");
            }
            text.extend_from_slice(held.cookie.pair.expose());
            held.used = uses;
        }
        super::field(text)
    }
}
