//! A configuration held against the schema of its plugin: everything that is wrong with it, each with its place.
//!
//! A few references to each other can ask for more work than a machine does in years, or for more stack than there is. So
//! the work is counted as it is done, and so is how deep it goes.

use std::cmp::Ordering;

use serde_json::{Map, Value};
use sluice_vocabulary::Path;

use crate::schema::{BadSchema, Schema, brief, shortened};

/// Violations that are told of at once.
pub(crate) const MOST_TOLD: usize = 16;
/// Schemas applied, values compared and bytes searched: less than a second's worth.
const MOST_STEPS: usize = 1_000_000;
/// Schemas applied within each other.
const DEEPEST: usize = 200;

/// What a schema finds wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Where, from the plugin's configuration on.
    place: Vec<Place>,
    pub(crate) message: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Key(String),
    Index(usize),
}

impl Violation {
    /// Its path, where the plugin's configuration is at `at`.
    pub(crate) fn path(&self, at: &Path) -> Path {
        self.place.iter().fold(at.clone(), |at, place| match place {
            Place::Key(key) => at.key(key),
            Place::Index(index) => at.index(*index),
        })
    }
}

/// Every violation, or the first of them where they are many.
pub(crate) fn violations(schema: &Schema, config: &Value) -> Result<Vec<Violation>, BadSchema> {
    let mut judge = Judge {
        schema,
        told: Vec::new(),
        untold: 0,
        place: Vec::new(),
        steps: 0,
        depth: 0,
        is_quiet: false,
        is_secret: false,
    };
    judge.apply(&schema.root, config)?;
    let Judge { mut told, untold, .. } = judge;
    if untold > 0 {
        told.push(Violation { place: Vec::new(), message: format!("{untold} more are not told") });
    }
    Ok(told)
}

struct Judge<'a> {
    schema: &'a Schema,
    told: Vec<Violation>,
    untold: usize,
    /// Where the value is that is looked at.
    place: Vec<Place>,
    steps: usize,
    depth: usize,
    /// Whether it is only asked whether a schema holds.
    is_quiet: bool,
    /// Whether values must not be told.
    is_secret: bool,
}

type Holds = Result<bool, BadSchema>;

impl<'a> Judge<'a> {
    fn apply(&mut self, schema: &'a Value, value: &Value) -> Holds {
        self.takes(1)?;
        let keywords = match schema {
            Value::Object(keywords) => keywords,
            Value::Bool(false) => return Ok(self.wrong(value, "nothing may be written here")),
            _ => return Ok(true),
        };
        if self.depth >= DEEPEST {
            return Err(BadSchema::Deep(DEEPEST));
        }
        self.depth += 1;
        let was_secret = self.is_secret;
        self.is_secret |= keywords.get("writeOnly") == Some(&Value::Bool(true));
        let mut holds = true;
        for (keyword, operand) in keywords {
            holds &= self.keyword(keyword, operand, keywords, value)?;
        }
        self.is_secret = was_secret;
        self.depth -= 1;
        Ok(holds)
    }

    fn keyword(&mut self, keyword: &str, operand: &'a Value, beside: &'a Map<String, Value>, value: &Value) -> Holds {
        match keyword {
            "$ref" => match operand.as_str().and_then(|reference| self.schema.target(reference)) {
                Some(schema) => self.apply(schema, value),
                None => Ok(true),
            },
            "allOf" => self.all(list_of(operand), value),
            "anyOf" | "oneOf" => self.some(keyword == "oneOf", operand, value),
            "not" => match self.quietly(operand, value)? {
                true => Ok(self.wrong(value, "it is what the schema excludes")),
                false => Ok(true),
            },
            "if" => {
                let branch = if self.quietly(operand, value)? { "then" } else { "else" };
                beside.get(branch).map_or(Ok(true), |schema| self.apply(schema, value))
            }
            "type" => {
                let names = strings(operand);
                let holds = names.iter().any(|name| is_of_type(value, name));
                Ok(holds || self.wrong(value, &format!("expected {}", names.join(" or "))))
            }
            "const" => {
                let holds = self.same(value, operand)?;
                Ok(holds || self.wrong(value, &format!("expected {}", brief(operand))))
            }
            "enum" => self.one_of(operand, value),
            _ => match value {
                Value::Number(_) => Ok(self.number(keyword, operand, value)),
                Value::String(text) => self.text(keyword, operand, text, value),
                Value::Array(elements) => self.list(keyword, operand, beside, elements, value),
                Value::Object(members) => self.object(keyword, operand, beside, members, value),
                Value::Null | Value::Bool(_) => Ok(true),
            },
        }
    }

