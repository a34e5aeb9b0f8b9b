//! Raw figures of checks inline and by introspection, and medians of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::way::Way;
use crate::peer::Peer;
use crate::results::{Figures, Made, Medians};
use crate::scenario::Tokens;

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub(crate) made: Made,
    /// What each proxy calls its version.
    pub(crate) versions: BTreeMap<Peer, String>,
    pub(crate) runs: Vec<Run>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) way: Way,
    pub(crate) tokens: Tokens,
    pub(crate) connections: u32,
    /// How long the service takes; `null` where none is asked.
    pub(crate) delay_ms: Option<u32>,
    pub(crate) round: u32,
    #[serde(flatten)]
    pub(crate) figures: Figures,
}

/// The circumstances in which ways are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cell {
    pub(crate) tokens: Tokens,
    pub(crate) connections: u32,
    pub(crate) delay_ms: u32,
}

/// How far one way is ahead of another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Lead {
    /// Its requests per second, as a multiple of the other's.
    pub(crate) throughput: f64,
    /// Its P99, as a part of the other's.
    pub(crate) p99: f64,
}

impl Report {
    /// All circumstances of which something was measured, in order.
    pub(crate) fn cells(&self) -> Vec<Cell> {
        let asking = self.runs.iter().filter_map(|run| {
            let delay_ms = run.delay_ms?;
            Some(Cell { tokens: run.tokens, connections: run.connections, delay_ms })
        });
        let mut cells: Vec<Cell> = asking.collect();
        cells.sort_unstable();
        cells.dedup();
        cells
    }

    /// The medians of a way, if it was measured.
    pub(crate) fn medians(&self, way: Way, cell: Cell) -> Option<Medians> {
        let Cell { tokens, connections, delay_ms } = cell;
        let delay_ms = way.asks().then_some(delay_ms);
        let here = (way, tokens, connections, delay_ms);
        let runs = self.runs.iter();
        let runs = runs.filter(|run| (run.way, run.tokens, run.connections, run.delay_ms) == here);
        Medians::of(runs.map(|run| &run.figures))
    }

    /// How far `way` is ahead of `other`; `None` where either was not measured, or failed.
    pub(crate) fn lead(&self, way: Way, other: Way, cell: Cell) -> Option<Lead> {
        let (own, other) = (self.medians(way, cell)?, self.medians(other, cell)?);
        let sound = own.failed == 0 && other.failed == 0;
        sound.then(|| Lead {
            throughput: own.requests_per_second / other.requests_per_second,
            p99: own.p99_us / other.p99_us,
        })
    }
}
