//! The unit with real components: what it promises, one module for each subject.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod world;

mod bodies;
mod cache;
mod deciding;
mod ends;
mod failing_over;
mod granted;
mod hostile;
mod loading;
mod outbound;
mod reuse;
mod schema;
mod serving;
mod shares;
mod sharing;
mod signed;
