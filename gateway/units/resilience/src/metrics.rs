//! What is counted of overload.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The unit's metrics; clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub(crate) shed: Counter,
    pub(crate) in_flight: Gauge,
    pub(crate) bound: Gauge,
}

impl Metrics {
    /// Registers them, without a prefix.
    pub fn new(registry: &mut Registry) -> Self {
        let shed = Counter::default();
        registry.register("shed", "Requests refused because as many as allowed were in flight", shed.clone());
        let in_flight = Gauge::default();
        registry.register("requests_in_flight", "Requests in the gateway now", in_flight.clone());
        let bound = Gauge::default();
        registry.register("requests_in_flight_max", "How many requests may be in flight at once", bound.clone());
        Self { shed, in_flight, bound }
    }
}
