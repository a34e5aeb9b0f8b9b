//! Which route a request takes: a compiled, immutable table.
