//! Endpoints: which to send a request to, over what connection, for how long, and whether to try again.
//!
//! The request path asks a [`Cluster`] to [`choose`](Cluster::choose) and gets a [`Chosen`]: an endpoint with a place
//! reserved on it. From that it takes the peer that Pingora connects to, and to that it tells what happens; the
//! module [`chosen`] says what to call when. Everything learned along the way (failures, response times, how long the
//! endpoint keeps idle connections) stays with the endpoint across configurations.
//!
//! In reading order: what may be configured ([`config`], and in `validate` what can be wrong with it), how an endpoint is
//! addressed and identified (`address`, `identity`, `peer`), what is known of it (`endpoint`, `keepalive`), how one is
//! chosen (`balance`, `cluster`), what a request does with it ([`chosen`], `line`), what a failure means
//! ([`failure`], [`retry`]), and the unit around it all ([`handle`], `health`, [`task`], `inspect`, [`metrics`]).
//!
//! Two limits hold whatever Pingora's own timers do: the number of connections per endpoint, and the deadlines of an
//! HTTP/1 exchange; `line` tells how.

pub mod config;
mod validate;

mod address;
mod identity;
mod peer;

mod endpoint;
mod keepalive;

mod balance;
mod cluster;

pub mod chosen;
mod line;

pub mod failure;
pub mod retry;

pub mod handle;
mod health;
mod inspect;
pub mod metrics;
pub mod task;
mod time;

pub use chosen::{Chosen, Verdict, past_deadline};
pub use cluster::{Cluster, Tried};
pub use config::{Config, UpstreamConfig};
pub use failure::{Failure, classify};
pub use handle::{Handle, Prepared, new};
pub use metrics::Metrics;
pub use retry::{NoRetry, Retry};
pub use task::Keeper;
pub use validate::validate;
