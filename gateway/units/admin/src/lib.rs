//! The operator's door: an HTTP server of its own that shows how the gateway is and takes the few orders it understands.
//!
//! It is no part of the request path and shares no thread with it. It listens on loopback or on a Unix socket; whoever
//! reaches it may read everything it shows (which holds no secret), change the log level, reload the configuration,
//! revoke tokens, and ask what a token is worth.
//! So it takes care of the one visitor who reaches loopback without being an operator, a web page in an operator's
//! browser: a request must name the server by address, not by a name somebody could point here, and what changes
//! something must not come from a page.
//!
//! In reading order: where it listens ([`config`]), how it is made and run ([`server`], `listen`), who is let in
//! (`visitor`), what it answers (`pages`, `readiness`, `exposition`, `reply`), what it counts (`metrics`).

pub mod config;
pub mod server;
mod listen;
mod visitor;
mod pages;
mod readiness;
mod exposition;
mod reply;
mod metrics;

pub use config::Config;
pub use listen::{Address, BindError};
pub use server::{Deps, Handle, Task, Unit};
