//! The process's log: a test program of its own, since a process has one.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use sluice_telemetry::config::Output;
use sluice_telemetry::sink::SinkMetrics;
use sluice_telemetry::{Format, Logs, LogsConfig};
use sluice_vocabulary::ports::LogLevel as _;

#[test]
fn records_of_the_log_crate_arrive_under_their_own_target_and_follow_the_level() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let config = LogsConfig { format: Format::Json, level: "info".to_owned(), output: Output::File(path.clone()) };
    let handle = Logs::install(&config, &SinkMetrics::default()).unwrap();
    assert!(Logs::install(&config, &SinkMetrics::default()).is_err(), "a process has one log");

    use tracing_log::log;
    log::info!(target: "pingora_core::server", "chatter");
    log::warn!(target: "pingora_core::server", "worth hearing");
    log::debug!(target: "other", "too fine");
    handle.set("debug").unwrap();
    log::debug!(target: "other", "now wanted");

    assert!(handle.flush(Duration::from_secs(10)));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        lines.iter().map(|line| (line["target"].as_str().unwrap(), line["message"].as_str().unwrap())).collect();
    assert_eq!(told, [("pingora_core::server", "worth hearing"), ("other", "now wanted")]);
    assert!(lines.iter().all(|line| line.as_object().unwrap().keys().all(|key| !key.starts_with("log."))));
}