    fn all(&mut self, schemas: &'a [Value], value: &Value) -> Holds {
        let mut holds = true;
        for schema in schemas {
            holds &= self.apply(schema, value)?;
        }
        Ok(holds)
    }

    /// Whether one schema of several holds, or exactly one.
    fn some(&mut self, is_exactly_one: bool, schemas: &'a Value, value: &Value) -> Holds {
        let schemas = list_of(schemas);
        let mut holding = 0;
        for schema in schemas {
            holding += usize::from(self.quietly(schema, value)?);
        }
        let count = schemas.len();
        Ok(match (holding, is_exactly_one) {
            // What is wrong with the only one there is can be told.
            (0, _) if count == 1 => return self.all(schemas, value),
            (0, _) => self.wrong(value, &format!("it is none of the {count} things that it may be")),
            (1, _) | (_, false) => true,
            (several, true) => {
                self.wrong(value, &format!("it is {several} of the {count} things of which it may be one"))
            }
        })
    }

    fn one_of(&mut self, options: &Value, value: &Value) -> Holds {
        let options = list_of(options);
        for option in options {
            if self.same(value, option)? {
                return Ok(true);
            }
        }
        let options: Vec<String> = options.iter().map(brief).collect();
        Ok(self.wrong(value, &format!("expected one of {}", options.join(", "))))
    }

    fn number(&mut self, keyword: &str, operand: &Value, value: &Value) -> bool {
        let order = compare(value, operand);
        let (holds, expected) = match keyword {
            "maximum" => (order != Some(Ordering::Greater), "at most"),
            "exclusiveMaximum" => (order == Some(Ordering::Less), "less than"),
            "minimum" => (order != Some(Ordering::Less), "at least"),
            "exclusiveMinimum" => (order == Some(Ordering::Greater), "more than"),
            "multipleOf" => (is_multiple(value, operand), "a multiple of"),
            _ => return true,
        };
        holds || self.wrong(value, &format!("expected {expected} {operand}"))
    }

    fn text(&mut self, keyword: &str, operand: &Value, text: &str, value: &Value) -> Holds {
        let (holds, expected) = match keyword {
            "maxLength" | "minLength" => {
                self.takes(text.len())?;
                bound(keyword, operand, text.chars().count(), "characters")
            }
            "pattern" => {
                let pattern = operand.as_str().unwrap_or_default();
                (self.matches(pattern, text)?, format!("text that matches {}", shortened(pattern)))
            }
            _ => return Ok(true),
        };
        Ok(holds || self.wrong(value, &format!("expected {expected}")))
    }

