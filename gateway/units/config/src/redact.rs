//! A configuration that may be shown.

use serde_json::{Map, Value};

use crate::schema::{Parts, Schema, is_secret, keyword, property};
use crate::secrets;

/// The value with whatever is or may be a secret replaced: by the schema's mark `x-secret`, by the key's name, by the
/// value's own form. Where a secret is kept (`file`, `env`) is not secret, nor is what a key merely calls by a secret's name,
/// where its object is marked `x-secret: false`.
pub fn redact(value: &Value, schema: &Value) -> Value {
    let schema = Schema::new(schema);
    within(value, schema, &schema.parts(schema.root()), false)
}

fn within(value: &Value, schema: Schema<'_>, parts: &Parts<'_>, secret: bool) -> Value {
    let mut all = parts.clone();
    for branches in schema.unions(parts) {
        // Which alternative it is does not matter: what any of them marks is hidden.
        schema.leaves(branches).into_iter().for_each(|leaf| all.extend(leaf));
    }
    let secret = secret || is_secret(&all);
    let is_public = all.iter().any(|part| part.get("x-secret") == Some(&Value::Bool(false)));
    match value {
        Value::Object(members) => {
            let redacted = members.iter().map(|(key, member)| {
                let (schema_here, inherits) = match property(&all, key) {
                    Some(schema) => (Some(schema), false),
                    None => (free_member(&all), secret),
                };
                let parts = schema_here.map(|member| schema.parts(member)).unwrap_or_default();
                let named = secrets::names_a_secret(key)
                    && !is_public
                    && !member.is_object()
                    && !lists_its_values(schema, &parts);
                (key.clone(), within(member, schema, &parts, inherits || named))
            });
            Value::Object(redacted.collect::<Map<_, _>>())
        }
        Value::Array(items) => {
            let parts = keyword(&all, "items").map(|items| schema.parts(items)).unwrap_or_default();
            Value::Array(items.iter().map(|item| within(item, schema, &parts, secret)).collect())
        }
        Value::String(text) if secret || secrets::looks_secret(text) => secrets::REDACTED.into(),
        Value::Number(_) if secret => secrets::REDACTED.into(),
        other => other.clone(),
    }
}

/// Whether the schema lists the values there are: none of them is a secret, whatever the key is called.
fn lists_its_values(schema: Schema<'_>, parts: &Parts<'_>) -> bool {
    let listed = |parts: &Parts<'_>| keyword(parts, "enum").or_else(|| keyword(parts, "const")).is_some();
    listed(parts) || schema.unions(parts).into_iter().any(|branches| schema.leaves(branches).iter().all(listed))
}

fn free_member<'a>(parts: &Parts<'a>) -> Option<&'a Value> {
    let by_pattern = parts.iter().find_map(|part| part.get("patternProperties")?.as_object()?.values().next());
    by_pattern.or_else(|| keyword(parts, "additionalProperties").filter(|schema| schema.is_object()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_or_may_be_a_secret_is_not_shown() {
        let schema = json!({
            "type": "object",
            "properties": {
                "sealed": { "type": "string", "x-secret": true }, "kept": { "$ref": "#/$defs/Kept" },
                "credentials": { "oneOf": [ { "const": "pass" }, { "const": "strip" } ] },
                "token_from": { "type": "array", "items": { "$ref": "#/$defs/Place" } }
            },
            "$defs": {
                "Place": { "oneOf": [
                    { "type": "object", "properties": { "header": { "type": "string" } } },
                    { "type": "object", "properties": { "cookie": { "type": "string" } }, "x-secret": false }
                ] },
                "Kept": { "x-secret": true, "oneOf": [ { "properties": { "file": { "type": "string" } } } ] } }
        });
        let value = json!({
            "sealed": "a", "kept": { "file": "/run/x" }, "db_password": "b", "url": "http://u:p@h/", "path": "/", "n": 1,
            "credentials": "strip", "other_credentials": "strip", "cookie": "c",
            "token_from": [ { "header": "authorization" }, { "cookie": "session" } ]
        });
        let expected = json!({
            "sealed": "[redacted]", "kept": { "file": "/run/x" }, "db_password": "[redacted]", "url": "[redacted]",
            "path": "/", "n": 1, "credentials": "strip", "other_credentials": "[redacted]", "cookie": "[redacted]",
            "token_from": [ { "header": "authorization" }, { "cookie": "session" } ]
        });
        assert_eq!(redact(&value, &schema), expected);
    }
}
