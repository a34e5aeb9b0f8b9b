//! What is wanted of a text or of a field: made of what was written, held against what is there.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use regex_lite::Regex;
use serde_json::Value;
use sluice_vocabulary::{Faults, Path};

use super::format::{Coded, Content, Field, FieldRule, Text, TextRule};

/// What is shown of a long value.
const SHOWN: usize = 300;

/// What a text, or bytes, are to be.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    Absent,
    Exactly(Vec<u8>),
    Json(Value),
    Matching(Regex),
}

/// What a header field is to be.
#[derive(Debug, Clone)]
pub(super) enum WantedField {
    Absent,
    Exactly(Vec<String>),
    Matching(Regex),
}

/// How something is not as it was wanted, in words.
#[derive(Debug)]
pub(super) struct Unmet {
    pub(super) expected: String,
    pub(super) got: String,
}

impl Wanted {
    pub(super) fn of(text: &Text, at: &Path, faults: &mut Faults) -> Option<Self> {
        let TextRule { absent, matches, json, base64 } = match text {
            Text::Exact(text) => return Some(Self::Exactly(text.clone().into_bytes())),
            Text::Rule(rule) => rule,
        };
        match (absent, matches, json, base64) {
            (true, None, None, None) => Some(Self::Absent),
            (false, Some(pattern), None, None) => regex(pattern, &at.key("matches"), faults).map(Self::Matching),
            (false, None, Some(value), None) => Some(Self::Json(value.clone())),
            (false, None, None, Some(text)) => decoded(text, &at.key("base64"), faults).map(Self::Exactly),
            _ => {
                faults.error(at, "expected one of absent: true, matches, json and base64");
                None
            }
        }
    }

    /// Whether `got` is what is wanted.
    pub(super) fn is_met_by(&self, got: Option<&[u8]>) -> bool {
        match (self, got) {
            (Self::Absent, got) => got.is_none(),
            (_, None) => false,
            (Self::Exactly(expected), Some(got)) => expected == got,
            (Self::Json(expected), Some(got)) => {
                serde_json::from_slice::<Value>(got).is_ok_and(|value| value == *expected)
            }
            (Self::Matching(regex), Some(got)) => regex.is_match(&String::from_utf8_lossy(got)),
        }
    }

    /// How `got` differs, where it does.
    pub(super) fn unmet(&self, got: Option<&[u8]>) -> Option<Unmet> {
        (!self.is_met_by(got)).then(|| Unmet { expected: self.shown(), got: shown_or_none(got) })
    }

    /// In words.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Absent => "(nothing)".to_owned(),
            Self::Exactly(bytes) => shown(bytes),
            Self::Json(value) => format!("JSON {}", shown_text(&value.to_string())),
            Self::Matching(regex) => format!("something that matches {}", regex.as_str()),
        }
    }
}

impl WantedField {
    pub(super) fn of(field: &Field, at: &Path, faults: &mut Faults) -> Option<Self> {
        match field {
            Field::One(value) => Some(Self::Exactly(vec![value.clone()])),
            Field::Many(values) if values.is_empty() => Some(Self::Absent),
            Field::Many(values) => Some(Self::Exactly(values.clone())),
            Field::Rule(FieldRule { absent: true, matches: None }) => Some(Self::Absent),
            Field::Rule(FieldRule { absent: false, matches: Some(pattern) }) => {
                regex(pattern, &at.key("matches"), faults).map(Self::Matching)
            }
            Field::Rule(_) => {
                faults.error(at, "expected one of absent: true and matches");
                None
            }
        }
    }

    /// How the field is not what is wanted, where it is not.
    pub(super) fn unmet(&self, name: &HeaderName, headers: &HeaderMap) -> Option<Unmet> {
        let values: Vec<String> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        let is_met = match self {
            Self::Absent => values.is_empty(),
            Self::Exactly(expected) => *expected == values,
            Self::Matching(regex) => !values.is_empty() && regex.is_match(&values.join(", ")),
        };
        let listed = |values: &[String]| match values {
            [] => "(nothing)".to_owned(),
            values => values.iter().map(|value| shown_text(value)).collect::<Vec<_>>().join(", "),
        };
        let expected = || match self {
            Self::Absent => "(nothing)".to_owned(),
            Self::Exactly(expected) => listed(expected),
            Self::Matching(regex) => format!("something that matches {}", regex.as_str()),
        };
        (!is_met).then(|| Unmet { expected: expected(), got: listed(&values) })
    }
}

