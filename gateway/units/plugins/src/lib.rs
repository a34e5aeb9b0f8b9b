//! Sandboxed WebAssembly components in the request path.
//!
//! A plugin is a component that speaks the contract in `wit/`. It gets a fresh instance for each phase of each request,
//! a bound on its memory, a deadline for its own running time, and nothing of the machine: no files, no sockets, no clock.
//! What it changes is applied when its phase returns, never when it fails. This crate is the only one that names wasmtime.
//!
//! What is absent, and what that buys:
//! - Guest code never runs on the caller's stack: each call runs on a stack of its own and gives the thread back after
//!   at most a millisecond, so one endless loop costs its neighbours one slice, not their deadline.
//! - There is no lock that all requests take, and no look-up by name while a request is served: a [`Chain`] is made when
//!   the configuration is, and holds everything a call needs.
//! - Nothing of one request can be seen by another, since nothing of an instance outlives its phase.
//!
//! In reading order: what the operator writes ([`PluginConfig`]), what crosses the boundary ([`RequestHead`],
//! [`ResponseHead`], [`Outcome`]), the bindings of the contract, how changes are kept until a phase succeeds, the state
//! behind the host functions, the engine and its ticker, how components are loaded and checked, how one is called, chains
//! of them, and the unit that holds it all ([`Unit`], [`Handle`], [`Prepared`]).

// What the operator writes, and what crosses between the application and a chain.
mod config;
mod message;

// The contract: its bindings, the changes a phase asks for, the state and host functions behind it, what it may hand back.
mod contract;
mod edits;

mod call;
mod host;

mod answer;
mod failure;

// The sandbox: what bounds an instance, the engine, its clock.
mod limits;

mod engine;
mod ticker;

// From bytes to chains.
mod component;
mod load;

mod living;
mod plugin;
mod visit;

mod chain;

// The unit.
mod metrics;
mod unit;

pub use chain::Chain;
pub use config::{ComponentSource, Limits, OnFailure, PluginConfig, validate};
pub use message::{Answer, HeaderOp, Operations, Outcome, RequestHead, ResponseHead, Who};
pub use visit::Visit;
pub use unit::{Deps, Handle, Options, Prepared, SandboxUnavailable, Task, Unit};
