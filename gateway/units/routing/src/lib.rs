//! Which route a request takes: a compiled, immutable table.
//!
//! A route says what requests it is for (host, path, scheme, method, header, query) and what happens to them: they go to
//! an upstream, perhaps rewritten, or are answered here with a redirect, a fixed answer or a CORS preflight. All routes
//! are compiled once per configuration into a [`Table`]; a look-up yields a [`Matched`], the proof that later steps of the
//! request path ask for, which only this crate can make.
//!
//! # Precedence
//!
//! More than one route may be for a request. The one that wins is found by comparing, in this order:
//!
//! 1. **host**: an exact host, before a wildcard (`*.eu.example.com` before `*.example.com`: the longer first), before any;
//! 2. **path**: an exact path, before a template (`/orders/{id}`), before a prefix (`/orders/*`), before any. Two templates,
//!    and two prefixes, are compared segment by segment from the left: a literal segment before a captured one, before the
//!    end. So `/a/{x}` goes before `/{x}/b`, and `/orders/new/*` before `/orders/*`;
//! 3. **method**: a route that names methods before one that takes any;
//! 4. **conditions**: the more conditions on scheme, headers and query together, the earlier;
//! 5. **order** in the configuration: the earlier first.
//!
//! A route that is for the request always wins over those behind it in this order, whatever host or path led there: if
//! nothing under the exact host fits, the wildcard's routes are tried. Where no route is for a request, but some would be
//! with another method, the answer is 405 with `Allow`, else 404. A route for GET is for HEAD too. An address that a route
//! denies is refused *after* the route was chosen: it does not fall through to another one.
//!
//! # Cost
//!
//! Hosts and exact paths are hash look-ups; templates and prefixes a walk down a tree whose edges are hash look-ups, one
//! for each segment of the path that some pattern shares. Only routes of one host and one path pattern are compared one by
//! one. Nothing is allocated unless something must be built (a rewritten path, a redirect's target).
//!
//! In reading order: what an operator writes ([`config`]), the patterns of hosts and paths, the other conditions, what is
//! done to a request on its way ([`edits`], templates, CORS, addresses), what may be answered here ([`answer`]), a
//! compiled route, the table and how it is built, what a look-up yields ([`matched`]), and how all of this is told to
//! people ([`explain`], the admin's page, [`metrics`]).

mod addresses;
pub mod answer;
mod compile;
mod conditions;
pub mod config;
mod cors;
pub mod edits;
pub mod explain;
mod host;
mod inspect;
pub mod matched;
pub mod metrics;
mod path;
mod route;
mod shadow;
pub mod table;
mod template;

pub use answer::{Decision, DirectAnswer, DirectKind};
pub use compile::RouteSpec;
pub use explain::{Explanation, Question};
pub use matched::Matched;
pub use metrics::Metrics;
pub use table::Table;
