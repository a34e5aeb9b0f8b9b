//! The schema that a component may carry for its configuration.
//!
//! It is JSON Schema (draft 2020-12) in a custom section, so it is part of what is pinned and signed, and it is read from the
//! component's bytes each time: that costs microseconds, and machine code from the cache has none.
//!
//! Nobody has vouched for a schema but whoever made the component, so it is taken apart before it is used: every keyword
//! must be one that is understood, and have the form that the draft gives it; a reference must lead to another schema within
//! it, and nothing is ever fetched. What it asks for when a configuration is held against it is bounded there
//! ([`conformance`](crate::conformance)).

use std::collections::{HashMap, HashSet};

use regex_lite::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use crate::component::Refused;
use crate::config::PluginConfig;
use crate::conformance::violations;
use crate::sections::{self, NoSection};

/// The custom section that holds it.
pub(crate) const SECTION: &str = "sluice:config-schema";
/// The longest schema, in bytes.
const LONGEST: usize = 64 * 1024;
/// Schemas within each other in its text.
const DEEPEST: usize = 40;
/// The largest program that a pattern may become, in bytes.
const PATTERN_SIZE: usize = 16 * 1024;
/// The draft, as `$schema` names it.
const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";
const TYPES: [&str; 7] = ["null", "boolean", "object", "array", "number", "string", "integer"];

/// Why a component's schema cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadSchema {
    #[error("{0}")]
    Section(#[from] NoSection),
    #[error("it has {0} bytes: expected at most {LONGEST}")]
    Long(usize),
    #[error("it is not UTF-8 text")]
    NotText,
    #[error("it is not JSON: {0}")]
    NotJson(String),
    #[error("at #{at}: {why}")]
    At { at: String, why: String },
    #[error("schemas are applied within each other {0} deep: does it refer to itself?")]
    Deep(usize),
    #[error("it takes too much work to hold this configuration against it")]
    Effort,
}

/// The text of the schema that a component carries, if it carries one.
pub(crate) fn text(component: &[u8]) -> Result<Option<&str>, BadSchema> {
    let Some(bytes) = sections::custom(component, SECTION)? else { return Ok(None) };
    if bytes.len() > LONGEST {
        return Err(BadSchema::Long(bytes.len()));
    }
    std::str::from_utf8(bytes).map(Some).map_err(|_| BadSchema::NotText)
}

/// Whether the schema that a component carries can be used; where it carries none, there is nothing to say.
pub(crate) fn usable(component: &[u8]) -> Result<(), Refused> {
    text(component)?.map(Schema::parse).transpose()?;
    Ok(())
}

/// Holds a plugin's configuration against the schema that its component carries; where it carries none, anything will do.
/// Where no configuration was written, an object without members is what is looked at.
pub(crate) fn check(plugin: &PluginConfig, component: &[u8]) -> Result<(), Refused> {
    let Some(text) = text(component)? else { return Ok(()) };
    let schema = Schema::parse(text)?;
    let nothing = Value::Object(Map::new());
    let config = if plugin.config.is_null() { &nothing } else { &plugin.config };
    let violations = violations(&schema, config)?;
    if violations.is_empty() { Ok(()) } else { Err(Refused::Config(violations)) }
}

/// A schema in which every keyword is understood.
#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) root: Value,
    patterns: HashMap<String, Regex>,
}

impl Schema {
    pub(crate) fn parse(text: &str) -> Result<Self, BadSchema> {
        let root: Value = serde_json::from_str(text).map_err(|error| BadSchema::NotJson(error.to_string()))?;
        let mut survey = Survey::default();
        survey.schema(&root, &mut String::new(), 0)?;
        for (at, reference) in survey.references {
            if !target(&root, &reference).is_some_and(|schema| survey.schemas.contains(&identity(schema))) {
                let why = format!("{reference:?} leads to no schema in it: expected #, or as #/$defs/NAME");
                return Err(BadSchema::At { at, why });
            }
        }
        let patterns = survey.patterns;
        Ok(Self { root, patterns })
    }

