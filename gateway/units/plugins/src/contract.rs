//! The bindings of the contract, generated from `wit/`: documented there.

#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]

wasmtime::component::bindgen!({
    path: "../../../wit",
    world: "on-both",
    imports: { default: trappable },
});

pub(crate) use sluice::plugin::{actions, configuration, fields, log, request, response};

/// Every interface that a plugin may import from us.
pub(crate) const OFFERED: &[&str] = &["actions", "configuration", "fields", "log", "request", "response"];
/// The package, and the major version whose components run here.
pub(crate) const PACKAGE: &str = "sluice:plugin";
pub(crate) const MAJOR_VERSION: &str = "1";
