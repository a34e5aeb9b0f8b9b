//! What a route asks of single claims: a place in the token, and what must stand there.
//!
//! All rules of a route must hold. A claim that is absent, or of another form than the rule speaks of, does not hold: no
//! number is taken for a text, no text for a list. Who fails is told that the token does not allow the request, and not
//! by which rule.

use regex_lite::{Regex, RegexBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use sluice_vocabulary::claims::Claims;
use sluice_vocabulary::{Faults, Path};

use crate::pointer::Pointer;

/// The most rules of one route.
const MOST_RULES: usize = 32;

/// The most values in one `one_of`.
const MOST_VALUES: usize = 256;

/// The longest text that is held against an expression, in bytes, and the largest compiled expression. An expression takes
/// time by the product of both; these keep it well under a millisecond, whoever had a say in the claim.
const LONGEST_TEXT: usize = 256;
const LARGEST_EXPRESSION: usize = 32 * 1024;

/// What one claim must be. Exactly one of `equals`, `one_of`, `contains` and `matches`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClaimRule {
    /// Where the claim stands: a JSON pointer (RFC 6901), as in `/realm/tenant`.
    pub pointer: String,
    /// The claim is this text, number or boolean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "scalar_schema")]
    pub equals: Option<Value>,
    /// The claim is one of these texts, numbers or booleans.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "scalars_schema")]
    pub one_of: Option<Vec<Value>>,
    /// The claim is a list, and this text, number or boolean is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "scalar_schema")]
    pub contains: Option<Value>,
    /// The claim is a text of at most 256 bytes, and this regular expression matches the whole of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
}

fn scalar_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "number", "boolean"] })
}

fn scalars_schema(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": scalar_schema(generator) })
}

/// A rule, compiled. One that could not be holds for nothing, so that a fault nobody heeded opens no door.
#[derive(Debug)]
pub(crate) struct Predicate(Option<(Pointer, Test)>);

#[derive(Debug)]
enum Test {
    OneOf(Box<[Value]>),
    Contains(Value),
    Matches(Regex),
}

impl Predicate {
    /// Compiles a rule. Every fault goes into `faults`.
    fn new(rule: &ClaimRule, at: &Path, faults: &mut Faults) -> Self {
        let pointer = Pointer::parse(&rule.pointer).map_err(|why| faults.error(&at.key("pointer"), why)).ok();
        let mut check = |value: &Value, at: &Path| match value {
            Value::String(_) | Value::Number(_) | Value::Bool(_) => {}
            _ => faults.error(at, "expected a text, a number or a boolean"),
        };
        let test = match (&rule.equals, &rule.one_of, &rule.contains, &rule.matches) {
            (Some(value), None, None, None) => {
                check(value, &at.key("equals"));
                Some(Test::OneOf([value.clone()].into()))
            }
            (None, Some(values), None, None) => {
                let here = at.key("one_of");
                values.iter().enumerate().for_each(|(index, value)| check(value, &here.index(index)));
                if values.is_empty() || values.len() > MOST_VALUES {
                    faults.error(&here, format!("{} values: expected 1 to {MOST_VALUES}", values.len()));
                }
                Some(Test::OneOf(values.as_slice().into()))
            }
            (None, None, Some(value), None) => {
                check(value, &at.key("contains"));
                Some(Test::Contains(value.clone()))
            }
            (None, None, None, Some(expression)) => {
                whole(expression).map(Test::Matches).map_err(|why| faults.error(&at.key("matches"), why)).ok()
            }
            _ => {
                faults.error(at, "expected exactly one of equals, one_of, contains and matches");
                None
            }
        };
        Self(pointer.zip(test))
    }

    /// Whether the claims are as the rule says.
    pub(crate) fn holds(&self, claims: &Claims) -> bool {
        let Some((pointer, test)) = &self.0 else { return false };
        pointer.find(claims).is_some_and(|claim| test.holds(&claim))
    }
}

impl Test {
    fn holds(&self, claim: &Value) -> bool {
        match (self, claim) {
            (Self::OneOf(values), claim) => values.iter().any(|value| same(value, claim)),
            (Self::Contains(value), Value::Array(elements)) => elements.iter().any(|element| same(value, element)),
            (Self::Matches(expression), Value::String(text)) => text.len() <= LONGEST_TEXT && expression.is_match(text),
            (Self::Contains(_) | Self::Matches(_), _) => false,
        }
    }
}