    fn list(
        &mut self,
        keyword: &str,
        operand: &'a Value,
        beside: &'a Map<String, Value>,
        elements: &[Value],
        value: &Value,
    ) -> Holds {
        let (holds, expected) = match keyword {
            "maxItems" | "minItems" => bound(keyword, operand, elements.len(), "elements"),
            "uniqueItems" => (operand != &Value::Bool(true) || !self.repeats(elements)?, "no element twice".to_owned()),
            "prefixItems" => {
                let mut holds = true;
                for (index, (schema, element)) in list_of(operand).iter().zip(elements).enumerate() {
                    holds &= self.within(Place::Index(index), |judge| judge.apply(schema, element))?;
                }
                return Ok(holds);
            }
            "items" => {
                let first = beside.get("prefixItems").map_or(0, |before| list_of(before).len());
                let mut holds = true;
                for (index, element) in elements.iter().enumerate().skip(first) {
                    holds &= self.within(Place::Index(index), |judge| judge.apply(operand, element))?;
                }
                return Ok(holds);
            }
            "contains" => {
                let mut found = 0;
                for element in elements {
                    found += usize::from(self.quietly(operand, element)?);
                }
                let count = |keyword: &str| beside.get(keyword).and_then(Value::as_u64);
                let (least, most) = (count("minContains").unwrap_or(1), count("maxContains").unwrap_or(u64::MAX));
                let up_to = if most == u64::MAX { String::new() } else { format!(" and at most {most}") };
                let holds = (least..=most).contains(&(found as u64));
                (holds, format!("at least {least}{up_to} of a certain kind, of which it has {found}"))
            }
            _ => return Ok(true),
        };
        Ok(holds || self.wrong(value, &format!("expected {expected}")))
    }

    fn object(
        &mut self,
        keyword: &str,
        operand: &'a Value,
        beside: &'a Map<String, Value>,
        members: &Map<String, Value>,
        value: &Value,
    ) -> Holds {
        let mut holds = true;
        match keyword {
            "maxProperties" | "minProperties" => {
                let (is_within, expected) = bound(keyword, operand, members.len(), "keys");
                holds = is_within || self.wrong(value, &format!("expected {expected}"));
            }
            "required" => holds = self.has_all(operand, members),
            "dependentRequired" => {
                for (_, names) in map_of(operand).filter(|(name, _)| members.contains_key(*name)) {
                    holds &= self.has_all(names, members);
                }
            }
            "dependentSchemas" => {
                for (_, schema) in map_of(operand).filter(|(name, _)| members.contains_key(*name)) {
                    holds &= self.apply(schema, value)?;
                }
            }
            "properties" => {
                for (name, schema) in map_of(operand) {
                    if let Some(member) = members.get(name) {
                        holds &= self.within(Place::Key(name.clone()), |judge| judge.apply(schema, member))?;
                    }
                }
            }
            "patternProperties" => {
                for (pattern, schema) in map_of(operand) {
                    for (name, member) in members {
                        if self.matches(pattern, name)? {
                            holds &= self.within(Place::Key(name.clone()), |judge| judge.apply(schema, member))?;
                        }
                    }
                }
            }
            "additionalProperties" => {
                for (name, member) in members {
                    if !self.is_named(name, beside)? {
                        holds &=
                            self.within(Place::Key(name.clone()), |judge| judge.additional(operand, beside, member))?;
                    }
                }
            }
            "propertyNames" => {
                for name in members.keys() {
                    let fits = self.quietly(operand, &Value::String(name.clone()))?;
                    holds &= fits
                        || self.within(Place::Key(name.clone()), |judge| {
                            judge.complain("the plugin takes no key of this name")
                        });
                }
            }
            _ => {}
        }
        Ok(holds)
    }

