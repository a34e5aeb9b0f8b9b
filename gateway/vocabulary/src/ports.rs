//! Small ports: what one unit asks for and the composer hands in, so that no unit imports another.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use crate::names::UpstreamName;
use crate::unit::BoxFuture;

/// Which upstream an address belongs to. Offered by the upstream unit, asked for by the kernel unit.
pub trait EndpointNames: Debug + Send + Sync + 'static {
    /// The upstream that has this endpoint now.
    fn upstream_of(&self, endpoint: SocketAddr) -> Option<UpstreamName>;
}

/// What the kernel knows of an endpoint. Offered by the kernel unit, asked for by the upstream unit.
pub trait EndpointFacts: Debug + Send + Sync + 'static {
    /// The smoothed round trip to it, if any connection has told one.
    fn round_trip(&self, endpoint: SocketAddr) -> Option<Duration>;
}

/// A page of the admin's door that a unit fills: `/routes`, `/upstreams`, …
pub trait Inspect: Send + Sync + 'static {
    /// The state to show, free of secrets.
    fn inspect(&self) -> serde_json::Value;
}

/// The whole metrics page in OpenMetrics text. Offered by telemetry, asked for by admin.
pub trait MetricsPage: Send + Sync + 'static {
    /// Encodes all metrics now.
    fn encode(&self) -> String;
}

/// Changing what is logged while running. Offered by telemetry, asked for by admin.
pub trait LogLevel: Send + Sync + 'static {
    /// The filter in force, as `tracing` directives.
    fn get(&self) -> String;

    /// Sets the filter; the error says what is wrong with it.
    fn set(&self, directives: &str) -> Result<(), String>;
}

/// Asking for the configuration to be read again. Offered by the application, asked for by admin.
pub trait Reload: Send + Sync + 'static {
    /// Reads, checks and applies; the error lists the faults as a person would read them.
    fn reload(&self) -> BoxFuture<'_, Result<(), String>>;
}
