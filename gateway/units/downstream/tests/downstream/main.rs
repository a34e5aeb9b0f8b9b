//! The unit's promises, kept over real sockets. One binary, since each would take its time to link.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

mod refusals;
mod smuggling;
mod rounds;
mod deadlines;
mod limits;
mod proxy_protocol;
mod tls;
mod http2;
mod drain;
mod changes;
