//! Comparing a document with a schema: every fault of form at once, and a mended copy.
//!
//! One walk does both. It returns the value as it should have been (absent where none can be thought of, so that whoever
//! asked leaves it out), notes what is wrong on the way, and remembers what it changed, so that nothing that follows from
//! a mend is told as a fault of the document.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use regex_lite::Regex;
use serde_json::{Map, Value};
use sluice_vocabulary::fault::{Fault, Path, Step};

use crate::document::{Document, Entry, Kind, Node, Span};
use crate::mend::least;
use crate::schema::{Parts, Schema, admits, is_secret, keyword, listed, property, property_names, required};
use crate::secrets;
use crate::union::{Choice, choose};
use crate::words::{alternatives, examples, expectation, is_value, literal, nearest, range, with_a_unit};

/// How many faults are listed; more help nobody, and a file of nothing else must not take for ever.
const MOST_FAULTS: usize = 500;

/// What a type's schema says of values that people write and that are none of its own: value by value, how to mend it.
const HELP_FOR: &str = "x-help-for";

/// The patterns of a schema, each compiled once.
#[derive(Default)]
pub(crate) struct Patterns(RefCell<HashMap<String, Option<Regex>>>);

impl Patterns {
    /// Whether the text has the pattern. One that does not compile holds nothing back: the type itself still decides.
    pub(crate) fn fits(&self, pattern: &str, text: &str) -> bool {
        let mut compiled = self.0.borrow_mut();
        let regex = compiled.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).ok());
        regex.as_ref().is_none_or(|regex| regex.is_match(text))
    }
}

/// What is to be done with a value that the type itself refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Another may do.
    Replace,
    /// The other was refused too.
    Drop,
}

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// The mended copy.
    pub(crate) value: Option<Value>,
    /// What is wrong, and where.
    pub(crate) faults: Vec<(Fault, Span)>,
    /// What must not be shown.
    pub(crate) masks: Vec<Span>,
    /// Where the copy differs from the document.
    pub(crate) mended: Vec<Path>,
    /// Names of the operator's own that were left out of the copy: what speaks of them, wherever, may follow from that.
    dropped: Vec<String>,
    /// Keys left out of the copy, with the mapping that they stood in: what is said there of them may follow from that.
    dropped_keys: Vec<(Path, String)>,
    /// Elements left out of lists, by the list's place.
    dropped_items: HashMap<Path, Vec<usize>>,
    /// Misspelt keys that were taken as meant, by the place they have in the copy.
    renamed: HashMap<Path, String>,
}

impl Report {
    /// The place in the document of a place in the copy.
    pub(crate) fn original(&self, path: &Path) -> Path {
        let mut copied = Path::root();
        let mut original = Path::root();
        for step in path.steps() {
            original = match step {
                Step::Key(key) => {
                    let written = self.renamed.get(&copied.key(key)).map_or(&**key, String::as_str);
                    original.key(written)
                }
                Step::Index(index) => {
                    let gone = self.dropped_items.get(&original);
                    let shifted = gone.into_iter().flatten().fold(*index, |at, gone| at + usize::from(*gone <= at));
                    original.index(shifted)
                }
            };
            copied = match step {
                Step::Key(key) => copied.key(key),
                Step::Index(index) => copied.index(*index),
            };
        }
        original
    }

    /// Whether a fault found in the copy is likely to be none in the document: it lies where the copy was mended, or speaks
    /// of what was left out.
    pub(crate) fn accounts_for(&self, path: &Path, message: &str) -> bool {
        self.is_mended(path)
            || self.dropped.iter().any(|name| names(message, name))
            || self
                .dropped_keys
                .iter()
                .any(|(within, key)| path.steps().starts_with(within.steps()) && names(message, key))
    }

    /// Whether a place, or something above it, was changed in the copy.
    pub(crate) fn is_mended(&self, path: &Path) -> bool {
        self.mended.iter().any(|mended| path.steps().starts_with(mended.steps()))
    }
}

/// Compares the document with the schema. `refused` says which values the type itself did not take before.
pub(crate) fn check(
    document: &Document,
    schema: Schema<'_>,
    patterns: &Patterns,
    refused: &HashMap<Path, Refused>,
) -> Report {
    let mut walk = Walk { document, schema, patterns, refused, report: Report::default() };
    let parts = schema.parts(schema.root());
    let value = walk.value(&document.root, parts, &Path::root(), false);
    Report { value, ..walk.report }
}

struct Walk<'a> {
    document: &'a Document,
    schema: Schema<'a>,
    patterns: &'a Patterns,
    refused: &'a HashMap<Path, Refused>,
    report: Report,
}

