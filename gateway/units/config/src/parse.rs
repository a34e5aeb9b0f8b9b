//! From text to document, by the events of a YAML parser.
//!
//! Whatever the parser reports as malformed ends the parse, since nothing after it can be trusted. Everything that is
//! well-formed but not taken here (a duplicate key, an anchor, a tag, a number without end) is noted and the parse goes on.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};
use sluice_vocabulary::fault::{Fault, Path};

use crate::diagnostic::Diagnostic;
use crate::document::{Document, Entry, Kind, Location, Node, Span};
use crate::scalar::{self, NotANumber};
use crate::secrets;
use crate::source::Source;

/// How deep a document may nest. A configuration of ours nests eight deep.
const DEEPEST: usize = 64;
/// How many faults of form are listed; more help nobody.
const MOST_FAULTS: usize = 200;

pub(crate) fn parse(source: &Source) -> Result<Document, Vec<Diagnostic>> {
    if let Some(fault) = unprintable(source) {
        return Err(vec![fault]);
    }
    let mut builder = Builder {
        source,
        parser: Parser::new_from_str(source.text()),
        faults: Vec::new(),
        warnings: Vec::new(),
        masks: Vec::new(),
    };
    let root = builder.document();
    let Builder { mut faults, warnings, masks, .. } = builder;
    match root {
        Ok(root) if faults.is_empty() => Ok(Document { source: source.clone(), root, masks, warnings }),
        Ok(_) => Err(faults),
        Err(Ended) => {
            // The parser's own complaint is the root of what follows it, so it stands by its place like the others.
            faults.sort_by_key(|fault| fault.location());
            Err(faults)
        }
    }
}

/// The parse cannot go on; why was noted.
struct Ended;

struct Builder<'a> {
    source: &'a Source,
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    faults: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    masks: Vec<Span>,
}

type Next<'a> = (Event<'a>, Span);

