//! Placeholders: what an agent holds instead of a credential.
//!
//! Derived from the instance key for one agent and one service, so they are stable over restarts and token rotations
//! and worthless anywhere else. They carry no secret; they are refused as credentials anywhere but at our door.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::vocab::{AgentName, Secret, ServiceName};

/// Fewest random characters in a placeholder: 22 of 62 carry 130 bits.
const RANDOM_MIN: usize = 22;
/// Most random characters in a placeholder.
const RANDOM_MAX: usize = 512;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// The key of this installation from which placeholders are derived.
#[derive(Clone)]
pub struct InstanceKey(Arc<hmac::Key>);

impl InstanceKey {
    /// Takes the 32 bytes of `instance.key`, or of a key that lives in memory only.
    #[must_use]
    pub fn new(bytes: &Secret<Vec<u8>>) -> Self {
        Self(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, bytes.expose())))
    }
}

/// How a service's placeholder looks, so that SDKs which check the form of a key accept it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape(Form);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Form {
    Jwt,
    Random {
        prefix: String,
        length: usize,
        suffix: String,
    },
}

/// Why a shape was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a shape is {{jwt}}, or text with {{random:N}} once, N from 22 to 512, in printable ASCII without spaces"
)]
pub struct ShapeError;

impl Shape {
    /// Reads `sk-{random:32}` or `{jwt}`.
    ///
    /// # Errors
    /// [`ShapeError`] where it is neither, or too short to be unguessable.
    pub fn parse(text: &str) -> Result<Self, ShapeError> {
        if text == "{jwt}" {
            return Ok(Self(Form::Jwt));
        }
        let (prefix, rest) = text.split_once("{random:").ok_or(ShapeError)?;
        let (length, suffix) = rest.split_once('}').ok_or(ShapeError)?;
        let length: usize = length.parse().map_err(|_| ShapeError)?;
        let plain = |s: &str| {
            s.len() <= 64
                && s.bytes()
                    .all(|b| matches!(b, 0x21..=0x7e) && !matches!(b, b'{' | b'}'))
        };
        if (RANDOM_MIN..=RANDOM_MAX).contains(&length) && plain(prefix) && plain(suffix) {
            Ok(Self(Form::Random {
                prefix: prefix.into(),
                length,
                suffix: suffix.into(),
            }))
        } else {
            Err(ShapeError)
        }
    }
}

impl Default for Shape {
    fn default() -> Self {
        Self(Form::Random {
            prefix: "tw-".into(),
            length: 32,
            suffix: String::new(),
        })
    }
}

/// Whether a request must show its placeholder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PlaceholderMode {
    /// The credential is attached whether or not the placeholder is there.
    #[default]
    Optional,
    /// No placeholder: 403 `placeholder-required`.
    Required,
}

/// A service's placeholder as configured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlaceholderSettings {
    /// The environment variable that `env` sets for the agent; `None` prints none.
    pub variable: Option<String>,
    /// How it looks.
    pub shape: Shape,
    /// Whether it must be there.
    pub mode: PlaceholderMode,
}

