//! What the door counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    page: &'static str,
    status: u16,
}

/// Counts of the door. Few requests come here, so labels are looked up as they do.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    requests: Family<Answer, Counter>,
    pub(crate) connections: Gauge,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let requests = Family::default();
        let connections = Gauge::default();
        registry.register(
            "requests",
            "Requests to the operator's door, by page (other: none of its pages) and status",
            Family::clone(&requests),
        );
        registry.register("connections", "Connections to the operator's door", connections.clone());
        Self { requests, connections }
    }

    /// `page` is one of the server's own names for its pages, never what a client sent.
    pub(crate) fn answered(&self, page: &'static str, status: u16) {
        self.requests.get_or_create_owned(&Answer { page, status }).inc();
    }
}
