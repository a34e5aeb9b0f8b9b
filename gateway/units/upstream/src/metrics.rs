//! What is counted of upstreams, per upstream; endpoints are shown on the admin's `/upstreams`, since their addresses
//! come and go and would be labels without bound.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use sluice_vocabulary::UpstreamName;
use sluice_vocabulary::histogram::DurationHistogram;

use crate::failure::Outcome;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    upstream: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    upstream: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReuseLabels {
    upstream: String,
    reused: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    upstream: String,
    verdict: &'static str,
}

/// The unit's metrics; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: Family<OutcomeLabels, Counter>,
    active: Family<Labels, Gauge>,
    connect: Family<Labels, DurationHistogram, fn() -> DurationHistogram>,
    response: Family<Labels, DurationHistogram, fn() -> DurationHistogram>,
    used: Family<ReuseLabels, Counter>,
    open: Family<Labels, Gauge>,
    cut: Family<Labels, Counter>,
    saturated: Family<Labels, Counter>,
    retries: Family<RetryLabels, Counter>,
    ejections: Family<Labels, Counter>,
    endpoints: Family<Labels, Gauge>,
    usable: Family<Labels, Gauge>,
    resolve_failures: Family<Labels, Counter>,
    health_failures: Family<Labels, Counter>,
}

/// One upstream's share of them, looked up once.
#[derive(Debug)]
pub(crate) struct UpstreamMetrics {
    pub(crate) outcomes: [Counter; Outcome::ALL.len()],
    pub(crate) active: Gauge,
    pub(crate) connect: DurationHistogram,
    pub(crate) response: DurationHistogram,
    pub(crate) connections_new: Counter,
    pub(crate) connections_reused: Counter,
    pub(crate) connections_open: Gauge,
    pub(crate) cut: Counter,
    pub(crate) saturated: Counter,
    pub(crate) retries_granted: Counter,
    pub(crate) retries_over_budget: Counter,
    pub(crate) ejections: Counter,
    pub(crate) endpoints: Gauge,
    pub(crate) usable: Gauge,
    pub(crate) resolve_failures: Counter,
    pub(crate) health_failures: Counter,
}

impl Metrics {
    /// Registers them, without a prefix.
    pub fn new(registry: &mut Registry) -> Self {
        let histogram: fn() -> DurationHistogram = || DurationHistogram::new(BOUNDS);
        let metrics = Self {
            requests: Family::default(),
            active: Family::default(),
            connect: Family::new_with_constructor(histogram),
            response: Family::new_with_constructor(histogram),
            used: Family::default(),
            open: Family::default(),
            cut: Family::default(),
            saturated: Family::default(),
            retries: Family::default(),
            ejections: Family::default(),
            endpoints: Family::default(),
            usable: Family::default(),
            resolve_failures: Family::default(),
            health_failures: Family::default(),
        };
        registry.register("requests", "Tries sent to an upstream, by how they ended", metrics.requests.clone());
        registry.register("requests_active", "Tries under way", metrics.active.clone());
        registry.register_with_unit(
            "connect_duration",
            "Time to make a TCP connection",
            Unit::Seconds,
            metrics.connect.clone(),
        );
        registry.register_with_unit(
            "response_duration",
            "Time from a try's first byte sent to its response's header",
            Unit::Seconds,
            metrics.response.clone(),
        );
        registry.register("connections_used", "Tries by whether their connection was reused", metrics.used.clone());
        registry.register(
            "connections_open",
            "Connections open or being opened, pooled ones included",
            metrics.open.clone(),
        );
        registry.register("connections_cut", "Connections cut because a deadline had passed", metrics.cut.clone());
        registry.register(
            "saturated",
            "Requests refused because no connection came free in time",
            metrics.saturated.clone(),
        );
        registry.register("retries", "Retries wanted, by whether the budget granted them", metrics.retries.clone());
        registry.register("ejections", "Endpoints left out after failing in a row", metrics.ejections.clone());
        registry.register("endpoints", "Endpoints known", metrics.endpoints.clone());
        registry.register("endpoints_usable", "Endpoints that may be chosen now", metrics.usable.clone());
        registry.register("resolve_failures", "Names that could not be resolved", metrics.resolve_failures.clone());
        registry.register(
            "health_check_failures",
            "Health checks that were not answered well",
            metrics.health_failures.clone(),
        );
        metrics
    }

