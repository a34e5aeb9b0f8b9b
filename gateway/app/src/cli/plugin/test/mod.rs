//! `sluice plugin test`: plays an author's fixtures through the sandbox that serves, and says what came out otherwise.

mod format;
mod judge;
mod listen;
mod play;
mod ready;
mod report;
mod stage;
mod wanted;

use std::path::{Path, PathBuf};

use serde_json::json;
use sluice_config::{Diagnostic, Document, Source};
use sluice_plugins::PluginConfig;
use sluice_vocabulary::PluginName;

pub(super) use self::play::who;
pub(super) use self::ready::Ready;

use self::format::Fixtures;
use self::listen::Ear;
use self::report::{CaseOutcome, Outcome};
use self::stage::{Stage, on_a_runtime};
use crate::cli::{Failure, load, say};

/// What to play.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sluice plugin test                             fixtures.yaml and fixtures/*.yaml of this folder\n  \
    sluice plugin test my-plugin/fixtures.yaml\n  \
    sluice plugin test --filter quota --json\n  \
    sluice plugin test -c sluice.yaml --plugin add-region fixtures.yaml\n\n\
    A fixture names a plugin, a request, what the upstream answers, and what is to come of it:\n\n  \
    plugin: { component: add_region.wasm, config: { region: eu-1 } }\n  \
    cases:\n  \
    - name: the region is added\n    \
    request: { url: https://api.example.com/orders }\n    \
    expect: { request: { headers: { x-region: eu-1 } } }\n\n\
    plugins/README.md tells of every key, --schema prints them for editors.\n\n\
    Exit codes: 0 all passed, 1 some failed, 2 bad usage, or a fixture that cannot be read or is faulty."
)]
pub(crate) struct Arguments {
    /// Files of fixtures. Default: fixtures.yaml and fixtures/*.yaml of this folder
    #[arg(value_name = "FIXTURES")]
    fixtures: Vec<PathBuf>,
    /// Take the plugin from this gateway's configuration; the fixtures then name none
    #[arg(short, long, value_name = "CONFIG", requires = "plugin")]
    config: Option<PathBuf>,
    /// The plugin's name there
    #[arg(long, value_name = "NAME", requires = "config")]
    plugin: Option<String>,
    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of fixtures, and play none
    #[arg(long, conflicts_with_all = ["fixtures", "config", "plugin", "filter", "json"])]
    schema: bool,
}

/// A plugin of a gateway's configuration.
pub(super) struct Given {
    config: load::Loaded,
    pub(super) file: PathBuf,
    name: PluginName,
    pub(super) plugin: PluginConfig,
}

/// A file that was read, ready to be played.
struct Opened {
    file: PathBuf,
    document: Document,
    cases: Vec<Ready>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.schema {
        return say(sluice_config::schema::<Fixtures>("urn:sluice:plugin-fixtures:1", "Fixtures of a Sluice plugin"));
    }
    let given = match (&arguments.config, &arguments.plugin) {
        (Some(file), Some(name)) => Some(Given::of(file, name)?),
        _ => None,
    };
    let files = if arguments.fixtures.is_empty() { found()? } else { arguments.fixtures.clone() };
    let mut opened = Vec::with_capacity(files.len());
    let mut faulty = Vec::new();
    for file in files {
        match open(&file, given.as_ref())? {
            Ok(one) => opened.push(one),
            Err(diagnostics) => faulty.push(diagnostics),
        }
    }
    if !faulty.is_empty() {
        return Err(told(&faulty, arguments.json)?);
    }
    let is_chosen = |case: &Ready| arguments.filter.as_ref().is_none_or(|text| case.name.contains(text.as_str()));
    if let Some(filter) =
        arguments.filter.as_ref().filter(|_| !opened.iter().any(|one| one.cases.iter().any(is_chosen)))
    {
        return Err(Failure::Usage(format!("no case's name contains {filter:?}")));
    }

    let mut outcomes = Vec::with_capacity(opened.len());
    for one in &opened {
        match played(one, given.as_ref(), is_chosen)? {
            Ok(outcome) => {
                if !arguments.json && !outcome.cases.is_empty() {
                    say(report::text(&outcome, report::wants_colours()))?;
                }
                outcomes.push(outcome);
            }
            Err(diagnostics) => return Err(told(&[diagnostics], arguments.json)?),
        }
    }
    if arguments.json {
        say(format_args!("{:#}\n", report::page(&outcomes)))?;
    } else {
        say(report::summary(&outcomes))?;
    }
    match outcomes.iter().map(Outcome::failed).sum::<usize>() {
        0 => Ok(()),
        1 => Err(Failure::run("1 case did not come out as expected")),
        failed => Err(Failure::Run(format!("{failed} cases did not come out as expected"))),
    }
}

impl Given {
    pub(super) fn of(file: &Path, name: &str) -> Result<Self, Failure> {
        let config = load::read(file).map_err(|faults| Failure::Usage(faults.for_terminal()))?;
        let found = config.config.plugins.iter().find(|(known, _)| known.as_str() == name);
        let Some((name, plugin)) = found.map(|(name, plugin)| (name.clone(), plugin.clone())) else {
            let names: Vec<&str> = config.config.plugins.keys().map(PluginName::as_str).collect();
            let known =
                if names.is_empty() { "none is".to_owned() } else { format!("configured: {}", names.join(", ")) };
            return Err(Failure::Usage(format!("{name:?} is not a plugin of {}; {known}", file.display())));
        };
        Ok(Self { config, file: file.to_owned(), name, plugin })
    }
}

