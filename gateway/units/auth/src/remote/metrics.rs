//! What is counted of the calls to other services: the same for each kind of decider, under its own prefix and label.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::RemoteFault;
use crate::metrics::{registered, registered_in};

/// Labels: whom a series is of, and for calls their outcome.
type Labels = Vec<(&'static str, String)>;

/// From a neighbour on the same machine to the longest timeout.
const BUCKETS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// The families of one kind of decider.
#[derive(Debug, Clone)]
pub(crate) struct CallFamilies {
    label: &'static str,
    calls: Family<Labels, Counter>,
    shared: Family<Labels, Counter>,
    in_flight: Family<Labels, Gauge>,
    breaker_open: Family<Labels, Gauge>,
    duration: Family<Labels, Histogram, fn() -> Histogram>,
    hits: Family<Labels, Counter>,
    misses: Family<Labels, Counter>,
    bytes: Family<Labels, Gauge>,
}

impl CallFamilies {
    /// Registers them as `what`, each series labelled by `label`.
    pub(crate) fn new(registry: &mut Registry, what: &'static str, label: &'static str) -> Self {
        let name = |rest: &str| format!("{what}_{rest}");
        let duration = Family::new_with_constructor((|| Histogram::new(BUCKETS)) as fn() -> Histogram);
        registry.register_with_unit(
            name("duration"),
            "Time from a call's first byte to its answer's last",
            Unit::Seconds,
            duration.clone(),
        );
        Self {
            label,
            calls: registered(registry, name("calls"), "Questions to the service, by outcome"),
            shared: registered(
                registry,
                name("shared"),
                "Requests that were answered by a question of another request",
            ),
            in_flight: registered(registry, name("in_flight"), "Calls under way now"),
            breaker_open: registered(
                registry,
                name("breaker_open"),
                "Whether the service is left alone after failures (1) or asked (0)",
            ),
            duration,
            hits: registered(registry, name("cache_hits"), "Requests answered by what was known"),
            misses: registered(registry, name("cache_misses"), "Requests of which nothing was known"),
            bytes: registered_in(registry, Unit::Bytes, name("cache"), "Memory held by answers"),
        }
    }

    /// The handles of one service.
    pub(crate) fn of(&self, who: &str) -> CallMetrics {
        let labels = self.labels(who);
        CallMetrics {
            ok: self.calls.get_or_create_owned(&self.with_outcome(who, "ok")),
            failed: RemoteFault::SLUGS.map(|slug| self.calls.get_or_create_owned(&self.with_outcome(who, slug))),
            shared: self.shared.get_or_create_owned(&labels),
            in_flight: self.in_flight.get_or_create_owned(&labels),
            breaker_open: self.breaker_open.get_or_create_owned(&labels),
            duration: self.duration.get_or_create_owned(&labels),
            hits: self.hits.get_or_create_owned(&labels),
            misses: self.misses.get_or_create_owned(&labels),
            bytes: self.bytes.get_or_create_owned(&labels),
        }
    }

    /// Forgets a service that is no longer configured.
    pub(crate) fn forget(&self, who: &str) {
        for outcome in RemoteFault::SLUGS.into_iter().chain(["ok"]) {
            self.calls.remove(&self.with_outcome(who, outcome));
        }
        let labels = self.labels(who);
        self.shared.remove(&labels);
        self.in_flight.remove(&labels);
        self.breaker_open.remove(&labels);
        self.duration.remove(&labels);
        self.hits.remove(&labels);
        self.misses.remove(&labels);
        self.bytes.remove(&labels);
    }

    fn labels(&self, who: &str) -> Labels {
        vec![(self.label, who.to_owned())]
    }

    fn with_outcome(&self, who: &str, outcome: &str) -> Labels {
        vec![(self.label, who.to_owned()), ("outcome", outcome.to_owned())]
    }
}

/// The handles of one service, looked up once.
#[derive(Debug, Clone)]
pub(crate) struct CallMetrics {
    ok: Counter,
    failed: [Counter; RemoteFault::SLUGS.len()],
    pub(crate) shared: Counter,
    pub(crate) in_flight: Gauge,
    pub(crate) breaker_open: Gauge,
    duration: Histogram,
    pub(crate) hits: Counter,
    pub(crate) misses: Counter,
    pub(crate) bytes: Gauge,
}

impl CallMetrics {
    /// Counts a question by how it ended.
    pub(crate) fn ended(&self, outcome: Result<(), &RemoteFault>) {
        match outcome {
            Ok(()) => drop(self.ok.inc()),
            Err(fault) => {
                if let Some(index) = RemoteFault::SLUGS.iter().position(|slug| *slug == fault.slug()) {
                    self.failed[index].inc();
                }
            }
        }
    }

    pub(crate) fn took(&self, time: Duration) {
        self.duration.observe(time.as_secs_f64());
    }

    /// Counts a call as under way for as long as the guard lives.
    pub(crate) fn flying(&self) -> Flying<'_> {
        self.in_flight.inc();
        Flying(&self.in_flight)
    }
}

/// A call under way.
#[derive(Debug)]
pub(crate) struct Flying<'g>(&'g Gauge);

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
