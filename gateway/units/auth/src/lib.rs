//! Who asks, and may they: tokens verified against cached keys, scopes, claims.
//!
//! Identity is decided in the process. A request on a route with a [`Policy`] goes in; out comes a [`Verified`], which
//! nothing else can make, or a refusal that says to the client what RFC 6750 says, and to the operator why.
//!
//! The way in reading order: what may be configured ([`config`]) and the algorithms there are; how a token is found
//! (`bearer`) and read (`base64url`, `strict_json`, `jws`), and what its `claims` must say; the issuer's keys, as published
//! (`jwk`), fetched (`fetch`), and held (`keyring`, `issuer`); the `cache` of tokens already verified; what a route
//! asks (`policy`), whether a token's holder presents it (`binding`, `dpop`), and the one place that decides (`verify`);
//! what a refused client is told (`challenge`); what the upstream is told in the gateway's own name (`issue`); and the
//! unit's outside: [`Unit`], [`Handle`], [`AuthTask`].
//!
//! What is absent on purpose: symmetric algorithms and `none`, keys from tokens, a lock that all requests share, and any
//! call to an issuer on the path of a request whose key is at hand.

mod algorithm;
mod base64url;
mod bearer;
mod binding;
mod cache;
mod challenge;
mod claims;
pub mod config;
mod dpop;
mod error;
mod fetch;
#[doc(hidden)]
pub mod fuzz;
mod inspect;
mod issue;
mod issuer;
mod jwk;
mod jws;
mod keyring;
mod metrics;
mod policy;
mod strict_json;
mod task;
mod unit;
#[cfg(test)]
mod vectors;
mod verify;

pub use algorithm::Algorithm;
pub use binding::SenderConstraint;
pub use config::{AddressBudget, Config, IssuerConfig, JwksConfig, RouteAuth, Scopes};
pub use dpop::config::{DpopConfig, NonceConfig};
pub use issue::config::{IdentityAlgorithm, IdentityToken, IdentityTokens};
pub use issue::page::IdentityKeys;
pub use policy::{Policy, StrippedHeaders};
pub use task::AuthTask;
pub use unit::{Deps, Handle, Prepared, Unit};
pub use verify::Verified;
