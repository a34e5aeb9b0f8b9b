//! What a gateway logs, line by line.

use serde_json::Value;

/// One line of the log.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// The line as written.
    pub text: String,
    value: Value,
}

impl LogLine {
    /// Takes a line apart; one that is not JSON keeps its text and has no fields.
    pub(crate) fn parse(text: &str) -> Self {
        Self { text: text.to_owned(), value: serde_json::from_str(text).unwrap_or(Value::Null) }
    }

    /// The message; empty if the line has none.
    #[must_use]
    pub fn message(&self) -> &str {
        self.field("message").unwrap_or_default()
    }

    /// The level, `INFO` and so on; empty if the line has none.
    #[must_use]
    pub fn level(&self) -> &str {
        self.field("level").unwrap_or_default()
    }

    /// A field's text.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.value_of(name)?.as_str()
    }

    /// A field of any type: beside the message, or under `fields` where a subscriber nests them.
    #[must_use]
    pub fn value_of(&self, name: &str) -> Option<&Value> {
        self.value.get(name).or_else(|| self.value.get("fields")?.get(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_flat_and_nested() {
        let flat = LogLine::parse(r#"{"level":"INFO","message":"listening","address":"127.0.0.1:1"}"#);
        let nested = LogLine::parse(r#"{"level":"INFO","fields":{"message":"listening","address":"127.0.0.1:1"}}"#);
        for line in [flat, nested] {
            assert_eq!((line.message(), line.field("address")), ("listening", Some("127.0.0.1:1")));
        }
    }

    #[test]
    fn a_line_that_is_not_json_is_kept() {
        let line = LogLine::parse("thread 'main' panicked");
        assert_eq!((line.text.as_str(), line.message()), ("thread 'main' panicked", ""));
    }
}
