//! Everything before a request exists.
//!
//! Pingora proxies requests; this unit decides what may become one. It has its own accept loop and its own threads, and
//! puts a guard between every client's socket and Pingora, because much that an edge must enforce is not Pingora's to
//! enforce: one deadline for a whole head, a strict reading of HTTP/1's framing, the slowest rate at which a body may
//! come, how many connections there are and whose. What passes is a request of which every later step may assume that it
//! has one meaning; what does not is answered (400, 405, 408, 413, 417, 431) or closed, counted by reason, and logged.
//!
//! A connection's life: it is accepted ([`listener`](crate::config::ListenerConfig)), given to a worker thread, tells its
//! client by the PROXY protocol if it is from a load balancer ([`proxy_protocol`]), shakes hands, and then speaks HTTP/1
//! in rounds (head read and judged by [`head`], body followed by [`body`]) or HTTP/2. Of a request the application asks
//! this unit for the client's real address ([`trusted`]), for its path in one form ([`path`]), and for the fields that
//! must not travel on ([`hop_by_hop`]).
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use sluice_downstream::{Config, Deps, Unit};
//! # use sluice_vocabulary::clock::{SystemClock, SystemRandom};
//! # use sluice_vocabulary::unit::{Stop, Task};
//! # async fn example<A>(make_app: impl FnOnce(sluice_downstream::Handle) -> A) -> Result<(), sluice_downstream::StartError>
//! # where A: pingora_core::apps::HttpServerApp + Send + Sync + 'static {
//! # let mut registry = prometheus_client::registry::Registry::default();
//! # let (config, stop) = (Config::default(), Stop::new().1);
//! let deps = Deps { clock: Arc::new(SystemClock), random: Arc::new(SystemRandom) };
//! let (handle, unit) = Unit::new(&config, deps, &mut registry)?;
//! let app = Arc::new(make_app(handle));
//! unit.serve(app).run(stop).await;
//! # Ok(()) }
//! ```

pub mod config;
mod settings;
mod error;
mod metrics;

pub mod breach;
pub mod host;
pub mod head;
pub mod body;
pub mod path;
pub mod trusted;
pub mod hop_by_hop;
pub mod proxy_protocol;
mod tls;
mod limits;

mod unit;
mod handle;
mod files;
mod shared;
mod listener;
mod worker;
mod connection;
mod handshake;
mod socket;
mod guard;
pub mod frames;
mod timer;
mod control;
mod h1;
mod h2;
mod refuse;

pub use breach::Breach;
pub use config::{ClientAuth, Config, DownstreamConfig, ListenerConfig};
pub use control::{StreamControl, connection, control};
pub use error::StartError;
pub use h2::validate_h2;
pub use handle::Handle;
pub use metrics::Metrics;
pub use path::{BadTarget, Normalised, normalise_path};
pub use tls::TlsError;
pub use trusted::{ClientAddress, Forwarding};
pub use unit::{Deps, Server, Unit};
