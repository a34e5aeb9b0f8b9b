//! A type's JSON Schema, for editors and for our own check; and how the check looks into it.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The JSON Schema (draft 2020-12) of a configuration type under this identity, as text with a line break at its end.
pub fn schema<T: JsonSchema>(id: &str, title: &str) -> String {
    let mut schema = value::<T>();
    if let Value::Object(members) = &mut schema {
        // First things first: a reader of the file sees what it is.
        let mut ordered = Map::new();
        ordered.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
        ordered.insert("$id".to_owned(), id.into());
        ordered.insert("title".to_owned(), title.into());
        members.remove("title");
        members.remove("$schema");
        ordered.append(members);
        *members = ordered;
    }
    // A value always serialises.
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// The schema as a value.
pub(crate) fn value<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value()
}

/// What applies to a value: all the schema objects that hold at once, by reference, by `allOf`, by chosen branch.
pub(crate) type Parts<'a> = Vec<&'a Map<String, Value>>;

/// A root schema, to follow references in.
#[derive(Clone, Copy)]
pub(crate) struct Schema<'a> {
    root: &'a Value,
}

impl<'a> Schema<'a> {
    pub(crate) fn new(root: &'a Value) -> Self {
        Self { root }
    }

    pub(crate) fn root(self) -> &'a Value {
        self.root
    }

    /// The objects of a schema, references and `allOf` followed. A schema of ours refers to itself only through a value's
    /// members, so this ends; the bound is for schemas of others.
    pub(crate) fn parts(self, schema: &'a Value) -> Parts<'a> {
        let mut parts = Vec::new();
        self.collect(schema, &mut parts, 0);
        parts
    }

    fn collect(self, schema: &'a Value, parts: &mut Parts<'a>, depth: usize) {
        let Value::Object(members) = schema else { return };
        if depth > 32 {
            return;
        }
        parts.push(members);
        if let Some(target) = members.get("$ref").and_then(Value::as_str).and_then(|reference| self.follow(reference)) {
            self.collect(target, parts, depth + 1);
        }
        for member in members.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.collect(member, parts, depth + 1);
        }
    }

    fn follow(self, reference: &str) -> Option<&'a Value> {
        self.root.pointer(reference.strip_prefix('#')?)
    }

    /// The alternatives of which one must hold, where there are any: lists of `oneOf` and `anyOf`.
    pub(crate) fn unions(self, parts: &Parts<'a>) -> Vec<&'a Vec<Value>> {
        let lists = |part: &&'a Map<String, Value>| {
            ["oneOf", "anyOf"].into_iter().filter_map(|key| part.get(key)?.as_array()).collect::<Vec<_>>()
        };
        parts.iter().flat_map(lists).collect()
    }

    /// The alternatives of a union with those of unions directly within it, each as its parts.
    pub(crate) fn leaves(self, branches: &'a [Value]) -> Vec<Parts<'a>> {
        self.leaves_within(branches, 0)
    }

    fn leaves_within(self, branches: &'a [Value], depth: usize) -> Vec<Parts<'a>> {
        let mut leaves = Vec::new();
        for branch in branches {
            let parts = self.parts(branch);
            let within = self.unions(&parts);
            let is_plain = depth > 8 || within.is_empty() || keyword(&parts, "properties").is_some();
            if is_plain {
                leaves.push(parts);
            } else {
                leaves.extend(within.into_iter().flat_map(|list| self.leaves_within(list, depth + 1)).map(
                    |mut leaf| {
                        // What is said of the whole, such as that it is a secret, is said of each.
                        leaf.extend(parts.iter().filter(|part| !part.contains_key("$ref")));
                        leaf
                    },
                ));
            }
        }
        leaves
    }
}

/// The first value of a keyword among the parts.
pub(crate) fn keyword<'a>(parts: &Parts<'a>, name: &str) -> Option<&'a Value> {
    parts.iter().find_map(|part| part.get(name))
}

/// The schema of a property.
pub(crate) fn property<'a>(parts: &Parts<'a>, name: &str) -> Option<&'a Value> {
    parts.iter().find_map(|part| part.get("properties")?.get(name))
}

/// The names of all properties, each once, in order.
pub(crate) fn property_names<'a>(parts: &Parts<'a>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for part in parts {
        for name in part.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    names
}

/// The names of required properties, each once, in order.
pub(crate) fn required<'a>(parts: &Parts<'a>) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for part in parts {
        for name in part.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// The values allowed, where they are listed: `enum` or `const`.
pub(crate) fn listed<'a>(parts: &Parts<'a>) -> Option<Vec<&'a Value>> {
    if let Some(values) = keyword(parts, "enum").and_then(Value::as_array) {
        return Some(values.iter().collect());
    }
    keyword(parts, "const").map(|value| vec![value])
}

/// Whether the schema says that a value is a secret.
pub(crate) fn is_secret(parts: &Parts<'_>) -> bool {
    keyword(parts, "x-secret").is_some_and(|mark| mark == &Value::Bool(true))
}

/// Whether a value of this JSON type may stand here; `type` absent means what the other keywords suggest.
pub(crate) fn admits(parts: &Parts<'_>, json_type: &str) -> bool {
    let named = |name: &str| name == json_type || (name == "number" && json_type == "integer");
    match keyword(parts, "type") {
        Some(Value::String(name)) => named(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(named),
        _ => match listed(parts) {
            Some(values) => values.iter().any(|value| named(type_of(value))),
            None if keyword(parts, "properties").is_some() => json_type == "object",
            None => true,
        },
    }
}

/// A value's JSON type, whole numbers apart.
pub(crate) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
