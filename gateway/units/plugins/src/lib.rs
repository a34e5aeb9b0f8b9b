//! Sandboxed WebAssembly components in the request path.
//!
//! A plugin is a component that speaks the contract in `wit/`. It gets a fresh instance for each request, which serves both
//! of its phases if there is room to keep it in between; a bound on its memory; a deadline for its own running time; its
//! tenant's share of instances and of processor time; and nothing of the machine but what it was granted. What it changes is
//! applied when its phase returns, never when it fails. This crate is the only one that names wasmtime.
//!
//! What is absent, and what that buys:
//! - Guest code never holds a thread for more than a millisecond, so one endless loop costs its neighbours a slice, not
//!   their deadline. What is expected to be brief runs on the caller's stack; what then takes longer, and whatever is not
//!   brief, runs on a stack of its own and gives the thread back at each tick.
//! - There is no lock that all requests take, and no look-up by name while a request is served: a [`Chain`] is made when
//!   the configuration is, and holds everything a call needs.
//! - Nothing of one request can be seen by another, since nothing of an instance outlives its request, unless the operator
//!   has instances used again, and then for one tenant: what is to outlive it goes into a store, of which every tenant has a
//!   space of its own.
//! - Whoever asks another service waits without a thread; the asking is done on the background runtime, and ends with the
//!   call that waits for it.
//! - What is not granted is not linked: a lack shows when a component is loaded, not when a request arrives.
//!
//! In reading order: what the operator writes ([`PluginConfig`], [`Grants`], [`Fallback`]), what crosses the boundary
//! ([`RequestHead`], [`ResponseHead`], [`Outcome`], [`Effects`]), the bindings of the contract, how changes are kept until a
//! phase succeeds, the state behind the host functions, the engine and its ticker, how components are loaded and checked
//! ([`survey`]), how a configuration is held against the schema that they carry, how an instance lives and is called, how a second implementation takes over, what a request holds of them
//! ([`Visit`]), chains of them, and the unit that holds it all ([`Unit`], [`Handle`], [`Prepared`]).

// What the operator writes, and what crosses between the application and a chain.
mod config;
mod fallback;
mod grants;
mod message;

// The contract: its bindings, the changes a phase asks for, the state and host functions behind it, what it may hand back.
mod contract;
mod edits;
mod effects;
mod phase;
mod subject;

mod bodies;
mod call;
mod counts;
mod disk;
mod granted;
mod host;
mod outbound;
mod store;

mod answer;
mod failure;

// The sandbox: what bounds an instance, the engine, its clock.
mod limits;
mod running;

mod engine;
mod ticker;

// From bytes to chains; compiled components outlive the process.
mod cache;
mod component;
mod folder;
mod linking;
mod load;
mod signature;
mod survey;

// What a component says its configuration must be.
mod sections;
mod schema;
mod conformance;

mod living;
mod plugin;
mod reuse;
mod visit;

// Two implementations of one job.
mod failover;
mod quarantine;

mod chain;

// What sees a message that is under way, and what comes after it.
mod ends;
mod lasting;
mod passage;
mod stage;

// What of the gateway's own time plugins take.
mod stages;

// The unit.
mod metrics;
mod unit;

pub use cache::CacheBounds;
pub use chain::{Chain, LONGEST_BODY};
pub use component::LARGEST as LARGEST_COMPONENT;
pub use config::{ComponentSource, Limits, OnFailure, PluginConfig, validate};
pub use effects::Effects;
pub use ends::Ends;
pub use fallback::{Compare, Fallback, QuarantineConfig};
pub use grants::{Grants, KeyValueGrant};
pub use lasting::{Counted, NotStored};
pub use message::{Answer, Ended, HeaderOp, Link, Operations, Outcome, RequestHead, ResponseHead, Who};
pub use outbound::{HttpGrant, Origin, Resolver, SystemResolver};
pub use passage::Passage;
pub use reuse::Reuse;
pub use signature::{BadSigningKey, SigningKey, signature_file};
pub use survey::{Against, Found, NoSurvey, Refusal, Survey, survey};
pub use unit::{Deps, Handle, Options, Prepared, SandboxUnavailable, Task, Unit};
pub use visit::Visit;
