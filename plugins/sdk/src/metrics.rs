//! Counts of the plugin's own among the gateway's metrics. Granted by `metrics: true`.
//!
//! A plugin has at most 32 names and 256 series (a name with one set of labels). A name is `[a-z][a-z0-9_]*`.
//!
//! ```no_run
//! use sluice_plugin_sdk::metrics;
//!
//! // sluice_plugin_count_total{plugin="…",name="decisions",outcome="allowed"}
//! let _ = metrics::add("decisions", &[("outcome", "allowed")], 1);
//! ```

use crate::bindings::granted::sluice::plugin::metrics;

pub use crate::bindings::granted::sluice::plugin::metrics::MetricFault;

/// Adds to a counter.
///
/// # Errors
/// If a name or label is not well-formed, the name is a gauge's, or there is no room for another; nothing is counted then.
pub fn add(name: &str, labels: &[(&str, &str)], amount: u64) -> Result<(), MetricFault> {
    metrics::add(name, &owned(labels), amount)
}

/// Sets a gauge.
///
/// # Errors
/// As [`add`]; also for what is not finite.
pub fn set(name: &str, labels: &[(&str, &str)], value: f64) -> Result<(), MetricFault> {
    metrics::set(name, &owned(labels), value)
}

fn owned(labels: &[(&str, &str)]) -> Vec<(String, String)> {
    labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
