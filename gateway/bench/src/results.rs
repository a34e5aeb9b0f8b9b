//! Raw figures: what is written down, and medians of it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};
use crate::machine::Machine;
use crate::peer::Peer;
use crate::scenario::Scenario;
use crate::verify_cost::VerifyCost;

/// Everything a run of the benchmark found out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) began: String,
    pub(crate) commit: String,
    pub(crate) machine: Machine,
    /// The command line that makes such a report again.
    pub(crate) command: String,
    /// What each proxy calls its version.
    pub(crate) versions: BTreeMap<Peer, String>,
    pub(crate) verify_cost: VerifyCost,
    pub(crate) runs: Vec<Run>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) scenario: Scenario,
    pub(crate) peer: Peer,
    pub(crate) round: u32,
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

/// Medians over the rounds of one proxy in one scenario.
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

impl Report {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text).context(|| format!("{} holds no report", path.display()))
    }

    /// The medians of a proxy in a scenario, if it was measured.
    pub(crate) fn medians(&self, scenario: Scenario, peer: Peer) -> Option<Medians> {
        let runs = || self.runs.iter().filter(move |run| run.scenario == scenario && run.peer == peer);
        let of = |figure: fn(&Run) -> f64| median(runs().map(figure));
        Some(Medians {
            requests_per_second: of(|run| run.requests_per_second)?,
            p50_us: of(|run| run.p50_us)?,
            p99_us: of(|run| run.p99_us)?,
            cpu_us: of(|run| run.cpu_us)?,
            idle_bytes: of(|run| run.idle_bytes as f64)?,
            loaded_bytes: of(|run| run.loaded_bytes as f64)?,
            failed: runs().map(|run| run.failed).sum(),
        })
    }
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
    use super::median;

    #[test]
    fn a_median_is_the_middle_of_what_there_is() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([5.0].into_iter()), Some(5.0));
        assert_eq!(median([9.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 3.0, 2.0].into_iter()), Some(2.5));
    }
}