impl<'a> Builder<'a> {
    fn document(&mut self) -> Result<Node, Ended> {
        let start = Location { line: 1, column: 1 };
        let mut root = Node { span: Span { start, end: start }, kind: Kind::Null };
        let mut documents = 0;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(root),
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        self.fault(&Path::root(), span, "a second document begins here: a configuration is one", None);
                        return Err(Ended);
                    }
                }
                Event::DocumentEnd | Event::StreamStart | Event::Nothing => {}
                event => root = self.node((event, span), &Path::root(), 0, false)?,
            }
        }
    }

    fn next(&mut self) -> Result<Next<'a>, Ended> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self::span(&span))),
            Some(Err(error)) => {
                self.malformed(&error);
                Err(Ended)
            }
            None => Err(Ended),
        }
    }

    /// The value that begins with this event. `secret` says that its key names something not to be shown.
    fn node(&mut self, (event, span): Next<'a>, path: &Path, depth: usize, secret: bool) -> Result<Node, Ended> {
        if depth > DEEPEST {
            self.fault(path, span, format!("nested deeper than {DEEPEST} levels"), None);
            return Err(Ended);
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_extras(path, span, anchor, tag.as_ref().map(ToString::to_string));
                let kind = match style {
                    ScalarStyle::Plain => match scalar::resolve(&text) {
                        Ok(kind) => kind,
                        Err(NotANumber) => {
                            let message =
                                format!("{text} is not a number that can be used: expected one of at most 64 bits");
                            self.fault(path, span, message, Some("quote it if it is a text".to_owned()));
                            Kind::Null
                        }
                    },
                    _ => Kind::Text(text.into_owned()),
                };
                let looks_secret = matches!(&kind, Kind::Text(text) if secrets::looks_secret(text));
                if looks_secret || (secret && matches!(kind, Kind::Text(_) | Kind::Number(_))) {
                    self.masks.push(span);
                }
                if let Kind::Text(text) = &kind {
                    self.warn_of_substitution(path, span, text);
                }
                Ok(Node { span, kind })
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_extras(path, span, anchor, tag.as_ref().map(ToString::to_string));
                let mut items = Vec::new();
                loop {
                    let (event, next) = self.next()?;
                    if event == Event::SequenceEnd {
                        let span = Span { start: span.start, end: next.end };
                        return Ok(Node { span, kind: Kind::Sequence(items) });
                    }
                    let at = path.index(items.len());
                    items.push(self.node((event, next), &at, depth + 1, secret)?);
                }
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_extras(path, span, anchor, tag.as_ref().map(ToString::to_string));
                self.mapping(span, path, depth)
            }
            Event::Alias(_) => {
                let help = "write the value out, or give it a name that the configuration itself knows";
                self.fault(path, span, "aliases are not supported", Some(help.to_owned()));
                Ok(Node { span, kind: Kind::Null })
            }
            // An end without its start, which the parser does not produce.
            _ => Err(Ended),
        }
    }

    fn mapping(&mut self, start: Span, path: &Path, depth: usize) -> Result<Node, Ended> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut by_name: std::collections::HashMap<String, Location> = std::collections::HashMap::new();
        loop {
            let (event, key_span) = self.next()?;
            if event == Event::MappingEnd {
                let span = Span { start: start.start, end: key_span.end };
                return Ok(Node { span, kind: Kind::Mapping(entries) });
            }
            let key = match event {
                Event::Scalar(text, style, anchor, tag) => {
                    self.refuse_extras(path, key_span, anchor, tag.as_ref().map(ToString::to_string));
                    if style == ScalarStyle::Plain && text == "<<" {
                        let help = "write the keys out";
                        self.fault(path, key_span, "merge keys are not supported", Some(help.to_owned()));
                    }
                    Some(text.into_owned())
                }
                event => {
                    let is_alias = matches!(event, Event::Alias(_));
                    self.node((event, key_span), path, depth + 1, false)?;
                    if !is_alias {
                        self.fault(path, key_span, "a key must be a text", None);
                    }
                    None
                }
            };
            let next = self.next()?;
            let at = path.key(key.as_deref().unwrap_or("?"));
            let secret = key.as_deref().is_some_and(secrets::names_a_secret);
            let value = self.node(next, &at, depth + 1, secret)?;
            let Some(key) = key else { continue };
            if let Some(first) = by_name.get(&key) {
                let message = format!("the key `{}` stands here a second time", secrets::shown(&key));
                let help = format!("it stands first in line {}, column {}", first.line, first.column);
                self.fault(&at, key_span, message, Some(help));
            } else {
                by_name.insert(key.clone(), key_span.start);
                entries.push(Entry { key, key_span, value });
            }
        }
    }

    fn refuse_extras(&mut self, path: &Path, span: Span, anchor: usize, tag: Option<String>) {
        if anchor > 0 {
            let help = Some("remove it, and write the value out where it is used".to_owned());
            self.fault(path, span, "anchors are not supported", help);
        }
        if tag.is_some() {
            let help = Some("remove it: what a value is follows from where it stands".to_owned());
            self.fault(path, span, "tags are not supported", help);
        }
    }

    /// Many expect `${HOME}` to be replaced. Where it stands as a text it may also be meant.
    fn warn_of_substitution(&mut self, path: &Path, span: Span, text: &str) {
        let variable = text.split_once("${").and_then(|(_, rest)| rest.split_once('}')).map(|(name, _)| name);
        let named = |name: &str| {
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        };
        if let Some(name) = variable.filter(|name| named(name)) {
            let message = format!("`${{{name}}}` is taken literally: environment variables are not substituted");
            let fault = Fault::warning(path, message)
                .help(format!("where a secret is expected, {{ env: {name} }} names a variable"));
            self.warnings.push(Diagnostic::guarded(fault, span, self.source));
        }
    }

    fn fault(&mut self, path: &Path, span: Span, message: impl Into<String>, help: Option<String>) {
        if self.faults.len() >= MOST_FAULTS {
            return;
        }
        let mut fault = Fault::error(path, message);
        fault.help = help;
        self.faults.push(Diagnostic::guarded(fault, span, self.source));
    }

    fn malformed(&mut self, error: &ScanError) {
        let start = location(error.marker());
        let span = Span { start, end: Location { column: start.column + 1, ..start } };
        let info = error.info();
        let help = if info.contains("tab") {
            Some("indent with spaces".to_owned())
        } else if info.contains("mapping values are not allowed") || info.contains("simple key") {
            Some("check the indentation of this line and the one before, and quote texts that hold `: `".to_owned())
        } else {
            None
        };
        self.fault(&Path::root(), span, format!("this is not well-formed YAML: {info}"), help);
    }
}

fn span(span: &saphyr_parser::Span) -> Span {
    Span { start: location(&span.start), end: location(&span.end) }
}

fn location(marker: &Marker) -> Location {
    // Lines count from 1 and columns from 0 in the parser; a line 0 appears for an empty text only.
    Location { line: marker.line().max(1), column: marker.col() + 1 }
}

/// The first character that a configuration must not hold: controls, and those that make a text look other than it is.
fn unprintable(source: &Source) -> Option<Diagnostic> {
    for (index, line) in source.text().split('\n').enumerate() {
        let body = line.strip_suffix('\r').unwrap_or(line);
        let bad = body.chars().enumerate().find(|(_, c)| {
            (c.is_control() && *c != '\t')
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        });
        if let Some((column, c)) = bad {
            let start = Location { line: index + 1, column: column + 1 };
            let span = Span { start, end: Location { column: column + 2, ..start } };
            let message = format!("the character U+{:04X} must not stand in a configuration", u32::from(c));
            let fault = Fault::error(&Path::root(), message).help("in a quoted text it can be written as an escape");
            return Some(Diagnostic::guarded(fault, span, source));
        }
    }
    None
}