impl<'a> Walk<'a> {
    /// The value as it should be. `secret` says that it must not be shown.
    fn value(&mut self, node: &'a Node, parts: Parts<'a>, path: &Path, secret: bool) -> Option<Value> {
        match self.refused.get(path) {
            Some(Refused::Replace) => return self.replacement(&parts, path),
            Some(Refused::Drop) => return None,
            None => {}
        }
        let secret = secret || self.marks_secret(&parts);
        let is_collection = matches!(node.kind, Kind::Sequence(_) | Kind::Mapping(_));
        if secret && !is_collection {
            self.report.masks.push(node.span);
        }
        let asked = parts.clone();
        let parts = match self.with_branches(node, parts, path, secret) {
            Ok(parts) => parts,
            Err(Told) => return self.replacement(&asked, path),
        };
        if let Err(Told) = self.type_fits(node, &parts, path, secret) {
            return self.replacement(&asked, path);
        }
        match &node.kind {
            Kind::Mapping(entries) => self.mapping(entries, &parts, path, secret),
            Kind::Sequence(items) => self.sequence(items, &parts, path, secret),
            Kind::Text(text) => match self.text_fits(text, &parts, path, secret) {
                Ok(()) => Some(node.value()),
                Err(Told) => self.replacement(&asked, path),
            },
            Kind::Number(number) => match self.number_fits(number.as_f64(), &parts, path, secret) {
                Ok(()) => Some(node.value()),
                Err(Told) => self.replacement(&asked, path),
            },
            Kind::Null | Kind::Bool(_) => Some(node.value()),
        }
    }

    /// Whether the schema, or one of its alternatives, says that the value is a secret.
    fn marks_secret(&self, parts: &Parts<'a>) -> bool {
        is_secret(parts)
            || self
                .schema
                .unions(parts)
                .into_iter()
                .flat_map(|list| self.schema.leaves(list))
                .any(|leaf| is_secret(&leaf))
    }