/// An expression that matches whole texts only.
fn whole(expression: &str) -> Result<Regex, String> {
    let build = |text: &str| {
        RegexBuilder::new(text)
            .size_limit(LARGEST_EXPRESSION)
            .build()
            .map_err(|why| format!("{expression:?} is not a regular expression taken here: {why}"))
    };
    // By itself first: `a)|(b` would otherwise close the bracket around it and be free of its anchors.
    build(expression)?;
    build(&format!(r"\A(?:{expression})\z"))
}

/// Whether two scalars are the same. `1` and `1.0` are; `1` and `"1"` are not.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => same_number(a, b),
        _ => a == b,
    }
}

fn same_number(a: &Number, b: &Number) -> bool {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => a == b,
        // As floats only below 2^53, where each whole number has a float of its own.
        _ => {
            let float = |number: &Number| number.as_f64().filter(|float| float.abs() < 9_007_199_254_740_992.0);
            a == b || matches!((float(a), float(b)), (Some(a), Some(b)) if a == b)
        }
    }
}

/// Compiles a route's rules. Every fault goes into `faults`; where one is an error, the rules are not to be used.
pub(crate) fn compile(rules: &[ClaimRule], at: &Path, faults: &mut Faults) -> Box<[Predicate]> {
    let before = faults.iter().count();
    if rules.len() > MOST_RULES {
        faults.error(at, format!("{} rules: a route may have at most {MOST_RULES}", rules.len()));
    }
    let compile = |(index, rule)| Predicate::new(rule, &at.index(index), faults);
    let predicates: Box<[_]> = rules.iter().enumerate().map(compile).collect();
    if faults.iter().count() == before {
        warn_of_contradictions(&predicates, at, faults);
    }
    predicates
}