/// Derives the placeholder of one agent for one service.
#[must_use]
pub fn derive(
    key: &InstanceKey,
    agent: &AgentName,
    service: &ServiceName,
    shape: &Shape,
) -> String {
    let label = format!("tokenward placeholder 1\0{agent}\0{service}\0{shape:?}");
    match &shape.0 {
        Form::Jwt => {
            let head = URL_SAFE_NO_PAD.encode(br#"{"alg":"ES256","typ":"JWT"}"#);
            let body = URL_SAFE_NO_PAD
                .encode(br#"{"iss":"tokenward","sub":"placeholder","exp":4102444800}"#);
            let signature: Vec<u8> = stream(key, &label).take(64).collect();
            format!("{head}.{body}.{}", URL_SAFE_NO_PAD.encode(signature))
        }
        Form::Random {
            prefix,
            length,
            suffix,
        } => {
            // 248 is the largest multiple of 62 below 256: bytes above it would favour the first letters.
            let letters = stream(key, &label)
                .filter(|b| *b < 248)
                .map(|b| char::from(ALPHABET[usize::from(b) % 62]));
            format!(
                "{prefix}{}{suffix}",
                letters.take(*length).collect::<String>()
            )
        }
    }
}

/// An endless stream of bytes from the key and a label: HMAC in counter mode.
fn stream<'a>(key: &'a InstanceKey, label: &'a str) -> impl Iterator<Item = u8> + 'a {
    (0u32..).flat_map(move |counter| {
        let mut context = hmac::Context::with_key(&key.0);
        context.update(&counter.to_be_bytes());
        context.update(label.as_bytes());
        context.sign().as_ref().to_vec()
    })
}

/// Every placeholder of this installation, for recognising one that stands in the wrong place.
#[derive(Clone, Default)]
pub struct Placeholders {
    owners: HashMap<String, (AgentName, ServiceName)>,
    texts: HashMap<AgentName, HashMap<ServiceName, Arc<str>>>,
}

impl Placeholders {
    /// Derives the placeholders of all given pairs.
    pub fn new<'a>(
        key: &InstanceKey,
        pairs: impl IntoIterator<Item = (&'a AgentName, &'a ServiceName, &'a Shape)>,
    ) -> Self {
        let mut all = Self::default();
        for (agent, service, shape) in pairs {
            let text = derive(key, agent, service, shape);
            let of_agent = all.texts.entry(agent.clone()).or_default();
            of_agent.insert(service.clone(), text.as_str().into());
            all.owners.insert(text, (agent.clone(), service.clone()));
        }
        all
    }

    /// Whose placeholder this text is.
    #[must_use]
    pub fn owner(&self, text: &str) -> Option<(&AgentName, &ServiceName)> {
        let owner = self.owners.get(text);
        owner.map(|(agent, service)| (agent, service))
    }

    /// What an agent holds for a service.
    #[must_use]
    pub fn text(&self, agent: &AgentName, service: &ServiceName) -> Option<&Arc<str>> {
        self.texts.get(agent)?.get(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> InstanceKey {
        InstanceKey::new(&Secret::new(vec![byte; 32]))
    }

    #[test]
    fn a_placeholder_is_stable_and_belongs_to_one_pair() {
        let (a, b) = (AgentName::new("a").unwrap(), AgentName::new("b").unwrap());
        let s = ServiceName::new("s").unwrap();
        let shape = Shape::parse("sk-test-{random:32}").unwrap();
        let one = derive(&key(1), &a, &s, &shape);
        assert_eq!(one, derive(&key(1), &a, &s, &shape));
        assert!(one.starts_with("sk-test-") && one.len() == 40, "{one}");
        assert_ne!(one, derive(&key(1), &b, &s, &shape));
        assert_ne!(one, derive(&key(2), &a, &s, &shape));
        let all = Placeholders::new(&key(1), [(&a, &s, &shape), (&b, &s, &shape)]);
        assert_eq!(all.owner(&one), Some((&a, &s)));
        assert_eq!(all.owner("sk-test-other"), None);
        assert_eq!(all.text(&a, &s).map(AsRef::as_ref), Some(one.as_str()));
    }

    #[test]
    fn a_jwt_looks_like_one() {
        let text = derive(
            &key(1),
            &AgentName::fallback(),
            &ServiceName::new("s").unwrap(),
            &Shape(Form::Jwt),
        );
        let parts: Vec<_> = text.split('.').collect();
        assert_eq!(parts.len(), 3);
        assert!(
            URL_SAFE_NO_PAD
                .decode(parts[1])
                .unwrap()
                .starts_with(b"{\"iss\"")
        );
        assert_eq!(URL_SAFE_NO_PAD.decode(parts[2]).unwrap().len(), 64);
    }

    #[test]
    fn weak_or_odd_shapes_are_refused() {
        for bad in [
            "",
            "abc",
            "{random:21}",
            "{random:x}",
            "{random:9999}",
            "a b{random:32}",
            "{random:32}{random:32}",
            "{jwt}x",
        ] {
            assert_eq!(Shape::parse(bad), Err(ShapeError), "{bad}");
        }
    }
}
