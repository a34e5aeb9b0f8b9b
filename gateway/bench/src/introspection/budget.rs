//! How far the inline check has to be ahead of a service that is asked about every request.

use super::report::{Cell, Lead};
use crate::budgets::Verdict;

/// The lead that is wanted in some circumstances; in the others there is no budget.
pub(crate) fn wanted(cell: Cell) -> Option<Wanted> {
    match (cell.delay_ms, cell.connections) {
        // Envoy's own pair, with its cache on: 5.7 × and −76 %.
        (10, 64) => Some(Wanted::AtLeast(Lead { throughput: 6.0, p99: 0.20 })),
        // Even where the answer is free.
        (0, _) => Some(Wanted::Ahead),
        _ => None,
    }
}

/// A wanted lead.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wanted {
    AtLeast(Lead),
    /// On both counts, by however little.
    Ahead,
}

impl Wanted {
    pub(crate) fn verdict(self, lead: Lead, beside: &str) -> Verdict {
        let (what, met) = match self {
            Self::AtLeast(wanted) => {
                (format!("at least {wanted}"), lead.throughput >= wanted.throughput && lead.p99 <= wanted.p99)
            }
            Self::Ahead => ("ahead on both".to_owned(), lead.throughput > 1.0 && lead.p99 < 1.0),
        };
        Verdict { text: format!("beside {beside} {what}: {lead}"), met }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::scenario::Tokens;

    fn cell(delay_ms: u32, connections: u32) -> Cell {
        Cell { tokens: Tokens::Repeated, connections, delay_ms }
    }

    #[test]
    fn both_the_throughput_and_the_p99_have_to_be_reached() {
        let wanted = wanted(cell(10, 64)).unwrap();
        let met = |throughput, p99| wanted.verdict(Lead { throughput, p99 }, "x").met;
        assert!(met(6.0, 0.20) && !met(5.9, 0.10) && !met(9.0, 0.21));
    }

    #[test]
    fn an_instant_answer_has_to_be_beaten_by_however_little() {
        let wanted = wanted(cell(0, 512)).unwrap();
        let met = |throughput, p99| wanted.verdict(Lead { throughput, p99 }, "x").met;
        assert!(met(1.01, 0.99) && !met(1.0, 0.5) && !met(2.0, 1.0));
    }

    #[test]
    fn elsewhere_there_is_no_budget() {
        assert_eq!([cell(2, 64), cell(10, 1), cell(10, 512)].map(wanted), [None, None, None]);
    }
}
