//! A parsed configuration: a tree of values that know where they stand.

use std::sync::Arc;

use serde_json::{Map, Number, Value};
use sluice_vocabulary::fault::{Path, Step};

use crate::diagnostic::Diagnostic;
use crate::source::Source;

/// A place in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

/// From a place up to, not including, another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    pub(crate) start: Location,
    pub(crate) end: Location,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) kind: Kind,
}

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

/// A key, its place, and its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

/// A well-formed configuration document, not yet checked against anything.
#[derive(Debug, Clone)]
pub struct Document {
    pub(crate) source: Source,
    pub(crate) root: Node,
    /// Where values stand that must not be shown, whatever they are configured as.
    pub(crate) masks: Vec<Span>,
    pub(crate) warnings: Vec<Diagnostic>,
}

impl Document {
    /// Parses the text; every fault of form is reported that can be found in one go.
    pub fn parse(source: &Source) -> Result<Self, Vec<Diagnostic>> {
        crate::parse::parse(source)
    }

    /// The file's name as it was given.
    pub fn name(&self) -> &Arc<str> {
        self.source.name()
    }

    /// The whole as plain values.
    pub fn value(&self) -> Value {
        self.root.value()
    }

    /// Where the value at `path` stands, or the nearest thing above it that is there.
    pub fn locate(&self, path: &Path) -> Option<Location> {
        Some(self.span_of(path).start)
    }

    /// The span of the value at `path`; of a collection that spans lines, of its key; of what is not there, of what would
    /// hold it.
    pub(crate) fn span_of(&self, path: &Path) -> Span {
        let mut node = &self.root;
        let mut span = node.span;
        for step in path.steps() {
            match (step, &node.kind) {
                (Step::Key(key), Kind::Mapping(entries)) => {
                    let Some(entry) = entries.iter().find(|entry| *entry.key == **key) else { break };
                    node = &entry.value;
                    let block = matches!(node.kind, Kind::Mapping(_) | Kind::Sequence(_) | Kind::Null)
                        && node.span.start.line != entry.key_span.start.line;
                    let empty = matches!(node.kind, Kind::Null) && node.span.start == node.span.end;
                    span = if block || empty { entry.key_span } else { node.span };
                }
                (Step::Index(index), Kind::Sequence(items)) => {
                    let Some(item) = items.get(*index) else { break };
                    node = item;
                    span = node.span;
                }
                _ => break,
            }
        }
        span
    }

    pub(crate) fn node_at(&self, path: &Path) -> Option<&Node> {
        path.steps().iter().try_fold(&self.root, |node, step| match (step, &node.kind) {
            (Step::Key(key), Kind::Mapping(_)) => node.get(key),
            (Step::Index(index), Kind::Sequence(items)) => items.get(*index),
            _ => None,
        })
    }
}

impl Node {
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Mapping(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value),
            _ => None,
        }
    }

    pub(crate) fn value(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(value) => Value::Bool(*value),
            Kind::Number(value) => Value::Number(value.clone()),
            Kind::Text(value) => Value::String(value.clone()),
            Kind::Sequence(items) => Value::Array(items.iter().map(Self::value).collect()),
            Kind::Mapping(entries) => {
                let members = entries.iter().map(|entry| (entry.key.clone(), entry.value.value()));
                Value::Object(members.collect::<Map<_, _>>())
            }
        }
    }
}
