//! Small ports: what one unit asks for and the composer hands in, so that no unit imports another.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

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

/// Tokens taken back before they expire. Offered by auth, asked for by admin. Records are JSON objects, one a line, in the
/// form that the auth unit documents.
pub trait Revoke: Send + Sync + 'static {
    /// How many there are and how they come here; and the first `limit` of them, in no order.
    fn revocations(&self, limit: usize) -> BoxFuture<'_, serde_json::Value>;

    /// Puts every record of `lines` in force, or none. Gives how many there were, as a page shows it.
    fn revoke(&self, lines: Bytes) -> BoxFuture<'_, Result<serde_json::Value, RevokeFault>>;

    /// Takes every record of `lines` out of force, or none.
    fn lift(&self, lines: Bytes) -> BoxFuture<'_, Result<serde_json::Value, RevokeFault>>;
}

/// Why revocations were not taken as they were meant to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevokeFault {
    /// Some lines are no good; nothing was done. The first of them, and how many there are.
    BadLines(Vec<BadLine>, usize),
    /// There is no memory for all of them: what could not be done.
    Full(String),
    /// They will not survive a restart: what was done, and why.
    NotStored(String),
}

/// Saying what a token is worth to a request, and why, without serving it. Offered by the application, asked for by admin.
pub trait Judge: Send + Sync + 'static {
    /// Judges what `question`, a JSON object in the form that the application documents, asks about. Gives the page; the
    /// error says what is wrong with the question. Neither holds a token.
    fn judge(&self, question: Bytes) -> BoxFuture<'_, Result<serde_json::Value, String>>;
}

/// A line that is no good.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct BadLine {
    /// Its number, counted from 1.
    pub line: usize,
    /// What is wrong with it. Quotes no value.
    pub fault: String,
}