/// The fixtures of this folder.
fn found() -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    let alone = PathBuf::from("fixtures.yaml");
    if alone.is_file() {
        files.push(alone);
    }
    if let Ok(entries) = std::fs::read_dir("fixtures") {
        let is_yaml = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "yaml") && file.is_file();
        let mut more: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_yaml).collect();
        more.sort();
        files.extend(more);
    }
    if files.is_empty() {
        let why = "there are no fixtures here: expected fixtures.yaml or fixtures/*.yaml in this folder, or the names of files";
        return Err(Failure::usage(why));
    }
    Ok(files)
}

/// A file's cases, or its faults.
fn open(file: &Path, given: Option<&Given>) -> Result<Result<Opened, Vec<Diagnostic>>, Failure> {
    let source = Source::read(file).map_err(Failure::usage)?;
    open_source(file, &source, given.map(|given| &given.plugin))
}

/// The cases that a text holds, for `plugin`, or for the text's own where none is given.
pub(super) fn cases_of(file: &Path, source: &Source, plugin: Option<&PluginConfig>) -> Result<Vec<Ready>, Failure> {
    match open_source(file, source, plugin)? {
        Ok(opened) => Ok(opened.cases),
        Err(diagnostics) => Err(told(&[diagnostics], false)?),
    }
}

fn open_source(
    file: &Path,
    source: &Source,
    plugin: Option<&PluginConfig>,
) -> Result<Result<Opened, Vec<Diagnostic>>, Failure> {
    let document = match Document::parse(source) {
        Ok(document) => document,
        Err(diagnostics) => return Ok(Err(diagnostics)),
    };
    let mut cases = Vec::new();
    let accepted = sluice_config::load::<Fixtures>(&document).check(|fixtures, faults| {
        cases = ready::ready(fixtures, plugin, faults);
    });
    Ok(match accepted {
        Ok(_) => Ok(Opened { file: file.to_owned(), document, cases }),
        Err(diagnostics) => Err(diagnostics.into_iter().filter(Diagnostic::is_error).collect()),
    })
}

/// Plays a file's cases, or tells why its plugin cannot be loaded.
fn played(
    opened: &Opened,
    given: Option<&Given>,
    is_chosen: impl Fn(&Ready) -> bool + Copy,
) -> Result<Result<Outcome, Vec<Diagnostic>>, Failure> {
    let root = sluice_vocabulary::Path::root();
    let (at, base) = match given {
        Some(given) => (root.key("plugins").key(given.name.as_str()), load::folder_of(&given.file)),
        None => (root.key("plugin"), load::folder_of(&opened.file)),
    };
    let cases = &opened.cases;
    let beginning = cases.first().map_or(0, |case| case.at);
    let ear = Ear::default();
    let played = on_a_runtime(&ear, async {
        let stage = Stage::open(ear.clone(), beginning).await?;
        let verdicts = match stage.load(cases, &at, base).await {
            Ok(prepared) => Ok(stage.play(cases, prepared, is_chosen).await?),
            Err(faults) => Err(faults),
        };
        stage.close().await;
        Ok(verdicts)
    })?;
    let verdicts = match (played, given) {
        (Ok(verdicts), _) => verdicts,
        (Err(faults), Some(given)) => return Ok(Err(given.config.diagnose(&faults))),
        (Err(faults), None) => {
            let told = sluice_config::load::<Fixtures>(&opened.document).check(|_, all| all.extend(faults));
            return Ok(Err(told.err().unwrap_or_default()));
        }
    };
    let line = |case: &Ready| {
        let at = root.key("cases").index(case.index);
        opened.document.locate(&at).map(|location| location.line)
    };
    let chosen = cases.iter().filter(|case| is_chosen(case));
    Ok(Ok(Outcome {
        file: opened.file.display().to_string(),
        component: cases.first().map(|case| case.plugin.component.to_string()).unwrap_or_default(),
        cases: chosen.zip(verdicts).map(|(case, verdict)| CaseOutcome::new(case, line(case), verdict)).collect(),
    }))
}

/// Tells the faults of files: as text on standard error, as JSON on standard output.
fn told(faulty: &[Vec<Diagnostic>], as_json: bool) -> Result<Failure, Failure> {
    let errors: usize = faulty.iter().flatten().filter(|diagnostic| diagnostic.is_error()).count();
    if as_json {
        let all: Vec<Diagnostic> = faulty.iter().flatten().cloned().collect();
        say(format_args!("{:#}\n", json!({ "ok": false, "faults": sluice_config::render::json(&all) })))?;
        return Ok(Failure::Usage(format!("faults in fixtures: {errors}")));
    }
    let text: Vec<String> =
        faulty.iter().map(|diagnostics| sluice_config::render::text(diagnostics, load::colours())).collect();
    Ok(Failure::Usage(text.concat()))
}
