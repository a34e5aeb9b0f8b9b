//! `sluice plugin check`: what a component is called for, what it needs, and whether it would be loaded.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sluice_plugins::{Against, ComponentSource, PluginConfig, Survey, survey};
use sluice_vocabulary::measure::ByteSize;

use crate::cli::{Failure, load, say};

/// What to look at.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sluice plugin check add_region.wasm\n  sluice plugin check -c sluice.yaml\n  \
    sluice plugin check -c sluice.yaml --plugin add-region --json\n  sluice plugin check add_region.wasm --schema\n\n\
    Exit codes: 0 it would be loaded, 1 it would be refused, 2 bad usage, a file that cannot be read, or a faulty configuration.")]
#[command(group(clap::ArgGroup::new("what").required(true).args(["component", "config"])))]
pub(crate) struct Arguments {
    /// The component's file, looked at without a configuration: what it needs is named, not held against it
    #[arg(value_name = "FILE")]
    component: Option<PathBuf>,
    /// The configuration whose plugins are looked at, each with its digest, grants and limits
    #[arg(short, long, value_name = "CONFIG")]
    config: Option<PathBuf>,
    /// Only this plugin of the configuration
    #[arg(long, value_name = "NAME", requires = "config")]
    plugin: Option<String>,
    /// Print the JSON Schema that a component carries for its configuration, and nothing else
    #[arg(long, conflicts_with = "json")]
    schema: bool,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

/// One component that was looked at.
struct Looked {
    /// The plugin's name, where a configuration gave one.
    name: Option<String>,
    component: String,
    survey: Survey,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let looked = match (&arguments.component, &arguments.config) {
        (Some(file), _) => {
            let plugin = PluginConfig::new(ComponentSource::File(file.clone()));
            vec![look(None, &plugin, Path::new("."), Against::Nothing)?]
        }
        (None, Some(config)) => configured(config, arguments.plugin.as_deref())?,
        (None, None) => return Err(Failure::usage("nothing to look at: expected a component's FILE or --config")),
    };
    if arguments.schema {
        return print_schema(&looked);
    }
    if arguments.json {
        let plugins: Vec<Value> = looked.iter().map(page).collect();
        say(format_args!("{:#}\n", json!({ "plugins": plugins })))?;
    } else {
        for one in &looked {
            say(text(one))?;
        }
    }
    match looked.iter().filter(|one| one.survey.refused.is_some()).count() {
        0 => Ok(()),
        refused => Err(Failure::Run(format!("{refused} of {} would not be loaded", looked.len()))),
    }
}

fn print_schema(looked: &[Looked]) -> Result<(), Failure> {
    let [Looked { component, survey, .. }] = looked else {
        return Err(Failure::usage("more than one component is configured: say which by --plugin"));
    };
    match &survey.schema {
        Some(schema) => say(format_args!("{}\n", schema.trim_end())),
        None => Err(Failure::Run(format!("{component} carries no schema for its configuration that can be read"))),
    }
}

fn configured(file: &Path, only: Option<&str>) -> Result<Vec<Looked>, Failure> {
    let plugins = load::read(file).map_err(|faults| Failure::Usage(faults.for_terminal()))?.config.plugins;
    let base = load::folder_of(file);
    let chosen = plugins.iter().filter(|(name, _)| only.is_none_or(|only| name.as_str() == only));
    let looked: Vec<_> = chosen
        .map(|(name, plugin)| look(Some(name.as_str()), plugin, base, Against::ItsGrants))
        .collect::<Result<_, _>>()?;
    if looked.is_empty() {
        let names: Vec<&str> = plugins.keys().map(sluice_vocabulary::PluginName::as_str).collect();
        let known = if names.is_empty() { "none is".to_owned() } else { format!("configured: {}", names.join(", ")) };
        return Err(Failure::Usage(match only {
            Some(only) => format!("{only:?} is not a plugin of {}; {known}", file.display()),
            None => format!("{} configures no plugins: expected at least one under plugins", file.display()),
        }));
    }
    Ok(looked)
}

fn look(name: Option<&str>, plugin: &PluginConfig, base: &Path, against: Against) -> Result<Looked, Failure> {
    let survey = survey(plugin, base, against).map_err(Failure::usage)?;
    Ok(Looked { name: name.map(str::to_owned), component: plugin.component.to_string(), survey })
}

fn page(looked: &Looked) -> Value {
    let Looked { name, component, survey } = looked;
    let mut page = json!({
        "component": component,
        "ok": survey.refused.is_none(),
        "sha256": survey.sha256,
        "bytes": survey.bytes,
        "config_schema": survey.schema.as_ref().map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text))),
    });
    if let Some(name) = name {
        page["plugin"] = json!(name);
    }
    if let Some(found) = &survey.found {
        page["contract"] = json!(found.versions);
        page["phases"] = json!(found.phases);
        page["imports"] = json!(found.imports);
        page["needs"] = json!(found.needs);
        page["unused_grants"] = json!(found.unused);
        page["initial_memory_bytes"] = json!(found.initial_memory);
    }
    if let Some(refusal) = &survey.refused {
        page["refused"] = json!({ "key": refusal.key, "reason": refusal.reason, "help": refusal.help });
    }
    page
}

fn text(looked: &Looked) -> String {
    let Looked { name, component, survey } = looked;
    let verdict = if survey.refused.is_none() { "would be loaded" } else { "would be refused" };
    let mut text = match name {
        Some(name) => format!("{name} ({component}): {verdict}\n"),
        None => format!("{component}: {verdict}\n"),
    };
    let mut line = |what: &str, value: &str| text.push_str(&format!("  {what:<10}{}\n", plain(value)));
    if let Some(refusal) = &survey.refused {
        line("because", &format!("{}: {}", refusal.key, refusal.reason));
        if let Some(help) = refusal.help {
            line("help", help);
        }
    }
    if let Some(found) = &survey.found {
        line("contract", &format!("sluice:plugin@{}", found.versions.join(", ")));
        line("phases", &found.phases.join(", "));
        line("imports", &listed(&found.imports.iter().map(String::as_str).collect::<Vec<_>>()));
        match found.needs.as_slice() {
            [] => line("grants", "none needed"),
            needs => line("grants:", &format!("{{ {} }}", needs.join(", "))),
        }
        if !found.unused.is_empty() {
            line("unused", &format!("{} (granted, not imported)", found.unused.join(", ")));
        }
        line("memory", &format!("{} at start", ByteSize::bytes(found.initial_memory)));
    }
    match &survey.schema {
        Some(schema) => line("schema", &format!("carried, {} bytes (--schema prints it)", schema.len())),
        None => line("schema", "none carried: any configuration will do"),
    }
    line("size", &format!("{} bytes", survey.bytes));
    line("sha256:", &survey.sha256);
    text
}

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// What a component's names say, without what could move a terminal's cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
