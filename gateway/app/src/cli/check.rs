//! `sluice check`: every fault of a configuration in one go, what is risky in it, and which route a request would take.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sluice_config::Diagnostic;
use sluice_downstream::config::EncodedSlash;
use sluice_routing::{Question, Table};

use super::{Failure, load, say};
use crate::config::Config;
use crate::snapshot::specs;

/// What to check.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice check -c sluice.yaml\n  sluice check -c sluice.yaml --json\n  \
    sluice check -c sluice.yaml --explain 'GET https://api.example.com/orders/42'\n  \
    sluice check -c sluice.yaml --explain '/orders' --header 'x-canary: yes'")]
pub(crate) struct Arguments {
    /// The configuration file
    #[arg(short, long, env = "SLUICE_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
    /// Say which route this request takes, and why: 'GET https://host/path'
    #[arg(long, value_name = "REQUEST")]
    explain: Option<String>,
    /// A header field of the request to explain, 'name: value'; may be given more than once
    #[arg(long, value_name = "FIELD", requires = "explain")]
    header: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let loaded = match load::read(&arguments.config) {
        Ok(loaded) => loaded,
        Err(load::Faults::Faulty(diagnostics)) if arguments.json => {
            say(format_args!("{:#}\n", report(&arguments.config, &diagnostics, None)))?;
            return Err(Failure::usage(count(&diagnostics)));
        }
        Err(faults) => return Err(Failure::Usage(faults.for_terminal())),
    };
    let table = Table::compile(specs(&loaded.config, &sluice_vocabulary::Path::root().key("routes")));
    let mut found = match open_files(&loaded.config, &arguments.config) {
        Ok(()) => Vec::new(),
        Err(faults) => faults,
    };
    let table = table.map_err(|faults| found.extend(faults)).ok();
    found.extend(table.iter().flat_map(Table::warnings).cloned());
    let mut diagnostics = loaded.warnings.clone();
    diagnostics.extend(loaded.diagnose(&found));

    let explanation = match (&arguments.explain, &table) {
        (Some(question), Some(table)) => {
            let encoded_slash = loaded.config.downstream.path.encoded_slash;
            Some(explain(table, encoded_slash, question, &arguments.header)?)
        }
        _ => None,
    };
    if arguments.json {
        let told = explanation.as_ref().and_then(|explanation| serde_json::to_value(explanation).ok());
        say(format_args!("{:#}\n", report(&arguments.config, &diagnostics, told)))?;
    } else {
        eprint!("{}", sluice_config::render::text(&diagnostics, load::colours()));
        match &explanation {
            Some(explanation) => say(format_args!("{explanation}\n"))?,
            None if diagnostics.iter().any(Diagnostic::is_error) => {}
            None => {
                let summary = summary(&loaded.config, &diagnostics);
                say(format_args!("{}: {summary}\n", arguments.config.display()))?;
            }
        }
    }
    if diagnostics.iter().any(Diagnostic::is_error) { Err(Failure::usage(count(&diagnostics))) } else { Ok(()) }
}

/// What a start would open, opened: certificates, keys, components. Nothing is bound, fetched or started.
fn open_files(config: &Config, file: &Path) -> Result<(), Vec<sluice_vocabulary::Fault>> {
    crate::rehearsal::rehearse(config, load::folder_of(file))
}

fn explain(
    table: &Table,
    encoded_slash: EncodedSlash,
    question: &str,
    headers: &[String],
) -> Result<sluice_routing::Explanation, Failure> {
    let mut question = Question::parse(question).map_err(Failure::usage)?;
    for header in headers {
        question = question.header(header).map_err(Failure::usage)?;
    }
    // Routes are matched against the path in its one form, whatever form the client wrote it in.
    let normal = sluice_downstream::normalise_path(question.path.as_bytes(), encoded_slash).map_err(Failure::usage)?;
    question.path = normal.path.into_owned();
    Ok(table.explain(&question.view()))
}

fn report(file: &Path, diagnostics: &[Diagnostic], explanation: Option<Value>) -> Value {
    let mut report = json!({
        "file": file.display().to_string(),
        "ok": !diagnostics.iter().any(Diagnostic::is_error),
        "faults": sluice_config::render::json(diagnostics),
    });
    if let Some(explanation) = explanation {
        report["explanation"] = explanation;
    }
    report
}

fn count(diagnostics: &[Diagnostic]) -> String {
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
    let warnings = diagnostics.len() - errors;
    format!("{errors} error{}, {warnings} warning{}", plural(errors), plural(warnings))
}

fn summary(config: &Config, diagnostics: &[Diagnostic]) -> String {
    let counted = |count: usize, what: &str| format!("{count} {what}{}", plural(count));
    let warnings =
        if diagnostics.is_empty() { String::new() } else { format!(" ({})", counted(diagnostics.len(), "warning")) };
    let parts = [
        counted(config.listeners.len(), "listener"),
        counted(config.routes.len(), "route"),
        counted(config.upstreams.len(), "upstream"),
        counted(config.issuers.len(), "issuer"),
        counted(config.plugins.len(), "plugin"),
    ];
    format!("fine{warnings}: {}", parts.join(", "))
}

const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
