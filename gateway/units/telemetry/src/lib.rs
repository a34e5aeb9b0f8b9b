//! Metrics registry, logs, access records, trace context.
