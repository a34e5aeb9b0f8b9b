//! Where the request goes. Granted by `upstreams: [NAME, …]`. Only in the request's header phase: elsewhere the phase fails.

use crate::bindings::granted::sluice::plugin::routing;

pub use crate::bindings::granted::sluice::plugin::routing::RoutingFault;

/// Sends this request to another upstream than the route's own, once the phase has returned `continue`. The last choice of
/// the chain counts.
///
/// # Errors
/// If the operator did not grant that upstream; the request goes where it went before.
pub fn choose_upstream(name: &str) -> Result<(), RoutingFault> {
    routing::choose_upstream(name)
}

/// The upstream that the request would go to now.
pub fn upstream() -> Option<String> {
    routing::upstream()
}
