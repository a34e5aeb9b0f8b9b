//! Tables for people.

use std::fmt::Write;

use crate::budgets;
use crate::peer::Peer;
use crate::results::{Made, Medians, Report};
use crate::scenario::Scenario;

/// Everything a report says, scenario by scenario: medians, the gateway's ratio to each peer, the budgets.
pub(crate) fn tables(report: &Report) -> String {
    let mut text = heading(&report.made);
    for scenario in Scenario::ALL {
        table(&mut text, report, *scenario);
    }
    text
}

/// What stands above all tables of a report.
pub(crate) fn heading(made: &Made) -> String {
    let Made { began, commit, machine, command } = made;
    format!(
        "commit {commit}, {began} · {} ({} cores, {} MB), Linux {}, {}\nmade by: {command}\n",
        machine.cpu, machine.cores, machine.memory_mb, machine.kernel, machine.system
    )
}

fn table(text: &mut String, report: &Report, scenario: Scenario) {
    let of = |peer: Peer| Some((peer, report.medians(scenario, peer)?));
    let rows: Vec<(Peer, Medians)> = Peer::ALL.iter().copied().filter_map(of).collect();
    if rows.is_empty() {
        return;
    }
    let own = report.medians(scenario, Peer::Sluice);
    let _ = writeln!(text, "\n{}", scenario.title());
    let _ = writeln!(
        text,
        "  {:<14}{:>12}{:>10}{:>10}{:>12}{:>10}{:>10}{:>16}",
        "", "requests/s", "P50 µs", "P99 µs", "CPU µs/req", "idle MB", "load MB", "sluice's share"
    );
    for (peer, row) in rows {
        let share = own.filter(|_| peer != Peer::Sluice).map(|own| format!("{:.2} ×", own.cpu_us / row.cpu_us));
        let _ = write!(
            text,
            "  {:<14}{:>12.0}{:>10.0}{:>10.0}{:>12.1}{:>10.1}{:>10.1}{:>16}",
            peer.name(),
            row.requests_per_second,
            row.p50_us,
            row.p99_us,
            row.cpu_us,
            row.idle_bytes / 1e6,
            row.loaded_bytes / 1e6,
            share.unwrap_or_default()
        );
        if row.failed > 0 {
            let _ = write!(text, "  INVALID: {} requests failed", row.failed);
        }
        text.push('\n');
    }
    for limit in budgets::limits(scenario) {
        if let Some(verdict) = limit.verdict(report, scenario) {
            let _ = writeln!(text, "  {verdict}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Figures, Run};
    use crate::verify_cost::VerifyCost;

    fn run(scenario: Scenario, peer: Peer, cpu_us: f64) -> Run {
        Run {
            scenario,
            peer,
            round: 0,
            figures: Figures {
                requests: 1000,
                seconds: 1.0,
                requests_per_second: 1000.0,
                p50_us: 10.0,
                p99_us: 20.0,
                cpu_us,
                idle_bytes: 20_000_000,
                loaded_bytes: 30_000_000,
                failed: 0,
            },
        }
    }

    fn report(runs: Vec<Run>) -> Report {
        Report {
            made: Made::example(),
            versions: std::collections::BTreeMap::new(),
            verify_cost: VerifyCost { rs256_us: 12.0, es256_us: 33.0 },
            runs,
        }
    }

    #[test]
    fn budgets_are_held_against_medians_of_the_same_report() {
        let text = tables(&report(vec![
            run(Scenario::Plain, Peer::Sluice, 17.0),
            run(Scenario::Plain, Peer::Sluice, 99.0),
            run(Scenario::Plain, Peer::Sluice, 18.0),
            run(Scenario::Plain, Peer::Pingora, 16.0),
            run(Scenario::Rs256Many, Peer::Sluice, 33.0),
            run(Scenario::Rs256Many, Peer::Haproxy, 35.0),
        ]));
        assert!(text.contains("budget MISSED  at most 1.10 × pingora = 17.6 µs: 18.0 µs"), "{text}");
        assert!(text.contains("budget met     idle at most 40 MB: 20.0 MB"), "{text}");
        assert!(text.contains("budget MISSED  at most plain + check of 12.0 µs + 2 µs = 32.0 µs: 33.0 µs"), "{text}");
        assert!(text.contains("budget MISSED  at most 0.90 × haproxy = 31.5 µs: 33.0 µs"), "{text}");
    }

    #[test]
    fn a_budget_beside_a_peer_that_was_not_measured_says_nothing() {
        let text = tables(&report(vec![run(Scenario::TlsH1, Peer::Sluice, 20.0)]));
        assert!(text.contains("TLS 1.3, HTTP/1.1") && !text.contains("budget"), "{text}");
    }

    #[test]
    fn failed_requests_are_shown_as_such() {
        let mut bad = run(Scenario::Plain, Peer::Nginx, 12.0);
        bad.figures.failed = 7;
        assert!(tables(&report(vec![bad])).contains("INVALID: 7 requests failed"));
    }
}
