//! Tables of the inline check beside introspection, for people.

use std::fmt::{self, Display, Formatter, Write};

use super::budget;
use super::report::{Cell, Lead, Report};
use super::way::Way;
use crate::scenario::Tokens;
use crate::show;

/// The ways beside which the gateway's inline check is shown in the table that sums up, with the headings.
const BESIDE: &[(Way, &str)] = &[
    (Way::SluiceIntrospect, "sluice asking"),
    (Way::EnvoyIntrospect, "Envoy asking"),
    (Way::NginxIntrospect, "nginx asking"),
];

/// Everything that a report says: each cell of the matrix with its budgets, then all leads in one table.
pub(crate) fn tables(report: &Report) -> String {
    let mut text = show::heading(&report.made);
    for cell in report.cells() {
        rows(&mut text, report, cell);
    }
    summary(&mut text, report);
    text
}

fn rows(text: &mut String, report: &Report, cell: Cell) {
    let _ = writeln!(text, "\n{cell}");
    let _ = writeln!(
        text,
        "  {:<26}{:>12}{:>10}{:>10}{:>12}   sluice-inline's requests/s and P99 beside it",
        "", "requests/s", "P50 µs", "P99 µs", "CPU µs/req"
    );
    for way in Way::ALL {
        let Some(row) = report.medians(*way, cell) else { continue };
        let _ = write!(
            text,
            "  {:<26}{:>12.0}{:>10.0}{:>10.0}{:>12.1}",
            way.label(cell.tokens),
            row.requests_per_second,
            row.p50_us,
            row.p99_us,
            row.cpu_us
        );
        if row.failed > 0 {
            let _ = write!(text, "   INVALID: {} requests failed", row.failed);
        } else if let Some(lead) = report.lead(Way::SluiceInline, *way, cell).filter(|_| *way != Way::SluiceInline) {
            let _ = write!(text, "   {lead}");
        }
        text.push('\n');
    }
    if let Some(lead) = report.lead(Way::EnvoyInline, Way::EnvoyIntrospect, cell) {
        let _ = writeln!(text, "  Envoy's own pair: {lead}");
    }
    let Some(wanted) = budget::wanted(cell) else { return };
    for way in Way::ALL.iter().filter(|way| way.asks_always()) {
        if let Some(lead) = report.lead(Way::SluiceInline, *way, cell) {
            let _ = writeln!(text, "  {}", wanted.verdict(lead, way.label(cell.tokens)));
        }
    }
}

fn summary(text: &mut String, report: &Report) {
    let _ = writeln!(text, "\ninline check against introspection per request: requests/s as a multiple, and P99");
    let _ = write!(text, "  {:<52}", "sluice checking inline, beside");
    for (_, heading) in BESIDE {
        let _ = write!(text, "{heading:>18}");
    }
    let _ = writeln!(text, "{:>20}", "(Envoy's own pair)");
    let lead = |way, other, cell| report.lead(way, other, cell).map_or("–".to_owned(), |lead| lead.to_string());
    for cell in report.cells() {
        let _ = write!(text, "  {:<52}", cell.to_string());
        for (way, _) in BESIDE {
            let _ = write!(text, "{:>18}", lead(Way::SluiceInline, *way, cell));
        }
        let _ = writeln!(text, "{:>20}", lead(Way::EnvoyInline, Way::EnvoyIntrospect, cell));
    }
    text.push_str(
        "  sluice's requests that carry one token at the same time share a question, which no setting changes\n",
    );
}

impl Display for Cell {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let tokens = match self.tokens {
            Tokens::NeverSeen => "never-seen tokens",
            Tokens::Repeated => "repeated token",
        };
        let plural = if self.connections == 1 { "" } else { "s" };
        write!(f, "{tokens}, {} connection{plural}, ", self.connections)?;
        match self.delay_ms {
            0 => f.write_str("instant answer"),
            delay => write!(f, "{delay} ms answer"),
        }
    }
}

/// As in `5.7 × −76 %`.
impl Display for Lead {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let percent = (self.p99 - 1.0) * 100.0;
        let sign = if percent < 0.0 { '−' } else { '+' };
        // Two figures, so that a lead of one in a hundred shows.
        let places = if self.throughput < 2.0 { 2 } else { 1 };
        write!(f, "{:.places$} × {sign}{:.0} %", self.throughput, percent.abs())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::report::Run;
    use super::*;
    use crate::results::{Figures, Made};

    fn run(way: Way, delay_ms: Option<u32>, requests_per_second: f64, p99_us: f64) -> Run {
        let figures = Figures {
            requests: 1000,
            seconds: 1.0,
            requests_per_second,
            p50_us: 10.0,
            p99_us,
            cpu_us: 20.0,
            idle_bytes: 0,
            loaded_bytes: 0,
            failed: 0,
        };
        Run { way, tokens: Tokens::Repeated, connections: 64, delay_ms, round: 0, figures }
    }

    fn report(runs: Vec<Run>) -> Report {
        Report { made: Made::example(), versions: BTreeMap::new(), runs }
    }

    #[test]
    fn the_inline_check_is_held_against_every_delay_of_the_same_load() {
        let text = tables(&report(vec![
            run(Way::SluiceInline, None, 40_000.0, 2_400.0),
            run(Way::SluiceIntrospect, Some(0), 20_000.0, 4_000.0),
            run(Way::SluiceIntrospect, Some(10), 5_000.0, 14_000.0),
            run(Way::SluiceIntrospectCached, Some(10), 39_000.0, 2_500.0),
            run(Way::EnvoyIntrospect, Some(10), 8_000.0, 14_000.0),
        ]));
        for expected in [
            "repeated token, 64 connections, instant answer\n",
            "repeated token, 64 connections, 10 ms answer\n",
            "budget met     beside sluice-introspect (shared) ahead on both: 2.0 × −40 %",
            "budget met     beside sluice-introspect (shared) at least 6.0 × −80 %: 8.0 × −83 %",
            "budget MISSED  beside envoy-introspect at least 6.0 × −80 %: 5.0 × −83 %",
            "1.03 × −4 %\n",
        ] {
            assert!(text.contains(expected), "{expected} is not in {text}");
        }
        assert!(!text.contains("beside sluice-introspect-cached"), "it does not ask per request: {text}");
    }

    #[test]
    fn a_peer_s_own_pair_is_shown_beside_ours() {
        let text = tables(&report(vec![
            run(Way::EnvoyInline, None, 30_000.0, 3_360.0),
            run(Way::EnvoyIntrospect, Some(10), 5_263.0, 14_000.0),
        ]));
        assert!(text.contains("Envoy's own pair: 5.7 × −76 %"), "{text}");
        assert!(!text.contains("budget"), "{text}");
    }

    #[test]
    fn what_failed_is_shown_as_such_and_gives_no_ratio() {
        let mut bad = run(Way::NginxIntrospect, Some(10), 99_000.0, 1.0);
        bad.figures.failed = 7;
        let text = tables(&report(vec![run(Way::SluiceInline, None, 40_000.0, 2_400.0), bad]));
        assert!(text.contains("INVALID: 7 requests failed") && !text.contains("beside nginx"), "{text}");
    }

    #[test]
    fn being_behind_is_written_as_such() {
        assert_eq!(Lead { throughput: 0.876, p99: 1.126 }.to_string(), "0.88 × +13 %");
    }
}