    /// Where a reference leads, which is somewhere.
    pub(crate) fn target(&self, reference: &str) -> Option<&Value> {
        target(&self.root, reference)
    }

    /// What was made of a pattern in it.
    pub(crate) fn pattern(&self, pattern: &str) -> Option<&Regex> {
        self.patterns.get(pattern)
    }
}

/// By JSON Pointer; a schema that needs other characters escaped may be named otherwise.
fn target<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    root.pointer(reference.strip_prefix('#').filter(|pointer| !pointer.contains('%'))?)
}

fn identity(value: &Value) -> usize {
    std::ptr::from_ref(value).addr()
}

/// What was found in a schema on the way through it.
#[derive(Default)]
struct Survey {
    /// Where each schema in it is.
    schemas: HashSet<usize>,
    patterns: HashMap<String, Regex>,
    /// Each with the place where it stands.
    references: Vec<(String, String)>,
}

/// What the value of a keyword must be.
enum Form {
    Schema,
    Schemas,
    SchemasByName,
    SchemasByPattern,
    Type,
    List,
    Number,
    PositiveNumber,
    Count,
    Truth,
    Pattern,
    Names,
    NamesByName,
    Reference,
    Draft,
    /// At the top alone.
    Name,
    /// What only people and tools read.
    Anything,
}

impl Form {
    /// `None` for a keyword that is not understood.
    fn of(keyword: &str) -> Option<Self> {
        Some(match keyword {
            "additionalProperties" | "propertyNames" | "items" | "contains" | "not" | "if" | "then" | "else" => {
                Self::Schema
            }
            "allOf" | "anyOf" | "oneOf" | "prefixItems" => Self::Schemas,
            "$defs" | "definitions" | "properties" | "dependentSchemas" => Self::SchemasByName,
            "patternProperties" => Self::SchemasByPattern,
            "type" => Self::Type,
            "enum" => Self::List,
            "maximum" | "minimum" | "exclusiveMaximum" | "exclusiveMinimum" => Self::Number,
            "multipleOf" => Self::PositiveNumber,
            "maxLength" | "minLength" | "maxItems" | "minItems" | "maxContains" | "minContains" | "maxProperties"
            | "minProperties" => Self::Count,
            "uniqueItems" | "writeOnly" | "readOnly" | "deprecated" => Self::Truth,
            "pattern" => Self::Pattern,
            "required" => Self::Names,
            "dependentRequired" => Self::NamesByName,
            "$ref" => Self::Reference,
            "$schema" => Self::Draft,
            "$id" => Self::Name,
            "const" | "title" | "description" | "default" | "examples" | "$comment" | "format" | "contentEncoding"
            | "contentMediaType" => Self::Anything,
            other if other.starts_with("x-") => Self::Anything,
            _ => return None,
        })
    }
}

impl Survey {
    /// Goes through a schema at `at`, a JSON Pointer.
    fn schema(&mut self, schema: &Value, at: &mut String, depth: usize) -> Result<(), BadSchema> {
        if depth > DEEPEST {
            return Err(wrong(at, format!("schemas are more than {DEEPEST} deep within each other")));
        }
        self.schemas.insert(identity(schema));
        match schema {
            Value::Bool(_) => Ok(()),
            Value::Object(keywords) => {
                for (keyword, value) in keywords {
                    within(at, keyword, |at| self.keyword(keyword, value, at, depth))?;
                }
                Ok(())
            }
            other => Err(wrong(at, format!("expected a schema, an object or a boolean, found {}", brief(other)))),
        }
    }

