//! What is measured of requests.
//!
//! A route's handles are made when a configuration is applied and held by the compiled route; a request then touches
//! atomics only. A route that a new configuration no longer has leaves the page.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use sluice_vocabulary::histogram::DurationHistogram;
use sluice_vocabulary::{Reason, RouteName};

use crate::histogram::{OVERHEAD_BOUNDS, REQUEST_BOUNDS};

/// The `route` label of requests that no route matched. Not a route's name: those have no brackets.
pub const NO_ROUTE: &str = "(none)";

const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteClass {
    route: Arc<str>,
    status_class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    route: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

/// Counts of all requests. Made once; cheap to clone.
#[derive(Debug, Clone)]
pub struct RequestMetrics {
    requests: Family<RouteClass, Counter>,
    durations: Family<Route, DurationHistogram, fn() -> DurationHistogram>,
    refusals: Arc<[Counter]>,
    active: Gauge,
    overhead: DurationHistogram,
    unmatched: Arc<RouteMetrics>,
}

/// The handles of one route.
#[derive(Debug)]
pub struct RouteMetrics {
    classes: [Counter; CLASSES.len()],
    duration: DurationHistogram,
}

/// Counts a request as under way until it is dropped.
#[derive(Debug)]
pub struct ActiveRequest(Gauge);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl RequestMetrics {
    /// Registers at the gateway's root (`sluice_requests_total`, …); every refusal's reason is there from the start.
    pub fn new(registry: &mut Registry) -> Self {
        let requests = Family::<RouteClass, Counter>::default();
        let new_duration: fn() -> DurationHistogram = || DurationHistogram::new(REQUEST_BOUNDS);
        let durations = Family::new_with_constructor(new_duration);
        let refusals = Family::<ReasonLabel, Counter>::default();
        let active = Gauge::default();
        let overhead = DurationHistogram::new(OVERHEAD_BOUNDS);
        registry.register(
            "requests",
            "Requests ended, by route and class of status; class none is a client that went away before an answer",
            requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "From a request's header to its answer's last byte, by route",
            Unit::Seconds,
            durations.clone(),
        );
        registry.register(
            "refusals",
            "Requests that the gateway refused or could not serve, by reason",
            refusals.clone(),
        );
        registry.register("requests_active", "Requests under way", active.clone());
        registry.register_with_unit(
            "gateway_overhead",
            "What the gateway added to a request: its duration without the upstream's part",
            Unit::Seconds,
            overhead.clone(),
        );
        let by_reason =
            Reason::ALL.iter().map(|reason| refusals.get_or_create_owned(&ReasonLabel { reason: reason.slug() }));
        let unmatched = handles(&requests, &durations, NO_ROUTE.into());
        Self { refusals: by_reason.collect(), unmatched: Arc::new(unmatched), requests, durations, active, overhead }
    }

    /// A route's handles: to be asked for when a configuration is applied, not per request.
    pub fn route(&self, route: &RouteName) -> Arc<RouteMetrics> {
        Arc::new(handles(&self.requests, &self.durations, route.as_str().into()))
    }

    /// The handles for requests that no route matched.
    pub fn unmatched(&self) -> &Arc<RouteMetrics> {
        &self.unmatched
    }

    /// Takes a route that is configured no longer from the page.
    pub fn forget(&self, route: &RouteName) {
        let route: Arc<str> = route.as_str().into();
        for status_class in CLASSES {
            self.requests.remove(&RouteClass { route: route.clone(), status_class });
        }
        self.durations.remove(&Route { route });
    }

    /// Counts a refusal.
    pub fn refused(&self, reason: Reason) {
        // The reasons are numbered in the order of the table that the handles were made from.
        if let Some(counter) = self.refusals.get(reason as usize) {
            counter.inc();
        }
    }

    /// A request has begun.
    pub fn begin(&self) -> ActiveRequest {
        self.active.inc();
        ActiveRequest(self.active.clone())
    }

    /// What the gateway added to a request that an upstream answered.
    pub fn overhead(&self, added: Duration) {
        self.overhead.observe(added);
    }

    /// What the gateway added to all requests that upstreams answered.
    pub fn own_time(&self) -> DurationHistogram {
        self.overhead.clone()
    }
}

impl RouteMetrics {
    /// A request has ended with this status (0: the client went away before one was sent), after this time.
    pub fn ended(&self, status: u16, duration: Duration) {
        let class = match status {
            100..=599 => usize::from(status / 100) - 1,
            _ => CLASSES.len() - 1,
        };
        self.classes[class].inc();
        self.duration.observe(duration);
    }
}

fn handles(
    requests: &Family<RouteClass, Counter>,
    durations: &Family<Route, DurationHistogram, fn() -> DurationHistogram>,
    route: Arc<str>,
) -> RouteMetrics {
    let class = |status_class| requests.get_or_create_owned(&RouteClass { route: route.clone(), status_class });
    RouteMetrics {
        classes: CLASSES.map(class),
        duration: durations.get_or_create_owned(&Route { route: route.clone() }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use prometheus_client::encoding::text;

    fn page(registry: &Registry) -> String {
        let mut page = String::new();
        text::encode(&mut page, registry).unwrap();
        page
    }

    #[test]
    fn every_reason_is_on_the_page_before_it_happens() {
        let mut registry = Registry::default();
        let metrics = RequestMetrics::new(&mut registry);
        for reason in Reason::ALL {
            metrics.refused(*reason);
        }
        let page = page(&registry);
        for reason in Reason::ALL {
            let line = format!("refusals_total{{reason=\"{}\"}} 1\n", reason.slug());
            assert!(page.contains(&line), "{line} is not in\n{page}");
        }
    }

    #[test]
    fn a_requests_end_counts_under_its_route_until_the_route_is_gone() {
        let mut registry = Registry::default();
        let metrics = RequestMetrics::new(&mut registry);
        let name = RouteName::new("orders").unwrap();
        let route = metrics.route(&name);
        let active = metrics.begin();
        route.ended(204, Duration::from_millis(3));
        route.ended(0, Duration::from_millis(3));
        metrics.unmatched().ended(404, Duration::from_micros(50));
        let now = page(&registry);
        for line in [
            "requests_total{route=\"orders\",status_class=\"2xx\"} 1\n",
            "requests_total{route=\"orders\",status_class=\"none\"} 1\n",
            "requests_total{route=\"(none)\",status_class=\"4xx\"} 1\n",
            "request_duration_seconds_count{route=\"orders\"} 2\n",
            "requests_active 1\n",
        ] {
            assert!(now.contains(line), "{line} is not in\n{now}");
        }
        drop(active);
        metrics.forget(&name);
        let later = page(&registry);
        assert!(later.contains("requests_active 0\n") && !later.contains("orders"), "{later}");
    }
}
