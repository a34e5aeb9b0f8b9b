//! Deadlines and overload: what one request may take, and how many may be there at once.
//!
//! [`deadlines`] works out, from what an upstream and a route allow and from the time that has passed, what the next try
//! may take and whether a body may go on. [`shed`] bounds the requests in flight. Neither starts anything, waits or does
//! I/O. Retries and their budget belong to an upstream, since the budget is shared by what goes to it: see the upstream
//! unit.

pub mod config;
pub mod deadlines;
pub mod metrics;
pub mod shed;

pub use config::Config;
pub use deadlines::{Deadlines, Exchange, Overrides};
pub use metrics::Metrics;
pub use shed::{InFlight, Shedder};
