//! What is told of cases that were played: to a person, and to a program.

use std::io::IsTerminal;

use serde_json::{Value, json};

use super::ready::Ready;
use super::stage::{Differing, Verdict};
use super::wanted::shown_text;

/// One file's cases, as they came out.
pub(super) struct Outcome {
    pub(super) file: String,
    /// Where the component comes from.
    pub(super) component: String,
    pub(super) cases: Vec<CaseOutcome>,
}

pub(super) struct CaseOutcome {
    pub(super) name: String,
    /// The line that it begins in.
    pub(super) line: Option<usize>,
    pub(super) verdict: Verdict,
}

impl CaseOutcome {
    pub(super) fn new(case: &Ready, line: Option<usize>, verdict: Verdict) -> Self {
        Self { name: case.name.clone(), line, verdict }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.verdict.differences.is_empty()
    }
}

impl Outcome {
    pub(super) fn failed(&self) -> usize {
        self.cases.iter().filter(|case| !case.is_ok()).count()
    }
}

/// Whether standard output is a terminal that wants colours.
pub(super) fn wants_colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// One file, for a person.
pub(super) fn text(outcome: &Outcome, in_colour: bool) -> String {
    let tint = |colour: &'static str| if in_colour { colour } else { "" };
    let (good, bad, strong, plain) = (tint("\x1b[32m"), tint("\x1b[1;31m"), tint("\x1b[1m"), tint("\x1b[0m"));
    let mut text = format!("{strong}{}{plain} ({})\n", outcome.file, visible(&outcome.component));
    for case in &outcome.cases {
        let name = visible(&case.name);
        if case.is_ok() {
            text.push_str(&format!("  {good}ok{plain}      {name}\n"));
            continue;
        }
        let line = case.line.map(|line| format!(" (line {line})")).unwrap_or_default();
        text.push_str(&format!("  {bad}FAILED{plain}  {name}{line}\n"));
        for Differing { repetition, difference } in &case.verdict.differences {
            let which = repetition.map(|n| format!(", repetition {n}")).unwrap_or_default();
            text.push_str(&format!("      {}{which}\n", visible(&difference.what)));
            text.push_str(&format!("        expected  {}\n", visible(&difference.expected)));
            text.push_str(&format!("        got       {}\n", visible(&difference.got)));
        }
        let Some(played) = &case.verdict.shown else { continue };
        for failed in &played.heard.failed {
            let then = if failed.then == "fallback" { "; its fallback took over" } else { "" };
            text.push_str(&format!("      failed in {}: {}{then}\n", failed.phase, visible(&failed.why)));
        }
        for line in &played.heard.lines {
            text.push_str(&format!(
                "      logged in {}, {}: {}\n",
                line.phase,
                line.level.as_str(),
                shown_text(&line.text)
            ));
        }
    }
    text
}

/// How all of it came out.
pub(super) fn summary(outcomes: &[Outcome]) -> String {
    let failed: usize = outcomes.iter().map(Outcome::failed).sum();
    let all: usize = outcomes.iter().map(|outcome| outcome.cases.len()).sum();
    format!("{} passed, {failed} failed\n", all - failed)
}

/// All of it, for a program.
pub(super) fn page(outcomes: &[Outcome]) -> Value {
    let failed: usize = outcomes.iter().map(Outcome::failed).sum();
    let all: usize = outcomes.iter().map(|outcome| outcome.cases.len()).sum();
    json!({
        "ok": failed == 0,
        "passed": all - failed,
        "failed": failed,
        "files": outcomes.iter().map(file).collect::<Vec<_>>(),
    })
}

fn file(outcome: &Outcome) -> Value {
    json!({
        "file": outcome.file,
        "component": outcome.component,
        "cases": outcome.cases.iter().map(case).collect::<Vec<_>>(),
    })
}

fn case(case: &CaseOutcome) -> Value {
    let differences = case.verdict.differences.iter().map(|Differing { repetition, difference }| {
        json!({
            "what": difference.what,
            "expected": difference.expected,
            "got": difference.got,
            "repetition": repetition,
        })
    });
    let mut page = json!({
        "name": case.name,
        "line": case.line,
        "ok": case.is_ok(),
        "differences": differences.collect::<Vec<_>>(),
    });
    if let Some(played) = &case.verdict.shown {
        page["outcome"] = json!({
            "request": played.request.as_str(),
            "response": played.response.as_str(),
            "end": played.end.as_str(),
        });
        page["failures"] = played
            .heard
            .failed
            .iter()
            .map(|failed| json!({ "phase": failed.phase, "reason": failed.kind, "error": failed.why, "then": failed.then }))
            .collect();
        page["log"] = played
            .heard
            .lines
            .iter()
            .map(|line| json!({ "phase": line.phase, "level": line.level.as_str(), "text": line.text }))
            .collect();
    }
    page
}

/// A text without what could move a terminal's cursor.
fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
