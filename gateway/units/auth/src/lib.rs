//! Who asks, and may they: tokens verified against cached keys, scopes, claims.
//!
//! Identity is decided in the process. A request on a route with a [`Policy`] goes in; out comes a [`Proof`], which
//! nothing else can make, or a refusal that says to the client what RFC 6750 says, and to the operator why.
//!
//! The way in reading order: what may be configured ([`config`]) and the algorithms there are; how a token is found
//! (`bearer`) and read (`base64url`, `scan`, `jws`), and what its `claims` must say; the issuer's keys, as published (`jwk`,
//! `strict_json`), found (`discovery`), fetched (`fetch`, `freshness`), held (`keyring`, `issuer`) and kept (`disk`); the
//! `cache` of tokens already verified; what a route asks (`policy`, of `scopes`, `predicates` by `pointer`, and `step_up`),
//! what was taken back (`revocation`), and the one place that decides (`verify`), with the `proof` it gives; what a refused
//! client is told (`challenge`) and what the operator is (`metrics`, `refusals`); and the unit's outside: [`Unit`],
//! [`Handle`], [`AuthTask`].
//!
//! What is absent on purpose: symmetric algorithms and `none`, keys from tokens, a lock that all requests share, and any
//! call to an issuer on the path of a request whose key is at hand.

mod algorithm;
mod base64url;
mod bearer;
mod cache;
mod challenge;
mod claims;
pub mod config;
mod discovery;
mod disk;
mod error;
mod fetch;
mod freshness;
#[doc(hidden)]
pub mod fuzz;
mod inspect;
mod issuer;
mod jwk;
mod jws;
mod keyring;
mod metrics;
mod pointer;
mod policy;
mod predicates;
mod proof;
mod refusals;
mod revocation;
mod scan;
mod scopes;
mod step_up;
mod strict_json;
mod task;
mod unit;
#[cfg(test)]
mod key_vectors;
#[cfg(test)]
mod vectors;
mod verify;

pub use algorithm::Algorithm;
pub use config::{
    AddressBudget, Config, Credentials, DiscoveryConfig, InlineKeys, IssuerConfig, JwksConfig, RouteAuth, Scopes,
};
pub use policy::{Policy, StrippedHeaders};
pub use predicates::ClaimRule;
pub use proof::{Anonymous, Proof};
pub use revocation::config::{RevocationConfig, RevocationUrl};
#[doc(hidden)]
pub use revocation::measure;
pub use step_up::StepUp;
pub use task::AuthTask;
pub use unit::{Deps, Handle, Prepared, Unit};
pub use verify::Verified;
