//! What the operator wrote under `config:` for this plugin.

use crate::bindings::host::sluice::plugin::configuration;

/// One value as text: a member's name (`region`) or a JSON Pointer (`/limits/0/name`). Numbers and booleans as JSON writes
/// them; `None` for what is not there, is null, or is an object or array. Needs no JSON parser in the plugin.
pub fn get(key: &str) -> Option<String> {
    configuration::get(key)
}

/// All of it as JSON text; `null` where the operator wrote nothing.
pub fn json() -> String {
    configuration::json()
}