    /// The parts with those of the alternatives that were meant.
    fn with_branches(
        &mut self,
        node: &'a Node,
        mut parts: Parts<'a>,
        path: &Path,
        secret: bool,
    ) -> Result<Parts<'a>, Told> {
        for branches in self.schema.unions(&parts) {
            let leaves = self.schema.leaves(branches);
            let chosen = match choose(node, &leaves, secret, |pattern, text| self.patterns.fits(pattern, text)) {
                Choice::Leaf(index) => index,
                Choice::Try(candidates) => self.fewest_faults(node, &leaves, &candidates, path, secret),
                Choice::Neither { message, help, key } => {
                    let is_collection = matches!(node.kind, Kind::Sequence(_) | Kind::Mapping(_));
                    let marked = self.marks_secret(&parts);
                    // Nothing is known of these values, unless it is only a name that is misspelt.
                    if is_collection && key.is_none() && (help.is_none() || marked) {
                        self.mask_within(node);
                    }
                    let hint = if marked {
                        Some("a secret is named by where it is kept: { file: PATH } or { env: NAME }".to_owned())
                    } else {
                        let of_unit = || leaves.iter().find_map(|leaf| self.unit_help(node, leaf));
                        let of_value = || match &node.kind {
                            Kind::Text(text) => keyword(&parts, HELP_FOR)?.get(text)?.as_str().map(str::to_owned),
                            _ => None,
                        };
                        of_value().filter(|_| !secret).or(help).or_else(|| of_unit().filter(|_| !secret))
                    };
                    let at = key.map_or_else(|| path.clone(), |key| path.key(&key));
                    return Err(self.told(&at, message, hint));
                }
            };
            parts.extend(leaves.into_iter().nth(chosen).unwrap_or_default());
        }
        Ok(parts)
    }

    /// Which of the candidates has the fewest faults, the first among equals.
    fn fewest_faults(
        &mut self,
        node: &'a Node,
        leaves: &[Parts<'a>],
        candidates: &[usize],
        path: &Path,
        secret: bool,
    ) -> usize {
        let tried = candidates.iter().map(|index| {
            let mut trial = Walk {
                document: self.document,
                schema: self.schema,
                patterns: self.patterns,
                refused: self.refused,
                report: Report::default(),
            };
            trial.value(node, leaves[*index].clone(), path, secret);
            (trial.report.faults.len(), *index)
        });
        tried.min_by_key(|(faults, _)| *faults).map_or(0, |(_, index)| index)
    }

    fn type_fits(&mut self, node: &Node, parts: &Parts<'a>, path: &Path, secret: bool) -> Result<(), Told> {
        if !admits(parts, node.json_type()) {
            let message = format!("expected {}, found {}", expectation(parts), node.described(secret));
            let help = if secret { None } else { self.type_help(node, parts) };
            if matches!(node.kind, Kind::Sequence(_) | Kind::Mapping(_)) {
                self.mask_within(node);
            }
            return Err(self.told(path, message, help));
        }
        if let Some(values) = listed(parts)
            && !values.iter().any(|value| is_value(node, value))
        {
            let words: Vec<String> = values.into_iter().map(literal).collect();
            let help = match &node.kind {
                Kind::Text(text) if !secret => nearest(text, words.iter().map(String::as_str)),
                _ => None,
            };
            let help = help.map(|meant| format!("did you mean `{meant}`?"));
            let message = format!("expected {}, found {}", alternatives(words), node.described(secret));
            return Err(self.told(path, message, help));
        }
        Ok(())
    }

    /// How a value of the wrong type may be mended.
    fn type_help(&self, node: &Node, parts: &Parts<'a>) -> Option<String> {
        if let Some(help) = self.unit_help(node, parts) {
            return Some(help);
        }
        match &node.kind {
            Kind::Bool(_) | Kind::Number(_) if admits(parts, "string") => {
                Some(format!("quote it: \"{}\"", literal(&node.value())))
            }
            Kind::Text(text) if admits(parts, "boolean") => match text.to_lowercase().as_str() {
                "yes" | "on" | "y" => Some("write true".to_owned()),
                "no" | "off" | "n" => Some("write false".to_owned()),
                _ => None,
            },
            Kind::Text(text) if admits(parts, "integer") && text.parse::<i64>().is_ok() => {
                Some("remove the quotes".to_owned())
            }
            Kind::Text(_) | Kind::Mapping(_) | Kind::Number(_) if admits(parts, "array") => {
                Some("write a list: [ … ], or one line per element that begins with `- `".to_owned())
            }
            Kind::Sequence(_) if admits(parts, "object") => {
                Some("write `name: value` lines, without `- ` before them".to_owned())
            }
            Kind::Null => Some("give it a value, or remove the key".to_owned()),
            _ => None,
        }
    }

    fn unit_help(&self, node: &Node, parts: &Parts<'a>) -> Option<String> {
        if !admits(parts, "string") {
            return None;
        }
        let pattern = keyword(parts, "pattern")?.as_str()?;
        with_a_unit(node, parts, |text| self.patterns.fits(pattern, text))
            .map(|shown| format!("give it a unit, such as {shown}"))
    }

    fn text_fits(&mut self, text: &str, parts: &Parts<'a>, path: &Path, secret: bool) -> Result<(), Told> {
        let shown = || if secret { "this text".to_owned() } else { format!("\"{}\"", secrets::shown(text)) };
        let bound = |name: &str| keyword(parts, name).and_then(Value::as_u64);
        let length = text.chars().count() as u64;
        if let Some(most) = bound("maxLength").filter(|most| length > *most) {
            return Err(self.told(path, format!("{} has {length} characters: expected at most {most}", shown()), None));
        }
        if let Some(least) = bound("minLength").filter(|least| length < *least) {
            return Err(self.told(
                path,
                format!("{} has {length} characters: expected at least {least}", shown()),
                None,
            ));
        }
        if let Some(pattern) = keyword(parts, "pattern").and_then(Value::as_str)
            && !self.patterns.fits(pattern, text)
        {
            let expected = match examples(parts) {
                Some(examples) => format!("one such as {examples}"),
                None => format!("a text of the form {pattern}"),
            };
            return Err(self.told(path, format!("{} cannot be used here: expected {expected}", shown()), None));
        }
        Ok(())
    }

    fn number_fits(&mut self, number: Option<f64>, parts: &Parts<'a>, path: &Path, secret: bool) -> Result<(), Told> {
        let Some(number) = number else { return Ok(()) };
        let bound = |name: &str| keyword(parts, name).and_then(Value::as_f64);
        let too_small = bound("minimum").is_some_and(|least| number < least)
            || bound("exclusiveMinimum").is_some_and(|least| number <= least);
        let too_large = bound("maximum").is_some_and(|most| number > most)
            || bound("exclusiveMaximum").is_some_and(|most| number >= most);
        if too_small || too_large {
            let shown = if secret { "this number".to_owned() } else { number.to_string() };
            let side = if too_small { "too small" } else { "too large" };
            return Err(self.told(path, format!("{shown} is {side}: expected a number{}", range(parts)), None));
        }
        Ok(())
    }

    fn sequence(&mut self, items: &'a [Node], parts: &Parts<'a>, path: &Path, secret: bool) -> Option<Value> {
        let bound = |name: &str| keyword(parts, name).and_then(Value::as_u64);
        let count = items.len() as u64;
        if let Some(least) = bound("minItems").filter(|least| count < *least) {
            self.told(path, format!("this list has {count} elements: expected at least {least}"), None);
            self.report.mended.push(path.clone());
        }
        if let Some(most) = bound("maxItems").filter(|most| count > *most) {
            self.told(path, format!("this list has {count} elements: expected at most {most}"), None);
            self.report.mended.push(path.clone());
        }
        let unique = keyword(parts, "uniqueItems") == Some(&Value::Bool(true));
        let first_schemas = keyword(parts, "prefixItems").and_then(Value::as_array);
        let mut seen: HashSet<String> = HashSet::new();
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let at = path.index(index);
            if unique && !seen.insert(item.value().to_string()) {
                self.told(&at, "this stands in the list a second time".to_owned(), None);
            }
            let schema = first_schemas.and_then(|schemas| schemas.get(index)).or_else(|| keyword(parts, "items"));
            let value = match schema {
                Some(schema) => self.value(item, self.schema.parts(schema), &at, secret),
                None => Some(item.value()),
            };
            match value {
                Some(value) => values.push(value),
                None => self.report.dropped_items.entry(path.clone()).or_default().push(index),
            }
        }
        let missing = bound("minItems").unwrap_or(0).saturating_sub(values.len() as u64).min(8);
        for _ in 0..missing {
            values.extend(least(self.schema, &self.schema.parts(keyword(parts, "items")?), self.patterns, 0));
        }
        Some(Value::Array(values))
    }

    fn mapping(&mut self, entries: &'a [Entry], parts: &Parts<'a>, path: &Path, secret: bool) -> Option<Value> {
        let names = property_names(parts);
        let mut copy = Map::new();
        let mut is_whole = true;
        let mut settled: Vec<&str> = Vec::new();
        for entry in entries {
            let key = entry.key.as_str();
            let (name, schema, inherits, is_own) = match self.member(entry, parts, &names, entries, path) {
                Member::Known { name, schema } => (name, schema, false, false),
                Member::Free(schema) => (key, schema, secret, true),
                Member::Open => {
                    copy.insert(key.to_owned(), entry.value.value());
                    continue;
                }
                Member::Unknown => continue,
            };
            let at = path.key(key);
            if name != key {
                self.report.renamed.insert(path.key(name), key.to_owned());
            }
            settled.push(name);
            match self.value(&entry.value, self.schema.parts(schema), &at, inherits) {
                Some(value) => {
                    copy.insert(name.to_owned(), value);
                }
                None => {
                    is_whole &= !required(parts).contains(&name);
                    self.left_out(path, key, is_own);
                }
            }
        }
        for name in required(parts) {
            if settled.contains(&name) {
                continue;
            }
            let schema = property(parts, name);
            let what = schema.and_then(|schema| self.summary(schema));
            self.told(path, format!("missing key `{name}`"), what.map(|what| format!("{name}: {what}")));
            self.report.mended.push(path.key(name));
            let is_hopeless = self.refused.get(&path.key(name)) == Some(&Refused::Drop);
            let value = schema
                .filter(|_| !is_hopeless)
                .and_then(|schema| least(self.schema, &self.schema.parts(schema), self.patterns, 0));
            match value {
                Some(value) => drop(copy.insert(name.to_owned(), value)),
                None => is_whole = false,
            }
        }
        is_whole.then_some(Value::Object(copy))
    }

    /// What a key is; tells of one that may not be here.
    fn member(
        &mut self,
        entry: &'a Entry,
        parts: &Parts<'a>,
        names: &[&'a str],
        entries: &[Entry],
        path: &Path,
    ) -> Member<'a> {
        let key = entry.key.as_str();
        if let Some((name, schema)) =
            names.iter().find(|name| **name == key).and_then(|name| Some((*name, property(parts, name)?)))
        {
            return Member::Known { name, schema };
        }
        let by_pattern: Vec<(&String, &'a Value)> =
            parts.iter().filter_map(|part| part.get("patternProperties")?.as_object()).flatten().collect();
        if let Some((_, schema)) = by_pattern.iter().find(|(pattern, _)| self.patterns.fits(pattern, key)) {
            return Member::Free(schema);
        }
        let is_closed = ["additionalProperties", "unevaluatedProperties"]
            .iter()
            .any(|word| parts.iter().any(|part| part.get(*word) == Some(&Value::Bool(false))));
        let at = path.key(key);
        if !is_closed {
            let name_schema = keyword(parts, "propertyNames").map(|schema| self.schema.parts(schema));
            let pattern = name_schema.as_ref().and_then(|parts| keyword(parts, "pattern")?.as_str());
            if let Some(pattern) = pattern.filter(|pattern| !self.patterns.fits(pattern, key)) {
                self.bad_name(&at, entry, pattern);
                return Member::Unknown;
            }
            return match keyword(parts, "additionalProperties") {
                Some(schema @ Value::Object(_)) => Member::Free(schema),
                _ => Member::Open,
            };
        }
        if let (true, Some((pattern, _))) = (names.is_empty(), by_pattern.first()) {
            self.mask_within(&entry.value);
            self.bad_name(&at, entry, pattern);
            return Member::Unknown;
        }
        let meant = nearest(key, names.iter().copied());
        // Whatever stands under a key that nobody knows may be a secret. A misspelt one holds what its right name would.
        if meant.is_none() || secrets::names_a_secret(key) {
            self.report.masks.push(entry.value.span);
        }
        let help = match meant {
            Some(meant) => Some(format!("did you mean `{meant}`?")),
            None if names.is_empty() => Some("nothing may stand here".to_owned()),
            None => Some(format!("known here: {}", alternatives(names.iter().map(|name| (*name).to_owned())))),
        };
        let fault = Fault::error(&at, format!("unknown key `{}`", secrets::shown(key)));
        self.note(Fault { help, ..fault }, entry.key_span);
        // Taken as meant, unless the right key is there too, so that nothing is said to be missing that was misspelt.
        let free = meant.filter(|meant| !entries.iter().any(|other| other.key == **meant));
        match free.and_then(|name| Some((name, property(parts, name)?))) {
            Some((name, schema)) => Member::Known { name, schema },
            None => Member::Unknown,
        }
    }

    fn bad_name(&mut self, at: &Path, entry: &Entry, pattern: &str) {
        let message =
            format!("`{}` cannot be a name here: expected one of the form {pattern}", secrets::shown(&entry.key));
        self.note(Fault::error(at, message), entry.key_span);
        self.left_out(at, &entry.key, true);
    }

    /// The first sentence of a schema's description.
    fn summary(&self, schema: &'a Value) -> Option<String> {
        let parts = self.schema.parts(schema);
        let text = keyword(&parts, "description")?.as_str()?;
        let paragraph = text.split("\n\n").next().unwrap_or(text).replace('\n', " ");
        let sentence = paragraph.split_once(". ").map_or(paragraph.as_str(), |(first, _)| first);
        Some(sentence.trim_end_matches('.').to_owned())
    }

    fn replacement(&mut self, parts: &Parts<'a>, path: &Path) -> Option<Value> {
        self.report.mended.push(path.clone());
        least(self.schema, parts, self.patterns, 0)
    }

    fn mask_within(&mut self, node: &Node) {
        match &node.kind {
            Kind::Sequence(items) => items.iter().for_each(|item| self.mask_within(item)),
            Kind::Mapping(entries) => entries.iter().for_each(|entry| self.mask_within(&entry.value)),
            _ => self.report.masks.push(node.span),
        }
    }

    fn told(&mut self, at: &Path, message: String, help: Option<String>) -> Told {
        let span = self.document.span_of(at);
        self.note(Fault { help, ..Fault::error(at, message) }, span);
        Told
    }

    fn note(&mut self, fault: Fault, span: Span) {
        if self.report.faults.len() < MOST_FAULTS {
            self.report.faults.push((fault, span));
        }
    }

    /// A part of the mapping at `within` is missing from the copy: something with a name of the operator's own, or what
    /// stood under one of the mapping's keys.
    fn left_out(&mut self, within: &Path, name: &str, is_own: bool) {
        if self.report.dropped.len() + self.report.dropped_keys.len() >= MOST_FAULTS {
            return;
        }
        if is_own {
            self.report.dropped.push(name.to_owned());
        } else {
            self.report.dropped_keys.push((within.clone(), name.to_owned()));
        }
    }
}

/// Whether the text speaks of this name, as a word of its own.
fn names(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !name.is_empty() && !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// A fault was noted.
struct Told;

/// What a key of a mapping is.
enum Member<'a> {
    /// A property, perhaps misspelt.
    Known { name: &'a str, schema: &'a Value },
    /// A name of the operator's own.
    Free(&'a Value),
    /// Anything may stand here.
    Open,
    /// It may not be here, which was told.
    Unknown,
}
