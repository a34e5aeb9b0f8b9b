//! The operator's door: health, readiness, metrics, routes, upstreams, configuration.