    fn keyword(&mut self, keyword: &str, value: &Value, at: &mut String, depth: usize) -> Result<(), BadSchema> {
        let Some(form) = Form::of(keyword) else {
            return Err(wrong(at, "the keyword is not supported: see plugins/README.md for those that are"));
        };
        let expected = |what: &str, at: &str| Err(wrong(at, format!("expected {what}, found {}", brief(value))));
        match (form, value) {
            (Form::Schema, schema) => self.schema(schema, at, depth + 1),
            (Form::Schemas, Value::Array(schemas)) if !schemas.is_empty() => {
                for (index, schema) in schemas.iter().enumerate() {
                    within(at, &index.to_string(), |at| self.schema(schema, at, depth + 1))?;
                }
                Ok(())
            }
            (Form::Schemas, _) => expected("a list of schemas", at),
            (Form::SchemasByName | Form::SchemasByPattern, Value::Object(schemas)) => {
                for (name, schema) in schemas {
                    within(at, name, |at| {
                        if keyword == "patternProperties" {
                            self.pattern(name, at)?;
                        }
                        self.schema(schema, at, depth + 1)
                    })?;
                }
                Ok(())
            }
            (Form::SchemasByName | Form::SchemasByPattern, _) => expected("an object of schemas", at),
            (Form::Type, Value::String(name)) if TYPES.contains(&name.as_str()) => Ok(()),
            (Form::Type, Value::Array(names))
                if !names.is_empty()
                    && names.iter().all(|name| name.as_str().is_some_and(|name| TYPES.contains(&name))) =>
            {
                Ok(())
            }
            (Form::Type, _) => expected(&format!("one of {}, or a list of them", TYPES.join(", ")), at),
            (Form::List, Value::Array(_)) | (Form::Number, Value::Number(_)) | (Form::Truth, Value::Bool(_)) => Ok(()),
            (Form::List, _) => expected("a list", at),
            (Form::Number, _) => expected("a number", at),
            (Form::Truth, _) => expected("true or false", at),
            (Form::PositiveNumber, Value::Number(number)) if number.as_f64().is_some_and(|number| number > 0.0) => {
                Ok(())
            }
            (Form::PositiveNumber, _) => expected("a number above 0", at),
            (Form::Count, Value::Number(number)) if number.is_u64() => Ok(()),
            (Form::Count, _) => expected("a whole number, 0 or more", at),
            (Form::Pattern, Value::String(pattern)) => self.pattern(pattern, at),
            (Form::Pattern, _) => expected("a pattern", at),
            (Form::Names, names) if are_names(names) => Ok(()),
            (Form::Names, _) => expected("a list of names", at),
            (Form::NamesByName, Value::Object(lists)) if lists.values().all(are_names) => Ok(()),
            (Form::NamesByName, _) => expected("an object of lists of names", at),
            (Form::Reference, Value::String(reference)) => {
                self.references.push((at.clone(), reference.clone()));
                Ok(())
            }
            (Form::Reference, _) => expected("a reference", at),
            (Form::Draft, Value::String(draft)) if draft.strip_suffix('#').unwrap_or(draft) == DRAFT => Ok(()),
            (Form::Draft, _) => expected(DRAFT, at),
            (Form::Name, Value::String(_)) if depth == 0 => Ok(()),
            (Form::Name, _) => Err(wrong(at, "expected a name for the whole, at its top alone")),
            (Form::Anything, _) => Ok(()),
        }
    }

    fn pattern(&mut self, pattern: &str, at: &str) -> Result<(), BadSchema> {
        if !self.patterns.contains_key(pattern) {
            let made = RegexBuilder::new(pattern).size_limit(PATTERN_SIZE).build();
            let regex = made.map_err(|error| wrong(at, format!("the pattern cannot be used: {error}")))?;
            self.patterns.insert(pattern.to_owned(), regex);
        }
        Ok(())
    }
}

fn are_names(value: &Value) -> bool {
    value.as_array().is_some_and(|names| names.iter().all(Value::is_string))
}

fn wrong(at: &str, why: impl Into<String>) -> BadSchema {
    BadSchema::At { at: shortened(at), why: shortened(&why.into()) }
}

/// Does `work` one step further on.
fn within<T>(at: &mut String, step: &str, work: impl FnOnce(&mut String) -> T) -> T {
    let length = at.len();
    at.push('/');
    at.push_str(&step.replace('~', "~0").replace('/', "~1"));
    let done = work(at);
    at.truncate(length);
    done
}

