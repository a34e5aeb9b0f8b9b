//! The claims of a token as its issuer wrote them: one text, and the place of each claim in it.
//!
//! A request asks for a claim or two, if for any, so a tree of all of them is never built: making and freeing it costs
//! more than everything else about a token but its signature. A claim is read when it is asked for, from a text that was
//! found well-formed once.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Part of the text of [`Claims`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The `length` bytes from `start` on. What is beyond 4 GiB cannot be named, and is then found nowhere.
    pub fn new(start: usize, length: usize) -> Self {
        let short = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        Self { start: short(start), end: short(start.saturating_add(length)) }
    }

    fn length(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    fn of(self, text: &str) -> Option<&str> {
        text.get(self.start as usize..self.end as usize)
    }
}

/// Where a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its name, without quotes and escapes.
    pub name: Span,
    /// Its value.
    pub value: Span,
    /// Whether the value is the content of a string, without quotes and escapes; otherwise it is JSON.
    pub is_text: bool,
}

/// A claim's value before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raw<'c> {
    /// A string's content.
    Text(&'c str),
    /// Any other value, as JSON.
    Json(&'c str),
}

impl Raw<'_> {
    /// The value, read. `None` would be a text that is not JSON after all.
    pub fn read(self) -> Option<Value> {
        match self {
            Self::Text(text) => Some(Value::from(text)),
            Self::Json(json) => serde_json::from_str(json).ok(),
        }
    }
}

/// The claims of a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Claims {
    text: Box<str>,
    places: Box<[Place]>,
}

impl Claims {
    /// Claims that are at `places` of `text`, which the caller has found to be well-formed.
    pub fn new(text: impl Into<Box<str>>, places: impl Into<Box<[Place]>>) -> Self {
        Self { text: text.into(), places: places.into() }
    }

    /// The claim of exactly this name, not read yet.
    pub fn raw(&self, name: &str) -> Option<Raw<'_>> {
        // Most names differ in length already.
        let is_it = |place: &&Place| place.name.length() == name.len() && place.name.of(&self.text) == Some(name);
        let place = self.places.iter().find(is_it)?;
        self.raw_at(place)
    }

    /// The claim `name`, or a nested one by a dotted path (`realm.tenant`); a claim whose name holds the dots wins.
    pub fn get(&self, name: &str) -> Option<Value> {
        match self.raw(name) {
            Some(raw) => raw.read(),
            None => self.nested(name),
        }
    }

    /// The one at the dotted `path`, which is no claim's own name.
    pub(crate) fn nested(&self, path: &str) -> Option<Value> {
        let (first, path) = path.split_once('.')?;
        let Raw::Json(json) = self.raw(first)? else { return None };
        let mut found = None;
        let seek = Seek { path: Some(path), found: &mut found };
        // It stops by an error where it has found it, so what comes back says nothing.
        let _ = seek.deserialize(&mut serde_json::Deserializer::from_str(json));
        found
    }

    /// Names and values, in the token's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Raw<'_>)> {
        self.places.iter().filter_map(|place| Some((place.name.of(&self.text)?, self.raw_at(place)?)))
    }

    /// The memory held, in bytes, beside the value itself.
    pub fn size(&self) -> usize {
        self.text.len() + size_of_val(&*self.places)
    }

    fn raw_at(&self, place: &Place) -> Option<Raw<'_>> {
        let value = place.value.of(&self.text)?;
        Some(if place.is_text { Raw::Text(value) } else { Raw::Json(value) })
    }
}

impl From<Map<String, Value>> for Claims {
    /// Claims that no token brought: for tests and for tools.
    fn from(map: Map<String, Value>) -> Self {
        let mut text = String::new();
        let mut add = |part: &str| {
            let span = Span::new(text.len(), part.len());
            text.push_str(part);
            span
        };
        let places: Vec<_> = map
            .iter()
            .map(|(name, value)| Place {
                name: add(name),
                value: match value {
                    Value::String(content) => add(content),
                    other => add(&other.to_string()),
                },
                is_text: value.is_string(),
            })
            .collect();
        Self::new(text, places)
    }
}

impl fmt::Debug for Claims {
    /// How many, and no more: they are somebody's personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} claims", self.places.len())
    }
}

/// Walks down a dotted path, keeping nothing of what is not on it.
struct Seek<'f, 'p> {
    /// What is left of the path; `None` at its end.
    path: Option<&'p str>,
    found: &'f mut Option<Value>,
}

impl<'de> DeserializeSeed<'de> for Seek<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.path.is_some() {
            return deserializer.deserialize_map(self);
        }
        *self.found = Some(serde::Deserialize::deserialize(deserializer)?);
        Err(D::Error::custom("found"))
    }
}

impl<'de> Visitor<'de> for Seek<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let path = self.path.unwrap_or_default();
        let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
        while let Some(is_it) = members.next_key_seed(Is(name))? {
            if is_it {
                return members.next_value_seed(Seek { path: rest, found: self.found });
            }
            members.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// Whether a member's name is this one.
struct Is<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn claims(value: Value) -> Claims {
        value.as_object().unwrap().clone().into()
    }

    #[test]
    fn what_was_put_in_is_read_out() {
        let value = json!({"a": "te\"xt", "b": 1.5, "c": [1, {"d": null}], "e": {}, "f": null, "": "", "g.h": true});
        let claims = claims(value.clone());
        let read: Map<_, _> = claims.iter().map(|(name, raw)| (name.to_owned(), raw.read().unwrap())).collect();
        assert_eq!(Value::Object(read), value);
        assert_eq!(claims.raw("a"), Some(Raw::Text("te\"xt")));
        assert_eq!(claims.raw("f"), Some(Raw::Json("null")));
        assert_eq!(claims.raw("text"), None);
    }

    #[test]
    fn a_nested_claim_is_found_by_its_path_and_only_there() {
        let claims = claims(json!({
            "a": {"x": {"y": [1]}, "b": {"c": "deep", "": 7}, "z": 1}, "a.b": {"c": "dotted"}, "t": "text", "l": [{"b": 1}],
        }));
        assert_eq!(claims.get("a.b"), Some(json!({"c": "dotted"})), "a claim whose name holds the dots wins");
        assert_eq!(claims.get("a.b.c"), Some(json!("deep")));
        assert_eq!(claims.get("a.b."), Some(json!(7)));
        assert_eq!(claims.get("a.x"), Some(json!({"y": [1]})));
        assert_eq!(claims.get("a.z"), Some(json!(1)));
        for absent in ["", ".", "a.", "a.c", "a.b.c.d", "a.z.x", "t.x", "l.b", "l.0", "x", "b.c"] {
            assert_eq!(claims.get(absent), None, "{absent:?}");
        }
    }

    #[test]
    fn a_place_outside_the_text_is_no_claim() {
        let name = Span::new(0, 1);
        for value in [Span::new(1, 9), Span::new(usize::MAX, 1), Span::new(2, 1)] {
            let claims = Claims::new("né", [Place { name, value, is_text: true }]);
            assert_eq!((claims.get("n"), claims.iter().count()), (None, 0), "{value:?}");
        }
    }

    #[test]
    fn claims_print_as_their_number() {
        assert_eq!(format!("{:?}", claims(json!({"secret": "secret"}))), "1 claims");
    }
}
