//! What the operator wrote under `config:` for this plugin, and what may be written there: see
//! [`config_schema!`](crate::config_schema).

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

/// Puts a JSON Schema (draft 2020-12, at most 64 KiB) for the plugin's configuration into the component, once in a plugin. The
/// gateway holds what the operator wrote against it when the component is loaded, so that the plugin never meets what it does not
/// accept. It takes no room in an instance.
///
/// ```
/// sluice_plugin_sdk::config_schema!(r#"{ "type": "object", "required": ["name"] }"#);
/// ```
///
/// A file's is taken by `config_schema!(include_str!("schema.json"))`.
#[macro_export]
macro_rules! config_schema {
    ($schema:expr $(,)?) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            const TEXT: &str = $schema;
            #[used]
            #[unsafe(link_section = "sluice:config-schema")]
            static SECTION: [u8; TEXT.len()] = $crate::__bytes(TEXT);
        };
        #[cfg(not(target_arch = "wasm32"))]
        const _: &str = $schema;
    };
}

/// The bytes of a constant text, of which there are `N`. For [`config_schema!`] alone.
#[doc(hidden)]
pub const fn bytes<const N: usize>(text: &str) -> [u8; N] {
    let (text, mut bytes, mut index) = (text.as_bytes(), [0; N], 0);
    while index < N {
        bytes[index] = text[index];
        index += 1;
    }
    bytes
}
