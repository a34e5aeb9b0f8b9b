//! From document to configuration: nothing is given away while there is an error.

use std::collections::{HashMap, HashSet};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use sluice_vocabulary::fault::{Fault, Faults, Path};

use crate::check::{Patterns, Refused, Report, check};
use crate::diagnostic::Diagnostic;
use crate::document::{Document, Kind, Node, Span};
use crate::schema::{self, Schema};
use crate::secrets;

/// How many values the type itself may refuse before the rest is left for the next time.
const MOST_REFUSED: usize = 128;

/// A document compared with a type; not yet with the type's own rules.
#[derive(Debug)]
pub struct Loaded<'a, T> {
    document: &'a Document,
    /// The type, of the document or of a mended copy of it.
    reading: Option<T>,
    faults: Vec<(Fault, Span)>,
    masks: Vec<Span>,
    report: Report,
}

/// A configuration without errors.
#[derive(Debug)]
pub struct Accepted<T> {
    /// The configuration.
    pub config: T,
    /// What in it is risky.
    pub warnings: Vec<Diagnostic>,
}

/// Reads the document as a `T`: compares all of it with the type's schema, then makes the type. What the schema or the
/// type refuses is replaced in a copy, so that all of it is found and [`Loaded::check`] can still apply the type's rules.
pub fn load<T: DeserializeOwned + JsonSchema>(document: &Document) -> Loaded<'_, T> {
    let root = schema::value::<T>();
    let schema = Schema::new(&root);
    let patterns = Patterns::default();
    let mut refused: HashMap<Path, Refused> = HashMap::new();
    let mut report = check(document, schema, &patterns, &refused);
    let mut faults = std::mem::take(&mut report.faults);
    let mut masks = document.masks.clone();
    masks.extend(&report.masks);
    let mut reading = None;
    while let Some(value) = report.value.take() {
        let error = match serde_path_to_error::deserialize::<_, T>(value) {
            Ok(config) => {
                reading = Some(config);
                break;
            }
            Err(error) => error,
        };
        let path = place(&error, &report, document);
        if !report.is_mended(&path) {
            let is_masked = document.node_at(&path).is_some_and(|node| masks.contains(&node.span));
            let message = if is_masked { "this value is not accepted".to_owned() } else { error.inner().to_string() };
            faults.push((Fault::error(&path, message), document.span_of(&path)));
        }
        let next = match refused.get(&path) {
            None => Refused::Replace,
            Some(Refused::Replace) if !path.steps().is_empty() => Refused::Drop,
            Some(_) => break,
        };
        refused.insert(path, next);
        if refused.len() > MOST_REFUSED {
            break;
        }
        let mended = std::mem::take(&mut report.mended);
        report = check(document, schema, &patterns, &refused);
        report.mended.extend(mended);
    }
    if reading.is_none() && faults.is_empty() {
        let message = "this cannot be read as a configuration";
        faults.push((Fault::error(&Path::root(), message), document.span_of(&Path::root())));
    }
    Loaded { document, reading, faults, masks, report }
}

impl<T> Loaded<'_, T> {
    /// Changes the configuration before its rules are applied: for what depends on where the file is, such as relative
    /// paths.
    #[must_use]
    pub fn prepared(mut self, prepare: impl FnOnce(&mut T)) -> Self {
        if let Some(config) = &mut self.reading {
            prepare(config);
        }
        self
    }

    /// Applies the type's own rules and gives the configuration, or every fault of form and of meaning, in the order of
    /// the document. Faults that follow only from a value having been replaced are left out.
    pub fn check(self, validate: impl FnOnce(&T, &mut Faults)) -> Result<Accepted<T>, Vec<Diagnostic>> {
        let mut found = self.faults;
        if let Some(config) = &self.reading {
            let mut faults = Faults::new();
            validate(config, &mut faults);
            for fault in faults.into_vec() {
                let path = self.report.original(&fault.path);
                if !self.report.accounts_for(&path, &fault.message) {
                    let span = self.document.span_of(&path);
                    found.push((Fault { path, ..fault }, span));
                }
            }
        }
        let hidden = hidden_texts(&self.document.root, &self.masks);
        let mut diagnostics: Vec<Diagnostic> = self.document.warnings.clone();
        for (fault, span) in found {
            let fault = without(fault, &hidden);
            let diagnostic = Diagnostic::new(fault, span, &self.document.source, &self.masks);
            if !diagnostics.contains(&diagnostic) {
                diagnostics.push(diagnostic);
            }
        }
        diagnostics.sort_by_key(Diagnostic::location);
        match self.reading {
            Some(config) if !diagnostics.iter().any(Diagnostic::is_error) => {
                Ok(Accepted { config, warnings: diagnostics })
            }
            _ => Err(diagnostics),
        }
    }
}

/// Where in the document the type refused a value.
fn place(error: &serde_path_to_error::Error<serde_json::Error>, report: &Report, document: &Document) -> Path {
    let mut path = Path::root();
    for segment in error.path() {
        path = match segment {
            Segment::Seq { index } => path.index(*index),
            Segment::Map { key } => path.key(key),
            // A variant is a key where it has content, and the value itself where it has none.
            Segment::Enum { variant } => {
                let inner = path.key(variant);
                if document.node_at(&report.original(&inner)).is_some() { inner } else { path }
            }
            Segment::Unknown => break,
        };
    }
    report.original(&path)
}

/// The texts that must not be shown, so that a rule's message that repeats one can be cleared of it.
fn hidden_texts(root: &Node, masks: &[Span]) -> Vec<String> {
    let masks: HashSet<&Span> = masks.iter().collect();
    let mut texts = Vec::new();
    let mut rest = vec![root];
    while let Some(node) = rest.pop() {
        match &node.kind {
            Kind::Text(text) if masks.contains(&node.span) => texts.push(text.clone()),
            Kind::Number(number) if masks.contains(&node.span) => texts.push(number.to_string()),
            Kind::Sequence(items) => rest.extend(items),
            Kind::Mapping(entries) => rest.extend(entries.iter().map(|entry| &entry.value)),
            _ => {}
        }
    }
    // Very short texts would tear holes into the words of messages, and are no secrets worth the name.
    texts.retain(|text| text.trim().len() >= 4);
    texts
}

fn without(mut fault: Fault, hidden: &[String]) -> Fault {
    for text in hidden {
        if fault.message.contains(text.as_str()) {
            fault.message = fault.message.replace(text.as_str(), secrets::REDACTED);
        }
        if let Some(help) = fault.help.as_mut().filter(|help| help.contains(text.as_str())) {
            *help = help.replace(text.as_str(), secrets::REDACTED);
        }
    }
    fault
}
