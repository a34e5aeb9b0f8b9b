//! The load: `wrk` for HTTP/1.1, `h2load` for HTTP/2.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::duty::Load;
use crate::error::{Context, Failure, Result};
use crate::material::Material;
use crate::process::{LOAD_CORE, pinned};
use crate::scenario::Tokens;

/// Streams at once on each HTTP/2 connection.
const STREAMS: u32 = 4;

const ONE_REQUEST: &str = include_str!("../peers/one-request.lua");
const MANY_TOKENS: &str = include_str!("../peers/many-tokens.lua");

/// What the load generator saw.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    /// Answers of 2xx.
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Answers of another status, and connections that broke.
    pub(crate) failed: u64,
}

/// Loads `port` for `seconds`.
pub(crate) fn load(load: Load, port: u16, seconds: u32, material: &Material, folder: &Path) -> Result<Seen> {
    if load.http2 { h2load(load, port, seconds, folder) } else { wrk(load, port, seconds, material, folder) }
}

fn wrk(load: Load, port: u16, seconds: u32, material: &Material, folder: &Path) -> Result<Seen> {
    let script = match load.tokens {
        Some((kind, Tokens::NeverSeen)) => {
            MANY_TOKENS.replace("@tokens@", &material.tokens(kind).display().to_string())
        }
        Some((kind, Tokens::Repeated)) => ONE_REQUEST.replace("@token@", &material.token(kind)?),
        None => ONE_REQUEST.replace("@token@", ""),
    };
    let path = folder.join("wrk.lua");
    std::fs::write(&path, script).context(|| format!("cannot write {}", path.display()))?;
    let scheme = if load.tls { "https" } else { "http" };
    let mut command = pinned(LOAD_CORE, "wrk");
    command
        .args(["--threads", "1", "--timeout", "5s", "--header", "Host: bench.example"])
        .args(["--connections", &load.connections.to_string()])
        .args(["--duration", &format!("{seconds}s")])
        .arg("--script")
        .arg(path)
        .arg(format!("{scheme}://127.0.0.1:{port}/"));
    read_wrk(&output(command, "wrk")?)
}

fn h2load(load: Load, port: u16, seconds: u32, folder: &Path) -> Result<Seen> {
    let log = folder.join("h2load.log");
    let _ = std::fs::remove_file(&log);
    let mut command = pinned(LOAD_CORE, "h2load");
    command
        .args(["--threads", "1", "--connect-to", &format!("127.0.0.1:{port}")])
        .args(["--clients", &(load.connections / STREAMS).to_string()])
        .args(["--max-concurrent-streams", &STREAMS.to_string()])
        .args(["--duration", &seconds.to_string()])
        .arg("--log-file")
        .arg(&log)
        .arg("https://bench.example/");
    output(command, "h2load")?;
    let log = std::fs::read_to_string(&log).context(|| format!("cannot read {}", log.display()))?;
    read_h2load(&log, f64::from(seconds))
}

fn output(mut command: Command, name: &str) -> Result<String> {
    let output = command.output().context(|| format!("cannot start {name}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(Failure::new(format_args!("{name} ended with {}: {text}{errors}", output.status)));
    }
    Ok(text)
}

/// The line that our scripts end with.
#[derive(Deserialize)]
struct Figures {
    requests: u64,
    micros: f64,
    p50: f64,
    p99: f64,
    bad_status: u64,
    broken: u64,
}

fn read_wrk(text: &str) -> Result<Seen> {
    let line = text.lines().find_map(|line| line.strip_prefix("FIGURES "));
    let line = line.ok_or_else(|| Failure::new(format_args!("wrk gave no figures: {text}")))?;
    let figures: Figures = serde_json::from_str(line).context(|| format!("wrk's figures are odd: {line}"))?;
    Ok(Seen {
        requests: figures.requests.saturating_sub(figures.bad_status),
        seconds: figures.micros / 1e6,
        p50_us: figures.p50,
        p99_us: figures.p99,
        failed: figures.bad_status + figures.broken,
    })
}

/// h2load's own summary has no percentiles, but it can write a line per request: start, status, microseconds.
fn read_h2load(log: &str, seconds: f64) -> Result<Seen> {
    let mut latencies: Vec<u64> = Vec::new();
    let mut failed = 0;
    for line in log.lines() {
        let mut columns = line.split('\t').skip(1);
        let (status, micros) = (columns.next(), columns.next());
        match (status.map(str::parse::<i32>), micros.map(str::parse)) {
            (Some(Ok(200..300)), Some(Ok(micros))) => latencies.push(micros),
            (Some(Ok(_)), _) => failed += 1,
            _ => return Err(Failure::new(format_args!("an odd line in h2load's log: {line}"))),
        }
    }
    latencies.sort_unstable();
    let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).map_or(f64::NAN, |us| *us as f64);
    Ok(Seen { requests: latencies.len() as u64, seconds, p50_us: at(0.50), p99_us: at(0.99), failed })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn wrk_s_figures_are_read_past_its_own_summary() {
        let text = "Running 8s test\n\nFIGURES {\"requests\":100,\"micros\":2000000,\"p50\":10,\"p99\":20,\
                    \"bad_status\":3,\"broken\":1}\n";
        let seen = read_wrk(text).unwrap();
        assert_eq!(seen, Seen { requests: 97, seconds: 2.0, p50_us: 10.0, p99_us: 20.0, failed: 4 });
    }

    #[test]
    fn h2load_s_log_gives_percentiles_and_failures() {
        let log: String = (1..=100).map(|micros| format!("1700000000\t200\t{micros}\n")).collect();
        let seen = read_h2load(&(log + "1700000000\t503\t7\n1700000000\t-1\t7\n"), 4.0).unwrap();
        assert_eq!(seen, Seen { requests: 100, seconds: 4.0, p50_us: 51.0, p99_us: 100.0, failed: 2 });
    }

    #[test]
    fn nonsense_is_an_error_rather_than_a_figure() {
        assert!(read_wrk("unable to connect").is_err());
        assert!(read_h2load("what?\n", 4.0).is_err());
    }
}
