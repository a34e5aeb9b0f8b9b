//! Tags for the request's access record. Granted by `tags: true`.

use crate::bindings::granted::sluice::plugin::tags;

/// Puts a tag on the request, once the phase has returned `continue`. At most 8 a request; a name as for
/// [`metrics`](crate::metrics), a value of at most 128 bytes without control characters. False where that does not hold.
pub fn set(name: &str, value: &str) -> bool {
    tags::set(name, value)
}
