//! Which of several alternatives a value was meant as.
//!
//! A schema says "one of these"; a person wants to hear what is wrong with the one they meant. It is told by the value's
//! type, then by a tag (`type: x`), then by the keys that are there, and only then by trying which has the fewest faults.

use serde_json::Value;

use crate::document::{Entry, Kind, Node};
use crate::schema::{Parts, admits, keyword, listed, property, property_names, required};
use crate::words::{alternatives, examples, expectations, is_value, literal, nearest};

/// What became of the choice.
pub(crate) enum Choice {
    /// This alternative was meant.
    Leaf(usize),
    /// One of these was meant; trying tells which.
    Try(Vec<usize>),
    /// None can have been meant: why, what may help, and the key whose value is at fault, if not the whole.
    Neither { message: String, help: Option<String>, key: Option<String> },
}

/// Chooses among alternatives. `secret` keeps the value out of messages.
pub(crate) fn choose(node: &Node, leaves: &[Parts<'_>], secret: bool, fits: impl Fn(&str, &str) -> bool) -> Choice {
    let candidates: Vec<usize> = (0..leaves.len()).filter(|index| admits(&leaves[*index], node.json_type())).collect();
    match (candidates.as_slice(), &node.kind) {
        ([], _) => {
            let message = format!("expected {}, found {}", expectations(leaves), node.described(secret));
            Choice::Neither { message, help: None, key: None }
        }
        ([only], _) if listed(&leaves[*only]).is_none() => Choice::Leaf(*only),
        (_, Kind::Text(text)) => scalar(node, text, leaves, &candidates, secret, fits),
        (_, Kind::Mapping(entries)) => mapping(node, entries, leaves, &candidates, secret),
        ([only], _) => Choice::Leaf(*only),
        _ => Choice::Try(candidates),
    }
}

fn scalar(
    node: &Node,
    text: &str,
    leaves: &[Parts<'_>],
    candidates: &[usize],
    secret: bool,
    fits: impl Fn(&str, &str) -> bool,
) -> Choice {
    let mut listed_words: Vec<String> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    for index in candidates {
        match listed(&leaves[*index]) {
            Some(values) => {
                if values.iter().any(|value| is_value(node, value)) {
                    return Choice::Leaf(*index);
                }
                listed_words.extend(values.into_iter().map(literal));
            }
            None => free.push(*index),
        }
    }
    let pattern_fits =
        |index: &&usize| keyword(&leaves[**index], "pattern").and_then(Value::as_str).is_none_or(|p| fits(p, text));
    if let Some(index) = free.iter().find(pattern_fits) {
        return Choice::Leaf(*index);
    }
    if let ([only], true) = (free.as_slice(), listed_words.is_empty()) {
        return Choice::Leaf(*only);
    }
    let help = nearest(text, listed_words.iter().map(String::as_str))
        .filter(|_| !secret)
        .map(|meant| format!("did you mean `{meant}`?"));
    let such = free.iter().filter_map(|index| examples(&leaves[*index])).map(|shown| format!("one such as {shown}"));
    let expected = alternatives(listed_words.iter().cloned().chain(such));
    Choice::Neither { message: format!("expected {expected}, found {}", node.described(secret)), help, key: None }
}

fn mapping(node: &Node, entries: &[Entry], leaves: &[Parts<'_>], candidates: &[usize], secret: bool) -> Choice {
    if let Some(tag) = tag(leaves, candidates) {
        return by_tag(node, tag, leaves, candidates, secret);
    }
    let known = |index: usize| {
        let names = property_names(&leaves[index]);
        entries.iter().filter(|entry| names.contains(&entry.key.as_str())).count()
    };
    let most = candidates.iter().map(|index| known(*index)).max().unwrap_or(0);
    if most > 0 {
        let mut best: Vec<usize> = candidates.iter().copied().filter(|index| known(*index) == most).collect();
        if best.len() == 1 {
            return Choice::Leaf(best.remove(0));
        }
        return Choice::Try(best);
    }
    // No key is known: perhaps one is misspelt, perhaps the alternative has no key in particular.
    if let Some(open) = candidates.iter().find(|index| required(&leaves[**index]).is_empty()) {
        return Choice::Leaf(*open);
    }
    let names: Vec<&str> = candidates.iter().flat_map(|index| required(&leaves[*index])).collect();
    let meant = entries.iter().find_map(|entry| nearest(&entry.key, names.iter().copied()));
    let expected = alternatives(names.iter().map(|name| format!("`{name}`")));
    Choice::Neither {
        message: format!("expected a mapping with the key {expected}"),
        help: meant.map(|meant| format!("did you mean `{meant}`?")),
        key: None,
    }
}

/// A property that tells the alternatives apart: required by all, with listed values.
fn tag<'a>(leaves: &[Parts<'a>], candidates: &[usize]) -> Option<&'a str> {
    let first = &leaves[*candidates.first()?];
    let is_tag = |name: &&str| {
        candidates.iter().all(|index| {
            let leaf = &leaves[*index];
            let lists = |value: &Value| value.get("const").is_some() || value.get("enum").is_some();
            required(leaf).contains(name) && property(leaf, name).is_some_and(lists)
        })
    };
    if candidates.len() < 2 { None } else { required(first).into_iter().find(is_tag) }
}

fn by_tag(node: &Node, tag: &str, leaves: &[Parts<'_>], candidates: &[usize], secret: bool) -> Choice {
    let values = |index: &usize| -> Vec<Value> {
        let Some(schema) = property(&leaves[*index], tag) else { return Vec::new() };
        schema
            .get("const")
            .cloned()
            .into_iter()
            .chain(schema.get("enum").and_then(Value::as_array).cloned().unwrap_or_default())
            .collect()
    };
    let words: Vec<String> = candidates.iter().flat_map(&values).map(|value| literal(&value)).collect();
    let expected = alternatives(words.iter().cloned());
    let Some(written) = node.get(tag) else {
        return Choice::Neither { message: format!("missing key `{tag}`: expected {expected}"), help: None, key: None };
    };
    if let Some(index) = candidates.iter().find(|index| values(index).iter().any(|value| is_value(written, value))) {
        return Choice::Leaf(*index);
    }
    let help = match &written.kind {
        Kind::Text(text) => {
            nearest(text, words.iter().map(String::as_str)).map(|meant| format!("did you mean `{meant}`?"))
        }
        _ => None,
    };
    let message = format!("expected {expected}, found {}", written.described(secret));
    Choice::Neither { message, help, key: Some(tag.to_owned()) }
}
