//! JSON as a verifier must read it: one meaning or none.
//!
//! serde_json keeps the last of two members with one name, other parsers the first; a token whose parties disagree on
//! `sub` is an attack. So duplicate members are refused, wherever they stand (RFC 7515 section 4, RFC 7519 section 4
//! allow this and RFC 8725 section 2.4 says why). Nesting is bounded, and nothing may follow the value.
//!
//! Here the object is built as a tree: for key sets, which are read now and then. What comes with every token is read by
//! [`scan`](crate::scan), to the same rules.
//!
//! Error texts hold positions and never content, so that they may be logged.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep objects and arrays may nest.
pub(crate) const MAX_DEPTH: u8 = 16;

/// Why a text is not strict JSON of the expected shape.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not strict json: {0}")]
pub(crate) struct BadJson(Box<str>);

impl BadJson {
    /// `what` is wrong at that byte; `what` quotes nothing.
    pub(crate) fn at(what: &'static str, byte: usize) -> Self {
        Self(format!("{what} at byte {byte}").into())
    }
}

impl From<serde_json::Error> for BadJson {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string().into())
    }
}

/// Reads an object, whole.
pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, BadJson> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = ValueSeed { depth: MAX_DEPTH }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    match value {
        Value::Object(map) => Ok(map),
        _ => Err(BadJson("expected an object".into())),
    }
}

/// Builds a [`Value`], counting depth down.
struct ValueSeed {
    depth: u8,
}

impl ValueSeed {
    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Self { depth }),
            None => Err(E::custom("nesting deeper than 16")),
        }
    }
}

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        // The depth is counted at the container, so that an empty one past the bound is refused too.
        let depth = self.deeper::<A::Error>()?.depth;
        while let Some(element) = elements.next_element_seed(ValueSeed { depth })? {
            array.push(element);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        // Most tokens have about this many claims; growing on the way would move them all.
        let mut map = if self.depth == MAX_DEPTH { Map::with_capacity(12) } else { Map::new() };
        let depth = self.deeper::<A::Error>()?.depth;
        while let Some(name) = members.next_key::<String>()? {
            let value = members.next_value_seed(ValueSeed { depth })?;
            if map.insert(name, value).is_some() {
                return Err(A::Error::custom("duplicate member"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn duplicates_are_refused_wherever_they_stand() {
        for bad in [r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"b":2}}"#, r#"{"a":[{"b":1,"\u0062":2}]}"#] {
            assert!(object(bad.as_bytes()).unwrap_err().to_string().contains("duplicate member"), "{bad}");
        }
        assert!(object(br#"{"a":{"b":1},"c":{"b":1}}"#).is_ok());
    }

    #[test]
    fn nesting_ends_at_sixteen() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        assert!(object(nested(16).as_bytes()).is_ok());
        assert!(object(nested(17).as_bytes()).is_err());
        assert!(object(nested(100_000).as_bytes()).is_err());
    }

    #[test]
    fn what_is_not_one_whole_object_is_refused() {
        for bad in [
            "",
            " ",
            "{",
            "[]",
            "1",
            "\"a\"",
            "null",
            "{} {}",
            "{}x",
            "{\"a\":1,}",
            "{'a':1}",
            "{\"a\":1e999}",
            "{\"a\":01}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\u{0}\"}",
            "\u{feff}{}",
            "{\"a\":NaN}",
        ] {
            assert!(object(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(object(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn an_error_never_quotes_what_it_read() {
        for bad in ["\"secret\"", "{\"a\":secret}", "{\"secret\":1,\"secret\":2}", "[\"secret\"]"] {
            assert!(!object(bad.as_bytes()).unwrap_err().to_string().contains("secret"), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_a_lenient_parser_reads(text in r#"\{("[a-c]":([0-9]{1,3}|"[a-z\\n]{0,4}"|\[\]|\{"[ab]":1\}),?){0,4}\}"#) {
            if let Ok(map) = object(text.as_bytes()) {
                prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), Value::Object(map));
            }
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = object(&bytes);
        }
    }
}
