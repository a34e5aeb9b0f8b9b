//! Who sent the request, as the route's policy verified it. Granted by `identity: true`.
//!
//! ```no_run
//! use sluice_plugin_sdk::identity;
//!
//! let plan = identity::claim("plan").unwrap_or_else(|| "free".into());
//! let is_admin = identity::scopes().iter().any(|scope| scope == "admin");
//! ```

use crate::bindings::granted::sluice::plugin::identity;

/// Whether a token was verified for this request. Where it was not, every other function here has nothing to tell, but for
/// [`tenant`].
pub fn is_verified() -> bool {
    identity::is_verified()
}

/// The tenant that the request belongs to, as the gateway's own rules say.
pub fn tenant() -> Option<String> {
    identity::tenant()
}

/// The `sub` of the token.
pub fn subject() -> Option<String> {
    identity::subject()
}

/// The issuer's name in the configuration: not what the token says.
pub fn issuer() -> Option<String> {
    identity::issuer()
}

/// The scopes that the token grants, in its order.
pub fn scopes() -> Vec<String> {
    identity::scopes()
}

/// One claim as text: a member's name (`plan`) or a JSON Pointer (`/realm_access/roles/0`). Numbers and booleans as JSON writes
/// them; `None` for what is not there, is null, or is an object or array.
pub fn claim(name: &str) -> Option<String> {
    identity::claim(name)
}

/// Every claim as a JSON object; `{}` where there is no identity.
pub fn claims() -> String {
    identity::claims()
}