    /// Whether `properties` or `patternProperties` speak of a member.
    fn is_named(&mut self, name: &str, beside: &'a Map<String, Value>) -> Holds {
        if beside.get("properties").is_some_and(|named| named.get(name).is_some()) {
            return Ok(true);
        }
        for (pattern, _) in beside.get("patternProperties").into_iter().flat_map(map_of) {
            if self.matches(pattern, name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A member that is not named.
    fn additional(&mut self, schema: &'a Value, beside: &Map<String, Value>, member: &Value) -> Holds {
        if schema != &Value::Bool(false) {
            return self.apply(schema, member);
        }
        let named: Vec<&str> =
            beside.get("properties").into_iter().flat_map(map_of).map(|(name, _)| name.as_str()).collect();
        let expected =
            if named.is_empty() { "expected none".to_owned() } else { format!("expected {}", named.join(", ")) };
        Ok(self.complain(&format!("the plugin knows no such key: {expected}")))
    }

    fn has_all(&mut self, names: &Value, members: &Map<String, Value>) -> bool {
        let lacking: Vec<&str> = strings(names).into_iter().filter(|name| !members.contains_key(*name)).collect();
        for name in &lacking {
            self.complain(&format!("{name:?} is missing: the plugin requires it"));
        }
        lacking.is_empty()
    }

    fn matches(&mut self, pattern: &str, text: &str) -> Holds {
        self.takes(text.len() + 1)?;
        Ok(self.schema.pattern(pattern).is_some_and(|pattern| pattern.is_match(text)))
    }

    fn repeats(&mut self, elements: &[Value]) -> Holds {
        for (index, one) in elements.iter().enumerate() {
            for other in &elements[..index] {
                if self.same(one, other)? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether two values are the same to JSON Schema, to which 1 and 1.0 are.
    fn same(&mut self, one: &Value, other: &Value) -> Holds {
        self.takes(1)?;
        match (one, other) {
            (Value::Number(_), Value::Number(_)) => Ok(compare(one, other) == Some(Ordering::Equal)),
            (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
                for (one, other) in one.iter().zip(other) {
                    if !self.same(one, other)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Value::Object(one), Value::Object(other)) if one.len() == other.len() => {
                for (name, one) in one {
                    match other.get(name) {
                        Some(other) if self.same(one, other)? => {}
                        _ => return Ok(false),
                    }
                }
                Ok(true)
            }
            _ => Ok(one == other),
        }
    }

    /// Whether a schema holds, without a word.
    fn quietly(&mut self, schema: &'a Value, value: &Value) -> Holds {
        let was_quiet = std::mem::replace(&mut self.is_quiet, true);
        let holds = self.apply(schema, value);
        self.is_quiet = was_quiet;
        holds
    }

    fn within<T>(&mut self, place: Place, work: impl FnOnce(&mut Self) -> T) -> T {
        self.place.push(place);
        let done = work(self);
        self.place.pop();
        done
    }

    /// Tells what was found and what is wrong with it; it does not hold.
    fn wrong(&mut self, value: &Value, why: &str) -> bool {
        let found = match value {
            _ if self.is_secret => "a value".to_owned(),
            // It may be a secret, whatever the schema says of it. Its length helps to see which it is.
            Value::String(text) => format!("a text of length {}", text.chars().count()),
            other => brief(other),
        };
        self.complain(&format!("found {found}: {}", shortened(why)))
    }

    fn complain(&mut self, message: &str) -> bool {
        if self.is_quiet {
            // Whether it holds is all that is asked.
        } else if self.told.len() < MOST_TOLD {
            self.told.push(Violation { place: self.place.clone(), message: message.to_owned() });
        } else {
            self.untold += 1;
        }
        false
    }

    const fn takes(&mut self, steps: usize) -> Result<(), BadSchema> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > MOST_STEPS { Err(BadSchema::Effort) } else { Ok(()) }
    }
}

/// Whether a count is within the bound that a keyword sets, and what that is.
fn bound(keyword: &str, operand: &Value, found: usize, of: &str) -> (bool, String) {
    let bound = operand.as_u64().unwrap_or(u64::MAX);
    if keyword.starts_with("max") {
        (found as u64 <= bound, format!("at most {bound} {of}"))
    } else {
        (found as u64 >= bound, format!("at least {bound} {of}"))
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "integer" => integer(value).is_some(),
        _ => false,
    }
}

/// A whole number, however it is written.
fn integer(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    let float = || number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 1e30);
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and fits")]
    number.as_i128().or_else(|| float().map(|float| float as i128))
}

fn compare(one: &Value, other: &Value) -> Option<Ordering> {
    match (integer(one), integer(other)) {
        (Some(one), Some(other)) => Some(one.cmp(&other)),
        _ => one.as_f64()?.partial_cmp(&other.as_f64()?),
    }
}

fn is_multiple(value: &Value, of: &Value) -> bool {
    match (integer(value), integer(of)) {
        (Some(value), Some(of)) => value.checked_rem(of) == Some(0),
        _ => {
            // Of fractions that binary has no exact form for: 0.3 is a multiple of 0.1.
            let times = value.as_f64().unwrap_or(f64::NAN) / of.as_f64().unwrap_or(f64::NAN);
            (times - times.round()).abs() < 1e-9 * times.abs().max(1.0)
        }
    }
}

fn list_of(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn map_of(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// One text, or each of a list.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        other => list_of(other).iter().filter_map(Value::as_str).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn found(schema: &Value, config: &Value) -> Result<Vec<String>, BadSchema> {
        let schema = Schema::parse(&schema.to_string())?;
        let at = Path::root().key("c");
        Ok(violations(&schema, config)?.iter().map(|v| format!("{}: {}", v.path(&at), v.message)).collect())
    }

    #[test]
    fn every_keyword_holds_where_it_should_and_tells_where_it_does_not() {
        let cases = [
            (json!({ "type": "string" }), json!("a"), json!(3), "c: found 3: expected string"),
            (json!({ "type": ["integer", "null"] }), json!(3.0), json!(3.5), "c: found 3.5: expected integer or null"),
            (json!({ "type": "object" }), json!({}), json!([1]), "c: found a list of 1: expected object"),
            (json!({ "const": { "a": [1] } }), json!({ "a": [1.0] }), json!({ "a": [2] }), "expected an object of 1"),
            (
                json!({ "enum": ["a", "b"] }),
                json!("b"),
                json!("c"),
                "c: found a text of length 1: expected one of \"a\", \"b\"",
            ),
            (json!({ "maximum": 3 }), json!(3), json!(3.5), "expected at most 3"),
            (json!({ "exclusiveMaximum": 3 }), json!(2), json!(3), "expected less than 3"),
            (json!({ "minimum": 0.5 }), json!(0.5), json!(0), "expected at least 0.5"),
            (json!({ "exclusiveMinimum": 0 }), json!(1), json!(0.0), "expected more than 0"),
            (
                json!({ "minimum": 9_007_199_254_740_993_u64 }),
                json!(9_007_199_254_740_993_u64),
                json!(9_007_199_254_740_992_u64),
                "at least",
            ),
            (json!({ "multipleOf": 0.1 }), json!(0.3), json!(0.35), "expected a multiple of 0.1"),
            (json!({ "maxLength": 2 }), json!("äö"), json!("abc"), "expected at most 2 characters"),
            (json!({ "minLength": 2 }), json!("ab"), json!("ä"), "expected at least 2 characters"),
            (
                json!({ "pattern": "^[a-z]+-\\d$" }),
                json!("eu-1"),
                json!("eu"),
                "expected text that matches ^[a-z]+-\\d$",
            ),
            (json!({ "maxItems": 1 }), json!([1]), json!([1, 2]), "expected at most 1 elements"),
            (json!({ "minItems": 1 }), json!([1]), json!([]), "expected at least 1 elements"),
            (json!({ "uniqueItems": true }), json!([1, "1", [1]]), json!([1, 2, 1.0]), "expected no element twice"),
            (json!({ "items": { "type": "string" } }), json!(["a"]), json!(["a", 1]), "c[1]: found 1: expected string"),
            (
                json!({ "prefixItems": [{ "const": 1 }], "items": false }),
                json!([1]),
                json!([1, 2]),
                "c[1]: found 2: nothing may be written here",
            ),
            (json!({ "contains": { "const": 1 } }), json!([2, 1]), json!([2]), "expected at least 1 of a certain kind"),
            (
                json!({ "contains": { "const": 1 }, "minContains": 0, "maxContains": 1 }),
                json!([2]),
                json!([1, 1]),
                "and at most 1",
            ),
            (json!({ "maxProperties": 1 }), json!({ "a": 1 }), json!({ "a": 1, "b": 1 }), "expected at most 1 keys"),
            (json!({ "required": ["a"] }), json!({ "a": 1 }), json!({}), "c: \"a\" is missing: the plugin requires it"),
            (json!({ "dependentRequired": { "a": ["b"] } }), json!({ "b": 1 }), json!({ "a": 1 }), "\"b\" is missing"),
            (
                json!({ "dependentSchemas": { "a": { "maxProperties": 1 } } }),
                json!({ "a": 1 }),
                json!({ "a": 1, "b": 1 }),
                "at most 1 keys",
            ),
            (
                json!({ "properties": { "a": { "type": "string" } } }),
                json!({ "b": 1 }),
                json!({ "a": 1 }),
                "c.a: found 1: expected string",
            ),
            (
                json!({ "patternProperties": { "^x-": { "type": "string" } } }),
                json!({ "y": 1 }),
                json!({ "x-a": 1 }),
                "c.x-a: found 1",
            ),
            (
                json!({ "properties": { "a": true }, "patternProperties": { "^x-": true }, "additionalProperties": false }),
                json!({ "a": 1, "x-b": 1 }),
                json!({ "b": 1 }),
                "c.b: the plugin knows no such key: expected a",
            ),
            (
                json!({ "additionalProperties": { "type": "string" } }),
                json!({ "a": "" }),
                json!({ "a": 1 }),
                "c.a: found 1",
            ),
            (
                json!({ "propertyNames": { "maxLength": 1 } }),
                json!({ "a": 1 }),
                json!({ "ab": 1 }),
                "c.ab: the plugin takes no key of this name",
            ),
            (json!({ "allOf": [{ "minimum": 1 }, { "maximum": 2 }] }), json!(2), json!(3), "expected at most 2"),
            (
                json!({ "anyOf": [{ "const": 1 }, { "minimum": 5 }] }),
                json!(6),
                json!(2),
                "it is none of the 2 things that it may be",
            ),
            (json!({ "anyOf": [{ "type": "string" }] }), json!(""), json!(2), "c: found 2: expected string"),
            (
                json!({ "oneOf": [{ "minimum": 1 }, { "minimum": 5 }] }),
                json!(2),
                json!(6),
                "it is 2 of the 2 things of which it may be one",
            ),
            (json!({ "not": { "const": 1 } }), json!(2), json!(1), "it is what the schema excludes"),
            (
                json!({ "if": { "minimum": 5 }, "then": { "maximum": 6 }, "else": { "maximum": 1 } }),
                json!(6),
                json!(2),
                "at most 1",
            ),
            (
                json!({ "$ref": "#/$defs/a", "$defs": { "a": { "type": "string" } } }),
                json!(""),
                json!(1),
                "expected string",
            ),
            (
                json!({ "properties": { "next": { "$ref": "#" } }, "additionalProperties": false }),
                json!({ "next": { "next": {} } }),
                json!({ "next": { "next": { "more": 1 } } }),
                "c.next.next.more: the plugin knows no such key",
            ),
        ];
        for (schema, good, bad, expected) in cases {
            assert_eq!(found(&schema, &good), Ok(Vec::new()), "{schema} holds for {good}");
            let told = found(&schema, &bad).unwrap();
            assert!(told.len() == 1 && told[0].contains(expected), "{schema} of {bad}: {told:?} lacks {expected:?}");
        }
    }

    #[test]
    fn what_is_true_of_another_type_is_no_fault() {
        let schema = json!({ "minimum": 5, "minLength": 9, "minItems": 9, "required": ["a"] });
        for config in [json!(null), json!(true)] {
            assert_eq!(found(&schema, &config), Ok(Vec::new()), "{config}");
        }
    }

    #[test]
    fn many_violations_are_told_up_to_a_bound_and_the_rest_counted() {
        let schema = json!({ "items": { "type": "string" } });
        let told = found(&schema, &json!(vec![1; 20])).unwrap();
        assert_eq!((told.len(), told[15].as_str()), (17, "c[15]: found 1: expected string"));
        assert_eq!(told[16], "c: 4 more are not told");
    }

    #[test]
    fn texts_are_never_told_and_nothing_is_of_what_is_marked_as_only_written() {
        let text = json!({ "properties": { "key": { "minLength": 20 } } });
        let told = found(&text, &json!({ "key": "hunter2" })).unwrap();
        assert_eq!(told, ["c.key: found a text of length 7: expected at least 20 characters"]);
        let secret =
            json!({ "properties": { "key": { "writeOnly": true, "allOf": [{ "minLength": 20 }], "enum": ["x"] } } });
        let told = found(&secret, &json!({ "key": "hunter2" })).unwrap();
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.iter().all(|told| told.contains("found a value: ") && !told.contains("hunter2")), "{told:?}");
    }

    #[test]
    fn schemas_that_ask_for_endless_work_or_depth_are_given_up() {
        let chain = |of: &dyn Fn(String) -> Value, length: usize| {
            let next = |index| of(format!("#/$defs/d{}", index + 1));
            let mut all: Map<String, Value> = (0..length).map(|index| (format!("d{index}"), next(index))).collect();
            all.insert(format!("d{length}"), json!(true));
            json!({ "$defs": all, "$ref": "#/$defs/d0" })
        };
        let twice = |to: String| json!({ "allOf": [{ "$ref": to }, { "$ref": to }] });
        let denied = |to: String| json!({ "not": { "$ref": to }, "if": { "$ref": to } });
        let once = |to: String| json!({ "$ref": to });
        let each = json!({ "additionalProperties": { "anyOf": vec![json!({ "$ref": "#" }); 200] } });
        let deep = json!({ "a": { "b": { "c": { "d": { "e": 1 } } } } });
        let numbers: Vec<u32> = (0..5000).collect();
        for (schema, config, expected) in [
            (chain(&twice, 40), json!({}), BadSchema::Effort),
            (chain(&denied, 40), json!({}), BadSchema::Effort),
            (each, deep, BadSchema::Effort),
            (json!({ "uniqueItems": true }), json!(numbers), BadSchema::Effort),
            (json!({ "items": { "enum": numbers } }), json!(vec![-1; 5000]), BadSchema::Effort),
            (chain(&once, 2000), json!({}), BadSchema::Deep(DEEPEST)),
            (json!({ "$ref": "#" }), json!({}), BadSchema::Deep(DEEPEST)),
            (json!({ "allOf": [{ "not": { "$ref": "#" } }] }), json!({}), BadSchema::Deep(DEEPEST)),
        ] {
            assert_eq!(found(&schema, &config), Err(expected), "{}", shortened(&schema.to_string()));
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_as_constant_holds_for_itself_alone(one in arbitrary(), other in arbitrary()) {
            assert_eq!(found(&json!({ "const": one }), &one), Ok(Vec::new()));
            let excludes = found(&json!({ "not": { "const": one } }), &other).unwrap().is_empty();
            let holds = found(&json!({ "enum": [one] }), &other).unwrap().is_empty();
            assert_ne!(excludes, holds);
        }
    }

    fn arbitrary() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-3_i64..3).prop_map(Value::from),
            (-3_i64..3).prop_map(|whole| json!(whole as f64 / 2.0)),
            "[ab]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[ab]", inner, 0..3).prop_map(|members| members.into_iter().collect()),
            ]
        })
    }
}
