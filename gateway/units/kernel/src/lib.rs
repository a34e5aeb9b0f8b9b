//! What the kernel saw of the gateway's connections, joined to upstreams.
//!
//! The unit owns an [observer](sluice_observer) of this process's connections. Once a second its task reads what the
//! probes counted, joins each remote endpoint to the upstream it belongs to, and publishes two things: a [`Snapshot`]
//! that the request path reads without a lock, and metrics labelled with the upstream's name.
//!
//! Observing needs privileges that a gateway may well not have. Then the unit is degraded and says why, its answers are
//! empty, and nothing else changes. Only `enabled: required` makes a process without it not ready.
//!
//! Read in this order: [`config`] what may be set, [`unit`] the handle and how it is made, [`task`] the work in the
//! background, [`snapshot`] what it publishes, `totals` and `metrics` how counts become metrics, [`cli`] what the
//! command line shows of a host, with or without a gateway.

pub mod config;

pub mod unit;

pub mod task;

pub mod snapshot;

mod totals;

mod metrics;

pub mod cli;

pub use config::{Config, Enabled, RoundTrips, Scope};
pub use snapshot::{EndpointFacts, Snapshot};
pub use task::KernelTask;
pub use unit::{Deps, Handle, Unit};

pub use sluice_observer::{ConnectionFacts, DoctorReport, End, EndpointStats, TcpState};
