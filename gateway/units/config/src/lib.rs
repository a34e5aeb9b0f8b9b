//! The machinery of configuration: spans, schema, suggestions, difference, watch.
