//! What an upstream promises, through real sockets and a real (if tiny) Pingora proxy.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod choosing;
mod connecting;
mod deadlines;
mod repeating;
mod tending;
mod world;
