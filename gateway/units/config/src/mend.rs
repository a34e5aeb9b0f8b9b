//! A value that would have been right, in place of a faulty one.
//!
//! A document with one fault of form still has faults of meaning worth telling. So a copy is mended: what is faulty is
//! replaced by the least value its schema allows. The copy serves to find further faults and for nothing else.

use serde_json::{Map, Value};

use crate::check::Patterns;
use crate::schema::{Parts, Schema, keyword, listed, property, required};

/// How deep a replacement is made.
const DEEPEST: usize = 12;

/// The least value a schema allows, if one can be thought of.
pub(crate) fn least<'a>(schema: Schema<'a>, parts: &Parts<'a>, patterns: &Patterns, depth: usize) -> Option<Value> {
    if depth > DEEPEST {
        return None;
    }
    if let Some(default) = keyword(parts, "default") {
        return Some(default.clone());
    }
    if let Some(first) = listed(parts).and_then(|values| values.first().copied()) {
        return Some(first.clone());
    }
    if let Some(example) = keyword(parts, "examples").and_then(Value::as_array).and_then(|examples| examples.first()) {
        return Some(example.clone());
    }
    let mut parts = parts.clone();
    for branches in schema.unions(&parts) {
        let leaves = schema.leaves(branches);
        // Nothing at all is the last resort: it would hide that something was meant.
        let (null, some): (Vec<_>, Vec<_>) =
            leaves.into_iter().partition(|leaf| keyword(leaf, "type").and_then(Value::as_str) == Some("null"));
        if keyword(&parts, "properties").is_some() {
            parts.extend(some.into_iter().next().unwrap_or_default());
        } else {
            return some.iter().chain(&null).find_map(|leaf| least(schema, leaf, patterns, depth + 1));
        }
    }
    let name = match keyword(&parts, "type") {
        Some(Value::String(name)) => name.as_str(),
        Some(Value::Array(names)) => names.first()?.as_str()?,
        _ if keyword(&parts, "properties").is_some() => "object",
        _ => return None,
    };
    let number = |name: &str| keyword(&parts, name).and_then(Value::as_f64);
    match name {
        "null" => Some(Value::Null),
        "boolean" => Some(Value::Bool(false)),
        // A schema of ours bounds whole numbers by small ones.
        "integer" => Some(Value::from(number("minimum").unwrap_or(0.0).max(0.0) as u64)),
        "number" => Some(Value::from(number("minimum").unwrap_or(0.0))),
        "string" => {
            let shortest = keyword(&parts, "minLength").and_then(Value::as_u64).unwrap_or(0);
            let fits = |text: &&str| {
                text.len() as u64 >= shortest
                    && keyword(&parts, "pattern").and_then(Value::as_str).is_none_or(|p| patterns.fits(p, text))
            };
            ["x", "/", "127.0.0.1:1", "http://localhost/", "1"]
                .iter()
                .find(|text| fits(text))
                .map(|text| (*text).into())
        }
        "array" => {
            let fewest = keyword(&parts, "minItems").and_then(Value::as_u64).unwrap_or(0);
            let items = keyword(&parts, "items");
            let item = || least(schema, &schema.parts(items?), patterns, depth + 1);
            (0..fewest.min(8)).map(|_| item()).collect::<Option<Vec<_>>>().map(Value::Array)
        }
        _ => required(&parts)
            .into_iter()
            .map(|name| {
                let member = schema.parts(property(&parts, name)?);
                Some((name.to_owned(), least(schema, &member, patterns, depth + 1)?))
            })
            .collect::<Option<Map<_, _>>>()
            .map(Value::Object),
    }
}
