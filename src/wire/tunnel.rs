//! The answer to a CONNECT of ours, as a parent proxy writes it (RFC 9110 §9.3.6).

use super::INTERIM_MAX;
use super::response::status;

/// Most bytes in front of a tunnel.
const HEAD_MAX: usize = 16 * 1024;

/// What a parent proxy has said so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TunnelAnswer {
    /// It is not done.
    More,
    /// Its answer, and how many bytes it took; what follows a 2xx is the destination's, whatever the head says about a
    /// body.
    Is {
        /// Its status.
        status: u16,
        /// Bytes of the head, and of interim answers in front of it.
        length: usize,
    },
    /// It is no answer, or too long for one.
    Broken,
}

/// Reads what has come so far.
#[must_use]
pub fn tunnel_answer(bytes: &[u8]) -> TunnelAnswer {
    let mut at = 0;
    for _ in 0..=INTERIM_MAX {
        let rest = &bytes[at..];
        let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") else {
            let begins = rest
                .iter()
                .zip(b"HTTP/1.")
                .all(|(came, wanted)| came == wanted);
            return if begins && bytes.len() < HEAD_MAX {
                TunnelAnswer::More
            } else {
                TunnelAnswer::Broken
            };
        };
        let line = rest.split(|b| *b == b'\r').next().unwrap_or_default();
        let Some(status) = status(line).filter(|_| !line.contains(&b'\n')) else {
            return TunnelAnswer::Broken;
        };
        at += end + 4;
        match status {
            // Nobody asked to switch.
            101 => return TunnelAnswer::Broken,
            100..=199 => {}
            _ => return TunnelAnswer::Is { status, length: at },
        }
    }
    TunnelAnswer::Broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(status: u16, head: &str) -> TunnelAnswer {
        TunnelAnswer::Is {
            status,
            length: head.len(),
        }
    }

    #[test]
    fn an_answer_ends_where_its_head_does() {
        for (status, head) in [
            (200, "HTTP/1.1 200 Connection established\r\n\r\n"),
            (200, "HTTP/1.0 200\r\n\r\n"),
            (204, "HTTP/1.1 204 \r\ncontent-length: 5\r\nx: y\r\n\r\n"),
            (407, "HTTP/1.1 407 No\r\nproxy-authenticate: Basic\r\n\r\n"),
            (200, "HTTP/1.1 102 Wait\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
        ] {
            for ahead in ["", "SSH-2.0-x\r\n\r\n"] {
                let whole = format!("{head}{ahead}");
                assert_eq!(
                    tunnel_answer(whole.as_bytes()),
                    is(status, head),
                    "{whole:?}"
                );
            }
            for cut in 0..head.len() {
                let part = &head.as_bytes()[..cut];
                assert_eq!(tunnel_answer(part), TunnelAnswer::More, "{head:?} {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_not_waited_for() {
        for text in [
            "SSH-2.0-OpenSSH",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 20\r\n\r\n",
            "HTTP/1.1 101 Switch\r\n\r\n",
            "HTTP/1.1 200 OK\n\n\r\n\r\n",
            &format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_MAX)),
            &"HTTP/1.1 100 Go on\r\n\r\n".repeat(20),
        ] {
            assert_eq!(
                tunnel_answer(text.as_bytes()),
                TunnelAnswer::Broken,
                "{text:.40?}"
            );
        }
    }
}
