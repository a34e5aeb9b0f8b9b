//! Who asks, and may they: tokens verified against cached keys, scopes, claims.
//!
//! Identity is decided in the process. A request on a route with a [`Policy`] goes in; out comes a [`Proof`], which
//! nothing else can make, or a refusal that says to the client what RFC 6750 says, and to the operator why.
//!
//! The way in reading order: what may be configured ([`config`]) and the algorithms there are; how a token is found
//! (`places`: `bearer`, `cookie`, `query`) and read (`base64url`, `strict_json` by `scan`, `jws`), and what its `claims` must
//! say; the issuer's keys, as published (`jwk`) or shared with the operator (`shared_secret`), found (`discovery`), fetched
//! (`fetch`, `freshness`), held (`keyring`, `issuer`) and kept (`disk`); the `cache` of tokens already verified, which is made
//! of `shards` like every cache here; what a route asks (`policy`, of `scopes`, `predicates` by `pointer`, and `step_up`),
//! what was taken back (`revocation`), whether a token's holder presents it (`binding`, `dpop`), and the one place that
//! decides (`verify`), with the `proof` it gives; what a refused client is told (`challenge`) and what the operator is
//! (`metrics`, `refusals`, and step by step on request: `witness`, `explain`, `told`); what the upstream is told in the
//! gateway's own name (`issue`); and the unit's outside: [`Unit`], [`Handle`], [`AuthTask`]. Apart from that way stand the two
//! deciders that ask another service (`remote`, over the `client`): the issuer's own endpoint for opaque tokens
//! (`introspection`), and whatever service an operator has that authorises requests (`forward_auth`).
//!
//! What is absent on purpose: `none`, secrets from anywhere but the operator's own files and environment, keys that an
//! access token brings along (a DPoP proof brings its own, which is good for nothing but what the token names), a lock that
//! all requests share, and any call to an issuer on the path of a request whose key is at hand.

mod algorithm;
mod base64url;
mod bearer;
mod binding;
mod cache;
mod challenge;
mod claims;
mod client;
pub mod config;
mod cookie;
mod discovery;
mod disk;
mod dpop;
mod error;
mod explain;
mod fetch;
mod forward_auth;
mod freshness;
#[doc(hidden)]
pub mod fuzz;
mod inspect;
mod introspection;
mod issue;
mod issuer;
mod jwk;
mod jws;
mod keyring;
mod marks;
mod metrics;
mod naive_json;
mod places;
mod pointer;
mod policy;
mod predicates;
mod proof;
mod query;
mod refusals;
mod remote;
mod remotes;
mod revocation;
mod scan;
mod scopes;
mod secret;
mod shards;
mod sightings;
mod shared_secret;
mod step_up;
mod strict_json;
mod task;
mod thumbprint;
mod told;
mod unit;
#[cfg(test)]
mod key_vectors;
#[cfg(test)]
mod vectors;
mod verify;
mod witness;

pub use algorithm::{Algorithm, MacAlgorithm};
pub use binding::SenderConstraint;
pub use config::{
    AddressBudget, Config, Credentials, DiscoveryConfig, InlineKeys, IssuerConfig, JwksConfig, RouteAuth, Scopes,
    TokenType,
};
pub use dpop::config::{DpopConfig, NonceConfig};
pub use explain::{ExplainedStep, Explanation, StepOutcome};
pub use forward_auth::config::{DecisionCacheConfig, ForwardAuthConfig, ForwardMethod, OnFailure};
pub use forward_auth::{Allowed, Decision, ForwardAuth, Rebuff};
pub use introspection::config::{CacheConfig, ClientConfig, ClientMethod, IntrospectionConfig};
pub use issue::config::{IdentityAlgorithm, IdentityToken, IdentityTokens};
pub use issue::page::IdentityKeys;
pub use places::{TokenParameters, TokenPlace, Withheld, WithheldCookie, WithheldParameter};
pub use policy::{Policy, StrippedHeaders};
pub use predicates::ClaimRule;
pub use proof::{Anonymous, Proof};
pub use remote::config::BreakerConfig;
pub use revocation::config::{RevocationConfig, RevocationUrl};
#[doc(hidden)]
pub use revocation::measure;
pub use shared_secret::{SecretEncoding, SharedSecret};
pub use step_up::StepUp;
pub use task::AuthTask;
pub use unit::{Deps, Handle, Prepared, Unit};
pub use verify::Verified;
