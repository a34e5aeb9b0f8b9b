//! What the units of the gateway share, and nothing else.
//!
//! No unit imports another unit. Where two must speak of the same thing, the word for it lives here: a name, a plain
//! view of a request or an identity, a refusal, the shape of a unit, a small port that one asks for and another offers.
//! There is no I/O in this crate and no policy; that is what lets every unit depend on it without depending on each other.
//!
//! In reading order: what things are called ([`names`]), how configuration writes quantities and secrets ([`measure`],
//! [`secret`]), how a configuration's faults are told ([`fault`]), what a request and its sender look like ([`request`],
//! [`claims`], [`identity`]), why a request may be turned away ([`refusal`]), what a unit is ([`unit`]), what units ask of
//! each other ([`clock`], [`ports`]), and what they share to limit and to measure ([`limiter`], [`share`], [`histogram`]).

pub mod claims;
pub mod clock;
pub mod deadline;
pub mod fault;
pub mod histogram;
pub mod identity;
pub mod limiter;
pub mod measure;
pub mod names;
pub mod ports;
pub mod refusal;
pub mod request;
pub mod secret;
pub mod share;
pub mod unit;

pub use fault::{Fault, Faults, Path, Severity};
pub use identity::Identity;
pub use names::{IssuerName, PluginName, RouteName, TenantId, UpstreamName};
pub use refusal::{Reason, Refusal};