/// Rules on one claim that no value can meet together, as far as one of them lists the values there are.
fn warn_of_contradictions(predicates: &[Predicate], at: &Path, faults: &mut Faults) {
    let all = || predicates.iter().enumerate().filter_map(|(index, predicate)| Some((index, predicate.0.as_ref()?)));
    for (index, (pointer, test)) in all() {
        let Test::OneOf(values) = test else { continue };
        let others = || all().filter(|(other, (same, _))| *other != index && same == pointer);
        let can_hold = values.iter().any(|value| others().all(|(_, (_, other))| other.holds(value)));
        // Two lists that contradict each other are told of once.
        if !can_hold && !others().any(|(other, (_, test))| other < index && matches!(test, Test::OneOf(_))) {
            let what = "no claim can meet this and the other rules on the same pointer: every token is refused";
            faults.warning(&at.index(index), what);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;
    use sluice_vocabulary::Severity;

    fn told(rules: Value) -> (Box<[Predicate]>, Vec<(Severity, String)>) {
        let rules: Vec<ClaimRule> = serde_json::from_value(rules).unwrap();
        let mut faults = Faults::new();
        let predicates = compile(&rules, &Path::root().key("claims"), &mut faults);
        (predicates, faults.iter().map(|fault| (fault.severity, fault.to_string())).collect())
    }

    fn holds(rule: Value, claims: Value) -> bool {
        let (predicates, faults) = told(json!([rule]));
        assert_eq!(faults, []);
        let Value::Object(claims) = claims else { panic!("an object") };
        predicates[0].holds(&claims.into())
    }

    #[test]
    fn a_rule_holds_for_what_it_says_and_nothing_near_it() {
        let tenant = |test: &str, value: Value| json!({"pointer": "/realm/tenant", test: value});
        let claims = |value: Value| json!({"realm": {"tenant": value}});
        let cases = [
            (tenant("equals", json!("acme")), json!("acme"), true),
            (tenant("equals", json!("acme")), json!("Acme"), false),
            (tenant("equals", json!("acme")), json!("acme "), false),
            (tenant("equals", json!("acme")), json!(["acme"]), false),
            (tenant("equals", json!("1")), json!(1), false),
            (tenant("equals", json!(1)), json!("1"), false),
            (tenant("equals", json!(1)), json!(true), false),
            (tenant("equals", json!(1)), json!(1.0), true),
            (tenant("equals", json!(true)), json!(true), true),
            (tenant("equals", json!(true)), json!("true"), false),
            (tenant("equals", json!(9007199254740993_u64)), json!(9007199254740992.0), false),
            (tenant("equals", json!(u64::MAX)), json!(-1), false),
            (tenant("one_of", json!(["acme", 7])), json!(7), true),
            (tenant("one_of", json!(["acme", 7])), json!("acm"), false),
            (tenant("contains", json!("acme")), json!(["x", "acme"]), true),
            (tenant("contains", json!("acme")), json!("acme"), false),
            (tenant("contains", json!("acme")), json!("x acme y"), false),
            (tenant("contains", json!("acme")), json!([["acme"]]), false),
            (tenant("contains", json!("acme")), json!({"acme": true}), false),
            (tenant("contains", json!("acme")), json!([]), false),
            (tenant("matches", json!("ac|me")), json!("me"), true),
            (tenant("matches", json!("ac|me")), json!("acx"), false),
            (tenant("matches", json!("ac|me")), json!("xme"), false),
            (tenant("matches", json!("(?m)acme$")), json!("acme\nevil"), false),
            (tenant("matches", json!("acme")), json!("acme\n"), false),
            (tenant("matches", json!("[0-9]+")), json!(7), false),
            (tenant("matches", json!("a*")), json!("a".repeat(256)), true),
            (tenant("matches", json!("a*")), json!("a".repeat(257)), false),
            (tenant("equals", json!("acme")), json!(null), false),
        ];
        for (rule, claim, expected) in cases {
            assert_eq!(holds(rule.clone(), claims(claim.clone())), expected, "{rule} of {claim}");
        }
    }

    #[test]
    fn an_absent_claim_meets_no_rule() {
        for test in
            [json!({"equals": ""}), json!({"one_of": [false]}), json!({"contains": ""}), json!({"matches": ".*"})]
        {
            let mut rule = test;
            rule["pointer"] = json!("/a/b");
            for claims in [json!({}), json!({"a": 1}), json!({"a": {}}), json!({"a": []}), json!({"a": {"b": null}})] {
                assert!(!holds(rule.clone(), claims.clone()), "{rule} of {claims}");
            }
        }
    }

    #[test]
    fn a_rule_that_cannot_be_compiled_is_told_with_its_place() {
        let (predicates, faults) = told(json!([
            {"pointer": "a", "equals": "x"},
            {"pointer": "/a"},
            {"pointer": "/a", "equals": "x", "matches": "y"},
            {"pointer": "/a", "equals": {"b": 1}},
            {"pointer": "/a", "one_of": []},
            {"pointer": "/a", "one_of": [1, [2]]},
            {"pointer": "/a", "contains": [1]},
            {"pointer": "/a", "matches": "("},
            {"pointer": "/a", "matches": "a)|(b"},
            {"pointer": "/a", "matches": "(a{100}){100}"},
        ]));
        let places = [
            "claims[0].pointer",
            "claims[1]:",
            "claims[2]:",
            "claims[3].equals",
            "claims[4].one_of:",
            "claims[5].one_of[1]",
            "claims[6].contains",
            "claims[7].matches",
            "claims[8].matches",
            "claims[9].matches",
        ];
        assert_eq!(faults.len(), places.len(), "{faults:#?}");
        let Value::Object(claims) = json!({"a": "x"}) else { panic!("an object") };
        let claims = claims.into();
        assert!(
            predicates.iter().all(|predicate| !predicate.holds(&claims)),
            "what is not understood holds for nothing"
        );
        for ((severity, fault), place) in faults.iter().zip(places) {
            assert!(*severity == Severity::Error && fault.starts_with(place), "{place} in {fault}");
        }
    }

    #[test]
    fn rules_that_no_claim_can_meet_are_warned_of() {
        let pair = |first: Value, second: Value| {
            let (mut first, mut second) = (first, second);
            first["pointer"] = json!("/a");
            second["pointer"] = json!("/a");
            told(json!([first, second])).1.len()
        };
        assert_eq!(pair(json!({"equals": "x"}), json!({"equals": "y"})), 1);
        assert_eq!(pair(json!({"one_of": ["x", "y"]}), json!({"one_of": ["z"]})), 1);
        assert_eq!(pair(json!({"matches": "a.*"}), json!({"one_of": ["b", "c"]})), 1);
        assert_eq!(pair(json!({"contains": "x"}), json!({"equals": "x"})), 1);
        assert_eq!(pair(json!({"one_of": ["x", "y"]}), json!({"one_of": ["y", "z"]})), 0);
        assert_eq!(pair(json!({"matches": "a.*"}), json!({"one_of": ["b", "ab"]})), 0);
        assert_eq!(pair(json!({"contains": "x"}), json!({"contains": "y"})), 0);
    }
}
