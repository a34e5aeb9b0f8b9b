//! What the fuzz targets hold the parsers of hostile bytes to.
//!
//! A target that only waits for a panic finds little in safe Rust. So each one here states a promise that must hold for
//! whatever bytes come: that another implementation reads the same, that reading a second time changes nothing, that it
//! does not matter how the bytes were cut on their way. A broken promise is a panic, which the fuzzer keeps as an input
//! that shows it.
//!
//! The functions have the names of the targets in `fuzz_targets/`, which are one line each.

mod auth;
mod config;
mod downstream;
mod routing;
mod telemetry;

pub use auth::{dpop_proof, introspection, key_set, strict_json, token, token_place};
pub use config::config;
pub use downstream::{chunked_body, forwarded, head, host, http2_frames, path, proxy_protocol};
pub use routing::routing;
pub use telemetry::trace;

/// A target's name and its promise.
pub type Target = (&'static str, fn(&[u8]));

/// Every target by its name.
pub const TARGETS: &[Target] = &[
    ("head", head),
    ("chunked_body", chunked_body),
    ("path", path),
    ("host", host),
    ("proxy_protocol", proxy_protocol),
    ("forwarded", forwarded),
    ("http2_frames", http2_frames),
    ("token", token),
    ("token_place", token_place),
    ("dpop_proof", dpop_proof),
    ("strict_json", strict_json),
    ("key_set", key_set),
    ("introspection", introspection),
    ("config", config),
    ("routing", routing),
    ("trace", trace),
];

/// The part of `bytes` before the first line feed, and the part behind it.
fn first_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, b""),
    }
}

/// A header out of lines whose first byte says which of `names` the rest is a value of.
fn header(lines: &[u8], names: &[&'static str]) -> http::HeaderMap {
    let mut headers = http::HeaderMap::new();
    for line in lines.split(|&byte| byte == b'\n') {
        let Some((which, value)) = line.split_first() else { continue };
        if let Ok(value) = http::HeaderValue::from_bytes(value) {
            headers.append(names[usize::from(*which) % names.len()], value);
        }
    }
    headers
}
