//! A fault with the line it stands in, ready to be told.

use std::sync::Arc;

use sluice_vocabulary::fault::{Fault, Severity};

use crate::document::{Location, Span};
use crate::secrets;
use crate::source::Source;

/// The widest excerpt of a line, in characters.
const WIDEST: usize = 120;

/// A fault, where it stands, and the line that holds it, free of secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    fault: Fault,
    file: Arc<str>,
    location: Location,
    length: usize,
    excerpt: Excerpt,
}

/// A line, or the part of a long one around the fault.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Excerpt {
    pub(crate) text: String,
    /// How many characters stand before what is pointed at.
    pub(crate) indent: usize,
    /// How many characters are pointed at; at least one.
    pub(crate) width: usize,
}

impl Diagnostic {
    /// A fault in a document that was understood; `masks` are the places not to be shown.
    pub(crate) fn new(fault: Fault, span: Span, source: &Source, masks: &[Span]) -> Self {
        let line = line(source, span.start.line);
        let ranges: Vec<(usize, usize)> =
            masks.iter().filter_map(|mask| range_in_line(mask, span.start.line, line)).collect();
        Self::made(fault, span, source, line, &ranges)
    }

    /// A fault in a document that was not understood, whose secrets can only be guessed at.
    pub(crate) fn guarded(fault: Fault, span: Span, source: &Source) -> Self {
        let line = line(source, span.start.line);
        Self::made(fault, span, source, line, &secrets::guarded_ranges(line))
    }

    fn made(fault: Fault, span: Span, source: &Source, line: &str, masked: &[(usize, usize)]) -> Self {
        let (from, to) =
            range_in_line(&span, span.start.line, line).unwrap_or((span.start.column - 1, span.start.column));
        let excerpt = Excerpt::of(line, from, to, masked);
        Self { fault, file: source.name().clone(), location: span.start, length: (to - from).max(1), excerpt }
    }

    /// What is wrong.
    pub fn fault(&self) -> &Fault {
        &self.fault
    }

    /// Whether it stops the configuration from being used.
    pub fn is_error(&self) -> bool {
        self.fault.severity == Severity::Error
    }

    /// The file, as it was named when read.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where it stands.
    pub fn location(&self) -> Location {
        self.location
    }

    /// How many characters of the line it concerns; at least one.
    pub fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn excerpt(&self) -> &Excerpt {
        &self.excerpt
    }
}

/// A line's text by its number from 1; empty past the end.
fn line(source: &Source, number: usize) -> &str {
    source.text().lines().nth(number.saturating_sub(1)).unwrap_or_default()
}

/// Which characters of line `number` the span covers, counted from 0, without the blanks at its end.
fn range_in_line(span: &Span, number: usize, line: &str) -> Option<(usize, usize)> {
    if number < span.start.line || number > span.end.line {
        return None;
    }
    let length = line.trim_end().chars().count();
    let from = if number == span.start.line { span.start.column - 1 } else { 0 };
    let to = if number == span.end.line { span.end.column - 1 } else { length };
    let to = to.min(length);
    // A flow collection's end is told with the blanks after it.
    let covered = line.chars().take(to).skip(from);
    let to = to - covered.fold(0, |blanks, c| if c.is_whitespace() { blanks + 1 } else { 0 });
    (from < to).then_some((from, to))
}

impl Excerpt {
    fn of(line: &str, from: usize, to: usize, masked: &[(usize, usize)]) -> Self {
        let mut text = String::new();
        let (mut indent, mut width) = (None, 0);
        let mut written = 0;
        let mut masking = false;
        for (at, c) in line.chars().enumerate() {
            let shown = if masked.iter().any(|(start, end)| (*start..*end).contains(&at)) {
                if masking { "".to_owned() } else { secrets::REDACTED.to_owned() }
            } else if c == '\t' {
                " ".to_owned()
            } else {
                c.escape_debug().filter(|_| c.is_control()).chain((!c.is_control()).then_some(c)).collect()
            };
            masking = masked.iter().any(|(start, end)| (*start..*end).contains(&at));
            if at == from {
                // Within a mask, the mask's beginning is what can be pointed at.
                indent = Some(if shown.is_empty() { written - secrets::REDACTED.len() } else { written });
            }
            let count = shown.chars().count();
            if (from..to).contains(&at) {
                width += count;
            }
            written += count;
            text.push_str(&shown);
        }
        Self { indent: indent.unwrap_or(written), width: width.max(1), text }.windowed()
    }

    /// Of a long line, the part that is pointed at.
    fn windowed(self) -> Self {
        let length = self.text.chars().count();
        if length <= WIDEST {
            return self;
        }
        let start = self.indent.saturating_sub(WIDEST / 3);
        let before = if start > 0 { "…" } else { "" };
        let after = if start + WIDEST < length { "…" } else { "" };
        let part: String = self.text.chars().skip(start).take(WIDEST).collect();
        let indent = self.indent - start + before.chars().count();
        let width = self.width.min(WIDEST.saturating_sub(self.indent - start)).max(1);
        Self { text: format!("{before}{part}{after}"), indent, width }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_takes_the_secrets_place_and_is_pointed_at() {
        let excerpt = Excerpt::of("  password: hunter2 # x", 12, 19, &[(12, 19)]);
        assert_eq!(excerpt, Excerpt { text: "  password: [redacted] # x".to_owned(), indent: 12, width: 10 });
        let within = Excerpt::of("a: hunter2", 5, 7, &[(3, 10)]);
        assert_eq!((within.text.as_str(), within.indent), ("a: [redacted]", 3));
    }

    #[test]
    fn of_a_long_line_the_part_around_the_fault_is_shown() {
        let line = format!("{}HERE{}", "a".repeat(500), "b".repeat(500));
        let excerpt = Excerpt::of(&line, 500, 504, &[]);
        let pointed: String = excerpt.text.chars().skip(excerpt.indent).take(excerpt.width).collect();
        assert_eq!(pointed, "HERE");
        assert!(excerpt.text.chars().count() <= WIDEST + 2);
    }
}
