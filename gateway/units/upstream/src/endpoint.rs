//! What is known of one endpoint: what it is doing now, how it has fared, and how long it keeps connections.
//!
//! The state outlives configurations: an endpoint that stays in its upstream keeps its ejection, its latency and what was
//! learned of it. All of it is atomics; nothing here is locked by a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use pingora_core::upstreams::peer::HttpPeer;

use crate::config::{EjectionConfig, HealthConfig};
use crate::keepalive::Learned;
use crate::metrics::UpstreamMetrics;
use crate::time::{Epoch, Ticks};

/// How an endpoint answered when it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Asked {
    /// Not yet; counts as well, so that a new endpoint does not wait for its first answer.
    Unknown = 0,
    /// Well.
    Well = 1,
    /// Not well.
    Unwell = 2,
}

/// One endpoint as a configuration has it: the lasting state and the peer made from the present settings.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) state: Arc<EndpointState>,
    pub(crate) weight: u16,
    /// Copied for each request.
    pub(crate) peer: HttpPeer,
    /// How many requests it may have at once.
    pub(crate) max_requests: u32,
}

/// What is known of one endpoint.
#[derive(Debug)]
pub(crate) struct EndpointState {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: Arc<UpstreamMetrics>,
    pub(crate) learned: Learned,
    pub(crate) latency: Latency,
    active: AtomicU32,
    open: AtomicU32,
    failures: AtomicU32,
    ejected_until: AtomicU64,
    ejections: AtomicU32,
    asked: AtomicU8,
    /// Good answers in a row, or bad ones, whichever was last; the health task alone writes it.
    answers_in_a_row: AtomicU32,
    last_answer_was_good: AtomicU8,
    pub(crate) next_question: AtomicU64,
}

impl EndpointState {
    pub(crate) fn new(address: SocketAddr, metrics: Arc<UpstreamMetrics>) -> Arc<Self> {
        Arc::new(Self {
            address,
            metrics,
            learned: Learned::default(),
            latency: Latency::default(),
            active: AtomicU32::new(0),
            open: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            ejections: AtomicU32::new(0),
            asked: AtomicU8::new(Asked::Unknown as u8),
            answers_in_a_row: AtomicU32::new(0),
            last_answer_was_good: AtomicU8::new(0),
            next_question: AtomicU64::new(0),
        })
    }

    /// Whether it may be chosen.
    pub(crate) fn usable(&self, now: Ticks) -> bool {
        self.asked() != Asked::Unwell && !self.ejected(now)
    }

    pub(crate) fn ejected(&self, now: Ticks) -> bool {
        self.ejected_until.load(Ordering::Relaxed) > now
    }

    pub(crate) fn ejected_until(&self) -> Ticks {
        self.ejected_until.load(Ordering::Relaxed)
    }

    pub(crate) fn asked(&self) -> Asked {
        match self.asked.load(Ordering::Relaxed) {
            1 => Asked::Well,
            2 => Asked::Unwell,
            _ => Asked::Unknown,
        }
    }

    pub(crate) fn ejections(&self) -> u32 {
        self.ejections.load(Ordering::Relaxed)
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Requests under way.
    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// Connections open or being opened, pooled ones included.
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Takes one of `most` places for a request.
    pub(crate) fn acquire(&self, most: u32) -> bool {
        if self.active.fetch_add(1, Ordering::AcqRel) < most {
            return true;
        }
        self.active.fetch_sub(1, Ordering::AcqRel);
        false
    }

    /// Gives the place back.
    pub(crate) fn release(&self) {
        self.active.fetch_sub(1, Ordering::AcqRel);
    }

    /// Takes one of `most` places for a connection.
    pub(crate) fn opened(&self, most: u32) -> bool {
        if self.open.fetch_add(1, Ordering::AcqRel) >= most {
            self.open.fetch_sub(1, Ordering::AcqRel);
            return false;
        }
        self.metrics.connections_open.inc();
        true
    }

    /// Gives the place back.
    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        self.metrics.connections_open.dec();
    }

