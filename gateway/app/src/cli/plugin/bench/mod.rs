//! `sluice plugin bench`: what a component costs, phase by phase, before it is served.

mod measure;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_config::Source;
use sluice_plugins::{Against, ComponentSource, Grants, KeyValueGrant, PluginConfig, Survey, survey};
use sluice_vocabulary::UpstreamName;

use self::measure::{Measured, measure};
use super::test::{Given, Ready, cases_of};
use crate::cli::{Failure, load, say};

/// What is sent where no fixture says otherwise: a dozen header fields, and a short answer.
const DEFAULT_MESSAGE: &str = r#"
cases:
  - name: a GET with 12 header fields
    request:
      url: https://api.example.com/orders/7?page=2
      headers:
        accept: application/json
        accept-encoding: gzip, br
        accept-language: en
        authorization: Bearer x
        cache-control: no-cache
        cookie: a=1; b=2
        forwarded: for=192.0.2.1
        traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01
        user-agent: bench
        x-many: [one, two]
    response:
      headers: { content-type: application/json, cache-control: no-store, etag: '"1"', server: origin }
      body: { json: { ok: true } }
      trailers: { grpc-status: "0" }
"#;

/// What to measure.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sluice plugin bench add_region.wasm\n  sluice plugin bench -c sluice.yaml --plugin add-region --json\n  \
    sluice plugin bench --fixture fixtures.yaml --case 'a body is signed'\n\n\
    Fresh: every call has an instance of its own, as every request has in a gateway. Used again: as with reuse in the plugin's\n    \
    configuration. Close other programs: the median is worth more than P99.\n\n\
    Exit codes: 0 measured, 1 calls failed (their times say nothing), 2 bad usage, or a component that would not be loaded."
)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(true).args(["component", "config", "fixture"])))]
pub(crate) struct Arguments {
    /// The component's file; it is granted what it imports
    #[arg(value_name = "FILE", conflicts_with = "config")]
    component: Option<PathBuf>,
    /// The configuration that has the plugin, with its grants and limits
    #[arg(short, long, value_name = "CONFIG", requires = "plugin")]
    config: Option<PathBuf>,
    /// The plugin's name there
    #[arg(long, value_name = "NAME", requires = "config")]
    plugin: Option<String>,
    /// Fixtures, as sluice plugin test takes them: the message, and the plugin where nothing else names one.
    /// Default: a GET with 12 header fields
    #[arg(long, value_name = "FIXTURES")]
    fixture: Option<PathBuf>,
    /// The case whose message is sent. Default: the first
    #[arg(long, value_name = "NAME", requires = "fixture")]
    case: Option<String>,
    /// Calls of each phase that are measured
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    calls: u32,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (case, base) = chosen(arguments)?;
    let survey = survey(&case.plugin, &base, Against::ItsGrants).map_err(Failure::usage)?;
    if let Some(refusal) = &survey.refused {
        return Err(Failure::Usage(format!("{} would not be loaded: {}", case.plugin.component, refusal.reason)));
    }
    let phases = survey.found.as_ref().map(|found| found.phases.clone()).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Run(format!("no runtime can be made: {error}")))?;
    let measured = runtime.block_on(measure(&case, &base, &phases, arguments.calls as usize))?;
    if arguments.json {
        say(format_args!("{:#}\n", page(&case, &survey, &measured, arguments.calls)))?;
    } else {
        say(text(&case, &survey, &measured, arguments.calls))?;
    }
    if measured.failures.is_empty() {
        return Ok(());
    }
    let failures: Vec<String> =
        measured.failures.iter().map(|(reason, count)| format!("{count} of {reason}")).collect();
    Err(Failure::Run(format!("calls failed, so that their times say nothing: {}", failures.join(", "))))
}

/// The message, with the plugin that is to see it and the folder in which the plugin's paths start.
fn chosen(arguments: &Arguments) -> Result<(Ready, PathBuf), Failure> {
    let given = match (&arguments.component, &arguments.config, &arguments.plugin) {
        (Some(file), _, _) => Some((alone(file)?, PathBuf::from("."))),
        (None, Some(config), Some(name)) => {
            let given = Given::of(config, name)?;
            Some((given.plugin, load::folder_of(&given.file).to_owned()))
        }
        _ => None,
    };
    let (file, source) = match &arguments.fixture {
        Some(file) => (file.as_path(), Source::read(file).map_err(Failure::usage)?),
        None => {
            let source = Source::from_bytes("(default)", DEFAULT_MESSAGE.as_bytes()).map_err(Failure::run)?;
            (Path::new("(default)"), source)
        }
    };
    let cases = cases_of(file, &source, given.as_ref().map(|(plugin, _)| plugin))?;
    let base = given.map_or_else(|| load::folder_of(file).to_owned(), |(_, base)| base);
    let mut names: Vec<String> = cases.iter().map(|case| case.name.clone()).collect();
    let is_it = |case: &Ready| arguments.case.as_ref().is_none_or(|name| case.name == *name);
    match cases.into_iter().find(is_it) {
        Some(case) => Ok((case, base)),
        None => {
            names.truncate(20);
            let name = arguments.case.as_deref().unwrap_or_default();
            Err(Failure::Usage(format!("{name:?} is not a case of {}; there is: {}", file.display(), names.join(", "))))
        }
    }
}

