//! Sandboxed WebAssembly components in the request path.
