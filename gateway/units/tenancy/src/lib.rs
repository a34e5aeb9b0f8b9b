//! Which tenant a request belongs to, and what that tenant may use.
//!
//! A tenant is named by a claim of the verified identity, or by a header field where the operator said so. Each tenant
//! has a rate, a number of requests at once, and plugins: those of the default policy, or of its own overrides. A request
//! is admitted with a guard that gives its place back when dropped, however the request ends.
//!
//! What is remembered of a tenant (how much of its rate is used, how many of its requests are under way) is bounded in
//! number, and outlives a change of configuration: a new rate applies to the requests after it, and nobody is given a
//! fresh burst by a reload. There is no background work; what is no longer needed is forgotten when room is needed.
//!
//! In reading order: what an operator writes ([`config`]), who a request's tenant is, what a tenant may use ([`policy`]),
//! what is remembered of it, and the unit itself ([`admit`]).

pub mod admit;
pub mod config;
mod identify;
pub mod metrics;
pub mod policy;
mod tracked;

pub use admit::{Admitted, Handle};
pub use config::Config;
