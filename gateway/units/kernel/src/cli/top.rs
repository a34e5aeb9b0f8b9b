//! `sluice kernel top`: a table of endpoints that renews itself.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{self, IsTerminal as _, Write};
use std::thread;
use std::time::Duration;

use serde_json::json;
use sluice_observer::{End, EndpointId, EndpointStats, GlobalCounts};

use super::text::{count, span, table};
use super::{CliError, Selection, until_closed};

/// How the table is made.
#[derive(Debug, Clone)]
pub struct TopOptions {
    /// Which connections.
    pub selection: Selection,
    /// Time between two tables.
    pub interval: Duration,
    /// End after so many tables; `None` to go on until interrupted.
    pub rounds: Option<u32>,
    /// The order of rows.
    pub sort: Sort,
    /// Most rows to show.
    pub rows: usize,
    /// One JSON object for each round and line, with all rows, instead of a table.
    pub json: bool,
}

impl Default for TopOptions {
    fn default() -> Self {
        Self {
            selection: Selection::default(),
            interval: Duration::from_secs(1),
            rounds: None,
            sort: Sort::default(),
            rows: 40,
            json: false,
        }
    }
}

/// The order of rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sort {
    /// Most connections begun since the table before, then in all.
    #[default]
    Activity,
    /// Longest round trip first.
    RoundTrip,
    /// Most resets first, of both sides.
    Resets,
    /// Most retransmissions first.
    Retransmits,
    /// Most failed connects first.
    Failures,
    /// By address.
    Address,
}

/// Shows the table on standard output, renewed in place where that is a terminal.
///
/// # Errors
/// Where observing cannot begin, or reading or writing fails.
pub fn top(options: &TopOptions) -> Result<(), CliError> {
    let stdout = io::stdout();
    let in_place = stdout.is_terminal() && !options.json;
    top_to(options, &mut stdout.lock(), in_place)
}

/// The same into any writer. With `in_place`, each table begins with the terminal sequence that clears the screen.
///
/// # Errors
/// As for [`top`].
pub fn top_to(options: &TopOptions, out: &mut dyn Write, in_place: bool) -> Result<(), CliError> {
    until_closed(rounds(options, out, in_place))
}

fn rounds(options: &TopOptions, out: &mut dyn Write, in_place: bool) -> Result<(), CliError> {
    let observer = options.selection.observe()?;
    let mut before: HashMap<EndpointId, u64> = HashMap::new();
    let mut round = 0;
    while options.rounds.is_none_or(|rounds| round < rounds) {
        thread::sleep(options.interval);
        let mut endpoints = observer.endpoints()?;
        let globals = observer.globals()?;
        sort(&mut endpoints, options.sort, &before);
        let page = if options.json {
            format!("{}\n", json!({ "endpoints": endpoints, "elsewhere": globals }))
        } else {
            page(&endpoints, &globals, &before, options)
        };
        if in_place {
            // Home, then clear to the end: less flicker than the other way round.
            out.write_all(b"\x1b[H\x1b[J")?;
        } else if round > 0 && !options.json {
            out.write_all(b"\n")?;
        }
        out.write_all(page.as_bytes())?;
        out.flush()?;
        before = endpoints.iter().map(|stats| (stats.id, stats.opened)).collect();
        round += 1;
    }
    Ok(())
}

fn sort(endpoints: &mut [EndpointStats], by: Sort, before: &HashMap<EndpointId, u64>) {
    // Addresses break ties, so that rows do not jump about.
    endpoints.sort_by_key(|stats| stats.id);
    match by {
        Sort::Activity => endpoints.sort_by_key(|stats| Reverse((fresh(stats, before), stats.opened))),
        Sort::RoundTrip => endpoints.sort_by_key(|stats| Reverse(stats.srtt)),
        Sort::Resets => {
            endpoints.sort_by_key(|stats| Reverse(stats.resets_received_total() + stats.resets_sent_total()));
        }
        Sort::Retransmits => endpoints.sort_by_key(|stats| Reverse(stats.retransmits)),
        Sort::Failures => endpoints.sort_by_key(|stats| Reverse(stats.connect_failures())),
        Sort::Address => {}
    }
}

/// Connections begun since the table before.
fn fresh(stats: &EndpointStats, before: &HashMap<EndpointId, u64>) -> u64 {
    stats.opened.saturating_sub(before.get(&stats.id).copied().unwrap_or(0))
}

const HEAD: [&str; 12] = [
    "endpoint",
    "conns",
    "new/s",
    "connect",
    "rtt",
    "rtt min",
    "retrans",
    "rst by peer",
    "rst by us",
    "stale",
    "failed",
    "idle close",
];

fn page(
    endpoints: &[EndpointStats],
    globals: &GlobalCounts,
    before: &HashMap<EndpointId, u64>,
    options: &TopOptions,
) -> String {
    let seconds = options.interval.as_secs_f64().max(0.001);
    let rows: Vec<_> = endpoints
        .iter()
        .take(options.rows)
        .map(|stats| {
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = fresh(stats, before) as f64 / seconds;
            vec![
                stats.id.to_string(),
                stats.opened.to_string(),
                if rate == 0.0 { "–".to_owned() } else { format!("{rate:.1}") },
                span(stats.connect_mean()),
                span(stats.srtt),
                span(stats.rtt_min),
                count(stats.retransmits),
                count(stats.resets_received_total()),
                count(stats.resets_sent_total()),
                count(stats.ends(End::PeerResetAfterClose)),
                count(stats.connect_failures()),
                span(stats.idle_last),
            ]
        })
        .collect();
    let mut page = table(&HEAD, &rows);
    if endpoints.is_empty() {
        page.push_str("(no connection has been opened since this began)\n");
    }
    if let Some(more) = endpoints.len().checked_sub(options.rows).filter(|more| *more > 0) {
        page.push_str(&format!("… and {more} more\n"));
    }
    let elsewhere = globals.resets_received_elsewhere + globals.resets_sent_elsewhere;
    let unseen = globals.connections_missed + globals.endpoints_missed + globals.events_lost;
    if elsewhere + globals.resets_sent_without_socket + unseen > 0 {
        page.push_str(&format!(
            "not watched: {elsewhere} resets; without a socket: {} resets sent; no room: {unseen}\n",
            globals.resets_sent_without_socket
        ));
    }
    page
}