/// The bytes that were written.
pub(super) fn bytes(content: &Content, at: &Path, faults: &mut Faults) -> Option<Vec<u8>> {
    match content {
        Content::Text(text) => Some(text.clone().into_bytes()),
        Content::Coded(Coded { json: Some(value), base64: None }) => Some(value.to_string().into_bytes()),
        Content::Coded(Coded { json: None, base64: Some(text) }) => decoded(text, &at.key("base64"), faults),
        Content::Coded(_) => {
            faults.error(at, "expected a text, or one of json and base64");
            None
        }
    }
}

/// A field's name.
pub(super) fn field_name(name: &str, at: &Path, faults: &mut Faults) -> Option<HeaderName> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
    if parsed.is_none() {
        faults.error(at, format!("{name:?} is not a field name"));
    }
    parsed
}

/// A field's value.
pub(super) fn field_value(value: &str, at: &Path, faults: &mut Faults) -> Option<HeaderValue> {
    let parsed = HeaderValue::from_bytes(value.as_bytes()).ok();
    if parsed.is_none() {
        faults.error(at, "this is not a field value: it has control characters");
    }
    parsed
}

fn regex(pattern: &str, at: &Path, faults: &mut Faults) -> Option<Regex> {
    Regex::new(pattern).map_err(|error| faults.error(at, format!("not a regular expression: {error}"))).ok()
}

fn decoded(text: &str, at: &Path, faults: &mut Faults) -> Option<Vec<u8>> {
    STANDARD.decode(text).map_err(|error| faults.error(at, format!("not base64: {error}"))).ok()
}

/// Bytes as a report shows them.
pub(super) fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => shown_text(text),
        Err(_) => format!("{} bytes, base64 {}", bytes.len(), cut(&STANDARD.encode(bytes))),
    }
}

/// The same for what may be missing.
pub(super) fn shown_or_none(bytes: Option<&[u8]>) -> String {
    bytes.map_or_else(|| "(nothing)".to_owned(), shown)
}

/// A text in quotes, with nothing in it that could move a terminal's cursor.
pub(super) fn shown_text(text: &str) -> String {
    cut(&format!("{text:?}"))
}

fn cut(text: &str) -> String {
    if text.len() <= SHOWN {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(SHOWN);
    format!("{}… ({} bytes in all)", &text[..end], text.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn wanted(text: Value) -> Wanted {
        let mut faults = Faults::new();
        Wanted::of(&serde_json::from_value(text).unwrap(), &Path::root(), &mut faults).unwrap()
    }

    #[test]
    fn a_text_is_held_against_a_value_a_pattern_or_its_absence() {
        for (text, got, is_met) in [
            (serde_json::json!("a"), Some("a"), true),
            (serde_json::json!("a"), Some("ab"), false),
            (serde_json::json!("a"), None, false),
            (serde_json::json!({ "matches": "^a+$" }), Some("aa"), true),
            (serde_json::json!({ "matches": "^a+$" }), Some("ab"), false),
            (serde_json::json!({ "json": { "b": 1, "a": [true] } }), Some("{ \"a\": [true], \"b\": 1 }"), true),
            (serde_json::json!({ "json": { "b": 1 } }), Some("b"), false),
            (serde_json::json!({ "base64": "YQ==" }), Some("a"), true),
            (serde_json::json!({ "absent": true }), None, true),
            (serde_json::json!({ "absent": true }), Some(""), false),
        ] {
            assert_eq!(wanted(text.clone()).is_met_by(got.map(str::as_bytes)), is_met, "{text} {got:?}");
        }
    }

    #[test]
    fn a_rule_says_one_thing() {
        for rule in [serde_json::json!({}), serde_json::json!({ "absent": true, "matches": "a" })] {
            let mut faults = Faults::new();
            let text = serde_json::from_value(rule).unwrap();
            assert!(Wanted::of(&text, &Path::root(), &mut faults).is_none() && faults.has_errors());
        }
    }

    #[test]
    fn what_is_shown_is_one_line_and_not_too_long() {
        assert_eq!(shown(b"a\n\x1b[2J"), "\"a\\n\\u{1b}[2J\"");
        assert_eq!(shown(&[0xff]), "1 bytes, base64 /w==");
        assert!(shown("ä".repeat(1000).as_bytes()).len() < 400);
    }
}
