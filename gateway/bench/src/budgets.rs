//! The budgets of the gateway, each a limit on its CPU time per request beside something measured in the same run.

use std::fmt::{self, Display, Formatter};

use crate::peer::Peer;
use crate::results::Report;
use crate::scenario::Scenario;

/// What the gateway may use at most in a scenario.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Limit {
    /// So many times the CPU time of this peer in the same scenario.
    Times(f64, Peer),
    /// Its own CPU time in plain proxying, and so many microseconds.
    PlainPlus(f64),
    /// Its own CPU time in plain proxying, one signature check of the library, and so many microseconds.
    PlainAndCheckPlus(f64),
    /// So many bytes of memory before any load.
    IdleBytes(f64),
}

/// A limit held against what was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) text: String,
    pub(crate) met: bool,
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "budget {}  {}", if self.met { "met   " } else { "MISSED" }, self.text)
    }
}

/// The budgets of a scenario.
pub(crate) fn limits(scenario: Scenario) -> &'static [Limit] {
    use Limit::{IdleBytes, PlainAndCheckPlus, PlainPlus, Times};
    match scenario {
        Scenario::Plain => &[Times(1.10, Peer::Pingora), IdleBytes(40.0 * 1e6)],
        Scenario::Rs256One | Scenario::Es256One => &[PlainPlus(3.0), Times(0.7, Peer::EnvoyCached)],
        Scenario::Rs256Many => &[PlainAndCheckPlus(2.0), Times(0.9, Peer::Haproxy)],
        Scenario::Es256Many => &[PlainAndCheckPlus(2.0), Times(0.8, Peer::Haproxy)],
        // The budget is one of a single call; the plugin measured here is called twice for each request, and has to make
        // do with the same.
        Scenario::Plugin => &[PlainPlus(6.0)],
        Scenario::TlsH1 => &[Times(1.10, Peer::Pingora), Times(0.8, Peer::Envoy)],
        Scenario::TlsH2 => &[Times(1.10, Peer::Pingora), Times(0.9, Peer::Envoy)],
    }
}

impl Limit {
    /// Holds the limit against a report; `None` where something that it needs was not measured.
    pub(crate) fn verdict(self, report: &Report, scenario: Scenario) -> Option<Verdict> {
        let own = report.medians(scenario, Peer::Sluice)?;
        let plain = || Some(report.medians(Scenario::Plain, Peer::Sluice)?.cpu_us);
        let (what, bound) = match self {
            Self::Times(factor, peer) => {
                (format!("{factor:.2} × {}", peer.name()), factor * report.medians(scenario, peer)?.cpu_us)
            }
            Self::PlainPlus(more) => (format!("plain + {more} µs"), plain()? + more),
            Self::PlainAndCheckPlus(more) => {
                let check = report.verify_cost.of(scenario.token()?);
                (format!("plain + check of {check:.1} µs + {more} µs"), plain()? + check + more)
            }
            Self::IdleBytes(bound) => {
                let text = format!("idle at most {:.0} MB: {:.1} MB", bound / 1e6, own.idle_bytes / 1e6);
                return Some(Verdict { text, met: own.idle_bytes <= bound });
            }
        };
        let text = format!("at most {what} = {bound:.1} µs: {:.1} µs", own.cpu_us);
        Some(Verdict { text, met: own.cpu_us <= bound })
    }
}
