//! How faults are told: to a person as a compiler would, to a program as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::diagnostic::Diagnostic;

/// Faults as a person reads them, in the order of the lines they stand in, closed by a count. Empty for none.
///
/// ```text
/// error: unknown key `upstrem`
///   --> edge.yaml:12:5 (routes[2].upstrem)
///    |
/// 12 |     upstrem: orders
///    |     ^^^^^^^
///    = help: did you mean `upstream`?
/// ```
pub fn text(diagnostics: &[Diagnostic], colour: bool) -> String {
    let style = if colour { Style::COLOUR } else { Style::PLAIN };
    let mut out = String::new();
    for diagnostic in sorted(diagnostics) {
        one(diagnostic, &style, &mut out);
        out.push('\n');
    }
    if !diagnostics.is_empty() {
        let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        let file = diagnostics.first().map_or("", Diagnostic::file);
        let _ = writeln!(out, "{}", count(errors, diagnostics.len() - errors, file));
    }
    out
}

/// Faults as a JSON array of objects: `severity`, `file`, `line`, `column`, `length`, `path`, `message`, `help` (or null).
pub fn json(diagnostics: &[Diagnostic]) -> Value {
    sorted(diagnostics)
        .into_iter()
        .map(|diagnostic| {
            json!({
                "severity": if diagnostic.is_error() { "error" } else { "warning" },
                "file": diagnostic.file(),
                "line": diagnostic.location().line,
                "column": diagnostic.location().column,
                "length": diagnostic.length(),
                "path": diagnostic.fault().path.to_string(),
                "message": diagnostic.fault().message,
                "help": diagnostic.fault().help,
            })
        })
        .collect()
}

struct Style {
    error: &'static str,
    warning: &'static str,
    frame: &'static str,
    strong: &'static str,
    plain: &'static str,
}

impl Style {
    const PLAIN: Self = Self { error: "", warning: "", frame: "", strong: "", plain: "" };
    const COLOUR: Self =
        Self { error: "\x1b[1;31m", warning: "\x1b[1;33m", frame: "\x1b[1;34m", strong: "\x1b[1m", plain: "\x1b[0m" };
}

fn sorted(diagnostics: &[Diagnostic]) -> Vec<&Diagnostic> {
    let mut sorted: Vec<&Diagnostic> = diagnostics.iter().collect();
    sorted.sort_by_key(|diagnostic| diagnostic.location());
    sorted
}

fn one(diagnostic: &Diagnostic, style: &Style, out: &mut String) {
    let Style { frame, strong, plain, .. } = style;
    let (tint, word) = if diagnostic.is_error() { (style.error, "error") } else { (style.warning, "warning") };
    let fault = diagnostic.fault();
    let location = diagnostic.location();
    let excerpt = diagnostic.excerpt();
    let number = location.line.to_string();
    let gutter = " ".repeat(number.len());
    let carets = "^".repeat(excerpt.width);
    let indent = " ".repeat(excerpt.indent);
    // Writing into a string cannot fail.
    let _ = writeln!(out, "{tint}{word}{plain}{strong}: {}{plain}", fault.message);
    let _ = write!(out, "{gutter}{frame}-->{plain} {}:{number}:{}", diagnostic.file(), location.column);
    let _ = if fault.path.steps().is_empty() { writeln!(out) } else { writeln!(out, " ({})", fault.path) };
    let _ = writeln!(out, "{gutter} {frame}|{plain}");
    let _ = writeln!(out, "{frame}{number} |{plain} {}", excerpt.text);
    let _ = writeln!(out, "{gutter} {frame}|{plain} {indent}{tint}{carets}{plain}");
    if let Some(help) = &fault.help {
        let _ = writeln!(out, "{gutter} {frame}={plain} {strong}help{plain}: {help}");
    }
}

fn count(errors: usize, warnings: usize, file: &str) -> String {
    let counted = |count: usize, word: &str| match count {
        0 => None,
        1 => Some(format!("1 {word}")),
        many => Some(format!("{many} {word}s")),
    };
    let parts: Vec<String> = [counted(errors, "error"), counted(warnings, "warning")].into_iter().flatten().collect();
    format!("{} in {file}", parts.join(" and "))
}
