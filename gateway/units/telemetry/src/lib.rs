//! What the gateway tells of itself: logs, access records, metrics, and the identifiers that tie them together.
//!
//! Everything here is on or beside the path of a request, so two rules hold throughout. A service thread never waits for
//! an output: a line is copied into a bounded buffer and a thread of its own writes it, and where the buffer is full the
//! line is dropped and counted. And a request takes no lock that all requests share: counters and histograms are atomics
//! whose handles were made when the configuration was.
//!
//! In reading order: what may be configured ([`config`]); how lines leave the process ([`sink`]) and when they happened
//! ([`stamp`]); logs ([`logs`]) and access records ([`access`]); request ids and trace context ([`trace`]); the metrics
//! page ([`metrics`]), what is measured of requests ([`requests`]) with which histogram ([`histogram`]), and of the process
//! ([`process`]).

pub mod config;
pub mod sink;
pub mod stamp;
pub mod logs;
pub mod access;
pub mod trace;
pub mod metrics;
pub mod requests;
pub mod histogram;
pub mod process;

pub use access::{AccessLog, AccessRecord};
pub use config::{AccessLogConfig, Config, Format, LogsConfig, TraceConfig};
pub use logs::{LogHandle, Logs};
pub use metrics::MetricsRoot;
pub use requests::{RequestMetrics, RouteMetrics};
pub use trace::{RequestId, TraceContext, Tracing};