/// A component by itself: granted what it imports.
fn alone(file: &Path) -> Result<PluginConfig, Failure> {
    let mut plugin = PluginConfig::new(ComponentSource::File(file.to_owned()));
    let survey = survey(&plugin, Path::new("."), Against::Nothing).map_err(Failure::usage)?;
    for need in survey.found.iter().flat_map(|found| &found.needs) {
        let grants: &mut Grants = &mut plugin.grants;
        match need.split(':').next().unwrap_or_default() {
            "identity" => grants.identity = true,
            "connection" => grants.connection = true,
            "clock" => grants.clock = true,
            "random" => grants.random = true,
            "metrics" => grants.metrics = true,
            "tags" => grants.tags = true,
            "key_value" => grants.key_value = Some(KeyValueGrant::default()),
            "upstreams" => grants.upstreams.extend(UpstreamName::new("origin").ok()),
            // The rest needs words of the operator's own: what lacks is told when it is loaded.
            _ => {}
        }
    }
    Ok(plugin)
}

/// The median and the 99th percentile, in microseconds.
fn percentiles(times: &[Duration]) -> Option<(f64, f64)> {
    let mut sorted = times.to_vec();
    sorted.sort();
    let at = |share: f64| {
        let index = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
        sorted.get(index).map(|time| micros(*time))
    };
    at(0.5).zip(at(0.99))
}

fn micros(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e8).round() / 100.0
}

fn page(case: &Ready, survey: &Survey, measured: &Measured, calls: u32) -> Value {
    let phases: serde_json::Map<String, Value> = measured
        .phases
        .iter()
        .map(|phase| {
            let told = |times: &[Duration]| {
                percentiles(times).map(|(median, p99)| json!({ "median_us": median, "p99_us": p99 }))
            };
            (phase.name.to_owned(), json!({ "fresh": told(&phase.fresh), "reused": told(&phase.reused) }))
        })
        .collect();
    json!({
        "component": case.plugin.component.to_string(),
        "sha256": survey.sha256,
        "bytes": survey.bytes,
        "message": case.name,
        "calls": calls,
        "phases": phases,
        "failures": measured.failures,
        "resident_bytes_per_instance": measured.resident,
        "compile_us": micros(measured.compile),
        "load_from_cache_us": measured.load.map(micros),
    })
}

fn text(case: &Ready, survey: &Survey, measured: &Measured, calls: u32) -> String {
    let mut text = format!("{}: {} bytes\n", case.plugin.component, survey.bytes);
    text.push_str(&format!(
        "  {:<20}{:>10}{:>10}{:>16}{:>10}   µs, {calls} calls each\n",
        "phase", "fresh: P50", "P99", "used again: P50", "P99"
    ));
    for phase in &measured.phases {
        let [fresh, reused] = [&phase.fresh, &phase.reused].map(|times| {
            percentiles(times).map_or_else(
                || ("-".to_owned(), "-".to_owned()),
                |(median, p99)| (format!("{median:.2}"), format!("{p99:.2}")),
            )
        });
        let note = if phase.fresh.is_empty() { "   the message does not lead there" } else { "" };
        let name = phase.name;
        text.push_str(&format!("  {name:<20}{:>10}{:>10}{:>16}{:>10}{note}\n", fresh.0, fresh.1, reused.0, reused.1));
    }
    match measured.resident {
        Some(bytes) => text.push_str(&format!("  resident            {bytes} bytes for one more instance\n")),
        None => text.push_str("  resident            not told: no phase goes on with this message\n"),
    }
    text.push_str(&format!("  compile             {:.0} µs\n", micros(measured.compile)));
    match measured.load {
        Some(load) => text.push_str(&format!("  load from the cache {:.0} µs\n", micros(load))),
        None => text.push_str("  load from the cache not told: nothing was kept\n"),
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let times: Vec<_> = (1..=200).rev().map(Duration::from_micros).collect();
        assert_eq!(percentiles(&times), Some((100.0, 198.0)));
        assert_eq!(percentiles(&[Duration::from_nanos(1500)]), Some((1.5, 1.5)));
        assert_eq!(percentiles(&[]), None);
    }

    #[test]
    fn the_default_message_has_a_dozen_fields() {
        let source = Source::from_bytes("(default)", DEFAULT_MESSAGE.as_bytes()).unwrap();
        let plugin = PluginConfig::new(ComponentSource::bytes(Vec::new()));
        let cases = cases_of(Path::new("(default)"), &source, Some(&plugin));
        let [case] = &cases.ok().unwrap()[..] else { panic!("one case") };
        assert_eq!(case.head.headers.len(), 12, "{:?}", case.head.headers);
    }
}