    pub(crate) fn of(&self, name: &UpstreamName) -> Arc<UpstreamMetrics> {
        let upstream = || name.as_str().to_owned();
        let labels = Labels { upstream: upstream() };
        let used = |reused| self.used.get_or_create_owned(&ReuseLabels { upstream: upstream(), reused });
        let retries = |verdict| self.retries.get_or_create_owned(&RetryLabels { upstream: upstream(), verdict });
        Arc::new(UpstreamMetrics {
            outcomes: Outcome::ALL.map(|outcome| {
                self.requests.get_or_create_owned(&OutcomeLabels { upstream: upstream(), outcome: outcome.as_str() })
            }),
            active: self.active.get_or_create_owned(&labels),
            connect: self.connect.get_or_create_owned(&labels),
            response: self.response.get_or_create_owned(&labels),
            connections_new: used("no"),
            connections_reused: used("yes"),
            connections_open: self.open.get_or_create_owned(&labels),
            cut: self.cut.get_or_create_owned(&labels),
            saturated: self.saturated.get_or_create_owned(&labels),
            retries_granted: retries("granted"),
            retries_over_budget: retries("over_budget"),
            ejections: self.ejections.get_or_create_owned(&labels),
            endpoints: self.endpoints.get_or_create_owned(&labels),
            usable: self.usable.get_or_create_owned(&labels),
            resolve_failures: self.resolve_failures.get_or_create_owned(&labels),
            health_failures: self.health_failures.get_or_create_owned(&labels),
        })
    }

    /// Forgets an upstream that is no longer configured.
    pub(crate) fn forget(&self, name: &UpstreamName) {
        let upstream = || name.as_str().to_owned();
        let labels = Labels { upstream: upstream() };
        for outcome in Outcome::ALL {
            self.requests.remove(&OutcomeLabels { upstream: upstream(), outcome: outcome.as_str() });
        }
        for reused in ["yes", "no"] {
            self.used.remove(&ReuseLabels { upstream: upstream(), reused });
        }
        for verdict in ["granted", "over_budget"] {
            self.retries.remove(&RetryLabels { upstream: upstream(), verdict });
        }
        for gauges in [&self.active, &self.open, &self.endpoints, &self.usable] {
            gauges.remove(&labels);
        }
        for counters in [&self.cut, &self.saturated, &self.ejections, &self.resolve_failures, &self.health_failures] {
            counters.remove(&labels);
        }
        self.connect.remove(&labels);
        self.response.remove(&labels);
    }
}

/// From half a millisecond, which is a fast service in the same rack, by about a factor of 2.5 to the default limit on a
/// whole exchange.
const BOUNDS: &[Duration] = &[
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_micros(2_500),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
];

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_duration_is_told_in_its_bucket_and_all_above() {
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let upstream = metrics.of(&UpstreamName::new("orders").unwrap());
        upstream.response.observe(Duration::from_millis(10));
        upstream.response.observe(Duration::from_secs(100));
        assert_eq!(upstream.response.totals(), (2, Duration::from_millis(100_010)));

        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &registry).unwrap();
        for line in [
            "response_duration_seconds_sum{upstream=\"orders\"} 100.01",
            "response_duration_seconds_bucket{le=\"0.005\",upstream=\"orders\"} 0",
            "response_duration_seconds_bucket{le=\"0.01\",upstream=\"orders\"} 1",
            "response_duration_seconds_bucket{le=\"60.0\",upstream=\"orders\"} 1",
            "response_duration_seconds_bucket{le=\"+Inf\",upstream=\"orders\"} 2",
            "requests_total{upstream=\"orders\",outcome=\"timeout\"} 0",
        ] {
            assert!(page.contains(line), "{line} in\n{page}");
        }
    }
}
