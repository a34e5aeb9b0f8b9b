//! Raw figures: what is written down, and medians of it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::error::{Context, Result};
use crate::machine::{self, Machine};
use crate::peer::Peer;
use crate::room::Room;
use crate::scenario::Scenario;
use crate::verify_cost::VerifyCost;

/// When figures were made, of what, where, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) began: String,
    pub(crate) commit: String,
    pub(crate) machine: Machine,
    /// The command line that makes such figures again.
    pub(crate) command: String,
}

impl Made {
    /// Here and now, of what is checked out, by `command`.
    pub(crate) fn now(room: &Room, command: String) -> Self {
        Self { began: machine::now(), commit: machine::commit(room), machine: Machine::here(), command }
    }

    /// For tests of tables.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        let [cpu, kernel, system] = ["cpu", "6", "Debian"].map(str::to_owned);
        let machine = Machine { cpu, cores: 2, memory_mb: 1, kernel, system };
        let [began, commit, command] = ["2026-01-01T00:00:00Z", "none", "sluice-bench …"].map(str::to_owned);
        Self { began, commit, machine, command }
    }
}

/// Everything a run of the benchmark found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) made: Made,
    /// What each proxy calls its version.
    pub(crate) versions: BTreeMap<Peer, String>,
    pub(crate) verify_cost: VerifyCost,
    #[serde(deserialize_with = "known_runs")]
    pub(crate) runs: Vec<Run>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) scenario: Scenario,
    pub(crate) peer: Peer,
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

/// What one measurement of a proxy gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// CPU time of the proxy, user and system, per request.
    pub(crate) cpu_us: f64,
    /// Resident memory before any load, and at its end.
    pub(crate) idle_bytes: u64,
    pub(crate) loaded_bytes: u64,
    /// Requests that were not answered by 2xx. A run with any is shown as such.
    pub(crate) failed: u64,
}

/// Medians over the rounds of one proxy with one job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Medians {
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) cpu_us: f64,
    pub(crate) idle_bytes: f64,
    pub(crate) loaded_bytes: f64,
    pub(crate) failed: u64,
}

impl Figures {
    /// What a line of progress says of requests that failed.
    pub(crate) fn failures(&self) -> String {
        if self.failed > 0 { format!(", {} FAILED", self.failed) } else { String::new() }
    }
}

impl Report {
    /// The medians of a proxy in a scenario, if it was measured.
    pub(crate) fn medians(&self, scenario: Scenario, peer: Peer) -> Option<Medians> {
        let runs = self.runs.iter().filter(|run| run.scenario == scenario && run.peer == peer);
        Medians::of(runs.map(|run| &run.figures))
    }
}

impl Medians {
    /// `None` where nothing was measured.
    pub(crate) fn of<'r>(runs: impl Iterator<Item = &'r Figures> + Clone) -> Option<Self> {
        let of = |figure: fn(&Figures) -> f64| median(runs.clone().map(figure));
        Some(Self {
            requests_per_second: of(|run| run.requests_per_second)?,
            p50_us: of(|run| run.p50_us)?,
            p99_us: of(|run| run.p99_us)?,
            cpu_us: of(|run| run.cpu_us)?,
            idle_bytes: of(|run| run.idle_bytes as f64)?,
            loaded_bytes: of(|run| run.loaded_bytes as f64)?,
            failed: runs.clone().map(|run| run.failed).sum(),
        })
    }
}

/// The runs of scenarios that there are. Old reports hold others too, which is no reason not to show the rest.
fn known_runs<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Vec<Run>, D::Error> {
    let runs = Vec::<Value>::deserialize(from)?.into_iter();
    let known = runs.filter(|run| run.get("scenario").is_none_or(|scenario| Scenario::deserialize(scenario).is_ok()));
    known.map(|run| serde_json::from_value(run).map_err(D::Error::custom)).collect()
}

/// Writes figures as JSON, the folder made where it is missing.
pub(crate) fn write_json(path: &Path, figures: &impl Serialize) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).context(|| format!("cannot make {}", folder.display()))?;
    }
    let text = serde_json::to_string_pretty(figures).context(|| "figures as JSON".to_owned())?;
    std::fs::write(path, text + "\n").context(|| format!("cannot write {}", path.display()))
}

/// The middle value, or the mean of the two in the middle; `None` of nothing.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied()?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_median_is_the_middle_of_what_there_is() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([5.0].into_iter()), Some(5.0));
        assert_eq!(median([9.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), Some(2.5));
    }

    #[test]
    fn a_report_of_scenarios_that_are_gone_still_shows_the_others() {
        let figures = r#""requests":9,"seconds":1.0,"requests_per_second":9.0,"p50_us":1,"p99_us":2.5,"cpu_us":3.0,
            "idle_bytes":1,"loaded_bytes":2,"failed":0"#;
        let report = |fields: &str| {
            format!(
                r#"{{"began":"b","commit":"c","machine":{{"cpu":"x","cores":2,"memory_mb":1,"kernel":"6","system":"D"}},
                "command":"run","versions":{{}},"verify_cost":{{"rs256_us":1.0,"es256_us":2.0}},"runs":[
                {{"scenario":"gone","peer":"envoy","round":0,{figures}}},{{"scenario":"plain",{fields}}}]}}"#
            )
        };
        let read: Report = serde_json::from_str(&report(&format!(r#""peer":"sluice","round":0,{figures}"#))).unwrap();
        assert_eq!(read.runs.len(), 1);
        assert_eq!(read.medians(Scenario::Plain, Peer::Sluice).unwrap().p99_us, 2.5);
        let written = serde_json::to_value(&read).unwrap();
        assert_eq!((&written["commit"], &written["runs"][0]["requests"]), (&"c".into(), &9.into()), "flat, as before");
        assert!(serde_json::from_str::<Report>(&report(r#""peer":"sluice","round":0"#)).is_err(), "without figures");
    }
}