    /// A pooled connection was closed, by whichever end, after this long unused.
    pub(crate) fn closed_idle(&self, idle: Ticks) {
        self.learned.saw_idle_close(Duration::from_nanos(idle));
    }

    /// A request went well.
    pub(crate) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A request failed; says whether the endpoint has now failed as often in a row as is allowed.
    pub(crate) fn failed(&self, config: &EjectionConfig) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        config.consecutive_failures > 0 && failures >= config.consecutive_failures
    }

    /// Leaves it out until then. Failing once after it returns is enough to be left out again.
    pub(crate) fn eject(&self, until: Ticks, config: &EjectionConfig) {
        self.ejected_until.store(until, Ordering::Relaxed);
        self.ejections.fetch_add(1, Ordering::Relaxed);
        self.failures.store(config.consecutive_failures.saturating_sub(1), Ordering::Relaxed);
    }

    /// Takes in one answer of the health check; says whether the endpoint's standing changed.
    pub(crate) fn answered(&self, good: bool, config: &HealthConfig) -> bool {
        let same = self.last_answer_was_good.swap(u8::from(good), Ordering::Relaxed) == u8::from(good);
        let row = if same { self.answers_in_a_row.load(Ordering::Relaxed).saturating_add(1) } else { 1 };
        self.answers_in_a_row.store(row, Ordering::Relaxed);
        let standing = match (good, self.asked()) {
            // The first answer settles what was unknown, if it is good.
            (true, Asked::Unknown) => Asked::Well,
            (true, Asked::Unwell) if row >= config.healthy_after => Asked::Well,
            (false, Asked::Unknown | Asked::Well) if row >= config.unhealthy_after => Asked::Unwell,
            (_, standing) => standing,
        };
        self.asked.swap(standing as u8, Ordering::Relaxed) != standing as u8
    }

    /// Without health checks nothing is known.
    pub(crate) fn not_asked(&self) {
        self.asked.store(Asked::Unknown as u8, Ordering::Relaxed);
        self.answers_in_a_row.store(0, Ordering::Relaxed);
    }
}

/// Peak EWMA of response times.
///
/// A response slower than the average takes the average's place at once; faster ones pull it down over [`Latency::DECAY`].
/// So an endpoint that stalls is avoided from its first slow answer, and forgiven slowly. Concurrent updates may lose one
/// another; each is a good estimate by itself.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    nanos: AtomicU64,
    at: AtomicU64,
}

impl Latency {
    const DECAY: Duration = Duration::from_secs(10);

    pub(crate) fn record(&self, sample: Duration, now: Ticks) {
        let sample = Epoch::length(sample).max(1);
        let before = self.at.swap(now, Ordering::Relaxed);
        let average = self.nanos.load(Ordering::Relaxed);
        let next = if average == 0 || sample >= average {
            sample
        } else {
            // e^(-dt/decay): how much of the old average is left.
            let passed = now.saturating_sub(before) as f64;
            let left = (-passed / Epoch::length(Self::DECAY) as f64).exp();
            (average as f64 * left + sample as f64 * (1.0 - left)).round() as u64
        };
        self.nanos.store(next.max(1), Ordering::Relaxed);
    }

    /// None before the first response.
    pub(crate) fn average(&self) -> Option<Duration> {
        match self.nanos.load(Ordering::Relaxed) {
            0 => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Ticks = 1_000_000_000;

    #[test]
    fn a_peak_counts_at_once_and_fades_slowly() {
        let latency = Latency::default();
        assert_eq!(latency.average(), None);
        latency.record(Duration::from_millis(10), SECOND);
        latency.record(Duration::from_millis(500), 2 * SECOND);
        assert_eq!(latency.average(), Some(Duration::from_millis(500)));

        latency.record(Duration::from_millis(10), 3 * SECOND);
        let soon = latency.average().unwrap_or_default();
        assert!(soon > Duration::from_millis(400), "{soon:?}");
        latency.record(Duration::from_millis(10), 60 * SECOND);
        let later = latency.average().unwrap_or_default();
        assert!(later < Duration::from_millis(20), "{later:?}");
    }
}
