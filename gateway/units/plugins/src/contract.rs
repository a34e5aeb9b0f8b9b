//! The bindings of the contract, generated from `wit/`: documented there.

#![allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]

wasmtime::component::bindgen!({
    path: "../../../wit",
    world: "everything",
    imports: {
        "sluice:plugin/outbound-http.send": async | trappable,
        default: trappable,
    },
});

pub(crate) use sluice::plugin::{
    actions, body, clock, configuration, connection, exchange, fields, identity, key_value, log, metrics,
    outbound_http, random, request, response, routing, streams, tags, trailers,
};

/// Every interface that a plugin may import without a grant.
pub(crate) const OFFERED: &[&str] =
    &["actions", "body", "configuration", "exchange", "fields", "log", "request", "response", "streams", "trailers"];
/// The package, and the major version whose components run here.
pub(crate) const PACKAGE: &str = "sluice:plugin";
pub(crate) const MAJOR_VERSION: &str = "1";
/// The version that is spoken here.
pub(crate) const VERSION: &str = "1.1.0";
