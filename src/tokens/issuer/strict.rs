//! JSON objects in which no name occurs twice, at any depth.
//!
//! Two readers of `{"token_type":"DPoP","token_type":"Bearer"}` may see two answers; such a text is no answer at all
//! (RFC 8259 §4 leaves it open, RFC 6749 §5.1 does not allow repeated parameters).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::vocab::Secret;

/// The members of one object.
pub(super) struct Members(Map<String, Value>);

/// Why a text was not read. Carries none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a JSON object with unique names")]
pub(super) struct NotAnObject;

impl Members {
    /// Reads a whole text as one object.
    pub(super) fn read(text: &[u8]) -> Result<Self, NotAnObject> {
        let mut reader = serde_json::Deserializer::from_slice(text);
        let value = Unique.deserialize(&mut reader).map_err(|_| NotAnObject)?;
        reader.end().map_err(|_| NotAnObject)?;
        match value {
            Value::Object(members) => Ok(Self(members)),
            _ => Err(NotAnObject),
        }
    }

    /// A member that is text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// A member, whatever it is; `null` counts as absent.
    pub(super) fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A member that is a list of texts. `Err` where it is something else.
    pub(super) fn list(&self, name: &str) -> Result<Option<Vec<String>>, NotAnObject> {
        let Some(value) = self.value(name) else {
            return Ok(None);
        };
        let items = value.as_array().ok_or(NotAnObject)?;
        items
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or(NotAnObject))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// A member of a member that is text.
    pub(super) fn inner_text(&self, outer: &str, name: &str) -> Option<&str> {
        self.0.get(outer)?.get(name)?.as_str()
    }

    /// Takes a text member out without copying its bytes.
    pub(super) fn take_secret(&mut self, name: &str) -> Option<Secret<String>> {
        match self.0.remove(name)? {
            Value::String(text) => Some(Secret::new(text)),
            _ => None,
        }
    }
}

/// Builds a [`Value`], refusing repeated names. serde_json bounds the depth.
struct Unique;

impl<'de> DeserializeSeed<'de> for Unique {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Unique {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON with unique names")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(Self)?;
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("a name occurs twice"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_names_are_refused_at_any_depth() {
        let good = Members::read(br#" {"a":"x","b":[1,true,null,{"a":1.5}],"l":["p","q"]} "#);
        let mut good = good.unwrap();
        assert_eq!(good.text("a"), Some("x"));
        assert_eq!(good.list("l").unwrap().unwrap(), ["p", "q"]);
        assert!(good.list("b").is_err());
        assert_eq!(good.list("absent").unwrap(), None);
        assert_eq!(good.take_secret("a").unwrap().expose(), "x");
        for bad in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"x":{"a":1,"a":2}}"#,
            r#"{"x":[{"a":1,"a":2}]}"#,
            r#"{"a":1} {"b":2}"#,
            r#"{"a":1"#,
            r#"["a"]"#,
            r#""a""#,
            "<html>",
            "",
        ] {
            assert!(Members::read(bad.as_bytes()).is_err(), "{bad}");
        }
        let deep = "[".repeat(5000);
        assert!(Members::read(format!("{{\"a\":{deep}").as_bytes()).is_err());
    }
}
