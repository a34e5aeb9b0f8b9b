//! The one rate limiter that units share.