/// A value in few words: as it is written where that is short.
pub(crate) fn brief(value: &Value) -> String {
    match value {
        Value::Array(elements) => format!("a list of {}", elements.len()),
        Value::Object(members) => format!("an object of {}", members.len()),
        scalar => shortened(&scalar.to_string()),
    }
}

/// As much of a text as is worth telling.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 200;
    let mut short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_not_understood_is_refused_with_its_place() {
        for (schema, expected) in [
            (r#"{"type":"text"}"#, "at #/type: expected one of null, boolean"),
            (
                r#"{"properties":{"a/b":{"minimum":"3"}}}"#,
                "at #/properties/a~1b/minimum: expected a number, found \"3\"",
            ),
            (r#"{"items":[{}]}"#, "at #/items: expected a schema, an object or a boolean, found a list of 1"),
            (r#"{"allOf":[]}"#, "at #/allOf: expected a list of schemas, found a list of 0"),
            (r#"{"required":["a",1]}"#, "at #/required: expected a list of names"),
            (r#"{"maxLength":-1}"#, "at #/maxLength: expected a whole number"),
            (r#"{"multipleOf":0}"#, "at #/multipleOf: expected a number above 0, found 0"),
            (r#"{"propertes":{}}"#, "at #/propertes: the keyword is not supported"),
            (r##"{"$dynamicRef":"#x"}"##, "at #/$dynamicRef: the keyword is not supported"),
            (r#"{"unevaluatedProperties":false}"#, "the keyword is not supported"),
            (
                r#"{"$schema":"http://json-schema.org/draft-07/schema#"}"#,
                "at #/$schema: expected https://json-schema.org/",
            ),
            (r#"{"items":{"$id":"x"}}"#, "at #/items/$id: expected a name for the whole"),
            (r#"{"pattern":"("}"#, "at #/pattern: the pattern cannot be used"),
            (r#"{"pattern":"(a{1,1000}){1,1000}"}"#, "at #/pattern: the pattern cannot be used"),
            (r#"{"patternProperties":{"(?=a)":true}}"#, "at #/patternProperties/(?=a): the pattern cannot be used"),
            ("3", "at #: expected a schema"),
            ("{", "it is not JSON"),
        ] {
            let found = Schema::parse(schema).unwrap_err().to_string();
            assert!(found.contains(expected), "{schema}: {found:?} lacks {expected:?}");
        }
    }

    #[test]
    fn a_reference_leads_to_a_schema_of_its_own_and_to_nothing_else() {
        for reference in ["#", "#/$defs/a", "#/$defs/a/items", "#/properties/b~1c"] {
            let schema = r##"{"$defs":{"a":{"items":{}},"e":{"$ref":"@"}},"properties":{"b/c":true}}"##;
            Schema::parse(&schema.replace('@', reference)).unwrap();
        }
        for reference in [
            "http://127.0.0.1:1/x.json",
            "file:///etc/passwd",
            "other.json#/$defs/a",
            "#a",
            "#/$defs",
            "#/$defs/none",
            "#/$defs/a/const",
            "#/%24defs/a",
            "",
        ] {
            let schema = r##"{"$defs":{"a":{"const":{}},"e":{"$ref":"@"}}}"##.replace('@', reference);
            let found = Schema::parse(&schema).unwrap_err().to_string();
            assert!(found.contains("leads to no schema in it"), "{reference}: {found}");
            assert!(found.starts_with("at #/$defs/e/$ref: "), "{found}");
        }
    }

    #[test]
    fn a_text_nested_without_end_is_refused() {
        for depth in [DEEPEST + 1, 100, 60_000] {
            let text = r#"{"not":"#.repeat(depth) + "true" + &"}".repeat(depth);
            assert!(Schema::parse(&text).is_err(), "{depth}");
        }
        let text = r#"{"not":"#.repeat(DEEPEST) + "true" + &"}".repeat(DEEPEST);
        Schema::parse(&text).unwrap();
    }
}
