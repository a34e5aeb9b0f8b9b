//! How values and expectations are worded, and what a misspelt word may have meant.

use serde_json::Value;

use crate::document::{Kind, Node};
use crate::schema::{Parts, keyword, listed, type_of};
use crate::secrets;

/// How many alternatives are listed before the rest is only counted.
const MOST_LISTED: usize = 12;

impl Node {
    /// The JSON type, whole numbers apart.
    pub(crate) fn json_type(&self) -> &'static str {
        match &self.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "boolean",
            Kind::Number(number) if number.is_f64() => "number",
            Kind::Number(_) => "integer",
            Kind::Text(_) => "string",
            Kind::Sequence(_) => "array",
            Kind::Mapping(_) => "object",
        }
    }

    /// What is there, as a message says it. `secret` leaves the value out.
    pub(crate) fn described(&self, secret: bool) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Bool(_) | Kind::Number(_) | Kind::Text(_) if secret => "a value that is not shown".to_owned(),
            Kind::Bool(value) => value.to_string(),
            Kind::Number(value) => format!("the number {value}"),
            Kind::Text(value) => format!("the text \"{}\"", secrets::shown(value)),
            Kind::Sequence(_) => "a list".to_owned(),
            Kind::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// What a schema asks for, as a message says it.
pub(crate) fn expectation(parts: &Parts<'_>) -> String {
    if let Some(values) = listed(parts) {
        return alternatives(values.into_iter().map(literal));
    }
    let types: Vec<&str> = match keyword(parts, "type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).filter(|name| *name != "null").collect(),
        _ if keyword(parts, "properties").is_some() => vec!["object"],
        _ => return "another value".to_owned(),
    };
    let named = types.iter().map(|name| match *name {
        "string" => match examples(parts) {
            Some(examples) => format!("a text such as {examples}"),
            None => "a text".to_owned(),
        },
        "integer" => format!("a whole number{}", range(parts)),
        "number" => format!("a number{}", range(parts)),
        "boolean" => "true or false".to_owned(),
        "array" => "a list".to_owned(),
        "null" => "nothing".to_owned(),
        _ => "a mapping".to_owned(),
    });
    or(named.collect())
}

/// What several schemas ask for, one of them.
pub(crate) fn expectations(leaves: &[Parts<'_>]) -> String {
    let mut words: Vec<String> = Vec::new();
    for leaf in leaves {
        let is_null = keyword(leaf, "type").and_then(Value::as_str) == Some("null");
        let word = expectation(leaf);
        if !is_null && !words.contains(&word) {
            words.push(word);
        }
    }
    or(words)
}

/// The schema's examples, if it has any: `250ms, 5s`.
pub(crate) fn examples(parts: &Parts<'_>) -> Option<String> {
    let examples = keyword(parts, "examples")?.as_array()?;
    let shown: Vec<String> = examples.iter().map(literal).collect();
    (!shown.is_empty()).then(|| shown.join(", "))
}

/// A number's bounds: ` from 1 to 65535`.
pub(crate) fn range(parts: &Parts<'_>) -> String {
    let bound = |names: [&str; 2]| names.into_iter().find_map(|name| keyword(parts, name)).map(tidy);
    match (bound(["minimum", "exclusiveMinimum"]), bound(["maximum", "exclusiveMaximum"])) {
        (Some(low), Some(high)) => format!(" from {low} to {high}"),
        (Some(low), None) => format!(" of at least {low}"),
        (None, Some(high)) => format!(" of at most {high}"),
        (None, None) => String::new(),
    }
}

/// A bound without the `.0` that a schema writes whole bounds with.
fn tidy(bound: &Value) -> String {
    let text = bound.to_string();
    text.strip_suffix(".0").map(ToOwned::to_owned).unwrap_or(text)
}

/// Values or names as `a, b or c`, at most [`MOST_LISTED`].
pub(crate) fn alternatives(words: impl IntoIterator<Item = String>) -> String {
    let mut words: Vec<String> = words.into_iter().collect();
    let more = words.len().saturating_sub(MOST_LISTED);
    if more > 0 {
        words.truncate(MOST_LISTED);
        return format!("{} or {more} more", words.join(", "));
    }
    or(words)
}

fn or(mut words: Vec<String>) -> String {
    match (words.pop(), words.is_empty()) {
        (None, _) => "nothing".to_owned(),
        (Some(last), true) => last,
        (Some(last), false) => format!("{} or {last}", words.join(", ")),
    }
}

/// A value of a schema as a configuration would write it.
pub(crate) fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The known word that is nearest to what was written, if it is near enough to have been meant.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |word: &str| word.to_lowercase().replace(['-', ' ', '.'], "_");
    let written = plain(&written.chars().take(64).collect::<String>());
    let near = |name: &'a str| {
        let name_plain = plain(name);
        let distance = strsim::damerau_levenshtein(&written, &name_plain);
        // One slip in three letters; a word written in full within the other counts as one slip.
        let longest = written.len().max(name_plain.len());
        let contained = written.len() >= 4 && (name_plain.starts_with(&written) || written.starts_with(&name_plain));
        let distance = if contained { distance.min(1) } else { distance };
        (distance <= longest.div_ceil(3).min(4) && distance < longest).then_some((distance, name))
    };
    known.into_iter().filter_map(near).min_by_key(|(distance, _)| *distance).map(|(_, name)| name)
}

/// `"5s" or "5ms"`, where a number was written without the unit its schema asks for.
pub(crate) fn with_a_unit(number: &Node, parts: &Parts<'_>, fits: impl Fn(&str) -> bool) -> Option<String> {
    let Kind::Number(value) = &number.kind else { return None };
    let examples = keyword(parts, "examples")?.as_array()?.iter().filter_map(Value::as_str);
    let mut candidates: Vec<String> = Vec::new();
    for example in examples {
        let candidate = format!("{value}{}", example.trim_start_matches(|c: char| c.is_ascii_digit()));
        if fits(&candidate) && !candidates.contains(&candidate) && !example.starts_with(|c: char| !c.is_ascii_digit()) {
            candidates.push(candidate);
        }
    }
    candidates.retain(|candidate| candidate.parse::<f64>().is_err());
    candidates.truncate(2);
    (!candidates.is_empty()).then(|| or(candidates))
}

/// Whether a JSON value is the node's, for what may be listed in a schema.
pub(crate) fn is_value(node: &Node, value: &Value) -> bool {
    match &node.kind {
        Kind::Sequence(_) | Kind::Mapping(_) => false,
        _ => type_of(value) == node.json_type() && node.value() == *value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_is_recognised_and_a_strange_one_is_not() {
        let known = ["upstream", "timeouts", "match", "connect", "response_timeout"];
        for (written, meant) in [
            ("upstrem", Some("upstream")),
            ("timeout", Some("timeouts")),
            ("Match", Some("match")),
            ("mtach", Some("match")),
            ("response-timeout", Some("response_timeout")),
            ("conect", Some("connect")),
            ("xyz", None),
            ("m", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, known), meant, "{written:?}");
        }
    }
}
