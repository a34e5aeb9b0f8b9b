//! JSON as a verifier must read it: one meaning or none.
//!
//! serde_json keeps the last of two members with one name, other parsers the first; a token whose parties disagree on
//! `sub` is an attack. So duplicate members are refused, wherever they stand (RFC 7515 section 4, RFC 7519 section 4
//! allow this and RFC 8725 section 2.4 says why). Nesting is bounded, and nothing may follow the value.
//!
//! [`scan`] keeps these rules, for all that is read. What comes with every token is taken from it member by member; here
//! the object is built as a tree: for key sets, answers and records.
//!
//! Error texts hold positions and never content, so that they may be logged.

use serde_json::{Map, Value};

use crate::scan::{self, Item};

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

/// The text that `bytes` are.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, BadJson> {
    std::str::from_utf8(bytes).map_err(|error| BadJson::at("not UTF-8", error.valid_up_to()))
}

/// Reads an object, whole.
pub(crate) fn object(bytes: &[u8]) -> Result<Map<String, Value>, BadJson> {
    let mut object = Map::new();
    scan::members(text(bytes)?, |name, item| {
        let value = match item {
            Item::Text(text) => Value::from(text.content),
            // It was found to have one meaning, so a lenient reader finds that one.
            Item::Other { json, .. } => serde_json::from_str(json).map_err(|_| "a value that cannot be read")?,
        };
        object.insert(name.content.clone().into_owned(), value);
        Ok(())
    })?;
    Ok(object)
}
